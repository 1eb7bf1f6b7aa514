"""Resuming a run according to its ``resume_plan``, and cancelling one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config.profile import ClusterProfile
from l3hpc.console.progress import Progress
from l3hpc.io.values import count_of
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import job_scripts, last_job, pack, run_folder, submission_lock, submit, submit_jobs
from l3hpc.runs.job_scripts import RunScripts
from l3hpc.runs.resume_plan import ResumePlan, given_up, plan_resume
from l3hpc.schedulers import scripts
from l3hpc.schedulers.jobs import list_jobs
from l3hpc.workspace import artifacts, markers, records, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState


def resume(
    workspace: Path, run: str, profile: ClusterProfile, *, sets: Sequence[str] = (),
    only: Sequence[str] = (), again: str = "", detach: bool = False,
    progress: Progress | None = None, on_planned: Callable[[ResumePlan], None] | None = None,
    on_submitted: Callable[[RunRecord, list[str]], None] | None = None,
) -> RunRecord:
    """Submit again what is missing of a run and not live.

    Of two resumptions at the same time only one submits: the other finds its jobs live.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    profile
        Its cluster profile.
    sets
        ``STEP.mem=160GB`` and the like. Only resources: with another parameter it is another run.
    only
        Names of steps: only these and the steps that depend on them.
    again
        Name of a step: it and the steps that depend on it are computed again, even if they are
        finished.
    detach
        On ``local``: run the jobs in the background.
    progress
        Receives the progress and notes.
    on_planned
        Called with what will be done before any of it is; may raise to stop.
    on_submitted
        Called with the record and the names of the submitted steps.

    Returns
    -------
    RunRecord
        The record of the run.

    Raises
    ------
    InputError
        If the request is not possible.
    ClusterError
        If the cluster refuses a job, or does not respond.
    L3hpcError
        If steps were left out: those announced, and those that need a step that failed meanwhile.
    """
    progress = progress or Progress()
    # the plan is made under the lock: otherwise two resumptions would submit the same tasks
    with submission_lock.acquire(workspace, run, "resume"), run_folder.umask(profile):
        todo = plan_resume(workspace, run, profile, sets, only=only, again=again, progress=progress)
        rendered = job_scripts.render(todo.plan, todo.steps, todo.live)
        if on_planned is not None:
            on_planned(todo)
        if todo.is_needed and (files := pack.unpack_locked(Workspace(workspace).run(run))):
            progress.note(f"unpacked {count_of(files, 'file')}")
        record = records.read(workspace, run)
        left_out = _carry_out(todo, rendered, record, progress)
    submitted = [step.name for step in todo.steps if step.name not in left_out]
    if on_submitted is not None and todo.is_needed:
        on_submitted(record, submitted)
    if record.capabilities.runner and submitted:
        with run_folder.umask(profile):
            submit.run_local(workspace, run, detach=detach)
        record = records.read(workspace, run)
    submit.raise_if_incomplete(run, todo.left_out | left_out)
    return record


def _carry_out(todo: ResumePlan, rendered: RunScripts, record: RunRecord, progress: Progress
               ) -> dict[str, str]:
    """Do what was announced; return the steps that were left out, and why."""
    workspace = todo.plan.workspace
    scheduler = schedulers.of_record(workspace, record)
    doomed = [*todo.untracked, *todo.stale]
    left, released = [job.id for job in doomed], list[str]()

    def done() -> str:
        parts = {"may still be in the queue": left, "released": released}
        return "; ".join(f"{what}: {list_jobs(ids)}" for what, ids in parts.items() if ids)

    with given_up(record.run, "interrupted before all jobs were cancelled and released", done):
        # first, so that the new jobs do not compete with jobs that can never find their tasks
        scheduler.cancel(doomed, record.run)
        left.clear()
        if todo.held and record.state is RunState.CANCELLED:
            # an attempt of a cancelled run computes nothing, and may start at once
            record.state = RunState.SUBMITTED
            records.write(workspace, record)
        for job, changes in todo.held.items():
            scheduler.release(job, changes)
            released.append(job.id)
    for name in todo.taken_over:  # as if this run had been submitted after the others
        records.step(record, name).state = StepState.REUSED
    if not todo.steps:
        # its submission was killed after the last job, or others computed what was cancelled
        if record.state is RunState.SUBMITTING or todo.finished and todo.taken_over:
            record.state = RunState.SUBMITTED
            records.write(workspace, record)
        elif todo.taken_over:
            records.write(workspace, record)
        if not todo.finished and record.state is RunState.SUBMITTED:
            last_job.recover_job(workspace, record, progress)
        return {}
    _discard(todo, progress)
    for step in todo.steps:
        _note_requeues(todo.plan, step, records.step(record, step.name))
    before, since = _mark_submitting(workspace, record), time.time()
    with run_folder.durable(progress) as syncing:

        def write_step(step: PlannedStep) -> None:
            _write_step(todo.plan, step, rendered.texts[step.name])
            syncing.add([todo.plan.step_folder(step.name).requeue_policy])

        left_out = submit_jobs.submit_steps(submit_jobs.Submission(
            todo.plan, rendered, record, progress, write_step, syncing, before=before))
        last_job.submit_job(workspace, record, progress, since, syncing)
    return left_out


def _discard(todo: ResumePlan, progress: Progress) -> None:
    """Discard the results of the steps to compute again; the user has confirmed it, in on_planned.
    """
    gone: list[str] = []

    def done() -> str:
        return f"discarded: {', '.join(gone)}" if gone else "nothing was discarded"

    if not todo.recompute:
        return
    with given_up(todo.plan.run, "interrupted before all results were discarded", done, "--from",
                  todo.recompute[0].name):
        for entry in todo.recompute:
            with progress.doing(f"discarding the results of {entry.name}"):
                gone.append(f"{entry.name} (not all of its tasks)")
                artifacts.discard(Path(entry.artifact))
                gone[-1] = entry.name


def _mark_submitting(workspace: Path, record: RunRecord) -> RunState | None:
    """Put the record into the state ``submitting``, so that a kill from here on is noticed and its
    jobs are found; return the state to which a refusal resets it, if there is one.
    """
    before: RunState | None = record.state
    if before is RunState.SUBMITTING:  # a submission that was killed
        before = RunState.SUBMITTED if any(step.attempts for step in record.steps) else None
    record.state, record.note = RunState.SUBMITTING, ""
    records.write(workspace, record)
    return before


def _note_requeues(plan: Plan, step: PlannedStep, entry: StepRecord) -> None:
    """Put the requeues of the last attempt on record, and what the next one requests."""
    entry.resources = step.resources.to_json()
    marks = markers.read(plan.step_folder(step.name).markers)
    requeues = {str(index): marks[index].requeues for index in step.missing
                if index in marks and marks[index].requeues}
    if requeues and entry.attempts:
        entry.attempts[-1].requeues = requeues


def _write_step(plan: Plan, step: PlannedStep, texts: Sequence[tuple[scripts.Part, str]]) -> None:
    """Write the scripts and the policy of a new attempt, without the requeues of the last one."""
    run_folder.write_step(plan, step, texts, again=True)
    folder = plan.step_folder(step.name)
    for index in step.missing:
        for name in ("requeues.json", "gave_up.json"):
            markers.path(folder.markers, index, name).unlink(missing_ok=True)


def cancel(workspace: Path, run: str) -> list[str]:
    """Cancel all pending and running jobs of a run.

    Finished artifacts stay usable. Jobs whose ids never reached the record are cancelled too. A
    submission that is in progress cancels its jobs itself.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.

    Returns
    -------
    list of str
        Ids of the jobs that were cancelled.

    Raises
    ------
    ClusterError
        If the scheduler does not respond, or a submission does not stop.
    """
    with sharing.same_readers(Workspace(workspace).run(run).path):
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
