"""The commands about runs: status, logs, cancel, resume and run, as a person types them."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import chains
import fakestep
import pytest
from click.shell_completion import ShellComplete

import l3hpc.steps
from l3hpc.cli import cli, main
from l3hpc.cli import pack as packing
from l3hpc.cli.runs import _cut_to_terminal
from l3hpc.runs import notebook, status, submit
from l3hpc.runs.pack import Outcome

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with two runs: ``good-1`` is done, ``bad-2`` failed at sample."""
    chains.clean_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("OUTPUT_DIR", "AUDIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    Path("cluster.yaml").write_text(json.dumps({
        "paths": {"workspace": "ws"},
        "clusters": {"local": {"slots": {"cpus": 2, "mem": "2GB"},
                               "env": {"PYTHONPATH": str(chains.FAKES)}}}}))
    made = chains.plan(tmp_path / "ws", "good-1", ("extract", "sample"), tasks={"extract": 2})
    submit.submit(made)
    submit.submit(chains.plan(tmp_path / "ws", "bad-2", ("extract", "sample", "fit"),
                              tasks={"extract": 2}, params={"sample": {"fail": "scratch"}}))
    return tmp_path


def call(capsys, *words):
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def test_a_pipe_in_the_place_of_a_log_hangs_nobody(here, capsys):
    log = next((here / "ws/runs/bad-2/steps/sample/logs").glob("*_0_log.err"))
    log.unlink()
    os.mkfifo(log)
    code, _, err = call(capsys, "logs", "bad-2", "sample")
    assert code == 1 and f"{log}: not a regular file" in err
    assert call(capsys, "logs", "bad-2", "sample", "-f")[0] == 0
    assert "sample" in call(capsys, "status", "bad-2")[1]


def test_ctrl_c_names_the_command_that_continues(here, capsys, monkeypatch):
    """Of a run in the foreground it cancels the jobs."""
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("l3hpc.runs.submit.run_local", interrupted)
    code, _, err = call(capsys, "resume", "bad", "--from", "sample", "--yes")
    assert code == 130 and err.endswith("\ninterrupted; to continue: l3hpc resume bad-2\n")


def test_a_resumption_says_what_it_does_not_give(here, capsys):
    asked = ("bad-2", "--set", "sample.mem=64GB", "--set", "fit.pack=2")
    notes = ["sample: 64 GB requested; local has 2 GB for it",
             "fit: pack has no effect on a single task"]
    code, out, err = call(capsys, "resume", *asked, "--dry-run")
    assert code == 0 and err.splitlines()[-2:] == [f"note: {text}" for text in notes]
    assert json.loads(call(capsys, "resume", *asked, "--dry-run", "--json")[1])["notes"] == notes
    _, out, err = call(capsys, "resume", *asked)
    assert f"note: {notes[0]}\n" in err


def test_a_run_without_logs_has_nothing_to_pack(here, capsys):
    for folder in (*Path("ws/runs/bad-2").glob("steps/*/logs"),
                   *Path("ws/runs/bad-2").glob("steps/*/markers")):
        shutil.rmtree(folder)
    assert call(capsys, "runs", "pack", "bad-2")[1] == "bad-2 has nothing to pack\n"


def test_one_file_that_was_packed(capsys):
    packing._print(Outcome("demo", 1, 10, 1, 9, 1, "packed.zip"), False, "packed", "")
    assert capsys.readouterr().out == "demo: 1 file packed; 1 file (10 bytes) → 1 (9 bytes)\n"


