"""A subset of a corpus: rows of each time frame of each sensor, chosen and written with provenance.

Works on files: embeddings are read frame by frame, never the whole corpus at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.rows import BLOCK_ROWS, ConcatRows, Rows, SubsetRows, is_contiguous
from l3hpc.console.progress import Progress
from l3hpc.datasets.embeddings import Part, Source
from l3hpc.errors import InputError
from l3hpc.io.files import digest
from l3hpc.sampling.selection import Selection, relative_loudness, select, time_frames

ALL = "all"
COLUMNS = ("recording", "timestamp", "loudness", "recordings/sensor")
FRAME_BYTES = 32 << 20  # a frame up to this size is read at once
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class PartRows:
    """One file's matrix as ``Rows``."""

    part: Part

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.part.rows, self.part.dim

    def chunks(self, size: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
        """All rows in order."""
        return self.part.chunks(size)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows by number."""
        if is_contiguous(indices):
            return self.part.read(int(indices[0]), int(indices[-1]) + 1)
        return self.part.take(indices)


class Corpus:
    """The teacher's embeddings of some extract tasks, or of all."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts = list(source.parts)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.source.dim

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What choosing needs of every row: ``sensor`` (index into ``self.names``), ``timestamp``
        and ``loudness`` (NaN where a file does not tell). 16 bytes per row."""
        self.source.refuse_empty()
        names: dict[str, int] = {}
        count = sum(part.rows for part in self.parts)
        found: dict[str, np.ndarray] = {
            "sensor": np.empty(count, np.int32), "timestamp": np.empty(count),
            "loudness": np.empty(count, np.float32)}
        start = 0
        for part in self.parts:
            values = part.provenance(COLUMNS) or {}
            known = values.get("recordings/sensor")
            sensors = np.array([names.setdefault(name, len(names))
                                for name in ([ALL] if known is None else known)])
            here = slice(start, start + part.rows)
            found["sensor"][here] = sensors[0 if known is None else values["recording"]]
            for name in ("timestamp", "loudness"):
                found[name][here] = values.get(name, np.nan)
            start += part.rows
        self.names = list(names)
        return found

    def provenance(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Where the given rows come from, in their order.

        ``file`` and ``sensor`` (str objects), ``frame``, ``start``, ``timestamp``, ``loudness``,
        ``source_shard`` and ``source_row``; what a file does not tell is NaN, its row number, or
        its own name.
        """
        kinds = {"file": object, "sensor": object, "frame": np.int64, "start": np.float64,
                 "timestamp": np.float64, "loudness": np.float32, "source_shard": np.int64,
                 "source_row": np.int64}
        found = {name: np.empty(len(rows), kind) for name, kind in kinds.items()}
        starts = np.cumsum([0, *(part.rows for part in self.parts)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owner):
            part, here = self.parts[number], np.flatnonzero(owner == number)
            local = rows[here] - starts[number]
            values = part.provenance() or {}
            which = values.get("recording", np.zeros(part.rows, np.int32))[local]
            for name, unknown in (("file", part.path.name), ("sensor", ALL)):
                known = values.get(f"recordings/{name}")
                found[name][here] = unknown if known is None else known[which]
            for name in ("frame", "start", "timestamp", "loudness"):
                unknown = local if name == "frame" else np.nan
                found[name][here] = values[name][local] if name in values else unknown
            found["source_shard"][here] = _task_number(part, int(number))
            found["source_row"][here] = local
        return found

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
class Choice:
    """What one time frame gave: ``rows`` are row numbers of the corpus."""

    sensor: str
    frame: str
    rows: np.ndarray
    selection: Selection


def draw(
    corpus: Corpus, sensor: str, samples: int, *, method: str, timescale: str, timezone: str,
    epsilon: float, norm: str, seed: int, progress: Progress | None = None,
) -> list[Choice]:
    """Choose ceil(samples / frames) rows in every time frame of a sensor.

    Each frame draws its own stream, seeded by (seed, sensor, label of the frame): the same choice
    whatever else is sampled. Methods that need loudness refuse rows that have none.
    """
    progress = progress or Progress()
    own = corpus.rows_of(sensor)
    if not len(own):
        return []
    timestamps = corpus.columns["timestamp"][own]
    frames = time_frames(timestamps, timescale, timezone)
    count = -(-samples // len(frames))
    relevance = None
    if method in ("spl", "dpp"):
        levels = corpus.columns["loudness"][own]
        if np.isnan(levels).any():
            raise InputError(f"sampling method {method!r} needs the loudness of every row",
                             where=str(corpus.source.path),
                             allowed="dpp-div and random work without",
                             hint="Use --sampling dpp-div")
        relevance = relative_loudness(levels, timestamps, timezone)
    progress.start(f"sampling {sensor}", total=len(frames), unit=f"{timescale}s")
    choices = []
    for label, places in frames:
        rng = np.random.default_rng(np.random.SeedSequence(
            [seed, int(digest(sensor), 16), int(digest(label), 16)]))
        picked = select(method, _frame_rows(corpus, own[places]),
                        None if relevance is None else relevance[places], count, rng,
                        epsilon, norm, count=len(places))
        choices.append(Choice(sensor, label, own[places][picked.rows], picked))
        progress.advance(1, rows=sum(len(choice.rows) for choice in choices))
    return choices


def _frame_rows(corpus: Corpus, rows: np.ndarray) -> Any:
    """The embeddings of a frame, read when a sampler asks: at once if small, else in blocks."""
    if len(rows) * corpus.dim * 4 <= FRAME_BYTES:
        return lambda: corpus.rows.take(rows)
    return SubsetRows(corpus.rows, rows)


def write_sample(
    path: Path, corpus: Corpus, choices: Sequence[Choice], settings: Mapping[str, Any],
) -> None:
    """Write the chosen rows, their provenance and what is known of each frame's choice.

    Refuses a sample without rows.
    """
    import h5py

    rows = np.concatenate([np.empty(0, np.int64), *(choice.rows for choice in choices)])
    if not len(rows):
        raise InputError("no rows to sample from", where=str(corpus.source.path))
    columns = corpus.provenance(rows)
    files, first, recording = np.unique(
        columns.pop("file").astype(str), return_index=True, return_inverse=True)
    sensors = columns.pop("sensor")[first]
    teacher = corpus.parts[0].attributes().get("teacher") or {}
    with h5py.File(path, "w") as file:
        data = file.create_dataset("l3_embedding", (len(rows), corpus.dim), "f4",
                                   chunks=(min(CHUNK_ROWS, len(rows)), corpus.dim))
        for start in range(0, len(rows), BLOCK_ROWS):
            data[start:start + BLOCK_ROWS] = corpus.rows.take(rows[start:start + BLOCK_ROWS])
        file.create_dataset("recording", data=recording.astype("i4"))
        for name, column in columns.items():
            file.create_dataset(name, data=column)
        text = h5py.string_dtype()
        table = file.create_group("recordings")
        table.create_dataset("file", data=files.astype(object), dtype=text)
        table.create_dataset("sensor", data=sensors, dtype=text)
        table.create_dataset("timestamp", data=(columns["timestamp"] - columns["start"])[first])
        _write_frames(file.create_group("frames"), choices, text)
        file.attrs["teacher"] = json.dumps(dict(teacher))
        file.attrs["sampling"] = json.dumps(dict(settings))


def _write_frames(group: Any, choices: Sequence[Choice], text: Any) -> None:
    group.create_dataset("sensor", data=[choice.sensor for choice in choices], dtype=text)
    group.create_dataset("label", data=[choice.frame for choice in choices], dtype=text)
    numbers = {
        "rows": [len(choice.rows) for choice in choices],
        "available": [choice.selection.available for choice in choices],
        "requested": [choice.selection.requested for choice in choices],
        "diverse": [len(choice.selection.diverse) for choice in choices],
        "expected_diverse": [choice.selection.expected_diverse for choice in choices],
        "log_det": [choice.selection.log_det for choice in choices],
        "log_likelihood": [choice.selection.log_likelihood for choice in choices],
    }
    for name, values in numbers.items():
        group.create_dataset(name, data=np.asarray(values))


def _task_number(part: Part, number: int) -> int:
    name = part.path.parent.name
    return int(name) if name.isdigit() else number
