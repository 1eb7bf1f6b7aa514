"""``get_embedding`` in one call: agreement with openl3 on the same weights and audio, and speed.

Peer: openl3 0.4.2 (``benchmarks.embedding_agreement_peer``): ``get_audio_embedding`` on a list of
clips in memory, batch size 32 (its default), the model loaded and traced before the clock starts.
Ours: ``get_embedding`` on the same list with the engine that the short measurement chose, the model
loaded before, too. Weights are random values in openl3's own file format, so that the embeddings
are comparable and mean nothing else; front ends B and C are openl3's kapre and librosa. At 48 kHz
the two have to agree to float32. Audio at 44.1 kHz leaves the bands above 22.05 kHz next to empty,
so that each side's float32 rounding shows there; with openl3's own resampling filter (kaiser_best)
they have to agree to 5e-3, and how far off our better one (soxr) is, is told. Threads: all cores,
on both sides.

edgel3 0.2.1 has no column: it needs kapre 0.1.4 on Keras 2 and TensorFlow 1, which no Python
from 3.8 on can install. Its front end (A) is held to a float64 reference in the tests.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, run
from benchmarks.teacher import random_layers, write_openl3

ALLOWED = 1e-4  # of the largest value, where both hear the same samples
ALLOWED_RESAMPLED = 5e-3  # with the same filter
CASES: dict[str, dict[str, Any]] = {
    "mel256, 512, kapre": {"input_repr": "mel256", "size": 512, "openl3": "kapre", "ours": "B",
                           "rate": 48000},
    "mel256, 512, librosa": {"input_repr": "mel256", "size": 512, "openl3": "librosa",
                             "ours": "C", "rate": 48000},
    "mel128, 6144, kapre": {"input_repr": "mel128", "size": 6144, "openl3": "kapre", "ours": "B",
                            "rate": 48000},
    "linear, 512, kapre": {"input_repr": "linear", "size": 512, "openl3": "kapre", "ours": "B",
                           "rate": 48000},
    "mel256, 512, kapre, 44.1 kHz by kaiser_best": {
        "input_repr": "mel256", "size": 512, "openl3": "kapre", "ours": "B", "rate": 44100,
        "resampler": "kaiser_best"},
    "mel256, 512, kapre, 44.1 kHz by soxr": {
        "input_repr": "mel256", "size": 512, "openl3": "kapre", "ours": "B", "rate": 44100,
        "resampler": "soxr"},
}


def make(work: Path, clips: int, seconds: float, hop: float) -> None:
    """Make clips with energy in every band, random weights, and the list of cases."""
    from l3hpc.models.spec import openl3_spec

    write_openl3(work / "weights.h5", random_layers(openl3_spec("mel256", 512)))
    for rate in (48000, 44100):
        rng = np.random.default_rng(0)
        time_s = np.arange(int(seconds * rate)) / rate
        tones = 0.1 * np.sin(2 * np.pi * rng.uniform(200, 3500, (clips, 1)) * time_s)
        noise = 0.05 * rng.standard_normal((clips, len(time_s)))
        # 16-bit values in double precision, as read from a file: resampy computes in that of its
        # input, and in single precision its rounding shows in the bands above 22.05 kHz
        np.save(work / f"audio_{rate}.npy", np.round((tones + noise) * 32767) / 32768)
    cases = {name: {**case, "weights": "weights.h5", "audio": f"audio_{case['rate']}.npy",
                    "hop": hop} for name, case in CASES.items()}
    (work / "cases.json").write_text(json.dumps(cases))


def ours(work: Path, repeats: int) -> dict[str, Any]:
    """Embed as a notebook does: load the model once, then one call with a list."""
    from l3hpc import get_embedding, load_model

    found, engines = {}, set()
    (work / "l3hpc").mkdir(exist_ok=True)
    for name, case in json.loads((work / "cases.json").read_text()).items():
        model = load_model(work / case["weights"], input_repr=case["input_repr"],
                           embedding_size=case["size"], frontend=case["ours"])
        engines.add(model.engine)
        clips = list(np.load(work / case["audio"]))
        options = {"hop_size": case["hop"], "resampler": case.get("resampler", "soxr")}
        get_embedding(clips[:1], case["rate"], model, **options)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            embeddings, times = get_embedding(clips, case["rate"], model, **options)
            seconds.append(time.perf_counter() - start)
        np.savez(work / "l3hpc" / f"{name}.npz", embedding=np.concatenate(embeddings),
                 timestamps=np.concatenate(times))
        found[name] = min(seconds)
    return {"seconds": sum(found.values()), "cases": found, "engines": sorted(engines)}


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure both sides in turn, case by case."""
    make(work, *((1, 1.5, 0.5) if quick else (4, 10.0, 0.1)))
    repeats = 1 if quick else 2
    found = in_turn({
        "openl3": worker("embedding_agreement_peer", work, repeats, python=peers.python("openl3")),
        "l3hpc": worker("embedding_agreement", work, repeats)}, 1 if quick else 3)
    return [_table(work, found)]


