"""A sample of a corpus: rows of each time frame of each sensor, selected and written to a file.

Embeddings are read frame by frame, never the whole corpus at once. The file names the recording
and position of every row, and the figures of merit of every frame's selection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.arrays.rows import (
    ConcatRows,
    Rows,
    RowSource,
    SubsetRows,
    block_rows,
    is_contiguous,
    rechunk,
)
from l3hpc.console.progress import Progress
from l3hpc.datasets.embedding_file import EmbeddingFile
from l3hpc.datasets.embeddings import EmbeddingSource
from l3hpc.errors import InputError, option
from l3hpc.io.files import digest
from l3hpc.sampling.selection import Selection, relative_loudness, select, time_frames

if TYPE_CHECKING:
    import h5py

NO_SENSOR = "all"  # stands for the sensor of files that name none
COLUMNS = ("recording", "timestamp", "loudness", "recordings/sensor")
# A frame up to this size is read once and kept; of a larger one, the sampler reads every row four
# times. A day of one sensor at the published scale has 42 MB.
FRAME_BYTES = 64 << 20
KEPT_BYTES = 256 << 20  # of selected embeddings, which are read again beyond that
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class PartRows:
    """The matrix of one file as ``Rows``.

    Attributes
    ----------
    part : Part
        The file.
    """

    part: EmbeddingFile

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.part.rows, self.part.dim

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """All rows in order."""
        return self.part.chunks(size)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows by number."""
        if is_contiguous(indices):
            return self.part.read(int(indices[0]), int(indices[-1]) + 1)
        return self.part.take(indices)


class EmbeddingCorpus:
    """Embeddings of several files as one matrix, with what is known of its rows.

    Parameters
    ----------
    source
        The files: those of all tasks of the step extract, or of some.
    """

    def __init__(self, source: EmbeddingSource) -> None:
        self.source = source
        self.parts = list(source.parts)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.source.dim

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What the selection needs of every row, 16 bytes in all.

        ``sensor`` (int32, index into ``self.names``), ``timestamp`` (float64, Unix seconds) and
        ``loudness`` (float32, dB(A)); NaN where a file has none.
        """
        names: dict[str, int] = {}
        count = sum(part.rows for part in self.parts)
        columns: dict[str, np.ndarray] = {
            "sensor": np.empty(count, np.int32), "timestamp": np.empty(count),
            "loudness": np.empty(count, np.float32)}
        start = 0
        for part in self.parts:
            values = part.provenance(COLUMNS) or {}
            named = values.get("recordings/sensor")
            sensors = np.array([names.setdefault(name, len(names))
                                for name in ([NO_SENSOR] if named is None else named)])
            here = slice(start, start + part.rows)
            columns["sensor"][here] = sensors[0 if named is None else values["recording"]]
            for name in ("timestamp", "loudness"):
                columns[name][here] = values.get(name, np.nan)
            start += part.rows
        self.names = list(names)
        return columns

    def provenance(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Where rows come from.

        Parameters
        ----------
        rows
            Row numbers, shape (n,).

        Returns
        -------
        dict
            Columns of n values in the order of ``rows``: ``file`` and ``sensor`` (str objects),
            ``frame`` (number of the window), ``start`` (s), ``timestamp`` (Unix s), ``loudness``
            (dB(A)), ``source_shard`` and ``source_row``. Where a file lacks a column: NaN, for the
            frame the row number, and for the file its own name.
        """
        kinds = {"file": object, "sensor": object, "frame": np.int64, "start": np.float64,
                 "timestamp": np.float64, "loudness": np.float32, "source_shard": np.int64,
                 "source_row": np.int64}
        columns = {name: np.empty(len(rows), kind) for name, kind in kinds.items()}
        starts = np.cumsum([0, *(part.rows for part in self.parts)])
        # "right" passes over empty files, which begin where the next one does.
        part_of = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(part_of):
            part, here = self.parts[number], np.flatnonzero(part_of == number)
            local = rows[here] - starts[number]
            values = part.provenance() or {}
            which = values.get("recording", np.zeros(part.rows, np.int32))[local]
            for name, default in (("file", part.path.name), ("sensor", NO_SENSOR)):
                per_recording = values.get(f"recordings/{name}")
                columns[name][here] = default if per_recording is None else per_recording[which]
            for name in ("frame", "start", "timestamp", "loudness"):
                default = local if name == "frame" else np.nan
                columns[name][here] = values[name][local] if name in values else default
            columns["source_shard"][here] = _task_number(part, int(number))
            columns["source_row"][here] = local
        return columns

    @cached_property
    def rows(self) -> Rows:
        """All embeddings, readable by row number."""
        return ConcatRows([PartRows(part) for part in self.parts])

    def sensors(self) -> list[str]:
        """The sensors in alphabetical order."""
        return sorted(self.names[number] for number in np.unique(self.columns["sensor"]))

    def rows_of(self, sensor: str) -> np.ndarray:
        """Ascending row numbers of one sensor."""
        column = self.columns["sensor"]
        if sensor not in self.names:
            return np.empty(0, np.int64)
        return np.flatnonzero(column == self.names.index(sensor))


