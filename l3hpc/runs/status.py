"""The status of runs: records and markers tell what happened; squeue and sacct refine it.

The evidence for a task, in order: its result in the artifact; what squeue reports now; the exit
marker of the script; what accounting remembers; that nothing is known. A task that ends while Slurm
is queried is read again. A step that cannot run because an earlier one failed is ``blocked``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc import schedulers
from l3hpc.config.units import format_memory
from l3hpc.console.progress import doing
from l3hpc.errors import InputError, collect_damage, command_line
from l3hpc.io.processes import without_garbage_collection
from l3hpc.runs import submission_lock
from l3hpc.runs.step_status import Snapshot, StepStatus, describe, read_snapshot, reread
from l3hpc.schedulers.base import JobAnswer, JobQuery
from l3hpc.schedulers.jobs import LiveJob, StepJobs
from l3hpc.workspace import origin, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord
from l3hpc.workspace.states import RunState, StepState

SCHEMA = 1
# of several steps that are not done, the state that tells most about their combination
_ORDER = (StepState.FAILED, StepState.LOST, StepState.CANCELLED, StepState.BLOCKED,
          StepState.RUNNING, StepState.REQUEUED, StepState.QUEUED, StepState.SUBMITTING,
          StepState.WAITING)


@dataclass
class CombinationStatus:
    """One combination of a sweep.

    Attributes
    ----------
    values : dict of str to str
        Option → its value in this combination.
    steps : dict of str to str
        Name of a step in the pipeline → its name in the run.
    state : StepState
        ``done`` if all its steps are; otherwise that of the step that holds it up.
    result : str
        The summary of its last step; empty until all its steps are done.
    """

    values: dict[str, str]
    steps: dict[str, str]
    state: StepState
    result: str = ""


@dataclass
class RunStatus:
    """The status of one run.

    Attributes
    ----------
    run, pipeline, cluster : str
        Names of the run, of its pipeline and of the cluster profile.
    state : RunState
        ``running`` if any step is still active.
    created : float
        When it was submitted, unix seconds.
    steps : list of StepStatus
        In the order of submission.
    next : str or None
        The command that helps, if any: ``resume``, or where that would only fail again, ``logs``.
    then : str or None
        The command after that.
    notes : list of str
        What could not be determined, and why a run was refused.
    damaged : list of str
        Files of the run that cannot be used, each with what is wrong. Everything else was
        determined without them.
    combinations : list of CombinationStatus
        Those of a sweep.
    computed_by : list of str
        Of a run that is not done although every result exists: the other runs that have since
        computed what its own jobs did not.
    """

    run: str
    pipeline: str
    cluster: str
    state: RunState
    created: float
    steps: list[StepStatus]
    next: str | None = None
    notes: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    combinations: list[CombinationStatus] = field(default_factory=list)
    computed_by: list[str] = field(default_factory=list)
    then: str | None = None

    @property
    def state_in_words(self) -> str:
        """The state, with the runs that have since computed everything: ``failed (since …)``."""
        since = origin.in_words(self.computed_by)
        return f"{self.state} ({since})" if since else str(self.state)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values: its fields, those of its steps, and ``schema``."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class LiveTask:
    """A task that is pending or running.

    Attributes
    ----------
    job : str
        Its id.
    now : LiveJob
        What the queue reports about it.
    """

    job: str
    now: LiveJob


def collect(
    workspace: Path, runs: Iterable[str] | None = None, *, last: int | None = None,
    broken: list[InputError] | None = None,
) -> list[RunStatus]:
    """Determine the status of runs.

    Slurm is queried once, and only if an unfinished task needs it.

    Parameters
    ----------
    workspace
        The workspace folder.
    runs
        Names of the runs. None: all runs, the newest first.
    last
        Largest number of runs, with ``runs=None``.
    broken
        Receives the errors of records that cannot be read, with ``runs=None``.

    Returns
    -------
    list of RunStatus
        In the order of ``runs``.

    Raises
    ------
    InputError
        If there is no such run, or its record cannot be read.
    """
    # with many runs, a fifth of the time went into looking for garbage
    with collect_damage() as damage, without_garbage_collection():
        queries = dict[str, JobQuery]()
        chosen, snapshots = list[RunRecord](), dict[str, list[Snapshot]]()
        for record in _records(workspace, runs, last, broken):
            chosen.append(record)
            snapshots[record.run] = [read_snapshot(workspace, record, step)
                                     for step in record.steps]
            if record.executor not in queries:
                queries[record.executor] = schedulers.of_record(workspace, record).query()
            # start the queries before the files of the next run are read
            queries[record.executor].add(record, _open(snapshots[record.run]))
        if runs is None:
            chosen = records.newest_first(chosen)
        with doing("waiting for the scheduler"):
            answers = {name: query.answer() for name, query in queries.items()}
        statuses = [_run_status(workspace, record, snapshots[record.run], answers[record.executor])
                    for record in chosen]
    if damage:
        _note_damage(workspace, statuses, damage)
    return statuses


def _note_damage(workspace: Path, statuses: Sequence[RunStatus], damage: Sequence[InputError]
                 ) -> None:
    """Enter each error into the runs in whose folders, or artifacts, its file is."""
    below: dict[str, list[int]] = {}  # any folder → the errors in it
    for number, error in enumerate(damage):
        folder = str(error.where).rpartition("/")[0]
        while folder:
            below.setdefault(folder, []).append(number)
            folder = folder.rpartition("/")[0]
    for status in statuses:
        folders = {str(Workspace(workspace).run(status.run)),
                   *(step.artifact for step in status.steps)}
        numbers = sorted({number for folder in folders for number in below.get(folder, ())})
        status.damaged = [f"{damage[number].where}: {damage[number].message}"
                          for number in numbers]


def live_tasks(workspace: Path, record: RunRecord) -> dict[str, dict[int, LiveTask]]:
    """Find the unfinished tasks of a run that are pending or running now.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.

    Returns
    -------
    dict of str to dict of int to LiveTask
        Step → task index → its job.

    Raises
    ------
    ClusterError
        If squeue does not respond: nothing may be submitted twice.
    """
    snapshots = [read_snapshot(workspace, record, step) for step in record.steps]
    answer = schedulers.of_record(workspace, record).jobs(record, _open(snapshots))
    return {each.record.name: _live_of(each, each.own(answer)) for each in snapshots}


def _live_of(snapshot: Snapshot, own: StepJobs) -> dict[int, LiveTask]:
    return {index: LiveTask(job, own.live[job])
            for index, job in snapshot.open_ids.items() if job in own.live}


def _open(snapshots: list[Snapshot]) -> dict[str, Collection[str]]:
    """Step → ids of the jobs that have its unfinished tasks."""
    return {each.record.name: each.open_ids.values() for each in snapshots if each.open_ids}


def _records(workspace: Path, runs: Iterable[str] | None, last: int | None,
             broken: list[InputError] | None) -> Iterable[RunRecord]:
    """The records that ``collect`` is about, where possible one by one: the scheduler can answer
    while the others are read.
    """
    if runs is not None:
        return [records.read(workspace, run) for run in runs]
    if last is not None:  # which the newest ones are is known only of all
        return records.read_all(workspace, broken)[:last]
    return records.each(workspace, broken)


def _run_status(
    workspace: Path, record: RunRecord, snapshots: list[Snapshot], answer: JobAnswer
) -> RunStatus:
    interrupted = submission_lock.interrupted(workspace, record)
    steps: list[StepStatus] = []
    others_unfinished = any(len(each.done) < each.record.tasks for each in snapshots)
    for first in snapshots:
        snapshot = reread(first, answer)
        needed = {*snapshot.record.ok_needs}
        parents = [step for step in steps if step.name in needed] if needed else []
        steps.append(describe(snapshot, parents, answer, interrupted=interrupted,
                              others_unfinished=others_unfinished))
    state = _run_state(record, steps)
    swept = _combinations(record.options.get("combinations", ()), steps)
    status = RunStatus(record.run, record.pipeline, record.cluster, state, record.created, steps,
                       notes=answer.notes(record), combinations=swept)
    if all(step.done >= step.tasks for step in steps):
        status.computed_by = sorted({run for step in steps for run in step.computed_by})
    if interrupted and state is not RunState.DONE:
        status.notes.insert(0, record.note or "the submitting process was killed before it had "
                               "submitted all jobs")
    elif record.note not in ("", state.value) and state in (RunState.REFUSED, RunState.CANCELLED):
        status.notes.insert(0, record.note)
    status.notes += [held_message(step.name, step.held_by_administrator) for step in steps
                     if step.held_by_administrator]
    unfinished = state in (RunState.FAILED, RunState.LOST, RunState.CANCELLED) \
        or interrupted and state is not RunState.DONE
    if unfinished or any(step.held for step in steps):
        status.next, status.then = _next_commands(record.run, steps)
    return status


def _next_commands(run: str, steps: Sequence[StepStatus]) -> tuple[str, str | None]:
    """What to type after a run that did not finish, and what after that."""
    open_steps = [step for step in steps if step.state is StepState.FAILED and not step.computed_by]
    sets = [word for step in open_steps if step.needs_mem_mb
            for word in ("--set", f"{step.name}.mem={format_memory(step.needs_mem_mb)}")]
    resume = command_line("resume", run, *(word.replace(" ", "") for word in sets))
    # what would only fail again has to be read before it is resumed
    failed = next((step for step in open_steps if step.repeats), None)
    return (resume, None) if failed is None else (command_line("logs", run, failed.name), resume)


def held_message(step: str, jobs: Sequence[str]) -> str:
    """Describe jobs that an administrator holds, and what to do.

    Parameters
    ----------
    step, jobs
        Name of the step and ids of its held jobs.
    """
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return (f"job {jobs[0]}{more} of {step} is held by an administrator: ask your site to release "
            f"it (scontrol show job {jobs[0]})")


def _run_state(record: RunRecord, steps: list[StepStatus]) -> RunState:
    states = {step.state for step in steps}
    if record.state is RunState.REFUSED:
        return RunState.REFUSED
    if all(state.is_done for state in states):
        return RunState.DONE
    active = {state for state in states if state.is_active}
    if active:
        return RunState.SUBMITTING if active == {StepState.SUBMITTING} else RunState.RUNNING
    for state in (StepState.FAILED, StepState.LOST, StepState.CANCELLED):
        if state in states:
            return RunState(state)
    return RunState.FAILED


def _combinations(combinations: Sequence[Mapping[str, Any]], steps: Sequence[StepStatus],
            ) -> list[CombinationStatus]:
    """The state and the result of each combination of a sweep, as its record lists them."""
    by_name = {step.name: step for step in steps}
    found = []
    for each in combinations:
        own = [by_name[name] for name in each["steps"].values()]
        unfinished = [step.state for step in own if not step.state.is_done]
        state = next((one for one in _ORDER if one in unfinished),
                     unfinished[0] if unfinished else StepState.DONE)
        result = own[-1].detail if own and not unfinished else ""
        found.append(CombinationStatus(each["values"], each["steps"], state, result))
    return found
