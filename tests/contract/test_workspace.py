"""A workspace of an earlier time (data/workspace-0, see make_workspace_0.py) in the hands of
today's code: what it reads, takes up and executes there. All through the command line.

After a deliberate change of words:   L3HPC_REGOLD=1 python -m pytest tests/contract
"""

import csv
import importlib
import json
import pickle
import pickletools
import re
import subprocess
import sys

import pytest
from goldens import HERE, HOW, REGOLD, check_files, check_text, write_json
from workspaces import PLACE, Workspace

pytestmark = pytest.mark.slow

ARCHIVE = HERE / "data/workspace-0.tar.xz"
REDUCTION = ("extract", "sample", "fit", "reduce")
PATHS = {"half": REDUCTION[1:], "queued": REDUCTION[1:], "cut": ("train",)}  # run → its new steps
TEXTS = {
    "status": ("status",), "status-all": ("status", "--all"), "status-sweep": ("status", "sweep"),
    "logs-done": ("logs", "done"), "logs-failed": ("logs", "failed", "sample"),
    "logs-slurm": ("logs", "slurm", "fit", "--path"),
    "usage-done": ("usage", "done"), "usage-slurm": ("usage", "slurm"),
    "ledger-show": ("ledger", "show"), "ledger-status": ("ledger", "status"),
}
VALUES = {
    "status-all": ("status", "--all"), "logs-done": ("logs", "done"),
    "usage-done": ("usage", "done"), "usage-slurm": ("usage", "slurm"),
    "ledger-show": ("ledger", "show"), "ledger-status": ("ledger", "status"),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """For what only reads."""
    return Workspace(ARCHIVE, tmp_path_factory.mktemp("old"))


@pytest.fixture
def mine(tmp_path):
    """For what writes."""
    return Workspace(ARCHIVE, tmp_path)


def plain(workspace, text):
    """Without the place, how long ago something was, and blanks at ends of lines."""
    text = text.replace(str(workspace.place), PLACE)
    text = re.sub(r"started (just now|yesterday|.* ago)", "started AGO", text)
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", TEXTS)
def test_what_it_shows(old, name):
    check_text(f"workspace-0/{name}.txt", plain(old, old(*TEXTS[name])))


@pytest.mark.parametrize("name", VALUES)
def test_what_it_tells_a_program(old, name):
    path = HERE / f"workspace-0/{name}.json"
    now = json.loads(old(*VALUES[name], "--json").replace(str(old.place), PLACE))
    if REGOLD:
        write_json(path, now)
    assert list(lost(json.loads(path.read_text()), now)) == [], HOW


def lost(then, now, where="$"):
    """What was told then and is not, or otherwise, now. New keys are none of this."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            if key in now:
                yield from lost(value, now[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is gone"
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif type(then) is not type(now) or then != now:
        yield f"{where}: {then!r} is now {now!r}"


def test_nothing_is_compared_with_nobody():
    check_files("workspace-0", [*(f"{name}.txt" for name in TEXTS),
                                *(f"{name}.json" for name in VALUES),
                                *(f"{run}.paths" for run in PATHS), "heal.txt"])


@pytest.mark.parametrize("run", ["failed", "empty", "half"])
def test_a_run_that_did_not_end_is_resumed_to_its_end(mine, run):
    mine("resume", run)
    assert mine.states(run) == {"extract": "reused", **dict.fromkeys(REDUCTION[1:], "done")}
    assert mine("resume", run).startswith("nothing to resume: ")
    if run in PATHS:
        check_paths(mine, run)


def test_a_training_that_was_cut_goes_on_where_it_was(mine):
    [before] = mine.place.glob("workspace/artifacts/train/*/.work/0000/training/history.csv")
    epochs = list(csv.DictReader(before.read_text().splitlines()))
    assert 0 < len(epochs) < 40
    mine("resume", "cut")
    assert mine.states("cut")["train"] == "done"
    after = mine.run("cut") / "artifacts/train/0000/history.csv"
    now = list(csv.DictReader(after.read_text().splitlines()))
    assert [row["epoch"] for row in now] == [str(epoch) for epoch in range(40)]
    # The epoch in which it was cut is computed again, by a processor that may round otherwise.
    for row, known in zip(now, epochs, strict=False):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: float(value) for name, value in known.items()}, rel=1e-3)
    check_paths(mine, "cut")


def test_a_finished_run_is_not_computed_again(old):
    """The fingerprints are those of then: every step of the same command is done before."""
    for run in ("done", "sweep"):
        words = json.loads((old.run(run) / "run.json").read_text())["command"][1:]
        plan = old.json(*words, "--dry-run")
        assert {step["state"] for step in plan["steps"]} == {"done before"}, plan


def job(workspace, name, task=None):
    """Run a job that waits in the queue, as Slurm does: the script that was kept under its id."""
    folder = workspace.run("queued") / "steps" / name
    [script] = (folder / "logs").glob("*_submission.sh")
    number = script.name.partition("_")[0]
    array = {} if task is None else {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}
    done = workspace.execute("bash", script, SLURM_JOB_ID=number, SLURM_JOB_NUM_NODES="1",
                             SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0",
                             SLURM_NODEID="0", SLURM_JOB_NODELIST="n1", SLURM_CPUS_PER_TASK="1",
                             **array)
    marker = json.loads((folder / f"markers/{task or 0}.exit").read_text())
    assert marker["code"] == done.returncode, done.stderr
    return done


def test_jobs_that_waited_in_the_queue_run(mine):
    for name, task in (("sample", 0), ("sample", 1), ("fit", None), ("reduce", 0), ("reduce", 1)):
        done = job(mine, name, task)
        assert done.returncode == 0, done.stderr
    assert mine.states("queued") == {"extract": "reused", **dict.fromkeys(REDUCTION[1:], "done")}
    check_paths(mine, "queued")


def test_a_script_of_then_asks_today_s_code_what_to_do_about_memory(mine):
    script = next((mine.run("queued") / "steps/fit/logs").glob("*_submission.sh")).read_text()
    command = re.search(r'^ *answer="\$\((.*) "\$task" ended "\$code" ', script, re.MULTILINE)[1]
    done = subprocess.run(["bash", "-c", f"{command} 0 ended 137"], input="OUT_OF_MEMORY\n",
                          text=True, capture_output=True, cwd=mine.place,
                          env={**mine.environment, "SLURM_JOB_ID": "7"})
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    check_text("workspace-0/heal.txt", plain(mine, done.stdout))


def test_a_step_is_repeated_by_hand(mine):
    fit = mine.run("queued") / "steps/fit/config.json"
    mine("run", "fit", "--config", mine.run("done") / "steps/fit/config.json")
    assert "sample" in mine("run", "fit", "--config", fit, code=2)  # has not run


def scripts(workspace):
    return [path for pattern in ("*.sbatch", "*.sh")
            for path in sorted(workspace.place.glob(f"workspace/runs/**/{pattern}"))]


def test_every_name_in_scripts_is_a_program_of_today(old):
    names = {name for path in scripts(old)
             for name in re.findall(r"\bl3hpc(?:\.\w+)+", path.read_text())}
    assert {"l3hpc.workflow.job_entry", "l3hpc.workflow.healing.job"} <= names
    for name in names:  # without arguments they complain; an empty module would be content
        done = old.execute(sys.executable, "-m", name)
        assert done.returncode == 1 and "IndexError" in done.stderr, (name, done.stderr)


class Recording(pickle.Unpickler):
    """Loads as a job does, and remembers by which names."""

    def __init__(self, stream, names):
        super().__init__(stream)
        self.names = names

    def find_class(self, module, name):
        self.names.add((module, name))
        return super().find_class(module, name)


def test_every_name_in_pickles_is_there_today(old):
    names, pickles = set(), sorted(old.place.rglob("*.pkl"))
    assert len(pickles) > 30
    for path in pickles:
        strings = {text for _, text, _ in pickletools.genops(path.read_bytes())
                   if isinstance(text, str)}
        for text in strings:
            if re.fullmatch(r"l3hpc(\.\w+)+", text):
                importlib.import_module(text)
        with open(path, "rb") as stream:
            Recording(stream, names).load()
    assert ("l3hpc.workflow.worker", "TaskCall") in names
    assert {module for module, _ in names if module.startswith("l3hpc")} == {
        "l3hpc.workflow.worker"}


def check_paths(workspace, run):
    """The files of a run and of the artifacts that it made, without the names that chance gives."""
    folder = workspace.run(run)
    places = [folder, *((folder / "artifacts" / step).resolve() for step in PATHS[run])]
    found = {path.relative_to(workspace.place / "workspace").as_posix()
             for place in places for path in place.rglob("*")
             if path.is_symlink() or not path.is_dir() or not any(path.iterdir())}
    found = {path for path in found if not path.endswith(".progress.json")}  # of slow steps only
    found = {re.sub(r"/[0-9a-f]{16}/", "/FINGERPRINT/", path.replace(folder.name, "RUN"))
             for path in found}
    found = {re.sub(r"/(\.?)[0-9a-f]{32}\.pkl", r"/\1TEMPORARY.pkl", path) for path in found}
    found = {re.sub(r"(/logs/|\.owner\.)\d+", r"\1N", path) for path in found}
    check_text(f"workspace-0/{run}.paths", "".join(f"{path}\n" for path in sorted(found)))
