"""Pairs of a second of sound and an image, in HDF5 files of the published layout.

``audio`` (n, 1, samples) int16, ``video`` (n, size, size, 3) uint8, ``label`` (n, 2) uint8: column
0 for not matching, column 1 for matching. ``write_batch`` writes a file as a whole or not at all,
``Batches`` reads files by row number, and ``AvcData`` converts rows to the network's input.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from l3hpc.audio.frontends import Frontend
from l3hpc.audio.resample import resample_rows
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import fsync_folder, task_folders
from l3hpc.io.hdf5 import damage_error, numeric_dataset, open_hdf5

KEYS = ("audio", "video", "label")
SPLITS = ("train", "validate", "test")
MAX_OPEN = 64  # files
PAIRS_HINT = "{} makes pairs from videos; in the folder of its run they are artifacts/avc_pairs"
Example = tuple[np.ndarray, np.ndarray, int]  # sound, image, label


def write_batch(path: Path, examples: Iterable[Example], count: int,
                attributes: Mapping[str, Any] | None = None) -> None:
    """Write examples into one file, by one rename. Memory: one example.

    Parameters
    ----------
    path
        The file.
    examples
        Audio (samples,) int16, image (size, size, 3) uint8, and label (1: matching).
    count
        How many examples there are.
    attributes
        Attributes of the file.

    Raises
    ------
    InputError
        There are more or fewer examples.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the rename stays within one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            written = 0
            for number, (audio, image, label) in enumerate(examples):
                if number == 0:
                    _create_datasets(file, count, audio, image)
                if number >= count:
                    raise InputError(f"more than {count} examples", where=str(path))
                file["audio"][number, 0] = audio
                file["video"][number] = image
                file["label"][number] = np.eye(2, dtype=np.uint8)[label]
                written += 1
            if written != count:
                raise InputError(f"only {written} examples", where=str(path), allowed=f"{count}")
            file.attrs.update(attributes or {})
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _create_datasets(file: h5py.File, count: int, audio: np.ndarray, image: np.ndarray) -> None:
    """Create data sets with one chunk per example, since rows are read in any order."""
    for name, shape, kind in (("audio", (1, *audio.shape), np.int16),
                              ("video", image.shape, np.uint8), ("label", (2,), np.uint8)):
        chunk = (count if name == "label" else 1, *shape)
        # lzf, because it is fast to unpack, and every example is read once per epoch.
        packing = {} if name == "label" else {"compression": "lzf", "shuffle": name == "audio"}
        file.create_dataset(name, (count, *shape), kind, chunks=chunk, track_times=False, **packing)


