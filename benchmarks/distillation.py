"""How recipe, sampling and size affect the quality of a distilled student, on ESC-10.

    python -m benchmarks.distillation --esc10 FOLDER --teacher FILE.h5[.gz] --work FOLDER
                                      [--grid recipe|students] [--epochs 20]
                                      [--json benchmarks/results/recipe.json]

Every variant is one ``l3hpc submit upstream`` on the 400 real recordings of FOLDER/audio, in one
workspace, so that what variants share is computed once and a stopped benchmark goes on where it
was. The students are half as wide as the published ones (16,16,32,32,64,64,D,D filters), so that
the grid fits into an hour on two cores. The score is 5-fold logistic regression on the mean and
standard deviation of the embeddings over a recording (``benchmarks.esc10``). Intervals: 95%,
10,000 resamples of the 400 recordings, the same ones for every variant; differences are paired.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import about, machine
from benchmarks.tables import Table, write_results

RESAMPLES = 10_000
BASE = {"emb-dim": "32", "sampling": "dpp", "learning-rate": "1e-3", "head": "linear",
        "patience": "10"}
RECIPES: dict[str, dict[str, str]] = {
    "base: Adam 1e-3, plateau, linear head": {},
    "learning rate 1e-4": {"learning-rate": "1e-4"},
    "learning rate 3e-4": {"learning-rate": "3e-4"},
    "learning rate 3e-3": {"learning-rate": "3e-3"},
    "cosine from 1e-3": {"train.schedule": "cosine"},
    "cosine from 3e-3": {"train.schedule": "cosine", "learning-rate": "3e-3"},
    "relu head": {"head": "relu"},
    "batch normalisation momentum 0.99": {"train.bn_momentum": "0.99"},
    "kernel ε 0.1, L2": {"sample.epsilon": "0.1"},
    "kernel ε 0.1, L1 (published)": {"sample.epsilon": "0.1", "sample.norm": "l1"},
    "another seed": {"seed": "1"},
}
SAMPLINGS = ("dpp", "dpp-div", "spl", "random")
DIMENSIONS = (64, 32, 16)


def students(recipe: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the grid of sizes and samplings, all with ``recipe``."""
    return {f"{dim}-d, {sampling}": {**recipe, "emb-dim": str(dim), "sampling": sampling}
            for dim in DIMENSIONS for sampling in SAMPLINGS}


class Recordings:
    """ESC-10 in memory: windows of all recordings, labels and folds."""

    def __init__(self, folder: Path, rate: int, window_s: float = 1.0, center: bool = True,
                 hop: float = 0.5) -> None:
        from l3hpc.audio.files import read_audio
        from l3hpc.audio.framing import frame_audio

        self.rows, self.labels, self.folds = read_labels(folder)
        windows, self.counts = [], []
        for row in self.rows:
            signal, rate = read_audio(folder / "audio" / row["filename"], rate)
            frames, _ = frame_audio(signal, rate, hop, center, window_s)
            windows.append(np.asarray(frames))
            self.counts.append(len(frames))
        self.windows = np.concatenate(windows)

    def correct(self, embedder: Any, folds: Sequence[int] | None = None) -> np.ndarray:
        """Return which recordings are classified correctly by a model not trained on their fold.

        Only those of ``folds``, if given, are classified.
        """
        vectors = np.split(embedder.embed(self.windows), np.cumsum(self.counts)[:-1])
        return classified(vectors, self.labels, self.folds, folds)


def read_labels(folder: Path) -> tuple[list[dict[str, str]], np.ndarray, np.ndarray]:
    """The table of ESC-10: its rows, and the class and fold of each recording."""
    with open(next((folder / "meta").glob("*.csv")), newline="") as stream:
        rows = list(csv.DictReader(stream))
    return (rows, np.array([int(row["target"]) for row in rows]),
            np.array([int(row["fold"]) for row in rows]))


