"""Artifacts on disk: which tasks are finished, their results, and whether an input is complete.

``<artifact>/config.json`` lists the tasks; ``<artifact>/<index:04d>/result.json`` marks a task as
finished (it is the last file written before the folder is renamed into place).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, command_line, report_damage
from l3hpc.io.files import RESULT, read_json, write_json
from l3hpc.io.owners import is_owned_by_user
from l3hpc.io.syncing import exists_now
from l3hpc.io.values import check_mapping
from l3hpc.workspace.layout import ArtifactFolder


class Result(TypedDict):
    """The fields of ``result.json`` that l3hpc reads.

    Attributes
    ----------
    started, finished : float
        Unix seconds.
    index : int
        Index of the task.
    elapsed_s, cpu_s : float
        Wall-clock and CPU seconds.
    summary : object
        What the step reports of the task.
    environment : dict
        Host, job and versions.
    peak_memory_mb : float
        Largest resident memory, MiB.
    run : str
        The run that computed it.
    """

    started: float
    finished: float
    index: NotRequired[int]
    elapsed_s: NotRequired[float]
    summary: NotRequired[Any]
    environment: NotRequired[dict[str, Any]]
    cpu_s: NotRequired[float]
    peak_memory_mb: NotRequired[float]
    run: NotRequired[str]


class Summary(TypedDict):
    """What ``summary.json`` holds.

    Attributes
    ----------
    text : str
        The summaries of all tasks in one line.
    started, finished : float
        Of the first and of the last task, unix seconds.
    runs : list of str
        The runs that computed the tasks.
    """

    text: str
    started: float
    finished: float
    runs: NotRequired[list[str]]


def task_folder(artifact: Path, index: int) -> Path:
    """Return the folder of a task's finished files.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    index
        Index of the task.
    """
    return ArtifactFolder(artifact).task(index)


def scratch_folder(artifact: Path, index: int) -> Path:
    """Return the folder in which a task keeps what has to survive a killed attempt.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    index
        Index of the task.
    """
    return ArtifactFolder(artifact).scratch(index)


def own_scratch(artifact: Path, index: int) -> Path:
    """Return the scratch folder of a task that the current user can write to.

    If another member of the group has one already, the user id becomes part of the name.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    index
        Index of the task.
    """
    folder = scratch_folder(artifact, index)
    if folder.exists() and not is_owned_by_user(folder):
        return folder.with_name(f"{folder.name}-{os.geteuid()}")
    return folder


def is_done(artifact: Path | str, index: int) -> bool:
    """Whether a task has its result, also if another machine has just written it.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    index
        Index of the task.
    """
    folder = ArtifactFolder(artifact)
    # the result is there before its folder gets this name
    return exists_now(folder.task(index)) and folder.has_result(index)


def finished(artifact: Path | str, tasks: int | None = None) -> set[int]:
    """Find the finished tasks of an artifact.

    Parameters
    ----------
    artifact
        Folder of the artifact; it need not exist.
    tasks
        Number of tasks, if known: a single task is found without listing the folder.

    Returns
    -------
    set of int
        Indices of the finished tasks. A folder that cannot be read is noted as damage.
    """
    # most artifacts have one task, and a stat is much cheaper than a listing on a network disk
    if tasks == 1:
        return {0} if ArtifactFolder(artifact).has_result(0) else set()
    try:
        entries = os.listdir(artifact)
    except FileNotFoundError:
        return set()
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(artifact)))
        return set()
    return {int(name) for name in entries if name.isdecimal()
            and os.path.isfile(f"{artifact}/{name}/{RESULT}")}


def results(artifact: Path | str) -> list[dict[str, Any]]:
    """Read the results of all finished tasks.

    Parameters
    ----------
    artifact
        Folder of the artifact.

    Returns
    -------
    list of dict
        The contents of each ``result.json``, by task index. Damaged ones are left out and noted.
    """
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
    """Remove all results and unfinished work of an artifact, so that it is computed again.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    """
    folder = ArtifactFolder(artifact)
    # first, because status takes it as proof that all tasks are finished
    folder.summary.unlink(missing_ok=True)
    for index in finished(artifact):
        # one rename first: a reader must not take half a result for a whole one
        gone = artifact / f".{index:04d}.discarded.tmp"
        os.rename(task_folder(artifact, index), gone)
        shutil.rmtree(gone)
    shutil.rmtree(folder.work, ignore_errors=True)


def leave_summary(artifact: Path, tasks: int, summary: Callable[[list[Any]], str]) -> None:
    """Write ``summary.json`` once all tasks are finished.

    ``status`` then reads one file per step, however many tasks there are.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    tasks
        Number of its tasks.
    summary
        Makes one line of the summaries of all tasks.
    """
    # Every task asks, so before the last one the folders are only counted: looking into all of them
    # would be half a million requests to the file server for an array of 1,000 tasks.
    if sum(name.isdecimal() for name in os.listdir(artifact)) >= tasks:
        found = results(artifact)
        # a damaged result has nothing to summarise
        if len(found) < tasks:
            return
        runs = {result.get("run") for result in found}
        # another member of the group may have written it already
        with contextlib.suppress(PermissionError):
            write_json(ArtifactFolder(artifact).summary, {
                "text": summary([result["summary"] for result in found]),
                "started": min(result["started"] for result in found),
                "finished": max(result["finished"] for result in found),
                # results of earlier versions do not name their run
                **({} if None in runs else {"runs": sorted(filter(None, runs))})})


def summary(artifact: Path | str) -> dict[str, Any]:
    """Read the summary of a complete artifact.

    Parameters
    ----------
    artifact
        Folder of the artifact.

    Returns
    -------
    dict
        The fields of ``Summary``; empty if there is none. A damaged one is noted.
    """
    path = ArtifactFolder(artifact).summary_text
    try:
        return check_mapping(Summary, read_json(path), "summary")
    except FileNotFoundError:
        return {}
    except InputError as error:
        report_damage(InputError(error.message, where=error.where or path))
        return {}


def wall_clock_s(artifact: Path | str, summary: Mapping[str, Any]) -> float | None:
    """Return the time from the start of the first task to the end of the last one.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    summary
        What ``summary`` returned; if that is empty, the results of the tasks are read.

    Returns
    -------
    float or None
        Seconds; None if there are no results.
    """
    if summary:
        return float(summary["finished"] - summary["started"])
    times = [(float(each["started"]), float(each["finished"])) for each in results(artifact)]
    if not times:
        return None
    return max(end for _, end in times) - min(start for start, _ in times)


def detail(artifact: Path) -> str:
    """Return the one-line summary of a complete artifact; '' if there is none.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    """
    return str(summary(artifact).get("text", ""))


def used_partial_input(artifact: Path) -> bool:
    """Whether a finished task had an input that was not complete (``needs: {STEP: any}``).

    Parameters
    ----------
    artifact
        Folder of the artifact.
    """
    return any(result.get("partial_inputs") for result in results(artifact))


def is_complete(folder: Path) -> bool:
    """Whether an input exists, and has no unfinished tasks if it is an artifact.

    Parameters
    ----------
    folder
        The input.
    """
    try:
        check_input("", folder)
    except InputError:
        return False
    return True


def check_input(name: str, folder: Path) -> None:
    """Check that the input of a step exists and is complete.

    Parameters
    ----------
    name
        Name of the input.
    folder
        An artifact, or a folder or file from elsewhere (which the step checks itself).

    Raises
    ------
    InputError
        If it is missing, or an artifact with unfinished tasks.
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
            where=str(folder), hint=f"Finish step {name!r} first: {command_line('status')}")
