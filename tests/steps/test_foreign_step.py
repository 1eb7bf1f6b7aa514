"""A step of a stranger's package: the example of ``docs/steps/your-own.md``, and broken ones."""

import json
import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from l3hpc.steps import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/steps/your-own.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w./-]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def install(folder, entry_points, package="sea-steps"):
    """What pip leaves: a dist-info folder with the entry points that a package registers."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[l3hpc.steps]\n{entry_points}\n")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the path of Python; ours is looked through again before and after."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    registry._search.cache_clear()
    registry.step.cache_clear()
    yield folder
    registry._search.cache_clear()
    registry.step.cache_clear()
    for name in [name for name, module in sys.modules.items()
                 if str(getattr(module, "__file__", "")).startswith(str(folder))]:
        del sys.modules[name]


@pytest.fixture
def place(tmp_path):
    """A working folder and an installed package as the page describes them."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "sea_steps.py").write_text(FILES["sea_steps.py"])
    (entry,) = re.findall(r'^length = "(.*)"$', FILES["pyproject.toml"], re.MULTILINE)
    install(packages, f"length = {entry}")
    folder = tmp_path / "work"
    (folder / "jobs").mkdir(parents=True)
    (folder / "recordings").mkdir()
    (folder / "cluster.yaml").write_text("cluster: local\n")
    (folder / "jobs/lengths.yaml").write_text(FILES["jobs/lengths.yaml"])
    for number in range(2):
        with wave.open(str(folder / f"recordings/{number}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000 * (number + 1)))
    return folder


def l3hpc(place, *words):
    """The command as a process of its own; its exit code and what it printed."""
    path = os.pathsep.join([str(place.parent / "packages"), str(ROOT)])
    done = subprocess.run([sys.executable, "-m", "l3hpc", *words], cwd=place, text=True,
                          capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"})
    return done.returncode, done.stdout + done.stderr


def test_the_step_of_the_page_works_from_rendering_to_results(place):
    code, out = l3hpc(place, "render", "lengths", "length")
    assert code == 0, out
    code, out = l3hpc(place, "submit", "lengths")
    assert code == 0, out
    code, out = l3hpc(place, "status", "latest")
    assert code == 0 and "length" in out and "done" in out and "3.0 s of sound" in out, out
    (result,) = place.glob("workspace/artifacts/length/*/0001/length.json")
    assert json.loads(result.read_text()) == {"1.wav": 2.0}
    code, out = l3hpc(place, "submit", "lengths")
    assert code == 0 and "nothing to compute" in out, out


def test_a_step_is_refused_where_its_package_is_not_installed(place):
    (place.parent / "packages/sea_steps-1.0.dist-info/entry_points.txt").unlink()
    code, out = l3hpc(place, "render", "lengths")
    assert code == 2 and "length" in out and "Traceback" not in out, out


def test_a_frozen_configuration_cannot_name_a_module(place, tmp_path):
    trap = place.parent / "packages/trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    assert l3hpc(place, "submit", "lengths")[0] == 0
    (config,) = place.glob("workspace/runs/*/steps/length/config.json")
    frozen = json.loads(config.read_text())
    for done in place.glob("workspace/artifacts/length/*/0*"):
        shutil.rmtree(done)
    for name in ("trap", "trap:Length", "sea_steps:Length"):
        config.write_text(json.dumps({**frozen, "step": name}))
        code, out = l3hpc(place, "run", name, "--config", str(config), "--task", "0")
        assert code == 2 and "unknown step" in out, out
    assert not (tmp_path / "sprung").exists()


HALF = """from l3hpc.steps import Params, Step
class One(Step[Params]):
    name = "one"
    def run(self, params, task):
        return {}
"""
WHOLE = f"""{HALF}
    title, params_type = "one thing", Params
"""
DEEP = """from l3hpc.steps import Params, ReportItem, Step
class Deep(Step[Params]):
    name, title, params_type = "deep", "a network", Params
    report_items, kept_files = frozenset({ReportItem.TRAINING}), ("history.csv",)
    def run(self, params, task):
        return {}
"""
BROKEN = {
    "own name": ("train = bad:One", WHOLE, "train", "the name of a step of l3hpc"),
    "import": ("one = bad:One", "import nowhere_to_be_found", "one", "ModuleNotFoundError"),
    "raises": ("one = bad:One", "raise RuntimeError('boom')", "one", "RuntimeError: boom"),
    "exits": ("one = bad:One", "raise SystemExit(0)", "one", "SystemExit: 0"),
    "leaves": ("one = bad:One", "class Gone(BaseException): pass\nraise Gone('boom')", "one",
               "Gone: boom"),
    "attribute": ("one = bad:Two", WHOLE, "one", "AttributeError"),
    "no step": ("one = bad:One", "class One:\n    name = 'one'", "one", "is not a step"),
    "misnamed": ("two = bad:One", WHOLE, "two", "has the name 'one'"),
    "half": ("one = bad:One", HALF, "one", "has no attribute 'title'"),
    "path": ("../one = bad:One", WHOLE, "../one", "not a valid name of a step"),
    "no run": ("one = bad:One", WHOLE.replace("def run", "def walk"), "one", "abstract method run"),
    "tab": ("one = bad:One", WHOLE + "    tab = 'embeding'\n", "one", "'distillation'"),
    "tab's type": ("one = bad:One", WHOLE + "    tab = 3\n", "one", "bad:One.tab is 3"),
    "inputs": ("one = bad:One", WHOLE + "    inputs = ['extract']\n", "one",
               "bad:One.inputs is ['extract']"),
    "version": ("one = bad:One", WHOLE + "    version = '2'\n", "one", "valid integer"),
    "params": ("one = bad:One", WHOLE + "    params_type = dict\n", "one", "subclass of Params"),
    "former name": ("one = bad:One", WHOLE + "    findings = frozenset()\n", "one",
                    "bad:One.findings is now called 'report_items'"),
    "files": ("one = bad:One", WHOLE + "    kept_files = 'history.csv'\n", "one", "valid tuple"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_broken_package_is_named_and_harms_no_other_step(packages, why):
    entry, text, name, message = BROKEN[why]
    (packages / "bad.py").write_text(text)
    install(packages, entry, "bad-steps")
    assert registry.foreign() == {name: "bad-steps 1.0"}
    (problem,) = registry.problems()
    assert message in str(problem) and "bad-steps 1.0" in str(problem)
    if name not in registry.BUILT_IN:
        with pytest.raises(registry.InputError, match=re.escape(message)):
            registry.step(name)
    assert type(registry.step("train")).__module__ == "l3hpc.steps.train"


def test_a_package_without_metadata_is_named_by_its_folder(packages):
    (packages / "bad.py").write_text("raise RuntimeError('boom')")
    install(packages, "one = bad:One", "bad-steps")
    (packages / "bad_steps-1.0.dist-info/METADATA").unlink()
    registry._search.cache_clear()
    (problem,) = registry.problems()
    assert "bad_steps-1.0.dist-info" in problem.where and "None" not in str(problem)


CALLS = {
    "parse": lambda step: step.parse({}),
    "implied": lambda step: step.implied((), {}, None),
    "check": lambda step: step.check(None, {}),
    "check_embeddings": lambda step: step.check_embeddings(None, "", (), None, lambda key: None),
    "packages": lambda step: step.packages(None),
    "describe": lambda step: step.describe(None, {}),
    "shards": lambda step: step.shards(None, {}),
    "digests": lambda step: step.digests(None),
    "summary": lambda step: step.summary([]),
    "networks": lambda step: step.networks({}, []),
}


def broken(packages, method, line):
    """A step of a package of which one method is wrong."""
    (packages / "bad.py").write_text(
        f"{WHOLE}    def {method}(self, *args):\n        {line}\n")
    install(packages, "one = bad:One", "bad-steps")
    registry._search.cache_clear()
    return registry.step("one")


@pytest.mark.parametrize("line", ["raise KeyError('boom')", "raise SystemExit(0)"])
@pytest.mark.parametrize("method", CALLS)
def test_a_method_that_fails_names_its_package(packages, method, line):
    step = broken(packages, method, line)
    with pytest.raises(registry.InputError, match=f"{method} raised (KeyError|SystemExit)") as it:
        CALLS[method](step)
    assert it.value.where == "bad-steps 1.0, step 'one'"


@pytest.mark.parametrize("method", [name for name in CALLS if not name.startswith("check")])
def test_a_method_that_returns_another_type_names_its_package(packages, method):
    step = broken(packages, method, "return 3")
    with pytest.raises(registry.InputError, match=f"{method} returned 3") as it:
        CALLS[method](step)
    assert it.value.where == "bad-steps 1.0, step 'one'"


def test_a_refusal_and_an_interrupt_of_a_method_stay_what_they_are(packages):
    step = broken(packages, "check", "from l3hpc.errors import InputError\n"
                  "        raise InputError('no such folder', where='one.audio')")
    with pytest.raises(registry.InputError, match="no such folder") as it:
        step.check(None, {})
    assert it.value.where == "one.audio"


@pytest.mark.parametrize(("method", "error"), [("parse", "ValidationError"),
                                               ("check", "InputError")])
def test_only_validation_may_raise_what_pydantic_raises(packages, method, error):
    step = broken(packages, method, "Params.model_validate({'unknown': 1})")
    with pytest.raises(ValueError) as it:
        CALLS[method](step)
    assert type(it.value).__name__ == error


def test_exit_in_run_is_an_error_but_not_that_of_a_requeue(packages):
    from l3hpc.errors import L3hpcError

    step = broken(packages, "run", "raise SystemExit(args[0])")
    with pytest.raises(L3hpcError, match="run raised SystemExit") as it:
        step.run(0, None)
    assert it.value.where == "bad-steps 1.0, step 'one'"
    with pytest.raises(SystemExit):
        step.run(85, None)


def test_the_tabs_that_a_step_may_name_are_those_of_the_ledger():
    from typing import get_args

    from l3hpc.ledger.schema import TABS
    from l3hpc.steps.base import LedgerTab

    assert set(get_args(LedgerTab)) == set(TABS)


def test_a_failing_method_of_a_package_is_named_by_render(place):
    step = place.parent / "packages/sea_steps.py"
    step.write_text(step.read_text().replace("return [{", "return {} + [{"))
    code, out = l3hpc(place, "render", "lengths")
    assert code == 2 and "Traceback" not in out, out
    assert "sea-steps 1.0, step 'length': shards raised TypeError" in out


def test_a_failing_summary_leaves_the_output_and_says_so(place):
    step = place.parent / "packages/sea_steps.py"
    step.write_text(step.read_text().replace("result['seconds']", "result['minutes']"))
    code, out = l3hpc(place, "submit", "lengths")
    assert code == 0, out
    code, out = l3hpc(place, "status", "latest")
    assert code == 0 and "done" in out and "failed" not in out, out
    assert "no summary (sea-steps 1.0, step 'length': summary raised KeyError: 'minutes'" in out
    code, out = l3hpc(place, "submit", "lengths")
    assert code == 0 and "nothing to compute" in out, out


def test_a_package_that_cannot_be_read_is_named_and_hides_no_other(packages):
    from l3hpc.doctor import environment

    (packages / "sea_steps.py").write_text(FILES["sea_steps.py"])
    install(packages, "length = sea_steps:Length")
    install(packages, "", "garbled")
    (packages / "garbled-1.0.dist-info/entry_points.txt").write_bytes(b"[l3hpc.steps]\n\xff = x\n")
    registry._search.cache_clear()
    assert registry.step("length").name == "length" and registry.names()[-1] == "length"
    (problem,) = registry.problems()
    assert "UnicodeDecodeError" in str(problem) and "garbled-1.0.dist-info" in str(problem)
    assert [line.severity for line in environment.step_lines()] == ["yellow", "red"]


def test_of_a_package_that_is_on_the_path_twice_the_first_counts(packages, monkeypatch, tmp_path):
    for folder in (packages, tmp_path / "behind"):
        install(folder, "length = sea_steps:Length")
    monkeypatch.syspath_prepend(str(tmp_path / "behind"))
    registry._search.cache_clear()
    assert registry.foreign() == {"length": "sea-steps 1.0"}


def test_the_doctor_names_the_steps_of_packages_and_what_is_wrong(packages):
    from l3hpc.doctor import environment

    assert list(environment.step_lines()) == []
    (packages / "sea_steps.py").write_text(FILES["sea_steps.py"])
    install(packages, "length = sea_steps:Length")
    registry._search.cache_clear()
    (line,) = environment.step_lines()
    assert (line.severity, line.message) == ("green", "length (sea-steps 1.0)")
    (packages / "bad.py").write_text("import nowhere_to_be_found")
    install(packages, "one = bad:One", "bad-steps")
    registry._search.cache_clear()
    line, red = environment.step_lines()
    assert line.message == "length (sea-steps 1.0), one (bad-steps 1.0)"
    assert red.severity == "red" and red.message.startswith("bad-steps 1.0, step 'one': bad:One")
    assert red.advice == "Repair or uninstall the package."


def test_the_report_shows_what_the_step_names_and_bears_its_absence(packages, tmp_path):
    from l3hpc.report.collect import collect
    from l3hpc.report.data import StepFacts
    from l3hpc.report.folder import write_results

    (packages / "deep.py").write_text(DEEP)
    install(packages, "deep = deep:Deep", "deep-steps")
    task = tmp_path / "artifacts/deep/0123456789abcdef/0000"
    task.mkdir(parents=True)
    (task / "history.csv").write_text("epoch,loss\n1,0.5\n")
    (task / "result.json").write_text('{"summary": {}}')
    artifacts, chain = {"deep": task.parent}, [StepFacts("deep")]
    found = collect("run-1", artifacts, chain)
    assert [epoch.loss for epoch in found.epochs] == [0.5]
    write_results(tmp_path / "results", found, artifacts)
    assert (tmp_path / "results/deep/history.csv").is_file()
    (packages / "deep_steps-1.0.dist-info/entry_points.txt").unlink()
    registry._search.cache_clear()
    registry.step.cache_clear()
    found = collect("run-1", artifacts, chain)
    assert found.epochs == () and [step.name for step in found.steps] == ["deep"]
    write_results(tmp_path / "results", found, artifacts)
    assert not (tmp_path / "results/deep").exists()


def test_two_packages_cannot_register_one_name(packages):
    (packages / "bad.py").write_text(WHOLE)
    install(packages, "one = bad:One", "first-steps")
    install(packages, "one = bad:One", "second-steps")
    with pytest.raises(registry.InputError, match="both register a step 'one'") as refused:
        registry.step("one")
    assert "first-steps 1.0" in refused.value.where and "second-steps" in refused.value.where
    assert "bad" not in sys.modules


REPORTED = """from pathlib import Path
from l3hpc.steps import Params, Step
class Deep(Step[Params]):
    name, title, params_type = "deep", "a network", Params
    kept_files = {kept_files}
    def run(self, params, task):
        return {{}}
    def networks(self, params, results):
        {networks}
"""


@pytest.fixture
def reported(packages, tmp_path):
    """Write the report of a run of the step with these two hooks; its text and its files."""
    from l3hpc.errors import collect_damage
    from l3hpc.report.collect import collect
    from l3hpc.report.data import StepFacts
    from l3hpc.report.folder import write_results

    task = tmp_path / "artifacts/deep/0123456789abcdef/0000"
    task.mkdir(parents=True)
    (task / "own.txt").write_text("own")
    (tmp_path / "secret.txt").write_text("secret")
    (task / "link.txt").symlink_to(tmp_path / "secret.txt")
    (task / "result.json").write_text('{"summary": {}}')

    def write(kept_files="()", networks="return ()"):
        (packages / "deep.py").write_text(REPORTED.format(kept_files=kept_files,
                                                          networks=networks))
        install(packages, "deep = deep:Deep", "deep-steps")
        with collect_damage() as warnings:
            data = collect("run-1", {"deep": task.parent}, [StepFacts("deep")])
            page = write_results(tmp_path / "results", data, {"deep": task.parent})
        files = sorted(path.name for path in (tmp_path / "results").rglob("*.txt"))
        return page.read_text(), files, [str(warning) for warning in warnings]

    return write


@pytest.mark.parametrize("networks", [
    "raise RuntimeError('boom')", "raise SystemExit(3)", "return None", "return [('a',)]",
    "return [('a', {'unknown': 1})]"])
def test_a_step_whose_networks_fail_is_named_and_the_report_is_written(reported, networks):
    page, files, warnings = reported("('own.txt',)", networks)
    assert "deep-steps 1.0, step &#39;deep&#39;: networks" in page
    assert files == ["own.txt"]
    (warning,) = warnings
    assert warning.startswith("deep-steps 1.0, step 'deep': networks")


@pytest.mark.parametrize("pattern", [
    "'/etc/host*'", "'../../../../secret.txt'", "'../*/secret.txt'", "'link.txt'", "''", "'**x/['"])
def test_a_pattern_that_leaves_the_artifact_copies_nothing_and_is_named(reported, pattern):
    page, files, warnings = reported(f"({pattern}, 'own.txt')")
    assert files == ["own.txt"]
    (warning,) = warnings
    assert warning.startswith("deep-steps 1.0, step 'deep': kept_files: ")
    assert "deep-steps 1.0, step &#39;deep&#39;: kept_files: " in page


@pytest.mark.parametrize("patterns", ["'own.txt'", "7", "(7, 'own.txt')", "(Path('own.txt'),)"])
def test_kept_files_that_are_no_patterns_are_named(reported, patterns):
    page, files, (warning, *_) = reported(patterns)
    assert files == [] and warning.startswith("deep-steps 1.0, step 'deep': deep:Deep.kept_files")
    assert "deep:Deep.kept_files" in page


def test_a_step_that_cannot_be_loaded_is_named_in_the_report(reported):
    page, files, _ = reported("nowhere_to_be_found")
    assert "The results of step &#39;deep&#39; are not shown" in page and "deep-steps 1.0" in page
    assert files == []
