"""How the steps grow: memory with the rows, extraction with the array tasks, run as jobs are.

Memory: every step as one task of one core (``l3hpc run STEP --config config.json``, a process of
its own) at 1, 4 and 16 times the rows; peak memory is the operating system's figure. Networks have
the published input geometry but few filters, because this measures memory, not speed.
Array: the same recordings through ``l3hpc submit`` on ``local`` as 1, 2, 4 and 8 tasks of one core,
with the whole teacher. No peer: nobody else runs these steps as jobs. ``docs/scale.md`` is worked
out from these figures (``benchmarks.cost``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import alone, worker
from benchmarks.tables import Claim, Table, run

TIMES = (1, 4, 16)
QUICK = (1 / 32, 1 / 16, 1 / 8)  # in a quick run: below the size of the buffers
NOISE_MB = 8.0  # two runs of the same size differ by up to this


@dataclass(frozen=True)
class Case:
    """A step at a base number of rows. per_row: bytes that it may keep for each row, and why."""

    name: str
    step: str
    rows: int
    of: str
    per_row: float
    why: str


CASES = (
    Case("extract", "extract", 2048, "windows", 60,
         "provenance of each row, when tasks are merged"),
    Case("sample, days of 5,480 rows", "sample", 32_768, "rows", 90,
         "time, loudness, relevance and order of one sensor's rows"),
    Case("sample, one frame", "sample", 32_768, "rows", 120, "also leverage scores"),
    Case("fit", "fit", 32_768, "rows", 0, ""),
    Case("reduce", "reduce", 32_768, "rows", 0, ""),
    Case("train", "train", 2048, "windows", 60, "recording and window of each row; two orders"),
    Case("embed", "embed", 4096, "windows", 60, "as extract"),
    Case("classify", "classify", 1157, "clips of 91 windows", 3000,
         "names, answers of annotators, targets"),
    Case("evaluate", "evaluate", 1157, "clips", 4000, "names, predictions, events to count"),
)
ARRAYS = ((1, 1), (2, 2), (4, 2), (8, 2), (8, 1))  # tasks, of which at once
RECORDINGS, RECORDING_S, WINDOWS = 16, 6.0, 12
BATCHES = (4, 24)  # batches of Student 2 in the two runs whose difference is one step's time


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all tables; steps run with one core unless stated otherwise."""
    return [memory(quick, work), arrays(quick, work), lengths(quick, work)]


# memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """One task: figures of the process, and the times of the work, from its result.json."""

    rows: int
    peak_mb: float
    elapsed_s: float
    cpu_s: float
    read_gb: float
    written_gb: float


def memory(quick: bool, work: Path) -> Table:
    """Measure the peak memory of every step at every size."""
    cells, claims = [], []
    figures: dict[str, float] = {}
    for case in CASES:
        ran = [_case(case, int(case.rows * times), work) for times in (QUICK if quick else TIMES)]
        first, middle, last = ran
        more = last.rows - middle.rows
        growth = max(last.peak_mb - middle.peak_mb, 0) * 1e6 / more
        cells.append([case.name, f"{first.rows:,} … {last.rows:,} {case.of}",
                      *(f"{one.peak_mb:.0f}" for one in ran),
                      f"{growth:.0f}" + " (exceeded)" * (round(growth) > case.per_row),
                      f"{case.per_row:.0f}" + (f": {case.why}" if case.why else ""),
                      f"{last.elapsed_s:.1f}", f"{last.cpu_s / last.elapsed_s:.2f}"])
        if quick:
            continue
        claims.append(Claim(
            f"memory of {case.name}: growth from 4 to 16 times the rows", "",
            last.peak_mb - middle.peak_mb, round(case.per_row * more / 1e6 + NOISE_MB, 1), "MB",
            at_least=False, limit=f"{case.per_row:.0f} bytes per row; noise {NOISE_MB:.0f} MB"))
        figures |= {f"{case.name} peak_mb": last.peak_mb, f"{case.name} bytes_per_row": growth,
                    f"{case.name} core_s_per_row": max(last.cpu_s - middle.cpu_s, 1e-9) / more}
    if not quick:
        figures |= {"train core_s_per_batch": _train_batch(work),
                    "embed student2 core_s_per_row": _embed_student(work)}
    return Table(
        "Peak memory at 1, 4 and 16 times the rows",
        ("step", "rows", "1× MB", "4× MB", "16× MB", "bytes per row, 4× to 16×",
         "expected at most", "seconds at 16×", "cores used of 1"),
        cells,
        notes=(
            "Each case is one task with one core (SLURM_CPUS_PER_TASK=1) on a machine with more: "
            "the last column is CPU time divided by the time of the task; reading and writing run "
            "beside the one thread that computes.",
            "Embeddings have 512 columns (fit, reduce, sample), or 128 in train and classify. "
            "Buffers of fixed size fill up between 1× and 4×.",
            f"Exceeded: more than expected. Two runs of the same size differ by up to "
            f"{NOISE_MB:.0f} MB, so the claims of benchmarks.md allow as much more.",
            "The table is for PCA; UMAP keeps its whole sample in memory.",
        ), claims=claims, figures=figures)


