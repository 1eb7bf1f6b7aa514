import subprocess
import wave
from pathlib import Path

import pytest

NAMED = ["--audio-dir", "audio", "--weights", "untrained"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("audio").mkdir()
    with wave.open("audio/a.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def test_one_step_is_the_plain_script(say):
    code, out, err = say("render", "upstream", "train", *NAMED, "--mels", "32")
    assert (code, err) == (0, "")
    assert out.startswith("#!/bin/bash\n#SBATCH --job-name=l3-upstream-")
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_it_is_byte_for_byte_what_is_submitted(say, monkeypatch):
    from l3hpc.schedulers.jobs import JobId
    from l3hpc.schedulers.slurm.scheduler import SlurmScheduler

    monkeypatch.setattr(SlurmScheduler, "submit", lambda self, request: JobId("1"))
    Path("cluster.yaml").write_text("clusters: {far: {partition: gpu}}\n")
    words = ["upstream", *NAMED, "--cluster", "far"]
    rendered = {name: say("render", *words, name)[1] for name in ("extract", "train")}
    assert say("submit", *words, "--yes")[0] == 0
    for name, text in rendered.items():
        script = next(Path("workspace").glob(f"runs/*/steps/{name}/script.sbatch"))
        assert script.read_text() == text


def test_all_steps(say):
    code, out, _ = say("render", "upstream", *NAMED)
    heads = [line for line in out.splitlines() if line.startswith("#####")]
    assert code == 0 and [Path(line).parent.name for line in heads] == [
        "extract", "sample", "fit", "reduce", "train"]
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_an_unknown_step(say):
    code, out, err = say("render", "upstream", "trian", *NAMED)
    assert (code, out) == (2, "")
    assert "no step 'trian'" in err and "did you mean 'train'?" in err


FAULTY = {  # a template of one's own → the pipeline that uses it, and the options that it needs
    "train.sbatch.j2": (), "base.sbatch.j2": (), "ledger-sync.sbatch.j2": (),
    "job-array.sbatch.j2": ("--grid", "train.learning_rate=0.1,0.2")}


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("last", ["--dry-run", "--test-only", "--yes"])
def test_a_faulty_template_is_refused_before_anything_is_written_or_said(say, name, last):
    Path("cluster.yaml").write_text("clusters: {far: {partition: gpu}}\n")
    Path("templates").mkdir()
    Path("templates", name).write_text("#!/bin/bash\n# {{ nosuch }}\n")
    code, out, err = say("submit", "upstream", *NAMED, *FAULTY[name], "--cluster", "far", last)
    assert (code, out) == (2, ""), err
    assert "template: 'nosuch' is undefined" in err and "nothing was submitted" in err
    assert f"templates/{name}:2" in err
    assert not Path("workspace/runs").exists()


def test_a_dry_run_warns_of_files_that_others_can_change(say):
    Path("cluster.yaml").write_text("clusters: {far: {partition: gpu}}\n")
    Path("cluster.yaml").chmod(0o666)
    code, _, err = say("submit", "upstream", *NAMED, "--cluster", "far", "--dry-run")
    assert code == 0 and err.splitlines()[-1] == (
        "warning: anybody can change cluster.yaml, and so what your jobs do; to fix it: "
        "chmod o-w cluster.yaml")
