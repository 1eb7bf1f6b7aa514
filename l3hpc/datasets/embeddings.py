"""Read embedding matrices from disk, in bounded memory: artifacts and the published layouts.

A source is a folder (or one file). It is an *artifact* if it has numbered task folders with a
``result.json``; else *published*: HDF5 files with ``l3_embedding`` (and ``audio``) or one reduced
matrix under its published key, or NPZ files with ``embedding``, perhaps in ``train/``,
``validate/`` and ``test/``. Nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3hpc.audio.formats import is_sound
from l3hpc.datasets.embedding_file import (
    AUDIO_KEY,
    LAYOUT,
    TEACHER_KEY,
    EmbeddingFile,
    hdf5_shapes,
)
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import is_task_folder, task_folders, walk_files

APPROXIMATIONS = ("pca", "umap", "none")
SPLITS = ("train", "validate", "test")

# Published keys, and the names of the published estimators' files.
_PCA = re.compile(r"pca_batch_(?P<n>\d+)_len_(?P<d>\d+)_kernel_(?P<kernel>linear|poly|rbf)")
_UMAP = re.compile(r"umap_batch_(?P<n>\d+)_len_(?P<d>\d+)_k_(?P<k>\d+)_metric_(?P<metric>\w+?)"
                   r"_dist\|iter_(?P<dist>[0-9.eE+-]+)")
_PCA_FILE = re.compile(r"pca_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_kernel=(?P<kernel>linear|poly|rbf)")
_UMAP_FILE = re.compile(r"umap_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_nbrs=(?P<k>\d+)"
                        r"_mindist=(?P<dist>[0-9.eE+-]+?)_mtrc=(?P<metric>[A-Za-z]+)")
_SUFFIXES = (".h5", ".hdf5", ".npz")


@dataclass(frozen=True)
class ReducedKey:
    """What a published key states.

    Attributes
    ----------
    approx
        The reduction: ``pca`` or ``umap``.
    n
        Rows of its fit.
    d
        Length of its output.
    kernel
        Of PCA.
    n_neighbors, min_dist, metric
        Of UMAP.
    """

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
    """The published dataset name of reduced embeddings.

    'pca_batch_{n}_len_{d}_kernel_{kernel}' or
    'umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}'; without a
    reduction ('none') embeddings keep the name 'l3_embedding'.

    Parameters
    ----------
    approx
        ``pca``, ``umap`` or ``none``.
    n
        Rows of the fit.
    d
        Length of the output.
    kernel
        Of PCA.
    n_neighbors
        Of UMAP.
    min_dist
        Of UMAP.
    metric
        Of UMAP.

    Returns
    -------
    str
        The name.

    Raises
    ------
    InputError
        Unknown reduction.

    Examples
    --------
    >>> reduced_key("pca", 500_000, 128)
    'pca_batch_500000_len_128_kernel_linear'
    """
    if approx == "pca":
        return f"pca_batch_{n}_len_{d}_kernel_{kernel}"
    if approx == "umap":
        return f"umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}"
    if approx == "none":
        return TEACHER_KEY
    raise InputError(f"unknown reduction {approx!r}",
                     allowed=f"valid: {', '.join(APPROXIMATIONS)}")


def parse_key(name: str) -> ReducedKey | None:
    """Parse a published dataset name, or the file name of a published estimator.

    Parameters
    ----------
    name
        The name.

    Returns
    -------
    ReducedKey or None
        None for any other name.
    """
    for pattern in (_PCA, _PCA_FILE):
        if match := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("pca", int(match["n"]), int(match["d"]), kernel=match["kernel"])
    for pattern in (_UMAP, _UMAP_FILE):
        if match := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("umap", int(match["n"]), int(match["d"]), n_neighbors=int(match["k"]),
                              min_dist=float(match["dist"]), metric=match["metric"])
    return None


def approx_of(key: str) -> str:
    """The reduction in a published dataset key.

    Parameters
    ----------
    key
        Name of the matrix.

    Returns
    -------
    str
        ``pca``, ``umap`` or ``none``.
    """
    head = key.split("_", 1)[0]
    return head if head in ("pca", "umap") else "none"


@dataclass(frozen=True)
class EmbeddingSource:
    """All files of one folder, or one file, in a fixed order. Files are opened when they are read.

    Attributes
    ----------
    path
        The folder or file.
    kind
        ``artifact`` (files are in the order of the tasks) or ``published`` (sorted by path).
    parts
        The files.
    """

    path: Path
    kind: str
    parts: list[EmbeddingFile] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name of the matrix in every file."""
        return self.parts[0].key

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.parts[0].dim

    @property
    def rows(self) -> int:
        """Rows of all files; opens each once and refuses a differing key or dimension."""
        return sum(part.rows for part in self.parts)

    def refuse_empty(self) -> None:
        """Check that there is at least one row.

        Raises
        ------
        InputError
            No file has a row.
        """
        if not any(part.rows for part in self.parts):
            raise InputError(f"holds no embeddings: '{self.key}' has no rows", where=str(self.path),
                             allowed="at least one row")

    @property
    def splits(self) -> list[str]:
        """The splits of the folder layout (empty without such a layout)."""
        found = {part.split for part in self.parts}
        return [split for split in SPLITS if split in found]

    def of_split(self, split: str) -> list[EmbeddingFile]:
        """The files in the folder of a split.

        Parameters
        ----------
        split
            ``train``, ``validate`` or ``test``.

        Returns
        -------
        list of EmbeddingFile
            May be empty.
        """
        return [part for part in self.parts if part.split == split]

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Read all rows of all files in order.

        Parameters
        ----------
        size
            Rows at a time; None: see ``arrays.rows.block_rows``.

        Yields
        ------
        numpy.ndarray
            (at most ``size``, dim) float32.

        Raises
        ------
        InputError
            A value is not finite.
        """
        for part in self.parts:
            yield from part.chunks(size)


def open_source(path: Path | str, *, key: str | None = None, dim: int | None = None,
                tasks: Sequence[int] | None = None) -> EmbeddingSource:
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
        Of an artifact, the files of these tasks alone; the others are not opened.

    Returns
    -------
    Source
        Its files are opened only when they are read.

    Raises
    ------
    InputError
        A folder without embeddings, a missing or ambiguous key, a wrong dimension, a missing task,
        or a file that is not HDF5 or NPZ.
    """
    path = Path(path)
    files: list[tuple[Path, str | None]]
    if path.is_file():
        kind, files = "published", [(path, None)]
    elif path.is_dir():
        kind, files = _artifact_files(path, tasks) or ("published", _published_files(path))
    else:
        raise InputError("no such folder or file of embeddings", where=str(path), allowed=LAYOUT)
    if not files:
        raise InputError("holds no embeddings", where=str(path), allowed=LAYOUT)
    # Only the first file is opened now; the others must agree with it when they are read.
    first = EmbeddingFile(files[0][0], files[0][1], key, dim)
    parts = [first, *(EmbeddingFile(name, split, first.key, first.dim)
                      for name, split in files[1:])]
    return EmbeddingSource(path, kind, parts)


