"""What makes two outputs the same: the fingerprint that names an artifact's folder.

A step's kind, version, parameters, inputs, outside files and task list decide it. Resources,
cluster, run names and log paths do not, nor do parameters that only say where something lies
(the step's ``not_in_fingerprint``): outside files count by their content or listing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.files import digest
from l3hpc.steps import AnyStep

LENGTH = 16


def of_step(
    step: AnyStep, params: Mapping[str, Any], inputs: Mapping[str, str],
    digests: Mapping[str, Any], shards: Sequence[Mapping[str, Any]],
) -> str:
    """16 hex digits for one step. ``inputs``: input name → fingerprint of what is read there."""
    return digest({
        "step": step.name, "version": step.version,
        "params": {name: value for name, value in params.items()
                   if name not in step.not_in_fingerprint},
        "inputs": dict(inputs), "digests": dict(digests), "shards": list(shards),
    })[:LENGTH]


def of_folder(folder: Path) -> str:
    """16 hex digits for a folder of files from elsewhere: names, sizes and modification times."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder))
    listing: list[list[Any]] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.is_file() and not name.startswith("."):
                status = path.stat()
                listing.append([str(path.relative_to(folder)), status.st_size,
                                status.st_mtime_ns])
    if not listing:
        raise InputError("the folder is empty", where=str(folder))
    return digest({"folder": sorted(listing)})[:LENGTH]