@dataclass(frozen=True)
class FrameSelection:
    """The rows selected from one time frame of a sensor.

    Attributes
    ----------
    sensor, frame : str
        Names of the sensor and of the frame.
    rows : ndarray of int64
        Row numbers of the corpus.
    selection : Selection
        The selection within the frame.
    embeddings : ndarray of float32 or None
        The embeddings of ``rows``, if they were kept.
    """

    sensor: str
    frame: str
    rows: np.ndarray
    selection: Selection
    embeddings: np.ndarray | None = None


def select_frames(
    corpus: EmbeddingCorpus, sensor: str, samples: int, *, method: str, timescale: str,
    timezone: str, epsilon: float, norm: str, seed: int, progress: Progress | None = None,
    keep_bytes: int = KEPT_BYTES,
) -> list[FrameSelection]:
    """Select ceil(samples / frames) rows in every time frame of a sensor.

    Parameters
    ----------
    corpus
        The embeddings.
    sensor
        Name of the sensor.
    samples
        Rows to select from all frames together.
    method, epsilon, norm
        As for ``select``.
    timescale, timezone
        As for ``time_frames``.
    seed
        Each frame has its own random stream, seeded by (seed, sensor, label of the frame), so that
        its selection does not depend on what else is sampled.
    progress
        Is advanced by every frame.
    keep_bytes
        Size up to which selected embeddings that were read are kept for ``write_sample``.

    Returns
    -------
    list of FrameSelection
        One per frame, in chronological order; empty for a sensor without rows.

    Raises
    ------
    InputError
        For a method that needs loudness, where rows have none.
    """
    progress = progress or Progress()
    own = corpus.rows_of(sensor)
    if not len(own):
        return []
    # A task usually has one sensor: then these are views of the columns, not copies.
    here = slice(int(own[0]), int(own[-1]) + 1) if is_contiguous(own) else own
    del own
    timestamps = corpus.columns["timestamp"][here]
    frames = time_frames(timestamps, timescale, timezone)
    count = -(-samples // len(frames))
    relevance = None
    if method in ("spl", "dpp"):
        levels = corpus.columns["loudness"][here]
        if np.isnan(levels).any():
            raise InputError(f"sampling method {method!r} needs the loudness of every row",
                             where=str(corpus.source.path),
                             allowed="dpp-div and random do not need it",
                             hint=f"Use {option('sampling', 'dpp-div', sets='method')}")
        relevance = relative_loudness(levels, timestamps, timezone)
    progress.start(f"sampling {sensor}", total=len(frames), unit=f"{timescale}s")
    selections = []
    for label, members in frames:
        # A generator for each frame: its sample does not change with the other sensors and frames
        # that the same task happens to have.
        rng = np.random.default_rng(np.random.SeedSequence(
            [seed, int(digest(sensor), 16), int(digest(label), 16)]))
        numbers = members + here.start if isinstance(here, slice) else here[members]
        rows = _FrameRows(corpus, numbers)
        selection = select(method, rows, None if relevance is None else relevance[members], count,
                           rng, epsilon, norm, count=len(members))
        # Read again, the selected rows would be most of the file: a few of every block.
        kept = None
        if rows.read is not None and 4 * corpus.dim * len(selection.rows) <= keep_bytes:
            kept = rows.read[selection.rows]
            keep_bytes -= kept.nbytes
        selections.append(
            FrameSelection(sensor, label, numbers[selection.rows], selection, kept))
        progress.advance(1, rows=sum(len(one.rows) for one in selections))
    return selections


class _FrameRows:
    """Reads the embeddings of a frame when a sampler needs them: at once if small, else in blocks.

    read : ndarray or None
        The embeddings, once they were read at once.
    """

    def __init__(self, corpus: EmbeddingCorpus, rows: np.ndarray) -> None:
        self.corpus, self.rows = corpus, rows
        self.read: np.ndarray | None = None

    def __call__(self) -> RowSource:
        if len(self.rows) * self.corpus.dim * 4 > FRAME_BYTES:
            return SubsetRows(self.corpus.rows, self.rows)
        self.read = self.corpus.rows.take(self.rows)
        return self.read


def write_sample(
    path: Path, corpus: EmbeddingCorpus, selections: Sequence[FrameSelection],
    settings: Mapping[str, Any],
) -> None:
    """Write the selected rows, their provenance and the figures of merit of every frame.

    Parameters
    ----------
    path
        The HDF5 file.
    corpus
        The embeddings.
    selections
        What ``select_frames`` returned, of all sensors.
    settings
        JSON values, kept as the attribute ``sampling``.
    """
    import h5py

    rows = np.concatenate([np.empty(0, np.int64), *(one.rows for one in selections)])
    columns = corpus.provenance(rows)
    files, first, recording = np.unique(
        columns.pop("file").astype(str), return_index=True, return_inverse=True)
    sensors = columns.pop("sensor")[first]
    attributes = corpus.parts[0].attributes()
    teacher = attributes.get("teacher") or {}
    with h5py.File(path, "w") as file:
        # Chunks of whole rows: rows are what every reader asks for, and h5py's own choice of chunks
        # was several times slower to read by rows.
        data = file.create_dataset("l3_embedding", (len(rows), corpus.dim), "f4",
                                   chunks=(min(CHUNK_ROWS, len(rows)), corpus.dim) if len(rows)
                                   else None)
        at = 0
        for block in rechunk(_selected(corpus, selections)):
            data[at:at + len(block)] = block
            at += len(block)
        file.create_dataset("recording", data=recording.astype("i4"))
        for name, column in columns.items():
            file.create_dataset(name, data=column)
        text = h5py.string_dtype()
        table = file.create_group("recordings")
        table.create_dataset("file", data=files.astype(object), dtype=text)
        table.create_dataset("sensor", data=sensors, dtype=text)
        # When a recording began: the time of any of its rows, minus where the row starts.
        table.create_dataset("timestamp", data=(columns["timestamp"] - columns["start"])[first])
        _write_frames(file.create_group("frames"), selections, text)
        file.attrs["teacher"] = json.dumps(dict(teacher))
        file.attrs["sampling"] = json.dumps(dict(settings))
        if isinstance(attributes.get("audio"), str):
            file.attrs["audio"] = attributes["audio"]


def _selected(corpus: EmbeddingCorpus, selections: Sequence[FrameSelection]
              ) -> Iterator[np.ndarray]:
    """The embeddings of all selected rows: kept ones, and others read again."""
    for one in selections:
        if one.embeddings is not None:
            yield one.embeddings
            continue
        size = block_rows(corpus.dim)
        for start in range(0, len(one.rows), size):
            yield corpus.rows.take(one.rows[start:start + size])


def _write_frames(group: h5py.Group, selections: Sequence[FrameSelection], text: np.dtype) -> None:
    group.create_dataset("sensor", data=[one.sensor for one in selections], dtype=text)
    group.create_dataset("label", data=[one.frame for one in selections], dtype=text)
    numbers = {
        "rows": [len(one.rows) for one in selections],
        "available": [one.selection.available for one in selections],
        "requested": [one.selection.requested for one in selections],
        "diverse": [len(one.selection.diverse) for one in selections],
        "expected_diverse": [one.selection.expected_diverse for one in selections],
        "log_det": [one.selection.log_det for one in selections],
        "log_likelihood": [one.selection.log_likelihood for one in selections],
    }
    for name, values in numbers.items():
        group.create_dataset(name, data=np.asarray(values))


def _task_number(part: EmbeddingFile, number: int) -> int:
    """The number of the task that wrote the file, or the file's own where it is published."""
    name = part.path.parent.name
    return int(name) if name.isdigit() else number
