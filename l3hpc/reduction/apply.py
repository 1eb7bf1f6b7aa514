"""φ from file to file: one pass in bounded memory, whole-row chunks, no compression.

Whole rows of 1,024 in a chunk and no gzip is what makes this run at the speed of the disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from l3hpc.console.progress import Progress
from l3hpc.datasets.embeddings import Part
from l3hpc.errors import InputError
from l3hpc.reduction.store import Phi

CHUNK_ROWS = 1024


def reduce_part(
    part: Part, phi: Phi, target: Path, *, chunk: int = 8192, progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write φ of every row of ``part``, in order, as dataset ``phi.key`` (float32) of ``target``.

    The attributes of the file name the key, φ's digest and the teacher.

    Parameters
    ----------
    part
        Embeddings of one file.
    phi
        The reduction.
    target
        HDF5 file to write.
    chunk
        Rows that are read at once.
    progress
        Is advanced by the rows that are written.
    threads
        As for ``Phi.stream``.

    Raises
    ------
    InputError
        When the rows are of another dimension or teacher than those φ was fitted on, or not finite.
    """
    import h5py
    import numpy as np

    attributes: dict[str, Any] = part.attributes()
    teacher = attributes.get("teacher") or None
    phi.check(part.dim, teacher, where=str(part.path))
    target.parent.mkdir(parents=True, exist_ok=True)
    chunks = (min(CHUNK_ROWS, part.rows), phi.out_dim) if part.rows else None
    with h5py.File(target, "w") as file:
        data = file.create_dataset(phi.key, (part.rows, phi.out_dim), "f4", chunks=chunks)
        at = 0
        for reduced in phi.stream(part.chunks(chunk), threads):
            if not np.isfinite(reduced).all():
                raise InputError(f"rows {at} to {at + len(reduced) - 1} hold numbers that are "
                                 "not finite", where=str(part.path))
            data[at:at + len(reduced)] = reduced
            at += len(reduced)
            if progress is not None:
                progress.advance(len(reduced))
        file.attrs["key"] = phi.key
        file.attrs["approx"] = phi.approx
        file.attrs["phi"] = phi.digest
        file.attrs["teacher"] = json.dumps(dict(teacher or phi.teacher))
        file.attrs["source"] = part.path.name
