"""Which clips do what, how windows vote, and that the test fold is never looked at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.classification import folds, models
from l3hpc.classification.folds import Features, Split
from l3hpc.classification.models import GRIDS, FitSettings
from l3hpc.errors import InputError, L3hpcError

pytestmark = pytest.mark.slow
FOLD = np.repeat(np.arange(1, 6), 12)
LABEL = np.tile(np.arange(4), 15)
SOURCE = [f"{fold}-{index // 2}" for index, fold in enumerate(FOLD)]


@pytest.fixture(scope="module")
def clips():
    """60 clips of 4 classes with 1 to 4 windows in 6 dimensions."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 60)
    x = 1.5 * np.repeat(np.eye(6)[LABEL], counts, axis=0) + rng.normal(size=(counts.sum(), 6))
    return Features([f"{index}.wav" for index in range(60)], x.astype(np.float32), counts, [])


def test_a_fraction_of_few_clips_is_taken_or_refused():
    fold, label = np.array([1] * 4 + [2] * 4), np.array([0, 1] * 4)
    parts = folds.split(fold, label, list("abcdefgh"), 1, ratio=0.15)
    assert len(parts.train) == len(parts.valid) == 2
    # Fewer recordings than parts that the ratio asks for.
    parts = folds.split(np.repeat([1, 2], 12), np.array([0, 1] * 12), list("abc") * 8, 1, ratio=0.1)
    assert len(parts.valid) == 4 and len(parts.train) == 8
    for source, own in ((["a"] * 8, label), (list("abcdefgh"), np.arange(8))):
        with pytest.raises(InputError, match="cannot be divided into clips to train and"):
            folds.split(fold, own, source, 1, ratio=0.15)


def test_the_fold_before_validates():
    for test, valid in ((1, 5), (2, 1), (5, 4)):
        parts = folds.split(FOLD, LABEL, SOURCE, test)
        assert set(FOLD[parts.test]) == {test} and set(FOLD[parts.valid]) == {valid}
        assert sorted([*parts.train, *parts.valid, *parts.test]) == list(range(60))
        assert len(parts.train) == 36


def test_folds_need_not_be_numbered_without_gaps():
    fold = np.array([2, 2, 4, 4, 9, 9])
    parts = folds.split(fold, np.array([0, 1] * 3), ["a"] * 6, 2)
    assert fold[parts.valid].tolist() == [9, 9] and fold[parts.train].tolist() == [4, 4]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.15, 0.25, 0.5]))
def test_a_ratio_keeps_sources_together_and_the_test_fold_out(seed, test, ratio):
    parts = folds.split(FOLD, LABEL, SOURCE, test, ratio=ratio, seed=seed)
    assert sorted([*parts.train, *parts.valid, *parts.test]) == list(range(60))
    assert set(FOLD[parts.test]) == {test}
    assert not {SOURCE[one] for one in parts.train} & {SOURCE[one] for one in parts.valid}
    assert abs(len(parts.valid) / 48 - ratio) < 0.05


def test_impossible_folds_are_refused():
    with pytest.raises(InputError, match="no clip of fold 6"):
        folds.split(FOLD, LABEL, SOURCE, 6)
    two = np.array([1, 1, 2, 2])
    with pytest.raises(InputError, match="clips of 2 folds only"):
        folds.split(two, two, ["a", "b", "c", "d"], 1)


def test_votes_by_hand():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    counts = np.array([3, 1])
    np.testing.assert_allclose(folds.vote(scores, counts), [[1.7 / 3, 1.3 / 3], [0.2, 0.8]])
    np.testing.assert_allclose(folds.vote(scores, counts, "majority"), [[1 / 3, 2 / 3], [0, 1]])


def run(clips, label, kind, ratio=None, **options):
    setting = FitSettings(kind, 4, epochs=6, patience=2)
    grid = GRIDS[kind] if kind != "rf" else ({"trees": 5}, {"trees": 20})
    grid = grid if kind != "mlp" else grid[-2:]
    parts = folds.split(FOLD, label, SOURCE, 2, ratio=ratio)
    return parts, folds.run_fold(clips, label, parts, setting, grid, **options)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("ratio", [None, 0.2])
def test_labels_of_the_test_fold_change_nothing(clips, kind, ratio):
    parts, first = run(clips, LABEL, kind, ratio)
    moved = LABEL.copy()
    moved[parts.test] = np.random.default_rng(5).permutation(LABEL[parts.test])
    assert (moved != LABEL).any()
    again, second = run(clips, moved, kind, ratio)
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(again, name))
        np.testing.assert_array_equal(first.scores[name], second.scores[name])
    assert (first.chosen, first.trials, first.losses) == (
        second.chosen, second.trials, second.losses)


@pytest.mark.parametrize("kind", models.KINDS)
def test_sounds_of_the_test_fold_choose_nothing(clips, kind):
    """Neither the choice nor the standardisation sees them."""
    parts, first = run(clips, LABEL, kind)
    x = clips.x.copy()
    x[clips.rows(parts.test)] = 1e3
    _, second = run(Features(clips.files, x, clips.counts, []), LABEL, kind)
    assert (first.chosen, first.trials) == (second.chosen, second.trials)
    for name in ("train", "valid"):
        np.testing.assert_array_equal(first.scores[name], second.scores[name])
    assert not np.array_equal(first.scores["test"], second.scores["test"])


