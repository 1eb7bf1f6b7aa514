"""Names of reduced embeddings in the published pipeline's files, written and read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from l3hpc.errors import InputError

APPROXIMATIONS = ("pca", "umap", "none")

_PCA = re.compile(r"pca_batch_(?P<n>\d+)_len_(?P<d>\d+)_kernel_(?P<kernel>linear|poly|rbf)")
_UMAP = re.compile(r"umap_batch_(?P<n>\d+)_len_(?P<d>\d+)_k_(?P<k>\d+)_metric_(?P<metric>\w+?)"
                   r"_dist\|iter_(?P<dist>[0-9.eE+-]+)")
_PCA_FILE = re.compile(r"pca_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_kernel=(?P<kernel>linear|poly|rbf)")
_UMAP_FILE = re.compile(r"umap_ndata=(?P<n>\d+)_emb=(?P<d>\d+)_nbrs=(?P<k>\d+)"
                        r"_mindist=(?P<dist>[0-9.eE+-]+?)_mtrc=(?P<metric>[A-Za-z]+)")


@dataclass(frozen=True)
class ReducedKey:
    """What a published key says: the reduction, the rows of its fit, the length of its output."""

    approx: str
    n: int
    d: int
    kernel: str = "linear"
    n_neighbors: int = 15
    min_dist: float = 0.3
    metric: str = "euclidean"

    def __str__(self) -> str:
        return reduced_key(self.approx, self.n, self.d, kernel=self.kernel,
                           n_neighbors=self.n_neighbors, min_dist=self.min_dist, metric=self.metric)


def reduced_key(
    approx: str, n: int, d: int, *, kernel: str = "linear", n_neighbors: int = 15,
    min_dist: float = 0.3, metric: str = "euclidean",
) -> str:
    """The dataset name of reduced embeddings, as published.

    'pca_batch_{n}_len_{d}_kernel_{kernel}' or
    'umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}'; without a
    reduction ('none') embeddings keep the name 'l3_embedding'. ``n`` counts the rows of the fit.
    """
    if approx == "pca":
        return f"pca_batch_{n}_len_{d}_kernel_{kernel}"
    if approx == "umap":
        return f"umap_batch_{n}_len_{d}_k_{n_neighbors}_metric_{metric}_dist|iter_{min_dist}"
    if approx == "none":
        return "l3_embedding"
    raise InputError(f"unknown reduction {approx!r}",
                     allowed=f"valid: {', '.join(APPROXIMATIONS)}")


def parse_key(name: str) -> ReducedKey | None:
    """What the dataset name, or the published estimator's file name, says; None for other names."""
    for pattern in (_PCA, _PCA_FILE):
        if found := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("pca", int(found["n"]), int(found["d"]), kernel=found["kernel"])
    for pattern in (_UMAP, _UMAP_FILE):
        if found := pattern.fullmatch(name.removesuffix(".sav")):
            return ReducedKey("umap", int(found["n"]), int(found["d"]), n_neighbors=int(found["k"]),
                              min_dist=float(found["dist"]), metric=found["metric"])
    return None
