"""Exact k-DPP sampling: one frame in memory against DPPy, and a million rows from HDF5.

Peer: DPPy 0.3.3, exact sampling of the same kernel L = B Bᵀ + εI (B: 512-d embeddings divided by
their Euclidean norm, ε = 0.001), in its own environment and with all threads
(``benchmarks.kdpp_peer``).
The work is all there is from embeddings to one sample: DPPy has to form L and decompose it; l3hpc
decomposes the smaller of the two sides. Both must find the same normaliser Σ det(L_S), and the mean
log det(L_S) of their samples must agree. DPPy's cheaper ways stand beside it: the dual one, which
has no ε, and the exchange chain of the published pipeline, which is not exact.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import gemm_rate
from benchmarks.measure import Measured, alone, in_turn, middle, worker
from benchmarks.peers import python
from benchmarks.tables import Claim, Table, figure, run

DIM = 512
EPSILON = 0.001
MIXED = 0.5  # the j-th of the directions that embeddings are mixed from has length j^-MIXED
FRAMES = ((500, 92), (8000, 92), (8000, 500))  # rows, k
LARGE = (1_000_000, 5000)
CHUNK = 1024
Z_LIMIT = 4.5  # a right sampler is beyond it in 7 of a million runs
DIGITS = 1e-8


def make(path: Path, rows: int) -> None:
    """An HDF5 file of embeddings as extract writes them: float32, not negative, uneven spectrum."""
    import h5py
    import numpy as np

    if path.is_file():
        return
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.standard_normal((DIM, DIM)))[0]
    mix = (np.arange(1, DIM + 1) ** -MIXED)[:, None] * directions
    mix = mix.astype(np.float32)
    with h5py.File(path.with_suffix(".part"), "w") as file:
        data = file.create_dataset("l3_embedding", (rows, DIM), "f4",
                                   chunks=(min(CHUNK, rows), DIM))
        for start in range(0, rows, 8192):
            count = min(8192, rows - start)
            drawn = random.standard_normal((count, DIM), dtype=np.float32)
            data[start:start + count] = np.maximum(drawn @ mix, 0)
    os.sync()
    path.with_suffix(".part").rename(path)


def frame(path: Path, rows: int, k: int, epsilon: float, repeats: int, extra: int) -> dict:
    """Samples of one frame that lies in memory. extra: further ones, for their statistics."""
    import h5py

    from l3hpc.sampling.kdpp import KDPP, FeatureRows
    from l3hpc.sampling.selection import select

    with h5py.File(path, "r") as file:
        x = file["l3_embedding"][:rows]
    seconds, found = [], None
    for seed in range(repeats):
        start = time.perf_counter()
        found = select("dpp-div", x, None, k, seed, epsilon)
        seconds.append(time.perf_counter() - start)
    assert found is not None
    log_dets = [found.log_det]
    dpp = KDPP(FeatureRows(x), epsilon)
    for seed in range(extra):
        dpp.sample(k, 1000 + seed)
        log_dets.append(dpp.log_det_)
    return {"seconds": statistics.median(seconds), "first": seconds[0],
            "log_z": found.log_det - found.log_likelihood, "log_dets": log_dets,
            "diverse": found.expected_diverse}


def gram(path: Path, rows: int) -> dict:
    """The Gram pass alone over rows in memory that are float64 already, by numpy: best of five."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        x = file["l3_embedding"][:rows].astype(np.float64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        x.T @ x
        times.append(time.perf_counter() - start)
    return {"seconds": min(times)}