def test_sounds_of_the_validation_fold_are_not_in_the_candidates_standardisation(clips):
    parts, first = run(clips, LABEL, "svm", refit=False)
    x = clips.x.copy()
    x[clips.rows(parts.valid)] += 100
    _, second = run(Features(clips.files, x, clips.counts, []), LABEL, "svm", refit=False)
    same = {trial["C"]: trial for trial in second.trials}
    assert [same[trial["C"]]["valid_accuracy"] for trial in first.trials] != [
        trial["valid_accuracy"] for trial in first.trials]
    if first.chosen == second.chosen:
        np.testing.assert_array_equal(first.scores["test"], second.scores["test"])


def test_the_best_on_validation_wins_ties_by_loss_then_order(clips, monkeypatch):
    accuracy_loss = {"a": (0.5, 0.1), "b": (0.75, 0.9), "c": (0.75, 0.3), "d": (0.75, 0.3)}
    parts = Split(np.arange(4), np.arange(4, 8), np.arange(8, 12))
    label = np.array([1] + [0] * 11)
    plain = Features([str(index) for index in range(12)], np.zeros((12, 1), np.float32),
                     np.ones(12, int), [])

    class Fake:
        epochs = 0

        def __init__(self, name):
            self.right, self.worth = accuracy_loss[name]

        def scores(self, x):
            found = np.tile([0.0, 1.0], (len(x), 1))
            found[:round(self.right * len(x))] = [1.0, 0.0]
            return found

        def loss(self, scores, y):
            return self.worth

    monkeypatch.setattr(folds, "fit", lambda setting, params, *samples: Fake(params["name"]))
    grid = [{"name": name} for name in accuracy_loss]
    outcome = folds.run_fold(plain, label, parts, FitSettings("svm", 2), grid, refit=False)
    assert outcome.chosen == {"name": "c"}
    assert [trial["valid_accuracy"] for trial in outcome.trials] == [0.5, 0.75, 0.75, 0.75]


def test_the_winner_is_fitted_again_on_both(clips):
    parts, again = run(clips, LABEL, "svm")
    _, once = run(clips, LABEL, "svm", refit=False)
    assert again.chosen == once.chosen and again.trials == once.trials
    np.testing.assert_array_equal(again.scores["valid"], once.scores["valid"])
    assert len(again.clips["train"]) == 48 and len(once.clips["train"]) == 36
    both = np.sort(np.concatenate([parts.train, parts.valid]))
    rows = clips.rows(both)
    x, y = clips.x[rows].astype(np.float64), np.repeat(LABEL[both], clips.counts[both])
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    own = models.fit(FitSettings("svm", 4), again.chosen, (x, y))
    np.testing.assert_allclose(folds.vote(own.scores(x), clips.counts[both]),
                               again.scores["train"], atol=1e-3)


def test_the_network_is_refitted_for_as_many_epochs_as_were_best(clips, monkeypatch):
    asked = []
    original = models.fit

    def spy(setting, *rest):
        asked.append((setting.epochs, len(rest) == 3))
        return original(setting, *rest)

    monkeypatch.setattr(folds, "fit", spy)
    _, outcome = run(clips, LABEL, "mlp")
    best = next(trial for trial in outcome.trials
                if {name: trial[name] for name in outcome.chosen} == outcome.chosen)
    assert asked == [(6, True), (6, True), (best["epochs"], False)]
    assert outcome.epochs == best["epochs"]


def test_an_empty_part_is_refused(clips):
    nothing = np.array([], int)
    with pytest.raises(InputError, match="there are no train clips"):
        folds.run_fold(clips, LABEL, Split(nothing, np.arange(3), np.arange(3)),
                       FitSettings("svm", 4), GRIDS["svm"])


class Diverging:
    """A fitted classifier whose scores are not numbers."""

    def __init__(self, fitted):
        self.fitted, self.epochs = fitted, fitted.epochs

    def scores(self, x):
        return np.full_like(self.fitted.scores(x), np.nan)


def test_a_candidate_whose_training_diverged_cannot_win(clips, monkeypatch):
    """Scores of NaN name the first class always: the accuracy looked like one of guessing."""
    real = models.fit
    parts = folds.split(FOLD, LABEL, SOURCE, 1)
    setting, grid = FitSettings("svm", 4, seed=1), [{"C": 0.1}, {"C": 1.0}]

    def fit(setting, params, *samples):
        fitted = real(setting, params, *samples)
        return Diverging(fitted) if params["C"] in diverging else fitted

    monkeypatch.setattr(folds, "fit", fit)
    diverging = {0.1}
    found = folds.run_fold(clips, LABEL, parts, setting, grid)
    assert found.chosen == {"C": 1.0} and found.trials[0]["valid_accuracy"] is None
    diverging = {0.1, 1.0}
    with pytest.raises(L3hpcError, match="the training of the classifier diverged"):
        folds.run_fold(clips, LABEL, parts, setting, grid)


def test_training_clips_of_one_class_are_refused(clips):
    parts = Split(np.flatnonzero(LABEL == 2)[:6], np.arange(4), np.arange(4, 8))
    with pytest.raises(InputError, match="all training clips are of one class"):
        folds.run_fold(clips, LABEL, parts, FitSettings("svm", 4, seed=1), [{"C": 1.0}])
