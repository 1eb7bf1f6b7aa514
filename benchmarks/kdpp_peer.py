"""DPPy's side of ``benchmarks.kdpp``; runs in the peer's own environment, without l3hpc.

    python -m benchmarks.kdpp_peer worker HOW FILE ROWS K EPSILON SCALE REPEATS EXTRA

HOW: ``exact`` (the kernel L = B Bᵀ + εI is formed and decomposed), ``dual`` (the factor B alone, so
without ε: L_gram_factor) or ``chain`` (three steps of the exchange chain, the published pipeline's
number) from a random set (its own start looks for one with det(L_S) > 1e-9, which does not exist
for k = 92). B: rows of FILE divided by their Euclidean norm. SCALE: L is multiplied by it, which
leaves a k-DPP as it is, and keeps DPPy's symmetric polynomials from overflowing. REPEATS: samples
from scratch, each timed. EXTRA: more samples of the last one's decomposition, for their
statistics.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time

import h5py
import numpy as np
from dppy.finite_dpps import FiniteDPP

CHAIN_STEPS = 3


def features(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64."""
    b = x.astype(np.float64)
    return b / np.linalg.norm(b, axis=1, keepdims=True)


def kernel(x: np.ndarray, epsilon: float, scale: float) -> np.ndarray:
    """scale · (B Bᵀ + εI), in one matrix of n × n."""
    b = features(x)
    result = b @ b.T
    result[np.diag_indices(len(x))] += epsilon
    if scale != 1.0:
        result *= scale
    return result


def once(how: str, x: np.ndarray, k: int, epsilon: float, scale: float, seed: int) -> FiniteDPP:
    """One sample from the embeddings on."""
    random = np.random.RandomState(seed)
    if how == "dual":
        dpp = FiniteDPP("likelihood", L_gram_factor=np.sqrt(scale) * features(x).T)
    else:
        dpp = FiniteDPP("likelihood", L=kernel(x, epsilon, scale))
    if how == "chain":
        dpp.sample_mcmc_k_dpp(k, nb_iter=CHAIN_STEPS, random_state=random,
                              s_init=random.choice(len(x), k, replace=False).tolist())
    else:
        dpp.sample_exact_k_dpp(k, random_state=random)
    return dpp


def main() -> None:
    """Print one JSON line."""
    how, path, rows, k, epsilon, scale, repeats, extra = sys.argv[2:]
    size, factor, ridge = int(k), float(scale), 0.0 if how == "dual" else float(epsilon)
    with h5py.File(path, "r") as file:
        x = file["l3_embedding"][:int(rows)]
    seconds = []
    with contextlib.redirect_stdout(sys.stderr), np.errstate(all="raise", under="ignore"):
        for seed in range(int(repeats)):
            start = time.perf_counter()
            dpp = once(how, x, size, ridge, factor, seed)
            seconds.append(time.perf_counter() - start)
        samples = [dpp.list_of_samples[0] if how != "chain" else dpp.list_of_samples[0][-1]]
        random = np.random.RandomState(1000)
        for _ in range(int(extra) if how != "chain" else 0):
            samples.append(dpp.sample_exact_k_dpp(size, random_state=random))
    log_z = None
    if how != "chain":
        log_z = float(np.log(dpp.E_poly[size, -1]) - size * np.log(factor))
    b = features(x)
    log_dets = [float(np.linalg.slogdet(b[s] @ b[s].T + ridge * np.eye(size))[1]) for s in samples]
    print(json.dumps({"seconds": statistics.median(seconds), "first": seconds[0], "log_z": log_z,
                      "log_dets": log_dets}))


if __name__ == "__main__":
    main()