def decomposition(path: Path, rows: int) -> dict:
    """The decomposition of the n × n kernel alone, by numpy: best of five."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        x = file["l3_embedding"][:rows].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kernel = x @ x.T
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.linalg.eigh(kernel)
        times.append(time.perf_counter() - start)
    return {"seconds": min(times)}


def forget(path: Path) -> None:
    """Drop the file from the page cache, so that the next read is from the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes() -> int:
    """Return the bytes that this process has read from the disk."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def large(path: Path, k: int, cold: bool) -> dict:
    """Do what the step ``sample`` does with one source: from its file to ``sample.h5``."""
    from l3hpc.datasets.embeddings import open_source
    from l3hpc.sampling.subset import EmbeddingCorpus, select_frames, write_sample

    if cold:
        forget(path)
    before = read_bytes()
    start = time.perf_counter()
    corpus = EmbeddingCorpus(open_source(path))
    choices = select_frames(corpus, corpus.sensors()[0], k, method="dpp-div", timescale="day",
                            timezone="UTC", epsilon=EPSILON, norm="l2", seed=1)
    write_sample(path.parent / f"sample-{os.getpid()}.hdf5", corpus, choices, {})
    seconds = time.perf_counter() - start
    (path.parent / f"sample-{os.getpid()}.hdf5").unlink()
    chosen = choices[0].selection
    return {"seconds": seconds, "read_gb": (read_bytes() - before) / 1e9,
            "rows": len(chosen.rows), "diverse": len(chosen.diverse),
            "expected": chosen.expected_diverse, "log_likelihood": chosen.log_likelihood}


def limit(path: Path, rows: int, cold: bool) -> dict:
    """Read the file once, in order, and compute the Gram products of as many rows with numpy."""
    import numpy as np

    if cold:
        forget(path)
    block = bytearray(1 << 22)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as stream:
        while stream.readinto(block):
            pass
    disk = time.perf_counter() - start
    x = np.random.default_rng(0).random((8192, DIM))
    x.T @ x
    start = time.perf_counter()
    for _ in range(-(-rows // len(x))):
        x.T @ x
    products = (time.perf_counter() - start) * rows / (-(-rows // len(x)) * len(x))
    return {"seconds": disk + products, "disk": disk, "gram": products}


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure one frame in memory and a million rows from a file."""
    frames = ((120, 20), (700, 20), (700, 60)) if quick else FRAMES
    rows, k = (20_000, 200) if quick else LARGE
    for count in {max(n for n, _ in frames), rows}:
        alone(worker("kdpp", "make", work / f"{count}.h5", count))
    return [_frames(work / f"{max(n for n, _ in frames)}.h5", frames, quick),
            _large(work / f"{rows}.h5", rows, k, 1 if quick else 3)]


