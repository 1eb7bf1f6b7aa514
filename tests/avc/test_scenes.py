"""Generated scenes: the same for a seed, moving, and telling only by image and sound together."""

import numpy as np
import pytest

from l3hpc.avc.scenes import CEILING, KINDS, Scene, scenes_seed
from l3hpc.errors import InputError

RATE = 8000


def test_a_seed_gives_the_same_scene_and_another_another():
    for number in range(len(KINDS)):
        one, two, other = Scene(number, 1), Scene(number, 1), Scene(number, 2)
        two.sound(3.0, RATE)  # in another order
        np.testing.assert_array_equal(one.image(2.5, 32, 37, (0.2, 0.9)),
                                      two.image(2.5, 32, 37, (0.2, 0.9)))
        np.testing.assert_array_equal(one.sound(7.0, RATE), two.sound(7.0, RATE))
        assert (one.sound(7.0, RATE) != other.sound(7.0, RATE)).any()
        assert (one.image(2.5, 32, 37, (0, 0)) != other.image(2.5, 32, 37, (0, 0))).any()


def test_shapes_are_seen_in_their_colour_and_move():
    for number, kind in enumerate(KINDS):
        scene = Scene(number)
        assert scene.kind is kind
        wide = 64  # of 85 pixels: most of the frame
        there = []
        for time in (0.0, 1.5, 3.0):
            frame = scene.image(time, wide, wide, (0.5, 0.0)).astype(float) / 255
            there.append(np.abs(frame - kind.colour).max(axis=2) < 0.25)
        assert max(mask.sum() for mask in there) > 100
        assert any((there[0] != mask).sum() > 20 for mask in there[1:])


def test_every_second_sounds_and_the_whole_track_is_one():
    for number in range(2 * len(KINDS)):
        scene = Scene(number)
        track = scene.track(RATE)
        assert len(track) == 10 * RATE
        for start in range(10):
            second = scene.sound(start, RATE)
            np.testing.assert_array_equal(second, track[start * RATE:(start + 1) * RATE])
            assert np.sqrt(np.mean(np.square(second.astype(float)))) > 50


def test_cutting_a_square_moves_over_the_frame():
    scene = Scene(2)
    frame = scene.image(1.0, 60, 60, (0.0, 0.0)).astype(int)
    moved = scene.image(1.0, 60, 60, (1.0, 0.0)).astype(int)  # 80 wide: 20 further right
    assert np.median(np.abs(frame[:, 20:] - moved[:, :40])) < 12  # but for the grain


def test_what_knowing_the_kinds_can_reach():
    """Half the pairs match; of the others one in six is of one kind and looks as if it did."""
    assert pytest.approx(0.5 + 0.5 * (1 - 1 / len(KINDS))) == CEILING


def test_names():
    assert scenes_seed("generated") == 20180216
    assert scenes_seed("generated:7") == 7
    assert scenes_seed("/films") is None
    with pytest.raises(InputError, match="no valid seed"):
        scenes_seed("generated:x")
