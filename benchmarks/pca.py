"""PCA of teacher-sized embeddings: from one HDF5 file of rows to the 256 leading components.

Ours is the step ``fit``, which reads the file in blocks, and also standardises the columns and
writes φ. Peers: scikit-learn's ``PCA(svd_solver='covariance_eigh')``, its fastest, on an array in
memory (the time of loading that array stands beside it), in float32 and float64, alone and after
``StandardScaler``; and ``IncrementalPCA``, its way of not holding all rows, at the fastest of
several batch sizes. Eigenvalues of all sides are compared with a plain two-pass float64 reference.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, alone, in_turn, middle, worker
from benchmarks.tables import Claim, Table, figure, run

ROWS, DIM, KEPT = 500_000, 512, 256
QUICK = 20_000, 64, 32
CHUNK_ROWS = 1024  # of the file, whole rows, as the steps write them
DECAY = 0.7  # the k-th direction has standard deviation k ** -DECAY
BATCHES = (512, 1024, 2048, 4096, 8192, 16384)  # tried for IncrementalPCA
KEY = "l3_embedding"
LIMITS = {"float64": 1e-8, "float32": 1e-5}  # eigenvalues, relative


def make(path: Path, rows: int, dim: int) -> None:
    """Correlated float32 rows with a mean, in whole-row chunks without compression."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    mix = (turn * np.arange(1, dim + 1) ** -DECAY).T.astype(np.float32)
    mean = rng.normal(1.0, 0.5, size=dim).astype(np.float32)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(KEY, (rows, dim), "f4", chunks=(min(CHUNK_ROWS, rows), dim))
        for start in range(0, rows, 8192):
            size = min(8192, rows - start)
            data[start:start + size] = rng.standard_normal((size, dim), np.float32) @ mix + mean


def prepare(path: Path, rows: int, dim: int, kept: int) -> dict[str, Any]:
    """Make the rows, and the reference: eigenvalues of plain and of standardised columns."""
    import h5py
    import numpy as np

    make(path, rows, dim)
    with h5py.File(path) as file:
        data = file[KEY]
        blocks = [slice(start, start + 8192) for start in range(0, rows, 8192)]
        mean = sum(data[block].sum(axis=0, dtype=np.float64) for block in blocks) / rows
        scatter = np.zeros((dim, dim))
        for block in blocks:
            centred = data[block] - mean
            scatter += centred.T @ centred
    size = np.sqrt(np.diag(scatter) / rows)
    for name, matrix in (("plain", scatter), ("standard", scatter / np.outer(size, size))):
        np.save(path.parent / f"{name}.npy", np.linalg.eigvalsh(matrix / (rows - 1))[::-1][:kept])
    return {}


def ours(path: Path, kept: int, mode: str) -> dict[str, Any]:
    """Run the step ``fit`` as the worker of a job runs it."""
    import h5py

    from l3hpc.reduction.phi import load_phi
    from l3hpc.steps import Task, step

    fit = step("fit")

    def work(name: str, rows: Path, components: int) -> Any:
        folder = Path(temporary) / name
        folder.mkdir()
        fit.run(fit.params_type(emb_dim=components, mode=mode),
                Task(output=folder, scratch=folder, inputs={"sample": rows}))
        return load_phi(folder / "phi.h5").arrays["explained_variance"]

    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        small = Path(temporary) / "small.h5"
        with h5py.File(path) as file, h5py.File(small, "w") as some:
            some[KEY] = file[KEY][:100]
        work("first", small, 1)  # what it loads only now, as on the other side
        start = time.perf_counter()
        values = work("all", path, kept)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "loading": 0.0, "error": _error(path, "standard", values)}


def in_memory(path: Path, kept: int, kind: str, standardise: bool) -> dict[str, Any]:
    """Fit with scikit-learn and all rows in memory, read from the file beforehand."""
    import h5py
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    with h5py.File(path) as file:
        rows = np.empty(file[KEY].shape, kind)
        file[KEY].read_direct(rows)
    loading = time.perf_counter() - start
    PCA(n_components=1, svd_solver="covariance_eigh").fit(rows[:100])  # what it loads only now
    start = time.perf_counter()
    if standardise:
        rows = StandardScaler(copy=False).fit_transform(rows)
    pca = PCA(n_components=kept, svd_solver="covariance_eigh").fit(rows)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loading": loading, "error": _error(
        path, "standard" if standardise else "plain", pca.explained_variance_)}


