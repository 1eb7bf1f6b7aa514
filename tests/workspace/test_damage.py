"""One damaged file costs what it describes and is named; everything else goes on."""

import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc import errors
from l3hpc.cli import main
from l3hpc.errors import InputError
from l3hpc.runs import status, submission_lock, submit
from l3hpc.schedulers import requeue_policy
from l3hpc.schedulers.local.scheduler import spool
from l3hpc.workspace import artifacts, markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.local_jobs import LocalJobs
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord

pytestmark = pytest.mark.slow

CONTENTS = [
    b"", b"\xff", b"{", b"null", b"[]", b"[1]", b"{}", b'"x"', b"1", b"1e400", b"NaN", b"[" * 9999,
    b'{"jobs": 1}', b'{"jobs": {"1": 1}}', b'{"code": [1]}', b'{"code": 1e400}', b"\xef\xbb\xbf{}",
    b'{"steps": [1]}', b'{"token": {}}', b"9" * 5000, b'{"done": "x", "total": []}', b"\x00" * 64,
    b'{"tail": 3}', b'[{"mem_mb": "x"}]', b'{"index": "x", "started": null}', b"{\n\xe9}\n\xff\n",
    b'{"schema": 1, "text": 4, "started": "x", "finished": []}',
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two finished runs and one that failed, made by the real runner with fake steps."""
    import chains

    monkeypatch = pytest.MonkeyPatch()
    chains.clean_environment(monkeypatch)
    here = tmp_path_factory.mktemp("damage")
    monkeypatch.chdir(here)
    (here / "cluster.yaml").write_text("paths: {workspace: ws}\n")
    for run, salt, params in (("one", "1", {}), ("two", "2", {"sample": {"fail": "error"}}),
                              ("three", "3", {})):
        submit.submit(chains.plan(here / "ws", run=run, salt=salt, params=params,
                                  names=("extract", "sample"), tasks={"extract": 2}))
        time.sleep(0.01)
    folder = Workspace(here / "ws").run("two").path
    markers.add_requeue(folder / "steps" / "sample" / "markers", 0, "time limit", 1.0, mem_mb=9)
    markers.give_up(folder / "steps" / "sample" / "markers", 0, "it is too much", 2.0)
    attempt = records.read(here / "ws", "two").steps[1].attempts[0]
    records.note_attempts(here / "ws", "two", {"sample": attempt}, first=True)
    yield here
    monkeypatch.undo()


def targets(here):
    """What is read of another process: each kind of file once, of the run that failed."""
    return sorted(path for path in (here / "ws").rglob("*") if path.is_file()
                  and not path.is_symlink() and ".work" not in path.parts
                  and "submission.sh" not in path.name and path.suffix != ".pkl"
                  and path.name != "out.txt")


def damage(path, how):
    mode = stat.S_IMODE(path.lstat().st_mode)
    path.unlink()
    if isinstance(how, bytes):
        path.write_bytes(how)
        path.chmod(mode)
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to("nowhere")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "huge":
        with open(path, "wb") as stream:
            stream.truncate(2**40)


def say(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    said = capsys.readouterr()
    assert "This is a bug" not in said.err, said.err
    assert "Traceback" not in said.err
    return end.value.code, said.out, said.err


COMMANDS = [["status", "--json"], ["status", "two"], ["usage", "two"], ["logs", "two", "sample"],
            ["resume", "two", "--dry-run"], ["resume", "latest", "--dry-run"], ["cancel", "two"],
            ["ledger", "show"], ["logs", "two"], ["status"]]


def look(here, capsys, path, how):
    """Every command after one file was damaged: no traceback, other runs as they were."""
    broken = here / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(here / "ws", broken, symlinks=True)
    for record in broken.rglob("run.json"):  # its artifacts are those of the copy
        record.write_text(record.read_text().replace(str(here / "ws"), str(broken)))
    place = broken / path.relative_to(here / "ws")
    damage(place, how)
    for words in COMMANDS:
        code, out, err = say(capsys, *words, "--workspace", str(broken))
        assert code in (0, 1, 2, 4), (words, code)
        if words != ["status", "--json"]:
            continue
        value = json.loads(out)
        states = {run["run"]: run["state"] for run in value["runs"]}
        own = next((run for run in ("one", "two", "three")
                    if f"/runs/{run}/" in str(place)), None)
        for run, state in (("one", "done"), ("two", "failed"), ("three", "done")):
            if "/runs/" in str(place) and run != own:
                assert states[run] == state
        named = [entry["where"] for entry in value["left_out"]] + \
            [line for run in value["runs"] for line in run["damaged"]]
        assert bool(named) == (code == 1)
        if place.name == "run.json":
            assert own not in states and str(place) in named[0]
        for line in named:
            assert str(place) in line, (line, place)
    return named


@settings(max_examples=30)
@given(data=st.data(), how=st.sampled_from(
    [*CONTENTS, "folder", "link", "pipe", "huge"]) | st.binary(max_size=30))
def test_any_damaged_file_is_left_aside(workspace, data, how):
    path = data.draw(st.sampled_from(targets(workspace)))
    capture = pytest.MonkeyPatch()
    try:
        look(workspace, Capture(capture), path, how)
    finally:
        capture.undo()


class Capture:
    """capsys, for each example of its own."""

    def __init__(self, monkeypatch):
        self.patch = monkeypatch
        self.readouterr()

    def readouterr(self):
        import io
        import sys
        from types import SimpleNamespace

        out, err = sys.stdout, sys.stderr
        self.patch.setattr(sys, "stdout", io.StringIO())
        self.patch.setattr(sys, "stderr", io.StringIO())
        return SimpleNamespace(out=getattr(out, "getvalue", str)(),
                               err=getattr(err, "getvalue", str)())


@pytest.mark.parametrize("name", ["run.json", "local.json", "attempts.jsonl", "0.exit", "0.begin",
                                  "0.error.json", "0.requeues.json", "0.gave_up.json",
                                  "summary.json"])
@pytest.mark.parametrize("how", [b"\xff\n", b"", "folder"], ids=repr)
def test_what_status_reads_is_named_when_it_is_damaged(workspace, capsys, name, how):
    if how == b"" and name == "attempts.jsonl":
        return
    path = next(path for path in targets(workspace) if path.name == name
                and (name == "summary.json" or "/runs/two/" in str(path))
                and "two/steps/extract" not in str(path))
    assert look(workspace, capsys, path, how)


@pytest.mark.parametrize("change", [
    {"run": "../../other"}, {"steps": []}, {"steps": 3}, {"steps": [{}]}, {"created": "x"},
    {"created": 1e300}, {"unknown": 1}, {"options": {"combinations": [1]}}, {"user": None},
    {"options": {"combinations": [{"values": {}, "steps": {"a": "no"}}]}}, {"slots": {"cpus": "x"}},
])
def test_a_record_with_wrong_values_is_named(workspace, change):
    path = Workspace(workspace / "ws").run("one").record
    kept = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(kept) | change))
        if change == {"steps": []}:
            assert records.read(workspace / "ws", "one").steps == []
            return
        with pytest.raises(InputError, match="is not a valid run record") as error:
            records.read(workspace / "ws", "one")
        assert error.value.where == str(path) and "submit again" in error.value.hint
    finally:
        path.write_text(kept)


@pytest.mark.parametrize("step", [
    {"name": "../x"}, {"name": ""}, {"tasks": "2"}, {"tasks": -1}, {"tasks": 10**12},
    {"attempts": [1]}, {"attempts": [{"job": 1}]},
    {"resources": {"cpus": "x"}}, {"needs": "x"}, {"job": 3}, {"submitted_tasks": [None]},
    {"attempts": [{"job": "1", "array": False, "tasks": ["0"], "time": 1}]},
])
def test_a_step_with_wrong_values_is_named(workspace, step):
    path = Workspace(workspace / "ws").run("one").record
    kept = path.read_text()
    value = json.loads(kept)
    value["steps"][0] |= step
    try:
        path.write_text(json.dumps(value))
        with pytest.raises(InputError, match="is not a valid run record"):
            records.read(workspace / "ws", "one")
    finally:
        path.write_text(kept)


def test_latest_is_not_guessed(workspace):
    path = Workspace(workspace / "ws").run("three").record
    kept = path.read_bytes()
    assert records.find(workspace / "ws", "latest") == "three"
    try:
        path.write_bytes(b"\xff")
        os.utime(path.parent, None)
        with pytest.raises(InputError, match="the latest run cannot be determined") as error:
            records.find(workspace / "ws", "latest")
        assert str(path) in error.value.where
    finally:
        path.write_bytes(kept)


def test_a_damaged_claim_ends_nothing(tmp_path, chains):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    for content in CONTENTS:
        (tmp_path / "runs" / "demo" / "handing-over.owner.1").write_bytes(content)
        os.utime(tmp_path / "runs" / "demo" / "handing-over.owner.1", (1, 1))
        submission_lock.acquire(tmp_path, "demo", "submit").release(forget=True)


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_damaged_policies_and_entries_are_named_or_left_aside(tmp_path, content):
    (tmp_path / "heal.json").write_bytes(content)
    try:
        assert requeue_policy.read(tmp_path).memory >= 0
    except InputError as error:
        assert "heal.json" in error.where
    (tmp_path / "local" / "jobs").mkdir(parents=True)
    (tmp_path / "local" / "jobs" / "1.json").write_bytes(content)
    (tmp_path / "local" / "jobs" / "².json").write_bytes(content)
    assert spool(tmp_path, run="a", step="b", after=[]) == "2"
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "local.json").write_bytes(content)
    with errors.collect_damage() as found:
        assert isinstance(LocalJobs(tmp_path, "a").jobs, dict)
    assert all("local.json" in error.where for error in found)


def test_unreadable_folders_are_named(workspace, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(arguments[0]))

    with errors.collect_damage() as found:
        monkeypatch.setattr(os, "scandir", refuse)
        assert markers.read(Path("m")) == {}
        monkeypatch.setattr(os, "listdir", refuse)
        assert artifacts.finished("a") == set()
    assert [(error.where, error.message) for error in found] == [
        ("m", "cannot be read: Permission denied"), ("a", "cannot be read: Permission denied")]


def test_thousands_of_damaged_files_are_reported_once_each_without_comparing_them_all(monkeypatch):
    texts, real = [], InputError.__str__
    monkeypatch.setattr(InputError, "__str__", lambda self: texts.append(1) or real(self))
    with errors.collect_damage() as found:
        for number in (*range(300), *range(300)):
            errors.report_damage(InputError("is damaged", where=f"{number}.json"))
    assert [error.where for error in found] == [f"{number}.json" for number in range(300)]
    assert len(texts) == 600


def test_damage_belongs_to_the_runs_in_whose_folders_it_is(tmp_path, chains):
    """Runs whose names begin alike, and an artifact that two runs share."""
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    shared = chains.plan(tmp_path, "a", names=("extract",), on=on).steps[0].artifact
    for run in ("a", "ab", "b"):
        records.write(tmp_path, RunRecord(run, "p", "site", 1.0, "u", "h", [], {}, "submitted", [
            StepRecord("extract", "extract", str(shared if run != "b" else tmp_path / "other"), 1,
                       [], "submitted", "7", [0], {}, [], [Attempt("7", False, [0], 1.0)])]))
        (tmp_path / "runs" / run / "attempts.jsonl").write_text("[]\n")
    shared.mkdir(parents=True)
    (shared / "0000").mkdir()
    (shared / "0000/result.json").write_text("{}")
    by_run = {one.run: sorted(text.replace(str(tmp_path), "").split(": ")[0]
                              for text in one.damaged)
              for one in status.collect(tmp_path)}
    result = str(shared / "0000/result.json").replace(str(tmp_path), "")
    assert by_run == {"a": [result, "/runs/a/attempts.jsonl:1"],
                      "ab": [result, "/runs/ab/attempts.jsonl:1"],
                      "b": ["/runs/b/attempts.jsonl:1"]}
