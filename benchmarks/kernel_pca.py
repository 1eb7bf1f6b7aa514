"""Kernel PCA of teacher-sized embeddings, exactly and by landmarks, and its transform of new rows.

Ours is the step ``fit`` with ``kernel: rbf``, from an HDF5 file to φ. Peers are scikit-learn's
``StandardScaler`` and ``KernelPCA`` on an array in memory, with the solver of the published code
(arpack) and with its exact one; for more rows, whose n × n matrix does not fit, ``Nystroem``
followed by ``PCA``, with as many landmarks, which holds all features in memory. The transform is
that of ``reduce`` beside that of a linear PCA and of ``KernelPCA.transform``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, alone, in_turn, middle, worker
from benchmarks.pca import KEY, make
from benchmarks.tables import Claim, Table, figure, run

EXACT, MANY, DIM, KEPT, LANDMARKS = 3000, 20_000, 512, 128, 1500
QUICK = 300, 1000, 32, 8, 100
LIMIT = 1e-9  # eigenvalues, relative to the largest


def prepare(path: Path, rows: int, dim: int) -> dict[str, Any]:
    """Make the rows."""
    make(path, rows, dim)
    return {}


def ours(path: Path, kept: int, landmarks: int) -> dict[str, Any]:
    """Run the step ``fit`` as the worker of a job runs it."""
    import l3hpc.reduction.kernel_fit  # noqa: F401  loaded before the clock starts, as its peers
    from l3hpc.reduction.phi import load_phi
    from l3hpc.steps import Task, step

    fit = step("fit")
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        folder = Path(temporary)
        task = Task(output=folder, scratch=folder, inputs={"sample": path})
        start = time.perf_counter()
        fit.run(fit.params_type(emb_dim=kept, kernel="rbf", landmarks=max(landmarks, kept)), task)
        seconds = time.perf_counter() - start
        values = load_phi(folder / "phi.h5").arrays["explained_variance"]
    return {"seconds": seconds, "values": values.tolist()}


def peer(path: Path, kept: int, solver: str) -> dict[str, Any]:
    """Fit scikit-learn's KernelPCA to an array in memory, after StandardScaler."""
    from sklearn.decomposition import KernelPCA
    from sklearn.preprocessing import StandardScaler

    rows = _read(path).astype(float)  # in float32 its eigenvalues have an error of 1e-7
    start = time.perf_counter()
    scaled = StandardScaler().fit_transform(rows)
    model = KernelPCA(kept, kernel="rbf", eigen_solver=solver, copy_X=False, n_jobs=-1,
                      random_state=0).fit(scaled)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "values": (model.eigenvalues_ / (len(rows) - 1)).tolist()}


def nystroem(path: Path, kept: int, landmarks: int, kind: str) -> dict[str, Any]:
    """Fit scikit-learn's Nystroem and PCA to an array in memory, after StandardScaler.

    It computes in the precision of the array.
    """
    from sklearn.decomposition import PCA
    from sklearn.kernel_approximation import Nystroem
    from sklearn.preprocessing import StandardScaler

    rows = _read(path).astype(kind)
    start = time.perf_counter()
    scaled = StandardScaler().fit_transform(rows)
    features = Nystroem(kernel="rbf", gamma=1 / rows.shape[1], n_components=landmarks,
                        random_state=0).fit_transform(scaled)
    model = PCA(kept, svd_solver="covariance_eigh").fit(features)
    return {"seconds": time.perf_counter() - start, "values": model.explained_variance_.tolist()}


def transform(path: Path, kept: int, landmarks: int, which: str) -> dict[str, Any]:
    """Seconds per transform of all rows of the file: as ``reduce`` does it, and as scikit-learn."""
    import numpy as np
    from sklearn.decomposition import KernelPCA
    from sklearn.preprocessing import StandardScaler

    from l3hpc.reduction import Phi, StreamingKernelPCA, StreamingPCA

    rows = _read(path)
    few = rows[:landmarks]
    if which == "sklearn":
        scaler = StandardScaler().fit(few)
        model = KernelPCA(kept, kernel="rbf", eigen_solver="randomized", iterated_power=1,
                          random_state=0, n_jobs=-1).fit(scaler.transform(few))
        start = time.perf_counter()
        for block in range(0, len(rows), 1024):  # as published
            model.transform(scaler.transform(rows[block:block + 1024]))
        return {"seconds": time.perf_counter() - start}
    phi = Phi.from_pca(StreamingPCA(kept).fit(few)) if which == "linear" else \
        Phi.from_kernel_pca(StreamingKernelPCA(kept).fit(few))
    parts = [rows[block:block + 2048] for block in range(0, len(rows), 2048)]
    next(iter(phi.stream(parts[:1])))
    start = time.perf_counter()
    for scores in phi.stream(parts):
        if not np.isfinite(scores[0, 0]):
            raise RuntimeError("scores are not finite")
    return {"seconds": time.perf_counter() - start}


