"""Average precision and the micro area on plain arrays, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.tagging import average_precision, micro_auprc


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 5), st.booleans())
def test_average_precision_is_that_of_scikit_learn(seed, clips, tags, ties):
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    truth = rng.random((clips, tags)) < 0.4
    truth[rng.integers(clips), :] = True
    score = rng.normal(size=(clips, tags))
    score = score.round() if ties else score
    ours = average_precision(truth, score)
    expected = average_precision_score(truth, score, average=None)
    np.testing.assert_allclose(ours, np.atleast_1d(expected), rtol=1e-12)
    assert average_precision(truth[:, 0], score[:, 0]) == ours[0]


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 5))
def test_micro_area_is_the_trapezoids_of_scikit_learns_curve(seed, clips, tags):
    """Where the highest score is 1 and none is below 0.01 the conventions agree."""
    from sklearn.metrics import auc, precision_recall_curve

    rng = np.random.default_rng(seed)
    truth = rng.random((clips, tags)) < 0.4
    score = rng.uniform(0.01, 1.0, (clips, tags)).round(1).clip(0.1)
    truth.flat[0], score.flat[0] = True, 1.0
    precision, recall, _ = precision_recall_curve(truth.ravel(), score.ravel())
    assert micro_auprc(truth, score) == pytest.approx(auc(recall, precision), rel=1e-12)


def test_by_hand():
    assert average_precision([1, 0], [0.5, 0.5]) == 0.5
    assert np.isnan(average_precision([0, 0], [0.5, 0.6]))
    # at threshold 1 nothing is predicted: (0, 0), then (1, 1)
    assert micro_auprc([[1], [0]], [[0.5], [0.0]]) == 0.5


@pytest.mark.parametrize("truth, score, match", [
    ([1, 0], [0.1, 0.2, 0.3], "shape"), ([1, 2], [0.1, 0.2], "other values than 0 and 1"),
    ([1, 0], [0.1, np.nan], "NaN")])
def test_refusals(truth, score, match):
    with pytest.raises(InputError, match=match):
        average_precision(truth, score)


def test_refusals_of_the_micro_area():
    with pytest.raises(InputError, match="shape"):
        micro_auprc([1, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="scores range from 0 to 2"):
        micro_auprc([[1], [0]], [[2.0], [0.0]])
    with pytest.raises(ValueError, match="recall is not defined"):
        micro_auprc([[0], [0]], [[0.2], [0.0]])
