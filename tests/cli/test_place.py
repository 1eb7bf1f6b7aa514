"""The commands that messages name look where the command that printed them has looked."""

import ast
import json
import re
import threading
from pathlib import Path

import chains
import click
import pytest

import l3hpc
from l3hpc.cli import COMMANDS, cli, place
from l3hpc.errors import command_line, path_from_shell, shell_path
from l3hpc.runs import display, notebook_place
from l3hpc.runs.step_status import StepStatus
from l3hpc.workspace.states import StepState

COMMAND = re.compile(rf"\bl3hpc ({'|'.join(COMMANDS)})\b")
# strings that name no next command: titles, and what is written into files for other readers
NO_HINTS = {
    "cli/demo.py": "l3hpc demo in ", "demo.py": "^l3hpc demo$|Written by|Work in this folder",
    "report/run.py": "^l3hpc report$", "export/hear_package.py": "Written by `l3hpc export",
    "teachers/sidecar.py": "as found by:", "setup/cluster_file.py": "`l3hpc ",
    "ledger/sheets/requests.py": "Written by l3hpc ledger sync"}


def test_commands_in_messages_are_built_by_one_function():
    """``command_line`` quotes names and paths, and repeats -C, --config and --workspace: no string
    holds a command, but for docstrings, help and examples."""
    package = Path(l3hpc.__file__).parent
    wrong = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        left = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr):
                left.add(node.value)
            elif isinstance(node, ast.Call):
                left |= {part for word in node.keywords if word.arg in ("epilog", "help")
                         for part in ast.walk(word.value)}
                if isinstance(node.func, ast.Name) and node.func.id == "examples":
                    left |= {*ast.walk(node)}
        allowed = NO_HINTS.get(path.relative_to(package).as_posix(), "$^")
        wrong += [f"{path}:{node.lineno}: {node.value}" for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str)
                  and node not in left and COMMAND.search(node.value)
                  and "Examples:" not in node.value and not re.search(allowed, node.value)]
    assert not wrong


def leaves(command, name="l3hpc"):
    """All commands below a group, with their names."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            yield from leaves(command.get_command(context, each), f"{name} {each}")
    else:
        yield name, command


def test_every_option_that_says_where_things_are_is_repeated():
    options = {"--config", "--workspace", "--cluster", "--sheet", "--key-file"}
    # the configuration of a step, not of the installation; and a name to look up in a sheet
    others = {("l3hpc run", "--config")}
    forgotten = {(name, parameter.opts[0]) for name, command in leaves(cli)
                 for parameter in command.params
                 if parameter.opts[0] in options and parameter.callback is not place.remember}
    assert forgotten == others


def test_notebooks_know_which_commands_have_no_workspace():
    without = {name.split()[1] for name, command in leaves(cli)
               if "--workspace" not in {one.opts[0] for one in command.params}}
    have = {name.split()[1] for name, _ in leaves(cli)} - without
    assert without == set(notebook_place.ELSEWHERE) and "status" in have


@pytest.mark.parametrize("words, then", [
    (("resume", "a run"), "-C sub resume 'a run' --config 'my file.yaml' --workspace ws"),
    (("runs", "unpack", "r"), "-C sub runs unpack r --config 'my file.yaml' --workspace ws"),
    (("ledger", "restore", "--", "-k"),
     "-C sub ledger restore --config 'my file.yaml' --workspace ws -- -k"),
    (("data", "check", "city"), "-C sub data check city"),  # has none of them
    (("doctor", "--config", "x"), "-C sub doctor --config x"),
    (("run", "fit"), "-C sub run fit"),  # its --config is that of a step
    (("notify", "--help"), "-C sub notify --help"),
    (("submit", "upstream"), "-C sub submit upstream --config 'my file.yaml' --workspace ws"),
])
def test_a_command_gets_the_options_that_it_has(say, tmp_path, monkeypatch, words, then):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    said = []
    monkeypatch.setattr("l3hpc.workspace.records.find",
                        lambda *of: said.append(command_line(*words)) or "")
    say("-C", "sub", "logs", "latest", "--config", "my file.yaml", "--workspace", "ws")
    assert said == [f"l3hpc {then}"]
    assert command_line("resume", "r") == "l3hpc resume r"  # of the next process, as it were


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A run that failed for memory, in a workspace that no configuration names."""
    from l3hpc.runs import submit

    chains.clean_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(json.dumps({
        "clusters": {"local": {"slots": {"cpus": 2, "mem": "2GB"},
                               "env": {"PYTHONPATH": str(chains.FAKES)}}}}))
    submit.submit(chains.plan(tmp_path / "ws", "bad-1", ("extract", "sample"),
                              params={"sample": {"fail": "scratch"}}))
    return "--workspace", "ws"


