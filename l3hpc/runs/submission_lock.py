"""The submission lock of a run: one submission or resumption at a time.

A submission may wait for hours while the queue is full. Meanwhile another shell can see that it is
in progress, cannot submit the same jobs, and can request that it stops.

A submission that was killed before it wrote the record of its run leaves a folder without one
(``unsubmitted``): no job of it exists, because jobs are submitted after that.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l3hpc.errors import EXIT_INTERRUPTED, ClusterError, InputError, L3hpcError, command_line
from l3hpc.io.syncing import exists_now
from l3hpc.workspace import records, run_names, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.run_record import RunRecord
from l3hpc.workspace.states import RunState

STOP_S = 150.0  # an sbatch that hangs is killed after two minutes
POLL_S = 0.5
NEW_S = 10.0  # an empty folder so young belongs to a submission that is about to take its lock


class Stopped(L3hpcError):
    """Another command cancelled the run while its jobs were being submitted."""

    exit_code = EXIT_INTERRUPTED


def acquire(workspace: Path, run: str, label: str) -> Lease:
    """Take the submission lock of a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    label
        ``submit`` or ``resume``, for the message to others.

    Returns
    -------
    Lease
        The caller releases it.

    Raises
    ------
    InputError
        If another command holds it, or the run belongs to another user.
    """
    sharing.check_own(workspace, run)
    lease = _lock(workspace, run, label)
    while not lease.acquire():
        # nobody: whoever had it has released it just now
        if (holder := lease.holder()) is not None:
            raise InputError(f"the jobs of {run} are being submitted by {_text(holder)}",
                             hint=f"See: {command_line('status', run)}. If that process was killed "
                                  f"on another machine: {command_line('cancel', run)}, or try "
                                  "again in 15 minutes")
        time.sleep(POLL_S / 10)
    # left by a cancel that was killed
    _request(workspace, run).unlink(missing_ok=True)
    return lease


@dataclass(frozen=True)
class Unsubmitted:
    """A run whose submission was killed before its record was written.

    Attributes
    ----------
    run, folder : str
        Its name and its folder.
    started : float
        When it was submitted, unix seconds.
    next : str
        The command that removes the folder.
    empty : bool
        Whether the folder is empty: it may have been made by hand.
    """

    run: str
    folder: str
    started: float
    next: str
    empty: bool = False


def unsubmitted(workspace: Path, broken: list[InputError]) -> list[Unsubmitted]:
    """Find the runs whose submission was killed before their record was written.

    Parameters
    ----------
    workspace
        The workspace folder.
    broken
        Receives an error for each run of which jobs have started: its record has been lost.
    """
    found = []
    for run in run_names.names_without_record(workspace):
        folder = Workspace(workspace).run(run)
        try:
            started = os.stat(folder).st_mtime
            is_empty = not os.listdir(folder)
            is_new = is_empty and time.time() - started < NEW_S
        except FileNotFoundError:  # removed meanwhile
            continue
        if is_new or _lock(workspace, run).holder() is not None or folder.record.exists():
            continue
        if _has_jobs(workspace, run):
            broken.append(_lost(workspace, run))
        elif not _holds_more(workspace, run):
            found.append(Unsubmitted(run, str(folder), started, command_line("cancel", run),
                                     is_empty))
    return found


def take_over(workspace: Path, run: str) -> Lease | None:
    """Empty the folder of a run whose submission was killed before its record was written.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.

    Returns
    -------
    Lease or None
        The submission lock of the run, which the caller releases. None if the run exists, or the
        folder holds anything that no submission has written.

    Raises
    ------
    InputError
        If another command is submitting it, or the record of a run with jobs has been lost.
    """
    if run not in run_names.names_without_record(workspace):
        return None
    if _has_jobs(workspace, run):
        raise _lost(workspace, run)
    if _holds_more(workspace, run):
        return None
    lease = acquire(workspace, run, "submit")
    folder = Workspace(workspace).run(run)
    if folder.record.exists():  # by a submission that has just ended
        lease.release(forget=True)
        return None
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif not entry.name.startswith(f"{folder.submission_lease.name}."):
            os.unlink(entry.path)
    return lease


def discard(workspace: Path, run: str) -> bool:
    """Remove the folder of a run whose submission was killed before its record was written.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.

    Returns
    -------
    bool
        False if the run exists, or there is no such folder.

    Raises
    ------
    InputError
        As for ``take_over``.
    """
    lease = take_over(workspace, run)
    if lease is None:
        return False
    lease.release(forget=True)
    try:
        os.rmdir(Workspace(workspace).run(run))
    except OSError as error:
        # another command has removed it, or submits a run of this name
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise
    return True


def _has_jobs(workspace: Path, run: str) -> bool:
    """Whether jobs of a run have been submitted, or have left something in its folder."""
    folder = Workspace(workspace).run(run)
    if folder.attempts.exists() or folder.packed.exists():
        return True
    return any(_names(part) for name in _names(folder.steps)
               for part in (folder.step(name).markers, folder.step(name).logs))


def _names(folder: Path) -> list[str]:
    """Names in a folder; none if it does not exist, or another command has just removed it."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _holds_more(workspace: Path, run: str) -> bool:
    """Whether somebody has put something of their own into a folder among the runs: it stays."""
    folder = Workspace(Path(glob.escape(str(workspace)))).run(glob.escape(run))
    step = folder.step("*")
    links = (folder.artifact("*"),)
    folders = (folder.steps, folder.artifacts, step.path, step.logs, step.markers)
    files = (folder.settings, folder.sync_script, folder.notified, folder.stop_submission,
             folder.path / ".*.tmp",
             f"{folder.submission_lease}.owner.*", step.config, step.requeue_policy,
             step.path / "*.sbatch", step.path / ".*.tmp")
    for place, inner, others in os.walk(Workspace(workspace).run(run)):
        for path in (Path(place, name) for name in (*inner, *others)):
            written = links if path.is_symlink() else folders if path.is_dir() else files
            if not any(path.match(str(pattern)) for pattern in written):
                return True
    return False


