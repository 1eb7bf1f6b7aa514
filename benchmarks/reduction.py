"""Reducing teacher-sized embeddings with φ: every row of one HDF5 file into another.

Ours is the step ``reduce``. Peers: the published method (scikit-learn's ``StandardScaler`` and
``PCA``, files with gzip-4 in the chunks that h5py chooses), once with the whole file in memory and
once 1,024 rows at a time; and scikit-learn's ``PCA.transform`` alone, from an array in memory into
one, with the standardisation folded into its components: one float32 matrix product, no file at
all; beside it ``Phi.transform`` on the same array. Raw copy: h5py reading and writing the same
chunks, without any arithmetic. All that reduce give the same numbers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, alone, in_turn, middle, worker
from benchmarks.pca import CHUNK_ROWS, DIM, KEPT, KEY, ROWS, make
from benchmarks.tables import Claim, Table, figure, run

QUICK = 20_000, 64, 32
PUBLISHED_SHARE = 5  # the published method gets every fifth row count: it takes a minute as it is
CHECKED = 4096  # rows whose reduction is compared
ALLOWED = 1e-4  # relative to the largest score


def prepare(folder: Path, rows: int, dim: int, kept: int) -> dict[str, Any]:
    """Rows, a smaller file with the first of them, and φ, fitted on the smaller file."""
    import h5py

    from l3hpc.steps import Task, step

    make(folder / "rows.h5", rows, dim)
    with h5py.File(folder / "rows.h5") as source, h5py.File(folder / "few.h5", "w") as file:
        few = rows // PUBLISHED_SHARE
        data = file.create_dataset(KEY, (few, dim), "f4", chunks=(min(CHUNK_ROWS, few), dim))
        for start in range(0, few, 8192):
            data[start:start + 8192] = source[KEY][start:min(start + 8192, few)]
    with h5py.File(folder / "rows.h5") as source, h5py.File(folder / "gzip.h5", "w") as file:
        file.create_dataset(KEY, data=source[KEY][()], compression="gzip", chunks=True)
    (folder / "phi").mkdir()
    fit = step("fit")
    fit.run(fit.params_type(emb_dim=kept), Task(
        output=folder / "phi", scratch=folder, inputs={"sample": folder / "few.h5"}))
    return {}


def ours(folder: Path, place: Path) -> dict[str, Any]:
    """Run the step ``reduce`` as the worker of a job runs it."""
    from l3hpc.reduction import phi  # noqa: F401  (loading is not timed on any side)
    from l3hpc.steps import Task, step

    reduce = step("reduce")
    start = time.perf_counter()
    done = reduce.run(reduce.params_type(), Task(
        output=place, scratch=place,
        inputs={"extract": folder / "rows.h5", "fit": folder / "phi"}))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": done["rows"],
            "error": _error(folder, place / done["files"][0], done["key"])}


def published(folder: Path, place: Path) -> dict[str, Any]:
    """All rows at once, two estimators, gzip-4 in automatic chunks; the smaller file."""
    import h5py

    scaler, pca = _estimators(folder)
    start = time.perf_counter()
    with h5py.File(folder / "few.h5") as file:
        rows = file[KEY][()]
    reduced = pca.transform(scaler.transform(rows))
    with h5py.File(place / "out.h5", "a") as file:
        file.create_dataset("reduced", data=reduced, compression="gzip", chunks=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": len(rows),
            "error": _error(folder, place / "out.h5", "reduced")}


def published_batches(folder: Path, place: Path) -> dict[str, Any]:
    """The same storage on both sides, 1,024 rows at a time: what fits into any memory."""
    import h5py

    scaler, pca = _estimators(folder)
    start = time.perf_counter()
    with h5py.File(folder / "gzip.h5") as source, h5py.File(place / "out.h5", "a") as file:
        rows = source[KEY]
        data = file.create_dataset("reduced", (len(rows), pca.n_components_), "f4",
                                   compression="gzip", chunks=True)
        for first in range(0, len(rows), 1024):
            data[first:first + 1024] = pca.transform(scaler.transform(rows[first:first + 1024]))
        count = len(rows)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": count, "error": _error(folder, place / "out.h5", "reduced")}


def in_memory(folder: Path, place: Path) -> dict[str, Any]:
    """One estimator that standardises too, from array to array; three times, the fastest counts."""
    import h5py
    import numpy as np

    scaler, pca = _estimators(folder)
    pca.components_ = (pca.components_ / scaler.scale_).astype(np.float32)
    pca.mean_ = scaler.mean_.astype(np.float32)
    with h5py.File(folder / "rows.h5") as file:
        rows = np.empty(file[KEY].shape, np.float32)
        file[KEY].read_direct(rows)
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        reduced = pca.transform(rows)
        seconds = min(seconds, time.perf_counter() - start)
    with h5py.File(place / "out.h5", "w") as file:
        file["reduced"] = reduced[:CHECKED]
    return {"seconds": seconds, "rows": len(rows),
            "error": _error(folder, place / "out.h5", "reduced")}


def ours_in_memory(folder: Path, place: Path) -> dict[str, Any]:
    """φ applied to an array; three times, the fastest counts."""
    import h5py
    import numpy as np

    phi = _phi(folder)
    with h5py.File(folder / "rows.h5") as file:
        rows = np.empty(file[KEY].shape, np.float32)
        file[KEY].read_direct(rows)
    phi.transform(rows[:CHECKED])  # what it loads only now
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        reduced = phi.transform(rows)
        seconds = min(seconds, time.perf_counter() - start)
    with h5py.File(place / "out.h5", "w") as file:
        file["reduced"] = reduced[:CHECKED]
    return {"seconds": seconds, "rows": len(rows),
            "error": _error(folder, place / "out.h5", "reduced")}


def copy(folder: Path, place: Path) -> dict[str, Any]:
    """Copy chunk after chunk from one file to another."""
    import h5py
    import numpy as np

    start = time.perf_counter()
    with h5py.File(folder / "rows.h5") as source, h5py.File(place / "out.h5", "w") as file:
        rows = source[KEY]
        data = file.create_dataset(KEY, rows.shape, "f4", chunks=rows.chunks)
        buffer = np.empty(rows.chunks, np.float32)
        for first in range(0, len(rows), len(buffer)):
            size = min(len(buffer), len(rows) - first)
            rows.read_direct(buffer, np.s_[first:first + size], np.s_[:size])
            data.write_direct(buffer, np.s_[:size], np.s_[first:first + size])
        count = len(rows)
    return {"seconds": time.perf_counter() - start, "rows": count, "error": 0.0}


def product(folder: Path, place: Path) -> dict[str, Any]:
    """The matrix product alone, at the shape of the whole task: rows in memory, in place."""
    import h5py
    import numpy as np

    with h5py.File(folder / "rows.h5") as file:
        rows = np.ascontiguousarray(file[KEY][:65536])
        count, dim = file[KEY].shape
    kept = _phi(folder).out_dim
    weights = np.random.default_rng(0).standard_normal((dim, kept), np.float32)
    out = rows @ weights
    seconds = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.matmul(rows, weights, out=out)
        seconds = min(seconds, time.perf_counter() - start)
    return {"seconds": seconds * count / len(rows), "rows": count, "error": 0.0}


def _phi(folder: Path) -> Any:
    from l3hpc.reduction.phi import load_phi

    return load_phi(folder / "phi" / "phi.h5")


def _estimators(folder: Path) -> tuple[Any, Any]:
    """scikit-learn's estimators with φ's numbers, as if they had been fitted: in float32."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    phi = _phi(folder)
    few = np.random.default_rng(0).standard_normal((4 * phi.in_dim, phi.in_dim), np.float32)
    scaler = StandardScaler().fit(few)
    scaler.mean_, scaler.scale_ = phi.arrays["mean"], phi.arrays["scale"]
    pca = PCA(phi.out_dim, svd_solver="covariance_eigh").fit(few)
    pca.components_ = phi.arrays["components"].astype(np.float32)
    pca.mean_ = np.zeros(phi.in_dim, np.float32)
    pca.transform(few)
    return scaler, pca