@pytest.mark.slow
def test_hints_of_commands_about_runs_lead_to_the_same_workspace(say, elsewhere):
    code, out, err = say("runs", "pack", "bad-1", *elsewhere)
    assert code == 0 and "to undo it: l3hpc runs unpack bad-1 --workspace ws\n" in err
    assert "l3hpc runs unpack bad-1 --workspace ws" in say(
        "logs", "bad-1", "sample", "--path", *elsewhere)[2]
    assert "to print one:   l3hpc logs bad-1 STEP --workspace ws\n" in say(
        "logs", "bad-1", *elsewhere)[2]
    value = json.loads(say("status", "bad-1", "--json", *elsewhere)[1])
    assert value["runs"][0]["then"] == "l3hpc resume bad-1 --workspace ws"
    value = json.loads(say("report", "bad-1", "--json", *elsewhere)[1])
    assert value["next"] == "l3hpc logs bad-1 sample --workspace ws"


@pytest.mark.parametrize("place, shown", [
    ("a run", "'a run/log'"), (".", "log"), ("..", "{above}/log")])
def test_paths_start_where_the_person_is(say, tmp_path, monkeypatch, place, shown):
    """-C changes the folder of the command, not that of the shell into which a path is pasted."""
    here = tmp_path / "here"
    (here / "a run").mkdir(parents=True)
    monkeypatch.chdir(here)
    said = []
    monkeypatch.setattr("l3hpc.workspace.records.find", lambda *of: said.extend(
        [shell_path("log"), shell_path(Path("log").absolute())]) or "")
    say("-C", place, "logs", "latest", "--workspace", "ws")
    assert said == [shown.format(above=tmp_path)] * 2
    assert path_from_shell("../log") == "../log"  # as it was typed
    assert path_from_shell("/a/b/../log") == "/a/log"


def test_the_log_of_a_step_and_the_line_of_a_setting_are_named_from_there(
        say, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("sub/cluster.yaml").write_text("clusters:\n  local:\n    slotz: {}\n")
    assert "error: sub/cluster.yaml:3: " in say("-C", "sub", "config", "show")[2]
    monkeypatch.chdir(tmp_path)  # say runs in this process
    Path("sub/jobs").mkdir()
    said = say("-C", "sub", "run", "fit", "--config", "jobs/none.json")[2]
    assert said.startswith("error: sub/jobs/none.json: cannot be read")
    monkeypatch.chdir(tmp_path)
    Path("sub/full").mkdir()
    Path("sub/full/x").touch()
    assert say("-C", "sub", "data", "synth", "full")[2].startswith("error: sub/full: is not empty")
    monkeypatch.chdir(tmp_path)
    Path("sub/a b.csv").write_bytes(b"file,label\na.wav,M\xf6we\n")
    assert "iconv -f LATIN1 -t UTF-8 'sub/a b.csv' > table.csv" in say(
        "-C", "sub", "data", "check", "a b.csv")[2]
    failed = StepStatus("fit", "fit", None, StepState.FAILED, 0, 1, log=str(tmp_path / "sub/0.err"))
    said = []
    monkeypatch.setattr("l3hpc.workspace.records.find",
                        lambda *of: said.extend(display._more(failed, "")) or "")
    monkeypatch.chdir(tmp_path)  # say runs in this process
    say("-C", "sub", "logs", "latest", "--workspace", "ws")
    assert said == ["log sub/0.err"]


def test_threads_name_the_same_commands(say, monkeypatch, tmp_path):
    """squeue is asked in a thread."""
    monkeypatch.chdir(tmp_path)
    said = []

    def find(*of):
        thread = threading.Thread(target=lambda: said.append(command_line("doctor")))
        thread.start()
        thread.join()
        return ""

    monkeypatch.setattr("l3hpc.workspace.records.find", find)
    say("logs", "latest", "--config", "c.yaml")
    assert said == []  # the configuration is read first
    say("logs", "latest", "--config", "c.yaml", "--workspace", "ws")
    assert said == ["l3hpc doctor --config c.yaml"]
