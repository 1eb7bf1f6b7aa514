"""A site that takes two jobs at a time and, like Slurm 24.11, lets no job wait for one that it has
forgotten: each job of a chain is forgotten before the last one that needs it can be submitted."""

import os
import shutil
import stat

import pytest
from follow import profile, settled, states, until

from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, L3hpcError
from l3hpc.runs import submit, submit_jobs
from l3hpc.runs.resume import resume
from l3hpc.workspace import records

pytestmark = pytest.mark.slow

# Slurm 24.11 refuses afterok on a job that it has forgotten; 22.05 takes it for fulfilled
SBATCH = """#!/bin/bash
for word in "$@"; do
    case "$word" in --dependency=*)
        for id in $(grep -o 'afterok:[0-9_:]*' <<< "$word" | tr ':' '\\n' | grep '^[0-9]'); do
            if ! {squeue} --noheader --states=all --jobs "${{id%%_*}}" > /dev/null 2>&1; then
                echo "$id" >> {folder}/refused
                echo 'sbatch: error: Batch job submission failed: Job dependency problem' >&2
                exit 1
            fi
        done
    esac
done
exec {sbatch} "$@"
"""


@pytest.fixture(scope="module")
def _strict(_with_accounting):
    cluster, me = _with_accounting, ["sacctmgr", "-i", "modify", "user", "root", "set"]
    with cluster.configured(restart=True, MinJobAge="2",
                            AccountingStorageEnforce="associations,limits"):
        cluster.command(*me, "MaxSubmitJobs=2")
        yield cluster
        cluster.command(*me, "MaxSubmitJobs=-1")


@pytest.fixture
def strict(_strict, slurm_cluster, monkeypatch, tmp_path):
    """Forgets jobs after two seconds, refuses to wait for them, and takes two jobs at a time."""
    folder = tmp_path / "strict"
    folder.mkdir()
    wrapper = folder / "sbatch"
    wrapper.write_text(SBATCH.format(folder=folder, sbatch=shutil.which("sbatch"),
                                     squeue=shutil.which("squeue")))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(submit_jobs, "LIMIT_S", (0.3,))
    return slurm_cluster


class WhenFull(Progress):
    """Opens the gate while the queue is full, but not before ``condition()``."""

    def __init__(self, cluster, gate, condition):
        super().__init__()
        self.notes, self.cluster, self.gate, self.condition = [], cluster, gate, condition

    def note(self, text):
        self.notes.append(text)
        if "until there is room" in text:
            self.cluster.until(self.condition, "the first step does not end")
            self.gate.unlink(missing_ok=True)


def test_a_chain_longer_than_the_submit_limit(strict, chains, tmp_path, gate):
    def extract_is_forgotten():
        return records.read(tmp_path, "demo").steps[0].job not in strict.command(
            "squeue", "-h", "-t", "all", "-o", "%A").split()

    made = chains.plan(tmp_path, on=profile(chains, strict),
                       params={"sample": {"gate": str(gate)}})
    said = WhenFull(strict, gate, extract_is_forgotten)
    record = submit.submit(made, progress=said)
    assert all(step.job for step in record.steps)
    assert any("AssocMaxSubmitJobLimit" in text and "until there is room" in text
               for text in said.notes)
    assert states(until(tmp_path, "demo", settled)) == dict.fromkeys(chains.CHAIN, "done")
    assert chains.output(made, "train") == {0: "(0 (0 (0) (0 (0 (0)))))"}


def test_ctrl_c_while_the_queue_is_full_and_resume_at_once(strict, chains, tmp_path, gate):
    """A job that still ends touches nothing of the one that takes its place."""
    class Impatient(Progress):
        def note(self, text):
            if "until there is room" in text:
                until(tmp_path, "demo", lambda found: found.steps[0].progress)
                raise KeyboardInterrupt

    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=profile(chains, strict),
                       params={"extract": {"gate": str(gate)}})
    with pytest.raises(KeyboardInterrupt):
        submit.submit(made, progress=Impatient())
    resume(tmp_path, "demo", made.profile, progress=WhenFull(strict, gate, lambda: True))
    assert set(states(until(tmp_path, "demo", settled)).values()) == {"done"}


def test_an_array_above_the_submit_limit_is_refused_at_once(
        strict, chains, tmp_path, monkeypatch):
    made = chains.plan(tmp_path, names=("extract",), on=profile(chains, strict),
                       tasks={"extract": 3})
    with monkeypatch.context() as patch, pytest.raises(ClusterError) as caught:
        patch.setattr(submit_jobs, "LIMIT_S", ())  # to wait would be another error
        submit.submit(made)
    assert caught.value.message == (
        "extract: an array of 3 tasks can never be submitted: at most 2 jobs may be pending or "
        "running at once (AssocMaxSubmitJobLimit)")
    assert "limits: {array: 2}" in caught.value.hint and strict.jobs() == []
    split = chains.plan(tmp_path, "split", names=("extract",), tasks={"extract": 3},
                        on=profile(chains, strict, limits={"array": 2}))
    submit.submit(split)
    assert states(until(tmp_path, "split", settled)) == {"extract": "done"}


def test_a_step_that_fails_while_the_queue_is_full(strict, chains, tmp_path, gate):
    """What needs it is not submitted, what does not is, and resume goes on."""
    on = profile(chains, strict)
    made = chains.plan(tmp_path, names=("extract", "sample", "embed", "classify"), on=on,
                       params={"extract": {"fail": "scratch"}, "sample": {"seconds": 1}})
    strict.command("sbatch", "--output=/dev/null", "--wrap",
                   f"while [ -e {gate} ]; do sleep 0.2; done")
    said = WhenFull(strict, gate, lambda: "l3-demo-extract" not in strict.jobs())
    with pytest.raises(L3hpcError, match="extract failed, so sample was not"):
        submit.submit(made, progress=said)
    assert said.notes
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked", "embed": "done",
                             "classify": "done"}
    assert found.steps[2].detail == "by extract, not submitted"
    resume(tmp_path, "demo", on)
    assert set(states(until(tmp_path, "demo", settled)).values()) == {"done"}
