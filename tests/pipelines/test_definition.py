from pathlib import Path

import pytest

from l3hpc import steps
from l3hpc.config import sources
from l3hpc.errors import InputError
from l3hpc.pipelines import definition
from l3hpc.pipelines.options import OPTIONS


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("jobs").mkdir()


def write(text, name="mine"):
    Path(f"jobs/{name}.yaml").write_text(text)


def refusal(text):
    write(text)
    with pytest.raises(InputError) as error:
        definition.load_pipeline("mine")
    return error.value


def test_the_delivered_ones_are_valid_and_ordered():
    assert set(sources.pipelines()) >= {"upstream", "downstream", "all", "us8k", "esc50"}
    assert list(definition.load_pipeline("upstream").steps) == [
        "extract", "sample", "fit", "reduce", "train"]
    assert list(definition.load_pipeline("downstream").steps) == ["embed", "classify", "evaluate"]
    assert list(definition.load_pipeline("all").steps) == list(steps.BUILT_IN[:8])
    for name in ("us8k", "esc50"):
        assert list(definition.load_pipeline(name).steps) == ["embed", "folds", "score"]


def test_all_connects_the_halves():
    found = definition.load_pipeline("all")
    assert found.steps["embed"].needs == ("train",) and found.steps["embed"].given == ()
    assert found.steps["train"].params == definition.load_pipeline("upstream").steps["train"].params
    assert found.options["emb-dim"] == ("fit.emb_dim", "train.emb_dim")
    assert found.options["level"] == ("classify.level",)


def test_every_option_is_offered_by_a_delivered_pipeline():
    offered = {option for name in ("all", "downstream", "clips", "esc50", "compress")
               for option in definition.load_pipeline(name).options}
    assert offered == set(OPTIONS)


def test_an_empty_list_removes_an_included_option():
    """us8k and esc50 are clips with a table of their own."""
    write("include: upstream\noptions: {asr: []}\n", "narrow")
    options = definition.load_pipeline("narrow").options
    assert set(definition.load_pipeline("upstream").options) - set(options) == {"asr"}
    clips, us8k = (definition.load_pipeline(name) for name in ("clips", "us8k"))
    assert list(us8k.steps) == list(clips.steps) and list(us8k.options) == ["learner", "features"]


def test_a_persons_own_comes_first():
    write("steps: {extract: {params: {hop: 0.25}}}\n", "upstream")
    found = definition.load_pipeline("upstream")
    assert list(found.steps) == ["extract"] and found.steps["extract"].params == {"hop": 0.25}


def test_include_and_change():
    write("include: upstream\nsteps:\n  train:\n    params: {epochs: 5}\n"
          "    resources: {mem: 2GB}\n")
    train = definition.load_pipeline("mine").steps["train"]
    assert train.params == {"epochs": 5} and train.needs == ("extract", "reduce")
    assert train.resources.mem == 2048 and train.resources.cpus == 4


def test_order_follows_needs_not_the_file():
    write("steps:\n  fit: {needs: sample}\n  sample: {needs: extract}\n  extract:\n")
    assert list(definition.load_pipeline("mine").steps) == ["extract", "sample", "fit"]


def test_two_steps_of_one_kind():
    write("include: upstream\nsteps:\n  small: {kind: train, needs: [extract, reduce], "
          "params: {emb_dim: 128}}\n")
    found = definition.load_pipeline("mine")
    assert found.steps["small"].kind == "train" and list(found.steps)[-1] == "small"