def _case(case: Case, rows: int, work: Path) -> Ran:
    """Make the input of a case and run its one task; the input is removed again."""
    print(f"  {case.name}: {rows:,} {case.of}", file=sys.stderr, flush=True)
    place = work / "memory"
    shutil.rmtree(place, ignore_errors=True)
    made = alone(worker("scaling", "make", CASES.index(case), rows, place))
    ran = run_task(case.step, Path(made.values["config"]), made.values["rows"])
    shutil.rmtree(place, ignore_errors=True)
    return ran


def run_task(step: str, config: Path, rows: int, cores: int = 1) -> Ran:
    """Run the one task of a frozen config with ``cores`` cores, in a process of its own."""
    log = config.parent / "log"
    command = [sys.executable, "-m", "l3hpc", "run", step, "--config", str(config), "--task", "0"]
    try:
        found = alone(["sh", "-c", 'exec "$@" 2> "$LOG"', "sh", *command],
                      {"SLURM_CPUS_PER_TASK": str(cores), "LOG": str(log)})
    except RuntimeError:
        print(log.read_text(), file=sys.stderr)
        raise
    result = json.loads((config.parent / "0000" / "result.json").read_text())
    return Ran(rows, found.peak_mb, result["elapsed_s"], result["cpu_s"], found.read_mb / 1e3,
               found.written_mb / 1e3)


def _train_batch(work: Path) -> float:
    """Return the core-seconds of a training step of Student 2 on 64 windows, with all cores."""
    place = work / "batches"
    cores, cpu = len(os.sched_getaffinity(0)), []
    for batches in BATCHES:
        made = alone(worker("scaling", "train", batches, place))
        cpu.append(run_task("train", Path(made.values["config"]), 0, cores).cpu_s)
        shutil.rmtree(place)
    return max(cpu[1] - cpu[0], 1e-9) / (BATCHES[1] - BATCHES[0])


def _embed_student(work: Path) -> float:
    """Return the core-seconds per window of Student 2."""
    place = work / "student2"
    made = alone(worker("scaling", "embed", 4096, place))
    ran = run_task("embed", Path(made.values["config"]), made.values["rows"])
    shutil.rmtree(place)
    return ran.cpu_s / ran.rows


# one recording --------------------------------------------------------------------------------

HOURS = (0.25, 1.0, 4.0)
LENGTH_MB = 40.0  # that an hour and four may differ by: a buffer of 32 MiB fills up