def _lost(workspace: Path, run: str) -> InputError:
    return InputError("is missing, and jobs of this run have been submitted",
                      where=str(Workspace(workspace).run(run).record),
                      hint=f"Restore it from a backup; or cancel what squeue lists as l3-{run}-…, "
                           "remove the folder and submit again: finished steps are reused.")


def interrupted(workspace: Path, record: RunRecord) -> bool:
    """Whether the submission of a run began and did not end, and no process is at it any more.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    """
    if record.state is not RunState.SUBMITTING or \
            _lock(workspace, record.run).holder() is not None:
        return False
    # it may have been completed since the record was read
    return records.read(workspace, record.run).state is RunState.SUBMITTING


def stop(workspace: Path, run: str, *, wait_s: float = STOP_S) -> None:
    """Request that the process that submits jobs of a run cancels them, and wait for that.

    Does nothing if no submission is in progress.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    wait_s
        How long to wait, seconds.

    Raises
    ------
    ClusterError
        If the submission does not stop in time.
    InputError
        If the run belongs to another user.
    """
    sharing.check_own(workspace, run)
    lease, request = _lock(workspace, run), _request(workspace, run)
    if lease.holder() is None:
        return
    request.touch()
    end = time.monotonic() + wait_s
    try:
        while (holder := lease.holder()) is not None:
            if time.monotonic() > end:
                raise ClusterError(
                    f"the jobs of {run} are still being submitted by {_text(holder)}",
                    hint=f"End that process, then: {command_line('cancel', run)}")
            time.sleep(POLL_S)
    finally:
        request.unlink(missing_ok=True)


def check(workspace: Path, run: str) -> None:
    """Check that no other command has called ``stop``.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.

    Raises
    ------
    Stopped
        If one has.
    """
    if exists_now(_request(workspace, run)):
        raise Stopped("cancelled by another command", hint=f"See: {command_line('status', run)}")


def pause(workspace: Path, run: str, seconds: float) -> None:
    """Wait, until another command calls ``stop`` at the latest.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    seconds
        How long to wait.

    Raises
    ------
    Stopped
        If another command calls ``stop``.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check(workspace, run)
        time.sleep(min(left, POLL_S))


def _lock(workspace: Path, run: str, label: str = "") -> Lease:
    return Lease(Workspace(workspace).run(run).submission_lease, label, forget=True)


def _text(holder: Mapping[str, Any]) -> str:
    return (f"l3hpc {holder.get('label', '')} (process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')})")


def _request(workspace: Path, run: str) -> Path:
    return Workspace(workspace).run(run).stop_submission
