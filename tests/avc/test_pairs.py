"""Plans of pairs: balanced, without shortcuts; changes that leave the meaning; batch files."""

import colorsys
from collections import Counter

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.frontends import Frontend
from l3hpc.avc.batches import AvcData, Batches, write_batch
from l3hpc.avc.pairs import (
    BRIGHTNESS,
    Augmentation,
    brightened,
    make_examples,
    plan_pairs,
    saturated,
)
from l3hpc.errors import InputError

RATE, SIZE = 8000, 16


class Labelled:
    """A source whose images and sounds say when and where they were taken."""

    seconds = 10.0

    def __init__(self, number):
        self.number, self.name = number, f"source {number}"

    def image(self, time, size, scaled, place):
        assert 0 <= time <= self.seconds and scaled == round(size * 256 / 224)
        return np.full((size, size, 3), (self.number, int(time * 10), 0), np.uint8)

    def sound(self, start, rate):
        assert 0 <= start <= self.seconds - 1
        return np.full(rate, 1000 * self.number + int(start * 10), np.int16)


@given(st.lists(st.floats(1.0, 100.0), min_size=2, max_size=9), st.integers(1, 80),
       st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_plan_is_balanced_and_has_no_shortcut(seconds, count, seed):
    pairs = plan_pairs(seconds, count, [seed])
    assert len(pairs) == count
    assert sum(pair.matching for pair in pairs) == count - count // 2
    for half in (True, False):
        some = [pair for pair in pairs if pair.matching is half]
        for which in ("image", "sound"):  # every video as often as any other, in each half
            uses = Counter(getattr(pair, which) for pair in some)
            assert max(uses.values(), default=0) - min(
                (uses[number] for number in range(len(seconds))), default=0) <= 1
    for pair in pairs:
        assert 0 <= pair.start <= seconds[pair.sound] - 1
        assert 0 <= pair.time <= seconds[pair.image]
        assert all(0 <= share <= 1 for share in pair.place)
        if pair.matching:
            assert pair.start <= pair.time + 0.05 and pair.time <= pair.start + 1
    assert pairs == plan_pairs(seconds, count, [seed])
    assert len(set(pairs)) == count


def test_other_seeds_and_too_few_videos():
    assert plan_pairs([5, 5, 5], 12, [1]) != plan_pairs([5, 5, 5], 12, [2])
    with pytest.raises(InputError, match="no non-matching pairs"):
        plan_pairs([5.0], 4, [1])
    with pytest.raises(InputError, match="0.50 s holds no second"):
        plan_pairs([5.0, 0.5], 4, [1])


def test_labels_tell_the_truth_and_are_not_in_the_order():
    sources = [Labelled(number) for number in range(5)]
    pairs = plan_pairs([10.0] * 5, 400, [3])
    found = list(make_examples(pairs, sources, RATE, SIZE, threads=3))
    for pair, (sound, image, label) in zip(pairs, found, strict=True):
        assert sound.shape == (RATE,) and image.shape == (SIZE, SIZE, 3)
        assert label == int(sound[0] // 1000 == image[0, 0, 0]) == int(pair.matching)
    labels = [label for *_, label in found]
    assert 150 < sum(labels[0::2]) + sum(1 - label for label in labels[1::2]) < 250


def test_times_of_both_halves_are_spread_alike():
    """Images and sounds of non-matching pairs come from all over the video, as the others do."""
    pairs = plan_pairs([10.0] * 4, 8000, [1])
    for name in ("time", "start"):
        means = [np.mean([getattr(pair, name) for pair in pairs if pair.matching is half])
                 for half in (True, False)]
        assert abs(means[0] - means[1]) < 0.3  # five standard errors of the difference
    far = [abs(pair.time - pair.start) > 1 for pair in pairs if not pair.matching]
    assert np.mean(far) > 0.7


# changes ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(0.5, 1.5))
@settings(max_examples=200, deadline=None)
def test_saturation_is_that_of_hsv(colour, factor):
    values = np.array(colour, np.float64) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*values)
    expected = colorsys.hsv_to_rgb(hue, min(saturation * factor, 1), value)
    np.testing.assert_allclose(saturated(values.astype(np.float32), factor), expected, atol=1e-6)


def test_an_augmentation_does_what_it_says():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    mirrored = Augmentation(True, 1.0, 0.0, True, 0.5).image(pixels)
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])
    lighter = Augmentation(False, 1.0, BRIGHTNESS, False, 0.5).image(pixels)
    np.testing.assert_array_equal(lighter, np.minimum(pixels.astype(int) + 32, 255))
    first = Augmentation(False, 1.5, 0.1, True, 0.5).image(pixels)
    second = Augmentation(False, 1.5, 0.1, False, 0.5).image(pixels)
    values = pixels.astype(np.float32) / 255
    np.testing.assert_array_equal(first, np.round(255 * brightened(saturated(values, 1.5), 0.1)))
    assert (first != second).any()


