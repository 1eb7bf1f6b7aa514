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
from dataclasses import dataclass, field, replace
from pathlib import Path

from l3hpc import schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, L3hpcError, command_line
from l3hpc.io.files import write_text
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import submission_lock
from l3hpc.runs.dependencies import Dependencies, ParentFailed
from l3hpc.schedulers import requeue_policy, scripts
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
from l3hpc.workspace.markers import RunState, StepState
from l3hpc.workspace.records import Attempt, RunRecord

LIMIT_S = (5, 15, 30, 60)  # for room in the queue: the last one again and again
DEPENDENCY_S = (0, 0.5, 1, 2, 4)  # a job left Slurm's memory between our look and sbatch
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass
class _HandOver:
    """The jobs of one run on their way to the scheduler.

    Attributes
    ----------
    record : RunRecord
        Kept up to date with each job.
    since : float
        When it began, unix seconds.
    submitted : list of JobId
        What has been submitted so far.
    """

    plan: Plan
    record: RunRecord
    waits: Dependencies
    scheduler: Scheduler
    progress: Progress
    since: float = field(default_factory=time.time)
    submitted: list[JobId] = field(default_factory=list)

    @property
    def placed(self) -> str | None:
        """The cluster that has the last job of the run; None where there is none yet."""
        own = [attempt.cluster for entry in self.record.steps for attempt in entry.attempts]
        return own[-1] if own else None

    def array(self, array: scripts.JobArray) -> None:
        """Submit several steps as one array, a task for each."""
        write_text(array.script, array.text, durable=False)
        calls = [_call(self.plan.step_folder(name), 0, index)
                 for index, name in enumerate(array.names)]
        with _ctrl_c(signal.SIG_BLOCK):
            job = _submit(self, array.steps[0], array.script, calls)
            self._note(job, {name: _attempt(replace(job, id=f"{job.id}_{index}"), array.script)
                             for index, name in enumerate(array.names)}, first=True)
        self.progress.advance(1)

    def step(self, step: PlannedStep, texts: Sequence[tuple[scripts.Part, str]]) -> None:
        """Submit the scripts of one step."""
        if len(texts) > 1:
            self.progress.note(f"{step.name}: {step.tasks:,} tasks in {len(texts)} arrays")
        folder = self.plan.step_folder(step.name)
        for number, (part, text) in enumerate(texts):
            script = folder.script(number)
            calls = [_call(folder, task, task - part.offset) for task in part.tasks]
            with _ctrl_c(signal.SIG_BLOCK):
                job = _submit(self, step, script, calls)
                self._note(job, {step.name: _attempt(job, script, part, text)}, first=number == 0)
            self.progress.advance(1)

    def _note(self, job: JobId, attempts: Mapping[str, Attempt], *, first: bool) -> None:
        """Put what was submitted on record. first: of this submission of the step."""
        self.submitted.append(job)
        records.note_attempts(self.plan.workspace, self.plan.run, attempts, first=first)
        for name, attempt in attempts.items():
            entry = records.step(self.record, name)
            if attempt.job in {each.job for each in entry.attempts}:  # Slurm counts from 1 again
                markers.forget(self.plan.step_folder(name).markers, self.since)
            records.add_attempt(entry, attempt, first=first)


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
    now = _HandOver(plan, record, Dependencies(plan, record, elsewhere or {}),
                    schedulers.of(plan.profile, plan.workspace), progress)
    arrays = {one.names[0]: one
              for one in arrays_of(plan, steps, texts, {*texts, *alive}, elsewhere or {})}
    behind = {name for one in arrays.values() for name in one.names[1:]}  # go with the first one
    chosen = [step for step in steps if step.name in texts and step.name not in behind]
    left: dict[str, str] = {}
    progress.start("submitting", sum(map(len, texts.values())) - len(behind), "jobs")
    try:
        for step in chosen:
            array = arrays.get(step.name)
            try:
                if array is not None:
                    now.array(array)
                else:
                    now.step(step, texts[step.name])
            except ParentFailed as error:
                left |= dict.fromkeys(array.names if array else [step.name], error.message)
        if left and not now.submitted:
            step = next(one for one in chosen if one.name in left)
            raise InputError(left[step.name],
                             hint=f"Finish that first: {command_line('resume', plan.run)}")
        record.state, record.note = RunState.SUBMITTED, ""
        records.write(plan.workspace, record)
    except L3hpcError as error:
        with _ctrl_c(signal.SIG_BLOCK):
            raise _refusal(now, step, error, before) from None
    except BaseException as error:
        with _ctrl_c(signal.SIG_BLOCK):
            _take_back(now, error, before)
        raise
    finally:
        progress.finish()
    return left