def _error(folder: Path, path: Path, key: str) -> float:
    """The largest difference of the first scores from float64, over the largest score."""
    import h5py
    import numpy as np

    arrays = _phi(folder).arrays
    with h5py.File(folder / "rows.h5") as file:
        rows = file[KEY][:CHECKED].astype(np.float64)
    expected = (rows - arrays["mean"]) / arrays["scale"] @ arrays["components"].T
    with h5py.File(path) as file:
        found = file[key][:CHECKED]
    expected = expected[:len(found)]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all sides in turn; the published method only once."""
    rows, dim, kept = QUICK if quick else (ROWS, DIM, KEPT)
    alone(worker("reduction", "prepare", work, rows, dim, kept))
    names = {"ours": "l3hpc reduce, HDF5 to HDF5",
             "ours_in_memory": "l3hpc Phi.transform, in memory",
             "in_memory": "sklearn transform, in memory",
             "copy": "raw copy, HDF5 to HDF5", "product": "the matrix product alone"}
    sides = {name: worker("reduction", act, work) for act, name in names.items()}
    found = in_turn(sides, 1 if quick else 5)
    found |= in_turn({
        "published method, whole file in memory": worker("reduction", "published", work),
        "published method, 1,024 rows at a time": worker("reduction", "published_batches", work),
    }, 1)
    return [_table(found, rows, dim, kept)]


def _speed(results: list[Measured]) -> float:
    return middle(results, "rows") / middle(results)


def _table(found: dict[str, list[Measured]], rows: int, dim: int, kept: int) -> Table:
    mine, mine_in_memory, memory, raw, gemm, whole, slow = found.values()
    for name, results in found.items():
        if middle(results, "error") > ALLOWED:
            raise RuntimeError(f"{name}: scores differ by {figure(middle(results, 'error'), 2)}")
    reducing = {id(results) for results in (mine, mine_in_memory, memory, whole, slow)}
    cells = [(name, f"{middle(results, 'rows'):,.0f}", figure(middle(results)),
              f"{_speed(results):,.0f}", f"{middle(results, 'peak_mb'):.0f}",
              f"{middle(results, 'error'):.1e}" if id(results) in reducing else "–",
              figure(_speed(mine) / _speed(results))) for name, results in found.items()]
    limit = f"raw copy {_speed(raw):,.0f} rows/s, matrix product alone {_speed(gemm):,.0f}"
    part = f"reduce {dim} → {kept}, HDF5 to HDF5"
    return Table(
        f"Reducing {dim} → {kept} columns",
        ("method", "rows", "seconds", "rows/s", "peak MB", "scores differ by",
         "l3hpc is faster by"),
        cells,
        notes=(
            f"float32 rows in one HDF5 file of {figure(rows * dim * 4 / 1e9, 2)} GB (chunks of "
            f"{CHUNK_ROWS} whole rows, not compressed, in the page cache); files are written "
            "without fsync. Medians; the published method ran once.",
            "With the whole file in memory, the published method processed the first "
            f"{rows // PUBLISHED_SHARE:,} rows, from a file with the layout of l3hpc, and wrote "
            "them with gzip-4 and automatic chunks in one call; with 1,024 rows at a time, it "
            "processed all rows, and both files had gzip-4 and automatic chunks.",
            "Differences: first scores compared with float64, divided by the largest score "
            f"(allowed: {ALLOWED:g}). scikit-learn's estimators contain the same values as φ.",
            "For sklearn in memory, the scale of φ is folded into the components, so that it is "
            "one matrix product; it reads and writes no files, and keeps all rows and scores in "
            "memory.",
        ),
        claims=(
            Claim(part, "the published method (gzip-4, automatic chunks), 1,024 rows at a time",
                  _speed(mine) / _speed(slow), 40, limit=limit),
            Claim(part, "the published method, whole file in memory, from a file with the layout "
                  "of l3hpc", _speed(mine) / _speed(whole), 1, limit=limit),
            Claim(part, "sklearn transform, in memory, no files", _speed(mine) / _speed(memory),
                  0.65, limit=limit),
            Claim(f"reduce {dim} → {kept}, in memory", "sklearn transform, in memory",
                  _speed(mine_in_memory) / _speed(memory), 1,
                  limit=f"matrix product alone {_speed(gemm):,.0f} rows/s")))


def main(words: list[str]) -> None:
    """Run one worker, which prints one JSON line."""
    act, folder, *numbers = words
    if act == "prepare":
        found = prepare(Path(folder), *map(int, numbers))
    else:
        sides = {"ours": ours, "ours_in_memory": ours_in_memory, "published": published,
                 "published_batches": published_batches, "in_memory": in_memory, "copy": copy,
                 "product": product}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found = sides[act](Path(folder), Path(place))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(sys.argv[2:])
    else:
        run("reduction", __doc__, tables)
