"""Handing jobs over: all of a submission, or none of it; and no job without a record of it.

Each script goes to the cluster in the order of the chain, and its id is noted beside ``run.json``
before the next one goes. If one is refused, the person presses Ctrl-C, or another command cancels
the run, the jobs already submitted are cancelled, the last one first.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from l3hpc import schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, L3hpcError, command_line
from l3hpc.io.files import write_text
from l3hpc.pipelines.model import Plan, PlannedStep
from l3hpc.runs import submission_lock
from l3hpc.runs.dependencies import Dependencies, ParentFailed
from l3hpc.schedulers import job_arrays, requeue_policy, scripts
from l3hpc.schedulers.base import (
    Call,
    DependencyGoneError,
    JobId,
    JobRequest,
    NotReachedError,
    OutcomeUnknownError,
    QueueFullError,
    Scheduler,
)
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.records import Attempt, RunRecord
from l3hpc.workspace.states import RunState, StepState

LIMIT_S = (5, 15, 30, 60)  # for room in the queue: the last one again and again
DEPENDENCY_S = (0, 0.5, 1, 2, 4)  # a job left Slurm's memory between our look and sbatch
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class _Handing:
    """What every submission of one run needs. record: kept up to date with each job."""

    waits: Dependencies
    record: RunRecord
    progress: Progress
    scheduler: Scheduler

    @property
    def placed(self) -> str | None:
        """The cluster that has the last job of the run; None where there is none yet."""
        own = [attempt.cluster for entry in self.record.steps
               for attempt in entry.attempts]
        return own[-1] if own else None


def write_scripts(folder: StepFolder, texts: Sequence[tuple[scripts.Part, str]]) -> None:
    """``script.sbatch`` in a step's folder; of a split array also ``script-1.sbatch`` …"""
    for old in folder.scripts:
        old.unlink()
    for number, (_, text) in enumerate(texts):
        write_text(folder.script(number), text, durable=False)


def hand_over(
    plan: Plan, steps: list[PlannedStep], texts: scripts.Texts, record: RunRecord,
    progress: Progress, *, alive: Collection[str] = (), before: RunState | None = None,
    elsewhere: Mapping[str, Collection[int]] | None = None,
) -> dict[str, str]:
    """Submit the steps that have a text, in this order, and keep the record up to date.

    A refusal or an interruption takes back all that was submitted here. A step that failed
    meanwhile does not: what needs it is left out.

    Parameters
    ----------
    alive : collection of str
        Names of the steps on which earlier jobs are at work.
    before : RunState, optional
        The state to which a refusal brings the record back, of a run that was submitted earlier.
    elsewhere : mapping of str to collection of int
        As from ``dependencies.made_elsewhere``.

    Returns
    -------
    dict of str to str
        The steps that were left out, and why.
    """
    since, submitted, left = time.time(), list[JobId](), dict[str, str]()
    entries = {entry.name: entry for entry in record.steps}
    handing = _Handing(Dependencies(plan, record, elsewhere or {}), record, progress,
                       schedulers.of(plan.profile, plan.workspace))
    arrays = {one.names[0]: one
              for one in arrays_of(plan, steps, texts, {*texts, *alive}, elsewhere or {})}
    behind = {name for one in arrays.values() for name in one.names[1:]}  # go with the first one
    progress.start("submitting", sum(map(len, texts.values())) - len(behind), "jobs")

    def note(job: JobId, attempts: dict[str, Attempt], first: bool) -> None:
        submitted.append(job)
        records.note_attempts(plan.workspace, plan.run, attempts, first=first)
        for name, attempt in attempts.items():
            if attempt.job in {each.job for each in entries[name].attempts}:
                markers.forget(plan.step_folder(name).markers, since)
            records.add_attempt(entries[name], attempt, first=first)

    try:
        for step in steps:
            if step.name not in texts or step.name in behind:
                continue
            try:
                if step.name in arrays:
                    array = arrays[step.name]
                    with _ctrl_c(signal.SIG_BLOCK):
                        job = _submit_array(plan, array, handing)
                        note(job, {
                            name: _attempt(replace(job, id=f"{job.id}_{index}"), array.script)
                            for index, name in enumerate(array.names)}, True)
                    progress.advance(1)
                    continue
                if len(texts[step.name]) > 1:
                    progress.note(f"{step.name}: {step.tasks:,} tasks in "
                                  f"{len(texts[step.name])} arrays")
                for number, (part, text) in enumerate(texts[step.name]):
                    with _ctrl_c(signal.SIG_BLOCK):
                        job = _submit_part(plan, step, part, number, handing)
                        script = plan.step_folder(step.name).script(number)
                        note(job, {step.name: _attempt(job, script, part, text)}, number == 0)
                    progress.advance(1)
            except ParentFailed as error:
                names = arrays[step.name].names if step.name in arrays else [step.name]
                left |= dict.fromkeys(names, error.message)
        if left and not submitted:
            step = next(one for one in steps if one.name in left)
            raise InputError(left[step.name],
                             hint=f"Finish that first: {command_line('resume', plan.run)}")
        record.state, record.note = RunState.SUBMITTED, ""
        records.write(plan.workspace, record)
    except L3hpcError as error:
        refusal = type(error)(f"{step.name}: {error.message}", where=error.where, hint=error.hint,
                              allowed=error.allowed)
        with _ctrl_c(signal.SIG_BLOCK):
            if isinstance(error, OutcomeUnknownError) or \
                    isinstance(error, NotReachedError) and submitted:
                _leave(plan, record, step, refusal, since)
            else:
                kept = _take_back(plan, record, submitted, refusal, before, since)
                if isinstance(error, ClusterError):
                    refusal.allowed = kept or refusal.allowed or "nothing was submitted"
        raise refusal from None
    except BaseException as error:
        with _ctrl_c(signal.SIG_BLOCK):
            _take_back(plan, record, submitted, error, before, since)
        raise
    finally:
        progress.finish()
    return left