def test_a_packed_run_is_read_as_before(here, capsys):
    shown = {words: call(capsys, *words) for words in (
        ("usage", "bad-2"), ("logs", "bad-2", "sample", "--out"), ("logs", "bad-2", "sample"))}
    state = call(capsys, "status", "bad-2")[1].splitlines()
    log = call(capsys, "logs", "bad-2", "sample", "--path")[1].strip()
    code, out, _ = call(capsys, "runs", "pack", "bad-2", "--dry-run")
    assert code == 0 and "files would be packed; " in out and os.path.exists(log)
    code, out, err = call(capsys, "runs", "pack", "bad-2")
    assert code == 0 and out.startswith("bad-2: 10 files packed; ")
    assert err == "to undo it: l3hpc runs unpack bad-2\n"
    assert not os.path.exists(log)
    assert call(capsys, "runs", "pack", "bad-2") == (0, "bad-2 is packed already\n", "")
    Path("ws/runs/bad-2/steps/sample/logs").mkdir(exist_ok=True)
    Path("ws/runs/bad-2/steps/sample/logs/late_log.out").touch()
    code, out, _ = call(capsys, "runs", "pack", "bad-2", "--dry-run")
    assert code == 0 and out.startswith("bad-2: 1 file would be packed; ")
    Path("ws/runs/bad-2/steps/sample/logs/late_log.out").unlink()
    assert {words: call(capsys, *words) for words in shown} == shown
    assert call(capsys, "status", "bad-2")[1].splitlines() == [
        line for line in state if not line.strip().startswith("log ")]
    assert call(capsys, "logs", "bad-2", "sample", "-f")[1] == shown["logs", "bad-2", "sample"][1]
    _, out, _ = call(capsys, "logs", "bad-2")
    assert out.splitlines()[1].split()[-1] == str(here / "ws/runs/bad-2/packed.zip")
    code, _, err = call(capsys, "logs", "bad-2", "sample", "--path")
    assert code == 2 and "l3hpc runs unpack bad-2" in err
    assert call(capsys, "report", "bad-2", "-o", "page.html")[0] == 0
    assert "first attempt fails" in Path("page.html").read_text()
    assert "first attempt fails" in notebook.run("bad-2", workspace="ws").logs("sample")
    code, out, _ = call(capsys, "runs", "unpack", "bad-2")
    assert code == 0 and out.startswith("bad-2: 10 files unpacked; ") and os.path.exists(log)
    assert call(capsys, "runs", "unpack", "bad-2") == (0, "bad-2 is not packed\n", "")
    call(capsys, "runs", "pack", "bad-2")
    code, out, err = call(capsys, "resume", "bad-2")
    assert code == 0 and "unpacked 10 files" in err
    assert not (here / "ws/runs/bad-2/packed.zip").exists()
    call(capsys, "runs", "pack", "bad-2")
    code, out, err = call(capsys, "resume", "bad-2")  # nothing is missing: it stays packed
    assert code == 0 and "unpacked" not in err, out + err
    assert (here / "ws/runs/bad-2/packed.zip").exists()


