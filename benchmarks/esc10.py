"""What a published student reaches on ESC-10: by classifier, as in the tutorials, by precision.

    python -m benchmarks.esc10 --esc10 FOLDER --weights FILE.h5[.gz] [--work FOLDER] [--quick]
                               [--json benchmarks/results/esc10.json]

FOLDER is laid out as ESC-50 is: audio/ and meta/esc50.csv. Everything but the precisions is done by
the commands that the pages show: ``l3hpc submit esc50``, ``submit clips`` and ``export``. The
precisions are those of ``extract``, where int8 takes its ranges from 48 windows of 16 recordings;
each is judged by 5-fold logistic regression (C = 0.1) on the mean and standard deviation of the
embeddings over centred windows every 0.5 s, standardised (``benchmarks.distillation``).

``--quick`` takes a fifth of the recordings of two classes, writes no results and measures nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.birdnet import run
from benchmarks.distillation import Recordings, classified
from benchmarks.machine import about, machine
from benchmarks.tables import Table, write_results
from benchmarks.teacher import runs_here

CLASSIFIERS = {"mlp": "multi-layer perceptron", "svm": "support vector machine",
               "rf": "random forest"}
FEATURES = {"stats": "statistics", "framewise": "every 10th window"}
SLOW = "mlp", "framewise"  # nine perceptrons for each fold on all windows
PRECISIONS = ("bfloat16", "int8")
LABELS = {"target": "by number", "category": "by name"}


class Evaluation:
    """What a run of ``esc50`` or ``clips`` found.

    Attributes
    ----------
    scores : dict
        ``scores.json`` of the step score.
    predicted : dict of str to str
        File of a clip → its predicted class, over the test clips of all folds.
    confusion : list of list of str
        ``confusion.csv``, with its header.
    """

    def __init__(self, artifacts: Path) -> None:
        score = artifacts / "score/0000"
        self.scores: dict[str, Any] = json.loads((score / "scores.json").read_text())
        self.confusion = list(csv.reader((score / "confusion.csv").open(newline="")))
        self.predicted = {}
        for path in sorted(artifacts.glob("folds/*/predictions.csv")):
            with path.open(newline="") as stream:
                self.predicted.update({Path(row["file"]).name: row["predicted"]
                                       for row in csv.DictReader(stream) if row["part"] == "test"})

    @property
    def accuracy(self) -> float:
        """The mean over the folds."""
        return float(self.scores["accuracy"]["mean"])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of ``accuracy``."""
        low, high = self.scores["accuracy"]["interval"]
        return float(low), float(high)


def evaluate(pipeline: str, work: Path, *words: object) -> Evaluation:
    """Submit one of the pipelines in the work folder and read what came out."""
    said = json.loads(run("--directory", work, "submit", pipeline, *words, "--yes", "--json",
                          OUTPUT_DIR=str(work / "workspace")))
    return Evaluation(work / "workspace/runs" / said["run"] / "artifacts")


