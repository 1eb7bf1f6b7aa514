"""Jobs in a real container, of Apptainer, on a real Slurm.

L3HPC_IMAGE names an image made from l3hpc.def. Without it, the image is an empty folder into which
the system and the Python of this machine are bound, without Slurm's commands.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import chains as fakes
import pytest
from follow import profile, settled, states, until

from l3hpc.config import settings
from l3hpc.config.resources import Resources
from l3hpc.doctor import container, environment
from l3hpc.runs import submit
from l3hpc.runs.resume import cancel
from l3hpc.workspace import markers
from l3hpc.workspace.layout import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not shutil.which("apptainer"), reason="apptainer is not installed")]
COMMANDS = ("sbatch", "scontrol", "squeue", "sacct", "scancel", "srun")
SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "etc")


@pytest.fixture
def launcher(tmp_path):
    """``container:`` and ``python:`` of the profile."""
    binds = {str(fakes.FAKES), str(tmp_path)}
    if image := os.environ.get("L3HPC_IMAGE"):
        python = "python3"
    else:
        python, image = sys.executable, str(tmp_path / "image")
        Path(image).mkdir()
        for name in SYSTEM:
            system = Path("/", name)
            if system.is_symlink():
                Path(image, name).symlink_to(system.readlink())
            elif system.is_dir():
                binds.add(str(system))
        paths = {path for path in (*sys.path, sys.prefix) if os.path.isdir(path)}
        binds |= {path for path in paths if not path.startswith("/usr")}
        binds |= {f"/dev/null:{path}" for name in COMMANDS if (path := shutil.which(name))}
    # what is bound over something else comes after it
    words = [word for bind in sorted(binds, key=len) for word in ("--bind", bind)]
    return {"container": ["apptainer", "--silent", "exec", "--userns", *words, image],
            "python": python}


def test_a_chain_in_apptainer(slurm_cluster, chains, tmp_path, launcher):
    """The doctor, healing from outside, the state and the end of a job inside."""
    there = shlex.join([*launcher["container"], "sh", "-c",
                        f"command -v {' '.join(COMMANDS)}; test -n \"$APPTAINER_CONTAINER\""])
    answer = subprocess.run(["bash", "-c", there], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, ""), answer

    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "test", "paths": {"workspace": str(tmp_path)},
        "clusters": {"test": {**slurm_cluster.profile, **launcher, "gpu_request": "none"}}}))
    found = list(container.container_lines(
        settings.load(tmp_path / "cluster.yaml", environ={}), environment.ask))
    assert [(line.subject, line.severity) for line in found] == [
        ("container", "green"), ("TensorFlow", "green")], found
    assert found[0].message.startswith("starts on node n")

    on = profile(chains, slurm_cluster, **launcher)
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on, params={
        "extract": {"memory_mb": 400, "show": "APPTAINER_CONTAINER"}, "fit": {"seconds": 600}},
        resources={"extract": Resources(1, 300, 0, 5)})
    submit.submit(made)
    until(tmp_path, "demo", lambda found: states(found)["sample"] == "done")
    assert chains.output(made, "extract") == {0: f"({launcher['container'][-1]})"}
    marks = markers.read(Workspace(tmp_path).run("demo").step("extract").markers)
    assert [entry["mem_mb"] for entry in marks[0].requeues] == [600]

    until(tmp_path, "demo", lambda found: found.steps[2].progress)
    cancel(tmp_path, "demo")
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "done", "fit": "cancelled"}
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "the cancelled job does not end")
