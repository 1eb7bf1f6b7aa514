"""Artifacts on disk: which tasks are finished, and whether an input is complete.

``<artifact>/config.json`` says how many tasks there are; ``<artifact>/<index:04d>/result.json``
says that one is finished (it is written last, before the folder's one rename).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import RESULT, is_owned_by_user, read_json, write_json
from l3hpc.io.values import check_mapping
from l3hpc.workspace.layout import ArtifactFolder


class Result(TypedDict):
    """What a reader takes from ``result.json``."""

    started: float
    finished: float
    index: NotRequired[int]
    elapsed_s: NotRequired[float]
    summary: NotRequired[Any]
    environment: NotRequired[dict[str, Any]]
    cpu_s: NotRequired[float]
    peak_memory_mb: NotRequired[float]


class Summary(TypedDict):
    """What ``summary.json`` holds."""

    text: str
    started: float
    finished: float


def task_folder(artifact: Path, index: int) -> Path:
    """Where a task's finished files are."""
    return ArtifactFolder(artifact).task(index)


def scratch_folder(artifact: Path, index: int) -> Path:
    """Where a task keeps what must survive a killed attempt."""
    return ArtifactFolder(artifact).scratch(index)


def own_scratch(artifact: Path, index: int) -> Path:
    """The scratch folder of a task that this person can write to.

    Where another member of the group has one already, the own user id is part of the name.
    """
    folder = scratch_folder(artifact, index)
    if folder.exists() and not is_owned_by_user(folder):
        return folder.with_name(f"{folder.name}-{os.geteuid()}")
    return folder


def is_done(artifact: Path | str, index: int) -> bool:
    """True when the task has its result."""
    return ArtifactFolder(artifact).has_result(index)


def finished(artifact: Path | str, tasks: int | None = None) -> set[int]:
    """Which tasks of an artifact are finished.

    Parameters
    ----------
    artifact : path
        Its folder; it need not exist.
    tasks : int, optional
        How many tasks there are, where that is known: a single one is found without listing the
        folder.

    Returns
    -------
    set of int
        Indices of the finished tasks.
    """
    if tasks == 1:
        return {0} if is_done(artifact, 0) else set()
    try:
        entries = os.listdir(artifact)
    except FileNotFoundError:
        return set()
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(artifact)))
        return set()
    return {int(name) for name in entries if name.isdecimal()
            and os.path.isfile(f"{artifact}/{name}/{RESULT}")}


def results(artifact: Path) -> list[dict[str, Any]]:
    """The ``result.json`` of every finished task in task order; damaged ones are left out."""
    values = []
    for index in sorted(finished(artifact)):
        path = ArtifactFolder(artifact).result(index)
        try:
            value = check_mapping(Result, read_json(path), "result")
        except InputError as error:
            report_damage(InputError(error.message, where=error.where or str(path)))
            continue
        values.append(value)
    return values


def discard(artifact: Path) -> None:
    """Remove all results and unfinished work of an artifact, so that it is computed again."""
    folder = ArtifactFolder(artifact)
    folder.summary.unlink(missing_ok=True)
    for index in finished(artifact):
        # one rename first: a reader must not take half a result for a whole one
        gone = artifact / f".{index:04d}.discarded.tmp"
        os.rename(task_folder(artifact, index), gone)
        shutil.rmtree(gone)
    shutil.rmtree(folder.work, ignore_errors=True)


def leave_summary(artifact: Path, tasks: int, summary: Callable[[list[Any]], str]) -> None:
    """Once all tasks are finished, write their one-line summary and times.

    ``status`` then reads one file per step, however many tasks there are.

    Parameters
    ----------
    tasks : int
        How many tasks the artifact has.
    summary : callable
        Makes one line of the summaries of all tasks.
    """
    if len(finished(artifact)) == tasks:
        found = results(artifact)
        # a damaged result has nothing to summarise
        if len(found) < tasks:
            return
        # another member of the group may have written it already
        with contextlib.suppress(PermissionError):
            write_json(ArtifactFolder(artifact).summary, {
                "text": summary([result["summary"] for result in found]),
                "started": min(result["started"] for result in found),
                "finished": max(result["finished"] for result in found)})


def summary(artifact: Path | str) -> dict[str, Any]:
    """The summary of a complete artifact.

    Returns
    -------
    dict
        ``text``, and ``started`` and ``finished`` in unix seconds; empty where there is none.
    """
    path = ArtifactFolder(artifact).summary_text
    try:
        return check_mapping(Summary, read_json(path), "summary")
    except FileNotFoundError:
        return {}
    except InputError as error:
        report_damage(InputError(error.message, where=error.where or path))
        return {}


def detail(artifact: Path) -> str:
    """The one-line summary of a complete artifact ('' where there is none)."""
    return str(summary(artifact).get("text", ""))


def check_input(name: str, folder: Path) -> None:
    """Check that the input of a step is there and complete.

    Raises
    ------
    InputError
        For a folder that is missing, or an artifact with unfinished tasks.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"input {name!r} does not exist: {folder}",
                         hint=f"Compute it first (step {name}), or name another folder.")
    frozen = ArtifactFolder(folder).config
    if not frozen.is_file():
        # not an artifact: the step itself checks what is in the files
        return
    config = read_json(frozen)
    if not isinstance(config, dict) or "shards" not in config:
        return
    total = len(config["shards"])
    missing = sorted(set(range(total)) - finished(folder))
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise InputError(
            f"input {name!r} is not complete: {len(missing)} of {total} tasks are missing "
            f"({shown})",
            where=str(folder), hint=f"Finish step {name!r} first: l3hpc status")