def reading(path: Path) -> dict[str, Any]:
    """Read all rows once into one small array, as a pass of ours does: a limit."""
    import h5py
    import numpy as np

    start = time.perf_counter()
    with h5py.File(path) as file:
        rows = file[KEY]
        block = np.empty((CHUNK_ROWS, rows.shape[1]), rows.dtype)
        for first in range(0, len(rows), CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, len(rows))
            rows.read_direct(block, np.s_[first:last], np.s_[:last - first])
    return {"seconds": time.perf_counter() - start}


def product(path: Path, kind: str) -> dict[str, Any]:
    """The product of all rows with themselves, from memory, by numpy, which computes half of it."""
    import h5py

    with h5py.File(path) as file:
        rows = file[KEY][()].astype(kind)
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        rows.T @ rows
        seconds = min(seconds, time.perf_counter() - start)
    return {"seconds": seconds}


def incremental(path: Path, kept: int, batch: int, rows: int) -> dict[str, Any]:
    """scikit-learn's IncrementalPCA, fed from the file; the first ``rows`` rows only."""
    import h5py
    from sklearn.decomposition import IncrementalPCA

    start = time.perf_counter()
    pca = IncrementalPCA(n_components=kept)
    with h5py.File(path) as file:
        rows = min(rows, len(file[KEY]))
        for first in range(0, rows, batch):
            if rows - first >= kept:  # it cannot take a batch of fewer rows than components
                pca.partial_fit(file[KEY][first:first + min(batch, rows - first)])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loading": 0.0,
            "error": _error(path, "plain", pca.explained_variance_)}


def rates() -> dict[str, Any]:
    """Return the matrix rates of this machine in GFLOP/s, measured in a process of its own."""
    from benchmarks.machine import gemm_rate

    return {kind: gemm_rate(kind) for kind in LIMITS}


