"""Reads embedding matrices from disk: our artifacts and the published layouts, in bounded memory.

A source is a folder (or one file). It is an *artifact* when it has numbered task folders with a
``result.json``; else *published*: HDF5 files with ``l3_embedding`` (and ``audio``) or one reduced
matrix under its published key, or NPZ files with ``embedding``, perhaps in ``train/``,
``validate/`` and ``test/``. Nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError, nearest
from l3hpc.io import hdf5, npz
from l3hpc.io.files import is_task_folder, task_folders

APPROXIMATIONS = ("pca", "umap", "none")

_PCA = re.compile(r"pca_batch_(?P<n>\d+)_len_(?P<d>\d+)_kernel_(?P<kernel>linear|poly|rbf)")
_UMAP = re.compile(r"umap_batch_(?P<n>\d+)_len_(?P<d>\d+)_k_(?P<k>\d+)_metric_(?P<metric>\w+?)"
                   r"_dist\|iter_(?P<dist>[0-9.eE+-]+)")
_PCA_FILE = re.compile(r"pca_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_kernel=(?P<kernel>linear|poly|rbf)")
_UMAP_FILE = re.compile(r"umap_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_nbrs=(?P<k>\d+)"
                        r"_mindist=(?P<dist>[0-9.eE+-]+?)_mtrc=(?P<metric>[A-Za-z]+)")
TEACHER_KEY = "l3_embedding"
NPZ_KEY = "embedding"
AUDIO_KEY = "audio"
SPLITS = ("train", "validate", "test")
ROWS_PER_READ = 8192
_ROW_COLUMNS = ("recording", "frame", "start", "timestamp", "loudness",
                "source_shard", "source_row")
_RECORDING_COLUMNS = ("recordings/file", "recordings/sensor", "recordings/timestamp")
_TEXT_COLUMNS = ("recordings/file", "recordings/sensor")
_SUFFIXES = (".h5", ".hdf5", ".npz")
_LAYOUT = ("an artifact's folder, or *.h5 with 'l3_embedding' or a reduced key (pca_batch_…), "
           "or *.npz with 'embedding'; train/ and validate/ below are fine")


@dataclass(frozen=True)
class ReducedKey:
    """What a published key says: the reduction, the rows of its fit, the length of its output."""

    approx: str
    n: int
    d: int
    kernel: str = "linear"
    n_neighbors: int = 15
    min_dist: float = 0.3
    metric: str = "euclidean"

    def __str__(self) -> str:
        return reduced_key(self.approx, self.n, self.d, kernel=self.kernel,
                           n_neighbors=self.n_neighbors, min_dist=self.min_dist, metric=self.metric)


def reduced_key(
    approx: str, n: int, d: int, *, kernel: str = "linear", n_neighbors: int = 15,
    min_dist: float = 0.3, metric: str = "euclidean",
) -> str:
    """The dataset name of reduced embeddings, as published.

    'pca_batch_{n}_len_{d}_kernel_{kernel}' or
    'umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}'; without a
    reduction ('none') embeddings keep the name 'l3_embedding'. ``n`` counts the rows of the fit.
    """
    if approx == "pca":
        return f"pca_batch_{n}_len_{d}_kernel_{kernel}"
    if approx == "umap":
        return f"umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}"
    if approx == "none":
        return "l3_embedding"
    raise InputError(f"unknown reduction {approx!r}",
                     allowed=f"valid: {', '.join(APPROXIMATIONS)}")


def parse_key(name: str) -> ReducedKey | None:
    """What the dataset name, or the published estimator's file name, says; None for other names."""
    for pattern in (_PCA, _PCA_FILE):
        if found := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("pca", int(found["n"]), int(found["d"]), kernel=found["kernel"])
    for pattern in (_UMAP, _UMAP_FILE):
        if found := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("umap", int(found["n"]), int(found["d"]), n_neighbors=int(found["k"]),
                              min_dist=float(found["dist"]), metric=found["metric"])
    return None


