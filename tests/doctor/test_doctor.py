"""The doctor as a whole, the scripts that it tries, and the results sheet."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asked import SINFO, SLURM, Programs, config_in, profile, said, states

from l3hpc import steps
from l3hpc.config import sources
from l3hpc.doctor import examine, slurm, storage
from l3hpc.doctor.environment import Answer, ask
from l3hpc.errors import HeaderDriftError, InputError, OfflineError
from l3hpc.findings import Finding, from_error

# ---- the whole ----

def test_every_red_line_says_what_to_do():
    error = InputError("is broken", where="x.h5", allowed="a good one", hint="try again")
    line = from_error("weights", error)
    assert line == Finding("weights", "red", "x.h5: is broken", "a good one try again")
    assert from_error("weights", InputError("is broken")).advice


def test_examine_on_local_without_slurm(tmp_path):
    lines = list(examine(config_in(tmp_path), probe=False, ask=Programs(bash=said(""))))
    found = states(lines)
    assert found["Slurm"] == found["workspace is shared"] == "off"
    assert found["scripts"] == "green"
    assert not [line for line in lines if line.severity == "red"]
    assert all(json.dumps(vars(line)) for line in lines)


def test_examine_imports_no_tensorflow(tmp_path):
    code = ("import sys\nfrom l3hpc import doctor\nfrom l3hpc.config import settings\n"
            "list(doctor.examine(settings.load(environ={}), probe=False))\n"
            "print([m for m in ('tensorflow', 'pandas', 'sklearn') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_ask_never_raises():
    assert ask(["/nowhere/program"]).code is None
    assert ask([sys.executable, "-c", "import time; time.sleep(9)"], timeout=0.2).code is None
    answer = ask([sys.executable, "-c", "import sys; sys.exit('no')"])
    assert (answer.code, answer.reason) == (1, "no")


def test_what_a_program_has_started_ends_with_it(tmp_path):
    """A process in the background keeps the output open, and would be waited for."""
    started = tmp_path / "pid"
    for timeout in (1.0, 10.0, 100.0):  # bash may start slowly
        answer = ask(["bash", "-c", 'sleep 3600 & echo "$!" > "$0"; wait', str(started)], timeout)
        assert answer.code is None and f"did not respond within {timeout:g} s" in answer.err
        if started.is_file() and (pid := started.read_text().strip()):
            break
    end = time.monotonic() + 120
    while command_of(pid):  # a process that nobody has waited for yet has none
        assert time.monotonic() < end
        time.sleep(0.05)


def command_of(pid):
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# ---- scripts ----

def test_every_delivered_script_is_tried_once(tmp_path):
    seen = []

    def sbatch(command):
        assert command[:2] == ["sbatch", "--test-only"]
        seen.append(Path(command[2]).read_text())
        return Answer(0, "", "sbatch: Job 1 to start at 2026-11-20T12:00:00")

    (line,) = slurm.script_lines(config_in(tmp_path, SLURM), sbatch)
    assert line.severity == "green" and len(seen) == len(set(seen))
    kinds = {re.search(r"--job-name=l3-doctor-(\w+)", text)[1] for text in seen}
    # commands and functions are only in the pipelines that users write
    assert kinds == {name for name in steps.BUILT_IN if not steps.step(name).takes_any}
    assert all("--account=pr_42" in text for text in seen)


def refusing(*steps):
    def sbatch(command):
        text = Path(command[2]).read_text()
        refused = any(f"--job-name=l3-doctor-{step}\n" in text for step in steps)
        return Answer(1, "", "allocation failure: Invalid qos") if refused else said("")

    return sbatch


def test_a_pipeline_that_slurm_refuses_is_red_only_where_someone_asked_for_it(tmp_path):
    config = config_in(tmp_path, SLURM)
    lines = list(slurm.script_lines(config, refusing("avc_train", "avc_pairs")))
    assert [(line.severity, line.subject) for line in lines] == [
        ("yellow", "scripts"), ("yellow", "pipeline avc")]
    assert lines[1].message == "avc_pairs, avc_train: Invalid qos"
    assert "affects only l3hpc submit avc" in lines[1].advice
    lines = list(slurm.script_lines(config, refusing("avc_train"), ["avc", "upstream"]))
    assert [(line.severity, line.subject) for line in lines] == [
        ("yellow", "scripts"), ("red", "pipeline avc")]
    (line,) = slurm.script_lines(config, refusing("avc_train"), ["upstream"])
    assert line.severity == "green" and "1 pipelines" not in line.message
    with pytest.raises(InputError, match="no pipeline 'upstraem'"):
        next(examine(config, pipelines=["upstraem"]))


def test_a_cluster_that_refuses_every_pipeline_is_red(tmp_path):
    lines = list(slurm.script_lines(config_in(tmp_path, SLURM), refusing(*steps.BUILT_IN)))
    assert {line.severity for line in lines[1:]} == {"red"}
    assert len(lines) == 1 + len(sources.pipelines())


@pytest.mark.parametrize("pipelines", [(), ("upstream",)])
def test_without_a_controller_slurm_is_the_only_cross(tmp_path, pipelines):
    broken = Answer(1, "", "Unable to contact slurm controller")
    lines = list(examine(config_in(tmp_path, SLURM), probe=False, pipelines=pipelines,
                         ask=lambda command: broken if command[0] in ("sinfo", "sbatch", "squeue")
                         else said("")))
    red = [line.subject for line in lines
           if line.severity == "red" and line.subject.startswith(("Slurm", "scripts", "pipeline"))]
    assert red == ["Slurm"]
    [scripts] = [line for line in lines if line.subject == "scripts"]
    assert scripts.severity == "off" and "not checked" in scripts.message


def test_a_broken_pipeline_of_the_working_folder_is_red(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.yaml").write_text("steps:\n  trian:\n")
    config = config_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = list(slurm.script_lines(config, Programs(bash=said(""))))
    assert [line.subject for line in lines if line.severity == "red"] == ["pipeline mine"]
    assert "did you mean 'train'" in lines[-1].advice


@pytest.mark.parametrize(("values", "asked", "state"), [
    ({}, False, ""), ({"account": "birds"}, True, "green"), ({"qos": "long"}, True, "green"),
    ({"qos": "lang"}, True, "red")])
def test_an_account_or_a_quality_of_service_is_looked_up(values, asked, state):
    ask = Programs(sbatch=said("slurm 24.11.5"), sinfo=said(SINFO),
                   sacctmgr=said("birds|long,short\n"))
    found = states(slurm.slurm_lines(profile(partition="cpu", **values), ask))
    assert found.get("account", "") == state
    assert any(words[0] == "sacctmgr" and "associations" in words for words in ask.asked) == asked


# ---- results sheet ----

@pytest.mark.parametrize(("content", "mode", "words"), [
    (None, 0o600, "cannot read the key file"), ("{", 0o600, "not valid JSON"),
    ('{"type": "authorized_user"}', 0o600, "not a service account's key"),
    ('{"type": "service_account"}', 0o644, "can be read by others")])
def test_key_file_faults(tmp_path, content, mode, words):
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
        key.chmod(mode)
    text = f"ledger: {{sheet_id: abcdefgh, key_file: {key}}}\n"
    line = storage.results_line(config_in(tmp_path / "here", text), probe=False)
    assert line.severity == "red" and words in line.message and line.advice


def test_no_sheet_is_no_fault(tmp_path):
    assert storage.results_line(config_in(tmp_path)).severity == "off"


@pytest.mark.parametrize(("error", "state"), [
    (OfflineError("no answer"), "yellow"), (HeaderDriftError("AF1 changed"), "red"),
    (InputError("there is no spreadsheet with the id abcdefgh", hint="look again"), "red")])
def test_what_the_sheet_answers(tmp_path, monkeypatch, error, state):
    from l3hpc.ledger.sheets import client

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(client, "Sheets", refuse)
    line = storage.results_line(config_in(tmp_path, "ledger: {sheet_id: abcdefgh}\n"))
    assert line.severity == state and error.message in line.message and line.advice


def test_the_doctor_does_not_wait_long_for_google():
    wait = storage._LimitedSleep()
    wait(0.001)
    with pytest.raises(OfflineError):
        wait(storage.SHEET_TIMEOUT_S)
