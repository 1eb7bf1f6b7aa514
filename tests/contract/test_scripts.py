"""The scripts of every pipeline are the golden ones (tests/contract/scripts).

``PROFILE.sbatch`` is the script of upstream's extract; ``PIPELINE.PROFILE.diff`` says for each step
of a pipeline where its script differs from that one. Dates and hashes are replaced, and the folder
of the step by /FOLDER.

After a deliberate change:   L3HPC_REGOLD=1 python -m pytest tests/contract/test_scripts.py
"""

import difflib
import gzip
import re
from pathlib import Path

import layouts
import pytest
from goldens import HERE, check_files, check_text

PIPELINES = sorted(path.stem for path in (HERE.parents[1] / "jobs").glob("*.yaml"))
PROFILES = ("slurm", "local")
CLUSTERS = """
paths: {workspace: workspace}
clusters:
  local: {python: /opt/l3hpc/bin/python, slots: {cpus: 4, mem: 16GB}}
  slurm:
    executor: slurm
    account: pr_42
    partition: cpu
    qos: normal
    gpu_request: gres
    gpu_type: rtx8000
    python: /opt/l3hpc/bin/python
    setup: ["module purge"]
    mail_user: you@example.org
    array_parallelism: 5
    steps: {train: {partition: gpu, time: 7d}}
"""
STUDENT = ("--student", "student.h5")
MORE = {"downstream": STUDENT, "us8k": (*STUDENT, "--set", "folds.partial=true"),
        "esc50": (*STUDENT, "--set", "folds.partial=true"),
        "clips": (*STUDENT, "--table", "esc50/meta/esc50.csv", "--audio", "esc50/audio")}
DATA = ("--audio-dir", "city/audio", "--sonyc-ust", "city/sonyc_ust", "--us8k", "us8k",
        "--esc50", "esc50", "--weights", "untrained")


def render(l3hpc, pipeline, profile, *step):
    said = l3hpc("render", pipeline, *step, *DATA, *MORE.get(pipeline, ()), "--cluster", profile)
    assert said.code == 0, said.err
    text = said.out.replace(str(Path.cwd()), "/HERE")
    # fingerprints depend on when the files of the data were written
    text = re.sub(r"(/artifacts/\w+)/[0-9a-f]{16}\b", r"\1/FINGERPRINT", text)
    return re.sub(r"-\d{8}-[0-9a-f]{4}\b", "-DATE-HASH", text)


def steps(text):
    """The scripts in the output of render, by step, in order."""
    parts = re.split(r"^##### (\S+)\n", text, flags=re.MULTILINE)
    assert parts[0] == ""
    return dict(zip((Path(path).parent.name for path in parts[1::2]), parts[2::2], strict=True))


@pytest.fixture
def data(here, l3hpc):
    Path("cluster.yaml").write_text(CLUSTERS)
    assert l3hpc("data", "synth", "city", "--sensors", 2, "--recordings", 2, "--clips", 10,
                 "--seconds", 1, "--rate", 8000, "--days", 2).code == 0
    layouts.us8k(here / "us8k")
    layouts.esc50(here / "esc50")
    Path("student.h5").write_bytes(gzip.decompress((HERE / "data/student.h5.gz").read_bytes()))


@pytest.mark.parametrize("profile", PROFILES)
def test_scripts(profile, data, l3hpc):
    def one(pipeline, step):
        script = render(l3hpc, pipeline, profile, step)
        return script, script.replace(
            f"/HERE/workspace/runs/{pipeline}-DATE-HASH/steps/{step}", "/FOLDER").splitlines()

    _, first = one("upstream", "extract")
    check_text(f"scripts/{profile}.sbatch", "\n".join(first) + "\n")
    for pipeline in PIPELINES:
        found = []
        for step, text in steps(render(l3hpc, pipeline, profile)).items():
            script, lines = one(pipeline, step)
            assert text == script + "\n"
            changes = difflib.unified_diff(first, lines, n=0, lineterm="")
            found += [f"##### {step}", *list(changes)[2:]]
        check_text(f"scripts/{pipeline}.{profile}.diff", "\n".join(found) + "\n")


def test_every_pipeline_has_golden_scripts():
    check_files("scripts", [f"{profile}.sbatch" for profile in PROFILES] + [
        f"{pipeline}.{profile}.diff" for pipeline in PIPELINES for profile in PROFILES])
