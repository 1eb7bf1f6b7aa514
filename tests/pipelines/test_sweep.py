"""Sweeps: all combinations in one run, shared steps once."""

import datetime
import wave
from pathlib import Path

import pytest

from l3hpc.config import settings
from l3hpc.errors import InputError
from l3hpc.pipelines import plan, preview, sweep
from l3hpc.runs import display, status
from l3hpc.runs.status import RunStatus
from l3hpc.runs.step_status import StepStatus
from l3hpc.workspace.states import RunState, StepState

DATE = datetime.date(2026, 11, 20)


@pytest.fixture(autouse=True)
def _corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("audio/a").mkdir(parents=True)
    with wave.open("audio/a/0.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def configuration():
    return settings.load(environ={}, overrides={
        "paths.audio": ("audio", "--audio"), "paths.weights": ("untrained", "--weights")})


def build(*grid, pipeline="upstream", **request):
    return sweep.build(pipeline, configuration(), plan.Request(**request), sweep.parse_grid(grid),
                       date=DATE, user="you")


def single(**options):
    made = plan.build("upstream", configuration(), plan.Request(
        options={name.replace("_", "-"): value for name, value in options.items()}))
    return {step.kind: step for step in made.steps}


def test_what_combinations_share_is_one_step():
    made = build("emb-dim=64,128", "sampling=dpp,random")
    assert [step.name for step in made.plan.steps] == [
        "extract", "sample-dpp", "fit-64-dpp", "reduce-64-dpp", "train-64-dpp",
        "sample-random", "fit-64-random", "reduce-64-random", "train-64-random",
        "fit-128-dpp", "reduce-128-dpp", "train-128-dpp",
        "fit-128-random", "reduce-128-random", "train-128-random"]
    assert made.shared == ["extract", "sample-dpp", "sample-random"]
    by_name = {step.name: step for step in made.plan.steps}
    assert by_name["fit-128-random"].needs == ("sample-random",)
    assert by_name["train-128-dpp"].needs == ("extract", "reduce-128-dpp")


def test_each_combination_is_what_it_would_be_alone():
    made = build("emb-dim=64,128", "sampling=dpp,random")
    by_name = {step.name: step for step in made.plan.steps}
    for chosen, names in made.combinations:
        alone = single(emb_dim=int(chosen["emb-dim"]), sampling=chosen["sampling"])
        for base, name in names.items():
            assert by_name[name].fingerprint == alone[base].fingerprint
            assert by_name[name].artifact == alone[base].artifact


def test_every_combination_has_a_row_of_its_own():
    made = build("emb-dim=64,128")
    trained = [step for step in made.plan.steps if step.kind == "train"]
    keys = [step.labels["model_dir"] for step in trained]
    assert keys == [str(made.plan.folder.artifact(step.name)) for step in trained]
    assert len(set(keys)) == 2


def test_any_parameter_can_be_swept():
    made = build("train.seed=1,2", "train.schedule=plateau,cosine")
    assert [name["train"] for _, name in made.combinations] == [
        "train-1-plateau", "train-1-cosine", "train-2-plateau", "train-2-cosine"]
    seeds = [step.params["seed"] for step in made.plan.steps if step.kind == "train"]
    assert seeds == [1, 1, 2, 2]


def test_values_that_make_no_difference_share_everything():
    made = build("train.audio_dir=audio,./audio")
    assert len([step for step in made.plan.steps if step.kind == "train"]) == 1
    assert len(made.combinations) == 2


def test_names_stay_names():
    made = build("learning-rate=1e-3,0.00005", "train.timezone=America/New_York,UTC")
    names = [step.name for step in made.plan.steps if step.kind == "train"]
    assert names == ["train-1e_3-America_New_York", "train-1e_3-UTC",
                     "train-0_00005-America_New_York", "train-0_00005-UTC"]


@pytest.mark.parametrize(("grid", "words"), [
    (["emb-dim"], "is not OPTION=VALUE,VALUE"),
    (["emb-dim=64,"], "is not OPTION=VALUE,VALUE"),
    (["emb-dim=64,64"], "lists the same value twice"),
    (["emb-dim=64", "emb-dim=128"], "given twice"),
    (["emb-dimm=64,128"], "unknown option 'emb-dimm'"),
    (["filters=1,2"], "contain commas"),
    (["emb-dim=64,many"], "'many' is not a number"),
    (["sampling=dpp,best"], "'best' is not an allowed value"),
    (["emb-dim=64,9999"], "emb-dim=9999: --emb-dim 9999 is more than the teacher's 512"),
    (["seed=" + ",".join(map(str, range(40))), "train.seed=" + ",".join(map(str, range(40)))],
     "1,600 combinations"),
    (["train.nothing=1,2"], "nothing"),
])
def test_refusals(grid, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        build(*grid)


def test_an_option_is_not_given_twice():
    with pytest.raises(InputError, match="--emb-dim and --grid emb-dim are both given"):
        build("emb-dim=64,128", options={"emb-dim": 64})


def test_the_table_says_what_is_shared():
    lines = sweep.table(build("emb-dim=64,128", "sampling=dpp,random")).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["emb-dim", "sampling", "own", "steps", "state"],
        ["64", "dpp", "fit-64-dpp", "reduce-64-dpp", "train-64-dpp", "3", "of", "3", "to", "run"]]
    assert lines[-1].strip() == "4 combinations; shared: extract sample-dpp sample-random"
    assert "fit-128-random:" in preview.as_text(build("emb-dim=64,128", "sampling=dpp,random").plan)


def test_many_steps_of_a_combination_are_shortened(monkeypatch):
    monkeypatch.setattr(sweep, "LONGEST_STEPS", 20)
    lines = sweep.table(build("emb-dim=64,128", "sampling=dpp,random")).splitlines()
    assert lines[1].split()[2:5] == ["fit-64-dpp", "…", "train-64-dpp"]


def test_a_switch_can_be_swept_and_left_to_its_recipe():
    assert sweep._typed("metadata", "true") is True and sweep._typed("metadata", "false") is False
    with pytest.raises(InputError, match="'yes' is not an allowed value"):
        sweep._typed("metadata", "yes")


def test_status_groups_by_combination_and_ends_with_their_results():
    def one(name, state, detail=""):
        return StepStatus(name, name.partition("-")[0], "1", StepState(state), 0, 1, detail=detail)

    steps = [one("extract", "done", "3 rows"), one("train-64", "reused", "2 epochs, loss 0.5"),
             one("train-128", "running", "3/9"), one("train-256", "failed", "no memory")]
    found = status._combinations([{"values": {"emb-dim": dim}, "steps": {
        "extract": "extract", "train": f"train-{dim}"}} for dim in ("64", "128", "256")], steps)
    shown = RunStatus("s", "upstream", "local", RunState.FAILED, 0.0, steps,
                      next="l3hpc resume s", combinations=found)
    finished = RunStatus("s", "upstream", "local", RunState.DONE, 0.0, steps[:2],
                         combinations=found[:1])
    assert "elapsed" not in display.run_text(finished)  # no header of a table without rows
    lines = display.run_text(shown).splitlines()
    assert [line.split()[0] for line in lines[2:-5]] == [
        "extract", "emb-dim=128", "train-128", "emb-dim=256", "train-256", "next:"]
    assert lines[-5:] == ["  1 of 3 combinations done",
                          "  emb-dim  state    result",
                          "  64       done     2 epochs, loss 0.5",
                          "  128      running  –",
                          "  256      failed   –"]
    short = display.run_text(shown, most=1).splitlines()
    assert short[:-3] == lines[:-4]
    assert short[-1] == "  and 2 more: l3hpc status s"


@pytest.mark.slow
def test_a_sweep_runs_to_its_end_and_shares(chains, tmp_path, monkeypatch):
    """The run of a sweep is an ordinary run: its record tells the combinations."""
    from l3hpc.runs import submit

    made = chains.plan(tmp_path, names=("extract", "sample"))
    made = type(made)(**{**vars(made), "options": {"combinations": [
        {"values": {"x": "1"}, "steps": {"extract": "extract", "sample": "sample"}}]}})
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert found.combinations[0].values == {"x": "1"}
    assert found.to_json()["combinations"] == [
        {"values": {"x": "1"}, "steps": {"extract": "extract", "sample": "sample"},
         "state": found.steps[1].state, "result": found.steps[1].detail}]
