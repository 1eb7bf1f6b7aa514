"""Rows of the ledger as offline runs of Weights & Biases, which ``wandb sync`` uploads later.

Nothing here uses the network or asks for an account. Needs the package ``wandb`` (extra ``wandb``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.ledger.views.trackers import Exported, TrackedRun

MARK = "l3hpc.json"  # in the folder of a run: what it was written from


def export(folder: Path, runs: Sequence[TrackedRun]) -> Exported:
    """Write offline runs; each tab becomes a project.

    Parameters
    ----------
    folder
        Receives ``wandb/offline-run-…``. A run that has changed since the last export is replaced
        by a new one with the same ID.
    runs
        The runs.

    Returns
    -------
    Exported
        How many runs are new, updated and unchanged.

    Raises
    ------
    InputError
        The package is not installed, or the folder is a file.
    """
    wandb = require(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done, finished = Exported(), list[tuple[Path, str, list[Path]]]()
    for run in runs:
        content = digest(asdict(run))
        before = [path.parent for path in
                  folder.glob(f"wandb/offline-run-*-{run.identity}/{MARK}")]
        if any(read_json(path / MARK) == {"digest": content} for path in before):
            done.unchanged += 1
            continue
        finished.append((_write(wandb, folder, run), content, before))
        if before:
            done.updated += 1
        else:
            done.new += 1
    if finished:
        wandb.teardown()  # the files are whole only then: finish returns a little earlier
    for written, content, before in finished:
        for path in before:
            if path != written:  # of the same second
                shutil.rmtree(path)
        write_json(written / MARK, {"digest": content})
    return done


def require(folder: Path) -> ModuleType:
    """Import Weights & Biases, without its reports of errors, and check the folder.

    Parameters
    ----------
    folder
        As for ``export``.

    Raises
    ------
    InputError
        The package is not installed, or the folder is a file.
    """
    # imported, the package would otherwise start a thread that reports errors to its makers
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError as error:
        raise InputError("Weights & Biases is not installed", where="--wandb",
                         hint=install_command("wandb")) from error
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder", where="--wandb")
    module: ModuleType = wandb
    return module


def _write(wandb: ModuleType, folder: Path, run: TrackedRun) -> Path:
    """Write one offline run; return its folder."""
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", disable_git=True, save_code=False,
        x_disable_stats=True, x_disable_meta=True)
    started = wandb.init(
        project=run.experiment, id=run.identity, name=run.name, dir=str(folder),
        config=run.parameters, tags=[run.state] if run.state else None,
        notes="\n".join(f"{name}: {value}" for name, value in (run.tags | run.links).items()),
        settings=settings, reinit="finish_previous")
    steps: dict[int, dict[str, float]] = {}
    for name, points in run.metrics.items():
        for point in points:
            if point.step:
                steps.setdefault(point.step, {})[name] = point.value
            else:
                started.summary[name] = point.value
    for step in sorted(steps):
        started.log({**steps[step], "epoch": step}, step=step)
    written = Path(started.dir).parent
    started.finish()
    return written
