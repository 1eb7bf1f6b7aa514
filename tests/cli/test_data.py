"""``l3hpc data``: what it prints, its JSON, its exit codes."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from invoke import invoke, runner

from l3hpc.cli import cli
from l3hpc.errors import InputError

SMALL = ["--sensors", "2", "--recordings", "3", "--clips", "20", "--seconds", "1",
         "--rate", "8000", "--days", "3"]


def run(*words):
    return invoke("data", *words)


def test_synth_then_check(tmp_path):
    city = tmp_path / "city"
    made = run("synth", city, *SMALL)
    assert "6 recordings of 2 sensors, 20 tagged clips" in made.stdout
    assert re.search(r"\(12 train, 4 validate, 4 test\), \d+ kB$", made.stdout, re.M)
    assert f"next: l3hpc data check {city}" in made.stdout
    assert "synthesising the city: 6/6 recordings" in made.stderr
    assert "exists already" in run("synth", city, *SMALL).stdout

    checked = run("check", city, "--listen")
    assert checked.return_value == 0
    assert checked.stdout.count("no problems") == 2
    assert "clips              train 12, validate 4, test 4" in checked.stdout
    lines = checked.stdout.splitlines()
    assert {"  sample rates       8000 Hz", "  duration           0.1 min",
            "  size               96 kB"} <= {*lines}
    [first] = [line for line in lines if line.startswith("  first ")]
    assert re.fullmatch(r"  first              2017-11-2\d \d\d:\d\d:\d\d UTC", first)


def test_check_says_nothing_of_what_is_not_known(tmp_path):
    run("synth", tmp_path / "city", *SMALL)
    (tmp_path / "plain").mkdir()
    for number, path in enumerate(tmp_path.glob("city/audio/*/*.wav")):
        path.rename(tmp_path / f"plain/x{number}.wav")
    said = run("check", tmp_path / "plain").stdout
    assert "remark: 6 recordings have no timestamp" in said
    assert "  first" not in said and "  last" not in said and "  size " in said


def test_the_recordings_of_a_city_without_tagged_clips_keep_their_sensors(tmp_path):
    made = run("synth", tmp_path / "city", *SMALL, "--clips", "0")
    assert f"next: l3hpc data check {tmp_path / 'city'}" in made.stdout
    (found,) = json.loads(run("check", tmp_path / "city", "--json").stdout)["found"]
    assert found["kind"] == "recordings" and not found["remarks"]
    assert sorted(found["counts"]["sensors"].values()) == [3, 3]


def test_json(tmp_path):
    made = json.loads(run("synth", tmp_path / "city", *SMALL, "--json").stdout)
    assert made["recordings"] == 6 and made["clips"] == {"train": 12, "validate": 4, "test": 4}
    found = json.loads(run("check", tmp_path / "city", "--json").stdout)
    assert found["ok"] is True
    assert [one["kind"] for one in found["found"]] == ["recordings", "SONYC-UST"]
    assert found["found"][1]["counts"]["agreed"] == {"train": 0, "validate": 4, "test": 4}


def test_names_that_are_not_utf_8_are_printed_safely(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"RIFF")
    words = [sys.executable, "-m", "l3hpc", "data", "check", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    said = subprocess.run(words, capture_output=True, env=environment)
    assert said.returncode == 1
    assert "problem: 1 file name is not UTF-8: caf\\xe9.wav" in said.stdout.decode("utf-8")
    said = subprocess.run([*words, "--json"], capture_output=True, env=environment)
    (found,) = json.loads(said.stdout.decode("ascii"))["found"]
    assert [os.fsencode(one["examples"][0]) for one in found["problems"]] == [b"caf\xe9.wav"] * 2


def test_problems_end_with_exit_code_1(tmp_path):
    run("synth", tmp_path / "city", *SMALL)
    gone = next((tmp_path / "city" / "sonyc_ust" / "audio").glob("*.wav"))
    gone.unlink()
    checked = run("check", tmp_path / "city" / "sonyc_ust")
    assert checked.return_value == 1
    assert f"problem: 1 annotated clip has no audio: {gone.name}" in checked.stdout
    assert "1 problem\n" in checked.stdout
    assert json.loads(run("check", tmp_path / "city", "--json").stdout)["ok"] is False


def test_refusals(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        run("synth", tmp_path, *SMALL)
    with pytest.raises(InputError, match="holds no data set, recordings or embeddings"):
        run("check", tmp_path)
    with pytest.raises(InputError, match="rate is 10"):
        run("synth", tmp_path / "new", "--rate", "10")


@pytest.mark.parametrize("words", [["data", "--help"], ["data", "synth", "--help"],
                                   ["data", "check", "--help"]])
def test_help(words):
    result = runner().invoke(cli, words)
    assert result.exit_code == 0
    assert len(words) == 2 or "Examples:" in result.stdout


def test_starts_without_numpy():
    code = "import sys, l3hpc.cli.data; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_with_line_ends_do_not_break_the_lines(tmp_path):
    folder = tmp_path / "two\nlines/s\t1"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a\n  no problems.wav", np.full(8000, 0.1), 8000)
    shown = run("check", folder.parent).stdout
    assert "s\\t1 1" in shown and "two\\nlines" in shown
    assert shown.count("\n  no problems") == 1
