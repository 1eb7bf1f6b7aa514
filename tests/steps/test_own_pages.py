"""The examples of docs/steps/shell.md and docs/steps/python.md, run as they are printed."""

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def files_of(page):
    text = (ROOT / "docs/steps" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"`([\w./-]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))


def l3hpc(folder, *words):
    """The command as a process of its own; what it printed."""
    done = subprocess.run([sys.executable, "-m", "l3hpc", *words], cwd=folder, text=True,
                          capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("page", "pipeline", "said", "output", "content"), [
    ("shell.md", "checksums", "2 tasks, 1 file each", "manifest.txt",
     r"(\w{64}  .*/recordings/\d.wav\n){2}"),
    ("python.md", "peaks", "2 tasks, peak 0 to 1000, silent 0 to 1", "peaks.txt",
     r"0.wav 1000\n1.wav 0\n"),
])
def test_the_example_of_a_page_works_from_submission_to_results(
        tmp_path, page, pipeline, said, output, content):
    for name, text in files_of(page).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "cluster.yaml").write_text("cluster: local\n")
    (tmp_path / "recordings").mkdir()
    for number in range(2):
        with wave.open(str(tmp_path / f"recordings/{number}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(b"\xe8\x03\x00\x00" if number == 0 else bytes(4))
    l3hpc(tmp_path, "submit", pipeline)
    shown = l3hpc(tmp_path, "status", "latest")
    assert said in shown and "failed" not in shown, shown
    (written,) = tmp_path.glob(f"workspace/artifacts/*/*/0000/{output}")
    assert re.fullmatch(content, written.read_text())
    assert "nothing to compute" in l3hpc(tmp_path, "submit", pipeline)


def test_the_report_has_the_declared_outputs_of_every_step(tmp_path):
    from l3hpc.io.files import write_json
    from l3hpc.report import folder
    from l3hpc.report.data import StepFacts

    artifacts = {}
    for name in ("one", "two"):
        artifacts[name] = tmp_path / "artifacts/shell" / name
        for task in ("0000", "0001"):
            write_json(artifacts[name] / task / "result.json", {"summary": {}})
            (artifacts[name] / task / f"{name}.csv").write_text(name)
            (artifacts[name] / task / "large.bin").write_text(name)
        write_json(artifacts[name] / "config.json", {"params": {"outputs": ["*.csv"]}})
    steps = [StepFacts(name, kind="shell") for name in artifacts]
    assert folder._copy_kept_files(tmp_path / "results", artifacts, steps) == []
    assert sorted(str(path.relative_to(tmp_path / "results"))
                  for path in (tmp_path / "results").rglob("*.*")) == [
        "one/0000/one.csv", "one/0001/one.csv", "two/0000/two.csv", "two/0001/two.csv"]
