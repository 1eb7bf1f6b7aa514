"""Steps by name: fingerprints of earlier versions, and what a name may not do."""

import ast
import sys
from pathlib import Path

import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.pipelines import planned
from l3hpc.steps.base import Params
from l3hpc.steps.networks import is_noted

# computed before steps were classes: artifacts of that time must be found again
FINGERPRINTS = {
    "extract": "793544dfd1003302",
    "sample": "2d9d6c81ef0f605a",
    "fit": "265cd1e322c9f2b6",
    "reduce": "3fc6bc0ca275a96a",
    "train": "e64b2896d118ff71",
    "embed": "b0bea01e89857548",
    "classify": "6f45f6bbc58e953b",
    "evaluate": "93451b0c4413846e",
    "folds": "5a15cedb6cd91b38",
    "score": "94f4fbfefb96c05f",
    "avc_pairs": "99e0c40d0867f914",
    "avc_train": "a19e1a0fa908a79b",
    "sensitivity": "58ddf7f0f7ad2a71",
    "prune": "9c613add8477fa71",
    "distill": "00e500d073f6a481",
    "finetune": "4df6a6fcb3ad19cc",
    "compare": "70edb86946b8c5b9",
    "shell": "7d293de64cfbedb0",
    "python": "4bd571284850d001",
}
REQUIRED = {"extract": {"audio": "/audio"}, "folds": {"clips": "/clips"},
            "sensitivity": {"audio": "/audio"}, "compare": {"audio": "/audio"},
            "shell": {"command": "true"}, "python": {"function": "m:f", "source": "0" * 32}}


@pytest.mark.parametrize("name", steps.BUILT_IN)
def test_artifacts_of_earlier_versions_are_found_again(name):
    step = steps.step(name)
    params = step.params_type(**REQUIRED.get(name, {})).model_dump(mode="json")
    inputs = dict.fromkeys(step.inputs, "0123456789abcdef")
    assert planned.fingerprint_of_step(step, params, inputs, {}, [{}]) == FINGERPRINTS[name]


def numbers(schema, defined=()):
    """The numbers of a parameter, also those of lists and of several types, with the limits."""
    limits = {name: schema[name] for name in schema if "inimum" in name or "aximum" in name}
    if schema.get("type") in ("integer", "number"):
        yield {*defined, *limits}
    for inner in [*schema.get("anyOf", ()), *filter(None, [schema.get("items")])]:
        yield from numbers(inner, limits)


@pytest.mark.parametrize("name", steps.BUILT_IN)
def test_every_number_has_limits(name):
    schema = steps.step(name).params_type.model_json_schema()["properties"]
    # filters: by the networks that they would make; each: up to MAX_TASKS
    for parameter in sorted(set(schema) - {"filters", "vision_filters", "each"}):
        for limits in numbers(schema[parameter]):
            assert limits & {"minimum", "exclusiveMinimum"}, parameter
            assert limits & {"maximum", "exclusiveMaximum"}, parameter


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 10**30])
def test_filters_that_no_machine_could_hold_are_refused(number):
    avc, plan = steps.step("avc_train"), {"avc_pairs": steps.step("avc_pairs").parse({})}
    for name in ("filters", "vision_filters"):
        with pytest.raises(InputError):
            avc.check(avc.parse({name: [number] * 8}), plan)


def test_a_phi_of_an_earlier_version_keeps_its_seed():
    """64 bits were allowed; only UMAP, which takes 32, could not use them."""
    fit = steps.step("fit")
    assert fit.parse({"seed": 2**40}).seed == 2**40
    assert fit.parse({"seed": 2**32 - 1, "approx": "umap"}).seed == 2**32 - 1
    with pytest.raises(ValueError, match="at most 2\\^32 - 1"):
        fit.parse({"seed": 2**32, "approx": "umap"})


def test_zero_has_no_sign_in_a_fingerprint():
    extract = steps.step("extract")
    values = extract.parse({"audio": "/audio", "min_seconds": -0.0}).all_values()
    assert str(values["min_seconds"]) == "0.0"


def test_parameters_of_later_versions_count_only_where_they_differ_from_their_default():
    class Later(Params):
        added = frozenset({"factor", "files"})
        old: int = 1
        factor: bool = False
        files: tuple[str, ...] | None = None

    assert Later().model_dump(mode="json") == {"old": 1}
    assert Later(factor=False, files=None).model_dump(mode="json") == {"old": 1}
    changed = Later(factor=True, files=("a",))
    assert changed.model_dump(mode="json") == {"old": 1, "factor": True, "files": ["a"]}
    assert Later(**changed.model_dump(mode="json")) == changed
    assert Later().all_values() == {"old": 1, "factor": False, "files": None}


@pytest.mark.parametrize("name", ["os", "base", "l3hpc.steps.base", "../x", "os:system", ""])
def test_a_name_that_is_not_registered_imports_nothing(name):
    with pytest.raises(InputError, match="unknown step"):
        steps.step(name)


# not the step but a part of a data set, a metric, an option, or the command of the same name
OTHER_MEANINGS = {"pipelines/from_options.py": {"train"}, "doctor/storage.py": {"train"},
                  "doctor/container.py": {"python"},
                  "cli/__init__.py": {"compare", "embed"}, "cli/embed.py": {"embed"},
                  "cli/compare.py": {"compare"}, "report/paired.py": {"compare"},
                  "report/collect.py": {"python"},
                  "pipelines/options.py": {"folds"}}


def test_planner_command_line_report_and_doctor_know_no_step_by_name():
    package = Path(steps.__file__).parents[1]
    found = {}
    for path in (path for name in ("pipelines", "cli", "report", "doctor")
                 for path in (package / name).rglob("*.py")):
        named = {node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Constant) and node.value in steps.BUILT_IN}
        if named:
            found[path.relative_to(package).as_posix()] = named
    assert found == OTHER_MEANINGS


def test_a_result_without_a_note_imports_nothing_that_reads_networks(monkeypatch):
    """As sample, fit and reduce end: numpy and the engines are a third of what such a job takes."""
    monkeypatch.setitem(sys.modules, "l3hpc.models.weights", None)
    assert not is_noted([{"rows": 3}, {"rows": 4, "note": None}])
    with pytest.raises(ImportError):
        is_noted([{"rows": 3}, {"note": "random"}])
