"""Memory limited by the kernel, with control groups: OUT_OF_MEMORY as most sites show it."""

import pytest
from follow import profile, settled, states, until

from l3hpc.config.resources import Resources
from l3hpc.runs import submit
from l3hpc.workspace import markers
from l3hpc.workspace.layout import Workspace

pytestmark = pytest.mark.slow


def test_out_of_memory_is_told_and_heals(slurm_with_cgroups, chains, tmp_path):
    """Under srun the step is OUT_OF_MEMORY and srun exits with 1; without it the job is."""
    def run(name, heal, **on):
        made = chains.plan(tmp_path, run=name, names=("extract", "sample"), salt=name, heal=heal,
                           on=profile(chains, slurm_with_cgroups, **on),
                           params={"extract": {"memory_mb": 300}},
                           resources={"extract": Resources(1, 200, 0, 5)})
        return submit.submit(made).steps[0].job

    def accounted(job):
        return slurm_with_cgroups.command("sacct", "-n", "-P", "--duplicates", "-j", job,
                                          "-o", "JobID,State,ExitCode").splitlines()

    heals, ends = run("heals", {}), run("ends", {"memory": 0}, srun=False)
    found = until(tmp_path, "ends", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert found.steps[0].detail.startswith("out of memory (200 MB)")
    slurm_with_cgroups.until(lambda: f"{ends}|OUT_OF_MEMORY|0:125" in accounted(ends),
                             "accounting does not say OUT_OF_MEMORY")
    assert states(until(tmp_path, "heals", settled)) == {"extract": "done", "sample": "done"}
    marks = markers.read(Workspace(tmp_path).run("heals").step("extract").markers)[0]
    # on a busy machine Slurm may also take a node for lost
    assert [entry.get("mem_mb") for entry in marks.requeues
            if entry["reason"] != "node failure"] == [400]
    slurm_with_cgroups.until(
        lambda: f"{heals}.0|OUT_OF_MEMORY|0:125" in accounted(heals),
        "accounting does not say OUT_OF_MEMORY of the first attempt")
