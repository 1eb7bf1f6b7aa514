"""What a notebook does with the samplers: import by name, no seed needed."""

import numpy as np

from l3hpc.sampling import KDPP, select


def test_a_seed_is_not_needed():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    assert len(set(KDPP(rows).sample(5).tolist())) == 5
    assert len(select("dpp-div", rows, None, 5).rows) == 5


def test_the_same_seed_gives_the_same_sample():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    dpp = KDPP(rows)
    assert dpp.sample(5, 3).tolist() == dpp.sample(5, random_state=3).tolist()
    assert dpp.sample(5, np.random.default_rng(3)).tolist() == dpp.sample(5, 3).tolist()
