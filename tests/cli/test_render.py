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
