"""The submission lock of a run: one submission or resumption at a time.

A submission may wait for hours at a queue limit. Meanwhile another shell can see that it is under
way, cannot submit the same jobs, and can ask it to stop.
"""

from __future__ import annotations

import time
from pathlib import Path

from l3hpc.errors import EXIT_INTERRUPTED, ClusterError, InputError, L3hpcError, command_line
from l3hpc.workspace import records, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.markers import RunState
from l3hpc.workspace.records import RunRecord

STOP_S = 150.0  # an sbatch that hangs is given up after two minutes
LOOK_S = 0.5


class Stopped(L3hpcError):
    """Another command cancelled what is being submitted."""

    exit_code = EXIT_INTERRUPTED


def acquire(workspace: Path, run: str, label: str) -> Lease:
    """Take the submission lock of a run; whoever takes it releases it.

    Parameters
    ----------
    label : str
        ``submit`` or ``resume``, for the message that others get.

    Raises
    ------
    InputError
        While another command holds it, or where the run belongs to somebody else.
    """
    sharing.check_own(workspace, run)
    mine = _lock(workspace, run, label)
    if not mine.acquire():
        raise InputError(f"the jobs of {run} are being submitted by {_who(mine)} right now",
                         hint=f"See: {command_line('status', run)}. If that process was killed on "
                              f"another machine: {command_line('cancel', run)}, or try again in "
                              "15 minutes")
    # a request that a cancel left when it was killed
    _request(workspace, run).unlink(missing_ok=True)
    return mine


def interrupted(workspace: Path, record: RunRecord) -> bool:
    """True for a run whose submission began and did not end, and that nobody submits any more."""
    if record.state is not RunState.SUBMITTING or \
            _lock(workspace, record.run).holder() is not None:
        return False
    # it may have ended well since the record was read
    return records.read(workspace, record.run).state is RunState.SUBMITTING


def stop(workspace: Path, run: str, *, wait_s: float = STOP_S) -> None:
    """Ask whoever submits jobs of the run to cancel them again, and wait until that is done.

    Does nothing where no submission is under way.

    Raises
    ------
    ClusterError
        Where the submission does not stop within ``wait_s`` seconds.
    """
    sharing.check_own(workspace, run)
    owner, request = _lock(workspace, run), _request(workspace, run)
    if owner.holder() is None:
        return
    request.touch()
    end = time.monotonic() + wait_s
    try:
        while owner.holder() is not None:
            if time.monotonic() > end:
                raise ClusterError(f"the jobs of {run} are still being submitted by {_who(owner)}",
                                   hint=f"End that process, then: {command_line('cancel', run)}")
            time.sleep(LOOK_S)
    finally:
        request.unlink(missing_ok=True)


def check(workspace: Path, run: str) -> None:
    """Raise ``Stopped`` where another command has called ``stop``."""
    if _request(workspace, run).exists():
        raise Stopped("cancelled by another command", hint=f"See: {command_line('status', run)}")


def pause(workspace: Path, run: str, seconds: float) -> None:
    """Wait, and raise ``Stopped`` as soon as another command asks for it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check(workspace, run)
        time.sleep(min(left, LOOK_S))


def _lock(workspace: Path, run: str, label: str = "") -> Lease:
    return Lease(Workspace(workspace).run(run).submission_lease, label)


def _who(owner: Lease) -> str:
    holder = owner.holder() or {}
    return (f"l3hpc {holder.get('label', '')} (process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')})")


def _request(workspace: Path, run: str) -> Path:
    return Workspace(workspace).run(run).stop_submission
