"""Read the embeddings of tagged clips as one array: a bag of frames per clip, for a classifier.

They are in an ``embed`` artifact (rows with provenance), or in a folder with one file per clip, as
the published pipeline writes them: ``<name>.npz`` with ``embedding``, ``.npy`` or ``.npy.gz``.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.datasets.corpus import npz_name
from l3hpc.datasets.embedding_file import EmbeddingFile, finite_float32
from l3hpc.datasets.embeddings import open_source
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import is_task_folder, task_folders, write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_strings
from l3hpc.io.npz import read_npy
from l3hpc.io.values import in_number

_SUFFIXES = (".npz", ".npy", ".npy.gz")
_BLOCK_BYTES = 8 << 20  # read at once: the system gives larger arrays new pages every time
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Clips:
    """The embeddings of some clips.

    Attributes
    ----------
    files
        Names in the requested order, without the missing ones.
    x
        float32 (files, frames, dim), in memory or on disk. Clips of different lengths are cut to
        the shortest, as published, or repeated to the longest.
    longest
        Frames of the longest clip.
    missing
        Names of the clips that have no embeddings.
    """

    files: list[str]
    x: np.ndarray | RowFile
    longest: int
    missing: list[str]


@dataclass(frozen=True)
class ClipBags:
    """The clips of a folder that have embeddings.

    Attributes
    ----------
    folder
        The embeddings.
    is_artifact
        Whether the folder is an ``embed`` artifact.
    lengths
        Frames of each clip, in the requested order.
    missing
        Names of the clips that have no embeddings.
    """

    folder: Path
    is_artifact: bool
    lengths: dict[str, int]
    missing: list[str]

    def blocks(self, transform: Transform | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Read every clip once, in the order of the files.

        Parameters
        ----------
        transform
            Applied to rows (n, dim) as they are read, many clips at a time; None: nothing.

        Yields
        ------
        tuple
            File name, and embeddings (frames, dim) float32.

        Raises
        ------
        InputError
            The dimensions differ.
        """
        dim = None
        for name, block in (_artifact_blocks(self.folder, transform) if self.is_artifact
                            else _file_blocks(self.folder, list(self.lengths), transform)):
            if name not in self.lengths:
                continue
            dim = dim or block.shape[1]
            if block.shape[1] != dim:
                raise InputError(f"'{name}' has {block.shape[1]} dimensions, the others {dim}",
                                 where=str(self.folder))
            yield name, block


