"""A year of one sensor through sample, fit and reduce, beside what ``docs/scale.md`` predicts.

7.4 million rows of 512 values (15 GB, made in blocks), in days of 20,300, as one task of extract
would write them. Every step is its own process (``l3hpc run STEP --config config.json``), with one
core and then with two. 21 GB are needed below ``--work``; they are removed at the end.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks import cost
from benchmarks.measure import alone, worker
from benchmarks.scaling import Ran, run_task
from benchmarks.tables import RESULTS, Claim, Table, figure, results_file, run

DAYS, ROWS_PER_DAY = 365, 20_300
SAMPLES = cost.SAMPLES // cost.SENSORS
QUICK = 50  # times fewer days
CORES = (1, 2)
STEPS = ("sample", "fit", "reduce")
SLOWER, LARGER = 1.5, 1.25  # than predicted, at most


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure the three steps with one core and with two."""
    days = DAYS // QUICK if quick else DAYS
    rows, samples = days * ROWS_PER_DAY, SAMPLES // (QUICK if quick else 1)
    refuse_full_disk(work, rows)
    place = work / "sensor-year"
    try:
        print(f"  making {rows:,} rows", file=sys.stderr, flush=True)
        made = alone(worker("sensor_year", place, "source", rows)).seconds
        found = {(step, cores): one
                 for cores in CORES if cores <= len(os.sched_getaffinity(0))
                 for step, one in _chain(place, rows, samples, cores).items()}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    expected = cost.one_sensor(measured_here(), rows, samples)
    cells, claims = [], []
    for (step, cores), one in found.items():
        told = expected[step]
        cells.append([step, str(cores), f"{one.elapsed_s:.1f}", _pair(one.cpu_s, told.core_s),
                      _pair(one.peak_mb, told.peak_mb), _pair(one.read_gb, told.read_gb),
                      _pair(one.written_gb, told.written_gb)])
        if cores == 1 and not quick and step != "fit":
            claims += [
                Claim(f"a sensor-year, {step}: core-seconds", "predicted", one.cpu_s / told.core_s,
                      SLOWER, at_least=False, limit=f"{figure(told.core_s)} core-s predicted"),
                Claim(f"a sensor-year, {step}: peak memory", "predicted",
                      one.peak_mb / told.peak_mb, LARGER, at_least=False,
                      limit=f"{figure(told.peak_mb)} MB predicted")]
    return [Table(
        f"A sensor-year: {rows:,} rows in {days} days, {samples:,} of them sampled",
        ("step", "cores", "seconds", "core-seconds (predicted)", "peak MB (predicted)",
         "GB read (predicted)", "GB written (predicted)"), cells,
        notes=(
            "Predicted by benchmarks/cost.py from the measurements of up to 524,288 rows.",
            "The method of sample is dpp, an exact k-DPP of every day; fit is a linear PCA, whose "
            "imports alone take a second.",
            "Bytes are those of system calls; most are read from the page cache where the memory "
            "holds the file. Starting Python reads 0.1 GB.",
            f"Making the rows took {made:.0f} s."),
        claims=claims)]


def measured_here() -> dict[str, float]:
    """Return the figures of ``benchmarks.scaling`` on this processor, or of the docs."""
    return cost.figures(results_file("scaling")) or cost.figures(RESULTS / "scaling.json")


def refuse_full_disk(work: Path, rows: int) -> None:
    """Raise ``SystemExit`` if so many rows and what is made of them do not fit below ``work``."""
    needed = rows * (4 * cost.TEACHER_DIM + cost.PROVENANCE_BYTES + 4 * cost.STUDENT_DIM) * 1.05
    free = shutil.disk_usage(work).free
    if free < needed:
        raise SystemExit(f"{work} has {free / 1e9:.1f} GB free, and {rows:,} rows need "
                         f"{needed / 1e9:.1f} GB; allowed: --work with a folder on another disk, "
                         "or --quick")


def _pair(measured: float, predicted: float) -> str:
    return f"{figure(measured)} ({figure(predicted)})"


def _chain(place: Path, rows: int, samples: int, cores: int) -> dict[str, Ran]:
    """Run the three steps one after the other; their outputs are removed again."""
    found = {}
    for step in STEPS:
        print(f"  {step}, {cores} cores", file=sys.stderr, flush=True)
        alone(worker("sensor_year", place, step, samples))
        found[step] = run_task(step, place / step / "config.json", rows, cores)
    for step in STEPS:
        shutil.rmtree(place / step)
    return found


def main(place: Path, what: str, count: int) -> None:
    """Run one worker: make the rows, or freeze the config of a step."""
    from benchmarks import scaling_data as data

    source = place / "extract"
    if what == "source":
        data.embeddings(source, count, cost.TEACHER_DIM, rows_per_day=ROWS_PER_DAY)
    elif what == "sample":
        data.freeze("sample", place / "sample", {"samples": count}, {"extract": source})
    elif what == "fit":
        data.freeze("fit", place / "fit", {}, {"sample": place / "sample"})
    else:
        data.freeze("reduce", place / "reduce", {}, {"extract": source, "fit": place / "fit"})


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        run("sensor_year", __doc__, tables)
