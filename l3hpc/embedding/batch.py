"""Embedding of many recordings into files: npz (as openl3 and edgel3 write), HDF5 or CSV.

Recordings are read ahead by other threads, and so is the next piece of a long one, so that the
network does not wait. Short ones are embedded together, long ones in pieces that are kept in a
temporary file, so that memory does not grow with the length of a recording. A recording that cannot
be embedded gives a failed ``EmbedResult``, and the others go on. Embeddings do not depend on the
other recordings: they are those of ``get_embedding``.
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
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from l3hpc.arrays.threads import allocated_cores, read_ahead, take_ahead
from l3hpc.audio.files import AudioError, Contents, is_hdf5, probe, read_audio
from l3hpc.audio.framing import CutFrames, JoinedFrames, cut_frames, hop_samples
from l3hpc.embedding.embed import (
    EmbedSettings,
    check_embedding,
    embed_pieces,
    get_resampler,
)
from l3hpc.embedding.folders import EmbedTask
from l3hpc.embedding.model import Model, load_model
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import atomic_file

KEYS = ("embedding", "timestamps")
IN_MEMORY = 32 << 20  # bytes of embeddings that are kept in memory; more are kept on disk
ROWS = 4096  # rows that are written at once
__all__ = ["EmbedResult", "EmbedSettings", "embed_all", "embed_in_processes", "model_metadata"]
LONG_S = 60.0  # seconds; longer recordings are read in pieces
GROUP_FRAMES = 256  # frames of short recordings that are embedded together,
FIRST_FRAMES = 64  # at first fewer, so that the network starts soon
MAX_SHARE = 16  # most recordings that a process gets at once
SHARES = 4  # shares per process, if there are few recordings, to balance their lengths
READERS = 4
DONE, SKIPPED, FAILED = STATES = ("done", "skipped", "failed")
_model: Model | None = None  # the model of a process of ``embed_in_processes``


def write_embeddings(path: Path, pieces: Iterable[tuple[np.ndarray, np.ndarray]],
                     metadata: Mapping[str, object]) -> int:
    """Write embeddings and times to a file, piece by piece and atomically.

    Parameters
    ----------
    path
        The file. Its suffix decides the format: ``.npz`` with the arrays ``embedding`` and
        ``timestamps``; ``.h5`` with two data sets of these names and the metadata as attributes;
        ``.csv`` with the columns ``timestamp``, ``e0``, ``e1``, ….
    pieces
        Embeddings (n, D) float32 and times (n,) float64. If getting a piece raises an error,
        nothing is written.
    metadata
        Attributes, ready for JSON.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    InputError
        An unknown suffix.
    """
    writers = {".npz": _write_npz, ".h5": _write_h5, ".csv": _write_csv}
    if path.suffix not in writers:
        raise InputError(f"unknown format {path.suffix!r}", where=str(path),
                         allowed=", ".join(writers))
    with atomic_file(path) as stream, tempfile.SpooledTemporaryFile(
            IN_MEMORY, dir=str(path.parent)) as buffer:
        table = _Table(buffer)
        for embedding, timestamps in pieces:
            table.add(embedding, timestamps)
        writers[path.suffix](stream, table, metadata)
    return table.rows


class _Table:
    """Embeddings that are kept in ``stream``, and their times."""

    def __init__(self, stream: tempfile.SpooledTemporaryFile[bytes]) -> None:
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


def _write_npz(stream: BinaryIO, table: _Table, metadata: Mapping[str, object]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embedding.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (table.rows, table.dim)})
            for rows in table.slices():
                member.write(rows.data)
        with archive.open("timestamps.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, table.times)


def _write_h5(stream: BinaryIO, table: _Table, metadata: Mapping[str, object]) -> None:
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


def _write_csv(stream: BinaryIO, table: _Table, metadata: Mapping[str, object]) -> None:
    header = ",".join(["timestamp", *(f"e{index}" for index in range(table.dim))])
    stream.write(f"{header}\n".encode())
    times = iter(table.times)
    for rows in table.slices():
        for values in rows:  # str gives the fewest digits that identify a float32
            stream.write(",".join([f"{next(times):.6f}", *map(str, values)]).encode() + b"\n")


@dataclass(frozen=True)
class EmbedResult:
    """The result for one recording.

    Attributes
    ----------
    task : EmbedTask
        The recording and its output.
    state : {'done', 'skipped', 'failed'}
        'skipped' if the output existed.
    frames : int
        The number of frames that were embedded.
    message : str
        Why it failed, or what is unusual about the recording.
    """

    task: EmbedTask
    state: str
    frames: int = 0
    message: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the fields, ready for JSON."""
        return {"recording": str(self.task.recording), "output": str(self.task.output),
                "state": self.state, "frames": self.frames, "message": self.message}