def _seconds(results: list[Measured], case: str) -> float:
    return float(np.median([result.values["cases"][case] for result in results]))


def _table(work: Path, found: dict[str, list[Measured]]) -> Table:
    rows, worst, speed = [], 0.0, {}
    for name, case in CASES.items():
        sides = {}
        for side in found:
            with np.load(work / side / f"{name}.npz") as file:
                sides[side] = (file["embedding"].astype(np.float64), file["timestamps"])
        (wanted, times), (have, own_times) = sides["openl3"], sides["l3hpc"]
        if have.shape != wanted.shape or not np.allclose(times, own_times):
            raise RuntimeError(f"{name}: {have.shape} embeddings, openl3 gives {wanted.shape}")
        error = float(np.abs(have - wanted).max() / np.abs(wanted).max())
        lengths = np.linalg.norm(have, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((have * wanted).sum(axis=1) / lengths).min())
        if case["rate"] == 48000:
            worst = max(worst, error)
        elif case["resampler"] == "kaiser_best" and error > ALLOWED_RESAMPLED:
            raise RuntimeError(f"{name}: {error:.1e} away from openl3's")
        rate = {side: len(have) / _seconds(results, name) for side, results in found.items()}
        speed[name] = rate["l3hpc"] / rate["openl3"]
        rows.append((name, str(len(have)), f"{rate['openl3']:.1f}", f"{rate['l3hpc']:.1f}",
                     f"{speed[name]:.2f}", f"{error:.1e}", f"{cosine:.7f}"))
    if worst > ALLOWED:
        raise RuntimeError(f"embeddings are {worst:.1e} away from openl3's")
    first = next(iter(speed))
    claims = [Claim("get_embedding, audio in memory, float32", "openl3 0.4.2", speed[first], 1.0),
              Claim("the same, relative error at 48 kHz, all front ends", "openl3 0.4.2", worst,
                    ALLOWED, "", False),
              Claim("the same, peak memory", "openl3 0.4.2",
                    middle(found["l3hpc"], "peak_mb") / middle(found["openl3"], "peak_mb"), 1.0,
                    at_least=False)]
    notes = ["Random weights in openl3's file format; median over runs of the best call. Error: "
             "largest difference divided by the largest value; cosine: the smallest of any frame.",
             f"Engines that l3hpc chose: {', '.join(found['l3hpc'][0].values['engines'])}.",
             "edgel3 0.2.1 is not compared: it cannot be installed in the same environment "
             "(kapre 0.1.4, TensorFlow 1)."]
    return Table("get_embedding and openl3: the same weights, the same audio",
                 ("case", "frames", "openl3 frames/s", "l3hpc frames/s", "times openl3", "error",
                  "cosine"), rows, notes, claims)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(ours(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        run("embedding_agreement", __doc__, tables)