def _frames(path: Path, frames: tuple[tuple[int, int], ...], quick: bool) -> Table:
    peer, rate = python("dppy"), gemm_rate("float64")
    lines: list[tuple[str, ...]] = []
    claims, notes = [], []
    for number, (n, k) in enumerate(frames):
        print(f"n = {n}, k = {k}", file=sys.stderr, flush=True)
        small = n <= DIM or quick
        mine = worker("kdpp", "frame", path, n, k, EPSILON, 7, 100)
        first = alone(mine)
        # L times this has log Z = 0: DPPy's polynomials are plain numbers, and overflow otherwise.
        scale = 2.0 ** round(-first.values["log_z"] / k / 0.6931471805599453)

        def dppy(how: str, epsilon: float, repeats: int, extra: int, n: int = n, k: int = k,
                 scale: float = scale) -> list[str]:
            return worker("kdpp_peer", how, path, n, k, epsilon, scale, repeats, extra,
                          python=peer)

        repeats, extra = (7, 100) if small else (1, 20 if k < 100 else 0)
        sides = {"l3hpc": mine, "DPPy, exact": dppy("exact", EPSILON, repeats, extra)}
        found = in_turn(sides, 1 if quick or number == 2 else 2)
        if number == 1:
            found |= in_turn({"l3hpc, ε = 0": worker("kdpp", "frame", path, n, k, 0.0, 7, 100),
                              "DPPy, dual, ε = 0": dppy("dual", 0.0, 7, 20),
                              "DPPy, 3 chain steps": dppy("chain", EPSILON, 1, 0)},
                             1 if quick else 2)
        _agree(found["l3hpc"], found["DPPy, exact"], f"n = {n}, k = {k}")
        if number == 1:
            _agree(found["l3hpc, ε = 0"], found["DPPy, dual, ε = 0"], f"n = {n}, k = {k}, ε = 0")
        lines += [_line(n, k, name, results, found["l3hpc"]) for name, results in found.items()]
        floor = alone(worker("kdpp", "gram", path, n)).seconds
        mine_s, peer_s = middle(found["l3hpc"]), middle(found["DPPy, exact"])
        memory = middle(found["DPPy, exact"], "peak_mb") / middle(found["l3hpc"], "peak_mb")
        part = f"k-DPP, n = {n:,}, k = {k}"
        bound = (f"Gram pass {1000 * floor:.0f} ms by numpy, {n * DIM**2 / rate / 1e6:.0f} ms at "
                 f"{rate:.0f} GFLOP/s")
        if n <= DIM:
            solving = alone(worker("kdpp", "decomposition", path, n)).seconds
            claims.append(Claim(
                part, "DPPy 0.3.3, exact", peer_s / mine_s, 1,
                limit=f"both decompose n × n numbers, which alone takes {1000 * solving:.0f} ms "
                      f"of {1000 * mine_s:.0f} and {1000 * peer_s:.0f}"))
        else:
            claims.append(Claim(part, "DPPy 0.3.3, exact", peer_s / mine_s, 300, limit=bound))
            claims.append(Claim(f"{part}: peak memory", "DPPy 0.3.3, exact", memory, 8,
                                limit="Python with numpy and h5py, and the rows"))
        if scale != 1.0:
            notes.append(f"n = {n:,}, k = {k}: DPPy was given {scale:g}·L, the same k-DPP.")
    return Table(
        "k-DPP of one frame in memory, 512-d embeddings",
        ("n", "k", "side", "seconds", "first call", "peak MB", "times l3hpc", "log Z",
         "mean log det ± standard error (samples)"), lines,
        notes=(
            "From float32 embeddings in memory to one sample with its log det, without imports and "
            "reading. seconds: median of 7 calls in one process, or one call where DPPy's exact "
            "sampler takes seconds; medians over alternating processes.",
            f"ε = {EPSILON}. Every run checks that log Z = log Σ det(L_S) agrees to a relative "
            f"{DIGITS:g}, and the mean log det of samples to {Z_LIMIT} standard errors.",
            "DPPy's dual sampler has no ε (so k is at most the rank, without regularisation); the "
            "ratio reflects its plain Python loops. Three steps of the exchange chain are fast, "
            "but far from the distribution, as the log det shows. They start from a random set, "
            "because DPPy's own search for a start (det(L_S) > 1e-9) fails here.", *notes),
        claims=claims)


def _agree(ours: list[Measured], theirs: list[Measured], what: str) -> None:
    one, other = ours[0].values, theirs[0].values
    apart = abs(one["log_z"] - other["log_z"]) / max(abs(one["log_z"]), 1.0)
    if not apart <= DIGITS:
        raise RuntimeError(f"{what}: log Z is {one['log_z']} here and {other['log_z']} at DPPy")
    a, b = one["log_dets"], other["log_dets"]
    spread = statistics.variance(a)
    error = (spread / len(a) + (statistics.variance(b) if len(b) > 9 else spread) / len(b)) ** 0.5
    z = (statistics.mean(a) - statistics.mean(b)) / error
    if not abs(z) <= Z_LIMIT:
        raise RuntimeError(f"{what}: mean log det differs by {z:.1f} standard errors")


def _line(n: int, k: int, name: str, results: list[Measured],
          ours: list[Measured]) -> tuple[str, ...]:
    values = results[0].values
    drawn = values["log_dets"]
    error = ""
    if len(drawn) > 1:
        error = f" ± {figure((statistics.variance(drawn) / len(drawn)) ** 0.5, 2)}"
    log_z = "" if values["log_z"] is None else f"{values['log_z']:.6f}"
    return (f"{n:,}", str(k), name, figure(middle(results)), figure(middle(results, 'first')),
            f"{middle(results, 'peak_mb'):.0f}", figure(middle(results) / middle(ours)), log_z,
            f"{statistics.mean(drawn):.1f}{error} ({len(drawn)})")


