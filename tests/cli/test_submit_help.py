"""What ``submit --help`` lists, and what a shell completes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from l3hpc.cli import cli
from l3hpc.pipelines.definition import load_pipeline
from l3hpc.pipelines.options import OPTIONS


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_help_names_units_and_true_defaults(say):
    from l3hpc.pipelines import definition
    from l3hpc.pipelines.options import OPTIONS

    code, out, _ = say("submit", "--help-all")
    assert code == 0
    flat = " ".join(out.split())
    delivered = [definition.load_pipeline(name)
                 for name in ("all", "downstream", "esc50", "clips", "compress")]
    for name, option in OPTIONS.items():
        assert f"--{name} " in flat and option.help in flat
        found = next(one for one in delivered if name in one.options)
        step, _, parameter = found.options[name][0].partition(".")
        from l3hpc import steps

        params = found.steps[step].params
        field = steps.step(found.steps[step].kind).params_type.model_fields[parameter]
        value = params.get(parameter, field.default)
        if parameter == "plans":
            value = " ".join(value)
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if value is not None:
            assert float(option.default) == value if isinstance(value, (int, float)) \
                else option.default == value, name


def test_the_help_names_every_pipeline_that_is_delivered(say):
    code, out, _ = say("submit", "--help")
    named = out.split("Pipelines:\n")[1].split("\n\n")[0]
    delivered = Path(__file__).parents[2] / "jobs"
    assert code == 0
    assert set(re.findall(r"^  (\w+) ", named, re.MULTILINE)) == {
        path.stem for path in delivered.glob("*.yaml")}


@pytest.mark.parametrize("pipeline", ["upstream", "downstream", "compress", "esc50"])
def test_the_help_of_a_pipeline_shows_its_options_alone(say, pipeline):
    code, out, err = say("submit", pipeline, "--help")
    assert (code, err) == (0, "")
    assert "of all]" not in out  # --per-sensor is off
    shown = re.findall(r"^  --([\w-]+) ", out, re.MULTILINE)
    assert set(shown) & set(OPTIONS) == set(load_pipeline(pipeline).options)
    assert len(shown) == len(set(shown)) and {"dry-run", "set", "grid", "workspace"} <= set(shown)
    assert ("student" in shown) is (pipeline in ("downstream", "esc50"))
    assert ("esc50" in shown) is (pipeline == "esc50")
    assert set(re.findall(r"submit (\w+) ", out)) <= {pipeline}  # the examples


def test_options_stand_below_the_first_step_that_they_set_with_the_defaults_of_the_pipeline(say):
    _, out, _ = say("submit", "--mels", "32", "compress", "--help")
    usual = next(part for part in out.split("\n\n") if "Usual options:" in part)
    assert "--emb-dim" in usual.replace(",", "").split() and "--depth" not in usual
    sections = {part.partition(" (")[0]: part for part in out.split("\n\n") if ":\n" in part}
    assert "[default: none]" in " ".join(sections["fit"].split())  # --approx; pca in upstream
    assert "--epochs" in sections["distill"] and "Sets distill, finetune." in sections["distill"]
    assert "Usage: l3hpc submit [OPTIONS] compress\n" in out
    _, out, _ = say("render", "upstream", "train", "--help")
    assert "Usage: l3hpc render [OPTIONS] upstream [STEP]\n" in out and "--plan" not in out


def test_the_help_lists_pipelines_of_the_folder_also_damaged_ones(say):
    Path("jobs").mkdir()
    Path("jobs/mine.yaml").write_text("description: my own\noptions: {mels: [train.mels]}\n"
                                      "steps: {train: {given: [extract], params: {mels: 32}}}\n")
    Path("jobs/bad.yaml").write_text("steps: {train: 3}\n")
    _, out, _ = say("submit", "--help")
    assert re.search(r"^  mine +my own$", out, re.MULTILINE)
    assert re.search(r"^  bad +\(invalid: jobs/bad.yaml:1\)$", out, re.MULTILINE)
    _, out, _ = say("submit", "mine", "--help")
    assert "[default: 32]" in out and "--embedding-dir" in out and "--hop" not in out
    code, _, err = say("submit", "bad", "--help")
    assert code == 2 and "jobs/bad.yaml:1" in err
    code, _, err = say("submit", "upstraem", "--help")
    assert code == 2 and "upstream" in err


def test_parameters_of_own_steps_are_in_the_help_and_named_for_an_option_that_is_not_there(say):
    Path("jobs").mkdir()
    Path("jobs/mine.yaml").write_text(
        "options: {mels: [train.mels]}\nsteps:\n  train: {given: [extract]}\n"
        "  conv: {kind: shell, command: 'true', params: {rate: 8000, level: 1, out-file: x}}\n")
    _, out, _ = say("submit", "mine", "--help")
    assert re.search(r"^conv \(.*\):\n  --set conv.rate=VALUE +\[default: 8000\]\n", out,
                     re.MULTILINE)
    for words, advice in ((["--rate", "4000"], "--set conv.rate=VALUE"),
                          (["--level", "4"], "--set conv.level=VALUE"),
                          (["--level", "fine"], "--set conv.level=VALUE"),
                          (["--out_file=y"], "--set conv.out-file=VALUE"),
                          (["--epochs-max", "3"], "mine --help"), (["--mel", "3"], "--mels")):
        code, _, err = say("submit", *words, "mine")
        assert code == 2 and "pipeline 'mine' has no option --" in err and advice in err, err
        assert "--features" not in err and "--hop" not in err
    code, _, err = say("submit", "nowhere", "--rate", "3")
    assert code == 2 and "no such option '--rate'" in err


def test_completion_offers_what_the_pipeline_offers():
    def offered(*words):
        *before, incomplete = words
        items = ShellComplete(cli, {}, "l3hpc", "_L3HPC_COMPLETE").get_completions(
            ["submit", *before], incomplete)
        return [item.value for item in items]

    assert {"--asr", "--dry-run", "--audio-dir"} <= set(offered("upstream", "--"))
    assert {"--learner", "--plan", "--sonyc-ust", "--student"}.isdisjoint(offered("upstream", "--"))
    assert {"--mels", "--learner"} <= set(offered("--"))  # no pipeline yet
    assert offered("esc50", "--grid", "l") == ["learner="]
    assert offered("downstream", "--set", "classify.mo") == ["classify.model="]
    assert offered("downstream", "--from", "") == ["embed", "classify", "evaluate"]
    assert offered("upstream", "--input", "f") == ["fit="]
    assert offered("no-such-pipeline", "--set", "") == []


@pytest.mark.parametrize("option", ["--phi", "--student", "--weights", "--avc", "--scenes"])
def test_a_shell_completes_runs_and_files(option, tmp_path):
    """In a process of its own: click itself writes what a shell gets."""
    (tmp_path / "w/runs/upstream-1").mkdir(parents=True)
    (tmp_path / "w/runs/upstream-1/run.json").write_text("{}")
    pipeline = "compress" if option in ("--avc", "--scenes") else "downstream"
    words = f"l3hpc submit {pipeline} --workspace {tmp_path}/w {option} up"
    done = subprocess.run(
        [sys.executable, "-c", "from l3hpc.cli import main; main()"], text=True, cwd=tmp_path,
        capture_output=True, env={**os.environ, "_L3HPC_COMPLETE": "bash_complete",
                                  "COMP_WORDS": words, "COMP_CWORD": "6"})
    assert done.stdout.splitlines() == ["plain,upstream-1", "file,up"], done.stderr