def audio_of(folder: Path, name: Path) -> Path | None:
    """The HDF5 file of audio whose rows are those of a file of embeddings.

    Parameters
    ----------
    folder
        Folder of audio.
    name
        The file of embeddings, relative to its folder.

    Returns
    -------
    Path or None
        Of the same name and subfolder, or the same name; None if there is none.
    """
    inside = Path(*name.parts[1:]) if len(name.parts) > 1 else name  # without the task's folder
    for candidate in (folder / name, folder / inside, folder / name.name):
        for suffix in (name.suffix, ".h5", ".hdf5"):
            path = candidate.with_suffix(suffix)
            if suffix != ".npz" and path.is_file():
                return path
    return None


def refuse_missing_audio(embeddings: EmbeddingSource, audio: Path) -> None:
    """Check that every file of embeddings has a file of audio, by name.

    Parameters
    ----------
    embeddings
        Files that are paired with audio by row.
    audio
        Folder of audio.

    Raises
    ------
    InputError
        With the counts and the first names.
    """
    base = embeddings.path if embeddings.path.is_dir() else embeddings.path.parent
    names = [part.path.relative_to(base) for part in embeddings.parts]
    missing = [name for name in names if audio_of(Path(audio), name) is None]
    if not missing:
        return
    is_ordinary = any(is_sound(path) and path.stem == missing[0].stem
                      for path in walk_files(Path(audio)))
    raise InputError(
        f"no audio for {len(missing):,} of {len(names):,} files of embeddings: "
        f"{', '.join(map(str, missing[:5]))}{', …' * (len(missing) > 5)}", where=str(audio),
        allowed="an HDF5 file with 'audio' of the same name and subfolder",
        hint="Embeddings of ordinary sound files are matched by time if they are the teacher: "
             f"{command_line('submit', 'upstream', '--weights', base)}, without --from and "
             "--embedding-dir" if is_ordinary else "")


def _artifact_files(
    path: Path, tasks: Sequence[int] | None,
) -> tuple[str, list[tuple[Path, str | None]]] | None:
    if tasks is not None:
        # Not listed: a task that needs two folders of a thousand does not ask the file server for
        # all.
        folders = [path / f"{number:04d}" for number in sorted(tasks)]
        for folder in folders:
            if not is_task_folder(folder):
                raise InputError(f"task {int(folder.name)} is missing", where=str(path),
                                 hint="Run that step to completion first: "
                                      + command_line("resume", "RUN"))
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
    return {name: shape for name, shape in hdf5_shapes(path).items() if name != AUDIO_KEY}
