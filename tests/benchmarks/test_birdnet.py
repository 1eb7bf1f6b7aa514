"""The table of benchmarks.birdnet: each variant on its own folds, beside the first on the same."""

import argparse
import json

import numpy as np

from benchmarks.birdnet import scored_file, table


def test_a_variant_is_compared_on_the_folds_that_it_has(tmp_path):
    arguments = argparse.Namespace(work=tmp_path)
    right = {"64": {1: [1, 1, 0, 0], 2: [1, 1, 1, 1], 3: [1, 1, 1, 1]}, "128": {1: [1, 1, 1, 0]},
             "student-3s": {4: [1, 1, 1, 1]}}
    for key, folds in right.items():
        for fold, values in folds.items():
            np.save(scored_file(f"{key}-int8", fold, arguments), np.array(values, bool))
        (tmp_path / "right" / f"{key}.json").write_text(json.dumps({"parameters": 1234}))
    np.save(scored_file("teacher", 3.0, arguments), np.array([True] * 19 + [False]))
    rows = {row[0]: row[1:] for row in table(arguments).rows}
    assert rows["BirdNET, windows of 3 s"][:3] == ["–", "1 to 5", "0.950"]
    assert rows["student, 64-d, int8"][:3] == ["1,234", "1, 2, 3", "0.833"]
    # fold 1 alone: 0.75 against 0.5, not against the 0.833 of all three folds
    assert rows["student, 128-d, int8"][1:3] == ["1", "0.750"]
    assert rows["student, 128-d, int8"][4] == "+0.250"
    # without the first variant on its fold there is nothing to compare
    assert rows["student, 64-d, student hears 3 s, int8"][4:] == ["–", "–"]
