"""Which run computed the results of an artifact.

Two runs with the same step share its artifact: one computes it, and the other may have failed to do
so before. ``result.json`` names the run; for results of earlier versions, the job id tells it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.files import read_json
from l3hpc.workspace import artifacts, records
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.run_record import StepRecord

BY_HAND = "by hand"  # what ``l3hpc run`` notes instead of a run
_UNKNOWN = "another run"


def own_results(run: str, step: StepRecord) -> list[dict[str, Any]]:
    """Read the results of a step that its run itself computed.

    Parameters
    ----------
    run
        Name of the run.
    step
        The step in its record.

    Returns
    -------
    list of dict
        The contents of each ``result.json``, by task index.
    """
    return [result for result in artifacts.results(Path(step.artifact))
            if is_own(result, run, step)]


def is_own(result: Mapping[str, Any], run: str, step: StepRecord) -> bool:
    """Whether a run itself computed a result.

    Parameters
    ----------
    result
        The content of its ``result.json``.
    run
        Name of the run.
    step
        The step in its record.
    """
    if isinstance(result.get("run"), str):
        return bool(result["run"] == run)
    return bool(_jobs(result) & {attempt.base for attempt in step.attempts})


def computed_by_others(workspace: Path, run: str, step: StepRecord, summary: Mapping[str, Any]
                       ) -> dict[int, str]:
    """Find the results of a step that another run computed.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    step
        The step in its record.
    summary
        That of its artifact (``artifacts.summary``), which is one file, however many tasks.

    Returns
    -------
    dict of int to str
        Task index → the run that computed it. A result that tells nothing is not in it.
    """
    if summary.get("runs") == [run]:
        return {}
    found = {}
    for result in artifacts.results(Path(step.artifact)):
        if "index" in result and (result.get("run") or _jobs(result)) \
                and not is_own(result, run, step):
            found[result["index"]] = _run_of(workspace, step.artifact, result)
    return found


def runs_of(workspace: Path, artifact: Path | str) -> list[str]:
    """Find the runs that computed an artifact.

    Parameters
    ----------
    workspace
        The workspace folder.
    artifact
        Folder of the artifact.

    Returns
    -------
    list of str
        Names of runs, sorted; empty where nothing tells.
    """
    named = artifacts.summary(artifact).get("runs")
    if named is None:
        named = [_run_of(workspace, str(artifact), result)
                 for result in artifacts.results(Path(artifact))
                 if result.get("run") or _jobs(result)]
    if not named:  # the first run that asked for it
        with contextlib.suppress(OSError, InputError, AttributeError):
            named = [read_json(ArtifactFolder(artifact).config).get("run") or BY_HAND]
    return sorted({str(name) for name in named} - {_UNKNOWN, BY_HAND})


def in_words(runs: list[str]) -> str:
    """Return ``since computed by RUN``; an empty text for no runs."""
    return f"since computed {BY_HAND}" if runs == [BY_HAND] else (
        f"since computed by {', '.join(runs)}" if runs else "")


def _jobs(result: Mapping[str, Any]) -> set[str]:
    """The ids by which a result names its job (in an array, SLURM_JOB_ID is an id of its own)."""
    environment = result.get("environment") or {}
    jobs = (environment.get("job"), environment.get("array_job"))
    return {str(job).partition("_")[0] for job in jobs if job}


def _run_of(workspace: Path, artifact: str, result: Mapping[str, Any]) -> str:
    if isinstance(result.get("run"), str):
        return str(result["run"])
    for record in records.read_all(workspace, []):
        if any(step.artifact == artifact and is_own(result, record.run, step)
               for step in record.steps):
            return record.run
    return _UNKNOWN
