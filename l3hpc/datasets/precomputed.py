"""Precomputed embeddings: files beside audio, matched with its recordings by name and time.

Embeddings that another program has already computed can be used in place of a teacher. The file of
``park/a.wav`` is ``park/a.npz`` (or ``.h5``, ``.hdf5``) in the folder of embeddings, which may be
the folder of audio. It holds a matrix and ``timestamps``, the time of each row in seconds, as
``l3hpc embed``, openl3 and edgel3 write them. Row and window belong together if their times differ
by a millisecond at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from l3hpc.audio.files import Contents, is_hdf5
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.datasets.corpus import Recording
from l3hpc.datasets.embedding_file import EmbeddingFile
from l3hpc.datasets.extraction import Extraction
from l3hpc.datasets.windows import Piece, evenly_spaced, window_count
from l3hpc.errors import InputError, setting
from l3hpc.io import hdf5, npz
from l3hpc.io.files import digest, walk_files

SUFFIXES = (".npz", ".h5", ".hdf5")
TIMES = "timestamps"
TOLERANCE_S = 0.001
RATE = 8000  # Hz; audio is read for its length and loudness alone
# recordings whose times are compared before submission; a task compares those of all that it has
CHECKED = 1000
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class PrecomputedEmbeddings:
    """A folder of embeddings.

    Attributes
    ----------
    folder
        The files of embeddings, with subfolders.
    window_s
        Length of the windows that the embeddings describe, in seconds.
    """

    folder: Path
    window_s: float = 1.0
    rate = RATE
    engine_name = "none"

    @property
    def label(self) -> str:
        """One line that names it."""
        return f"embeddings in {self.folder.name}"

    @cached_property
    def files(self) -> dict[str, Path]:
        """Path of a recording without its suffix → its file."""
        found: dict[str, Path] = {}
        for path in walk_files(self.folder):
            if path.suffix.lower() not in SUFFIXES or _is_audio(path):
                continue
            other = found.setdefault(_stem(path.relative_to(self.folder).as_posix()), path)
            if other != path:
                raise InputError(f"{other.name} and {path.name} are embeddings of one recording",
                                 where=str(path.parent), allowed="one file per recording")
        if not found:
            raise InputError("holds no embeddings", where=str(self.folder),
                             allowed="NPZ or HDF5 files with the names of the recordings, each "
                                     f"with a matrix and '{TIMES}'",
                             hint="Or give a model: a weight file, or another teacher")
        return found

    @cached_property
    def dim(self) -> int:
        """Length of an embedding, in the first file."""
        return EmbeddingFile(next(iter(self.files.values()))).dim

    @property
    def fingerprint(self) -> str:
        """Digest of names, sizes and times of change."""
        status = ((name, path.stat()) for name, path in sorted(self.files.items()))
        return digest([[name, one.st_size, one.st_mtime_ns] for name, one in status])

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the rows that ``PrecomputedExtraction`` put in the place of windows."""
        if on_batch is not None:
            on_batch(len(frames))
        return np.asarray(frames[:])

    def rows_of(self, file: str, windows: int, hop: float) -> tuple[int, np.ndarray]:
        """Find the rows that belong to the windows of a recording.

        Rows between the windows are ignored: embeddings every 0.1 s serve a hop of 0.5 s. Windows
        before the first row and after the last have none.

        Parameters
        ----------
        file
            The recording, relative to the folder of audio.
        windows
            How many windows it has.
        hop
            Seconds from one window to the next.

        Returns
        -------
        first : int
            Number of the first window that has a row.
        rows : numpy.ndarray
            (n,) row numbers, of this window and the n - 1 after it.

        Raises
        ------
        InputError
            There is no file, it has no times, or they are not those of the windows.
        """
        path = self.files.get(_stem(file))
        if path is None:
            raise InputError("has no embeddings", where=file,
                             allowed=f"{_stem(file)}.npz in {self.folder}")
        times = _times(path)
        if times.min() < -TOLERANCE_S:
            raise InputError(f"has times from {times.min():g} s, before the recording begins",
                             where=str(path), allowed="0 s or later")
        if times.max() > (windows - 1) * hop + self.window_s + TOLERANCE_S:
            raise InputError(f"has times up to {times.max():g} s, but the last of the recording's "
                             f"{windows} windows is at {(windows - 1) * hop:g} s", where=str(path))
        order = np.argsort(times, kind="stable")
        numbers = np.rint(times[order] / hop).astype(np.int64)
        fits = (np.abs(times[order] - numbers * hop) <= TOLERANCE_S) & (numbers >= 0)
        numbers, rows = numbers[fits & (numbers < windows)], order[fits & (numbers < windows)]
        if not len(rows) or (np.diff(numbers) != 1).any():
            shown = ", ".join(f"{time:g}" for time in np.sort(times)[:SHOWN])
            raise InputError(f"has times {shown}, … s, not those of windows every {hop:g} s",
                             where=str(path), allowed=f"a row at each multiple of {hop:g} s")
        return int(numbers[0]), rows

    def check(self, audio: Path, recordings: Sequence[Recording], hop: float, center: bool,
              others: bool = False) -> None:
        """Refuse embeddings that do not match the recordings by name and time.

        All names are compared, and the times of up to ``CHECKED`` recordings.

        Parameters
        ----------
        audio, recordings
            The folder of audio, and its recordings.
        hop, center
            Of the windows, as for ``read_pieces``.
        others
            Whether there may be embeddings of other recordings.

        Raises
        ------
        InputError
            With the counts and the first names.
        """
        rows_of_audio = [one.file for one in recordings if is_hdf5(Path(one.file))]
        if rows_of_audio:
            raise InputError(_some(rows_of_audio, recordings, "recordings are HDF5 files, whose "
                                   "rows have no times"), where=str(audio),
                             hint="Embeddings of HDF5 audio are matched by row: "
                                  "--from sample --embedding-dir FOLDER")
        stems = [_stem(one.file) for one in recordings]
        silent = [one.file for one, stem in zip(recordings, stems, strict=True)
                  if stem not in self.files]
        extra = [] if others else [
            str(self.files[stem].relative_to(self.folder))
            for stem in sorted(self.files.keys() - set(stems))]
        # both in one message: with another naming of files, neither has a partner
        wrong = [text for names, total, what in (
            (silent, recordings, "recordings have no embeddings"),
            (extra, self.files, "files of embeddings have no recording"))
            if (text := _some(names, total, what))]
        if wrong:
            raise InputError("; ".join(wrong), where=str(self.folder),
                             allowed=f"for each recording in {audio} a file of the same name and "
                                     f"subfolder with the suffix {', '.join(SUFFIXES)}")
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InputError(f"several recordings are called {twice}", where=str(audio),
                             allowed="one recording of each name in a folder")
        self._check_contents(audio, evenly_spaced(recordings, CHECKED), hop, center)

    def _check_contents(self, audio: Path, recordings: Sequence[Recording], hop: float,
                        center: bool) -> None:
        errors: list[InputError] = []
        for recording in recordings:
            try:
                found = EmbeddingFile(self.files[_stem(recording.file)], None, None, self.dim)
                windows = window_count(audio / recording.file, hop, center, self.window_s)
                # a recording that cannot be read is left to the task, which counts them
                if windows:
                    self.rows_of(recording.file, windows, hop)
                if len(_times(found.path)) != found.rows:
                    raise InputError(f"has {found.rows} embeddings and {len(_times(found.path))} "
                                     "times", where=str(found.path))
            except InputError as error:
                errors.append(error)
        if errors:
            first = errors[0]
            names = [Path(error.where or "").name for error in errors]
            raise InputError(
                f"{_some(names, recordings, 'files do not match their recordings')}; "
                f"the first {first.message}", where=str(self.folder), allowed=first.allowed,
                hint=f"Set the hop of the embeddings: {setting('extract.hop', 'SECONDS')}; and, "
                     f"where times are starts of windows, {setting('extract.center', 'false')}")


