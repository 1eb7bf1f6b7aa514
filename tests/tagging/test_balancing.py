"""Oversampling: every synthetic clip is checked against the rules, by brute force."""

import itertools

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.tagging import balancing

SHARES = [0.5, 0.3, 0.1, 0.06, 0.03]


def clips(seed, count=300):
    rng = np.random.default_rng(seed)
    y = (rng.random((count, len(SHARES))) < SHARES).astype(np.float32)
    return rng.standard_normal((count, 4)) + y @ rng.standard_normal((len(SHARES), 4)), y


def nearest(x, seed, candidates):
    return sorted(candidates, key=lambda row: np.linalg.norm(x[row] - x[seed]))[:5]


def limit_of(threshold, counts):
    ratios = [max(counts.values()) / count for count in counts.values() if count]
    return np.mean(ratios) if threshold == "mean" else np.percentile(ratios, int(threshold[11:]))


@pytest.mark.parametrize("threshold, seed", [("mean", 1), ("percentile_30", 2)])
def test_mlsmote_replayed(threshold, seed):
    x, y = clips(seed)
    found = balancing.oversample("mlsmote", x, y, threshold=threshold, seed=seed)
    counts = {tag: float(column.sum()) for tag, column in enumerate(y.T)}
    limit = limit_of(threshold, counts)
    rarest_first = sorted(counts, key=lambda tag: counts[tag])
    rare = [tag for tag in rarest_first if max(counts.values()) / counts[tag] > limit]
    used = {tag: [] for tag in rare}
    for clip, other, alpha, (tag,) in zip(found.seed, found.neighbour, found.alpha, found.tags,
                                          strict=True):
        assert max(counts.values()) / counts[tag] > limit  # it was needed
        members = [row for row in range(len(y)) if y[row, tag] and row != clip]
        assert y[clip, tag] and other in nearest(x, clip, members)
        used[tag].append(clip)
        for one in counts:
            counts[one] += alpha * y[clip, one] + (1 - alpha) * y[other, one]
    order = [tags for tags, _ in itertools.groupby(found.tags)]
    assert order == [(tag,) for tag in rare if used[tag]]
    for tag, seeds in used.items():
        assert len(set(seeds)) == len(seeds)  # each clip in turn, once
        assert max(counts.values()) / counts[tag] <= limit or len(seeds) == y[:, tag].sum()
    assert len(found) > 5 and not found.notes
    again = balancing.oversample("mlsmote", x, y, threshold=threshold, seed=seed)
    np.testing.assert_array_equal(found.alpha, again.alpha)


@pytest.mark.parametrize("threshold, seed", [("mean", 1), ("percentile_60", 2)])
def test_lssmote_replayed(threshold, seed):
    x, y = clips(seed)
    found = balancing.oversample("lssmote", x, y, threshold=threshold, seed=seed)
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in y]
    counts = {}
    for one in sets:
        if one:
            counts[one] = counts.get(one, 0) + 1
    limit = limit_of(threshold, counts)
    seeds = {}
    for clip, other, tags in zip(found.seed, found.neighbour, found.tags, strict=True):
        wanted = frozenset(tags)
        assert max(counts.values()) / counts[wanted] > limit
        assert sets[clip] and sets[other] and sets[clip] | sets[other] == wanted and clip != other
        partners = [row for row, one in enumerate(sets)
                    if one and row != clip and one | sets[clip] == wanted]
        assert other in nearest(x, clip, partners)
        counts[wanted] += 1
        seeds.setdefault(wanted, []).append(clip)
    for wanted, count in counts.items():
        parts = [row for row, one in enumerate(sets) if one and one <= wanted]
        used = seeds.get(wanted, [])
        assert len(set(used)) == len(used)
        if max(counts.values()) / count > limit:  # no candidate is left that has a partner
            assert all(not any(one and other != row and one | sets[row] == wanted
                               for other, one in enumerate(sets))
                       for row in parts if row not in used)
    assert len(found) > 4


@pytest.mark.parametrize("method", balancing.METHODS)
def test_iterations_continue_from_the_counts_that_were_made(method):
    x, y = clips(3)
    once, thrice = (balancing.oversample(method, x, y, iterations=count, seed=5)
                    for count in (1, 3))
    np.testing.assert_array_equal(thrice.seed[:len(once)], once.seed)
    assert len(thrice) > len(once) and (thrice.tags[:len(once)] == once.tags)
    before, first, last = (balancing.imbalance(np.concatenate([y, more]).sum(axis=0))[-1]
                           for more in (y[:0], once.targets(y), thrice.targets(y)))
    assert last < first < before


def test_targets_are_the_mixture_and_stay_between_0_and_1():
    x, y = clips(4)
    found = balancing.oversample("mlsmote", x, y)
    expected = [alpha * y[clip] + (1 - alpha) * y[other] for clip, other, alpha in zip(
        found.seed, found.neighbour, found.alpha, strict=True)]
    soft = found.targets(y)
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    assert soft.min() >= 0 and soft.max() <= 1 and ((soft > 0) & (soft < 1)).any()
    assert all(row[tag] == pytest.approx(1) for row, (tag,) in zip(soft, found.tags, strict=True))


@pytest.mark.parametrize("method", balancing.METHODS)
def test_a_single_clip_is_skipped_with_a_note_and_an_absent_tag_without(method):
    y = np.array([[1, 0, 0]] * 9 + [[0, 1, 0]])
    found = balancing.oversample(method, np.zeros((10, 2)), y, names=["music", "dog", "saw"])
    assert not len(found) and found.targets(y).shape == (0, 3)
    assert found.notes == ["not oversampled, with one training clip there is nothing to mix: dog"]
    nothing = balancing.oversample(method, np.zeros((4, 2)), np.zeros((4, 3)))
    assert not len(nothing) and not nothing.notes


def test_an_iteration_makes_at_most_as_many_clips_as_there_are(monkeypatch):
    y = np.zeros((60, 20), int)  # 20 sets of three clips, each too rare
    y[np.arange(60), np.arange(60) % 20] = 1
    y = np.concatenate([y, np.eye(20, dtype=int)[[0] * 30]])
    x = np.random.default_rng(0).random((90, 3))
    found = balancing.oversample("lssmote", x, y, threshold="percentile_1", iterations=4)
    assert len(found) <= 4 * 90
    monkeypatch.setattr(balancing, "limit_of", lambda threshold, ratios: 0.5)  # never reached
    found = balancing.oversample("mlsmote", x, np.ones((90, 4), int), iterations=2)
    assert len(found) == 180 and "stopped at 90 synthetic clips" in found.notes[0]


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="did you mean 'mlsmote'"):
        balancing.oversample("mlsmot", np.zeros((2, 1)), np.zeros((2, 1)))
    for threshold in ("median", "percentile_0", "percentile_100", "percentile_05"):
        with pytest.raises(InputError, match="is not a threshold"):
            balancing.oversample("mlsmote", np.zeros((2, 1)), np.ones((2, 1)), threshold=threshold)
    with pytest.raises(InputError, match=r"features \(2, 1\), targets \(3, 1\)"):
        balancing.oversample("mlsmote", np.zeros((2, 1)), np.zeros((3, 1)))
