"""Accuracy by hand."""

import numpy as np
import pytest

from l3hpc.classification import scores
from l3hpc.errors import InputError


def test_accuracies_of_a_small_confusion():
    label, predicted = np.array([0, 0, 0, 1, 3, 3]), np.array([0, 0, 1, 1, 3, 0])
    matrix = scores.confusion(label, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    found = scores.accuracies(matrix, ["a", "b", "c", "d"])
    assert found["class_accuracy"] == {"a": 2 / 3, "b": 1.0, "c": None, "d": 0.5}
    assert (found["accuracy"], found["clips"]) == (4 / 6, 6)
    assert found["average_class_accuracy"] == pytest.approx((2 / 3 + 1 + 0.5) / 3, rel=1e-15)
    with pytest.raises(InputError, match="no clips"):
        scores.accuracies(np.zeros((2, 2), int), ["a", "b"])


def test_mean_and_interval_over_folds():
    found = scores.over_folds([0.7, 0.8, 0.9])
    # Student's t with 2 degrees of freedom at 97.5%: 4.302652729911275
    half = 4.302652729911275 * 0.1 / 3**0.5
    assert (found["mean"], found["folds"]) == (pytest.approx(0.8), 3)
    assert found["std"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.8 - half, 1.0])
    assert scores.over_folds([0.4]) == {"mean": 0.4, "std": None, "interval": None, "folds": 1}


@pytest.mark.parametrize("all_folds", [0.0, 1.0])
def test_folds_that_are_all_right_or_all_wrong_have_an_interval(all_folds):
    found, method = scores.accuracy_over_folds([all_folds] * 3, 12)
    assert found["interval"] == scores.over_clips(all_folds, 12)["interval"]
    assert found["interval"][1] - found["interval"][0] > 0.2 and method == scores.CLIPS_METHOD
    assert scores.accuracy_over_folds([1.0, 0.9], 12) == (scores.over_folds([1.0, 0.9]),
                                                          scores.METHOD)
    assert scores.accuracy_over_folds([1.0], 12)[0]["interval"] is None
