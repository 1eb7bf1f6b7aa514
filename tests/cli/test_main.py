"""What every command shares: errors of people, of the system and of the program; pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from l3hpc import cli
from l3hpc.cli import submit
from l3hpc.errors import InputError
from l3hpc.runs import status


def call(capsys, *words):
    """Exit code and standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (["stauts"], ["error: there is no command 'stauts'", "did you mean 'status'?"]),
    (["status", "--helps"], ["error: no such option '--helps'\n", "l3hpc status --help"]),
    (["status", "--bogus"], ["error: no such option", "--bogus", "l3hpc status --help"]),
    (["submit"], ["missing argument 'PIPELINE'", "valid: all, avc, ", "l3hpc submit --help"]),
    (["logs"], ["missing argument 'RUN'\n", "latest, or the name of a run", "l3hpc logs --help"]),
    (["run", "extrakt"], ["error: unknown step 'extrakt'", "did you mean 'extract'?"]),
    (["submit", "upstream", "--approx", "x"], ["error: invalid value for '--approx'", "umap",
                                               "l3hpc submit upstream --help"]),
    (["submit", "upstream", "--kernel", "rbff"], ["did you mean 'rbf'? valid: linear, poly, rbf",
                                                  "l3hpc submit upstream --help"]),
    (["submit", "upstream", "--emb-dim", "x"], ["not a valid int", "l3hpc submit upstream --help"]),
    (["submit", "upstream", "--emb-dim"], ["requires an arg", "l3hpc submit upstream --help"]),
    (["render", "upstream", "--emb-dim", "x"], ["l3hpc render upstream --help"]),
    (["submit", "upstream", "--approx", "tsne"], ["no transform for others", "kernel rbf"]),
    (["-C", "/proc/nowhere", "status"], ["error: invalid value", "/proc/nowhere"]),
])
def test_wrong_words_are_refused_in_one_form(capsys, words, said):
    code, err = call(capsys, *words)
    assert code == 2 and len(err.splitlines()) <= 3
    for part in said:
        assert part in err


def test_a_switch_that_is_not_given_leaves_its_parameter_to_the_recipe():
    for words, value in (([], None), (["--metadata"], True)):
        context = submit.command.make_context("submit", ["downstream", *words])
        assert context.params["metadata"] is value


def test_no_traceback_without_debug(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "/scratch/x")

    monkeypatch.setattr(status, "collect", full)
    assert call(capsys, "status") == (1, "error: /scratch/x: no space left on device\n")
    monkeypatch.setattr(status, "collect", lambda *arguments, **options: [] + 1)
    code, err = call(capsys, "status")
    assert code == 1 and err.startswith("error: TypeError: ") and "--debug" in err
    with pytest.raises(TypeError):
        cli.main(["--debug", "status"])


def test_a_line_without_end_is_shown_by_its_two_ends(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def refused(*arguments, **options):
        raise InputError(f"'{'x' * 10**6}' is no number", where="table.csv:3", hint="Look at it.")

    monkeypatch.setattr(status, "collect", refused)
    code, err = call(capsys, "status")
    first, last = err.splitlines()
    assert code == 2 and len(first) < 2000
    assert first.startswith("error: table.csv:3: 'xxx") and first.endswith("xxx' is no number")
    assert last == "       Look at it."


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m l3hpc submit --help | true',
         sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("program", [
    "from l3hpc.cli import main; sys.argv[1:] = ['--version']",
    "from l3hpc.worker.job_entry import main; sys.argv[1:] = ['nowhere']"])
def test_no_garbage_is_looked_for_when_a_command_or_a_job_ends(tmp_path, program):
    code = ("import atexit, gc, sys\n"
            "atexit.register(lambda: print('all left', gc.get_freeze_count() > 0))\n"
            f"{program}\nassert not gc.get_freeze_count()\nmain()\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.stdout.endswith("all left True\n"), done.stderr


def test_directory_counts_for_everything(tmp_path):
    (tmp_path / "there").mkdir()
    Path(tmp_path, "there", "cluster.yaml").write_text("paths: {workspace: ws}\n")
    environment = {name: value for name, value in os.environ.items() if name != "OUTPUT_DIR"}
    done = subprocess.run([sys.executable, "-m", "l3hpc", "-C", "there", "status"], cwd=tmp_path,
                          capture_output=True, text=True, env=environment)
    assert done.stdout.startswith(f"no runs yet in {tmp_path / 'there' / 'ws'}")