@dataclass
class _Read:
    """The frames of a recording (None if it is long, failed or its output exists)."""

    task: EmbedTask
    frames: np.ndarray | CutFrames | None = None
    times: np.ndarray | None = None
    message: str = ""
    error: str | None = None


def embed_all(model: Model, tasks: Iterable[EmbedTask], settings: EmbedSettings
              ) -> Iterator[EmbedResult]:
    """Embed recordings with one model.

    Memory is needed for a few groups of short recordings or a few pieces of a long one.

    Parameters
    ----------
    model
        From ``load_model``.
    tasks
        The recordings and their outputs. Those whose output exists are skipped unless
        ``settings.overwrite``.
    settings
        As for ``get_embedding``.

    Yields
    ------
    Outcome
        For each recording, in order.

    Raises
    ------
    InputError
        The hop is less than one sample, or the embeddings of the network are not finite for any
        sound.
    """
    hop_samples(model.rate, settings.hop_size)
    reads = read_ahead(lambda task: _read(task, model, settings), tasks,
                       threads=min(READERS, allocated_cores()))
    most = GROUP_FRAMES // 2 if model.shares_threads else GROUP_FRAMES
    # The next group is collected while the network computes.
    with closing(reads), closing(take_ahead(_groups(reads, most))) as groups:
        parts = ((_frames(group, model), group) for group in groups)
        for embeddings, group in model.embed_each(parts, settings.batch_size):
            if isinstance(group, _Read):
                yield _embed_other(model, group, settings)
            else:
                yield from _group_results(model, group, embeddings, settings)


def _groups(reads: Iterable[_Read], most: int) -> Iterator[list[_Read] | _Read]:
    """Short recordings in groups of about ``most`` frames, and all others alone, in order."""
    group: list[_Read] = []
    frames, enough = 0, min(FIRST_FRAMES, most)
    for read in reads:
        if read.frames is not None:
            group.append(read)
            frames += len(read.frames)
            if frames < enough:
                continue
        if group:
            yield group
            enough = min(2 * enough, most)
        group, frames = [], 0
        if read.frames is None:
            yield read
    if group:
        yield group


