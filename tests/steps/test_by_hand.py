"""Real steps run by hand, each on the output folder of the one before."""

import pytest

from l3hpc.errors import InputError
from l3hpc.worker import standalone


@pytest.mark.slow
def test_a_chain_by_hand_ends_in_a_student(city, teacher, tmp_path, eager):
    def run(step, words, *inputs):
        folders = {name: tmp_path / name for name in inputs}
        settings = {name: str(word) for name, word in words.items()}
        return standalone.run_standalone(step, settings, folders, tmp_path / step)

    run("extract", {"audio": city / "audio", "weights": teacher})
    run("sample", {"samples": 12}, "extract")
    run("fit", {"emb_dim": 4}, "sample")
    reduced = run("reduce", {}, "extract", "fit")
    assert sorted(reduced["files"]) == ["reduced.h5"]
    made = run("train", {"emb_dim": 4, "filters": [2, 2, 2, 2, 2, 2, 2, 4], "epochs": 1},
               "extract", "reduce")
    assert made["summary"]["approx"] == "pca" and made["summary"]["epochs"] == 1


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(InputError) as refused:
        standalone.run_standalone("reduce", {}, {"fit": tmp_path}, tmp_path / "out")
    assert refused.value.message == "reduce is missing its input 'extract'"
    assert refused.value.hint == "Add --input extract=FOLDER."
