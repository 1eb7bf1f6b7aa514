import json

import pytest
from invoke import invoke

from l3hpc import doctor
from l3hpc.cli.doctor import summary
from l3hpc.findings import Finding

GREEN = Finding("Python", "green", "3.11.2")
YELLOW = Finding("weights", "yellow", "not set", "set them")
RED = Finding("workspace", "red", "is not writable", "name another one")


@pytest.fixture
def examined(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def use(*lines):
        monkeypatch.setattr(doctor, "examine", lambda config, probe, pipelines: iter(lines))

    return use


def run(*words):
    return invoke("doctor", *words)


def test_marks_words_and_what_to_do(examined):
    examined(GREEN, YELLOW, RED)
    result = run()
    assert result.output.splitlines() == [
        "✓ Python                 3.11.2",
        "! weights                not set",
        "                         → set them",
        "✗ workspace              is not writable",
        "                         → name another one",
        "",
        "1 thing to repair (✗), 1 to look at (!)"]
    assert result.return_value == 1


def test_only_red_fails(examined):
    examined(GREEN, YELLOW)
    assert run("--quick").return_value == 0


def test_json(examined):
    examined(GREEN, RED)
    result = run("--json")
    assert json.loads(result.output) == {
        "checks": [
            {"check": "Python", "state": "green", "words": "3.11.2", "todo": ""},
            {"check": "workspace", "state": "red", "words": "is not writable",
             "todo": "name another one"}],
        "red": 1, "yellow": 0}
    assert result.return_value == 1


def test_real_checks_run_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--quick", "--json")
    states = {check["check"]: check["state"] for check in json.loads(result.output)["checks"]}
    assert states["Slurm"] == "off" and states["scripts"] == "green"
    assert result.return_value == 0


@pytest.mark.parametrize(("red", "yellow", "words"), [
    (0, 0, "ready"), (0, 1, "ready; 1 thing to look at (!)"),
    (0, 2, "ready; 2 things to look at (!)"), (2, 0, "2 things to repair (✗), 0 to look at (!)")])
def test_summary(red, yellow, words):
    assert summary(red, yellow) == words