def classified(vectors: Sequence[np.ndarray], labels: np.ndarray, folds: np.ndarray,
               only: Sequence[int] | None = None) -> np.ndarray:
    """Return which recordings are classified correctly by a model not trained on their fold.

    vectors: the embeddings of each recording, (windows, values). only: the folds to be classified;
    recordings of others are False.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.array([np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in vectors])
    right = np.zeros(len(x), bool)
    for fold in sorted(set(folds)) if only is None else only:
        inside, out = folds != fold, folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
        model.fit(x[inside], labels[inside])
        right[out] = model.predict(x[out]) == labels[out]
    return right


def distill(name: str, options: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """One student: its folder, and what the steps say of sample, φ and training."""
    dim = options["emb-dim"]
    command = [sys.executable, "-m", "l3hpc", "submit", "upstream", "--approx", "pca", "--yes",
               "--samples", "2000", "--epochs", str(arguments.epochs),
               "--filters", f"16,16,32,32,64,64,{dim},{dim}", "--name", "esc10", "--json",
               "--set", "extract.max_failed=0.1"]
    for option, value in options.items():
        command += ["--set", f"{option}={value}"] if "." in option else [f"--{option}", value]
    environment = {**os.environ, "AUDIO_DIR": str(arguments.esc10 / "audio"),
                   "L3_MODEL_PATH": str(arguments.teacher),
                   "OUTPUT_DIR": str(arguments.work / "workspace")}
    done = subprocess.run(command, env=environment, cwd=arguments.work, text=True,
                          stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{name}: {' '.join(command[2:])} ended with status {done.returncode}")
    runs = sorted((arguments.work / "workspace" / "runs").iterdir(),
                  key=lambda path: path.stat().st_mtime)
    artifacts = runs[-1] / "artifacts"
    found = {step: json.loads((artifacts / step / "0000" / "result.json").read_text())
             for step in ("sample", "fit", "train")}
    return {"student": str((artifacts / "train" / "0000" / "model_best_valid_loss.h5").resolve()),
            **{step: result.get("summary") or result for step, result in found.items()}}


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean of ``values``, one per recording."""
    rows = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all variants; scores are saved in the work folder one by one."""
    from l3hpc.models.embedder import Embedder
    from l3hpc.models.parameters import untrained
    from l3hpc.models.weights import load

    recipe = dict(BASE)
    for word in arguments.recipe:
        option, _, value = word.partition("=")
        recipe[option] = value
    variants = {name: {**BASE, **changed} for name, changed in RECIPES.items()}
    if arguments.grid == "students":
        variants = students(recipe)
    teacher = load(arguments.teacher)
    recordings = Recordings(arguments.esc10, teacher.rate)
    right = {"teacher": recordings.correct(teacher)}
    results: dict[str, Any] = {"teacher": {}}
    for name, options in variants.items():
        results[name] = distill(name, options, arguments)
        student = load(Path(results[name]["student"]))
        right[name] = recordings.correct(student)
        print(f"{name}: {right[name].mean():.3f}", file=sys.stderr, flush=True)
        bare = f"{student.dim}-d, untrained"
        if arguments.grid == "students" and bare not in right:
            results[bare] = {}
            right[bare] = recordings.correct(
                Embedder(untrained(student.spec, 0), "untrained", trained=False))
    reference = "teacher" if arguments.grid == "students" else next(iter(variants))
    for name, result in results.items():
        values = right[name].astype(float)
        difference = values - right[reference]
        result |= {"accuracy": values.mean(), "interval": interval(values),
                   "difference": difference.mean(), "difference_interval": interval(difference)}
        result.pop("student", None)
    return {"grid": arguments.grid, "epochs": arguments.epochs, "recipe": recipe,
            "teacher": arguments.teacher.name, "reference": reference, "results": results}


def table(found: Mapping[str, Any]) -> Table:
    """Return the result of ``measure`` as a table."""
    rows = [[name, f"{value['accuracy']:.3f}", _span(value["interval"]),
             f"{value['difference']:+.3f}", _span(value["difference_interval"], "+")]
            for name, value in found["results"].items()]
    what = "recipes" if found["grid"] == "recipe" else "sizes and samplings"
    said = ", ".join(f"{option} {value}" for option, value in found["recipe"].items())
    return Table(
        f"ESC-10 accuracy of distilled students: {what}",
        ["variant", "accuracy", "95% interval", f"difference to {found['reference']}",
         "95% interval"], rows,
        [f"Teacher: {found['teacher']} (64-d, trained). φ is a PCA fitted on 2,000 of 4,396 rows; "
         f"{found['epochs']} epochs of 62 batches of 64 windows (hop 0.5 s).",
         f"Where a row does not say otherwise: {said}; 16,16,32,32,64,64,D,D filters.",
         "5-fold logistic regression (C = 0.1) on mean and standard deviation over a recording's "
         f"frames. Intervals: {RESAMPLES:,} resamples of the 400 recordings; differences are "
         "paired. One training each: another seed moves a result by about 0.02."])


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher's weight file")
    parser.add_argument("--work", type=Path, required=True, help="where to run, and go on")
    parser.add_argument("--grid", choices=("recipe", "students"), default="recipe")
    parser.add_argument("--recipe", nargs="*", default=[], metavar="OPTION=VALUE",
                        help="what the students' recipe changes in the base")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    for name in ("esc10", "teacher", "work"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = measure(arguments)
    if arguments.json:
        write_results(arguments.json, arguments.grid, machine(), [table(found)], False)
    print(f"{about(machine())}\n\n{table(found).markdown()}")


def _span(bounds: tuple[float, float], sign: str = "") -> str:
    return f"{bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}"


if __name__ == "__main__":
    main()
