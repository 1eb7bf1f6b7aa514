"""What every command says with ``--json`` has the golden form (tests/contract/json), and typical
ends have their exit codes.

Each command is called on a copy of the kept workspace, in every way in which it says something
else. (demo takes half a minute: tests/cli/test_demo.py checks its form.)

After a deliberate change:   L3HPC_REGOLD=1 python -m pytest tests/contract/test_json.py
"""

import json
import sys
import threading

import pytest
from goldens import HERE, check_files, with_json
from schemas import broken, check_schema, schema
from workspaces import Workspace

pytestmark = pytest.mark.slow

sys.path.insert(0, str(HERE.parent / "sheets"))

ARCHIVE = HERE / "data/workspace-0.tar.xz"
TAB = "embedding_approx_mse"
SMALL = ("--sensors", 1, "--recordings", 1, "--clips", 10, "--seconds", 1, "--rate", 8000,
         "--days", 1)
CALLS = {  # command → its calls, in this order: they change the workspace
    "status": [("--all",)],
    "logs": [("done",)],
    "usage": [("done",), ("slurm",)],
    "report": [("done",), ("failed",), ("sweep",), ("done", "failed", "-o", "both.html")],
    "config show": [()],
    "config check": [()],
    "doctor": [("--quick",)],
    "submit": [("reduction", "--dry-run"), ("reduction", "--seed", 11),
               ("reduction", "--grid", "sampling=dpp,random", "--dry-run")],
    "retry": [("failed", "sample")],
    "resume": [("half", "--dry-run"), ("half",)],
    "runs pack": [("done", "--dry-run"), ("done",)],
    "runs unpack": [("done", "--dry-run"), ("done",)],
    "cancel": [("queued",)],
    "run": [("fit", "--config", "{done}/steps/fit/config.json"),
            ("fit", "--input", "sample={done}/artifacts/sample", "--set", "emb_dim=2",
             "-o", "phi")],
    "embed": [("{recording}", "gone.wav", "--model", "teacher.h5", "-o", "out",
               "--engine", "tensorflow"),
              ("{recording}", "--model", "teacher.h5", "--dry-run")],
    "export": [("{student}", "--fp32", "-o", "sensor", "--dry-run"),
               ("{student}", "--fp32", "-o", "sensor")],
    "data synth": [("little", *SMALL)],
    "data check": [("city/sonyc_ust",), ("city/audio",), ("{done}/artifacts/extract",)],
    "ledger show": [(), ("--tab", TAB)],
    "ledger status": [()],
    "ledger export": [()],
    "ledger diff": [("{done}/artifacts/train", "{cut}/artifacts/train")],
    "ledger compact": [()],
}
MAY_FAIL = {"doctor", "data check"}  # 1: something is red
TENSORFLOW = {"embed", "export"}  # it keeps the streams that it finds: in a process of its own
L3HPC = "from l3hpc.__main__ import main; main()"
SHEET = {"ledger init", "ledger sync", "ledger check", "ledger adopt", "ledger repair",
         "ledger restore"}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return Workspace(ARCHIVE, tmp_path_factory.mktemp("json"))


def places(workspace):
    done = workspace.run("done")
    [first, *_] = sorted(workspace.place.glob("city/audio/*/*.wav"))
    return {"done": done, "cut": workspace.run("cut"), "recording": first,
            "student": done / "artifacts/train/0000/model_latest.h5"}


@pytest.mark.parametrize("command", CALLS)
def test_the_form_of_what_it_says(old, command, forked, tmp_path):
    names, said = places(old), []
    for words in CALLS[command]:
        words = [*command.split(), *(str(word).format(**names) for word in words)]
        if command in TENSORFLOW:
            forked.run(L3HPC, *words, "--json", cwd=old.place, env=old.environment,
                       out=tmp_path / "out")
            said.append(json.loads((tmp_path / "out").read_text()))
        else:
            said.append(old.json(*words, code=(0, 1) if command in MAY_FAIL else 0))
    check_schema(command.replace(" ", "-"), said)


@pytest.fixture
def sheet(old, tmp_path):
    """Calls a command on a spreadsheet; ``sheet.grid``: the cells of a tab."""
    from sheets_server import Server

    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02},
                     daemon=True).start()
    variables = {"L3HPC_SHEETS_URL": server.url, "GSHEET_ID": "book-one"}
    key = server.key_file(tmp_path)

    def call(command, *words, code=0):
        return old.json(*command.split(), *words, "--key-file", key, code=code, **variables)

    call.grid = lambda: server.book.named(TAB)["grid"]
    yield call
    server.shutdown()
    server.server_close()


def test_the_form_of_what_the_commands_of_the_sheet_say(sheet):
    said = {command: [] for command in SHEET}

    def call(command, *words, code=0):
        said[command].append(sheet(command, *words, code=code))

    call("ledger check", code=3)
    call("ledger init")
    call("ledger check")
    call("ledger sync")
    call("ledger sync")
    sheet.grid()[1][7] = "mine"
    call("ledger sync", code=1)
    call("ledger repair", "--dry-run")
    call("ledger repair", "--yes")
    key = sheet.grid()[1][1]
    del sheet.grid()[1]
    call("ledger sync", code=1)
    call("ledger restore", key)
    sheet.grid()[3][1] = "/by/hand"
    call("ledger adopt")
    call("ledger adopt", "--yes")
    sheet.grid()[0][19] = "epoch"
    call("ledger repair", "--dry-run")
    for command, values in said.items():
        check_schema(command.replace(" ", "-"), values)


