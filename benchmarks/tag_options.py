"""What each option of the tag classifier does on generated cities that are made for it.

    python -m benchmarks tag_options
    python -m benchmarks.tag_options --only pca metadata

For each option there is a kind of city (``l3hpc data synth`` with some difficulty) in which it
could help, and a number on the test split that it is for. Eight cities of each kind, equal but for
their seeds, are generated; the steps classify and evaluate run on each without and with the option,
and the difference is averaged over the cities, with a 95% interval of Student's t over them.

Embeddings are mean and standard deviation of 64 log-mels at 8 kHz over one second, every half: no
network, so that everybody gets the same numbers.

Kinds of city, settings and the first number of each trial were fixed before the first run. After
it, F1 was added (the areas depend on ranking alone, which oversampling need not change), and the
trials whose ``round`` is 2; after these, a city in which sensors of test do not stand beyond all
others (``metadata`` had to extrapolate their places), and round 3; last, round 4, in which the hour
alone says whether there is machinery, to see that ``metadata`` reaches the classifier at all.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import sys
import wave
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.tables import Table, run
from l3hpc.datasets.synth import City, make_city
from l3hpc.datasets.synth_clips import Difficulty
from l3hpc.errors import InputError

CITIES = 8
CLIPS = 300  # of each city: 180 train, 60 validate, 60 test
LARGE = 900
SECONDS, RATE = 3.0, 8000
RARE = ("music", "human-voice", "dog")  # the last in Zipf's order
RARE_NUMBERS = ("rare AUPRC", "rare F1")
SHARED = "same sensors"  # clips of the sensors of validate and test are in training, too
TOLD = "hours of machinery"  # 3 a.m. with machinery, 3 p.m. without: what metadata is for
TOLD_TAG = "machinery-impact"
KINDS = {
    "noisy": Difficulty(noise=18.0),
    "imbalanced": Difficulty(noise=12.0, imbalance=1.5),
    "correlated": Difficulty(noise=18.0, correlation=0.8),
    "telling hours": Difficulty(noise=24.0, hours=1.0),
    "unlike sensors": Difficulty(noise=12.0, colour=6.0),
    "only hours tell": Difficulty(noise=30.0, hours=1.0),
    SHARED: Difficulty(noise=12.0, colour=6.0),
    TOLD: Difficulty(noise=18.0),
}


@dataclass(frozen=True)
class Trial:
    """One option: its column in the sheet, the kind of city, the settings without and with it."""

    option: str
    column: str
    kind: str
    added: Mapping[str, str]
    base: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, str] = ("micro AUPRC", "micro F1")
    round: int = 1
    clips: int = CLIPS


TRIALS = (
    Trial("sensor_factor", "Sensor Factor", "unlike sensors", {"sensor_factor": "true"},
          {"hidden_layers": "1"}),
    Trial("sensor_factor", "Sensor Factor", SHARED, {"sensor_factor": "true"},
          {"hidden_layers": "1"}, round=2),
    Trial("proximity_factor", "Proximity Factor", "noisy", {"proximity_factor": "true"},
          {"hidden_layers": "1", "level": "fine"}),
    Trial("standardize: false", "No Standardize", "noisy", {"standardize": "false"},
          {"model": "framewise"}),
    Trial("cooccurrence_loss, factor 1e-5", "Co-occurrence Loss", "correlated",
          {"cooccurrence_loss": "true"}),
    Trial("cooccurrence_loss, factor 1e-3", "Co-occurrence Loss Factor", "correlated",
          {"cooccurrence_loss": "true", "cooccurrence_loss_factor": "1e-3"}),
    Trial("cooccurrence_loss, factor 1e-3, batches of 64", "Co-occurrence Loss Factor",
          "correlated",
          {"cooccurrence_loss": "true", "cooccurrence_loss_factor": "1e-3"}, {"batch_size": "64"},
          round=2),
    Trial("pca, 32 components", "PCA, PCA Components", "noisy",
          {"pca": "true", "pca_components": "32"}),
    Trial("oversample: mlsmote", "Oversample", "imbalanced", {"oversample": "mlsmote"},
          numbers=RARE_NUMBERS),
    Trial("oversample: lssmote", "Oversample", "imbalanced", {"oversample": "lssmote"},
          numbers=RARE_NUMBERS),
    Trial("oversample: mlsmote", "Oversample", "imbalanced", {"oversample": "mlsmote"},
          numbers=RARE_NUMBERS, round=2, clips=LARGE),
    Trial("oversample: lssmote", "Oversample", "imbalanced", {"oversample": "lssmote"},
          numbers=RARE_NUMBERS, round=2, clips=LARGE),
    Trial("oversample_iters: 3 (mlsmote)", "Oversample Iters.", "imbalanced",
          {"oversample": "mlsmote", "oversample_iters": "3"}, {"oversample": "mlsmote"},
          numbers=RARE_NUMBERS),
    Trial("thresh_type: percentile_75 (mlsmote)", "Threshold Type", "imbalanced",
          {"oversample": "mlsmote", "thresh_type": "percentile_75"}, {"oversample": "mlsmote"},
          numbers=RARE_NUMBERS),
    Trial("model: framewise", "Target Mode", "noisy", {"model": "framewise"}),
    Trial("optimizer: lbfgs", "Optimizer", "noisy", {"optimizer": "lbfgs"}),
    Trial("metadata", "–", "telling hours", {"metadata": "true"}),
    Trial("metadata", "–", "telling hours", {"metadata": "true"}, round=2, clips=LARGE),
    Trial("metadata", "–", "only hours tell", {"metadata": "true"}, round=3, clips=LARGE),
    Trial("metadata", "–", TOLD, {"metadata": "true"}, numbers=("machinery AUPRC", "micro AUPRC"),
          round=4),
    Trial("optimizer: lbfgs, 20 epochs", "Optimizer", "noisy", {"optimizer": "lbfgs"},
          {"epochs": "20"}, round=2),
    Trial("pca, 20 epochs", "PCA", "noisy", {"pca": "true"}, {"epochs": "20"}, round=2),
    Trial("autopool_constraint: false", "–", "noisy", {"autopool_constraint": "false"}),
    Trial("hidden_layers: 1", "Num. Hidden Layers", "noisy", {"hidden_layers": "1"}),
)


def tables(quick: bool, work: Path, only: tuple[str, ...] = ()) -> list[Table]:
    """Run every trial on its cities."""
    cities = 2 if quick else CITIES
    rows = []
    for trial in TRIALS:
        if only and not any(word in trial.option for word in only):
            continue
        clips = 40 if quick else trial.clips
        pairs = [[scores(work, trial.kind, seed, clips, {**trial.base, **extra}, quick)
                  for extra in ({}, trial.added)] for seed in range(cities)]
        for number in trial.numbers:
            without, with_it = (np.array([pair[side][number] for pair in pairs])
                                for side in (0, 1))
            mean, half = difference(with_it - without)
            rows.append((f"`{trial.option}`", trial.column, trial.kind, str(clips), number,
                         str(trial.round),
                         f"{without.mean():.3f}", f"{with_it.mean():.3f}",
                         f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    kinds = "; ".join(f"{name}: {_named(kind)}" for name, kind in KINDS.items())
    return [Table(
        "Options of the tag classifier on generated cities",
        ("option", "column", "kind of city", "clips", "number (test)", "round", "without", "with",
         "difference (95%)"), rows,
        notes=(f"{cities} cities of a kind, clips of {SECONDS:g} s, 60% of them in training; "
               "paired differences over the cities, interval of Student's t.",
               f"Kinds ({kinds}; in '{SHARED}' every second clip of the sensors of validate and "
               f"test is in training, in '{TOLD}' the hour says whether there is machinery). "
               f"Rare: the mean over {', '.join(RARE)}. F1 at 0.5.",
               f"Of {len(rows)} intervals of 95%, {len(rows) * 0.05:.1f} exclude 0 by chance on "
               "average."))]


def difference(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval of Student's t."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def scores(work: Path, kind: str, seed: int, clips: int, settings: Mapping[str, str],
           quick: bool) -> dict[str, float]:
    """The numbers of one classifier on the test split of one city."""
    from l3hpc.worker.standalone import run_standalone

    city, embeddings = make(work, kind, seed, clips)
    name = "_".join([f"{key}-{value}" for key, value in sorted(settings.items())] or ["none"])
    out = work / "runs" / f"{kind}-{seed}-{clips}" / name
    found = out / "evaluation.json"
    if not found.is_file():
        data = {"sonyc_ust": str(city / "sonyc_ust")}
        shutil.rmtree(out.with_name(f"{name}-classified"), ignore_errors=True)
        run_standalone("classify", {**data, "epochs": "2" if quick else "100", **settings},
                       {"embed": embeddings}, out.with_name(f"{name}-classified"))
        run_standalone("evaluate", {**data, "bootstrap": "0"},
                       {"classify": out.with_name(f"{name}-classified")}, out)
    level = settings.get("level", "coarse")
    test = json.loads(found.read_text())["test"][level]
    rare = [test["class_auprc"][tag] for tag in RARE]
    predicted = out.with_name(f"{name}-classified") / f"predictions_{level}_test.csv"
    return {"micro AUPRC": test["micro_auprc"], "micro F1": test["micro_f1"],
            "machinery AUPRC": test["class_auprc"][TOLD_TAG], "rare AUPRC": float(np.mean(rare)),
            "rare F1": rare_f1(city / "sonyc_ust", predicted)}


def rare_f1(data: Path, predicted: Path) -> float:
    """F1 at 0.5 on the test split, the mean over the rare categories."""
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.tagging import predictions
    from l3hpc.tagging.annotations import Annotations

    taxonomy = Taxonomy.load(data / "dcase-ust-taxonomy.yaml")
    files, _, truth = Annotations.load(data / "annotations.csv", taxonomy).ground_truth("test")
    found = predictions.read(predicted, taxonomy)
    row_of = {file: row for row, file in enumerate(found.files)}
    marked = found.coarse[[row_of[file] for file in files]] >= 0.5
    columns = [column for column, tag in enumerate(taxonomy.coarse) if tag.name in RARE]
    right = (marked & truth)[:, columns].sum(axis=0)
    return float(np.mean(2 * right / np.maximum((marked * 1 + truth)[:, columns].sum(axis=0), 1)))


def make(work: Path, kind: str, seed: int, clips: int) -> tuple[Path, Path]:
    """A city, and the folder of its clips' embeddings: ``<clip>.npz``, as published."""
    city = work / "cities" / f"{kind.replace(' ', '-')}-{seed}-{clips}"
    try:
        make_city(city, City(1, 1, clips, SECONDS, RATE, 1, seed, KINDS[kind]))
    except InputError as error:
        raise SystemExit(f"{error}\nuse another --work folder") from None
    change = {SHARED: share_sensors, TOLD: tell_hours}.get(kind)
    if change is not None:
        change(city / "sonyc_ust/annotations.csv")
    target = city.with_name(city.name + "-embeddings")
    if not target.is_dir():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in sorted((city / "sonyc_ust/audio").glob("*.wav")):
            np.savez(part / f"{path.stem}.npz", embedding=embed(path))
        part.rename(target)
    return city, target


