"""Embed many recordings into files: npz (as openl3 and edgel3 write), HDF5 or CSV, each whole.

Recordings are read ahead by other threads, short ones together, long ones in pieces that wait in a
temporary file, so that memory does not grow with a recording. A recording that cannot be embedded
is an outcome, not the end. Its numbers do not depend on its neighbours: they are those of
``get_embedding``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from l3hpc.arrays.threads import allocated_cores, read_ahead
from l3hpc.audio.files import AudioError, Contents, is_hdf5, probe, read_audio
from l3hpc.audio.framing import CutFrames, JoinedFrames, cut_frames, hop_samples
from l3hpc.embedding.embed import (
    EmbedSettings,
    check_embedding,
    embed_file,
    embed_pieces,
    get_resampler,
)
from l3hpc.embedding.folders import EmbedTask
from l3hpc.embedding.model import Model, load_model
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import atomic_file

KEYS = ("embedding", "timestamps")
IN_MEMORY = 32 << 20  # bytes of embeddings that wait in memory; more wait on the disk
ROWS = 4096  # written at once
__all__ = ["EmbedResult", "EmbedSettings", "embed_all", "embed_file", "embed_in_processes",
           "model_metadata"]
LONG_S = 60.0  # a longer recording is read in pieces
TOGETHER = 256  # frames of short recordings that go to the network at once
SHARE = 16  # recordings that a process is given at once, at most
SHARES = 4  # that each process gets of few recordings: who is done early takes another one
READERS = 4
DONE, SKIPPED, FAILED = STATES = ("done", "skipped", "failed")
_model: Model | None = None  # of a process of ``embed_in_processes``


def write_embeddings(path: Path, pieces: Iterable[tuple[np.ndarray, np.ndarray]],
                     metadata: Mapping[str, Any]) -> int:
    """Write embeddings (n, D) float32 and times (n,) float64, piece by piece, by one rename.

    The ending decides: ``.npz`` with ``embedding`` and ``timestamps`` and nothing else; ``.h5``
    with two data sets of these names and ``metadata`` (JSON-ready) as attributes; ``.csv`` with the
    columns ``timestamp``, ``e0``, ``e1``, …. Returns the number of frames. Where a piece cannot be
    had (it raises), nothing is written.
    """
    makers = {".npz": _npz, ".h5": _h5, ".csv": _csv}
    if path.suffix not in makers:
        raise InputError(f"unknown format {path.suffix!r}", where=str(path),
                         allowed=", ".join(makers))
    with atomic_file(path) as stream, tempfile.SpooledTemporaryFile(
            IN_MEMORY, dir=str(path.parent)) as waiting:
        table = _Table(waiting)
        for embedding, timestamps in pieces:
            table.add(embedding, timestamps)
        makers[path.suffix](stream, table, metadata)
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


def _npz(stream: BinaryIO, table: _Table, metadata: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embedding.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (table.rows, table.dim)})
            for rows in table.slices():
                member.write(rows.data)
        with archive.open("timestamps.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, table.times)


def _h5(stream: BinaryIO, table: _Table, metadata: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(stream, "w") as file:
        for key, value in metadata.items():
            file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
        embedding = file.create_dataset(KEYS[0], (table.rows, table.dim), "f4", track_times=False)
        done = 0
        for rows in table.slices():
            embedding[done:done + len(rows)] = rows
            done += len(rows)
        file.create_dataset(KEYS[1], data=table.times, track_times=False)


def _csv(stream: BinaryIO, table: _Table, metadata: Mapping[str, Any]) -> None:
    header = ",".join(["timestamp", *(f"e{index}" for index in range(table.dim))])
    stream.write(f"{header}\n".encode())
    times = iter(table.times)
    for rows in table.slices():
        for values in rows:  # the fewest digits that tell
            stream.write(",".join([f"{next(times):.6f}", *map(str, values)]).encode() + b"\n")


@dataclass(frozen=True)
class EmbedResult:
    """The result for one recording. ``state`` is one of ``STATES``; ``message`` says why it failed,
    or what is unusual about it."""

    work: EmbedTask
    state: str
    frames: int = 0
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"recording": str(self.work.recording), "output": str(self.work.output),
                "state": self.state, "frames": self.frames, "message": self.message}


@dataclass
class _Read:
    """A recording's frames (None: it is long), or why there are none."""

    work: EmbedTask
    frames: np.ndarray | CutFrames | None = None
    times: np.ndarray | None = None
    message: str = ""
    error: str | None = None


@dataclass
class _Group:
    """Short recordings, collected until they fill a batch."""

    reads: list[_Read] = field(default_factory=list)
    frames: int = 0


def embed_all(model: Model, works: Iterable[EmbedTask], settings: EmbedSettings
              ) -> Iterator[EmbedResult]:
    """Embed recordings with one model, in memory for some short ones and one piece of a long one.

    Parameters
    ----------
    model
        From ``load_model``.
    works
        Recordings and the outputs they go to. Existing outputs are skipped unless
        ``settings.overwrite``.
    settings
        As for ``get_embedding``.

    Yields
    ------
    Outcome
        One for each recording, in order.

    Raises
    ------
    InputError
        A hop of less than a sample, or a network whose embeddings are not finite for any sound.
    """
    hop_samples(model.rate, settings.hop_size)
    group = _Group()
    threads = min(READERS, allocated_cores())
    for read in read_ahead(lambda work: _read(work, model, settings), works, threads=threads):
        if read.frames is not None:
            group.reads.append(read)
            group.frames += len(read.frames)
            if group.frames < TOGETHER:
                continue
        yield from _together(model, group, settings)
        group = _Group()
        if read.frames is None:
            yield _alone(model, read, settings)
    yield from _together(model, group, settings)