def part_of(folder: Path, work: Path) -> Path:
    """Eight recordings of each fold, of two classes, laid out as the data set is."""
    target = work / "ESC-50"
    shutil.rmtree(target, ignore_errors=True)
    (target / "audio").mkdir(parents=True)
    (target / "meta").mkdir()
    with (folder / "meta/esc50.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = sorted({row["target"] for row in rows})[:2]
    few = [row for fold in "12345" for name in classes
           for row in [one for one in rows if (one["fold"], one["target"]) == (fold, name)][:4]]
    with (target / "meta/esc50.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(few[0]))
        writer.writeheader()
        writer.writerows(few)
    for row in few:
        shutil.copyfile(folder / "audio" / row["filename"], target / "audio" / row["filename"])
    return target


def by_classifier(arguments: argparse.Namespace, known: str
                  ) -> tuple[Table, Mapping[str, Evaluation]]:
    """``submit esc50`` with each classifier and kind of features."""
    found, lines, figures = {}, [], {}
    for features, said in FEATURES.items():
        for learner, name in CLASSIFIERS.items():
            if (learner, features) == SLOW:
                continue
            one = evaluate("esc50", arguments.work, "--esc50", arguments.esc10, "--subset", "esc10",
                           "--student", arguments.weights, "--learner", learner, "--features",
                           features, *(["--set", "folds.every=10"] * (features == "framewise")))
            found[f"{features} {learner}"] = one
            figures[f"{features} {learner}"] = one.accuracy
            lines.append([said, name,
                          *(f"{fold['accuracy']:.4f}" for fold in one.scores["folds"].values()),
                          f"{one.accuracy:.4f}", "{:.3f} to {:.3f}".format(*one.interval)])
    return Table(
        "ESC-10 accuracy by features and classifier",
        ["features", "classifier", *(f"fold {fold}" for fold in range(1, 6)), "mean",
         "95% interval"], lines,
        [f"{known}. Windows every 0.1 s, not centred; parameters of the classifiers chosen on the "
         "fold before."], figures=figures), found


def as_table(arguments: argparse.Namespace, esc50: Mapping[str, Evaluation]
             ) -> tuple[Table, Table]:
    """``submit clips`` on the same recordings, as the tutorials do, and what it confuses."""
    table = arguments.work / "esc10.csv"
    with (arguments.esc10 / "meta/esc50.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = {row["target"]: row["category"] for row in rows}
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row["esc10"] == "True")
    lines, figures = [], {}
    tutorial: Evaluation | None = None
    for learner, column, every in (("svm", "category", 1), ("svm", "category", 10),
                                   ("svm", "target", 1), ("rf", "target", 1),
                                   ("rf", "category", 1)):
        one = evaluate("clips", arguments.work, "--table", table, "--audio",
                       arguments.esc10 / "audio", "--label-column", column, "--student",
                       arguments.weights, "--learner", learner, "--features", "stats", "--set",
                       f"folds.every={every}")
        tutorial = tutorial or one
        other = esc50[f"stats {learner}"].predicted
        same = sum(other[file] == names.get(each, each) for file, each in one.predicted.items())
        low, high = one.interval
        name = f"{learner} {column}" + (" every 10" if every > 1 else "")
        figures |= {name: one.accuracy, f"{name} low": low, f"{name} high": high,
                    f"{name} as esc50": float(same),
                    f"{name} right": float(sum(int(row[index]) for index, row in enumerate(
                        one.confusion[1:], 1)))}
        lines.append([CLASSIFIERS[learner], LABELS[column], "all" if every == 1 else "every 10th",
                      f"{one.accuracy:.4f}", f"{low:.3f} to {high:.3f}",
                      f"{same} of {len(one.predicted)}" if every == 1 else "–"])
    assert tutorial is not None
    header, *rest = tutorial.confusion
    return Table(
        "ESC-10 as a table of clips",
        ["classifier on statistics", "order of the classes", "windows", "accuracy",
         "95% interval", "clips predicted as by esc50"], lines, figures=figures), Table(
        "Confusion of the support vector machine", ["true class", *header[1:]], rest, [
            "Rows: true classes; columns: predicted ones. Statistics of all windows, classes "
            "ordered by name."])


def by_precision(arguments: argparse.Namespace, known: str) -> Table:
    """The student in float32 and in reduced precision, as ``extract`` computes it."""
    from l3hpc.datasets.corpus import scan_recordings
    from l3hpc.datasets.windows import evenly_spaced, sample_windows
    from l3hpc.models import precision
    from l3hpc.models.weights import load
    from l3hpc.steps.extract import RANGE_WINDOWS, RECORDINGS

    audio = arguments.esc10 / "audio"
    exact = load(arguments.weights, engine="tensorflow")
    recordings = Recordings(arguments.esc10, exact.rate)
    ranges = sample_windows(audio, evenly_spaced(scan_recordings(audio), RECORDINGS), exact.rate,
                            0.5, True, RANGE_WINDOWS)
    right = float(recordings.correct(exact).mean())
    lines = [["float32", "TensorFlow", "–", "–", f"{right:.4f}"]]
    figures, notes = {"float32": right}, []
    for name in PRECISIONS:
        if not runs_here("openvino", name):
            notes.append(f"This processor does not compute in {name}.")
            continue
        reduced, same = precision.load_reduced(arguments.weights, name, ranges)
        vectors = reduced.embed(recordings.windows)
        off = precision.deviation_of(vectors, same.embed(recordings.windows))
        assert off is not None, "every embedding is 0"
        right = float(classified(np.split(vectors, np.cumsum(recordings.counts)[:-1]),
                                 recordings.labels, recordings.folds).mean())
        figures |= {name: right, f"{name} cosine": off.cosine,
                    f"{name} relative error": off.relative_error}
        lines.append([name, reduced.engine_name, f"{off.relative_error:.3f}", f"{off.cosine:.5f}",
                      f"{right:.4f}"])
        warning = precision.slow_warning(name)
        notes += [warning[0].upper() + warning[1:] + "."] if warning else []
    return Table(
        "Reduced precision in extract",
        ["precision", "engine", "mean relative error", "mean cosine", "ESC-10 accuracy"], lines,
        [f"{known}; {len(recordings.windows):,} centred windows (hop 0.5 s) of "
         f"{len(recordings.rows)} recordings, compared with float32 of the same engine. One "
         "recording more or less is 0.0025.", *notes], figures=figures)


def exported(arguments: argparse.Namespace) -> Table:
    """``l3hpc export`` as in the tutorial, and the first recording embedded with what it wrote."""
    from l3hpc import get_embedding, load_model

    folder = arguments.work / "sensor"
    shutil.rmtree(folder, ignore_errors=True)
    report = json.loads(run("export", arguments.weights, "--int8", "--calibrate",
                            arguments.esc10 / "audio", "-o", folder, "--json"))
    first = sorted((arguments.esc10 / "audio").iterdir())[0]
    eight, exact = (np.asarray(get_embedding(first, model=load_model(path), hop_size=0.5)[0])
                    for path in (folder / "model.tflite", arguments.weights))
    lengths = np.linalg.norm(eight, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = float(((eight * exact).sum(axis=1) / lengths).mean())
    off = report["accuracy"]
    return Table(
        "The export of the tutorial",
        ["frames", "mean cosine", "mean relative error", f"mean cosine, {first.name}"],
        [[str(off["frames"]), f"{off['cosine']:.5f}", f"{off['relative_error']:.4f}",
          f"{cosine:.3f}"]],
        ["int8, compared with float32 on recordings that no range was taken from, and on the "
         "first one."],
        figures={"cosine": off["cosine"], "relative error": off["relative_error"],
                 "frames": off["frames"], "first": cosine})


def main() -> None:
    """Run the benchmark, print the tables and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.esc10", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--weights", type=Path, required=True, help="a published student")
    parser.add_argument("--work", type=Path, help="where to run (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="40 recordings of two classes")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    arguments = parser.parse_args()
    if arguments.quick and arguments.json:
        parser.error("--quick measures nothing: leave out --json")
    arguments.esc10, arguments.weights = arguments.esc10.resolve(), arguments.weights.resolve()

    from l3hpc.models.weights import describe_weights

    known = describe_weights(arguments.weights).label
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = (arguments.work or Path(temporary)).resolve()
        arguments.work.mkdir(parents=True, exist_ok=True)
        if arguments.quick:
            arguments.esc10 = part_of(arguments.esc10, arguments.work)
        classifiers, esc50 = by_classifier(arguments, known)
        tables = [classifiers, *as_table(arguments, esc50), by_precision(arguments, known),
                  exported(arguments)]
    here = machine()
    print(about(here))
    for table in tables:
        print("\n" + table.markdown())
    if arguments.json:
        write_results(arguments.json, "esc10", here, tables, quick=False)


if __name__ == "__main__":
    main()