def batch_files(folder: Path | str, split: str) -> list[Path]:
    """List the batch files of one split in an artifact or a folder, without opening them.

    Parameters
    ----------
    folder
        With ``<split>_*.h5``, or ``<split>/*.h5`` as published, in task folders or directly.
    split
        ``train``, ``validate`` or ``test``.

    Returns
    -------
    list of Path
        At least one.

    Raises
    ------
    InputError
        There are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of pairs", where=str(folder), hint=PAIRS_HINT.format(
            command_line("submit", "avc")))
    files = [path for parent in task_folders(folder) or [folder]
             for pattern in (f"{split}_*.h5", f"{split}/*.h5")
             for path in sorted(parent.glob(pattern))]
    if not files:
        raise InputError(f"holds no pairs for {split!r}", where=str(folder),
                         allowed=f"files {split}_*.h5, or a subfolder {split}",
                         hint=PAIRS_HINT.format(command_line("submit", "avc")))
    return files


@dataclass
class Batches:
    """The examples of some files as one long list, read by row number, in any order.

    Any thread may read.

    Attributes
    ----------
    files
        Batch files, in order.
    rows
        Number of examples.
    samples
        Samples of each sound.
    size
        Pixels of each image.

    Raises
    ------
    InputError
        A file lacks one of the three keys, has other sizes than the first, or has no valid labels.
    """

    files: list[Path]
    rows: int = field(init=False)
    samples: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.files = [Path(path) for path in self.files]
        if not self.files:
            raise InputError("no batch files", allowed="HDF5 files with audio, video and label")
        shapes = [_inspect(path) for path in self.files]
        for path, shape in zip(self.files, shapes, strict=True):
            if shape[1:] != shapes[0][1:]:
                raise InputError(f"has {shape[1]} samples and images of {shape[2]} pixels",
                                 where=str(path), allowed=f"{shapes[0][1]} and {shapes[0][2]}, as "
                                 f"in {self.files[0].name}")
        self.samples, self.size = shapes[0][1:]
        self._starts = np.concatenate([[0], np.cumsum([shape[0] for shape in shapes])])
        self.rows = int(self._starts[-1])
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def find(cls, folder: Path | str, split: str) -> Batches:
        """Find the batches of one split in an artifact or a folder.

        Parameters
        ----------
        folder
            With ``<split>_*.h5``, or ``<split>/*.h5`` as published, in task folders or directly.
        split
            ``train``, ``validate`` or ``test``.

        Returns
        -------
        Batches
            All files of the split.

        Raises
        ------
        InputError
            There are none.
        """
        return cls(batch_files(folder, split))

    @property
    def rate(self) -> int:
        """Samples per second: a sound lasts one second."""
        return self.samples

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read examples.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        audio
            (n, samples) int16.
        images
            (n, size, size, 3) uint8.
        labels
            (n, 2) uint8.

        Raises
        ------
        InputError
            A file is damaged.
        """
        rows = np.asarray(rows)
        audio = np.empty((len(rows), self.samples), np.int16)
        video = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        label = np.empty((len(rows), 2), np.uint8)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        with self._lock:  # an h5py file must not be used by two threads at once
            for number, (file, row) in enumerate(zip(files, rows - self._starts[files],
                                                     strict=True)):
                source = self._file(int(file))
                try:
                    audio[number] = source["audio"][row, 0]
                    video[number] = source["video"][row]
                    label[number] = source["label"][row]
                except (OSError, RuntimeError) as error:
                    raise damage_error(self.files[int(file)], error, f"example {row}") from None
        return audio, video, label

    def labels(self) -> np.ndarray:
        """All labels.

        Returns
        -------
        numpy.ndarray
            (rows,): 0 (not matching) or 1 (matching).
        """
        with self._lock:
            return np.concatenate([np.argmax(self._file(number)["label"][()], axis=1)
                                   for number in range(len(self.files))])

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """All row numbers in order.

        Parameters
        ----------
        size
            How many at a time.

        Yields
        ------
        numpy.ndarray
            At most ``size`` row numbers.
        """
        for first in range(0, self.rows, size):
            yield np.arange(first, min(first + size, self.rows))

    def close(self) -> None:
        """Close the open files; they are opened again when they are read."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _file(self, number: int) -> h5py.File:
        """An open file; the one that was not used for longest is closed for it."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[number] = open_hdf5(self.files[number])
        return self._open[number]


@dataclass(frozen=True)
class AvcData:
    """What the network takes, by row number: the ``TrainingData`` of ``l3hpc.models.training``.

    Audio of another rate than the front end's is resampled.

    Attributes
    ----------
    batches
        The examples.
    frontend
        The audio network's spectrogram.
    """

    batches: Batches
    frontend: Frontend

    def batch(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """The examples of some rows.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        inputs
            Spectrograms (n, bands, times, 1) and images (n, size, size, 3) in [-1, 1], float32.
        labels
            (n, 2) float32.
        """
        audio, video, label = self.batches.read(rows)
        sound = audio.astype(np.float32) / 32768
        if self.batches.rate != self.frontend.rate:
            sound = resample_rows(sound, self.batches.rate, self.frontend.rate)
        return ((self.frontend(sound)[..., np.newaxis], scale_images(video)),
                label.astype(np.float32))


def scale_images(video: np.ndarray) -> np.ndarray:
    """Pixels as the network takes them, as published.

    Parameters
    ----------
    video
        uint8.

    Returns
    -------
    numpy.ndarray
        float32 in [-1, 1].
    """
    return video.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def _inspect(path: Path) -> tuple[int, int, int]:
    """(examples, samples, image size) of a batch file."""
    with open_hdf5(path) as file:
        missing = [key for key in KEYS if not isinstance(file.get(key), h5py.Dataset)]
        if missing:
            raise InputError(f"has no {', '.join(missing)}", where=str(path),
                             allowed=f"data sets {', '.join(KEYS)}")
        audio, video, label = (file[key].shape for key in KEYS)
        kinds = [str(file[key].dtype) for key in ("audio", "video")]
        good = (len(audio) == 3 and audio[1] == 1 and len(video) == 4 and video[3] == 3
                and video[1] == video[2] and label[1:] == (2,)
                and audio[0] == video[0] == label[0] > 0)
        if not good or kinds != ["int16", "uint8"]:
            raise InputError(
                f"has audio {audio} {kinds[0]}, video {video} {kinds[1]}, label {label}",
                where=str(path), allowed="audio (n, 1, samples) int16, video (n, size, size, 3) "
                "uint8, label (n, 2)")
        # Now that shapes fit: no links, foreign storage or filters that cannot be read.
        for key in KEYS:
            numeric_dataset(file, key)
    return audio[0], audio[2], video[1]