def share_sensors(path: Path) -> None:
    """Put every second clip of validate and test into train."""
    rows = _original(path)
    for row in rows:
        if int(row["audio_filename"][3:9]) % 2:
            row["split"] = "train"
    _write(path, rows)


def tell_hours(path: Path) -> None:
    """Let the hour say whether a clip has machinery: agreed, or else by any annotator."""
    rows = _original(path)
    column = next(name for name in rows[0] if name.endswith(f"_{TOLD_TAG}_presence"))
    agreed = {row["audio_filename"] for row in rows if row["annotator_id"] == "0"}
    heard = {row["audio_filename"] for row in rows if row[column] == "1" and (
        row["annotator_id"] == "0" or row["audio_filename"] not in agreed)}
    for row in rows:
        row["hour"] = "3" if row["audio_filename"] in heard else "15"
    _write(path, rows)


def _original(path: Path) -> list[dict[str, str]]:
    """The rows as they were generated, which are kept beside the table."""
    original = path.with_suffix(".original.csv")
    if not original.exists():
        shutil.copy(path, original)
    with open(original, newline="") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def embed(path: Path) -> np.ndarray:
    """Mean and standard deviation of 64 log-mels in windows of a second every half: (n, 128)."""
    from l3hpc.audio.frontends import Frontend

    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    windows = np.lib.stride_tricks.sliding_window_view(
        samples.astype(np.float32) / 32768, RATE)[::RATE // 2]
    mels = Frontend(RATE, 1024, 160, 64)(np.ascontiguousarray(windows))
    mels = mels.reshape(len(windows), 64, -1)
    return np.concatenate([mels.mean(axis=2), mels.std(axis=2)], axis=1).astype(np.float32)


def _named(kind: Difficulty) -> str:
    usual: dict[str, Any] = Difficulty().__dict__
    return ", ".join(f"{name} {value:g}" for name, value in kind.__dict__.items()
                     if value != usual[name])


if __name__ == "__main__":
    chosen: tuple[str, ...] = ()
    if "--only" in sys.argv:
        place = sys.argv.index("--only")
        words = itertools.takewhile(lambda word: not word.startswith("--"), sys.argv[place + 1:])
        chosen = tuple(words)
        del sys.argv[place:place + 1 + len(chosen)]
    run("tag_options", __doc__, lambda quick, work: tables(quick, work, chosen))