def find_clips(folder: Path | str, files: Sequence[str]) -> ClipBags:
    """Which clips have embeddings in a folder.

    Parameters
    ----------
    folder
        An embed artifact, or a folder with one file per clip.
    files
        Names of the clips' audio files.

    Returns
    -------
    Bags
        The clips with embeddings, their numbers of frames, and the names of the missing ones.

    Raises
    ------
    InputError
        None of the clips has embeddings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of embeddings", where=str(folder))
    is_artifact = bool(task_folders(folder)) or is_task_folder(folder)
    lengths = _artifact_lengths(folder) if is_artifact else _file_lengths(folder, files)
    present = {name: lengths[name] for name in files if lengths.get(name)}
    if not present:
        raise InputError(
            in_number(f"holds no embeddings of [the clip|any of the {len(files)} clips]",
                      len(files)), where=str(folder),
            allowed="an embed artifact, or <clip name>.npz with 'embedding' for every clip",
            hint=f"Embed these clips first: {command_line('submit', 'downstream')} (SONYC-UST), "
                 "submit clips, submit us8k or submit esc50")
    return ClipBags(folder, is_artifact, present, [name for name in files if name not in present])


def artifact_attributes(folder: Path) -> dict[str, Any]:
    """The metadata of an embed artifact.

    Parameters
    ----------
    folder
        The artifact.

    Returns
    -------
    dict
        ``teacher`` (which network), ``hop`` (s) and more; empty for published files.
    """
    return open_source(folder).parts[0].attributes() if task_folders(folder) else {}


def load_clips(folder: Path | str, files: Sequence[str],
               store: Path | Callable[[int], Path] | None = None, *, every: int = 1,
               longest: bool = False, transform: Transform | None = None) -> Clips:
    """The embeddings of clips as one array.

    Parameters
    ----------
    folder
        An embed artifact, or a folder with one file per clip.
    files
        Names of the clips' audio files.
    store
        File that takes the array, or a function that names one for a number of bytes; None: it is
        kept in memory.
    every
        Take the first of a clip's windows and every n-th after it.
    longest
        Repeat the windows of shorter clips evenly, as many as the longest has, where otherwise all
        are cut to the shortest.
    transform
        Applied to rows (n, dim) as they are read, for example a reduction; None: nothing.

    Returns
    -------
    Clips
        ``x`` is (clips, frames, dim) float32.

    Raises
    ------
    InputError
        None of the clips has embeddings, or their dimensions differ.
    """
    bags = find_clips(folder, files)
    present = list(bags.lengths)
    row_of = {name: row for row, name in enumerate(present)}
    counts = [-(-length // every) for length in bags.lengths.values()]
    # One array needs clips of one length; resampling may give a recording one window more or less.
    frames = max(counts) if longest else min(counts)
    x: np.ndarray | RowFile | None = None
    for name, block in bags.blocks(transform):
        if x is None:
            shape = (len(present), frames, block.shape[1])
            # On disk where requested: SONYC-UST has more embeddings than a small job has memory.
            if store is None:
                x = np.empty(shape, np.float32)
            else:
                path = store(4 * math.prod(shape)) if callable(store) else store
                x = RowFile(path, "f4", shape, "w+")
        rows = block[::every]
        x[row_of[name]] = (rows[np.arange(frames) * len(rows) // frames] if longest
                           else rows[:frames])
    assert x is not None
    return Clips(present, x, max(counts), bags.missing)


def _runs(part: EmbeddingFile) -> tuple[list[str], np.ndarray]:
    """Consecutive rows of one recording: the recording of each run, and the runs' first rows.

    The first rows are followed by the number of all rows.
    """
    # The other columns are 24 bytes for every row, more than all else that is kept of a clip.
    provenance = part.provenance(only=("recording", "recordings/file"))
    if provenance is None:
        raise InputError("does not record which recording each row is from", where=str(part.path),
                         allowed="embeddings that l3hpc's embed or extract wrote")
    recording = provenance["recording"]
    heads = np.flatnonzero(np.append(True, recording[1:] != recording[:-1])[:len(recording)])
    names = provenance["recordings/file"][recording[heads]]
    return list(names), np.append(heads, len(recording))


def _artifact_lengths(folder: Path) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for part in open_source(folder).parts:
        names, starts = _runs(part)
        for name, count in zip(names, np.diff(starts).tolist(), strict=True):
            lengths[name] = lengths.get(name, 0) + count
    return lengths


def _artifact_blocks(folder: Path, transform: Transform | None
                     ) -> Iterator[tuple[str, np.ndarray]]:
    for part in open_source(folder).parts:
        names, starts = _runs(part)
        most = _BLOCK_BYTES // (4 * part.dim)
        # A clip has to be one slice of the rows, so that blocks are whole clips.
        if len(set(names)) < len(names):
            raise InputError("the rows of a recording are not contiguous",
                             where=str(part.path))
        first = 0
        while first < len(names):
            last = first + 1
            while last < len(names) and starts[last + 1] - starts[first] <= most:
                last += 1
            block = part.read(int(starts[first]), int(starts[last]))
            if transform is not None:
                block = transform(block)
            for clip in range(first, last):
                rows = slice(starts[clip] - starts[first], starts[clip + 1] - starts[first])
                yield names[clip], block[rows]
            first = last


def _clip_file(folder: Path, name: str) -> Path | None:
    stem = name.rsplit(".", 1)[0]
    for suffix in _SUFFIXES:
        if os.path.isfile(folder / (stem + suffix)):
            return folder / (stem + suffix)
    return None


def _file_blocks(folder: Path, files: Sequence[str], transform: Transform | None
                 ) -> Iterator[tuple[str, np.ndarray]]:
    for name in files:
        path = _clip_file(folder, name)
        if path is not None:
            block = _matrix(path)
            yield name, block if transform is None else transform(block)


def _file_lengths(folder: Path, files: Sequence[str]) -> dict[str, int]:
    lengths = {}
    for name in files:
        path = _clip_file(folder, name)
        if path is not None:
            lengths[name] = open_source(path).rows if path.suffix == ".npz" else len(_matrix(path))
    return lengths


def _matrix(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        return open_source(path).parts[0].read()
    matrix = read_npy(path)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InputError(f"has shape {matrix.shape} of {matrix.dtype}", where=str(path),
                         allowed="numbers in the shape (frames, dimensions)")
    return finite_float32(matrix, path)


def write_npz_files(source: Path, folder: Path) -> int:
    """Write one ``<name>.npz`` per recording, as published: ``embedding``, ``timestamps``.

    Recordings without a row have none.

    Parameters
    ----------
    source
        HDF5 file of an extraction.
    folder
        Takes the files.

    Returns
    -------
    int
        How many were written.
    """
    with open_hdf5(source) as file:
        which, starts = numeric_dataset(file, "recording")[()], numeric_dataset(file, "start")[()]
        names = read_strings(file, "recordings/file")
        embedding = numeric_dataset(file, "l3_embedding")
        # The rows of a recording are contiguous: each is one slice.
        edges = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), len(which)]
        for first, last in itertools.pairwise(edges if len(which) else []):
            stream = io.BytesIO()
            np.savez(stream, embedding=embedding[first:last], timestamps=starts[first:last])
            write_bytes(folder / npz_name(names[which[first]]), stream.getvalue())
    return len(edges) - 1 if len(which) else 0