def lengths(quick: bool, work: Path) -> Table:
    """Measure the peak memory of recordings of increasing length."""
    hours = tuple(one / 60 for one in HOURS) if quick else HOURS
    ways = {"l3hpc embed, 512 values, hop 0.5 s": "embed",
            "l3hpc run extract, hop 0.5 s": "extract",
            "l3hpc data check --listen": "check"}
    peaks: dict[str, list[float]] = {way: [] for way in ways}
    for length in hours:
        for way, kind in ways.items():
            place = work / "length"
            shutil.rmtree(place, ignore_errors=True)
            alone(worker("scaling", "length", length * 3600, place))
            if kind == "extract":
                peak = run_task("extract", place / "artifacts" / "x" / "config.json", 0).peak_mb
            else:
                words = {"embed": ["embed", str(place / "audio"), "-t", "0.5", "-m",
                                   str(place / "network.h5"),
                                   "-o", str(place / "out"), "--engine", _engine(), "-q"],
                         "check": ["data", "check", str(place / "audio"), "--listen"]}[kind]
                peak = alone(["sh", "-c", 'exec "$@" > /dev/null 2>&1', "sh", sys.executable, "-m",
                              "l3hpc", *words], {"SLURM_CPUS_PER_TASK": "1"}).peak_mb
            peaks[way].append(peak)
            shutil.rmtree(place)
    return Table(
        "Peak memory of one recording of a quarter of an hour, an hour and four hours",
        ("command", *(f"{length:.2g} h MB" for length in hours)),
        [[way, *(f"{peak:.0f}" for peak in found)] for way, found in peaks.items()],
        notes=("16 kHz, mono, 16 bits, resampled for a network at 8 kHz; four hours of embeddings "
               "are 59 MB.",),
        claims=[Claim(f"memory of {way}: growth from one hour to four", "", found[2] - found[1],
                      LENGTH_MB, "MB", at_least=False, limit="buffers of fixed size")
                for way, found in peaks.items() if not quick])


# array ----------------------------------------------------------------------------------------


def arrays(quick: bool, work: Path) -> Table:
    """Extract the same recordings with an increasing number of tasks."""
    place = work / "array"
    alone(worker("scaling", "audio", RECORDINGS, RECORDING_S, place / "audio"))
    rows = RECORDINGS * WINDOWS
    environment = {"XDG_CACHE_HOME": str(place / "cache")}
    first = _submit(place, 1, 1, environment)  # also chooses the engine
    found = {way: _submit(place, *way, environment) for way in ARRAYS[:2 if quick else None]}
    alone_ = found[1, 1]
    cells = []
    for (tasks, at_once), one in found.items():
        cells.append([str(tasks), str(at_once), f"{one['wall']:.1f}",
                      f"{1000 * one['step_cpu'] / rows:.1f}",
                      f"{100 * alone_['step_cpu'] / one['step_cpu']:.0f}%",
                      f"{one['start_wall'] / tasks:.1f}", f"{one['start_cpu'] / tasks:.1f}",
                      f"{one['peak']:.0f}"])
    most = max(found)
    figures = {"extract core_s_per_row": alone_["step_cpu"] / rows,
               "extract two_at_once core_s_per_row": found[most]["step_cpu"] / rows,
               "task start core_s": found[most]["start_cpu"] / most[0],
               "extract teacher peak_mb": max(one["peak"] for one in found.values())}
    share = found[most]["step_cpu"] / alone_["step_cpu"]
    # one at a time, so that the tasks do not slow each other down
    tasks, apart = next(((tasks, one) for (tasks, at_once), one in reversed(found.items())
                         if at_once == 1 and tasks > 1), (most[0], found[most]))
    fixed = (apart["step_cpu"] - alone_["step_cpu"]) / (tasks - 1)
    return Table(
        f"Extraction of {rows} windows as 1 to 8 array tasks of one core",
        ("tasks", "at once", "wall s", "core-ms per window", "speed per core", "start of a task, s",
         "start, core-s", "peak MB of a task"),
        cells,
        notes=(
            f"{RECORDINGS} recordings of {RECORDING_S:g} s at 48 kHz, hop 0.5 s, the whole teacher "
            f"(mel256, 512), engine {alone_['engine']}, {len(os.sched_getaffinity(0))} cores; "
            "submitted with l3hpc submit to local.",
            "Start: the whole job script without the step itself: bash, Python, imports, submitit. "
            "Loading the weights is part of the step.",
            f"Each further task adds {fixed:.2f} core-seconds: imports, and loading the network. "
            "The first task of a user draws and folds the weights, the others map them.",
            f"The first task on each kind of node also measures which engine is faster: "
            f"{max(first['step_cpu'] - alone_['step_cpu'], 0):.1f} core-seconds, once.",
            "Two tasks at once share the processor's caches and memory. More than two were not "
            "measured: tasks share only files, so on separate nodes the only extra cost should be "
            "the start of each.",
        ),
        claims=[
            Claim("core-time per window, 8 tasks, two at once", "one task alone", share, 1.25, "×",
                  at_least=False, limit="two cores share memory and caches; each further task "
                  f"adds {fixed:.2f} core-s"),
            Claim("start of an array task", "", figures["task start core_s"], 5, "core-s",
                  at_least=False, limit="python -c pass: 0.02")] if most[0] == 8 else [],
        figures=figures)


