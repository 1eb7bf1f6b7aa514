"""A run that failed, whose artifacts a later run has computed."""

import json

import pytest
from fakeslurm import queue_line
from submitted import Case

import l3hpc
from l3hpc.cli import main
from l3hpc.report.run import of_run
from l3hpc.runs import display, notifications, resume, status, usage
from l3hpc.workspace import artifacts, origin, records

pytestmark = pytest.mark.slow
NAMES = ("extract", "sample", "fit")


@pytest.fixture
def late(chains, slurm, tmp_path):
    """``demo`` failed at task 1 of extract; ``later`` has computed the rest, with its jobs 2xx."""
    def finish(index, run):
        chain.finish("extract", index, run=run, elapsed_s=61.0, cpu_s=30.0,
                     environment={"job": "100" if run == "demo" else "200"})

    chain = Case(chains, slurm, tmp_path, names=NAMES, tasks={"extract": 2})
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    finish(0, "demo")
    chain.mark("extract", "1.begin", {"job": "100_1", "time": 1000})
    chain.mark("extract", "1.exit", {"code": 3, "time": 1030})
    chain.mark("extract", "1.error.json", {"type": "InputError", "message": "no rows",
                                           "exit_code": 2})
    assert chain.look()["extract"] == ("failed", "no rows, 1 of 2 tasks failed (task 1)")
    finish(1, "later")
    for name in NAMES[1:]:
        chain.finish(name, run="later", environment={"job": "201"})
    return chain


STATES = {"extract": ("failed", "no rows, 1 of 2 tasks failed (task 1) (since computed by later)"),
          "sample": ("blocked", "by extract (since computed by later)"),
          "fit": ("blocked", "by extract (since computed by later)")}


@pytest.mark.parametrize("summary", [False, True])
def test_it_stays_failed_everywhere_and_says_who_computed_it(late, summary):
    if summary:
        for step in late.made.steps:
            artifacts.leave_summary(step.artifact, len(step.shards), lambda several: "2 rows")
    assert late.look() == STATES
    assert late.run.state == "failed" and late.run.computed_by == ["later"]
    assert late.run.next == "l3hpc resume demo"
    assert late.run.to_json()["steps"][0]["computed_by"] == ["later"]
    assert late.step("extract").done == 2
    assert display.run_text(late.run).startswith(
        "demo   greene   failed (since computed by later), started ")
    data = of_run(late.workspace, "demo", late.workspace / "page.html")
    assert data.title == "fake: failed (since computed by later)"
    assert [one.step for one in data.problems] == list(NAMES)
    assert {span.kind for step in data.timeline for task in step.tasks
            for span in task.spans if task.task == 1} >= {"failed"}
    assert any(link.run == "later" and link.why.startswith("computed") for link in data.links)
    table = l3hpc.runs(late.workspace).frame()
    assert (table["state"]["demo"], table["computed_by"]["demo"]) == ("failed", "later")
    assert "failed (since computed by later)" in repr(l3hpc.run("demo", late.workspace))
    [extract] = usage.collect(late.workspace, "demo", accounting=False)
    assert (extract.name, extract.tasks) == ("extract", 1)
    title = notifications._ended(late.run, "failed").title
    assert title == "demo failed (since computed by later) on greene"


@pytest.mark.parametrize("names_run", [True, False])
def test_resume_has_nothing_to_compute_and_makes_it_done(late, monkeypatch, capsys, names_run):
    if not names_run:  # results of earlier versions: the job tells whose they are
        for step in late.made.steps:
            for path in step.artifact.glob("*/result.json"):
                value = json.loads(path.read_text())
                del value["run"]
                path.write_text(json.dumps(value))
    by = "later" if names_run else "another run"
    (late.workspace / "cluster.yaml").write_text("clusters: {greene: {executor: slurm}}\n")
    words = ["resume", "demo", "--workspace", str(late.workspace), "--config",
             str(late.workspace / "cluster.yaml")]
    submitted = len(late.slurm.calls("sbatch"))
    for more, end in (["--dry-run"], "demo would be done"), ([], "demo is done"):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert not ended.value.code
        assert (f"nothing left to compute (extract, sample, fit: since computed by {by}); {end}"
                ) in capsys.readouterr().out
    assert {name: state for name, (state, _) in late.look().items()} == dict.fromkeys(
        NAMES, "reused")
    assert (late.run.state, late.run.next, late.run.computed_by) == ("done", None, [])
    assert len(late.slurm.calls("sbatch")) == submitted


def test_resume_submits_the_rest_and_takes_over_what_is_there(late):
    (late.made.steps[2].artifact / "0000/result.json").unlink()
    assert late.look()["fit"] == ("blocked", "by extract")
    assert late.run.computed_by == []  # not everything is there
    resume.resume(late.workspace, "demo", late.profile)
    late.finish("fit", run="demo")
    assert {name: state for name, (state, _) in late.look().items()} == {
        "extract": "reused", "sample": "reused", "fit": "done"}
    assert late.run.state == "done"


def test_a_cancelled_run_is_done_after_resume(late):
    record = records.read(late.workspace, "demo")
    record.state = "cancelled"
    records.write(late.workspace, record)
    assert late.look()["extract"][0] == "failed"
    resume.resume(late.workspace, "demo", late.profile)
    late.look()
    assert late.run.state == "done"


@pytest.mark.parametrize(("code", "queue"), [(0, []), (None, [queue_line("100", "PENDING")])])
def test_what_another_run_did_meanwhile_is_done(chains, slurm, tmp_path, code, queue):
    """Its job found the result of the other run, or is still waiting to find it."""
    chain = Case(chains, slurm, tmp_path, names=("extract",))
    chain.queue(*queue)
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    if code is not None:
        chain.mark("extract", "0.exit", {"code": code, "time": 1030})
    chain.finish("extract", run="other")
    assert chain.look() == {"extract": ("done", "")}
    assert chain.run.state == "done" and chain.run.computed_by == []


def test_results_that_do_not_tell_their_run_are_found_by_their_job(late):
    step = records.read(late.workspace, "demo").steps[0]
    array = {"environment": {"job": "7", "array_job": "100"}}
    assert origin.is_own(array, "demo", step)
    assert not origin.is_own({"environment": {"job": "200", "array_job": None}}, "demo", step)
    assert origin.is_own({"environment": {"job": "200"}, "run": "demo"}, "demo", step)
    assert origin.runs_of(late.workspace, step.artifact) == ["demo", "later"]
    assert status.collect(late.workspace, ["demo"])[0].steps[0].computed_by == ["later"]
