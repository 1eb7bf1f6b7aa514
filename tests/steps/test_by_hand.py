"""Real steps run by hand, each on the output folder of the one before."""

import shutil

import pytest

from l3hpc.errors import InputError, L3hpcError, by_hand, option, repair_and_repeat, setting
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
    with pytest.raises(InputError) as refused:
        standalone.run_standalone("extract", {"audio": str(audio), "hop": "0.00001"}, {},
                                  tmp_path / "out")
    assert refused.value.where == "--set hop"
    assert repair_and_repeat(["extract.max_failed"]) == (
        "Repair them and resume the run; or remove them and submit it again; or accept them: "
        "submit with --set extract.max_failed=0.5")


def test_parameters_are_named_as_run_takes_them():
    def said():
        return (setting("folds.clips"), setting("folds.clips", "DIR"), setting("embed.table", "A"),
                setting("folds.gpus", 1), option("max-missing", 3), option("table"),
                option("folds", "N", sets="fold_count"), option("jobs", 2))

    of_a_run = ("folds.clips", "--set folds.clips=DIR", "--set embed.table=A", "--set folds.gpus=1",
                "--max-missing 3", "--table", "--folds N", "--jobs 2")
    assert said() == of_a_run and InputError("", where="folds.clips").where == "folds.clips"
    with by_hand("folds", ("table", "clips", "max_missing", "fold_count")):
        assert said() == (
            "--set clips", "--set clips=DIR", "--set embed.table=A", "--set folds.gpus=1",
            "--set max_missing=3", "--set table", "--set fold_count=N", "--jobs 2")
        for where, named in (("folds.clips", "--set clips"), ("folds.csv:3", "folds.csv:3"),
                             ("embed.table", "embed.table"), ("/a/folds.clips", "/a/folds.clips")):
            assert InputError("", where=where).where == named
    assert said() == of_a_run


def test_messages_of_readers_name_the_parameters_of_the_step(tmp_path):
    """The table of clips is read for ``submit clips`` and ``data check``, too, by their options."""
    table = tmp_path / "clips.csv"
    table.write_text("sound,what\na.wav,dog\n")
    with pytest.raises(InputError) as refused:
        standalone.run_standalone("embed", {"table": str(table)}, {}, tmp_path / "out")
    assert refused.value.hint == "Name the column: --set file_column=NAME"
    with pytest.raises(InputError) as refused:
        standalone.run_standalone("folds", {"table": str(table), "file_column": "sound"},
                                  {"embed": tmp_path}, tmp_path / "out")
    assert refused.value.hint == "Name the column: --set label_column=NAME"