def test_the_form_of_what_init_says(slurm, l3hpc):
    slurm.says("sinfo", "printf 'cpu*|up|5-00:00:00|64000|8|gpu:a100:2|3\\n'")
    slurm.says("scontrol", "printf 'ClusterName = greene\\nMaxArraySize = 1001\\n'")
    slurm.says("sacctmgr", """case "$*" in *associations*) echo 'lab|normal|normal|30|' ;;
*qos*) echo 'normal|1-00:00:00|500|' ;; *user*) echo lab ;; *clusters*) echo greene ;; esac""")
    check_schema("init", [json.loads(l3hpc("init", *words, "--json").out) for words in (
        (), ("--dry-run", "--local"))])


def test_the_form_of_what_compare_says(tmp_path, monkeypatch, l3hpc):
    import judged

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("paths: {workspace: ws}\n")
    data = judged.sonyc_ust(tmp_path / "data", clips=12)
    for run, skill in (("one", 0.2), ("two", 0.5)):
        judged.downstream(tmp_path / "ws", run, data, [skill])
        judged.folds(tmp_path / "ws", f"folds-{run}", {"a": "dog", "b": "hen"},
                     {"a": "dog", "b": run})
    check_schema("compare", [json.loads(l3hpc("compare", *words, "--samples", "1000", "--json").out)
                             for words in (("one", "two"), ("folds-one", "folds-two"))])


def test_the_form_of_what_tensorboard_says(old):
    [task] = old.run("done").glob("artifacts/train/0000")
    (task / "tensorboard").mkdir()
    try:
        check_schema("tensorboard", [old.json("tensorboard", "done")])
    finally:
        (task / "tensorboard").rmdir()


def test_the_form_of_what_notify_says(l3hpc, monkeypatch):
    from l3hpc.runs import notifications as sending

    message = sending.Message("run", "done", "title", "body")
    monkeypatch.setattr(sending, "announce", lambda *_, dry_run: iter([
        sending.Delivery(message, "slack (entry 1)", None if dry_run else True)]))
    check_schema("notify", [json.loads(l3hpc("notify", *words, "--json").out) for words in (
        (), ("--dry-run",))])


def test_every_command_with_json_has_a_form():
    commands = {" ".join(words) for words in with_json()}
    assert commands == {*CALLS, *SHEET, "compare", "demo", "init", "notify", "teacher describe",
                        "tensorboard"}
    check_files("json", [f"{command.replace(' ', '-')}.json" for command in commands])


@pytest.mark.parametrize(("code", "words"), [
    (0, ("status",)),
    (0, ("submit", "reduction", "--dry-run")),
    (0, ("resume", "done")),  # nothing is left to do
    (0, ("config", "check")),
    (1, ("data", "check", "damaged")),
    (2, ("status", "nowhere")),
    (2, ("logs", "done", "nothing")),
    (2, ("data", "check", "workspace/runs")),
    (2, ("embed", "gone.wav", "--model", "teacher.h5")),
    (2, ("submit", "nothing")),
    (2, ("submit", "reduction", "--nothing")),
    (2, ("submit", "reduction", "--set", "fit.emb_dim=many")),
    (2, ("run", "fit", "--set", "emb_dim=2")),
    (2, ("ledger", "show", "--tab", "nothing")),
    (2, ("ledger", "sync")),  # no sheet is set
    (4, ("submit", "reduction", "--seed", "12", "--cluster", "slurm")),  # sbatch refuses
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value))
def test_exit_codes(old, code, words):
    (old.place / "damaged").mkdir(exist_ok=True)
    (old.place / "damaged/one_1511200000.wav").write_bytes(b"RIFF")
    old(*words, code=code)


def test_exit_code_of_a_run_that_fails(old):
    damaged = next(old.place.glob("workspace/artifacts/extract/*/0000/*.h5"))
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no longer HDF5")
    old("submit", "reduction", "--seed", "13", code=1)
    damaged.write_bytes(whole)


def test_a_schema_notices_what_a_reader_would_miss():
    then = schema({"a": 1, "b": [{"c": None}, {"c": "x"}], "/path": {"d": True}})
    assert then == {"a": "number", "b": [{"c": "null|string"}], "*": {"d": "boolean"}}
    assert not list(broken(then, schema({"a": 2.5, "b": [{"c": "y"}], "/p": {"d": False}, "e": 1})))
    for now in ({"b": [{"c": "y"}]}, {"a": "1", "b": [{"c": "y"}]}, {"a": 1, "b": []},
                {"a": 1, "b": [{}]}, {"a": 1, "b": [{"c": 1}]}, {"a": None, "b": [{"c": "y"}]}):
        assert len(list(broken(then, schema({**now, "/p": {"d": True}})))) == 1