def embed_in_processes(options: Mapping[str, Any], works: Sequence[EmbedTask],
                       settings: EmbedSettings, jobs: int) -> Iterator[EmbedResult]:
    """``embed_all`` in several processes, each with a model and a part of the cores of its own.

    Parameters
    ----------
    options
        Arguments of ``load_model``.
    works, settings
        As for ``embed_all``.
    jobs
        Processes; never more are started than there are recordings.

    Yields
    ------
    Outcome
        One for each recording, in order.

    Raises
    ------
    L3hpcError
        A process was killed, for example for lack of memory.
    """
    jobs = max(1, min(jobs, len(works)))
    each = max(allocated_cores() // jobs, 1)
    share = max(1, min(SHARE, -(-len(works) // (SHARES * jobs))))
    shares = [works[first:first + share] for first in range(0, len(works), share)]
    # spawned: the libraries below do not survive a fork with their threads running
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin,
                             ({**options, "threads": each},)) as pool:
        try:
            for outcomes in pool.map(_share, shares, [settings] * len(shares)):
                yield from outcomes
        except BrokenProcessPool:
            raise L3hpcError("a process ended before its work (did memory run out?)",
                             hint="Use fewer --jobs; finished outputs are skipped.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def model_metadata(model: Model, settings: EmbedSettings) -> dict[str, Any]:
    """Metadata without which embeddings cannot be interpreted, JSON-ready."""
    return {"model": model.recognised.label, "rate": model.rate, "hop_size": settings.hop_size,
            "center": int(settings.center), "resampler": settings.resampler,
            "engine": model.engine,
            "random_weights": int(model.recognised.random_weights)}


def _read(work: EmbedTask, model: Model, settings: EmbedSettings) -> _Read:
    if work.output.is_file() and not settings.overwrite:
        return _Read(work)
    try:
        if is_hdf5(work.recording) or probe(work.recording).seconds > LONG_S:
            return _Read(work)
        contents = Contents()
        signal, rate = read_audio(work.recording, contents=contents)
        there = get_resampler(settings.resampler)(signal, rate, model.rate)
        frames, times = cut_frames(there, model.rate, settings.hop_size, bool(settings.center))
        return _Read(work, frames, times, "; ".join(contents.warnings()))
    except (L3hpcError, OSError) as error:
        return _Read(work, error=_words(error, work))


def _together(model: Model, group: _Group, settings: EmbedSettings) -> list[EmbedResult]:
    if not group.reads:
        return []
    frames = [read.frames for read in group.reads if read.frames is not None]
    if model.batch_wide:
        embeddings = [model.embed(one, settings.batch_size) for one in frames]
    else:
        joined = model.embed(JoinedFrames(frames), settings.batch_size)
        embeddings = np.split(joined, np.cumsum([len(one) for one in frames])[:-1])
    return [_written(model, read, embedding, settings)
            for read, embedding in zip(group.reads, embeddings, strict=True)]


def _alone(model: Model, read: _Read, settings: EmbedSettings) -> EmbedResult:
    """The outcome of a recording that exists, failed, or is long."""
    if read.error is not None:
        return EmbedResult(read.work, FAILED, message=read.error)
    if read.work.output.is_file() and not settings.overwrite:
        return EmbedResult(read.work, SKIPPED)
    contents = Contents()
    pieces = embed_pieces(read.work.recording, model, settings, contents)
    return _outcome(model, read, pieces, settings, contents)


def _written(model: Model, read: _Read, embedding: np.ndarray, settings: EmbedSettings
             ) -> EmbedResult:
    assert read.times is not None
    try:
        check_embedding(embedding, model, str(read.work.recording))
    except AudioError as error:
        return EmbedResult(read.work, FAILED, message=_words(error, read.work))
    return _outcome(model, read, [(embedding, read.times)], settings)


def _outcome(model: Model, read: _Read, pieces: Iterable[tuple[np.ndarray, np.ndarray]],
             settings: EmbedSettings, contents: Contents | None = None) -> EmbedResult:
    try:
        frames = write_embeddings(read.work.output, pieces, model_metadata(model, settings))
    except InputError:  # the network is to blame, not this recording
        raise
    except (L3hpcError, OSError) as error:
        return EmbedResult(read.work, FAILED, message=_words(error, read.work))
    words = read.message if contents is None else "; ".join(contents.warnings())
    return EmbedResult(read.work, DONE, frames, words)


def _words(error: Exception, work: EmbedTask) -> str:
    if isinstance(error, L3hpcError):
        return "; ".join(part for part in (error.message, error.hint) if part)
    assert isinstance(error, OSError)
    return f"{work.output}: {error.strerror or error}"


def _begin(options: Mapping[str, Any]) -> None:
    global _model
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _model = load_model(**options)


def _end_with_parent() -> None:
    """End this process when its parent is gone, killed or not: nobody waits for the rest.

    Outputs appear by a rename, so none is left half written."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _share(works: Sequence[EmbedTask], settings: EmbedSettings) -> list[EmbedResult]:
    assert _model is not None
    return list(embed_all(_model, works, settings))
