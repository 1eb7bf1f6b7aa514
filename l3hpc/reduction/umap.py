"""UMAP by umap-learn (extra 'umap'), stored without pickle.

A fitted UMAP [1]_ is stored as its (standardised) training rows, their embedding and its settings.
Loading builds umap-learn's neighbour graph from the training rows again, without optimising the
layout, and inserts the stored embedding: its transform is identical bit for bit to that of the
fitted model (with the same version of umap-learn). umap-learn optimises the rows of one call
together, so the embedding of a row depends slightly on the other rows of the call; the same call
gives the same numbers.

References
----------
.. [1] L. McInnes, J. Healy and J. Melville, "UMAP: uniform manifold approximation and projection
   for dimension reduction", arXiv:1802.03426 (2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.installation import install_command


def umap_module() -> Any:
    """The package umap-learn.

    Raises
    ------
    InputError
        Where it is not installed, with the command that installs it.
    """
    try:
        import umap
    except ImportError as error:
        raise InputError(f"UMAP needs the package umap-learn ({error})",
                         hint=install_command("umap")) from None
    return umap


class StandardizedUMAP:
    """StandardScaler and UMAP; the whole sample is in memory. ``Phi.from_umap`` makes φ of it.

    Parameters
    ----------
    n_components
        Dimensions of the embedding.
    n_neighbors, min_dist, metric
        As in umap-learn.
    seed
        Seed of the layout.

    Attributes
    ----------
    mean_, scale_ : ndarray, shape (d,)
        As in ``StreamingPCA``.
    training_rows_ : ndarray of float32, shape (n, d)
        The rows of the fit, standardised.
    training_embedding_ : ndarray of float32, shape (n, n_components)
        Their embedding.
    params_ : dict
        Settings and version of umap-learn, JSON values.
    """

    def __init__(
        self, n_components: int, *, n_neighbors: int = 15, min_dist: float = 0.3,
        metric: str = "euclidean", seed: int = 20180216,
    ) -> None:
        self.n_components = n_components
        self.params_: dict[str, Any] = {"n_neighbors": n_neighbors, "min_dist": min_dist,
                                        "metric": metric, "seed": seed}

    def fit(self, x: np.ndarray) -> StandardizedUMAP:
        """Fit to rows; the same seed and version of umap-learn give the same result.

        Parameters
        ----------
        x
            Rows, shape (n, d), with n above ``n_neighbors``.

        Returns
        -------
        StandardizedUMAP
            The object itself.

        Raises
        ------
        InputError
            For too few rows, and where umap-learn is not installed.
        """
        umap = umap_module()
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or len(x) <= self.params_["n_neighbors"]:
            raise InputError(f"too few rows for UMAP: found shape {x.shape}",
                             allowed=f"more than n_neighbors, {self.params_['n_neighbors']} rows")
        self.mean_, self.scale_ = x.mean(axis=0), x.std(axis=0)
        self.scale_[(x == x[0]).all(axis=0) | (self.scale_ == 0)] = 1.0
        self.training_rows_ = ((x - self.mean_) / self.scale_).astype(np.float32)
        self.params_["umap_learn"] = str(umap.__version__)
        # With a seed umap-learn uses one thread anyway; saying so avoids its warning.
        model = umap.UMAP(n_components=self.n_components, n_jobs=1, **_settings(self.params_))
        model.fit(self.training_rows_)
        self.training_embedding_ = np.asarray(model.embedding_, dtype=np.float32)
        return self


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """The stored settings as arguments of umap-learn."""
    return {"n_neighbors": params["n_neighbors"], "min_dist": params["min_dist"],
            "metric": params["metric"], "random_state": params["seed"]}


class RebuiltUMAP:
    """umap-learn's transform for new rows, from what ``Phi`` stores.

    Parameters
    ----------
    arrays, params
        Those of ``Phi``.

    Raises
    ------
    InputError
        Where umap-learn is not installed.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> None:
        umap = umap_module()
        self.mean, self.scale = arrays["mean"], arrays["scale"]
        embedding = np.array(arrays["training_embedding"], dtype=np.float32)
        # Without epochs, fit only builds the neighbour graph and keeps the initial layout.
        model = umap.UMAP(n_components=embedding.shape[1], n_epochs=0, init=embedding, n_jobs=1,
                          **_settings(params))
        model.fit(arrays["training_rows"])
        # Back to the default, or transform would not optimise the new rows either.
        model.n_epochs = None
        # fit has rescaled the layout that it was given as the start.
        model.embedding_ = embedding
        self.model = model

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Embedding of rows.

        Parameters
        ----------
        x
            Rows, shape (m, d).

        Returns
        -------
        ndarray of float32, shape (m, n_components)
            Their embedding.
        """
        rows = ((np.asarray(x, dtype=np.float64) - self.mean) / self.scale).astype(np.float32)
        return np.asarray(self.model.transform(rows), dtype=np.float32)