def arrays_of(
    plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, waiting: Collection[str],
    elsewhere: Mapping[str, Collection[int]],
) -> list[job_arrays.JobArray]:
    """The steps of a sweep that go to Slurm together. One that waits for another run's job goes
    alone."""
    alone = [step for step in steps if not elsewhere.get(step.name)]
    return job_arrays.find(plan, alone, texts, waiting)


def _call(folder: StepFolder, task: int, index: int) -> Call:
    """Task ``task`` of the step frozen in ``folder``, as the array's task ``index`` runs it."""
    from l3hpc.worker.execute import TaskCall

    return Call(TaskCall(str(folder.config), task), folder.logs, task, index)


def _submit_part(
    plan: Plan, step: PlannedStep, part: scripts.Part, number: int, handing: _Handing,
) -> JobId:
    folder = plan.step_folder(step.name)
    calls = [_call(folder, task, task - part.offset) for task in part.tasks]
    return _submit(plan, step, folder.script(number), calls, handing)


def _submit_array(plan: Plan, array: job_arrays.JobArray, handing: _Handing) -> JobId:
    """One task for each step."""
    write_text(array.script, array.text, durable=False)
    calls = [_call(plan.step_folder(name), 0, index)
             for index, name in enumerate(array.names)]
    return _submit(plan, array.steps[0], array.script, calls, handing)