@pytest.mark.parametrize(("text", "where", "words"), [
    ("steps:\n  extarct:\n", "jobs/mine.yaml:2",
     ["unknown step 'extarct'", "did you mean 'extract'?", "needs kind:"]),
    ("steps:\n  x: {kind: extarct}\n", "jobs/mine.yaml:2", ["did you mean 'extract'?"]),
    ("steps:\n  extract:\n    params:\n      hop: 1\n      wieghts: x\n", "jobs/mine.yaml:5",
     ["extract has no parameter 'wieghts'", "did you mean 'weights'?"]),
    ("steps:\n  extract:\n    params:\n      mem: 4GB\n", "jobs/mine.yaml:4",
     ["no parameter 'mem'", "resources:"]),
    ("steps:\n  extract:\n  sample:\n    needs: extrct\n", "jobs/mine.yaml:4",
     ["sample needs 'extrct'", "did you mean 'extract'?"]),
    ("steps:\n  sample:\n    params: {}\n", "jobs/mine.yaml:2",
     ["sample is missing its input 'extract'", "needs: [extract]", "given: [extract]"]),
    ("steps:\n  extract:\n  fit:\n    needs: extract\n", "jobs/mine.yaml:4",
     ["fit cannot use the output of 'extract'", "valid: sample"]),
    ("steps:\n  extract: {}\n  other: {kind: extract}\n  sample:\n    needs: [extract, other]\n",
     "jobs/mine.yaml:5", ["takes one extract"]),
    ("steps:\n  extract:\n    memory: 3\n", "jobs/mine.yaml:3", ["unknown key 'memory'", "params"]),
    ("steps:\n  extract:\n    resources:\n      cpu: 3\n", "jobs/mine.yaml:4",
     ["unknown key 'cpu' in steps.extract.resources", "did you mean 'cpus'?"]),
    ("steps:\n  extract:\n    resources:\n      mem: 4\n", "jobs/mine.yaml:4",
     ["'4' is not an amount of memory"]),
    ("steps:\n  extract:\n  extract:\n", "jobs/mine.yaml:3:3", ["written twice"]),
    ("options:\n  arrs: train.asr\nsteps:\n  extract:\n", "jobs/mine.yaml:2",
     ["unknown option 'arrs'", "asr"]),
    ("options:\n  asr: train.asr\nsteps:\n  extract:\n", "jobs/mine.yaml:2",
     ["'train.asr' is not a step.parameter of this pipeline", "valid: extract"]),
    ("options:\n  asr: extract.asr\nsteps:\n  extract:\n", "jobs/mine.yaml:2",
     ["extract has no parameter 'asr'"]),
    ("include: upstraem\n", "jobs/mine.yaml:1", ["there is no pipeline 'upstraem'", "'upstream'"]),
    ("include: mine\n", "jobs/mine.yaml:1", ["include each other: mine → mine"]),
    ("description: empty\n", "jobs/mine.yaml:1", ["at least one step"]),
    ("steps:\n  embed: {given: trian}\n", "jobs/mine.yaml:2",
     ["embed has no input 'trian'", "'train'"]),
    ("steps:\n  extract: {unless: {fit.approx: none}}\n", "jobs/mine.yaml:2",
     ["unless of extract"]),
    ("steps:\n  \"a b\": {kind: extract}\n", "jobs/mine.yaml:2", ["not a name"]),
    ("steps:\n  ../x: {kind: extract}\n", "jobs/mine.yaml:2",
     ["'../x' is not a valid name of a step"]),
    ("steps:\n  a.b: {kind: extract}\n", "jobs/mine.yaml:2",
     ["'a.b' is not a valid name of a step"]),
    ("include: upstream\nsteps:\n  extract:\n    needs: train\n", "jobs/mine.yaml:4",
     ["circular dependency between steps: extract → train → extract"]),
    ("steps:\n  fit: {given: sample}\n  extract:\n    needs: fit\n", "jobs/mine.yaml:4",
     ["extract cannot use the output of 'fit'", "extract takes no input"]),
])
def test_refusals_name_the_place_and_the_valid(text, where, words):
    error = refusal(text)
    assert error.where == where
    for word in words:
        assert word in str(error)


def test_an_unknown_pipeline():
    with pytest.raises(InputError, match="there is no pipeline 'upstram'") as error:
        definition.load_pipeline("upstram")
    assert "did you mean 'upstream'?" in str(error.value)
