"""The peer of the evaluation benchmark, written apart from ours, gives the same numbers."""

import numpy as np
import pytest
from lazymodule import LazyModule

from benchmarks import evaluation

evaluation_peer = LazyModule("benchmarks.evaluation_peer")


def test_the_loop_over_thresholds_and_ours_agree_on_files(tmp_path):
    evaluation.make(tmp_path, 40)
    mine = evaluation.ours(tmp_path, 40, 0)["numbers"]
    loop = evaluation_peer.loop(tmp_path, 40, 1)
    for level in ("coarse", "fine"):
        np.testing.assert_allclose(mine[level], loop["numbers"][level], rtol=0, atol=1e-9)
        assert len(mine[level]) == 11 and len(set(mine[level])) == 11
    assert loop["seconds"] == pytest.approx(loop["reading"] + loop["categories"] + loop["micro"])
    part = evaluation_peer.loop(tmp_path, 40, 4)["numbers"]["fine"]
    assert part[:2] == [None, None] and part[2:] == loop["numbers"]["fine"][2:]


def test_the_scale_is_another_number_of_the_coarse_level(tmp_path):
    evaluation.make(tmp_path, 40)
    mine = evaluation.ours(tmp_path, 40, 0)["numbers"]["coarse"]
    other = evaluation_peer.sklearn(tmp_path, 40)["numbers"]["coarse"]
    assert len(other) == len(mine) and other[1] is None
    apart = np.abs(np.delete(mine, 1) - np.delete(np.array(other, float), 1))
    assert 0 < apart.max() < 0.3
