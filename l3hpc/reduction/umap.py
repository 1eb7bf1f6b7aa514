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
from l3hpc.installation import install_command


def umap_module() -> Any:
    """The package umap-learn, or an ``InputError`` that says how to install it."""
    try:
        import umap
    except ImportError as error:
        raise InputError(f"UMAP needs the package umap-learn ({error})",
                         hint=install_command("umap")) from None
    return umap


class StandardizedUMAP:
    """StandardScaler and UMAP; holds the whole sample in memory.

    ``Phi.from_umap`` makes φ of a fitted one, and ``rebuild`` a transformer of what φ stores.

    Attributes after ``fit``
    ------------------------
    mean_, scale_: (d,) as of ``StreamingPCA``. training_rows_: (n, d) float32, standardised.
    training_embedding_: (n, n_components) float32. params_: settings and version, JSON-able.
    """

    def __init__(
        self, n_components: int, *, n_neighbors: int = 15, min_dist: float = 0.3,
        metric: str = "euclidean", seed: int = 20180216,
    ) -> None:
        self.n_components = n_components
        self.params_: dict[str, Any] = {"n_neighbors": n_neighbors, "min_dist": min_dist,
                                        "metric": metric, "seed": seed}

    def fit(self, x: np.ndarray) -> StandardizedUMAP:
        """Fit to rows (n, d), n more than ``n_neighbors``.

        Repeatable for a seed on one version of umap-learn. Raises ``InputError`` for fewer rows
        and where umap-learn is not installed.
        """
        umap = umap_module()
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or len(x) <= self.params_["n_neighbors"]:
            raise InputError(f"UMAP with {self.params_['n_neighbors']} neighbours needs more rows "
                             f"than that, found shape {x.shape}")
        self.mean_, self.scale_ = x.mean(axis=0), x.std(axis=0)
        self.scale_[(x == x[0]).all(axis=0) | (self.scale_ == 0)] = 1.0
        self.training_rows_ = ((x - self.mean_) / self.scale_).astype(np.float32)
        self.params_["umap_learn"] = str(umap.__version__)
        model = umap.UMAP(n_components=self.n_components, n_jobs=1, **_settings(self.params_))
        model.fit(self.training_rows_)
        self.training_embedding_ = np.asarray(model.embedding_, dtype=np.float32)
        return self


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    return {"n_neighbors": params["n_neighbors"], "min_dist": params["min_dist"],
            "metric": params["metric"], "random_state": params["seed"]}


class RebuiltUMAP:
    """umap-learn's transform for new rows, from the arrays and settings that ``Phi`` stores."""

    def __init__(self, arrays: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> None:
        umap = umap_module()
        self.mean, self.scale = arrays["mean"], arrays["scale"]
        embedding = np.array(arrays["training_embedding"], dtype=np.float32)
        model = umap.UMAP(n_components=embedding.shape[1], n_epochs=0, init=embedding, n_jobs=1,
                          **_settings(params))
        model.fit(arrays["training_rows"])
        model.n_epochs = None
        model.embedding_ = embedding
        self.model = model

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Embedding of the rows of ``x``, float32."""
        rows = ((np.asarray(x, dtype=np.float64) - self.mean) / self.scale).astype(np.float32)
        return np.asarray(self.model.transform(rows), dtype=np.float32)
