"""The report of runs that failed, reuse results of others, or have names and logs that attack."""

import os
import re

import pytest
from submitted import Case

from l3hpc.errors import ClusterError, InputError
from l3hpc.io.files import write_json
from l3hpc.report.data import Changed, ReportData
from l3hpc.report.page import changed_table, page
from l3hpc.report.run import of_run, typed, write
from l3hpc.runs import submit
from l3hpc.steps import step
from l3hpc.workspace import records

ATTACK = "</script><script>alert(1)</script><!-- \x1b[31mred\x1b[0m\rredrawn"


@pytest.fixture
def failed(chains, slurm, tmp_path):
    """A chain whose second step failed."""
    case = Case(chains, slurm, tmp_path / "ws", names=("extract", "sample", "fit"))
    case.finish("extract")
    case.mark("sample", "0.begin", {"job": "101", "time": "1000.0"})
    case.mark("sample", "0.exit", {"code": "3", "time": "1060.0"})
    case.mark("sample", "0.error.json", {"type": "InputError", "exit_code": 2,
                                         "message": "no rows </pre><b>", "hint": "add some"})
    case.made.step_folder("sample").log("101").write_text(f"line one\n{ATTACK}\n")
    return case


def test_a_failed_run_says_what_went_wrong_and_shows_log_and_script(failed):
    path, data = write(failed.workspace, "demo")
    assert path == failed.workspace / "runs/demo/report.html"
    first, second = data.problems
    assert (first.step, first.state, first.detail) == ("sample", "failed", "no rows </pre><b>")
    assert (second.step, second.state, second.detail) == ("fit", "blocked", "by sample")
    sample = next(one for one in data.files if one.step == "sample")
    assert sample.script == failed.made.step_folder("sample").script().read_text()
    assert sample.command.startswith("l3hpc run sample --config ")
    assert sample.log.splitlines()[0] == "line one" and "redrawn" in sample.log
    assert "\x1b" not in sample.log and "[31m" not in sample.log
    text = path.read_text()
    assert "<script" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    # each of its words stands in an element of its own
    assert data.next_command in re.sub("</?span>", "", text)


def test_the_same_run_gives_the_same_page(failed):
    first = write(failed.workspace, "demo")[0].read_bytes()
    assert write(failed.workspace, "demo")[0].read_bytes() == first


def test_other_files_are_not_replaced(failed, tmp_path):
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<h1>Dear reader of an l3hpc report</h1>")
    os.mkfifo(tmp_path / "pipe.html")
    for target in (thesis, tmp_path, tmp_path / "pipe.html"):
        with pytest.raises(InputError, match="is not a report|is a folder|not a regular file"):
            write(failed.workspace, "demo", target)
    assert thesis.read_text() == "<h1>Dear reader of an l3hpc report</h1>"


def test_parameters_that_differ_stand_beside_their_defaults(chains, slurm, tmp_path):
    case = Case(chains, slurm, tmp_path, names=("fit",), params={"fit": {
        "emb_dim": 64, "approx": "pca", "unknown": 1}})
    (changed,) = of_run(case.workspace, "demo", tmp_path / "x.html").changed
    assert (changed.step, changed.name, changed.value) == ("fit", "emb_dim", "64")
    assert changed.default == str(step("fit").params_type.model_fields["emb_dim"].default)


def test_a_parameter_without_a_default_says_none(chains, slurm, tmp_path):
    case = Case(chains, slurm, tmp_path, names=("train",), params={"train": {"filters": [8]}})
    (changed,) = of_run(case.workspace, "demo", tmp_path / "x.html").changed
    assert (changed.name, changed.value, changed.default) == ("filters", "[8]", "none")


def test_what_has_no_default_has_a_dash_in_its_place():
    """As the command of a step of one's own, and what its file declares."""
    found = ReportData("demo", changed=(Changed("peaks", "silence", "100"),
                                        Changed("train", "filters", "[8]", "none")))
    assert [row[2:] for row in changed_table(found).rows] == [("100", "–"), ("[8]", "none")]


