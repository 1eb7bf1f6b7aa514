"""Real steps run by hand, each on the output folder of the one before."""

import shutil

import pytest

from l3hpc.errors import InputError, L3hpcError, Lines, by_hand, repair_and_repeat
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


def test_advice_is_for_the_command_that_was_typed(city, teacher, tmp_path):
    """There is no run to resume or to submit again, and parameters have no step before them."""
    audio = tmp_path / "audio"
    shutil.copytree(city / "audio", audio)
    for path in list(audio.rglob("*.wav"))[:3]:
        path.write_bytes(b"RIFF")
    with pytest.raises(L3hpcError) as failed:
        standalone.run_standalone("extract", {"audio": str(audio), "weights": str(teacher)}, {},
                                  tmp_path / "out")
    assert failed.value.hint == (
        f"Repair (l3hpc data check {audio} --listen finds all) or remove them, or add "
        "--set max_failed=0.5; then repeat this command")
    assert failed.value.allowed == "at most 5% may be unusable (--set max_failed), and not all"
    with pytest.raises(InputError) as refused, by_hand("embed"):
        raise InputError("no clips", hint=Lines("Use --set embed.table=FILE", "or not"))
    assert refused.value.hint == "Use --set table=FILE\nor not"
    with pytest.raises(InputError) as refused:
        standalone.run_standalone("extract", {"audio": str(audio), "hop": "0.00001"}, {},
                                  tmp_path / "out")
    assert refused.value.where == "--set hop"
    assert repair_and_repeat(["extract.max_failed"]) == (
        "Repair them and resume the run; or remove them and submit it again; or accept them: "
        "submit with --set extract.max_failed=0.5")


@pytest.mark.parametrize("text, said", [
    ("at most 5% (folds.max_missing)", "at most 5% (--set max_missing)"),
    ("Use --table FILE (submit clips), or --set folds.clips=FOLDER",
     "Use --set table=FILE (submit clips), or --set clips=FOLDER"),
    ("Use fewer (--max-missing 3), or another --table.",
     "Use fewer (--set max_missing=3), or another --set table."),
    ("Use --table none, or leave it out.", "Use --set table=none, or leave it out."),
    ("--table needs a file", "--table needs a file"),  # no value: a word of the sentence
    ("l3hpc submit clips --table FILE", "l3hpc submit clips --table FILE"),
    ("x/folds.clips, folds.csv", "x/folds.clips, folds.csv"),
    ("embed.max_missing and --set embed.table=A", "embed.max_missing and --set embed.table=A"),
])
def test_parameters_are_named_as_run_takes_them(text, said):
    with pytest.raises(InputError) as refused, by_hand("folds", ("table", "clips", "max_missing")):
        raise InputError(text, where=text, allowed=text, hint=text)
    error = refused.value
    assert [error.message, error.where, error.allowed, error.hint] == [said] * 4
