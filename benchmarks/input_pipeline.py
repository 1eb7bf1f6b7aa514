"""From windows of 48 kHz int16 in HDF5 to log-mel batches of 64 for an 8 kHz student.

Ours is ``training_pairs.prepare``, which the step ``train`` runs once (it also writes the cache),
and then the reading of shuffled batches from that cache, which is all that later epochs pay. Peer:
the published method (``benchmarks.input_pipeline_peer``): resampy's ``kaiser_best`` on every batch,
then librosa, example by example, in every epoch again; as published, and at its best (resampy's
threads, and whichever of float32 and float64 is faster). Spectrograms are those of the published
``--with-melSpec`` branch on all sides (convention embedding-approx); they are compared with the
resampler of each side, and on the peer's own resampled audio.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.measure import Measured, in_turn, middle, worker
from benchmarks.tables import Claim, Table, figure, run

SOURCE, RATE, MELS, HOP, DFT, BATCH, DIM = 48000, 8000, 64, 160, 1024, 64, 128
EDGE = 3400.0  # Hz: above, the two resamplers' pass bands end differently
FRONT_END_DB, RESAMPLED_DB = 1e-3, 0.5  # allowed: the front ends; below the edge, resampled


def frontend() -> Any:
    """Return the student's front end."""
    from l3hpc.audio.frontends import Frontend

    return Frontend(RATE, DFT, HOP, MELS, convention="D")


def prepare(folder: Path, files: int, rows: int) -> dict[str, Any]:
    """``files`` files of ``rows`` windows, coloured noise with tones, and their targets."""
    import h5py
    import numpy as np
    from scipy import signal

    rng = np.random.default_rng(0)
    seconds = np.arange(SOURCE) / SOURCE
    for part in ("audio", "targets"):
        (folder / part).mkdir()
    for number in range(files):
        noise = signal.lfilter([1.0], [1.0, -0.8], rng.normal(0, 0.02, (rows, SOURCE)), axis=-1)
        tones = np.sin(2 * np.pi * rng.uniform(50, 3000, (rows, 1)) * seconds)
        level = 10 ** rng.uniform(-2, 0, (rows, 1))
        audio = np.clip((noise + 0.1 * tones) * level * 32768, -32768, 32767).astype(np.int16)
        with h5py.File(folder / "audio" / f"{number}.h5", "w") as file:
            file.create_dataset("audio", data=audio[:, np.newaxis], chunks=(1, 1, SOURCE))
        with h5py.File(folder / "targets" / f"{number}.h5", "w") as file:
            file["l3_embedding"] = rng.normal(size=(rows, DIM)).astype(np.float32)
    return {}


def ours(folder: Path, threads: int) -> dict[str, Any]:
    """``seconds``: per batch of ``prepare``; ``steady``: per shuffled batch from the cache."""
    import numpy as np

    from l3hpc.datasets.pair_cache import prepare_cache as fill
    from l3hpc.datasets.training_pairs import find_pairs

    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        pairs = find_pairs(None, folder / "targets", folder / "audio")
        cache = fill(pairs, frontend(), Path(place), threads=threads)
        seconds = (time.perf_counter() - start) * BATCH / pairs.rows
        order = np.random.default_rng(0).permutation(pairs.rows)
        batches = [order[start:start + BATCH] for start in range(0, len(order), BATCH)]
        start = time.perf_counter()
        for rows in batches:
            cache.batch(rows)
        steady = (time.perf_counter() - start) / len(batches)
        np.save(folder / "ours.npy", cache.batch(np.arange(BATCH))[0][..., 0])
    return {"seconds": seconds, "steady": steady}


