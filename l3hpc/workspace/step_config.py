"""The frozen settings of a step, ``config.json``: in the folder of its run, and in its artifact.

Either copy replaces the other one after a power failure on a disk that confirms writes too early.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import open_regular, read_json, write_json
from l3hpc.io.values import check_mapping
from l3hpc.workspace.layout import ArtifactFolder, Workspace
from l3hpc.workspace.run_record import StepRecord


class _Frozen(TypedDict):
    """The part of ``config.json`` that another submission of the step needs."""

    params: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str
    shards: list[dict[str, Any]]
    labels: NotRequired[dict[str, Any]]


def read(workspace: Path, run: str, entry: StepRecord, command: Sequence[str]) -> dict[str, Any]:
    """Read the frozen settings of one step of a run.

    Settings that are missing or damaged (by a power failure on a disk that confirms writes too
    early) are restored from those of the artifact.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    entry
        The step in its record.
    command
        The command line of the submission, for the message.

    Returns
    -------
    dict
        What ``config.json`` holds.

    Raises
    ------
    InputError
        If they cannot be restored either; says what to type.
    """
    path = Workspace(workspace).run(run).step(entry.name).config
    try:
        return _whole(path)
    except (OSError, InputError) as error:
        if isinstance(error, InputError):
            report_damage(InputError(error.message, where=error.where or str(path)))
        with contextlib.suppress(OSError, InputError):
            artifact = ArtifactFolder(entry.artifact)
            kept = _whole(artifact.config)
            if kept["fingerprint"] == artifact.fingerprint:
                found = {**kept, "run": run, "name": entry.name}
                write_json(path, found)
                return found
    state = "empty or damaged" if path.exists() else "missing"
    raise InputError(f"the frozen settings of step {entry.name} are {state}", where=str(path),
                     hint="Submit the pipeline again; finished steps are reused: "
                          + shlex.join(["l3hpc", *command[1:]])) from None


def remove_damaged(artifact: Path) -> None:
    """Remove an artifact's config.json that a power failure emptied or truncated.

    The next run then leaves its own there.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    """
    path = ArtifactFolder(artifact).config
    with contextlib.suppress(OSError), open_regular(path) as stream:
        begun = stream.read(1) == b"{"
        stream.seek(max(os.fstat(stream.fileno()).st_size - 2, 0))
        # only the ends: a config of a large corpus is long, and a truncated write loses its end
        if not begun or stream.read(2) != b"}\n":
            path.unlink()


def _whole(path: Path) -> dict[str, Any]:
    value = check_mapping(_Frozen, read_json(path), "config")
    return {**value, "labels": value.get("labels", {}), "version": value.get("version")}