class PrecomputedExtraction(Extraction):
    """An extraction whose embeddings are read, not computed; audio gives times and loudness."""

    network: PrecomputedEmbeddings

    def _pieces(self, recording: Recording, start: int, contents: Contents) -> Iterator[Piece]:
        windows = window_count(self.folder / recording.file, self.hop, self.center,
                               self.network.window_s)
        first, rows = self.network.rows_of(recording.file, windows, self.hop)
        file = EmbeddingFile(self.network.files[_stem(recording.file)], None, None,
                             self.network.dim)
        embeddings = file.take(rows)
        for piece in super()._pieces(recording, start, contents):
            low = max(first, piece.first)
            high = min(first + len(rows), piece.first + len(piece.windows))
            if low < high:
                part = slice(low - piece.first, high - piece.first)
                yield replace(piece, first=low, windows=embeddings[low - first:high - first],
                              starts=piece.starts[part],
                              levels=None if piece.levels is None else piece.levels[part])


def _stem(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def _is_audio(path: Path) -> bool:
    """Whether an HDF5 file is a recording, with or without embeddings beside its audio."""
    if not is_hdf5(path):
        return False
    with hdf5.open_hdf5(path) as file:
        return "audio" in file


def _times(path: Path) -> np.ndarray:
    """The seconds of the rows of a file, (rows,) float64."""
    if npz.is_npz(path):
        if TIMES not in npz.headers(path):
            raise InputError(f"has no '{TIMES}'", where=str(path), allowed=f"'{TIMES}' in seconds")
        times = npz.read_npz(path, [TIMES])[TIMES]
    else:
        with hdf5.open_hdf5(path) as file:
            if TIMES not in file:
                raise InputError(f"has no '{TIMES}'", where=str(path),
                                 allowed=f"'{TIMES}' in seconds")
            times = hdf5.numeric_dataset(file, TIMES, dims=1)[()]
    if times.ndim != 1 or not len(times) or times.dtype.kind not in "fiu" \
            or not np.isfinite(times).all():
        raise InputError(f"has '{TIMES}' that are not finite numbers", where=str(path),
                         allowed="seconds, one for each embedding")
    return times.astype(np.float64)


def _some(names: Sequence[str], total: Sequence[object] | dict[str, Path], what: str) -> str:
    """``3 of 40 recordings have no embeddings: a.wav, b.wav, c.wav``; empty without names."""
    if not names:
        return ""
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names):,} of {len(total):,} {what}: {', '.join(names[:SHOWN])}{more}"