def compare(folder: Path) -> dict[str, Any]:
    """Return the differences of the first batch, in dB."""
    import numpy as np

    mine, theirs = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
    same_audio = frontend()(np.load(folder / "resampled.npy"))
    from l3hpc.audio.mels import mel_corners

    inside = mel_corners(RATE, MELS)[2:] <= EDGE
    apart = np.abs(mine - theirs)
    return {"front_end": float(np.abs(same_audio - theirs).max()),
            "median": float(np.median(apart)), "below_edge": float(apart[:, inside].max()),
            "largest": float(apart.max())}


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure both methods of the peer, and ours on one thread and on all."""
    published = peers.python("published")
    files, rows, batches, runs = (2, 64, 1, 1) if quick else (4, 512, 8, 3)
    cores = len(os.sched_getaffinity(0))
    in_turn({"prepare": worker("input_pipeline", "prepare", work, files, rows)}, 1)
    found = in_turn({
        "published": worker("input_pipeline_peer", work, batches, "float32", 1, python=published),
        "ours": worker("input_pipeline", "ours", work, cores),
        **{f"best {kind}": worker("input_pipeline_peer", work, batches, kind, cores,
                                  python=published) for kind in ("float32", "float64")},
        "ours alone": worker("input_pipeline", "ours", work, 1),
    }, runs)
    apart = in_turn({"compare": worker("input_pipeline", "compare", work)}, 1)["compare"][0].values
    if apart["front_end"] > FRONT_END_DB or apart["below_edge"] > RESAMPLED_DB:
        raise RuntimeError(f"the spectrograms differ: {apart}")
    return [_pipeline(found, apart, files * rows, batches, cores)]


def _pipeline(found: Mapping[str, Sequence[Measured]], apart: Mapping[str, float], rows: int,
              batches: int, cores: int) -> Table:
    best = min(("best float32", "best float64"), key=lambda name: middle(found[name]))
    mine, published = middle(found["ours"]), middle(found["published"])

    def row(name: str, side: str, what: str = "seconds") -> tuple[str, ...]:
        seconds = middle(found[side], what)
        split = [f"{1e3 * middle(found[side], part):.0f}" if side[:4] != "ours" else "–"
                 for part in ("resampling", "spectra")]
        return (name, figure(1e3 * seconds), *split, f"{BATCH / seconds:,.0f}",
                figure(published / seconds), f"{middle(found[side], 'peak_mb'):.0f}")

    return Table(
        f"A batch of {BATCH} windows, 48 kHz int16 in HDF5 to {RATE // 1000} kHz log-mel",
        ("method", "ms per batch", "resampling", "spectra", "windows/s",
         "times as fast as published", "peak MB"),
        (row("published: resampy kaiser_best, librosa", "published"),
         row(f"the same at its best: {cores} threads, {best[5:]}", best),
         row("l3hpc, first pass (writes the cache), 1 thread", "ours alone"),
         row(f"l3hpc, first pass (writes the cache), {cores} threads", "ours"),
         row("l3hpc, every batch after that: read from the cache", "ours", "steady")),
        notes=(
            f"l3hpc processes {rows:,} windows in total, the peer the first {batches} batches. "
            f"{MELS} mels, hop {HOP}, DFT {DFT}, convention embedding-approx on all sides. "
            "Files and cache were in the page cache.",
            f"Front ends on the same audio differ by at most {figure(apart['front_end'], 1)} dB "
            f"(allowed: {FRONT_END_DB:g}). With each side's own resampler (soxr VHQ in l3hpc): "
            f"median {figure(apart['median'], 2)} dB, at most {figure(apart['below_edge'], 2)} dB "
            f"in bands below {EDGE:,.0f} Hz; in higher bands, where the pass bands end and "
            f"kaiser_best rolls off earlier, up to {figure(apart['largest'], 2)} dB.",
            "The published generator repeats its work in every epoch; l3hpc does it once.",
        ),
        claims=(
            Claim("input pipeline from 48 kHz int16 HDF5, first pass",
                  "resampy and librosa as published", published / mine, 20),
            Claim("input pipeline from 48 kHz int16 HDF5, first pass",
                  f"the same, {cores} threads, {best[5:]}", middle(found[best]) / mine, 1),
        ))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        way, place, *numbers = sys.argv[2:]
        sides = {"prepare": prepare, "ours": ours, "compare": compare}
        print(json.dumps(sides[way](Path(place), *map(int, numbers))))
    else:
        run("input_pipeline", __doc__, tables)
