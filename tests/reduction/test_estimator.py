"""StreamingPCA as an estimator of scikit-learn, fed with arrays, chunks and HDF5."""

import h5py
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l3hpc.reduction import StreamingPCA

# check → why it cannot hold (none so far)
EXCEPTIONS: dict[str, str] = {}


@pytest.fixture
def x():
    rng = np.random.default_rng(5)
    return rng.normal(size=(700, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn():
    from sklearn.utils.estimator_checks import check_estimator

    check_estimator(StreamingPCA(), expected_failed_checks=EXCEPTIONS)


def test_parameters_clone_and_repr():
    pca = StreamingPCA(3, "float32", standardize=False)
    assert pca.get_params() == {"n_components": 3, "mode": "float32", "standardize": False}
    assert clone(pca).get_params() == pca.get_params()
    assert repr(pca) == "StreamingPCA(mode='float32', n_components=3, standardize=False)"


def test_every_form_of_input_gives_the_same(x, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
        data = file["x"]
        parts = [x[:10], x[10:300], x[300:]]
        whole = StreamingPCA(3).fit(x)
        for form in (data, parts, iter(parts), lambda: iter(parts), x.tolist()):
            found = StreamingPCA(3).fit(form)
            assert np.array_equal(found.components_, whole.components_)
            assert found.n_features_in_ == 6
        for form in (data, parts):
            np.testing.assert_allclose(whole.transform(form), whole.transform(x), rtol=1e-10,
                                       atol=1e-12)


def test_partial_fits_agree_with_one_fit(x):
    x[:, 2] = 0.1
    whole, parts = StreamingPCA(3).fit(x), StreamingPCA(3)
    for start in range(0, len(x), 90):
        parts.partial_fit(x[start:start + 90])
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(parts.scale_, whole.scale_, rtol=1e-10)
    np.testing.assert_allclose(parts.explained_variance_, whole.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(parts.components_, whole.components_, atol=1e-9)
    assert parts.scale_[2] == 1.0
    with pytest.raises(ValueError, match="is expecting 6 features"):
        parts.partial_fit([x[:, :4]])


def test_a_partial_fit_of_single_rows_is_ready_with_the_components(x):
    pca = StreamingPCA(3)
    for row in x[:2]:
        pca.partial_fit(row[None])
    assert not hasattr(pca, "components_")
    assert pca.partial_fit(x[2:3]).n_samples_ == 3


def test_scores_lead_back_to_the_rows(x):
    pca = StreamingPCA().fit(x)
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(x)), x, atol=1e-10)


def test_in_a_pipeline_with_names(x):
    pipeline = make_pipeline(StandardScaler(), StreamingPCA(2))
    assert pipeline.fit_transform(x).shape == (700, 2)
    assert list(pipeline.get_feature_names_out()) == ["streamingpca0", "streamingpca1"]


def test_an_iterator_cannot_be_fitted_and_transformed(x):
    chunks = [x[start:start + 90] for start in range(0, len(x), 90)]
    whole = StreamingPCA(3).fit_transform(x)
    for given in (chunks, lambda: iter(chunks)):
        np.testing.assert_allclose(StreamingPCA(3).fit_transform(given), whole, atol=1e-9)
    with pytest.raises(ValueError, match="an iterator can be read once"):
        StreamingPCA(3).fit_transform(iter(chunks))
