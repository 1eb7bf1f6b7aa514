"""--per-sensor: one reduction and student for every sensor, on one sample."""

import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.pipelines import from_options, sweep

from .test_plan import _corpus, build, prints, step  # noqa: F401

VALUES = {"audio_dir": "audio", "weights": "untrained", "per_sensor": True, "samples": 300}


def planned(pipeline="upstream", **values):
    return from_options.plan_from_options(pipeline, {**VALUES, **values})


def test_every_sensor_of_the_corpus_has_a_reduction_and_a_student():
    made, swept = planned()
    assert [item.name for item in made.steps] == [
        "extract", "sample", "fit-a", "reduce-a", "train-a", "fit-b", "reduce-b", "train-b"]
    assert swept.shared == ["extract", "sample"]
    assert step(made, "fit-b").shards == [{"sensor": "b", "tasks": [1]}]
    assert step(made, "fit-a").params["sensor"] == "a"
    assert made.options["grid"] == {"fit.sensor": ["a", "b"]}
    table = sweep.table(swept)
    assert "fit.sensor" in table and "shared: extract sample" in table
    both, _ = planned(grid=["emb-dim=8,16"], samples=64)
    assert len([item for item in both.steps if item.kind == "train"]) == 4


def test_without_a_sensor_fingerprints_are_those_of_earlier_versions():
    made = build()
    assert step(made, "fit").shards == [{}] and "sensor" not in step(made, "fit").params
    one = build(sets=["fit.sensor=a"])
    other = build(sets=["fit.sensor=b"])
    for name in ("extract", "sample"):
        assert prints(one)[name] == prints(made)[name]
    assert len({prints(each)["fit"] for each in (made, one, other)}) == 3


def test_what_cannot_work_is_refused_before_submission():
    with pytest.raises(InputError, match="there is no sensor 'A'") as caught:
        build(sets=["fit.sensor=A"])
    assert "a" in caught.value.allowed
    with pytest.raises(InputError, match="100 rows are sampled of each sensor, and 128") as caught:
        planned(samples=200)
    assert "fit.sensor=a" in str(caught.value) and "at least 256" in str(caught.value)
    with pytest.raises(InputError, match="--per-sensor has no effect: this run has no step fit"):
        planned(approx="none", samples=None)
    with pytest.raises(InputError, match="--per-sensor and a value of fit.sensor are both given"):
        planned(sets=["fit.sensor=a"])
    with pytest.raises(InputError, match="pipeline 'downstream' has no option --per-sensor"):
        planned("downstream", samples=None)
    with pytest.raises(InputError, match="it is a switch, without values"):
        planned(per_sensor=None, grid=["per-sensor=a,b"])
    with pytest.raises(InputError, match="'yes' is not a switch"):
        planned(per_sensor="yes")


@pytest.mark.parametrize("shards", [[], [{"sensor": None, "samples": 300, "parts": None}]])
def test_published_embeddings_do_not_say_which_sensor_they_are_from(shards):
    fit = steps.step("fit")
    with pytest.raises(InputError, match="do not say which sensor"):
        fit.shards(fit.params_type(sensor="a"), {"sample": shards})
