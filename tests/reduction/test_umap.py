"""UMAP: refused with advice where umap-learn is absent, exactly rebuilt where it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.reduction.phi import Phi, load_phi, save_phi
from l3hpc.reduction.umap import RebuiltUMAP, StandardizedUMAP

pytestmark = pytest.mark.slow
INSTALLED = importlib.util.find_spec("umap") is not None
needs_umap = pytest.mark.skipif(not INSTALLED, reason="umap-learn is not installed (extra 'umap')")


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    return (np.random.default_rng(0).normal(size=(4, 12))[rng.integers(4, size=n)] * 5
            + rng.normal(size=(n, 12))).astype(np.float32)


def stored():
    return Phi("umap", 3, 2, n_samples=9, arrays={
        "mean": np.zeros(3), "scale": np.ones(3),
        "training_rows": np.zeros((9, 3), np.float32),
        "training_embedding": np.zeros((9, 2), np.float32)},
        params={"n_neighbors": 4, "min_dist": 0.3, "metric": "euclidean", "seed": 1})


def test_absent_package_is_an_error_with_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    for act in (lambda: StandardizedUMAP(2).fit(clusters(50, 1)),
                lambda: RebuiltUMAP(stored().arrays, stored().params),
                lambda: stored().transform(np.zeros((1, 3)))):
        with pytest.raises(InputError) as refusal:
            act()
        assert install_command("umap") in str(refusal.value)


def test_stored_without_pickle(tmp_path):
    """Published defect 12: the fitted UMAP was not kept."""
    save_phi(tmp_path / "phi.h5", stored())
    again = load_phi(tmp_path / "phi.h5")
    assert again.key == "umap_batch_9_len_2_k_4_metric_euclidean_dist|iter_0.3"
    assert again.explained is None
    assert again.digest == stored().digest


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="needs a umap reduction, found pca|without training"):
        Phi("umap", 3, 2, arrays={"mean": np.zeros(3), "scale": np.ones(3)})


@needs_umap
def test_rebuilt_transform_equals_the_fitted_one(tmp_path):
    """Without compilation, which would take ten times as long as these few rows do."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True,
                          env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def fit_and_rebuild(folder):
    sys.modules["tensorflow"] = None  # umap-learn imports it where it is installed
    import umap

    x, new = clusters(30, 1), clusters(6, 2)
    phi = Phi.from_umap(StandardizedUMAP(3, n_neighbors=6, min_dist=0.1, seed=4).fit(x),
                        fingerprint="7c1e", teacher={"kind": "test"})
    assert (phi.fingerprint, phi.teacher, phi.n_samples) == ("7c1e", {"kind": "test"}, 30)
    assert phi.key == "umap_batch_30_len_3_k_6_metric_euclidean_dist|iter_0.1"
    rows = ((x - phi.arrays["mean"]) / phi.arrays["scale"]).astype(np.float32)
    model = umap.UMAP(n_components=3, n_neighbors=6, min_dist=0.1, random_state=4, n_jobs=1)
    np.testing.assert_array_equal(model.fit(rows).embedding_, phi.arrays["training_embedding"])
    save_phi(folder / "phi.h5", phi)
    scaled = ((new.astype(float) - phi.arrays["mean"]) / phi.arrays["scale"]).astype(np.float32)
    again = load_phi(folder / "phi.h5")
    found = again.transform(new)
    np.testing.assert_array_equal(found, model.transform(scaled))
    np.testing.assert_array_equal(found, again.transform(new))
    np.testing.assert_array_equal(found, next(iter(again.stream([new], 2))))
    with pytest.raises(InputError, match="have 5 numbers per row"):
        again.transform(new[:, :5])


@needs_umap
def test_too_few_rows():
    with pytest.raises(InputError, match="too few rows for UMAP"):
        StandardizedUMAP(2, n_neighbors=15).fit(clusters(10, 1))


if __name__ == "__main__":
    fit_and_rebuild(Path(sys.argv[1]))
    print("equal")