def test_gain_stays_within_a_tenth_and_never_clips():
    """The published code could only make sound quieter, down to silence."""
    quiet = np.array([1000, -2000, 500], np.int16)
    gains = [Augmentation(False, 1, 0, True, share).sound(quiet)[1] / -2000
             for share in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(gains, [0.9, 1.0, 1.1])
    loud = np.array([32767, -32768], np.int16)
    np.testing.assert_array_equal(Augmentation(False, 1, 0, True, 1.0).sound(loud), loud)
    half = np.array([31000, -5], np.int16)
    assert Augmentation(False, 1, 0, True, 1.0).sound(half)[0] == 32767
    silent = np.zeros(4, np.int16)
    np.testing.assert_array_equal(Augmentation(False, 1, 0, True, 1.0).sound(silent), silent)


def test_draws_cover_the_published_ranges():
    rng = np.random.default_rng(1)
    drawn = [Augmentation.draw(rng) for _ in range(2000)]
    assert 0.45 < np.mean([one.mirror for one in drawn]) < 0.55
    assert 0.45 < np.mean([one.saturation_first for one in drawn]) < 0.55
    for values, low, high in (([one.saturation for one in drawn], 0.5, 1.5),
                              ([one.brightness for one in drawn], -32 / 255, 32 / 255)):
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high


# files --------------------------------------------------------------------------------------------


def some_examples(count, offset=0):
    rng = np.random.default_rng(offset)
    return [(rng.integers(-9000, 9000, RATE).astype(np.int16),
             rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), int(rng.integers(2)))
            for _ in range(count)]


def test_batches_are_in_the_published_layout_and_read_in_any_order(tmp_path):
    first, second = some_examples(5, 1), some_examples(3, 2)
    write_batch(tmp_path / "train_0000_000.h5", first, 5, {"rate": RATE})
    write_batch(tmp_path / "train_0000_001.h5", second, 3)
    with h5py.File(tmp_path / "train_0000_000.h5") as file:
        assert file["audio"].shape == (5, 1, RATE) and file["audio"].dtype == np.int16
        assert file["video"].shape == (5, SIZE, SIZE, 3) and file["video"].dtype == np.uint8
        assert file["label"].shape == (5, 2)
        for row, (*_, label) in zip(file["label"][()], first, strict=True):
            assert tuple(row) == ((0, 1) if label else (1, 0))  # published: [differs, matches]
    batches = Batches.find(tmp_path, "train")
    assert (batches.rows, batches.rate, batches.size) == (8, RATE, SIZE)
    order = np.array([7, 0, 4, 5, 4])
    audio, video, label = batches.read(order)
    every = first + second
    for place, row in enumerate(order):
        np.testing.assert_array_equal(audio[place], every[row][0])
        np.testing.assert_array_equal(video[place], every[row][1])
        assert label[place][1] == every[row][2]
    assert list(batches.labels()) == [label for *_, label in every]
    assert [list(rows) for rows in batches.chunks(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_what_the_network_takes(tmp_path):
    made = some_examples(2)
    write_batch(tmp_path / "test_0.h5", made, 2)
    front = Frontend(RATE, 512, 400, 16)
    (sound, image), label = AvcData(Batches.find(tmp_path, "test"), front).batch(np.array([1, 0]))
    np.testing.assert_allclose(
        sound[..., 0], front(np.stack([one[0] for one in made[::-1]]).astype(np.float32) / 32768))
    np.testing.assert_allclose(image[0], made[1][1] / 127.5 - 1, atol=1e-6)
    assert sound.dtype == image.dtype == label.dtype == np.float32
    slower = Frontend(RATE // 2, 256, 200, 16)
    (sound, _), _ = AvcData(Batches.find(tmp_path, "test"), slower).batch(np.array([0]))
    assert sound.shape == (1, *slower.shape, 1)


def test_published_folders_are_found(tmp_path):
    write_batch(tmp_path / "train" / "music_batch_1.h5", some_examples(2), 2)
    assert Batches.find(tmp_path, "train").rows == 2
    with pytest.raises(InputError, match="no pairs for 'validate'"):
        Batches.find(tmp_path, "validate")


def test_a_file_is_whole_or_not_there(tmp_path):
    def broken():
        yield from some_examples(2)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_batch(tmp_path / "train_0.h5", broken(), 5)
    with pytest.raises(InputError, match="2 examples"):
        write_batch(tmp_path / "train_0.h5", some_examples(2), 3)
    with pytest.raises(InputError, match="more than 1"):
        write_batch(tmp_path / "train_0.h5", some_examples(2), 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "what"), [
    (lambda file: file.pop("label"), "has no label"),
    (lambda file: (file.pop("video"), file.create_dataset("video", (2, 4, 5, 3), "u1")), "video"),
    (lambda file: (file.pop("audio"), file.create_dataset("audio", (2, 1, 9), "f4")), "float32"),
    (lambda file: (file.pop("label"), file.create_dataset("label", (1, 2), "u1")), "label"),
])
def test_other_files_are_refused(tmp_path, change, what):
    path = tmp_path / "train_0.h5"
    write_batch(path, some_examples(2), 2)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=what):
        Batches([path])
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        Batches([path])


def test_files_of_two_sizes_are_refused(tmp_path):
    write_batch(tmp_path / "train_0.h5", some_examples(2), 2)
    write_batch(tmp_path / "train_1.h5", [(one[0][:4000], *one[1:]) for one in some_examples(2)], 2)
    with pytest.raises(InputError, match=r"train_1.h5: has 4000 samples"):
        Batches.find(tmp_path, "train")