def _read(path: Path) -> Any:
    import h5py

    with h5py.File(path) as file:
        return file[KEY][()]


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all sides in turn."""
    exact, many, dim, kept, landmarks = QUICK if quick else (EXACT, MANY, DIM, KEPT, LANDMARKS)
    runs = 1 if quick else 3
    few, all_rows = work / "few.h5", work / "many.h5"
    for path, rows in ((few, exact), (all_rows, many)):
        alone(worker("kernel_pca", "prepare", path, rows, dim))
    found = in_turn({
        "l3hpc fit": worker("kernel_pca", "ours", few, kept, exact),
        "sklearn KernelPCA, arpack (published)": worker("kernel_pca", "peer", few, kept, "arpack"),
        "sklearn KernelPCA, dense": worker("kernel_pca", "peer", few, kept, "dense")}, runs)
    by_landmarks = in_turn({
        f"l3hpc fit, {landmarks:,} landmarks":
            worker("kernel_pca", "ours", all_rows, kept, landmarks),
        **{f"sklearn Nystroem + PCA, {kind}, {landmarks:,} landmarks":
           worker("kernel_pca", "nystroem", all_rows, kept, landmarks, kind)
           for kind in ("float64", "float32")}}, runs)
    transforms = in_turn({
        name: worker("kernel_pca", "transform", all_rows, kept, landmarks, which)
        for name, which in (("l3hpc, kernel", "kernel"), ("sklearn KernelPCA.transform", "sklearn"),
                            ("l3hpc, linear", "linear"))}, runs)
    return [_exact(found, exact, dim, kept), _landmarks(by_landmarks, many, dim, kept, landmarks),
            _transforms(transforms, many, dim, kept, landmarks)]


def _exact(found: dict[str, list[Measured]], rows: int, dim: int, kept: int) -> Table:
    one, arpack, dense = found.values()
    difference = _difference(one[0], dense[0])
    if difference > LIMIT:
        raise RuntimeError(f"eigenvalues differ by {difference:g}")
    part = f"kernel PCA {rows:,} × {dim}, exact"
    return Table(
        f"Kernel PCA (rbf) of {rows:,} × {dim} rows to {kept} components",
        ("method", "seconds", "peak MB", "eigenvalues differ by"),
        [(name, figure(middle(runs)), f"{middle(runs, 'peak_mb'):.0f}",
          figure(_difference(runs[0], dense[0]), 2)) for name, runs in found.items()],
        notes=("The time of l3hpc includes reading the file and writing φ; scikit-learn starts "
               "from an array. Differences: of the eigenvalues from those of the dense solver, "
               "relative to the largest.",),
        claims=(Claim(part, "sklearn KernelPCA, arpack (published)", middle(arpack) / middle(one),
                      1),
                Claim(part, "sklearn KernelPCA, dense", middle(dense) / middle(one), 1),
                Claim(f"{part}: memory", "sklearn KernelPCA, dense",
                      middle(dense, "peak_mb") / middle(one, "peak_mb"), 1)))


def _landmarks(
    found: dict[str, list[Measured]], rows: int, dim: int, kept: int, landmarks: int,
) -> Table:
    one, peer, peer32 = found.values()
    part = f"kernel PCA {rows:,} × {dim}, {landmarks:,} landmarks"
    return Table(
        f"Kernel PCA (rbf) of {rows:,} × {dim} rows by {landmarks:,} landmarks",
        ("method", "seconds", "peak MB", "variance kept"),
        [(name, figure(middle(runs)), f"{middle(runs, 'peak_mb'):.0f}",
          figure(sum(runs[0].values["values"]), 4)) for name, runs in found.items()],
        notes=(f"The n × n matrix of the exact method would have {rows**2 * 8 / 1e9:.1f} GB. "
               "Variance kept: the sum of the eigenvalues; the landmarks are other rows on both "
               "sides. l3hpc computes in float64.",),
        claims=(Claim(part, "sklearn Nystroem + PCA, float64", middle(peer) / middle(one), 1),
                Claim(part, "the same in float32", middle(peer32) / middle(one), 1,
                      limit="l3hpc computes in float64, which takes twice the time"),
                Claim(f"{part}: memory", "sklearn Nystroem + PCA, float64",
                      middle(peer, "peak_mb") / middle(one, "peak_mb"), 1)))


def _transforms(
    found: dict[str, list[Measured]], rows: int, dim: int, kept: int, landmarks: int,
) -> Table:
    kernel, peer, _ = found.values()
    part = f"transform of rows by {landmarks:,} landmarks, {dim} → {kept}"
    return Table(
        f"New rows by {landmarks:,} landmarks, {dim} → {kept}, in memory",
        ("method", "rows/s"),
        [(name, f"{rows / middle(runs):,.0f}") for name, runs in found.items()],
        notes=("float32 rows on all sides. The time of both kernel methods grows with the "
               "landmarks.",),
        claims=(Claim(part, "sklearn KernelPCA.transform, 1,024 rows at a time",
                      middle(peer) / middle(kernel), 1),))


def _difference(one: Measured, other: Measured) -> float:
    pairs = zip(one.values["values"], other.values["values"], strict=True)
    return max(abs(a - b) for a, b in pairs) / other.values["values"][0]


def main(words: list[str]) -> None:
    """Run one worker, which prints one JSON line."""
    act, path, *rest = words
    if act == "transform":
        found = transform(Path(path), int(rest[0]), int(rest[1]), rest[2])
    elif act == "peer":
        found = peer(Path(path), int(rest[0]), rest[1])
    elif act == "nystroem":
        found = nystroem(Path(path), int(rest[0]), int(rest[1]), rest[2])
    else:
        work = {"prepare": prepare, "ours": ours}[act]
        found = work(Path(path), *map(int, rest))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        main(sys.argv[2:])
    else:
        run("kernel_pca", __doc__, tables)