def _large(path: Path, rows: int, k: int, runs: int) -> Table:
    found = in_turn({"cold": worker("kdpp", "large", path, k, 1),
                     "limit, cold": worker("kdpp", "limit", path, rows, 1),
                     "cached": worker("kdpp", "large", path, k, 0),
                     "limit, cached": worker("kdpp", "limit", path, rows, 0)}, runs)
    path.unlink()
    rate = gemm_rate("float64")
    ideal = rows * DIM**2 / rate / 1e9
    lines = []
    for name, text in (("cold", "from disk"), ("cached", "from the page cache")):
        mine, floor = found[name], found[f"limit, {name}"]
        lines.append((text, figure(middle(mine)), f"{middle(mine, 'peak_mb'):.0f}",
                      f"{middle(mine, 'read_gb'):.2f}", figure(middle(floor, 'disk')),
                      figure(middle(floor, 'gram')),
                      f"{middle(mine) / middle(floor):.2f}",
                      f"{middle(mine) / (middle(floor, 'disk') + ideal):.2f}"))
    values = found["cold"][0].values
    if values["rows"] != k or abs(values["diverse"] - values["expected"]) > 50:
        raise RuntimeError(f"a wrong sample: {values}")
    cold, floor = found["cold"], found["limit, cold"]
    part = f"k-DPP, n = {rows:,} × {DIM}, k = {k:,}, from HDF5"
    bound = (f"disk {figure(middle(floor, 'disk'), 2)} s "
             f"+ Gram pass {figure(middle(floor, 'gram'), 2)} s by numpy "
             f"({figure(ideal, 2)} s at the GEMM rate, {rate:.0f} GFLOP/s in float64)")
    return Table(
        f"k-DPP of {rows:,} × {DIM} from HDF5, k = {k:,}",
        ("source", "seconds", "peak MB", "GB read from disk", "limit: reading once, s",
         "limit: Gram pass, s", "times the limit", "times the limit at the GEMM rate"), lines,
        notes=(
            "From the file of embeddings (float32, chunks of 1,024 rows, no filter) to sample.h5, "
            "with the functions of the step sample: Gram pass in float64, decomposition, leverage "
            "pass, proposals, and writing the selected rows with their provenance.",
            f"{values['diverse']} of {k:,} rows in the diverse part; log likelihood "
            f"{values['log_likelihood']:.3f}. All other exact samplers form an n × n matrix: "
            f"{figure(rows**2 * 8 / 1e12)} TB.",
            "Limit: reading the file once sequentially, plus float64 products with numpy of blocks "
            "in the cache. The method needs two passes over the file and 1.5 times the products."),
        claims=(
            Claim(part, "a target", middle(cold), 15, "s", at_least=False, limit=bound),
            Claim(f"{part}: peak memory", "a target", max(run.peak_mb for run in cold), 250, "MB",
                  at_least=False, limit="the file has 2,048 MB"),
            Claim(f"{part}: time", "disk read + Gram pass", middle(cold) / middle(floor), 2.5,
                  at_least=False, limit=bound)))


def main() -> None:
    """Run a worker."""
    what, path, *words = sys.argv[2:]
    file = Path(path)
    result: dict[str, Any] = {}
    if what == "make":
        make(file, int(words[0]))
    elif what == "frame":
        n, k, epsilon, repeats, extra = words
        result = frame(file, int(n), int(k), float(epsilon), int(repeats), int(extra))
    elif what == "gram":
        result = gram(file, int(words[0]))
    elif what == "decomposition":
        result = decomposition(file, int(words[0]))
    elif what == "large":
        result = large(file, int(words[0]), words[1] == "1")
    elif what == "limit":
        result = limit(file, int(words[0]), words[1] == "1")
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main()
    else:
        run("kdpp", __doc__, tables)