@pytest.mark.parametrize(("typed_words", "shown"), [
    (["/opt/env/bin/l3hpc", "submit", "a b"], "l3hpc submit 'a b'"),
    (["/opt/l3hpc/__main__.py", "status"], "l3hpc status"),
    (["/home/you/sweep.py", "x"], "/home/you/sweep.py x")])
def test_the_command_as_it_was_typed(typed_words, shown, chains, slurm, tmp_path):
    case = Case(chains, slurm, tmp_path, names=("fit",))
    record = records.read(case.workspace, "demo")
    record.command = typed_words
    records.write(case.workspace, record)
    told = dict(of_run(case.workspace, "demo", tmp_path / "x.html").provenance)
    assert (told["command"], told["options"]) == (shown, "none")


def test_reused_results_link_to_the_report_of_their_run(failed, chains):
    write(failed.workspace, "demo")
    again = chains.plan(failed.workspace, "again", names=("extract",), on=failed.profile)
    submit.submit(again)
    target = failed.workspace / "runs/again/report.html"
    (link,) = of_run(failed.workspace, "again", target).links
    assert (link.run, link.why, link.address) == ("demo", "computed extract",
                                                  "../demo/report.html")
    assert '<a href="../demo/report.html">demo</a>' in page(
        of_run(failed.workspace, "again", target))
    config = again.steps[0].artifact / "config.json"
    write_json(config, {"run": "../../etc", "params": {}})
    assert of_run(failed.workspace, "again", target).links[0].address == ""


def test_values_that_a_recipe_sets_are_no_defaults(chains, slurm, tmp_path):
    params = step("classify").parse({"recipe": "dcase2020"}).model_dump(mode="json")
    assert "metadata" not in params
    case = Case(chains, slurm, tmp_path, names=("classify",), params={"classify": params})
    changed = {one.name: one.value for one in
               of_run(case.workspace, "demo", tmp_path / "x.html").changed}
    assert (changed["metadata"], changed["targets"], changed["autopool_constraint"]) == (
        "true", "volunteers", "false")


def test_options_read_as_one_would_type_them():
    options = {"emb-dim": 8, "filters": [4, 8], "set": ["fit.seed=1", "a.b=2"],
               "grid": {"mels": ["64", "128"]}, "combinations": [{"values": {}, "steps": {}}]}
    assert typed(options) == ("--emb-dim 8 --filters 4,8 --set fit.seed=1 --set a.b=2 "
                              "--grid mels=64,128")


def test_secrets_of_the_profile_stay_out_of_the_page(chains, slurm, tmp_path):
    on = chains.profile(name="greene", executor="slurm", slots={}, env={
        "PYTHONPATH": "/fakes", "WANDB_API_KEY": "s3cret-one", "MY_PASSWORD": "s3cret 'two'"},
        setup=["export hf_token=s3cret-three"])
    case = Case(chains, slurm, tmp_path, names=("extract",), profile=on)
    assert "s3cret" in case.made.step_folder("extract").script().read_text()
    text = write(tmp_path, "demo")[0].read_text()
    assert "s3cret" not in text and "PYTHONPATH=/fakes" in text
    assert text.count("(hidden)") == 3


def test_a_refused_run_says_why(chains, slurm, tmp_path):
    slurm.says("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(ClusterError):
        Case(chains, slurm, tmp_path, names=("extract",))
    path, data = write(tmp_path, "demo")
    assert data.state == "refused" and "invalid account" in data.remarks[0]
    assert "invalid account" in path.read_text()


def test_a_place_where_one_may_not_write_names_the_option(failed, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("l3hpc.report.run.write_text", refuse)
    with pytest.raises(InputError, match="you may not write there") as refused:
        write(failed.workspace, "demo")
    assert "-o FILE" in refused.value.hint