def embed_in_processes(options: Mapping[str, Any], tasks: Sequence[EmbedTask],
                       settings: EmbedSettings, jobs: int) -> Iterator[EmbedResult]:
    """Embed recordings in several processes, each with a model and a part of the cores.

    Parameters
    ----------
    options
        Arguments of ``load_model``.
    tasks, settings
        As for ``embed_all``.
    jobs
        The number of processes, at most one for each recording.

    Yields
    ------
    EmbedResult
        For each recording, in order.

    Raises
    ------
    L3hpcError
        A process was killed, for example because memory ran out.
    """
    jobs = max(1, min(jobs, len(tasks)))
    each = max(allocated_cores() // jobs, 1)
    share = max(1, min(MAX_SHARE, -(-len(tasks) // (SHARES * jobs))))
    shares = [tasks[first:first + share] for first in range(0, len(tasks), share)]
    # Spawned, because the libraries below do not work after a fork while their threads run.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_process,
                             ({**options, "threads": each},)) as pool:
        try:
            for results in pool.map(_embed_share, shares, [settings] * len(shares)):
                yield from results
        except BrokenProcessPool:
            raise L3hpcError("a process was killed (did memory run out?)",
                             hint="Use fewer --jobs; finished outputs are skipped.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def model_metadata(model: Model, settings: EmbedSettings) -> dict[str, object]:
    """Return the metadata that are needed to interpret embeddings, ready for JSON."""
    return {"model": model.recognised.label, "rate": model.rate, "hop_size": settings.hop_size,
            "center": int(settings.center), "resampler": settings.resampler,
            "engine": model.engine,
            "random_weights": int(model.recognised.random_weights)}


def _read(task: EmbedTask, model: Model, settings: EmbedSettings) -> _Read:
    if task.output.is_file() and not settings.overwrite:
        return _Read(task)
    try:
        if is_hdf5(task.recording) or probe(task.recording).seconds > LONG_S:
            return _Read(task)
        contents = Contents()
        signal, rate = read_audio(task.recording, contents=contents)
        resampled = get_resampler(settings.resampler)(signal, rate, model.rate)
        frames, times = cut_frames(resampled, model.rate, settings.hop_size,
                                   bool(settings.center), model.window_s)
        return _Read(task, frames, times, "; ".join(contents.warnings()))
    except (L3hpcError, OSError) as error:
        return _Read(task, error=_message(error, task))


def _frames(group: list[_Read] | _Read, model: Model) -> JoinedFrames | None:
    """The frames of a group that is embedded at once; None if recordings are embedded singly."""
    if isinstance(group, _Read) or model.batch_wide:
        return None
    return JoinedFrames([read.frames for read in group if read.frames is not None])


def _group_results(model: Model, group: Sequence[_Read], joined: np.ndarray,
                   settings: EmbedSettings) -> list[EmbedResult]:
    frames = [read.frames for read in group if read.frames is not None]
    if model.batch_wide:
        embeddings = [model.embed(one, settings.batch_size) for one in frames]
    else:
        embeddings = np.split(joined, np.cumsum([len(one) for one in frames])[:-1])
    return [_check_and_write(model, read, embedding, settings)
            for read, embedding in zip(group, embeddings, strict=True)]


def _embed_other(model: Model, read: _Read, settings: EmbedSettings) -> EmbedResult:
    """The result for a recording that failed, whose output exists, or that is long."""
    if read.error is not None:
        return EmbedResult(read.task, FAILED, message=read.error)
    if read.task.output.is_file() and not settings.overwrite:
        return EmbedResult(read.task, SKIPPED)
    contents = Contents()
    pieces = embed_pieces(read.task.recording, model, settings, contents)
    return _write_result(model, read, pieces, settings, contents)


def _check_and_write(model: Model, read: _Read, embedding: np.ndarray, settings: EmbedSettings
                     ) -> EmbedResult:
    assert read.times is not None
    try:
        check_embedding(embedding, model, str(read.task.recording))
    except AudioError as error:
        return EmbedResult(read.task, FAILED, message=_message(error, read.task))
    return _write_result(model, read, [(embedding, read.times)], settings)


def _write_result(model: Model, read: _Read, pieces: Iterable[tuple[np.ndarray, np.ndarray]],
                  settings: EmbedSettings, contents: Contents | None = None) -> EmbedResult:
    try:
        frames = write_embeddings(read.task.output, pieces, model_metadata(model, settings))
    except InputError:  # a problem of the network, which concerns all recordings
        raise
    except (L3hpcError, OSError) as error:
        return EmbedResult(read.task, FAILED, message=_message(error, read.task))
    message = read.message if contents is None else "; ".join(contents.warnings())
    return EmbedResult(read.task, DONE, frames, message)


def _message(error: Exception, task: EmbedTask) -> str:
    if isinstance(error, L3hpcError):
        return "; ".join(part for part in (error.message, error.hint) if part)
    assert isinstance(error, OSError)
    return f"{task.output}: {error.strerror or error}"


def _start_process(options: Mapping[str, Any]) -> None:
    global _model
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _model = load_model(**options)


def _exit_with_parent() -> None:
    """Exit when the parent process is gone, even if it was killed.

    Outputs are written atomically, so none is left incomplete.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _embed_share(tasks: Sequence[EmbedTask], settings: EmbedSettings) -> list[EmbedResult]:
    assert _model is not None
    return list(embed_all(_model, tasks, settings))
