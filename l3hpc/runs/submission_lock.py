"""Who hands over jobs of a run just now: one submission or resumption at a time.

A submission may wait for hours at a queue limit. Meanwhile another shell can see that it is
under way, cannot submit the same jobs, and can ask it to stop.
"""

from __future__ import annotations

import time
from pathlib import Path

from l3hpc.errors import EXIT_INTERRUPTED, ClusterError, InputError, L3hpcError, command_line
from l3hpc.workspace import records, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Owner
from l3hpc.workspace.records import RunRecord
from l3hpc.workspace.states import RunState

STOP_S = 150.0  # an sbatch that hangs is given up after two minutes
LOOK_S = 0.5


class Stopped(L3hpcError):
    """Another command cancelled what is being submitted."""

    exit_code = EXIT_INTERRUPTED


def claim(workspace: Path, run: str, label: str) -> Owner:
    """The right to hand over jobs of a run, or ``InputError`` while another command has it; to be
    released. label: ``submit`` or ``resume``."""
    sharing.check_own(workspace, run)
    mine = _claim(workspace, run, label)
    if not mine.acquire():
        raise InputError(f"the jobs of {run} are being handed over by {_who(mine)} just now",
                         hint=f"See: {command_line('status', run)}. If that process was killed on "
                              f"another machine: {command_line('cancel', run)}, or try again in "
                              "15 minutes")
    _asked(workspace, run).unlink(missing_ok=True)  # left by a cancel that was killed
    return mine


def interrupted(workspace: Path, record: RunRecord) -> bool:
    """True for a run whose submission began and did not end, and that nobody submits any more."""
    if record.state is not RunState.SUBMITTING or \
            _claim(workspace, record.run).holder() is not None:
        return False
    # it may have ended well since the record was read
    return records.read(workspace, record.run).state is RunState.SUBMITTING


def stop(workspace: Path, run: str, *, wait_s: float = STOP_S) -> None:
    """Ask whoever hands over jobs of the run to take them back, and wait until that is done (a
    no-op when nobody does). A ``ClusterError`` where it does not stop in time."""
    sharing.check_own(workspace, run)
    owner, asked = _claim(workspace, run), _asked(workspace, run)
    if owner.holder() is None:
        return
    asked.touch()
    end = time.monotonic() + wait_s
    try:
        while owner.holder() is not None:
            if time.monotonic() > end:
                raise ClusterError(f"the jobs of {run} are still handed over by {_who(owner)}",
                                   hint=f"End that process, then: {command_line('cancel', run)}")
            time.sleep(LOOK_S)
    finally:
        asked.unlink(missing_ok=True)


def check(workspace: Path, run: str) -> None:
    """Raise ``Stopped`` where ``stop`` asks for it."""
    if _asked(workspace, run).exists():
        raise Stopped("cancelled by another command", hint=f"See: {command_line('status', run)}")


def pause(workspace: Path, run: str, seconds: float) -> None:
    """Wait, looking now and then whether to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check(workspace, run)
        time.sleep(min(left, LOOK_S))


def _claim(workspace: Path, run: str, label: str = "") -> Owner:
    return Owner(Workspace(workspace).run(run).submission_lease, label)


def _who(owner: Owner) -> str:
    holder = owner.holder() or {}
    return (f"l3hpc {holder.get('label', '')} (process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')})")


def _asked(workspace: Path, run: str) -> Path:
    return Workspace(workspace).run(run).stop_submission