def _submit(plan: Plan, step: PlannedStep, script: Path, calls: Sequence[Call],
            handing: _Handing) -> JobId:
    """Submit one script; wait where there is no room in the queue for it now.

    For room without an end: jobs of this very run may have to end first, which takes as long as
    they do. (``sbatch`` asks a busy controller again.)
    """
    def pause(seconds: float) -> None:
        with _ctrl_c(signal.SIG_UNBLOCK):
            submission_lock.pause(plan.workspace, plan.run, seconds)

    full = gone = 0
    told = ""
    while True:
        submission_lock.check(plan.workspace, plan.run)
        after = handing.waits.of(step, [call.task for call in calls])
        try:
            return handing.scheduler.submit(JobRequest(
                script, plan.run, step, tuple(calls), after.ok, after.ended,
                cluster=plan.profile.slurm_clusters or handing.record.clusters,
                placed=handing.placed, refused=full, pause=pause,
                max_timeouts=requeue_policy.of(plan.profile, step).time,
                known=lambda: _known(records.read(plan.workspace, plan.run)),
                say=lambda words: handing.progress.note(f"{step.name}: {words}")))
        except QueueFullError as error:
            if told != error.message:
                told = error.message
                handing.progress.note(f"{step.name}: {told}: trying again until there is room")
            pause(LIMIT_S[min(full, len(LIMIT_S) - 1)])
            full += 1
        except DependencyGoneError:
            if gone >= len(DEPENDENCY_S):
                raise
            handing.waits.look_again()
            pause(DEPENDENCY_S[gone])
            gone += 1


def _known(record: RunRecord) -> set[str]:
    """Base ids of all jobs in a record."""
    return {attempt.base for step in record.steps for attempt in step.attempts}


def _attempt(job: JobId, script: Path, part: scripts.Part | None = None, text: str = ""
             ) -> Attempt:
    """What the record keeps of a submission. part, text: of a script of its own."""
    return Attempt(
        job.id, array="\n#SBATCH --array" in text, tasks=list(part.tasks) if part else [0],
        time=time.time(), script=str(script), offset=part.offset if part else 0,
        cluster=job.cluster)


def _leave(plan: Plan, record: RunRecord, step: PlannedStep, error: L3hpcError, since: float
           ) -> None:
    """Slurm is out of reach, so that nothing can be taken back: what was submitted stays, and the
    record keeps how far it came."""
    there = [f"{entry.name} {entry.attempts[-1].job}" for entry in record.steps
             if entry.attempts and entry.attempts[-1].time >= since]
    unknown = isinstance(error, OutcomeUnknownError)
    error.allowed = (f"submitted: {', '.join(there)}; " if there else "") + (
        f"whether {step.name} was submitted is not known" if unknown
        else f"{step.name} was not submitted")
    error.hint = (f"When Slurm answers again: {command_line('resume', plan.run)} looks for it "
                  f"and goes on, {command_line('cancel', plan.run)} ends the run")
    record.note = error.message
    records.write(plan.workspace, record)


def _take_back(
    plan: Plan, record: RunRecord, jobs: list[JobId], error: BaseException, before: RunState | None,
    since: float,
) -> str:
    """Cancel what was submitted since then, the last job first, and say so in the record. Return
    what may be left ('' for nothing)."""
    refused = isinstance(error, Exception) and not isinstance(error, submission_lock.Stopped)
    try:
        schedulers.of_record(plan.workspace, record).cancel(jobs[::-1], plan.run)
    except ClusterError as second:
        record.note = f"{getattr(error, 'message', str(error))}; {second.message}"
        records.write(plan.workspace, record)
        return f"{second.message}; {second.hint}" if second.hint else second.message
    begun = {(job.id, job.cluster) for job in jobs}
    for entry in record.steps:
        entry.attempts = [
            each for each in entry.attempts if each.time < since or
            (each.job.partition("_")[0], each.cluster) not in begun]
        if entry.state is StepState.SUBMITTED and not entry.attempts:
            entry.state, entry.job, entry.submitted_tasks = StepState.PLANNED, None, []
        elif entry.attempts:
            entry.job = entry.attempts[-1].job
            entry.submitted_tasks = list(entry.attempts[-1].tasks)
    if before:
        record.state = before
    else:
        record.state = RunState.REFUSED if refused else RunState.CANCELLED
        record.note = getattr(error, "message", str(error)) if refused else \
            "interrupted while submitting"
    records.write(plan.workspace, record)
    return ""


@contextlib.contextmanager
def _ctrl_c(how: int) -> Iterator[None]:
    """In the block Ctrl-C waits (SIG_BLOCK: until the job is in the record; sbatch inherits this,
    and ends its work too) or comes through after all (SIG_UNBLOCK)."""
    previous = signal.pthread_sigmask(how, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
