"""Cancelling a run: the whole chain, the last job first, and no job of any other run."""

from __future__ import annotations

from pathlib import Path

from l3hpc.errors import ClusterError, command_line
from l3hpc.runs import submission_lock, untracked_jobs
from l3hpc.schedulers.slurm import identity, queue, sbatch
from l3hpc.schedulers.slurm.identity import JobId
from l3hpc.workspace import records
from l3hpc.workspace.local_jobs import LocalJobs
from l3hpc.workspace.records import RunRecord
from l3hpc.workspace.states import RunState


def cancel(workspace: Path, run: str) -> list[str]:
    """Cancel what still waits or runs of a run; return the ids that were asked to stop.

    What was finished stays usable. On Slurm one squeue finds the live jobs, also those whose ids
    never reached the record, and one scancel stops them. A submission that is under way takes its
    jobs back itself.
    """
    submission_lock.stop(workspace, run)
    record = records.read(workspace, run)
    if record.local:
        stopped = _cancel_local(workspace, record)
    else:
        jobs = _live_jobs(workspace, record)
        sbatch.cancel(jobs, run)
        stopped = [job.id for job in jobs]
    if stopped or record.state is RunState.SUBMITTING:
        record = records.read(workspace, run)
        if record.state is not RunState.REFUSED:
            record.state, record.note = RunState.CANCELLED, ""
            records.write(workspace, record)
    return stopped


def _live_jobs(workspace: Path, record: RunRecord) -> list[JobId]:
    """The run's jobs that live, the leaf first, and those that its record does not know. A
    ``ClusterError`` where squeue is silent: a number alone may be somebody else's job."""
    try:
        answer = queue.ask(record.user, identity.clusters(record))
    except ClusterError as error:
        raise ClusterError(
            error.message, hint=f"When Slurm answers: {command_line('cancel', record.run)}",
            allowed="nothing was cancelled: squeue has to show that the jobs are those of this run",
        ) from None
    found: list[tuple[int, list[int], JobId]] = []
    for rank, step in enumerate(record.steps[::-1]):
        ids = identity.of_step(workspace, record, step)
        live = answer.of(ids).live
        for job in {ids[task] for task in live}:
            found.append((rank, [-int(part) for part in job.id.split("_")], job))
    return [*untracked_jobs.find(workspace, record, answer),
            *(job for _, _, job in sorted(found, key=lambda each: each[:2]))]


def _cancel_local(workspace: Path, record: RunRecord) -> list[str]:
    local = LocalJobs(workspace, record.run)
    local.take_up(record)
    live = [name for name, job in local.jobs.items() if job["state"] in ("PENDING", "RUNNING")]
    if not live:
        return []
    local.ask_to_stop()  # also for a runner that is about to start
    if local.runner() is None:
        local.stop_orphans()
    return live[::-1]
