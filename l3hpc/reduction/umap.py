"""UMAP through umap-learn (extra 'umap'), kept without pickle.

A fitted UMAP is stored as its (standardised) training rows, their embedding and its settings.
Loading builds umap-learn's neighbour graph from the training rows again, without optimising the
layout, and puts the stored embedding in place: its transform equals that of the fitted model
bit for bit (same version of umap-learn). umap-learn optimises the rows of one call together: the
embedding of a row depends a little on the rows that are transformed with it; the same call gives
the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.reduction.store import Phi

INSTALL = "pip install 'l3hpc[umap]'"


def umap_module() -> Any:
    """The package umap-learn, or an ``InputError`` that says how to install it."""
    try:
        import umap
    except ImportError as error:
        raise InputError(f"UMAP needs the package umap-learn ({error})", hint=INSTALL) from None
    return umap


def fit_umap(
    x: np.ndarray, n_components: int, *, n_neighbors: int = 15, min_dist: float = 0.3,
    metric: str = "euclidean", seed: int = 20180216, fingerprint: str = "",
    teacher: Mapping[str, Any] | None = None,
) -> Phi:
    """φ by UMAP on the standardised rows of ``x`` (n, d); holds the whole sample in memory.

    Repeatable for a seed on one version of umap-learn.
    """
    umap = umap_module()
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) <= n_neighbors:
        raise InputError(f"UMAP with {n_neighbors} neighbours needs more rows than that, found "
                         f"shape {x.shape}")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[(x == x[0]).all(axis=0) | (scale == 0)] = 1.0
    rows = ((x - mean) / scale).astype(np.float32)
    params = {"n_neighbors": n_neighbors, "min_dist": min_dist, "metric": metric, "seed": seed,
              "umap_learn": str(umap.__version__)}
    model = umap.UMAP(n_components=n_components, n_jobs=1, **_settings(params)).fit(rows)
    arrays = {"mean": mean, "scale": scale, "training_rows": rows,
              "training_embedding": np.asarray(model.embedding_, dtype=np.float32)}
    return Phi("umap", x.shape[1], n_components, fingerprint, dict(teacher or {}), len(x), params,
               arrays)


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    return {"n_neighbors": params["n_neighbors"], "min_dist": params["min_dist"],
            "metric": params["metric"], "random_state": params["seed"]}


class RebuiltUMAP:
    """umap-learn's transform for new rows, from what ``Phi`` stores."""

    def __init__(self, phi: Phi) -> None:
        umap = umap_module()
        self.mean, self.scale = phi.arrays["mean"], phi.arrays["scale"]
        embedding = np.array(phi.arrays["training_embedding"], dtype=np.float32)
        model = umap.UMAP(n_components=phi.out_dim, n_epochs=0, init=embedding, n_jobs=1,
                          **_settings(phi.params))
        model.fit(phi.arrays["training_rows"])
        model.n_epochs = None
        model.embedding_ = embedding
        self.model = model

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Embedding of the rows of ``x``, float32."""
        rows = ((np.asarray(x, dtype=np.float64) - self.mean) / self.scale).astype(np.float32)
        return np.asarray(self.model.transform(rows), dtype=np.float32)


def rebuild(phi: Phi) -> RebuiltUMAP:
    """A transformer for a stored UMAP φ."""
    return RebuiltUMAP(phi)
