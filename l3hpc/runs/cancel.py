"""Cancelling a run: the whole chain, the last job first, and no job of any other run."""

from __future__ import annotations

from pathlib import Path

from l3hpc import schedulers
from l3hpc.runs import submission_lock
from l3hpc.workspace import records
from l3hpc.workspace.states import RunState


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
