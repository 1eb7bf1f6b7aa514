"""Scoring of predictions on SONYC-UST: from two CSV files to AUPRC and F1 on both levels.

Peer: the DCASE 2019/2020 task 5 baseline's way, a loop over all thresholds, at its best in numpy
(``benchmarks.evaluation_peer``). Same files, same definitions, and the same numbers to 1e-9.
scikit-learn's ``average_precision_score`` is shown for comparison: it has neither the fine level
with its uncertain tags nor F1, and its area is a sum of steps, not of trapezoids.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, figure, run

CLIPS = 18_510
TEST_CLIPS = 664  # the test split of SONYC-UST version 2
ANNOTATORS = (0, 17, 23)  # 0 agreed on the tags; two volunteers per clip, as in the real file
RESAMPLES = 1000
SHARES = (4, 2)  # a quarter and a half of the clips are scored as well
EVERY = 4  # of the peer's micro thresholds at full size
V2 = ("year", "week", "day", "hour", "borough", "block", "latitude", "longitude")


def make(folder: Path, clips: int) -> None:
    """Annotations of version 2 and predictions of ``clips`` clips, all in one split."""
    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
    from l3hpc.tagging import predictions

    if (folder / f"predictions-{clips}.csv").is_file():
        return
    taxonomy, rng = sonyc_ust_taxonomy(), np.random.default_rng(0)
    taxonomy.save(folder / "taxonomy.yaml")
    share = np.where([tag.is_x for tag in taxonomy.fine], 0.04, 0.1)
    fine = rng.random((clips, len(share))) < share
    coarse = np.stack([fine[:, [tag.coarse == category.id for tag in taxonomy.fine]].any(axis=1)
                       for category in taxonomy.coarse], axis=1)
    names = [f"{clip % 60:02d}_{clip:06d}.wav" for clip in range(clips)]
    columns = ["split", "sensor_id", "audio_filename", "annotator_id", *V2]
    columns += [f"{tag}_presence" for tag in taxonomy.fine_columns]
    columns += [f"{tag}_proximity" for tag in taxonomy.fine_columns]
    columns += [f"{tag}_presence" for tag in taxonomy.coarse_columns]
    near = np.where(fine, "near", "-1")
    with open(folder / f"annotations-{clips}.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for clip in rng.permutation(clips):
            for annotator in ANNOTATORS:
                writer.writerow(["validate", clip % 60, names[clip], annotator,
                                 2017, 4, 2, 13, 1, 547, 40.72951, -73.99388,
                                 *fine[clip].astype(int), *near[clip], *coarse[clip].astype(int)])
    truth = np.concatenate([fine, coarse], axis=1)
    heard = 1 / (1 + np.exp(2 - 2.5 * truth - rng.normal(size=truth.shape)))
    heard = heard.astype(np.float32)  # as a network gives them: nearly every value is another one
    predictions.write(folder / f"predictions-{clips}.csv", predictions.Predictions(
        names, heard[:, :len(share)], heard[:, len(share):]), taxonomy)


def ours(folder: Path, clips: int, bootstrap: int) -> dict[str, Any]:
    """Evaluate, from files to numbers; ``core`` is the time without reading."""
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.tagging import predictions
    from l3hpc.tagging.annotations import Annotations
    from l3hpc.tagging.evaluation import evaluate

    start = time.perf_counter()
    taxonomy = Taxonomy.load(folder / "taxonomy.yaml")
    annotations = Annotations.load(folder / f"annotations-{clips}.csv", taxonomy)
    found = predictions.read(folder / f"predictions-{clips}.csv", taxonomy)
    reading = time.perf_counter() - start
    result = evaluate(found, annotations, taxonomy, bootstrap=bootstrap)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "reading": reading, "core": seconds - reading,
            "numbers": {level: [result[level]["micro_auprc"], result[level]["micro_f1"],
                                result[level]["macro_auprc"],
                                *result[level]["class_auprc"].values()]
                        for level in ("coarse", "fine")}}


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure ours and the peers at three sizes, and the time of the intervals."""
    full, test = (400, 60) if quick else (CLIPS, TEST_CLIPS)
    sizes = [full // share for share in SHARES] + [full]
    for clips in {*sizes, test}:
        make(work, clips)
    found = {clips: _compare(work, clips, 1 if quick else 2, EVERY if clips == full else 1)
             for clips in sizes}
    return [_scoring(found, full),
            _intervals(work, (test, full), 20 if quick else RESAMPLES, 1 if quick else 2)]


def _compare(work: Path, clips: int, runs: int, every: int) -> dict[str, list[Measured]]:
    """Run the loop once, and the others before and after it."""
    print(f"{clips} clips", file=sys.stderr, flush=True)
    fast = {"ours": worker("evaluation", work, clips, 0),
            "sklearn": worker("evaluation_peer", "sklearn", work, clips)}
    before = in_turn(fast, runs)
    loop = in_turn({"loop": worker("evaluation_peer", "loop", work, clips, every)}, 1)
    after = in_turn(fast, runs)
    return {**loop, **{name: before[name] + after[name] for name in fast}}


def _difference(one: Measured, other: Measured, levels: tuple[str, ...]) -> float:
    """Return the largest difference between numbers that both sides have."""
    pairs = [(a, b) for level in levels
             for a, b in zip(one.values["numbers"][level], other.values["numbers"][level],
                             strict=True) if a is not None and b is not None]
    return max(abs(a - b) for a, b in pairs)


def _scoring(found: dict[int, dict[str, list[Measured]]], full: int) -> Table:
    rows, worst, apart = [], 0.0, 0.0
    for clips, sides in found.items():
        mine, loop = sides["ours"], sides["loop"][0]
        worst = max(worst, _difference(mine[0], loop, ("coarse", "fine")))
        apart = max(apart, _difference(mine[0], sides["sklearn"][0], ("coarse",)))
        for name, results in (("l3hpc", mine), ("loop over thresholds", [loop]),
                              ("average_precision_score (coarse only)", sides["sklearn"])):
            seconds = middle(results)
            reading = middle(results, "reading")
            rows.append((f"{clips:,}", name, figure(seconds), figure(reading),
                         figure(seconds - reading), f"{middle(results, 'peak_mb'):.0f}",
                         figure(seconds / middle(mine))))
    if worst > 1e-9:
        raise RuntimeError(f"the peer's numbers differ by {figure(worst, 2)}")
    mine, loop = found[full]["ours"], found[full]["loop"][0]
    ratio = loop.seconds / middle(mine)
    parts = loop.values
    return Table(
        "Scoring, from CSV files to numbers",
        ("clips", "method", "seconds", "reading", "scoring", "peak MB", "times l3hpc"), rows,
        notes=(
            f"29 fine tags with 6 X, 8 categories; {len(ANNOTATORS)} annotators per clip, all "
            "clips agreed; predictions are float32 as text, nearly all different. Both levels: "
            "micro-AUPRC, micro-F1, macro-AUPRC, AUPRC of 8 categories; no intervals.",
            f"Largest difference between l3hpc and the loop: {figure(worst, 1)} (allowed: 1e-9).",
            f"At {full:,} clips the loop evaluates every {EVERY}th threshold for micro, and that "
            f"time is multiplied by {EVERY}; at the smaller sizes it evaluates all of them.",
            f"The loop's {figure(parts['seconds'])} s at {full:,} clips: "
            f"{figure(parts['reading'])} for reading, {figure(parts['categories'])} for counting "
            f"every category, {figure(parts['micro'])} for looking up the categories for micro. It "
            "grows with the square of the number of clips, as the sizes show; with few distinct "
            "predictions (two decimals) it would not.",
            "average_precision_score covers only the coarse level, without F1, and gives different "
            f"values (by up to {figure(apart, 1)} here): its area is a sum of steps, it includes "
            "thresholds below 0.01, and its curve does not begin at the point that "
            "threshold 1 gives.",
        ),
        claims=(
            Claim(f"evaluation of {full:,} recordings, from files", "loop over thresholds (DCASE)",
                  ratio, 50),
            Claim(f"{full:,} recordings x 29 tags, from files", "", middle(mine), 2, "s", False),
            Claim(f"{full:,} recordings x 29 tags, peak memory", "", middle(mine, "peak_mb"), 300,
                  "MB", False),
        ))


def _intervals(work: Path, sizes: tuple[int, ...], samples: int, runs: int) -> Table:
    rows = []
    for clips in sizes:
        sides = in_turn({"without": worker("evaluation", work, clips, 0),
                         "with": worker("evaluation", work, clips, samples)}, runs)
        with_them, without = sides["with"], sides["without"]
        more = middle(with_them, "core") - middle(without, "core")
        rows.append((f"{clips:,}", f"{samples:,}", figure(more), figure(1e3 * more / samples),
                     figure(middle(with_them)), f"{middle(with_them, 'peak_mb'):.0f}"))
    return Table(
        "Bootstrap intervals beside every number",
        ("clips", "resamplings", "seconds more", "ms each", "seconds in all", "peak MB"), rows,
        notes=("Clips are resampled with replacement; percentiles; both levels together, 11 "
               "metrics each.",
               f"{sizes[0]:,} clips are the size of SONYC-UST's test split. No other package gives "
               "intervals, so there is no peer."))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        place, size, resamples = sys.argv[2:]
        print(json.dumps(ours(Path(place), int(size), int(resamples))))
    else:
        run("evaluation", __doc__, tables)
