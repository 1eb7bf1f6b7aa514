"""What each option of the tag classifier does on generated cities that are made for it.

    python -m benchmarks tag_options
    python -m benchmarks.tag_options --only pca metadata

For each option there is a kind of city (``l3hpc data synth`` with some difficulty) in which it
could help, and a number on the test split that it is for. Eight cities of each kind, equal but for
their seeds, are generated; the steps classify and evaluate run on each without and with the option,
and the difference is averaged over the cities, with a 95% interval of Student's t over them.

Embeddings are mean and standard deviation of 64 log-mels at 8 kHz over one second, every half: no
network, so that everybody gets the same numbers. Kinds of city, settings and numbers were fixed
before the first run.
"""

from __future__ import annotations

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
SECONDS, RATE = 3.0, 8000
RARE = ("music", "human-voice", "dog")  # the last in Zipf's order
KINDS = {
    "noisy": Difficulty(noise=18.0),
    "imbalanced": Difficulty(noise=12.0, imbalance=1.5),
    "correlated": Difficulty(noise=18.0, correlation=0.8),
    "telling hours": Difficulty(noise=24.0, hours=1.0),
    "unlike sensors": Difficulty(noise=12.0, colour=6.0),
}


@dataclass(frozen=True)
class Trial:
    """One option: its column in the sheet, the kind of city, the settings without and with it."""

    option: str
    column: str
    kind: str
    added: Mapping[str, str]
    base: Mapping[str, str] = field(default_factory=dict)
    number: str = "micro AUPRC"
    test: str = ""


TRIALS = (
    Trial("sensor_factor", "Sensor Factor", "unlike sensors", {"sensor_factor": "true"},
          {"hidden_layers": "1"}),
    Trial("proximity_factor", "Proximity Factor", "noisy", {"proximity_factor": "true"},
          {"hidden_layers": "1", "level": "fine"}),
    Trial("standardize: false", "No Standardize", "noisy", {"standardize": "false"},
          {"model": "framewise"}),
    Trial("cooccurrence_loss, factor 1e-5", "Co-occurrence Loss", "correlated",
          {"cooccurrence_loss": "true"}),
    Trial("cooccurrence_loss, factor 1e-3", "Co-occurrence Loss Factor", "correlated",
          {"cooccurrence_loss": "true", "cooccurrence_loss_factor": "1e-3"}),
    Trial("pca, 32 components", "PCA, PCA Components", "noisy",
          {"pca": "true", "pca_components": "32"}),
    Trial("oversample: mlsmote", "Oversample", "imbalanced", {"oversample": "mlsmote"},
          number="rare AUPRC"),
    Trial("oversample: lssmote", "Oversample", "imbalanced", {"oversample": "lssmote"},
          number="rare AUPRC"),
    Trial("oversample_iters: 3 (mlsmote)", "Oversample Iters.", "imbalanced",
          {"oversample": "mlsmote", "oversample_iters": "3"}, {"oversample": "mlsmote"},
          number="rare AUPRC"),
    Trial("thresh_type: percentile_75 (mlsmote)", "Threshold Type", "imbalanced",
          {"oversample": "mlsmote", "thresh_type": "percentile_75"}, {"oversample": "mlsmote"},
          number="rare AUPRC"),
    Trial("model: framewise", "Target Mode", "noisy", {"model": "framewise"}),
    Trial("optimizer: lbfgs", "Optimizer", "noisy", {"optimizer": "lbfgs"}),
    Trial("metadata", "–", "telling hours", {"metadata": "true"}),
    Trial("autopool_constraint: false", "–", "noisy", {"autopool_constraint": "false"}),
    Trial("hidden_layers: 1", "Num. Hidden Layers", "noisy", {"hidden_layers": "1"}),
)


def tables(quick: bool, work: Path, only: tuple[str, ...] = ()) -> list[Table]:
    """Run every trial on its cities."""
    cities, clips = (2, 40) if quick else (CITIES, CLIPS)
    rows = []
    for trial in TRIALS:
        if only and not any(word in trial.option for word in only):
            continue
        pairs = [[scores(work, trial.kind, seed, clips, {**trial.base, **extra}, quick)
                  for extra in ({}, trial.added)] for seed in range(cities)]
        without, with_it = (np.array([pair[side][trial.number] for pair in pairs])
                            for side in (0, 1))
        mean, half = difference(with_it - without)
        rows.append((f"`{trial.option}`", trial.column, trial.kind, trial.number,
                     f"{without.mean():.3f}", f"{with_it.mean():.3f}",
                     f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    kinds = "; ".join(f"{name}: {_named(kind)}" for name, kind in KINDS.items())
    return [Table(
        "Options of the tag classifier on generated cities",
        ("option", "column", "kind of city", "number (test)", "without", "with",
         "difference (95%)"), rows,
        notes=(f"{cities} cities of a kind, {clips} clips of {SECONDS:g} s in each; paired "
               "differences over the cities, interval of Student's t.",
               f"Kinds ({kinds}). Rare AUPRC: the mean over {', '.join(RARE)}.",
               f"{len(rows)} trials: with {len(rows)} intervals of 95%, "
               f"{len(rows) * 0.05:.1f} of them exclude 0 by chance on average."))]


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
    return {"micro AUPRC": test["micro_auprc"], "macro AUPRC": test["macro_auprc"],
            "rare AUPRC": float(np.mean(rare))}


def make(work: Path, kind: str, seed: int, clips: int) -> tuple[Path, Path]:
    """A city, and the folder of its clips' embeddings: ``<clip>.npz``, as published."""
    city = work / "cities" / f"{kind.replace(' ', '-')}-{seed}-{clips}"
    try:
        make_city(city, City(1, 1, clips, SECONDS, RATE, 1, seed, KINDS[kind]))
    except InputError as error:
        raise SystemExit(f"{error}\nuse another --work folder") from None
    target = city.with_name(city.name + "-embeddings")
    if not target.is_dir():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in sorted((city / "sonyc_ust/audio").glob("*.wav")):
            np.savez(part / f"{path.stem}.npz", embedding=embed(path))
        part.rename(target)
    return city, target


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
        chosen = tuple(word for word in sys.argv[place + 1:] if not word.startswith("--"))
        del sys.argv[place:place + 1 + len(chosen)]
    run("tag_options", __doc__, lambda quick, work: tables(quick, work, chosen))