@dataclass(frozen=True)
class Part:
    """One file of a source: a matrix (rows, dim) under ``key``.

    split: ``train``, ``validate`` or ``test`` where the file lies in such a folder, else None.
    wanted_key, wanted_dim: what the file must hold; None: see ``key``.
    """

    path: Path
    split: str | None = None
    wanted_key: str | None = None
    wanted_dim: int | None = None

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        return _npz_shapes(self.path) if self.path.suffix == ".npz" else _h5_shapes(self.path)

    @property
    def matrices(self) -> list[str]:
        """The names of all matrices in the file, whichever is read."""
        return [name for name in self._shapes if name != AUDIO_KEY]

    @cached_property
    def _shape(self) -> tuple[str, int, int]:
        shapes = self._shapes
        key = _choose_key(self.path, shapes, self.wanted_key)
        rows, dim = shapes[key]
        if not dim:
            raise InputError(f"'{key}' has shape {shapes[key]}", where=str(self.path),
                             allowed="(rows, dimensions), one dimension or more")
        if self.wanted_dim is not None and dim != self.wanted_dim:
            raise InputError(
                f"'{key}' has {dim} dimensions, {self.wanted_dim} expected",
                where=str(self.path), allowed="all files of one source share one dimension")
        return key, rows, dim

    @property
    def key(self) -> str:
        """Name of the matrix: as wanted, or the only matrix of the file."""
        return self._shape[0]

    @property
    def rows(self) -> int:
        """Number of embeddings."""
        return self._shape[1]

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._shape[2]

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop`` as float32, shape (stop - start, dim)."""
        stop = self.rows if stop is None else min(stop, self.rows)
        if self.path.suffix == ".npz":
            return self._floats(npz.read_npz(self.path, [self.key])[self.key][start:stop], start)
        with hdf5.open_hdf5(self.path) as file:
            return self._floats(hdf5.numeric_dataset(file, self.key)[start:stop], start)

    def chunks(self, size: int = ROWS_PER_READ) -> Iterator[np.ndarray]:
        """All rows in order, at most ``size`` at a time, as float32."""
        if self.path.suffix == ".npz":
            matrix = self.read()
            for start in range(0, self.rows, size):
                yield matrix[start:start + size]
            return
        with hdf5.open_hdf5(self.path) as file:
            data = hdf5.numeric_dataset(file, self.key)
            for start in range(0, self.rows, size):
                yield self._floats(data[start:start + size], start)

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The given rows in the given order, as float32; reads only blocks that hold some."""
        wanted = np.asarray(rows, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.rows):
            raise IndexError(f"{self.path}: row outside 0…{self.rows - 1}")
        if self.path.suffix == ".npz":
            return self.read()[wanted]
        out = np.empty((wanted.size, self.dim), np.float32)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        with hdf5.open_hdf5(self.path) as file:
            data = hdf5.numeric_dataset(file, self.key)
            step = data.chunks[0] if data.chunks else 1024
            edges = np.flatnonzero(np.diff(ordered // step)) + 1
            for places in np.split(np.arange(wanted.size), edges):
                if places.size:
                    low, high = ordered[places[0]], ordered[places[-1]] + 1
                    found = self._floats(data[low:high][ordered[places] - low], ordered[places])
                    out[order[places]] = found
        return out

    def _floats(self, block: np.ndarray, rows: int | np.ndarray) -> np.ndarray:
        return finite(block, self.path, rows, self.key)

    def provenance(self, only: Collection[str] | None = None) -> dict[str, np.ndarray] | None:
        """Where each row comes from, or None where the file does not tell.

        Per row: ``recording`` (index into the next three), ``frame``, ``start`` (s), ``timestamp``
        (unix s), ``loudness`` (dB(A)), and in samples ``source_shard``, ``source_row``. Per
        recording: ``recordings/file``, ``recordings/sensor`` (str objects),
        ``recordings/timestamp``. Only what the file has is there, and of that what ``only`` names
        (None: all).
        """
        if self.path.suffix == ".npz":
            return None
        with hdf5.open_hdf5(self.path) as file:
            if "recording" not in file or "recordings/file" not in file:
                return None
            columns = {}
            for name in (*_ROW_COLUMNS, *_RECORDING_COLUMNS):
                if name in file and (only is None or name in only):
                    columns[name] = (hdf5.read_strings(file, name) if name in _TEXT_COLUMNS
                                     else hdf5.numeric_dataset(file, name, dims=1)[()])
            recordings = len(hdf5.read_strings(file, "recordings/file"))
        for name, values in columns.items():
            wanted = self.rows if name in _ROW_COLUMNS else recordings
            if len(values) != wanted:
                raise InputError(f"'{name}' has {len(values)} rows, {wanted} expected",
                                 where=str(self.path), allowed=f"as many as '{self.key}'"
                                 if name in _ROW_COLUMNS else "as many as 'recordings/file'")
        which = columns.get("recording")
        if which is not None and len(which) and not (
                which.dtype.kind in "iu" and which.min() >= 0 and which.max() < recordings):
            raise InputError(f"'recording' refers to recordings outside 0 to {recordings - 1}",
                             where=str(self.path))
        return columns

    def attributes(self) -> dict[str, Any]:
        """The file's attributes; JSON texts (such as ``teacher``) are decoded."""
        if self.path.suffix == ".npz":
            return {}
        with hdf5.open_hdf5(self.path) as file:
            return {name: _plain(value)
                    for name, value in hdf5.read_attributes(file, self.path).items()}

    @cached_property
    def audio_shape(self) -> tuple[int, int] | None:
        """(rows, samples) of the dataset ``audio``, or None where there is none."""
        if self.path.suffix == ".npz":
            return None
        with hdf5.open_hdf5(self.path) as file:
            if AUDIO_KEY not in file:
                return None
            shape = tuple(hdf5.numeric_dataset(file, AUDIO_KEY).shape)
        if len(shape) == 3 and shape[1] == 1:
            shape = (shape[0], shape[2])
        if len(shape) != 2:
            raise InputError(f"'audio' has shape {shape}", where=str(self.path),
                             allowed="(N, samples) or (N, 1, samples)")
        return shape


@dataclass(frozen=True)
class Source:
    """All parts of one folder or file, in a fixed order. Files are opened only when needed.

    kind: ``artifact`` (parts are the tasks, in order) or ``published`` (parts sorted by path).
    """

    path: Path
    kind: str
    parts: list[Part] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name of the matrix in every part."""
        return self.parts[0].key

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.parts[0].dim

    @property
    def rows(self) -> int:
        """Rows of all parts; opens every file once and refuses a differing key or dimension."""
        return sum(part.rows for part in self.parts)

    def refuse_empty(self) -> None:
        """Raise ``InputError`` where no file has a row."""
        if not any(part.rows for part in self.parts):
            raise InputError(f"holds no embeddings: '{self.key}' has no rows", where=str(self.path),
                             allowed="at least one row")

    @property
    def splits(self) -> list[str]:
        """The splits that the folder layout gives (empty where it gives none)."""
        found = {part.split for part in self.parts}
        return [split for split in SPLITS if split in found]

    def of_split(self, split: str) -> list[Part]:
        """The parts in folder ``split``."""
        return [part for part in self.parts if part.split == split]

    def chunks(self, size: int = ROWS_PER_READ) -> Iterator[np.ndarray]:
        """All rows of all parts in order, at most ``size`` at a time."""
        for part in self.parts:
            yield from part.chunks(size)


def finite(block: np.ndarray, path: Path, rows: int | np.ndarray = 0,
           key: str | None = None) -> np.ndarray:
    """Rows of a file as float32; ``InputError`` names file and row where one is not finite.

    rows: the number of the block's first row in the file, or of each of its rows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(block, np.float32)
        flat = values.reshape(-1)
        looks_good = np.isfinite(np.dot(flat, flat))  # as fast as the memory, unlike isfinite
    if not looks_good:  # or the squares of large values overflow: look at each
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            row = rows[bad[0]] if isinstance(rows, np.ndarray) else rows + bad[0]
            raise InputError(
                f"row {row} {f'of {key!r} ' if key else ''}holds NaN or infinite values",
                where=str(path), allowed="finite numbers (rows count from 0)",
                hint="Compute the embeddings of that recording again, or remove the row.")
    return values


def open_source(path: Path | str, *, key: str | None = None, dim: int | None = None,
                tasks: Sequence[int] | None = None) -> Source:
    """The embeddings at a path: an artifact folder, a folder of published files, or one file.

    Parameters
    ----------
    path
        The folder or file.
    key
        The dataset to read (a reduced key, ``l3_embedding``, ``embedding``); None: the only matrix
        beside ``audio``, or of several the teacher's (``l3_embedding``; ``embedding`` in NPZ
        files). All files must agree with the first.
    dim
        The expected length of an embedding; None: that of the first file.
    tasks
        Of an artifact, the files of these tasks alone; the others are not even looked at.

    Returns
    -------
    Source
        Its files are opened only when they are read.

    Raises
    ------
    InputError
        A folder without embeddings, a missing or ambiguous key, a wrong dimension, a missing task,
        or a file that is not HDF5 or NPZ. The message says what was found and what is allowed.
    """
    path = Path(path)
    files: list[tuple[Path, str | None]]
    if path.is_file():
        kind, files = "published", [(path, None)]
    elif path.is_dir():
        kind, files = _artifact_files(path, tasks) or ("published", _published_files(path))
    else:
        raise InputError("no such folder or file of embeddings", where=str(path), allowed=_LAYOUT)
    if not files:
        raise InputError("holds no embeddings", where=str(path), allowed=_LAYOUT)
    first = Part(files[0][0], files[0][1], key, dim)
    parts = [first] + [Part(name, split, first.key, first.dim) for name, split in files[1:]]
    return Source(path, kind, parts)


def _artifact_files(
    path: Path, tasks: Sequence[int] | None,
) -> tuple[str, list[tuple[Path, str | None]]] | None:
    if tasks is not None:
        folders = [path / f"{number:04d}" for number in sorted(tasks)]
        for folder in folders:
            if not is_task_folder(folder):
                raise InputError(f"task {int(folder.name)} is missing", where=str(path),
                                 hint="Run that step to completion first: l3hpc resume RUN")
    else:
        folders = task_folders(path)
    if not folders and is_task_folder(path):
        folders = [path]
    if not folders:
        return None
    files: list[tuple[Path, str | None]] = []
    for folder in folders:
        files += [(name, split) for name, split in _published_files(folder)
                  if name.suffix == ".h5" and _matrices(name)]
    return "artifact", files


def _published_files(path: Path) -> list[tuple[Path, str | None]]:
    files: list[tuple[Path, str | None]] = []
    folds = sorted(path.glob("fold[0-9]*"))  # one file per clip of UrbanSound8K
    for folder, split in [(path, None), *((path / name, name) for name in SPLITS),
                          *((name, None) for name in folds)]:
        if folder.is_dir():
            files += [(name, split) for name in sorted(folder.iterdir())
                      if name.suffix in _SUFFIXES and not name.name.startswith(".")]
    return files


def _matrices(path: Path) -> Mapping[str, tuple[int, int]]:
    return {name: shape for name, shape in _h5_shapes(path).items() if name != AUDIO_KEY}


def _h5_shapes(path: Path) -> dict[str, tuple[int, int]]:
    with hdf5.open_hdf5(path) as file:
        return hdf5.matrix_shapes(file)


def _npz_shapes(path: Path) -> dict[str, tuple[int, int]]:
    return {name: (header.shape[0], header.shape[1]) for name, header in npz.headers(path).items()
            if len(header.shape) == 2 and header.dtype.kind in "fiu"}


def _choose_key(path: Path, shapes: Mapping[str, tuple[int, int]], wanted: str | None) -> str:
    names = [name for name in shapes if name != AUDIO_KEY]
    if wanted is not None:
        if wanted in names:
            return wanted
        found = nearest(wanted, names) if names else "it holds no matrix at all"
        raise InputError(f"holds no embeddings under '{wanted}'", where=str(path), allowed=found)
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError("holds no embeddings", where=str(path), allowed=_LAYOUT)
    usual = NPZ_KEY if path.suffix == ".npz" else TEACHER_KEY
    if usual in names:
        return usual
    raise InputError(f"holds several matrices: {', '.join(sorted(names))}", where=str(path),
                     allowed=f"one matrix, or one called '{usual}' among them",
                     hint="To train on one of them: --set train.embedding_key=NAME. Else rename or "
                          "remove the others.")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # text that only begins like JSON
            return value
    return value