def _submit(place: Path, tasks: int, at_once: int, environment: dict[str, str]) -> dict[str, Any]:
    """One run of a pipeline of extract alone, in a workspace of its own."""
    print(f"  extraction: {tasks} tasks, {at_once} at once", file=sys.stderr, flush=True)
    folder = place / "run"
    (folder / "jobs").mkdir(parents=True)
    (folder / "cluster.yaml").write_text(
        f"clusters:\n  local:\n    slots: {{cpus: {at_once}, mem: 64GB}}\n")
    (folder / "jobs" / "embeddings.yaml").write_text(
        "description: extraction alone\nsteps:\n  extract:\n    params:\n"
        f"      audio: {place / 'audio'}\n      weights: untrained\n"
        f"      files_per_task: {RECORDINGS // tasks}\n"
        "    resources: {cpus: 1, mem: 4GB, time: 1h}\n")
    before = os.times()
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "l3hpc", "submit", "embeddings", "--yes"], cwd=folder,
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, **environment})
    wall = time.perf_counter() - started
    after = os.times()
    results = [json.loads(path.read_text()) for path in sorted(
        folder.glob("workspace/artifacts/extract/*/*/result.json"))]
    assert len(results) == tasks, f"{len(results)} results of {tasks} tasks"
    marks = [(json.loads(begin.read_text()), json.loads(begin.with_suffix(".exit").read_text()))
             for begin in folder.glob("workspace/runs/*/steps/extract/markers/*.begin")]
    logs = "".join(path.read_text() for path in folder.glob(
        "workspace/runs/*/steps/extract/logs/*_log.*"))
    cpu = (after.children_user + after.children_system
           - before.children_user - before.children_system)
    step = sum(result["cpu_s"] for result in results)
    shutil.rmtree(folder)
    return {"wall": wall, "step_cpu": step, "start_cpu": cpu - step,
            "start_wall": sum(end["time"] - begin["time"] for begin, end in marks)
            - sum(result["elapsed_s"] for result in results),
            "peak": max(result["peak_memory_mb"] for result in results) * 2**20 / 1e6,
            "engine": "ncnn" if "engine ncnn" in logs else "tensorflow"}


# workers --------------------------------------------------------------------------------------


