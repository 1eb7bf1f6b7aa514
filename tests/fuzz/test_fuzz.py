"""A small part of ``python -m tests.fuzz``: the same surfaces, few inputs, always the same ones."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A few seconds of each surface that starts without TensorFlow.
INPUTS = {"yaml": 40, "command-line": 25, "amounts": 60, "arrays": 80, "audio": 40, "hdf5-npz": 60,
          "tables": 25, "models": 10, "slurm": 6, "workspace": 10, "ledger": 15, "sheet": 6}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """What the harness says of all surfaces, one after the other, so that they import once."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *(f"--surface={name}={inputs}"
                                               for name, inputs in INPUTS.items()),
         "--seed", "11", "--keep", str(tmp_path_factory.mktemp("kept")), "--limit", "60"],
        cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize("surface", INPUTS)
def test_odd_input(surface, tried):
    said = [line for line in tried.stdout.splitlines()
            if f"s  {surface}: {INPUTS[surface]} inputs" in line and line.endswith(", 0 failures")]
    assert len(said) == 1, tried.stdout[-4000:] + tried.stderr[-2000:]


def test_a_fault_is_found_shrunk_and_can_be_repeated(tmp_path):
    """The harness itself: wrong answers, exceptions, hangs and crashes are each told apart."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--surface", "harness", "--inputs", "6", "--seed",
         "1", "--keep", str(tmp_path), "--limit", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    for words in ("a wrong answer", "uncaught: ZeroDivisionError", "hang: no answer within 1 s",
                  "the process died: SIGKILL"):
        assert words in done.stdout, done.stdout
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 4
    for folder in kept:
        command, _, what = (folder / "what-happened.txt").read_text().partition("\n")
        again = subprocess.run([sys.executable, *command.split()[1:], "--limit", "1", "--keep",
                                str(tmp_path / "again")],
                               cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert again.returncode == 1 and what.split()[0] in again.stdout