def test_runs_from_outside(here, capsys, monkeypatch):
    code, out, _ = call(capsys, "status")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line and line[0] != " "] == [
        "bad-2", "good-1"]  # the newest first
    assert "sample   3    failed     0/1" in out and "first attempt fails" in out
    assert "fit      4    blocked    0/1        –  by sample" in out
    assert "next: l3hpc logs bad-2 sample\n  then: l3hpc resume bad-2" in out
    _, out, _ = call(capsys, "status", "bad-2", "--workspace", "ws")
    assert "logs bad-2 sample --workspace ws\n  then: l3hpc resume bad-2 --workspace ws " in out

    code, out, _ = call(capsys, "status", "good", "--json")
    value = json.loads(out)
    assert value["schema"] == 1 and [run["run"] for run in value["runs"]] == ["good-1"]
    assert [step["state"] for step in value["runs"][0]["steps"]] == ["done", "done"]
    assert value["runs"][0]["steps"][0]["detail"] == "3 rows"

    code, out, err = call(capsys, "status", "god-1")
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"error: no run 'god-1' in {here / 'ws' / 'runs'}",
                                "       did you mean 'good-1'? valid: bad-2, good-1"]

    code, out, _ = call(capsys, "logs", "bad", "sample")
    assert code == 0 and out.endswith("error: first attempt fails\n")
    code, out, _ = call(capsys, "logs", "latest", "sample", "--out")
    assert "submitit INFO" in out
    code, out, _ = call(capsys, "logs", "bad", "sample", "-f")
    assert code == 0 and out.endswith("error: first attempt fails\n")
    code, out, _ = call(capsys, "logs", "good", "extract", "--task", "1", "--path")
    assert out.endswith("ws/runs/good-1/steps/extract/logs/1_1_0_log.err\n")
    code, _, err = call(capsys, "logs", "good", "extract", "--task", "7")
    assert code == 2 and "tasks: 0 to 1" in err
    code, _, err = call(capsys, "logs", "good", "fit")
    assert code == 2 and "has no step 'fit'" in err
    code, _, err = call(capsys, "logs", "bad", "extract")
    assert code == 2 and "done before this run" in err
    code, _, err = call(capsys, "logs", "bad", "fit")
    assert code == 2 and "no log yet" in err

    assert call(capsys, "cancel", "good")[1] == "no job of good-1 was queued or running\n"

    code, out, _ = call(capsys, "resume", "bad", "--dry-run", "--json")
    assert json.loads(out) == {"run": "bad-2", "would_submit": {"sample": [0], "fit": [0]},
                               "would_leave_out": {}, "would_release": [], "would_cancel": [],
                               "held_by_administrator": {}, "notes": []}
    code, out, _ = call(capsys, "resume", "bad", "--set", "sample.mem=200MB")
    assert code == 0 and out.startswith(
        "resuming bad-2: submit sample (1 of 1 task), fit (1 of 1 task)\n"
        "resumed bad-2: sample 5 → fit 6\n"), out
    assert call(capsys, "resume", "bad")[1] == (
        "nothing to resume: all steps of bad-2 are done\n")
    assert call(capsys, "retry", "bad", "sample")[1] == (
        "nothing to retry: sample of bad-2 and the steps that depend on it are done\n")
    code, out, err = call(capsys, "logs", "bad")
    assert code == 0 and "l3hpc logs bad-2 STEP" in err
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["extract", "reused"], ["sample", "done"], ["fit", "done"]]
    assert "no log" in out.splitlines()[0] and "0_log.err" in out.splitlines()[1]
    told = json.loads(call(capsys, "logs", "bad", "--json")[1])
    assert told["run"] == "bad-2" and told["steps"][0] == {
        "step": "extract", "state": "reused", "bytes": None, "log": None}
    log = Path(call(capsys, "logs", "bad", "fit", "--path")[1].strip())
    log.write_text("")
    assert call(capsys, "logs", "bad", "fit") == (0, "", f"the log of fit is empty: {log}\n")
    assert call(capsys, "logs", "bad", "fit", "-f") == (
        0, "", f"fit of bad-2 is done (1 rows); its log is empty: {log}\n")
    code, _, err = call(capsys, "resume", "bad", "--set", "sample.seed=3")
    assert code == 2 and "only resources can change" in err

    # completion offers runs, then the steps of the run
    shell = ShellComplete(cli, {}, "l3hpc", "_L3HPC_COMPLETE")
    runs = [item.value for item in shell.get_completions(["status"], "")]
    assert runs == ["latest", "bad-2", "good-1"]
    assert [item.value for item in shell.get_completions(["logs", "good-1"], "")] == [
        "extract", "sample"]
    assert [item.value for item in shell.get_completions(["run"], "e")] == [
        "extract", "embed", "evaluate"]

    # a step is rerun from its frozen config
    monkeypatch.setattr(l3hpc.steps, "step", fakestep.named)
    config = "ws/runs/good-1/steps/sample/config.json"
    code, out, err = call(capsys, "run", "sample", "--config", config)
    assert code == 0 and "the only task is already done" in err and out == "sample: 1 rows\n"
    code, _, err = call(capsys, "run", "fit", "--config", config)
    assert code == 2 and "is the configuration of step 'sample', not 'fit'" in err