def _refusal(now: _HandOver, step: PlannedStep, error: L3hpcError, before: RunState | None
             ) -> L3hpcError:
    """The error for a person, once what was submitted is taken back, where that is possible."""
    refusal = type(error)(f"{step.name}: {error.message}", where=error.where, hint=error.hint,
                          allowed=error.allowed)
    if isinstance(error, OutcomeUnknownError) or isinstance(error, NotReachedError) \
            and now.submitted:
        _leave(now, step, refusal)
        return refusal
    kept = _take_back(now, refusal, before)
    if isinstance(error, ClusterError):
        refusal.allowed = kept or refusal.allowed or "nothing was submitted"
    return refusal


def arrays_of(
    plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, waiting: Collection[str],
    elsewhere: Mapping[str, Collection[int]],
) -> list[scripts.JobArray]:
    """The steps of a sweep that go to Slurm together. One that waits for another run's job goes
    alone."""
    alone = [step for step in steps if not elsewhere.get(step.name)]
    return scripts.find(plan, alone, texts, waiting)


def _call(folder: StepFolder, task: int, index: int) -> Call:
    """Task ``task`` of the step frozen in ``folder``, as the array's task ``index`` runs it."""
    from l3hpc.worker.execute import TaskCall

    return Call(TaskCall(str(folder.config), task), folder.logs, task, index)


def _submit(now: _HandOver, step: PlannedStep, script: Path, calls: Sequence[Call]) -> JobId:
    """Submit one script; wait where there is no room in the queue for it now.

    For room without an end: jobs of this very run may have to end first, which takes as long as
    they do. (``sbatch`` asks a busy controller again.)
    """
    plan = now.plan

    def pause(seconds: float) -> None:
        with _ctrl_c(signal.SIG_UNBLOCK):
            submission_lock.pause(plan.workspace, plan.run, seconds)

    full = gone = 0
    told = ""
    while True:
        submission_lock.check(plan.workspace, plan.run)
        after = now.waits.of(step, [call.task for call in calls])
        try:
            return now.scheduler.submit(JobRequest(
                script, plan.run, step, tuple(calls), after.ok, after.ended,
                cluster=plan.profile.slurm_clusters or now.record.clusters,
                placed=now.placed, refused=full, pause=pause,
                max_timeouts=requeue_policy.of(plan.profile, step).time,
                known=lambda: _known(records.read(plan.workspace, plan.run)),
                say=lambda words: now.progress.note(f"{step.name}: {words}")))
        except QueueFullError as error:
            if told != error.message:
                told = error.message
                now.progress.note(f"{step.name}: {told}: trying again until there is room")
            pause(LIMIT_S[min(full, len(LIMIT_S) - 1)])
            full += 1
        except DependencyGoneError:
            if gone >= len(DEPENDENCY_S):
                raise
            now.waits.look_again()
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


def _leave(now: _HandOver, step: PlannedStep, error: L3hpcError) -> None:
    """Slurm is out of reach, so that nothing can be taken back: what was submitted stays, and the
    record keeps how far it came."""
    plan, record = now.plan, now.record
    there = [f"{entry.name} {entry.attempts[-1].job}" for entry in record.steps
             if entry.attempts and entry.attempts[-1].time >= now.since]
    unknown = isinstance(error, OutcomeUnknownError)
    error.allowed = (f"submitted: {', '.join(there)}; " if there else "") + (
        f"whether {step.name} was submitted is not known" if unknown
        else f"{step.name} was not submitted")
    error.hint = (f"When Slurm answers again: {command_line('resume', plan.run)} looks for it "
                  f"and goes on, {command_line('cancel', plan.run)} ends the run")
    record.note = error.message
    records.write(plan.workspace, record)


def _take_back(now: _HandOver, error: BaseException, before: RunState | None) -> str:
    """Cancel what was submitted since then, the last job first, and say so in the record. Return
    what may be left ('' for nothing)."""
    plan, record, jobs = now.plan, now.record, now.submitted
    refused = isinstance(error, Exception) and not isinstance(error, submission_lock.Stopped)
    try:
        now.scheduler.cancel(jobs[::-1], plan.run)
    except ClusterError as second:
        record.note = f"{getattr(error, 'message', str(error))}; {second.message}"
        records.write(plan.workspace, record)
        return f"{second.message}; {second.hint}" if second.hint else second.message
    begun = {(job.id, job.cluster) for job in jobs}
    for entry in record.steps:
        entry.attempts = [
            each for each in entry.attempts if each.time < now.since or
            (each.base, each.cluster) not in begun]
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
