"""Submitting jobs: all of a submission or none of it, and no job without a record of it.

Each script is submitted in the order of the dependencies. What a job reads is written while the one
before it is being submitted. As soon as the id of a job is known, sbatch begins with the next one,
and meanwhile the id is noted beside ``run.json``. Of many jobs two are submitted at a time, if they
do not depend on each other. If one is refused, the user presses Ctrl-C, or another command cancels
the run, the jobs that were already submitted are cancelled, the last one first.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from l3hpc import schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError, L3hpcError, Lines, command_line
from l3hpc.io.files import write_text
from l3hpc.io.syncing import Syncing
from l3hpc.io.values import in_number
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import last_job, submission_lock
from l3hpc.runs.dependencies import Dependencies, ParentFailedError
from l3hpc.runs.interrupts import Interrupts
from l3hpc.runs.job_scripts import JobScript, RunScripts, calls_of
from l3hpc.schedulers import pickled_calls, scripts
from l3hpc.schedulers.base import Scheduler, StartsAhead
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.requests import (
    DependencyGoneError,
    GivenUpError,
    JobRequest,
    NotReachedError,
    OutcomeUnknownError,
    QueueFullError,
    cancelling_given_up,
)
from l3hpc.workspace import markers, records
from l3hpc.workspace.run_record import Attempt, RunRecord
from l3hpc.workspace.states import RunState, StepState

LIMIT_S = (5, 15, 30, 60)  # while the queue is full; the last one is repeated
# while Slurm refuses a dependency, because a job left its memory between our query and sbatch
DEPENDENCY_S = (0, 0.5, 1, 2, 4)
# files of calls that are written while the job before is being submitted, which may start at once
# and then waits a minute until it gets its own
AHEAD = 200
# From how many scripts on two are submitted at a time. With a few, the order of the ids is worth
# more than the milliseconds; more than two would be impolite to slurmctld, and no faster.
MANY = 20


@dataclass
class Submission:
    """Jobs of a run to submit, and how far that has come.

    Attributes
    ----------
    plan : Plan
        The plan of the run.
    rendered : RunScripts
        What is submitted.
    record : RunRecord
        The record of the run, kept up to date with each job.
    progress : Progress
        Receives the progress and notes.
    write_step : callable
        Writes what the jobs of a step read. Called for each step before its jobs are submitted,
        mostly while those of the step before it are being submitted.
    syncing : Syncing
        Has what ``write_step`` writes, and brings it to disk while jobs are being submitted.
    before : RunState or None
        The state to which a refusal resets the record, of a run that was submitted earlier.
    since : float
        When it began, unix seconds.
    overlapping : bool
        Whether two scripts that do not need each other are submitted at a time.
    submitted : list of JobId
        What has been submitted so far.
    failed : dict of Path to Exception
        Script → why it cannot be submitted, until its turn has come.
    interrupts : Interrupts
        Those that wait while a job is being submitted.
    """

    plan: Plan
    rendered: RunScripts
    record: RunRecord
    progress: Progress
    write_step: Callable[[PlannedStep], None]
    syncing: Syncing
    before: RunState | None = None
    since: float = field(default_factory=time.time, init=False)
    overlapping: bool = field(default=False, init=False)
    submitted: list[JobId] = field(default_factory=list, init=False)
    failed: dict[Path, Exception] = field(default_factory=dict, init=False)
    interrupts: Interrupts = field(default_factory=Interrupts, init=False)
    _written: set[str] = field(default_factory=set, init=False)

    @functools.cached_property
    def scheduler(self) -> Scheduler:
        """Where the jobs run."""
        return schedulers.of(self.plan.profile, self.plan.workspace)

    @functools.cached_property
    def dependencies(self) -> Dependencies:
        """The jobs that the steps depend on."""
        return Dependencies(self.plan, self.record, self.rendered.elsewhere)

    @functools.cached_property
    def _planned(self) -> dict[str, PlannedStep]:
        return {step.name: step for step in self.plan.steps}

    @property
    def last_cluster(self) -> str | None:
        """The cluster that has the last job of the run; None if there is none yet."""
        return next((entry.attempts[-1].cluster for entry in reversed(self.record.steps)
                     if entry.attempts), None)

    def submit(self, script: JobScript, following: JobScript | None) -> None:
        """Submit a script. following: the next one, which is prepared, and perhaps begun,
        meanwhile.
        """
        step = script.step
        if script.count > 1 and script.number == 0:
            self.progress.note(f"{step.name}: {step.tasks:,} tasks in {script.count} arrays")
        # between sbatch and the record a Ctrl-C would leave a job that nobody knows
        with self.interrupts.hold():
            if not script.noted:
                self._prepare(script)
                self._note(_submit(self, script, following), script)
        self.progress.advance(1)

    def go_ahead(self, script: JobScript, following: JobScript | None) -> None:
        """While a script is being submitted, prepare the following one, and begin with it, too, if
        it does not need the job of the first one.
        """
        if following is None or self.overlapping:
            # of a few jobs with the last one: until then each folder would be synced several times
            self.syncing.start()
        if following is None or following.noted or following.path in self.failed:
            return
        if following.ahead is not None:  # called again: the first one takes long
            assert isinstance(self.scheduler, StartsAhead)
            if self.scheduler.has_answered(following.ahead.started):
                self.settle(following)
        elif following.part is None or len(following.part.elements) <= AHEAD:
            try:
                self._prepare(following)
            except Exception as error:  # raised when its turn has come
                self.failed[following.path] = error
            else:
                needs = (following.step.name, *following.step.needs)
                if self.overlapping and script.step.name not in needs \
                        and self.last_cluster is not None:  # Slurm chooses one for the whole run
                    self._start(script, following)

    def enter(self, job: JobId, script: JobScript, following: JobScript | None) -> None:
        """Enter a job into the record in memory, and begin with the following one, which may need
        it, before the files of the first one are put in order.
        """
        self.submitted.append(job)
        script.attempts = _attempts(job, script)
        for name, attempt in script.attempts.items():
            entry = records.step(self.record, name)
            # Slurm has lost its state and counts from 1 again
            if attempt.job in {each.job for each in entry.attempts}:
                markers.forget(self.plan.step_folder(name).markers, self.since)
            records.add_attempt(entry, attempt, first=script.number == 0)
        if following is not None and following.pickles and following.ahead is None \
                and not self.interrupts.came:
            self._start(script, following)

    def _start(self, script: JobScript, following: JobScript) -> None:
        """Begin to submit the following script, if it can be told apart in the queue."""
        if script.part is None or following.part is None \
                or not isinstance(self.scheduler, StartsAhead):
            return
        with contextlib.suppress(Exception):  # raised when its turn has come
            submission_lock.check(self.plan.workspace, self.plan.run)
            request = _request(self, following, None)
            following.ahead = replace(request, started=self.scheduler.start(request))

    def settle(self, script: JobScript | None) -> None:
        """Wait for the outcome of a script that was begun before its turn."""
        if script is None or script.ahead is None:
            return
        # without pauses that Ctrl-C ends: the caller may be about to withdraw all jobs
        request = replace(script.ahead, give_up_s=0, pause=time.sleep)
        script.ahead = None
        try:
            self._note(self.scheduler.submit(request), script)
        except (QueueFullError, DependencyGoneError):
            pass  # tried again when its turn has come
        except NotReachedError:
            script.doubtful = True
        except Exception as error:  # raised when its turn has come
            self.failed[script.path] = error

    def _prepare(self, script: JobScript) -> None:
        """Write what the jobs of a script look for, unless that has been done."""
        if script.path in self.failed:
            raise self.failed[script.path]
        if script.pickles:
            return
        for name in script.steps:
            if name not in self._written:
                self._written.add(name)
                self.write_step(self._planned[name])
        if script.part is None:
            write_text(script.path, script.text, durable=False)
        script.calls = calls_of(self.plan, script)
        script.pickles = pickled_calls.write(script.step, script.calls,
                                             script.step.requeue_limits.time)

    def _note(self, job: JobId, script: JobScript) -> None:
        """Put what was submitted on record: after this, a kill loses nothing."""
        if not script.attempts:  # by a scheduler that does not report it earlier
            self.enter(job, script, None)
        script.pickles = ()
        # the first ones of this submission of the step
        records.note_attempts(self.plan.workspace, self.plan.run, script.attempts,
                              first=script.number == 0)
        script.noted = True


def submit_steps(now: Submission) -> dict[str, str]:
    """Submit the steps that have a script, in this order, and keep the record up to date; if
    ``last_job.submit_job`` follows, that writes it.

    A refusal or an interruption withdraws everything that was submitted here. A step that fails in
    the meantime does not: the steps that need it are left out.

    Parameters
    ----------
    now
        What is to be submitted.

    Returns
    -------
    dict of str to str
        The steps that were left out, and why.

    Raises
    ------
    L3hpcError
        If a job is refused, or another command cancels the run; the state of what was submitted is
        in the message.
    """
    plan, record, progress = now.plan, now.record, now.progress
    todo = now.rendered.in_turn
    now.overlapping = len(todo) >= MANY
    left_out: dict[str, str] = {}
    progress.start("submitting", len(todo), "jobs")
    try:
        for script, following in zip(todo, [*todo[1:], None], strict=False):
            if script.step.name in left_out:
                continue
            try:
                now.submit(script, following)
            except ParentFailedError as error:
                left_out |= dict.fromkeys(script.steps, error.message)
        if left_out and not now.submitted:
            script = next(script for script in todo if script.step.name in left_out)
            raise InputError(left_out[script.step.name],
                             hint=f"Finish that first: {command_line('resume', plan.run)}")
        record.state, record.note = RunState.SUBMITTED, ""
        # otherwise it is written while the job that follows is being submitted; until then the
        # noted attempts say the same
        if not last_job.follows(plan.workspace, record):
            records.write(plan.workspace, record, syncing=now.syncing)
    except L3hpcError as error:
        with now.interrupts.hold():
            unknown = _settle_all(now, todo, error)
            raise _refusal(now, [script.step.name, *unknown], error) from None
    except BaseException as error:
        with now.interrupts.hold():
            _settle_all(now, todo, error)
            kept = _withdraw(now, error)
        if kept and isinstance(error, KeyboardInterrupt):
            raise GivenUpError("interrupted while submitting", allowed=kept) from None
        raise
    finally:
        for script in todo:
            for pickle in script.pickles:
                pickle.unlink(missing_ok=True)
        progress.finish()
    return left_out


def _settle_all(now: Submission, scripts: Sequence[JobScript], error: BaseException) -> list[str]:
    """Learn of every job before any is withdrawn. Where the user does not wait any more, return the
    steps of which it is not known.
    """
    unknown = []
    for script in scripts:
        if script.ahead is None:
            continue
        assert isinstance(now.scheduler, StartsAhead)
        if isinstance(error, GivenUpError) and now.scheduler.give_up(script.ahead.started):
            script.ahead = None
            unknown.append(script.step.name)
            continue
        now.settle(script)
        if (failure := now.failed.get(script.path)) is not None:
            now.progress.note(f"{script.step.name}: {getattr(failure, 'message', failure)}")
    return unknown


def _refusal(now: Submission, steps: Sequence[str], error: L3hpcError) -> L3hpcError:
    """The error for the user, once what was submitted has been withdrawn, if that is possible.
    steps: the one of the error, and others of which it is not known whether they were submitted.
    """
    refusal = error.replaced(f"{steps[0]}: {error.message}")
    if isinstance(error, (OutcomeUnknownError, GivenUpError)) \
            or isinstance(error, NotReachedError) and now.submitted:
        _keep(now, steps, refusal)
        return refusal
    submitted = _submitted(now)
    kept = _withdraw(now, refusal)
    if isinstance(error, ClusterError):
        refusal.allowed = kept or refusal.allowed or (
            f"submitted, then cancelled: {submitted}" if submitted else "nothing was submitted")
    return refusal


def _submitted(now: Submission) -> str:
    """The jobs of this submission, for messages: ``extract 12, sample 13``."""
    jobs = [f"{entry.name} {attempt.job}" for entry in now.record.steps
            for attempt in entry.attempts if attempt.time >= now.since]
    return ", ".join(jobs[:8]) + (f" and {len(jobs) - 8} more" if len(jobs) > 8 else "")


def _request(now: Submission, script: JobScript, following: JobScript | None, refusals: int = 0
             ) -> JobRequest:
    """What the scheduler is asked for a script. following: the next one, if that may go ahead."""
    plan, step = now.plan, script.step

    def pause(seconds: float) -> None:
        # which may take hours: its job would wait for its call in vain, and be on no record
        now.settle(following)
        now.syncing.start()
        with now.interrupts.let_through():
            submission_lock.pause(plan.workspace, plan.run, seconds)

    def waiting(lookup: Callable[[], str]) -> contextlib.AbstractContextManager[None]:
        return now.interrupts.notice(lambda: now.progress.note(
            f"{step.name}: interrupted; waiting for Slurm, because the job may have been "
            "submitted already. Ctrl-C again gives up"), lambda: GivenUpError(
                "interrupted before Slurm had answered",
                hint=f"See whether the job exists: {lookup()}"))

    # those of a job that was begun are not determined again, which may fail
    needed = script.ahead or now.dependencies.of(
        step, [task for call in script.calls for task in call.tasks])
    return JobRequest(
        script.path, plan.run, step, script.calls, needed.after_ok, needed.after_any,
        cluster=plan.profile.slurm_clusters or now.record.clusters,
        last_cluster=now.last_cluster, refusals=refusals, pause=pause, pickles=script.pickles,
        meanwhile=lambda: now.go_ahead(script, following), waiting=waiting,
        submitted=lambda job: now.enter(job, script, following), doubtful=script.doubtful,
        started=script.ahead.started if script.ahead else None,
        recorded=lambda: _recorded_jobs(records.read(plan.workspace, plan.run)),
        notify=lambda text: now.progress.note(f"{step.name}: {text}"))


def _submit(now: Submission, script: JobScript, following: JobScript | None) -> JobId:
    """Submit one script; wait while the queue is full.

    There is no time limit: jobs of this very run may have to end first, which takes as long as they
    run. (``sbatch`` itself retries while the controller is busy.)
    """
    refusals = gone = 0
    last_message = ""
    while True:
        submission_lock.check(now.plan.workspace, now.plan.run)
        request = _request(now, script, following, refusals)
        script.ahead = None
        try:
            return now.scheduler.submit(request)
        except QueueFullError as error:
            if last_message != error.message:
                last_message = error.message
                now.progress.note(f"{script.step.name}: {last_message}; trying again until there "
                                  "is room")
            request.pause(LIMIT_S[min(refusals, len(LIMIT_S) - 1)])
            refusals += 1
        except DependencyGoneError:
            if gone >= len(DEPENDENCY_S):
                raise
            now.dependencies.invalidate()
            request.pause(DEPENDENCY_S[gone])
            gone += 1


def _recorded_jobs(record: RunRecord) -> set[str]:
    """Base ids of all jobs in a record."""
    return {attempt.base for step in record.steps for attempt in step.attempts}


def _attempts(job: JobId, script: JobScript) -> dict[str, Attempt]:
    """What the record keeps of a submission, by step."""
    now, path, part = time.time(), str(script.path), script.part
    if part is None:
        return {name: Attempt(f"{job.id}_{index}", array=False, tasks=[0], time=now, script=path,
                              cluster=job.cluster) for index, name in enumerate(script.steps)}
    return {script.step.name: Attempt(
        job.id, array=scripts.is_array(script.step), tasks=list(part.tasks), time=now,
        script=path, offset=part.offset, cluster=job.cluster, pack=part.pack)}


def _keep(now: Submission, steps: Sequence[str], error: L3hpcError) -> None:
    """Slurm is out of reach, so nothing can be withdrawn: what was submitted stays, and the record
    keeps how far the submission came.
    """
    plan, record = now.plan, now.record
    submitted = _submitted(now)
    unknown = isinstance(error, (OutcomeUnknownError, GivenUpError))
    error.allowed = (f"submitted: {submitted}; " if submitted else "") + (
        f"whether {' and '.join(steps)} {in_number('[was|were]', len(steps))} submitted is not "
        "known" if unknown else f"{steps[0]} was not submitted")
    error.hint = Lines(
        error.hint if isinstance(error, GivenUpError) else None,
        f"When Slurm responds again: {command_line('resume', plan.run)} looks for it and "
        f"continues, {command_line('cancel', plan.run)} cancels the run")
    record.note = error.message
    records.write(plan.workspace, record)


def _withdraw(now: Submission, error: BaseException) -> str:
    """Cancel what was submitted, the last job first, and note it in the record. Return what may be
    left ('' for nothing).
    """
    plan, record, jobs = now.plan, now.record, now.submitted
    # Ctrl-C and a cancellation are not refusals
    refused = isinstance(error, Exception) and not isinstance(error, submission_lock.Stopped)
    if jobs and isinstance(error, KeyboardInterrupt):
        now.progress.note(f"interrupted: cancelling {', '.join(job.id for job in jobs)}. Ctrl-C "
                          "again does not wait for it")
    try:
        with now.interrupts.notice(None, lambda: cancelling_given_up(jobs, plan.run)):
            now.scheduler.cancel(jobs[::-1], plan.run)
    except (ClusterError, GivenUpError) as second:
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
    if now.before:
        record.state = now.before
    else:
        record.state = RunState.REFUSED if refused else RunState.CANCELLED
        record.note = getattr(error, "message", str(error)) if refused else \
            "interrupted while submitting"
    records.write(plan.workspace, record)
    return ""