def _error(path: Path, name: str, values: Any) -> float:
    """Return the largest relative difference of the eigenvalues from the reference."""
    import numpy as np

    expected = np.load(path.parent / f"{name}.npy")
    return float(np.abs(values / expected - 1).max())


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all sides in turn; IncrementalPCA only once, because it takes minutes."""
    rows, dim, kept = QUICK if quick else (ROWS, DIM, KEPT)
    path = work / "rows.h5"
    alone(worker("pca", "prepare", path, rows, dim, kept))
    sides = {"l3hpc fit, float64 (default)": worker("pca", "ours", path, kept, "float64"),
             "l3hpc fit, float32": worker("pca", "ours", path, kept, "float32"),
             "sklearn PCA, float32": worker("pca", "in_memory", path, kept, "float32", 0),
             "sklearn PCA, float64": worker("pca", "in_memory", path, kept, "float64", 0),
             "sklearn StandardScaler + PCA, float32":
                 worker("pca", "in_memory", path, kept, "float32", 1)}
    found = in_turn(sides, 1 if quick else 5)
    batches = [batch for batch in BATCHES if kept <= batch <= rows]
    tried = {batch: alone(worker("pca", "incremental", path, kept, batch,
                                 2 * max(batches))).seconds for batch in batches}
    best = min(tried, key=tried.__getitem__)
    found[f"sklearn IncrementalPCA, batches of {best:,}"] = [
        alone(worker("pca", "incremental", path, kept, best, rows))]
    speed = alone(worker("pca", "rates")).values
    reads = [alone(worker("pca", "reading", path)) for _ in range(1 if quick else 3)]
    alone_s = {kind: alone(worker("pca", "product", path, kind)).seconds for kind in LIMITS}
    return [_table(found, speed, middle(reads), alone_s, rows, dim, kept)]


def _table(found: dict[str, list[Measured]], speed: Any, read: float, alone_s: dict[str, float],
           rows: int, dim: int, kept: int) -> Table:
    double, single, peer, peer64, scaled, incremental = found.values()
    for name, results in (("float64", double), ("float32", single)):
        if middle(results, "error") > LIMITS[name]:
            raise RuntimeError(f"eigenvalues in {name} differ from the reference by "
                               f"{figure(middle(results, 'error'), 2)}")
    cells = [(name, figure(middle(results)),
              figure(middle(results, 'loading')) if middle(results, "loading") else "in the above",
              f"{middle(results, 'peak_mb'):.0f}", f"{middle(results, 'error'):.1e}")
             for name, results in found.items()]
    floor = {kind: 2 * rows * dim**2 / rate / 1e9 for kind, rate in speed.items()}
    whole, whole64 = (middle(one) + middle(one, "loading") for one in (peer, peer64))
    limit = (f"the product of all rows with themselves at the measured {speed['float32']:.0f} "
             f"GFLOP/s: {figure(floor['float32'])} s; its symmetric half: "
             f"{figure(floor['float32'] / 2)} s")
    part = f"PCA {rows:,} × {dim} from HDF5"
    claims = (
        Claim(f"{part}, float32", "sklearn covariance_eigh in float32, reading counted on both "
              "sides", whole / middle(single), 1, limit=limit),
        Claim(f"{part}, float64 (default)", "the same in float64", whole64 / middle(double),
              1, limit=f"the symmetric half in float64: {figure(floor['float64'] / 2)} s; by "
                       f"numpy, from memory: {figure(alone_s['float64'])} s, "
                       f"{alone_s['float64'] / middle(double):.0%} of the time of l3hpc"),
        Claim(f"{part}, float32", "the same, from an array in memory, without its reading",
              middle(peer) / middle(single), 1,
              limit=f"reading the file alone: {figure(read)} s; the product alone, by numpy from "
                    f"memory: {figure(alone_s['float32'])} s, "
                    f"{alone_s['float32'] / middle(single):.0%} of the time of l3hpc; eigenvalues "
                    f"differ by {middle(single, 'error'):.1e}, the peer's by "
                    f"{middle(peer, 'error'):.1e}"),
        Claim(f"{part}, memory (either mode)", "sklearn covariance_eigh, float32",
              middle(peer, "peak_mb") / max(middle(double, "peak_mb"), middle(single, "peak_mb")),
              8),
        Claim(f"{part}, float64 (default)", "sklearn IncrementalPCA",
              middle(incremental) / middle(double), 8),
        Claim(f"{part}, float32", "the product of all rows at the measured GEMM rate",
              middle(single) / floor["float32"], 1.3, at_least=False, limit=limit))
    return Table(
        f"PCA of {rows:,} × {dim} float32 rows to {kept} components",
        ("method", "seconds", "loading, s", "peak MB", "eigenvalues differ by"), cells,
        notes=(
            f"Rows are float32 in one HDF5 file of {figure(rows * dim * 4 / 1e9, 2)} GB (chunks of "
            f"{CHUNK_ROWS} whole rows, not compressed, in the page cache), with a mean of about 1 "
            f"and directions of standard deviation 1 to {kept}^-{DECAY} = "
            f"{figure(kept ** -DECAY, 2)} (kept). Medians; IncrementalPCA ran once.",
            "The time of l3hpc includes reading the file, standardising the columns and writing φ; "
            "peak MB is that of whole processes. scikit-learn starts from an array, whose loading "
            "has its own column, and only centres the data unless StandardScaler is given.",
            "Differences: the largest relative difference of the kept eigenvalues from a two-pass "
            f"float64 reference on the same rows (allowed for l3hpc: {LIMITS['float64']:g} and "
            f"{LIMITS['float32']:g}).",
            f"Measured GEMM rates: {speed['float32']:.0f} GFLOP/s in float32, "
            f"{speed['float64']:.0f} in float64.",
            *_wins(middle(peer), middle(double)),
        ),
        claims=claims)


def _wins(peer: float, default: float) -> list[str]:
    if peer >= default:
        return []
    return [f"The peer is faster if the rows are already in memory and float32 is sufficient: "
            f"{figure(peer)} s, compared with {figure(default)} s for the default of l3hpc, "
            "float64, which reads the file."]


def main(words: list[str]) -> None:
    """Run one worker, which prints one JSON line."""
    act, *rest = words
    if act == "rates":
        found = rates()
    else:
        path, numbers = Path(rest[0]), rest[1:]
        if act == "ours":
            found = ours(path, int(numbers[0]), numbers[1])
        elif act == "product":
            found = product(path, numbers[0])
        elif act == "in_memory":
            found = in_memory(path, int(numbers[0]), numbers[1], numbers[2] == "1")
        else:
            found = {"prepare": prepare, "incremental": incremental, "reading": reading}[act](
                path, *map(int, numbers))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(sys.argv[2:])
    else:
        run("pca", __doc__, tables)
