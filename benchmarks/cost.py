"""The cost of the published scale, computed from the measurements of ``benchmarks.scaling``.

A page of the documentation is filled from here. Figures that are not measured yet are marked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import figure, load
from l3hpc.models.spec import NetworkSpec, openl3_spec, student_spec

# The published scale.
WINDOWS = 30_000_000
SENSORS = 15
SAMPLES = 500_000
EPOCHS, BATCHES, VALIDATION_BATCHES, BATCH = 300, 4096, 1024, 64
TEACHER_DIM, STUDENT_DIM = 512, 128
RECORDING_S, WINDOWS_PER_RECORDING = 10, 20
DAYS = 365
TASKS = 1000  # array tasks for extraction and reduction
CLIPS, WINDOWS_PER_CLIP = 18_510, 91  # SONYC-UST, hop 0.1

# Speeds of the published method: the benchmark that measures each, row and column of its table.
PUBLISHED = {
    "openl3 per_s": ("teacher", "openl3", "frames/s"),  # on two cores
    "gzip rows_per_s": ("reduction", "published method, 1,024 rows at a time", "rows/s"),
    "feed ms_per_batch": ("input_pipeline", "published: resampy kaiser_best, librosa",
                          "ms per batch"),
}
GPU_PRECISIONS = ("float32", "tf32", "bfloat16")

PROVENANCE_BYTES = 28  # recording, frame, start, timestamp, loudness
SAMPLE_ROW_BYTES = 90  # of memory: time, loudness, relevance and order of one sensor's rows
TRAIN_ROW_BYTES = 60  # of memory, at least: recording and window of each row; two orders
UNKNOWN = "not measured yet"


def flops(spec: NetworkSpec) -> float:
    """Return the operations of the convolutions for one window; a multiply-add counts as two."""
    total, before = 0.0, 1
    for index, count in enumerate(spec.filters):
        bands, times = spec.maps[index // 2]
        total += 2 * 9 * before * count * bands * times
        before = count
    return total


def step_flops() -> float:
    """Return the operations of one training step of Student 2: forward, and twice that backward."""
    return 3 * BATCH * flops(student_spec(emb_dim=STUDENT_DIM))


def figures(results: Path) -> dict[str, float]:
    """Return the numbers in a results file; empty if there is none."""
    if not results.is_file():
        return {}
    found: dict[str, float] = {}
    for table in json.loads(results.read_text())["tables"]:
        found |= table.get("figures", {})
    return found


def published(results: Path) -> dict[str, float]:
    """Return the speeds of the published method in a folder of results, by ``PUBLISHED``."""
    found = {}
    for name, (benchmark, side, column) in PUBLISHED.items():
        file = results / f"{benchmark}.json"
        for table in load(file)[1] if file.is_file() else ():
            rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
            if column in table.columns and side in rows:
                found[name] = float(rows[side][column].replace(",", ""))
    return found


def core_hours(known: Mapping[str, float]) -> str:
    """Every step at the published scale: core-hours, memory of a task, the published method."""
    dataset = WINDOWS * TEACHER_DIM * 4
    frame = WINDOWS // SENSORS // DAYS
    openl3, gzip, feed = (
        UNKNOWN if name not in known else f"{figure(hours(known[name]), digits)} core-hours"
        for name, digits, hours in (
            ("openl3 per_s", 4, lambda rate: WINDOWS / rate * 2 / 3600),
            ("gzip rows_per_s", 2, lambda rate: WINDOWS / rate / 3600),
            ("feed ms_per_batch", 3, lambda taken: EPOCHS * BATCHES * taken / 3.6e6)))
    train_row = max(TRAIN_ROW_BYTES, known.get("train bytes_per_row", 0.0))
    parts = [
        _Part("extract", f"{WINDOWS:,} windows, {TASKS:,} tasks",
              {"extract core_s_per_row": WINDOWS, "task start core_s": TASKS}, TASKS,
              "extract teacher peak_mb", 0,
              f"openl3: {openl3}"),
        _Part("sample", f"{WINDOWS:,} rows in days of {frame:,}, {SENSORS} tasks",
              {"sample, days of 5,480 rows core_s_per_row": WINDOWS}, SENSORS,
              "sample, days of 5,480 rows peak_mb", SAMPLE_ROW_BYTES * WINDOWS / SENSORS,
              "three steps of a Markov chain, in jobs of 750 GB: the kernel of a day takes "
              f"{figure(8 * frame**2 / 1e9, 2)} GB, of a month "
              f"{8 * (frame * 30)**2 / 1e9:,.0f} GB"),
        _Part("fit", f"{SAMPLES:,} rows", {"fit core_s_per_row": SAMPLES}, 1, "fit peak_mb", 0,
              f"a kernel matrix of {8 * SAMPLES**2 / 1e12:.0f} TB: not feasible"),
        _Part("reduce", f"{WINDOWS:,} rows, {TASKS:,} tasks",
              {"reduce core_s_per_row": WINDOWS, "task start core_s": TASKS}, TASKS,
              "reduce peak_mb", 0, f"{gzip}; if the last batch is not full, it reads all "
              f"{dataset / 1e9:,.0f} GB into memory"),
        _Part("train: spectra", f"{WINDOWS:,} windows, once",
              {"train core_s_per_row": WINDOWS}, 1, "train peak_mb", train_row * WINDOWS,
              f"computed again in every epoch, from 48 kHz: {feed}"),
        _Part("train: steps", f"{EPOCHS} × {BATCHES:,} batches of {BATCH}, and validation",
              {"train core_s_per_batch": EPOCHS * (BATCHES + VALIDATION_BATCHES / 3)}, 1, None, 0,
              "2 GPUs for up to 7 days"),
    ]
    after = _Part("embed (SONYC-UST)", f"{CLIPS:,} clips of {WINDOWS_PER_CLIP} windows",
                  {"embed student2 core_s_per_row": CLIPS * WINDOWS_PER_CLIP}, 1, "embed peak_mb",
                  0, "–")
    rows = [part.cells(known) for part in parts]
    totals = [part.hours(known) for part in parts]
    whole = UNKNOWN if None in totals else f"**{sum(one or 0 for one in totals):,.0f}**"
    rows += [["upstream, all", "", whole, "", "", ""], after.cells(known)]
    return _markdown(("step", "work", "core-hours", "hours of a task on one core",
                      "memory of a task",
                      "the published method"), rows)


@dataclass(frozen=True)
class Predicted:
    """What one task needs."""

    core_s: float
    peak_mb: float
    read_gb: float
    written_gb: float


def one_sensor(known: Mapping[str, float], rows: int, samples: int) -> dict[str, Predicted]:
    """Predict the tasks of sample, fit and reduce for one sensor, as the tables above do."""
    teacher, frames = TEACHER_DIM * 4, "sample, days of 5,480 rows"
    source = rows * (teacher + PROVENANCE_BYTES)
    subset = samples * (teacher + PROVENANCE_BYTES)
    reduced = rows * STUDENT_DIM * 4
    # A file that was written is read once more, for its checksum.
    return {
        "sample": Predicted(known[f"{frames} core_s_per_row"] * rows,
                            known[f"{frames} peak_mb"] + SAMPLE_ROW_BYTES * rows / 1e6,
                            (source + subset) / 1e9, subset / 1e9),
        "fit": Predicted(known["fit core_s_per_row"] * samples, known["fit peak_mb"],
                         samples * teacher / 1e9, 0.0),
        "reduce": Predicted(known["reduce core_s_per_row"] * rows, known["reduce peak_mb"],
                            (rows * teacher + reduced) / 1e9, reduced / 1e9)}


def gpu_hours(known: Mapping[str, float]) -> str:
    """Operations of the two steps that a GPU is for, and hours at the measured rates."""
    window, step = flops(openl3_spec()), step_flops()
    validation = EPOCHS * VALIDATION_BATCHES / 3  # forward alone: in steps
    work = [
        ("extract, network and front end", f"{window / 1e9:.1f} GFLOP a window", WINDOWS * window,
         lambda name: WINDOWS / known[f"gpu teacher {name} per_s"]),
        ("extract, from FLAC files on", "the same", WINDOWS * window,
         lambda name: WINDOWS / known[f"gpu extract {name} per_s"]),
        (f"train, {EPOCHS} × {BATCHES:,} steps", f"{step / 1e9:.1f} GFLOP a batch",
         EPOCHS * BATCHES * step,
         lambda name: EPOCHS * BATCHES * known[f"gpu train {name} s"]),
        (f"train, {EPOCHS} × {VALIDATION_BATCHES:,} batches of validation",
         f"{step / 3e9:.1f} GFLOP a batch", validation * step,
         lambda name: validation * known[f"gpu train {name} s"]),
    ]
    rows = []
    for name, each, operations, seconds in work:
        cells = []
        for precision in GPU_PRECISIONS:
            try:
                cells.append(figure(seconds(precision) / 3600, 2))
            except KeyError:
                cells.append(UNKNOWN)
        rows.append([name, each, f"{operations / 1e15:,.1f}", *cells])
    return _markdown(("work", "each", "PFLOP",
                      *(f"GPU-hours, {name}" for name in GPU_PRECISIONS)), rows)


def terabytes(known: Mapping[str, float]) -> str:
    """What lies on disk, and what is read and written on the way."""
    shape = student_spec(emb_dim=STUDENT_DIM).frontend.shape
    spectrum = 4 * shape[0] * shape[1]
    audio = WINDOWS / WINDOWS_PER_RECORDING * RECORDING_S * 48_000 * 2
    teacher = WINDOWS * (TEACHER_DIM * 4 + PROVENANCE_BYTES)
    sample = SAMPLES * (TEACHER_DIM * 4 + PROVENANCE_BYTES)
    reduced = WINDOWS * STUDENT_DIM * 4
    cache = WINDOWS * (spectrum + STUDENT_DIM * 4)
    epochs = EPOCHS * (BATCHES + VALIDATION_BATCHES) * BATCH * (spectrum + STUDENT_DIM * 4)
    rows = [
        ("audio, 48 kHz, 16 bit", audio, audio, 0.0,
         f"{WINDOWS * 8_000 * 8 / 1e12:.2f} TB: 8 kHz as float64, each window stored separately"),
        ("teacher's embeddings, with provenance", teacher, teacher, 2 * teacher,
         "the same, without provenance"),
        ("sample", sample, teacher, sample, ""),
        ("reduced embeddings", reduced, teacher, reduced,
         "smaller due to gzip, but more than ten times slower to write"),
        ("spectra and targets for training (removed at the end)", cache, audio + reduced, cache,
         "none: computed again in every epoch"),
        (f"{EPOCHS} epochs of training", 0.0, epochs, 0.0,
         f"{EPOCHS * BATCHES * BATCH * 8_000 * 8 / 1e12:,.1f} TB of float64 audio"),
    ]
    cells = [[name, *(figure(value / 1e12) for value in numbers), other]
             for name, *numbers, other in rows]
    cells.append(["all", *(f"**{figure(sum(row[place] for row in rows) / 1e12)}**"
                           for place in (1, 2, 3)), ""])
    return _markdown(("what", "TB on disk", "TB read", "TB written", "the published method"), cells)


KINDS = {"core-hours": core_hours, "gpu-hours": gpu_hours, "terabytes": terabytes}


class _Part:
    """One line: amounts by the figure that each is multiplied with."""

    def __init__(self, step: str, work: str, amounts: Mapping[str, float], tasks: int,
                 memory: str | None, more_bytes: float, published: str) -> None:
        self.step, self.work, self.amounts, self.tasks = step, work, amounts, tasks
        self.memory, self.more_bytes, self.published = memory, more_bytes, published

    def hours(self, known: Mapping[str, float]) -> float | None:
        """Return core-hours; None if a figure is missing."""
        if set(self.amounts) - set(known):
            return None
        return sum(known[name] * amount for name, amount in self.amounts.items()) / 3600

    def cells(self, known: Mapping[str, float]) -> list[str]:
        """Return the line as text."""
        hours, memory = self.hours(known), "–"
        if self.memory is not None:
            memory = UNKNOWN if self.memory not in known else \
                f"{figure((known[self.memory] + self.more_bytes / 1e6) / 1e3, 2)} GB"
        return [self.step, self.work, UNKNOWN if hours is None else figure(hours),
                UNKNOWN if hours is None else figure(hours / self.tasks, 2), memory, self.published]


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
