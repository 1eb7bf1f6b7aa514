"""``Workspace`` says where things lie, and no other module puts one of its paths together."""

import ast
from pathlib import Path

import pytest

import l3hpc
from l3hpc.workspace.layout import ArtifactFolder, StepFolder, Workspace

PACKAGE = Path(l3hpc.__file__).parent
LAYOUT = PACKAGE / "workspace" / "layout.py"
NAMES = {"runs", "steps", "artifacts", "markers", "logs", "journal", "run.json", "config.json",
         "result.json", "summary.json", "local.json", "attempts.jsonl", "heal.json", ".work",
         "script.sbatch", "handing-over", "stop.asked", "ledger-sync.sbatch"}
# the journal in the home folder that stands in for one that cannot be written; what is looked for
# in the key of a row
ALLOWED = {("ledger/journal/records.py", "journal"), ("report/ledger_rows.py", "runs")}
CALLS = {"Path", "join", "joinpath", "with_name", "glob", "rglob"}


def joined(tree):
    """Every text that a module joins to a path, with its line."""
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and getattr(
                node.func, "attr", getattr(node.func, "id", "")) in CALLS:
            parts = node.args
        elif isinstance(node, ast.JoinedStr) and len(node.values) > 1:
            parts = [part for part in node.values
                     if isinstance(part, ast.Constant) and "/" in str(part.value)]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield from ((name, node.lineno) for name in part.value.split("/"))


def test_no_other_module_puts_a_path_of_a_workspace_together():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        if path != LAYOUT:
            found += [f"{place}:{line}: {name}" for name, line in
                      joined(ast.parse(path.read_text()))
                      if name in NAMES and (place, name) not in ALLOWED]
    assert not found


@pytest.mark.parametrize("text", [
    'workspace / "runs" / name', 'f"{folder}/logs"', 'os.path.join(folder, "run.json")',
    'folder.joinpath("markers")', 'Path(folder, "config.json")', 'f"{workspace}/runs/{run}"'])
def test_the_search_finds_every_way_to_join(text):
    assert {name for name, _ in joined(ast.parse(text))} & NAMES


def test_a_workspace_as_it_has_always_been():
    places = Workspace(Path("/data/ws"))
    run, step = places.run("u-1"), places.run("u-1").step("train")
    artifact = places.artifact("train", "a1b2")
    shown = [places.runs, places.journal, places.local_job("12"), run.record, run.attempts,
             run.artifact("train"), run.local_state, step.config, step.script(), step.script(2),
             step.log("13_4"), step.log("12", "out"), step.markers, step.requeue_policy,
             artifact.config, artifact.result(3), artifact.scratch(3), artifact.summary]
    assert [str(path).removeprefix("/data/ws/") for path in shown] == [
        "runs", "ledger/journal", "local/jobs/12.json", "runs/u-1/run.json",
        "runs/u-1/attempts.jsonl", "runs/u-1/artifacts/train", "runs/u-1/local.json",
        "runs/u-1/steps/train/config.json", "runs/u-1/steps/train/script.sbatch",
        "runs/u-1/steps/train/script-2.sbatch", "runs/u-1/steps/train/logs/13_4_0_log.err",
        "runs/u-1/steps/train/logs/12_0_log.out", "runs/u-1/steps/train/markers",
        "runs/u-1/steps/train/heal.json", "artifacts/train/a1b2/config.json",
        "artifacts/train/a1b2/0003/result.json", "artifacts/train/a1b2/.work/0003",
        "artifacts/train/a1b2/summary.json"]


def test_a_folder_knows_what_it_belongs_to():
    step = Workspace("/data/ws").run("u-1").step("train")
    assert StepFolder.of_config(step.config) == step
    assert StepFolder.of_config(Path("/elsewhere/config.json")) is None
    assert (step.run.name, step.name) == ("u-1", "train")
    assert Workspace("/data/ws").artifact("fit", "a1").workspace == Workspace("/data/ws")
    assert ArtifactFolder("/elsewhere/fit").workspace is None


def test_a_folder_stands_for_its_path(tmp_path):
    folder = Workspace(tmp_path).run("u-1")
    Path(folder).mkdir(parents=True)
    assert folder.path.is_dir() and str(folder) == f"{tmp_path}/runs/u-1"
