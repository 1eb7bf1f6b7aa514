"""What has to be submitted again of a run: only what is missing or failed, task by task.

The artifacts determine what is finished, and the queue what is live. Ids of jobs that have ended or
are forgotten are never used, because Slurm would take them as satisfied. First what a resumption
does (``ResumePlan``), then how that plan is made.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config.profile import ClusterProfile, RequeueLimits
from l3hpc.config.resources import Resources
from l3hpc.config.settings import check_workspace
from l3hpc.config.units import parse_task_memory, parse_time
from l3hpc.config.validators import pack_size
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, command_line, nearest
from l3hpc.io.values import count_of
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import dependencies, status
from l3hpc.runs.step_status import StepStatus
from l3hpc.schedulers import requeue_policy
from l3hpc.schedulers.base import Scheduler
from l3hpc.schedulers.jobs import JobId, list_jobs, submitted_job
from l3hpc.schedulers.requests import GivenUpError
from l3hpc.workspace import artifacts, attempts, markers, records, step_config
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState, StepState

ENDING_S = 90.0  # Slurm kills jobs that have not ended after KillWait, 30 s by default
ENDING_POLL_S = 2.0
RESOURCES = ("cpus", "mem", "gpus", "time", "pack")


@dataclass(frozen=True)
class ResumePlan:
    """What a resumption will do, and nothing else.

    Attributes
    ----------
    plan : Plan
        The plan of the steps to submit.
    steps : list of PlannedStep
        The steps to submit again; ``missing`` says which tasks.
    live : dict of str to list of str
        Step → ids of its live jobs.
    stale, untracked : list of JobId
        Jobs to cancel: they depend on something that will not happen, or are not in the record.
    held : dict of JobId to list of str
        Jobs to release, each with the changes to make first.
    held_by_administrator : dict of str to list of str
        Step → ids that only an administrator can release.
    recompute : list of StepRecord
        Finished steps to compute again.
    finished : bool
        Whether every step of the run is done.
    taken_over : dict of str to list of str
        Step that failed in this run → the other runs that have since computed it.
    unchosen : list of str
        Steps that are neither done nor live, but were not asked for.
    left_out : dict of str to str
        Step that depends on what is asked for, but also needs one of ``unchosen`` → why it is not
        submitted.
    notes : list of str
        What the scheduler says about the run, such as that its runner is silent.
    """

    plan: Plan
    steps: list[PlannedStep]
    live: dict[str, list[str]]
    stale: list[JobId]
    held: dict[JobId, list[str]]
    recompute: list[StepRecord]
    finished: bool = False
    untracked: list[JobId] = field(default_factory=list)
    held_by_administrator: dict[str, list[str]] = field(default_factory=dict)
    taken_over: dict[str, list[str]] = field(default_factory=dict)
    unchosen: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps or self.held or self.stale or self.untracked)

    def describe(self) -> str:
        """Return what will be done, in order, in one line."""
        parts = []
        if doomed := [job.id for job in (*self.untracked, *self.stale)]:
            parts.append(f"cancel {list_jobs(doomed)} (can never run)")
        parts += [f"release {job.id} with {', '.join(changes)}"
                  for job, changes in self.held.items() if changes]
        if plain := [job.id for job, changes in self.held.items() if not changes]:
            parts.append(f"release {list_jobs(plain)}")
        if self.steps:
            parts.append("submit " + ", ".join(
                f"{step.name} ({len(step.missing)} of {count_of(step.tasks, 'task')})"
                for step in self.steps))
        parts += [f"leave out {name} ({why})" for name, why in self.left_out.items()]
        return "; ".join(parts)


def plan_resume(workspace: Path, run: str, profile: ClusterProfile, sets: Sequence[str] = (), *,
                only: Sequence[str] = (), again: str = "", progress: Progress | None = None
                ) -> ResumePlan:
    """Return what ``resume`` would do, once the jobs that are just ending have ended.

    Parameters
    ----------
    workspace, run, profile, sets
        As in ``resume``.
    only, again, progress
        As in ``resume``.

    Raises
    ------
    ClusterError
        If these jobs take too long to end, or the scheduler does not respond.
    GivenUpError
        After Ctrl-C.
    """
    with given_up(run, "interrupted before it was known which jobs are in the queue", lambda: ""):
        _await_ending(workspace, run, progress or Progress())
        return plan_now(workspace, run, profile, sets, only=only, again=again)


@contextlib.contextmanager
def given_up(run: str, message: str, done: Callable[[], str], *options: str) -> Iterator[None]:
    """Say at a Ctrl-C within the block what a resumption has done, and how to repeat it.

    Parameters
    ----------
    run
        Name of the run.
    message
        What is not known, or not done.
    done
        Returns what was done; empty if nothing was.
    options
        Those of ``l3hpc resume`` that repeat it.

    Raises
    ------
    GivenUpError
        In place of the interrupt.
    """
    try:
        yield
    except (KeyboardInterrupt, GivenUpError):
        raise GivenUpError(
            message, hint=f"To continue: {command_line('resume', run, *options)}",
            allowed="; ".join(filter(None, (done(), "nothing was submitted")))) from None


def plan_now(workspace: Path, run: str, profile: ClusterProfile, sets: Sequence[str] = (), *,
             only: Sequence[str] = (), again: str = "") -> ResumePlan:
    """Return what of a run has to be submitted again now.

    Parameters
    ----------
    workspace, run, profile, sets
        As in ``resume``.
    only, again
        As in ``resume``.

    Raises
    ------
    InputError
        If the request is not possible.
    ClusterError
        If the scheduler does not respond.
    """
    check_workspace(Path(workspace), "--workspace or paths.workspace")
    scheduler = schedulers.of(profile, Path(workspace))
    scheduler.prepare()
    record = records.read(workspace, run)
    [found] = status.collect(workspace, [run])
    now = _Now(Path(workspace), record, profile, scheduler, status.live_tasks(workspace, record),
               _requested_resources(record, sets),
               set().union(*(_with_dependents(record, name) for name in only)) if only else None,
               _with_dependents(record, again) if again else set())
    now.refuse_live()
    for entry, step in zip(record.steps, found.steps, strict=True):
        now.add(entry, step)
    left_out = now.leave_out_unready(only, found.steps)
    plan = Plan(run=run, pipeline=record.pipeline, workspace=Path(workspace), profile=profile,
                steps=tuple(now.steps), options=record.options)
    scheduler.validate(plan)
    answer = scheduler.jobs(record)
    return ResumePlan(
        plan, now.steps, now.live, now.stale[::-1], now.held,
        [entry for entry in record.steps if entry.name in now.recomputed],
        finished=all(step.done >= step.tasks for step in found.steps) and not now.recomputed,
        taken_over={step.name: step.computed_by for step in found.steps
                    if step.computed_by and step.name not in now.recomputed},
        untracked=answer.untracked(record), unchosen=now.unchosen, left_out=left_out,
        notes=answer.notes(record),
        held_by_administrator={step.name: step.held_by_administrator
                               for step in found.steps if step.held_by_administrator})


@dataclass
class _Now:
    """A run as it is now, what is requested, and what follows from both, step by step.

    Attributes
    ----------
    tasks : mapping
        Step → its tasks that are pending or running.
    requests : mapping
        Step → the resources that are requested for it.
    chosen : set of str or None
        Names of the steps that may be submitted; None: all.
    recomputed : set of str
        Names of the steps that are computed again, even if they are finished.
    steps, live, stale, held, unchosen
        As in ``ResumePlan``, of the steps that were added; the first of ``stale`` is submitted
        first.
    """

    workspace: Path
    record: RunRecord
    profile: ClusterProfile
    scheduler: Scheduler
    tasks: Mapping[str, Mapping[int, status.LiveTask]]
    requests: Mapping[str, dict[str, int]]
    chosen: Set[str] | None
    recomputed: Set[str]
    steps: list[PlannedStep] = field(default_factory=list, init=False)
    live: dict[str, list[str]] = field(default_factory=dict, init=False)
    stale: list[JobId] = field(default_factory=list, init=False)
    held: dict[JobId, list[str]] = field(default_factory=dict, init=False)
    unchosen: list[str] = field(default_factory=list, init=False)

    def refuse_live(self) -> None:
        """Raise an ``InputError`` if a step that is to be computed again has live jobs."""
        for name in sorted(self.recomputed):
            if self.tasks.get(name):
                raise InputError(f"{name} still has pending or running jobs",
                                 hint=f"First: {command_line('cancel', self.record.run)}")

    def leave_out_unready(self, only: Sequence[str], found: Sequence[StepStatus]
                          ) -> dict[str, str]:
        """Take the steps away that need one which is not submitted; return them, and why.

        Raises
        ------
        InputError
            If such a step was named, or nothing else is to be done.
        """
        states = {step.name: step.state for step in found}
        left_out: dict[str, str] = {}
        for step in self.steps:
            for need in step.needs:
                if need in step.any_needs or not (need in self.unchosen or need in left_out):
                    continue
                outcome = dependencies.OUTCOMES.get(states[need], "failed") \
                    if need in self.unchosen else "is not submitted"
                left_out.setdefault(step.name, f"{need} {outcome}")
        self.steps = [step for step in self.steps if step.name not in left_out]
        refused = [name for name in left_out if name in only] or [
            name for name in left_out if not (self.steps or self.held or self.stale)]
        if refused:
            raise InputError(f"{refused[0]}: {left_out[refused[0]]}", hint="Finish that first: "
                             + command_line("resume", self.record.run))
        return left_out

    def add(self, entry: StepRecord, found: StepStatus) -> None:
        """Determine what has to be done for a step. found: its status."""
        done = set() if entry.name in self.recomputed else artifacts.finished(Path(entry.artifact))
        if len(done) >= entry.tasks:
            # a job that is held although its result exists delays the steps that depend on it
            jobs = _jobs_by_id(entry)
            self.held |= {jobs[task]: list[str]() for task in found.held}
            return
        running = self._running(entry, found)
        if running:
            self.live[entry.name] = attempts.live_ids(entry, done, running)
            self._release(entry, running)
        if self.chosen is None or entry.name in self.chosen:
            step = _planned(self.workspace, self.record, entry, self.profile,
                            self.requests.get(entry.name, {}), {*done, *running})
            if step.missing:
                self.steps.append(step)
        elif len(done | running.keys()) < entry.tasks:
            self.unchosen.append(entry.name)

    def _running(self, entry: StepRecord, found: StepStatus) -> dict[int, str]:
        """Task → id, of those that may still compute it; jobs that never can are stale."""
        running = {index: task.job for index, task in self.tasks.get(entry.name, {}).items()}
        # pending although a job that it depends on has failed (the local runner blocks them itself)
        if found.state is not StepState.BLOCKED:
            return running
        if self.record.capabilities.remote:
            self.stale += [submitted_job(attempt) for attempt in entry.attempts
                           if {*attempt.task_ids.values()} & {*running.values()}]
        return {}

    def _release(self, entry: StepRecord, running: Mapping[int, str]) -> None:
        tasks = self.tasks[entry.name]
        if held := {index for index in running if tasks[index].now.held}:
            self.held |= _held(self.workspace, self.record, entry, running, held, self.scheduler)


def _jobs_by_id(entry: StepRecord) -> dict[str, JobId]:
    """The job, or element of an array, that each task was last submitted as."""
    return {task: replace(submitted_job(attempt), id=task) for attempt in entry.attempts
            for task in attempt.task_ids.values()}


def used_by(workspace: Path, run: str, entries: Sequence[StepRecord]) -> list[str]:
    """List the other runs that use the artifacts of some steps.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    entries
        The steps in its record.
    """
    folders = {entry.artifact for entry in entries}
    return [record.run for record in records.read_all(workspace, [])
            if record.run != run and any(step.artifact in folders for step in record.steps)]


def _with_dependents(record: RunRecord, name: str) -> set[str]:
    """A step and all that need it, through any number of generations."""
    records.step(record, name)
    names = {name}
    for entry in record.steps:  # in the order of the chain
        if names & set(entry.needs):
            names.add(entry.name)
    return names


def _await_ending(workspace: Path, run: str, progress: Progress) -> None:
    """Wait for the jobs that are just ending: whether they were cancelled or requeued is not known
    before. A ``ClusterError`` if that takes too long.
    """
    end, noted = time.monotonic() + ENDING_S, False
    while True:
        live = status.live_tasks(workspace, records.read(workspace, run))
        ending = [task.job for tasks in live.values() for task in tasks.values()
                  if task.now.state == JobState.COMPLETING]
        if not ending:
            return
        if time.monotonic() > end:
            raise ClusterError(f"job {ending[0]} is still ending",
                               hint=f"Try again in a minute: {command_line('resume', run)}")
        if not noted:
            progress.note(f"waiting for job {ending[0]} to end")
        noted = True
        time.sleep(ENDING_POLL_S)


def _held(workspace: Path, record: RunRecord, entry: StepRecord, running: Mapping[int, str],
          held: Set[int], scheduler: Scheduler) -> dict[JobId, list[str]]:
    """The held jobs and the changes to make before their release: more memory or time, if they were
    requeued for that. An array whose pending tasks are all held is released as a whole.
    """
    marks = markers.read(Workspace(workspace).run(record.run).step(entry.name).markers)
    jobs: dict[JobId, list[str]] = {}
    for attempt in entry.attempts:
        job = submitted_job(attempt)
        live: dict[str, list[int]] = {}  # of a packed job several tasks
        for index, task in attempt.task_ids.items():
            if running.get(index) == task:
                live.setdefault(task, []).append(index)
        plain = []
        for task, indices in live.items():
            requested = {key: value for index in indices if index in marks
                         for key, value in marks[index].requested.items()}
            if held & {*indices} and requested:
                jobs[replace(job, id=task)] = scheduler.changes(requeue_policy.Decision(
                    True, "", requested.get("mem_mb"), requested.get("time_min"),
                    requested.get("exclude")))
            elif held & {*indices}:
                plain.append(task)
        whole = attempt.array and len(plain) == len(live)
        jobs |= {replace(job, id=task): list[str]()
                 for task in ([attempt.job] if whole and plain else plain)}
    return jobs


def _planned(workspace: Path, record: RunRecord, entry: StepRecord, profile: ClusterProfile,
             requests: dict[str, int], kept: set[int]) -> PlannedStep:
    folder = Workspace(workspace).run(record.run).step(entry.name)
    config = step_config.read(workspace, record.run, entry, record.command)
    rules = requeue_policy.read(folder)
    resources = Resources(**entry.resources)
    packs = {index: attempt.pack for attempt in entry.attempts for index in attempt.tasks}
    for index, marks in markers.read(folder.markers).items():
        if index not in kept and marks.requeues:  # what requeues have granted is not forgotten
            mem, minutes = requeue_policy.granted_resources(rules, marks.requeues)
            minutes //= packs.get(index, 1)
            resources = replace(resources, mem_mb=max(resources.mem_mb, mem),
                                time_min=max(resources.time_min, minutes))
    if profile.limits.time and resources.time_min <= profile.limits.time:
        # if tasks were granted more time, fewer of them fit into one job
        resources = resources.packed(profile.limits.time // (resources.time_min or 1))
    resources = replace(resources, **requests)
    limits = RequeueLimits()
    if folder.requeue_policy.exists():
        # not validated: what an earlier version froze stays in force, also outside today's limits
        limits = RequeueLimits.model_construct(
            **{name: getattr(rules, name) for name in RequeueLimits.model_fields})
    missing = entry.tasks - len(kept)
    granted = profile.granted(entry.name, entry.like or entry.kind, resources.packed(entry.tasks))
    return PlannedStep(
        name=entry.name, kind=entry.kind, params=config["params"], needs=tuple(entry.needs),
        any_needs=tuple(entry.any_needs), like=entry.like,
        inputs=config["inputs"], fingerprint=config["fingerprint"], artifact=Path(entry.artifact),
        shards=config["shards"], done=tuple(sorted(kept)),
        resources=granted,
        not_granted=tuple(granted.not_granted(requests, missing, profile.name) if missing else ()),
        labels=config["labels"], waits_for=tuple(entry.waits_for),
        version=config["version"], requeue_limits=limits, continues=rules.continues)


def _requested_resources(record: RunRecord, sets: Sequence[str]) -> dict[str, dict[str, int]]:
    """``classify.mem=160GB`` … by step, in the units of ``Resources``."""
    requests: dict[str, dict[str, int]] = {}
    for text in sets:
        target, sign, value = text.partition("=")
        step, dot, name = target.partition(".")
        if not sign or not dot:
            raise InputError(f"--set {text!r} is not STEP.RESOURCE=VALUE",
                             allowed=f"resources: {', '.join(RESOURCES)}")
        records.step(record, step)
        if name not in RESOURCES:
            raise InputError(
                f"--set {target}: only resources can change when a run is resumed",
                allowed=nearest(name, RESOURCES),
                hint=f"With another parameter it is another run: {command_line('submit')}")
        requests.setdefault(step, {}).update(_request(name, value, text))
    return requests


def _request(name: str, value: str, text: str) -> dict[str, int]:
    if name == "mem":
        return {"mem_mb": parse_task_memory(value)}
    if name == "time":
        return {"time_min": parse_time(value)}
    if name == "pack":
        return {name: pack_size(value)}
    if not value.isdigit() or (name == "cpus" and value == "0"):
        raise InputError(f"--set {text!r}: {value!r} is not a valid number")
    return {name: int(value)}
