"""Cancelling a run: the whole chain, the last job first, and no job of any other run."""

from __future__ import annotations

from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.workflow import artifacts, claims, orphans, queue, records
from l3hpc.workflow.handover import cancel_jobs
from l3hpc.workflow.localstate import LocalJobs
from l3hpc.workflow.model import RunRecord


def cancel(workspace: Path, run: str) -> list[str]:
    """Cancel what still waits or runs of a run; return the ids that were asked to stop.

    What was finished stays usable. On Slurm one squeue finds the live jobs (after a crash another
    one those that were submitted in the moment before it), and one scancel stops them. A submission
    that is under way takes its jobs back itself.
    """
    claims.stop(workspace, run)
    record = records.read(workspace, run)
    if record.local:
        stopped = _cancel_local(workspace, record)
    else:
        stopped = _live_ids(workspace, record)
        cancel_jobs(stopped)
    if stopped or record.state == "submitting":
        record = records.read(workspace, run)
        if record.state != "refused":
            record.state, record.note = "cancelled", ""
            records.write(workspace, record)
    return stopped


def _live_ids(workspace: Path, record: RunRecord) -> list[str]:
    """Base ids of the run's jobs that live, the leaf first; all ids where squeue is silent."""
    known = [attempt["job"] for step in record.steps[::-1] for attempt in step.attempts[::-1]
             if len(artifacts.finished(Path(step.artifact))) < step.tasks]
    answer = queue.Answer()
    queue.ask_squeue([record.user], answer)
    if answer.squeue is False:
        if not known:
            raise ClusterError(answer.notes[0])
        return known
    ranks = {attempt["job"]: rank for rank, step in enumerate(record.steps[::-1])
             for attempt in step.attempts}
    alive = ({*answer.live} | {job.partition("_")[0] for job in answer.live}) & set(ranks)
    return orphans.find(workspace, record) + sorted(
        alive, key=lambda job: (ranks[job], *(-int(part) for part in job.split("_"))))


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