def test_no_runs_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "status", "--workspace", "elsewhere")
    assert code == 0 and out.splitlines()[0] == f"no runs yet in {tmp_path / 'elsewhere'}"
    code, _, err = call(capsys, "cancel", "latest", "--workspace", "elsewhere")
    assert code == 2 and "l3hpc submit" in err


@pytest.fixture
def fake_steps(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(l3hpc.steps, "step", fakestep.named)


def test_a_step_by_hand_leaves_its_files_flat(fake_steps, capsys, tmp_path):
    code, out, err = call(capsys, "run", "extract", "--set", "text=12", "--set", "seconds=0.1",
                          "-o", "out", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["summary"] == {"rows": 1} and result["step"] == "extract"
    assert sorted(path.name for path in Path("out").iterdir()) == ["out.txt", "result.json"]
    assert Path("out/out.txt").read_text() == "(12)"  # a text parameter stays text
    code, out, err = call(capsys, "run", "extract", "-o", "out")
    assert code == 2 and "is not empty" in err and "--overwrite" in err
    code, out, err = call(capsys, "run", "extract", "--set", "fail=error", "-o", "out",
                          "--overwrite")
    assert code == 1 and "the fake was told to fail" in err
    assert Path("out/out.txt").read_text() == "(12)"  # a failure keeps what was there
    code, out, err = call(capsys, "run", "extract", "--set", "text=b", "-o", "out", "--overwrite")
    assert (code, out) == (0, "extract: 1 rows\nfiles in out: out.txt\n")
    assert Path("out/out.txt").read_text() == "(b)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("words")
    code, _, err = call(capsys, "run", "extract", "--set", "text=b", "-o", "mine", "--overwrite")
    assert code == 2 and "not the output of a step" in err
    assert Path("mine/thesis.tex").read_text() == "words"


def test_the_output_of_one_step_by_hand_is_the_input_of_the_next(fake_steps, capsys, monkeypatch):
    def named(name):
        from l3hpc.steps import Input

        module = fakestep.named(name)
        module.inputs = {"extract": Input()} if name == "sample" else {}
        return module

    monkeypatch.setattr(l3hpc.steps, "step", named)
    call(capsys, "run", "extract", "--set", "text=a", "-o", "first")
    code, _, err = call(capsys, "run", "sample", "--input", "extract=first", "-o", "second")
    assert code == 0, err
    assert Path("second/out.txt").read_text() == "(0 (a))"
    code, _, err = call(capsys, "run", "sample", "--input", "extrakt=first", "-o", "third")
    assert code == 2 and "did you mean 'extract'" in err


@pytest.mark.parametrize(("words", "message"), [
    (["extract", "--set", "txt=1", "-o", "x"], "did you mean 'text'"),
    (["extract", "--set", "seconds=soon", "-o", "x"], "extract: --set seconds: "),
    (["extract", "--set", "seconds", "-o", "x"], "is not NAME=VALUE"),
    (["extract", "--set", "text=1", "--set", "text=2", "-o", "x"], "given twice"),
    (["extract"], "an output folder is required: use -o DIR"),
    (["extract", "--config", "c.json", "-o", "x"], "remove --set, --input and -o"),
    (["extract", "--config", "c.json"], "cannot be read"),
])
def test_run_refuses(fake_steps, capsys, words, message):
    code, _, err = call(capsys, "run", *words)
    assert code == 2 and message in err
    assert not Path("x").exists()


def test_the_help_of_a_step_has_its_inputs_and_parameters(capsys):
    for words in (["fit", "--help"], ["--help", "fit"], ["--set", "emb_dim=4", "fit", "-h"]):
        code, out, _ = call(capsys, "run", *words)
        flat = " ".join(out.split())
        assert code == 0 and "Inputs of fit (--input): sample=DIR Output of sample." in flat
        assert "emb_dim Output dimensions of φ" in flat and "[default: linear]" in flat
    code, out, _ = call(capsys, "run", "--help")
    assert code == 0 and "Parameters of" not in out
    for name in l3hpc.steps.names():
        assert call(capsys, "run", name, "--help")[0] == 0
    assert call(capsys, "run", "fitt", "--help")[0] == 2


def test_an_empty_workspace_option_is_refused(here, capsys):
    code, _, said = call(capsys, "status", "--workspace", "")
    assert code == 2 and "--workspace: the path is empty" in said


def test_retry_of_what_is_done_names_the_steps_that_are_not(here, capsys):
    submit.submit(chains.plan(here / "ws", "demo-3", ("extract", "embed"),
                              params={"embed": {"fail": "error"}}))
    capsys.readouterr()
    assert call(capsys, "retry", "demo-3", "extract")[1] == (
        "nothing to retry: extract of demo-3 and the steps that depend on it are done\n"
        "not done: embed. To submit what is missing: l3hpc resume demo-3\n")


def test_retry_announces_the_dependents_that_it_leaves_out(here, capsys):
    """On local, the retried step was submitted and never run: the error came before the runner."""
    made = chains.plan(here / "ws", "two-4", ("extract", "embed", "classify", "evaluate"),
                       params={"extract": {"fail": "error"}, "embed": {"fail": "scratch"}})
    submit.submit(replace(made, steps=tuple(
        replace(step, needs=("extract", "embed")) if step.name == "classify" else step
        for step in made.steps)))
    code, out, _ = call(capsys, "retry", "two-4", "embed", "--dry-run")
    why = "leave out classify (extract failed); leave out evaluate (classify is not submitted)"
    assert (code, out) == (0, f"would submit embed (1 of 1 task); {why}\n")
    told = json.loads(call(capsys, "retry", "two-4", "embed", "--dry-run", "--json")[1])
    assert told["would_submit"] == {"embed": [0]} and told["would_leave_out"] == {
        "classify": "extract failed", "evaluate": "classify is not submitted"}
    code, out, err = call(capsys, "retry", "two-4", "embed")
    assert out.splitlines()[0] == f"resuming two-4: submit embed (1 of 1 task); {why}"
    assert code == 1 and "extract failed, so classify, evaluate were not submitted" in err
    assert "l3hpc resume two-4" in err
    assert {step.name: step.done for step in status.collect(here / "ws", ["two-4"])[0].steps} == {
        "extract": 0, "embed": 1, "classify": 0, "evaluate": 0}
    # nothing but what would be left out: refused as for a step that is named
    for words in ((), ("--dry-run",)):
        code, out, err = call(capsys, "retry", "two-4", "embed", *words)
        assert code == 2 and out == "" and "classify: extract failed" in err
    assert "leave out" not in call(capsys, "resume", "two-4", "--dry-run")[1]


@pytest.mark.parametrize("words", [("status", "--watch"), ("ledger", "sync", "--watch")])
@pytest.mark.parametrize("seconds", ["nan", "inf", "1e308", "0.5"])
def test_a_watch_that_could_not_wait_is_refused(capsys, words, seconds):
    code, _, said = call(capsys, *words, seconds)
    assert code == 2
    assert said.startswith("error: invalid value for") and "--watch" in said


def test_a_watch_fits_into_the_terminal_and_cuts_no_command(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 8)))
    command = f"  next: l3hpc resume {'r' * 60} --workspace ws"
    table = ["x" * 100, *"abc"]
    assert _cut_to_terminal("\n".join([*table[:2], command])) == "\n".join(
        ["x" * 40, "a", command])  # 5 of 6 lines
    assert _cut_to_terminal("\n".join([*table, command])) == "\n".join(["x" * 40, *"abc", "…"])
    assert _cut_to_terminal("\n".join("abcdef")) == "a\nb\nc\nd\ne\nf"
    assert _cut_to_terminal("\n".join("abcdefg")) == "a\nb\nc\nd\ne\n…"
