"""Going on with a run: only what is missing or failed, task by task, waiting only for live jobs.

What is finished is known from the artifacts, what lives from the queue. The ids of finished or
forgotten jobs are never used: Slurm would take them as fulfilled.

Cancelling a run: the whole chain, the last job first, and no job of any other run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config.profile import ClusterProfile, Healing
from l3hpc.config.resources import Resources
from l3hpc.config.settings import check_workspace
from l3hpc.config.units import parse_memory, parse_time
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, command_line, nearest
from l3hpc.io.files import make_durable, write_json
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import (
    ledger_sync,
    status,
    submission_lock,
    submit,
    submit_jobs,
)
from l3hpc.runs.dependencies import made_elsewhere
from l3hpc.schedulers import requeue_policy, scripts
from l3hpc.schedulers.base import JobId, JobState, Scheduler, submitted_job
from l3hpc.workspace import artifacts, attempts, markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.markers import RunState, StepState
from l3hpc.workspace.records import RunRecord, StepRecord

ENDING_S = 90.0  # Slurm kills what does not end after KillWait, 30 s by default
ENDING_LOOK_S = 2.0
RESOURCES = ("cpus", "mem", "gpus", "time")


def _listed(ids: Sequence[str], most: int = 8) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"job{'s' if len(ids) > 1 else ''} {', '.join(ids[:most])}{more}"


@dataclass(frozen=True)
class Todo:
    """What a resumption will do: exactly this.

    Attributes
    ----------
    steps : list of PlannedStep
        To submit again; ``missing`` says which tasks.
    alive : dict of str to list of str
        Step → ids that still work on it.
    stale, orphans : list of JobId
        To cancel: they wait for something that cannot come, or no record names them.
    held : dict of JobId to list of str
        To release, each with what it must be given before.
    for_administrators : dict of str to list of str
        Step → ids that only an administrator can release.
    again : list of StepRecord
        Finished steps to compute again.
    finished : bool
        Every step of the run is done.
    """

    plan: Plan
    steps: list[PlannedStep]
    alive: dict[str, list[str]]
    stale: list[JobId]
    held: dict[JobId, list[str]]
    again: list[StepRecord]
    finished: bool = False
    orphans: list[JobId] = field(default_factory=list)
    for_administrators: dict[str, list[str]] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps or self.held or self.stale or self.orphans)

    def words(self) -> str:
        """What will be done, in the order in which it is."""
        parts = []
        if doomed := [job.id for job in (*self.orphans, *self.stale)]:
            parts.append(f"cancel {_listed(doomed)} (can never run)")
        parts += [f"release {job.id} with {', '.join(changes)}"
                  for job, changes in self.held.items() if changes]
        if plain := [job.id for job, changes in self.held.items() if not changes]:
            parts.append(f"release {_listed(plain)}")
        if self.steps:
            parts.append("submit " + ", ".join(
                f"{step.name} ({len(step.missing)} of {step.tasks} tasks)" for step in self.steps))
        return "; ".join(parts)


def resume(
    workspace: Path, run: str, profile: ClusterProfile, *, sets: Sequence[str] = (),
    only: Sequence[str] = (), again: str = "", detach: bool = False,
    progress: Progress | None = None, on_planned: Callable[[Todo], None] | None = None,
    on_submitted: Callable[[RunRecord, list[str]], None] | None = None,
) -> RunRecord:
    """Submit again what is missing of a run and not alive; return its record.

    Two at once submit once: the second one finds the jobs of the first alive.

    Parameters
    ----------
    profile : ClusterProfile
        Of the run.
    sets : sequence of str
        ``STEP.mem=160GB`` and the like: resources only, a parameter would make it another run.
    only : sequence of str
        These steps and what waits for them.
    again : str
        This step and all behind it are computed again, also what is finished.
    on_planned : callable
        Gets what will be done, and nothing else, before any of it is; may raise to stop.
    on_submitted : callable
        Gets the record and the names of the steps that were submitted.
    """
    progress = progress or Progress()
    with submission_lock.acquire(workspace, run, "resume"), submit.umask(profile):
        todo = look(workspace, run, profile, sets, only=only, again=again, progress=progress)
        elsewhere = made_elsewhere(todo.plan)
        texts = submit.scripts(todo.plan, todo.steps, elsewhere)
        if on_planned is not None:
            on_planned(todo)
        record = records.read(workspace, run)
        left_out = _carry_out(todo, texts, record, progress, elsewhere)
    submitted = [step.name for step in todo.steps if step.name not in left_out]
    if on_submitted is not None and todo.anything:
        on_submitted(record, submitted)
    submit.refuse_part(run, left_out)
    if record.capabilities.runner and todo.steps:
        with submit.umask(profile):
            submit.run_local(workspace, run, detach=detach)
        record = records.read(workspace, run)
    return record


def _carry_out(todo: Todo, texts: scripts.Texts, record: RunRecord, progress: Progress,
               elsewhere: Mapping[str, Collection[int]]) -> dict[str, str]:
    """Do what was announced; return the steps that were left out, and why."""
    workspace = todo.plan.workspace
    scheduler = schedulers.of_record(workspace, record)
    scheduler.cancel([*todo.orphans, *todo.stale], record.run)
    for job, changes in todo.held.items():
        scheduler.release(job, changes)
    if not todo.steps:
        if record.state is RunState.SUBMITTING:  # its submission was killed after the last job
            record.state = RunState.SUBMITTED
            records.write(workspace, record)
        return {}
    for entry in todo.again:
        artifacts.discard(Path(entry.artifact))
    for step in todo.steps:
        _prepare(todo.plan, step, texts[step.name], records.step(record, step.name))
    before, since = _begin_again(workspace, record), time.time()
    left_out = submit_jobs.hand_over(todo.plan, todo.steps, texts, record, progress,
                                  alive=todo.alive, before=before, elsewhere=elsewhere)
    ledger_sync.follow(workspace, record, progress, since)
    return left_out


def look(workspace: Path, run: str, profile: ClusterProfile, sets: Sequence[str] = (), *,
         only: Sequence[str] = (), again: str = "", progress: Progress | None = None) -> Todo:
    """What ``resume`` would do, once the jobs that are just ending have ended."""
    _await_ending(workspace, run, progress or Progress())
    return missing(workspace, run, profile, sets, only=only, again=again)


def missing(workspace: Path, run: str, profile: ClusterProfile, sets: Sequence[str] = (), *,
            only: Sequence[str] = (), again: str = "") -> Todo:
    """What of a run has to be submitted again."""
    check_workspace(Path(workspace), "--workspace or paths.workspace")
    scheduler = schedulers.of(profile, Path(workspace))
    scheduler.prepare()
    record = records.read(workspace, run)
    [found] = status.collect(workspace, [run])
    live = status.live_tasks(workspace, record)
    wishes = _resources(record, sets)
    chosen = set().union(*(_behind(record, name) for name in only)) if only else None
    repeated = _behind(record, again) if again else set()
    for name in sorted(repeated):
        if live.get(name):
            raise InputError(f"{name} still waits or runs",
                             hint=f"First: {command_line('cancel', run)}")
    steps, alive, stale = [], {}, list[JobId]()
    held: dict[JobId, list[str]] = {}
    for_administrators: dict[str, list[str]] = {}
    for entry, now in zip(record.steps, found.steps, strict=True):
        done = set() if entry.name in repeated else artifacts.finished(Path(entry.artifact))
        if now.held_by_administrator:
            for_administrators[entry.name] = now.held_by_administrator
        if len(done) >= entry.tasks:  # held with its result there: what needs it waits for the job
            clusters = {task: submitted_job(attempt).cluster for attempt in entry.attempts
                        for task in attempt.task_ids.values()}
            held |= {JobId(task, clusters[task]): list[str]() for task in now.held}
            continue
        tasks = live.get(entry.name, {})
        running = {index: task.job for index, task in tasks.items()}
        if now.state is StepState.BLOCKED:  # waits in the queue for what cannot come
            stale += [submitted_job(attempt) for attempt in entry.attempts
                      if record.capabilities.remote  # the runner here blocks them itself
                      and {*attempt.task_ids.values()} & {*running.values()}]
            running = {}
        if running:
            alive[entry.name] = attempts.live_ids(entry, done, running)
        if waiting := {index for index in running if tasks[index].now.held}:
            held |= _held(workspace, record, entry, running, waiting, scheduler)
        if chosen is not None and entry.name not in chosen:
            continue
        step = _planned(workspace, record, entry, profile, wishes.get(entry.name, {}),
                        {*done, *running})
        if step.missing:
            steps.append(step)
    plan = Plan(run=run, pipeline=record.pipeline, workspace=Path(workspace), profile=profile,
                steps=tuple(steps), options=record.options)
    scheduler.validate(plan)
    return Todo(plan, steps, alive, stale[::-1], held,
                [entry for entry in record.steps if entry.name in repeated],
                finished=all(step.state.is_done for step in found.steps),
                orphans=scheduler.jobs(record).untracked(record),
                for_administrators=for_administrators)


def used_by(workspace: Path, run: str, entries: Sequence[StepRecord]) -> list[str]:
    """Names of the other runs that use the artifacts of these steps."""
    folders = {entry.artifact for entry in entries}
    return [record.run for record in records.read_all(workspace, [])
            if record.run != run and any(step.artifact in folders for step in record.steps)]


def _behind(record: RunRecord, name: str) -> set[str]:
    """A step and all that need it, through any number of generations."""
    records.step(record, name)
    names = {name}
    for entry in record.steps:  # in the order of the chain
        if names & set(entry.needs):
            names.add(entry.name)
    return names


def _begin_again(workspace: Path, record: RunRecord) -> RunState | None:
    """Put the record into the state ``submitting``, so that a kill from here on is seen and what it
    left is found; return the state to come back to after a refusal, if there is one."""
    before: RunState | None = record.state
    if before is RunState.SUBMITTING:  # a submission that was killed
        before = RunState.SUBMITTED if any(step.attempts for step in record.steps) else None
    record.state, record.note = RunState.SUBMITTING, ""
    records.write(workspace, record)
    return before


def _await_ending(workspace: Path, run: str, progress: Progress) -> None:
    """Wait for the jobs that are just ending: whether they were cancelled, or come back to the
    queue, is not known before. A ``ClusterError`` when that takes too long."""
    end, said = time.monotonic() + ENDING_S, False
    while True:
        live = status.live_tasks(workspace, records.read(workspace, run))
        ending = [task.job for tasks in live.values() for task in tasks.values()
                  if task.now.state == JobState.COMPLETING]
        if not ending:
            return
        if time.monotonic() > end:
            raise ClusterError(f"job {ending[0]} is still ending",
                               hint=f"Try again in a minute: {command_line('resume', run)}")
        if not said:
            progress.note(f"waiting for job {ending[0]} to end")
        said = True
        time.sleep(ENDING_LOOK_S)


def _held(workspace: Path, record: RunRecord, entry: StepRecord, running: Mapping[int, str],
          held: Collection[int], scheduler: Scheduler) -> dict[JobId, list[str]]:
    """What is held and what it must be given before it is released: more memory or time where it
    was put back for that. An array of which all that waits is held is released as one."""
    marks = markers.read(Workspace(workspace).run(record.run).step(entry.name).markers)
    found: dict[JobId, list[str]] = {}
    for attempt in entry.attempts:
        job = submitted_job(attempt)
        live = {index: task for index, task in attempt.task_ids.items()
                if running.get(index) == task}
        plain = []
        for index, task in live.items():
            wanted = marks[index].wanted if index in marks else {}
            if index in held and wanted:
                found[replace(job, id=task)] = scheduler.changes(requeue_policy.Decision(
                    True, "", wanted.get("mem_mb"), wanted.get("time_min"), wanted.get("exclude")))
            elif index in held:
                plain.append(task)
        whole = attempt.array and len(plain) == len(live)
        found |= {replace(job, id=task): list[str]()
                  for task in ([attempt.job] if whole and plain else plain)}
    return found


def _planned(
    workspace: Path, record: RunRecord, entry: StepRecord, profile: ClusterProfile,
    wishes: dict[str, int], not_again: set[int],
) -> PlannedStep:
    folder = Workspace(workspace).run(record.run).step(entry.name)
    config = records.config(workspace, record.run, entry, record.command)
    rules = requeue_policy.read(folder)
    wanted = Resources(**entry.resources)
    for index, marks in markers.read(folder.markers).items():
        if index not in not_again:  # what healing found out is not forgotten
            mem, minutes = requeue_policy.granted(rules, marks.requeues)
            wanted = replace(wanted, mem_mb=max(wanted.mem_mb, mem if marks.requeues else 0),
                             time_min=max(wanted.time_min, minutes if marks.requeues else 0))
    wanted = replace(wanted, **wishes)
    healing = Healing()
    if folder.requeue_policy.exists():
        # not validated: what an earlier version froze stays in force, whatever it says
        healing = Healing.model_construct(
            **{name: getattr(rules, name) for name in Healing.model_fields})
    return PlannedStep(
        name=entry.name, kind=entry.kind, params=config["params"], needs=tuple(entry.needs),
        inputs=config["inputs"], fingerprint=config["fingerprint"], artifact=Path(entry.artifact),
        shards=config["shards"], done=tuple(sorted(not_again)),
        resources=profile.granted(entry.name, wanted), labels=config["labels"],
        waits_for=tuple(entry.waits_for),
        version=config["version"], healing=healing, continues=rules.continues)


def _prepare(plan: Plan, step: PlannedStep, texts: Sequence[tuple[scripts.Part, str]],
             entry: StepRecord) -> None:
    """The scripts and the policy of a new attempt; what healed in the last one goes on record."""
    folder = plan.step_folder(step.name)
    submit_jobs.write_scripts(folder, texts)
    write_json(folder.requeue_policy, requeue_policy.of(plan.profile, step).to_json())
    make_durable(folder.scripts)
    entry.resources = vars(step.resources).copy()
    marks = markers.read(folder.markers)
    healed = {str(index): marks[index].requeues for index in step.missing
              if index in marks and marks[index].requeues}
    if healed and entry.attempts:
        entry.attempts[-1].requeues = healed
    for index in step.missing:
        for name in ("requeues.json", "gave_up.json"):
            markers.path(folder.markers, index, name).unlink(missing_ok=True)


def _resources(record: RunRecord, sets: Sequence[str]) -> dict[str, dict[str, int]]:
    """``classify.mem=160GB`` … by step, in the units of ``Resources``."""
    wishes: dict[str, dict[str, int]] = {}
    for text in sets:
        place, sign, value = text.partition("=")
        step, dot, name = place.partition(".")
        if not sign or not dot:
            raise InputError(f"--set {text!r} is not STEP.RESOURCE=VALUE",
                             allowed=f"resources: {', '.join(RESOURCES)}")
        records.step(record, step)
        if name not in RESOURCES:
            raise InputError(
                f"--set {place}: only resources can change when a run is resumed",
                allowed=nearest(name, RESOURCES),
                hint="Another parameter makes another run: l3hpc submit")
        wishes.setdefault(step, {}).update(_wish(name, value, text))
    return wishes


def _wish(name: str, value: str, text: str) -> dict[str, int]:
    if name == "mem":
        return {"mem_mb": parse_memory(value)}
    if name == "time":
        return {"time_min": parse_time(value)}
    if not value.isdigit() or (name == "cpus" and value == "0"):
        raise InputError(f"--set {text!r}: {value!r} is not a number")
    return {name: int(value)}


def cancel(workspace: Path, run: str) -> list[str]:
    """Cancel what still waits or runs of a run; return the ids that were asked to stop.

    What was finished stays usable. Jobs whose ids never reached the record are cancelled too. A
    submission that is under way takes its jobs back itself.
    """
    submission_lock.stop(workspace, run)
    record = records.read(workspace, run)
    jobs = schedulers.of_record(workspace, record).cancel_run(record)
    stopped = [job.id for job in jobs]
    if stopped or record.state is RunState.SUBMITTING:
        record = records.read(workspace, run)
        if record.state is not RunState.REFUSED:
            record.state, record.note = RunState.CANCELLED, ""
            records.write(workspace, record)
    return stopped
