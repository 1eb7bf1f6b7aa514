"""Embeddings of one recording as a file: npz (as openl3 and edgel3 write), HDF5 or CSV, whole."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.files import write_bytes

KEYS = ("embedding", "timestamps")


def write(path: Path, embedding: np.ndarray, timestamps: np.ndarray,
          about: Mapping[str, Any]) -> None:
    """Write ``embedding`` (T, D) float32 and ``timestamps`` (T,) float64 by one rename.

    The ending decides: ``.npz`` with these two keys and nothing else; ``.h5`` with two data sets of
    these names and ``about`` (JSON-ready) as attributes; ``.csv`` with the columns ``timestamp``,
    ``e0``, ``e1``, ….
    """
    makers = {".npz": _npz, ".h5": _h5, ".csv": _csv}
    if path.suffix not in makers:
        raise InputError(f"unknown format {path.suffix!r}", where=str(path),
                         allowed=", ".join(makers))
    write_bytes(path, makers[path.suffix](embedding, timestamps, about))


def _npz(embedding: np.ndarray, timestamps: np.ndarray, about: Mapping[str, Any]) -> bytes:
    memory = io.BytesIO()
    np.savez(memory, embedding=embedding, timestamps=timestamps)
    return memory.getvalue()


def _h5(embedding: np.ndarray, timestamps: np.ndarray, about: Mapping[str, Any]) -> bytes:
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for key, value in about.items():
            file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
        for key, array in zip(KEYS, (embedding, timestamps), strict=True):
            file.create_dataset(key, data=array, track_times=False)
    return memory.getvalue()


def _csv(embedding: np.ndarray, timestamps: np.ndarray, about: Mapping[str, Any]) -> bytes:
    lines = [",".join(["timestamp", *(f"e{index}" for index in range(embedding.shape[1]))])]
    for time, values in zip(timestamps, embedding, strict=True):
        lines.append(",".join([f"{time:.6f}", *map(str, values)]))  # the fewest digits that tell
    return ("\n".join(lines) + "\n").encode()