def make(number: int, rows: int, place: Path) -> dict[str, Any]:
    """The input of a case, frozen and ready to run."""
    from benchmarks import scaling_data as data

    case, artifact = CASES[number], place / "artifacts" / "x"
    if case.step in ("extract", "embed"):
        teacher = case.step == "extract"
        rate, windows = (16000, 20) if teacher else (8000, 91)
        spec = {"rate": 16000, "n_mels": 128, "hop": 160, "n_dft": 1024} if teacher else {
            "rate": 8000, "n_mels": 64, "hop": 160, "n_dft": 1024}
        audio = str(data.recordings(place / "audio", -(-rows // windows), rate))
        weights = str(data.network(place / "network.h5", (4,) * 7 + (512 if teacher else 128,),
                                   **spec))
        params = {"weights": weights, "files_per_task": 10**6} if teacher else {"student": weights}
        config = data.freeze(case.step, artifact, {"audio": audio, "engine": _engine(), **params})
        rows = -(-rows // windows) * windows
    elif case.step in ("sample", "fit", "reduce"):
        source = data.embeddings(place / "source", rows, 512,
                                 rows_per_day=0 if case.name.endswith("one frame") else 5480)
        if case.step == "sample":
            config = data.freeze("sample", artifact, {"samples": max(rows // 60, 16)},
                                 {"extract": source})
        elif case.step == "fit":
            config = data.freeze("fit", artifact, {}, {"sample": source})
        else:
            few = data.embeddings(place / "few", 2048, 512)
            fitted = data.freeze("fit", place / "artifacts" / "fit", {}, {"sample": few})
            subprocess.run([sys.executable, "-m", "l3hpc", "run", "fit", "--config", str(fitted)],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            config = data.freeze("reduce", artifact, {}, {"extract": source, "fit": fitted.parent})
    elif case.step == "train":
        config = _freeze_train(place, artifact, rows, {
            "filters": (4,) * 7 + (128,), "epochs": 2, "epoch_size": 16,
            "validation_epoch_size": 4})
    else:
        annotations, taxonomy, names = data.tagged(place / "tagged", rows)
        files = {"annotations": str(annotations), "taxonomy": str(taxonomy)}
        if case.step == "classify":
            clips = data.embeddings(place / "clips", 91 * rows, 128, names=names,
                                    rows_per_recording=91)
            config = data.freeze("classify", artifact, {**files, "epochs": 3}, {"embed": clips})
        else:
            told = data.predictions(place / "predictions.csv", annotations)
            config = data.freeze("evaluate", artifact, {**files, "predictions": str(told)})
    return {"config": str(config), "rows": rows}


def _freeze_train(place: Path, artifact: Path, rows: int, params: dict[str, Any]) -> Path:
    from benchmarks import scaling_data as data

    audio = data.recordings(place / "audio", -(-rows // data.ROWS_PER_RECORDING), 8000)
    names = [path.relative_to(audio).as_posix() for path in sorted(audio.glob("*/*.wav"))]
    source = data.embeddings(place / "source", rows, 128, audio=audio, names=names,
                             rows_per_day=96 * data.ROWS_PER_RECORDING)
    return data.freeze("train", artifact, params, {"extract": source})


def _engine() -> str:
    """Choose the engine without a measurement, which would count TensorFlow's memory."""
    from l3hpc.models import ncnn_engine

    return "ncnn" if ncnn_engine.available() else "tensorflow"


def make_student(rows: int, place: Path) -> dict[str, Any]:
    """Audio and the whole Student 2, frozen for embed."""
    from benchmarks import scaling_data as data
    from l3hpc.models.spec import student_filters

    audio = data.recordings(place / "audio", -(-rows // 91), 8000)
    weights = data.network(place / "student.h5", student_filters(128), rate=8000, n_mels=64,
                           hop=160, n_dft=1024)
    config = data.freeze("embed", place / "artifacts" / "x",
                         {"audio": str(audio), "student": str(weights), "engine": _engine()})
    return {"config": str(config), "rows": -(-rows // 91) * 91}


def make_length(seconds: float, place: Path) -> dict[str, Any]:
    """One long recording, a network of few filters, and the frozen config of extract."""
    import numpy as np
    import soundfile

    from benchmarks import scaling_data as data

    (place / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(place / "audio" / f"{data.FIRST_DAY}.wav", "w", 16000, 1) as file:
        for start in range(0, int(seconds), 60):
            file.write(rng.uniform(-0.3, 0.3, int(min(60, seconds - start) * 16000)))
    weights = data.network(place / "network.h5", (4,) * 7 + (512,), rate=8000, n_mels=64, hop=160,
                           n_dft=1024)
    data.freeze("extract", place / "artifacts" / "x",
                {"audio": str(place / "audio"), "weights": str(weights), "engine": _engine()})
    return {}


def main(words: list[str]) -> None:
    """Run one worker, which prints one JSON line."""
    act, *rest = words
    if act == "make":
        found = make(int(rest[0]), int(rest[1]), Path(rest[2]))
    elif act == "train":
        place = Path(rest[1])
        found = {"config": str(_freeze_train(place, place / "artifacts" / "x", 2048, {
            "epochs": 1, "epoch_size": int(rest[0]), "validation_epoch_size": 1}))}
    elif act == "embed":
        found = make_student(int(rest[0]), Path(rest[1]))
    elif act == "length":
        found = make_length(float(rest[0]), Path(rest[1]))
    else:
        from benchmarks import scaling_data as data

        data.recordings(Path(rest[2]), int(rest[0]), 48000, seconds=float(rest[1]))
        found = {}
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(sys.argv[2:])
    else:
        run("scaling", __doc__, tables)
