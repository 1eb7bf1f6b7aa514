"""Names of reduced embeddings, exactly as the published files have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.datasets.embeddings import ReducedKey, parse_key, reduced_key
from l3hpc.errors import InputError


def test_published_names():
    assert reduced_key("pca", 500_000, 128) == "pca_batch_500000_len_128_kernel_linear"
    assert reduced_key("pca", 1024, 64, kernel="rbf") == "pca_batch_1024_len_64_kernel_rbf"
    assert reduced_key("umap", 1024, 64, n_neighbors=5, min_dist=0.3, metric="euclidean") == \
        "umap_batch_1024_len_64_k_5_metric_euclidean_dist|iter_0.3"
    assert reduced_key("none", 0, 512) == "l3_embedding"
    with pytest.raises(InputError, match="unknown reduction 'tsne'"):
        reduced_key("tsne", 1, 2)


def test_names_are_read():
    assert parse_key("pca_batch_500000_len_128_kernel_linear") == ReducedKey("pca", 500_000, 128)
    assert parse_key("pca_ndata=500000_emb=256_kernel=linear.sav") == \
        ReducedKey("pca", 500_000, 256)
    assert parse_key("umap_ndata=1024_emb=64_nbrs=5_mindist=0.1_mtrc=euclidean.sav") == \
        ReducedKey("umap", 1024, 64, n_neighbors=5, min_dist=0.1)
    for other in ("l3_embedding", "audio", "pca_batch_x_len_1_kernel_linear",
                  "pca_batch_1_len_1_kernel_linear_more", "", "umap_batch_1_len_2"):
        assert parse_key(other) is None


@given(st.integers(1, 10**9), st.integers(1, 6144), st.sampled_from(["linear", "poly", "rbf"]),
       st.integers(2, 500), st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0, 1e-05]),
       st.sampled_from(["euclidean", "cosine", "manhattan", "dice"]))
def test_round_trip(n, d, kernel, neighbors, dist, metric):
    pca = ReducedKey("pca", n, d, kernel=kernel)
    assert parse_key(str(pca)) == pca
    umap = ReducedKey("umap", n, d, n_neighbors=neighbors, min_dist=dist, metric=metric)
    assert parse_key(str(umap)) == umap
