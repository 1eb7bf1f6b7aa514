"""Embeddings of one recording as a file: npz (as openl3 and edgel3 write), HDF5 or CSV, whole.

Embeddings come piece by piece and wait in a temporary file: memory does not grow with a recording.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import whole_file

KEYS = ("embedding", "timestamps")
IN_MEMORY = 32 << 20  # bytes of embeddings that wait in memory; more wait on the disk
ROWS = 4096  # written at once


def write(path: Path, pieces: Iterable[tuple[np.ndarray, np.ndarray]], about: Mapping[str, Any]
          ) -> int:
    """Write embeddings (n, D) float32 and times (n,) float64, piece by piece, by one rename.

    The ending decides: ``.npz`` with ``embedding`` and ``timestamps`` and nothing else; ``.h5``
    with two data sets of these names and ``about`` (JSON-ready) as attributes; ``.csv`` with the
    columns ``timestamp``, ``e0``, ``e1``, …. Returns the number of frames. Where a piece cannot be
    had (it raises), nothing is written.
    """
    makers = {".npz": _npz, ".h5": _h5, ".csv": _csv}
    if path.suffix not in makers:
        raise InputError(f"unknown format {path.suffix!r}", where=str(path),
                         allowed=", ".join(makers))
    with whole_file(path) as stream, tempfile.SpooledTemporaryFile(
            IN_MEMORY, dir=str(path.parent)) as waiting:
        table = _Table(waiting)
        for embedding, timestamps in pieces:
            table.add(embedding, timestamps)
        makers[path.suffix](stream, table, about)
    return table.rows


class _Table:
    """Embeddings that wait in ``stream``, and their times."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._times: list[np.ndarray] = []
        self.rows = self.dim = 0

    def add(self, embedding: np.ndarray, timestamps: np.ndarray) -> None:
        """Append a piece."""
        self._stream.write(np.ascontiguousarray(embedding, np.float32).data)
        self._times.append(np.asarray(timestamps, np.float64))
        self.rows, self.dim = self.rows + len(embedding), embedding.shape[1]

    @property
    def times(self) -> np.ndarray:
        """All times."""
        return np.concatenate([np.empty(0), *self._times])

    def slices(self) -> Iterator[np.ndarray]:
        """The embeddings, ``ROWS`` at a time."""
        self._stream.seek(0)
        while data := self._stream.read(4 * self.dim * ROWS):
            yield np.frombuffer(data, np.float32).reshape(-1, self.dim)


def _npz(stream: BinaryIO, table: _Table, about: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embedding.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (table.rows, table.dim)})
            for rows in table.slices():
                member.write(rows.data)
        with archive.open("timestamps.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, table.times)


def _h5(stream: BinaryIO, table: _Table, about: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(stream, "w") as file:
        for key, value in about.items():
            file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
        embedding = file.create_dataset(KEYS[0], (table.rows, table.dim), "f4", track_times=False)
        done = 0
        for rows in table.slices():
            embedding[done:done + len(rows)] = rows
            done += len(rows)
        file.create_dataset(KEYS[1], data=table.times, track_times=False)


def _csv(stream: BinaryIO, table: _Table, about: Mapping[str, Any]) -> None:
    header = ",".join(["timestamp", *(f"e{index}" for index in range(table.dim))])
    stream.write(f"{header}\n".encode())
    times = iter(table.times)
    for rows in table.slices():
        for values in rows:  # the fewest digits that tell
            stream.write(",".join([f"{next(times):.6f}", *map(str, values)]).encode() + b"\n")
