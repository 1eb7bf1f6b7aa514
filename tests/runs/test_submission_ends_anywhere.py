"""A submission that ends at any of its accesses to the file system: what comes next submits each
job once, and every job is known."""

import contextlib
import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from fakeslurm import queue_line
from waiting import until

from l3hpc.io.processes import processes
from l3hpc.runs import submit
from l3hpc.runs.resume import resume
from l3hpc.workspace import records

pytestmark = pytest.mark.slow

ACCESSES = {"open", "os.mkdir", "os.link", "os.symlink", "os.rename", "os.remove", "os.listdir",
            "os.scandir", "subprocess.Popen"}
EVERY = 7  # all 120 of them would take two minutes
ENDED, GONE_ON, ALL_PASSED = 3, 4, 5


@pytest.fixture
def queue(slurm):
    """Empties the queue of a Slurm that keeps its jobs; called again, says which there are."""
    slurm.says("sbatch", f"""
exec 9> {slurm.folder}/lock; flock 9
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
for last; do :; done
echo "$n $last" >> {slurm.folder}/jobs
echo $n""")
    (slurm.folder / "line").write_text(queue_line("@@@", "PENDING", script="%%%") + "\n")
    slurm.says("squeue", f"""
while read n script; do
    grep -qw $n {slurm.folder}/cancelled || sed "s|@@@|$n|; s|%%%|$script|" {slurm.folder}/line
done < {slurm.folder}/jobs""")
    slurm.says("scancel", f'echo "$*" >> {slurm.folder}/cancelled')

    def look(*, empty=False):
        names = ("jobs", "cancelled", "next")
        if empty:
            for name in names:
                (slurm.folder / name).unlink(missing_ok=True)
            for name in names[:2]:
                (slurm.folder / name).touch()
        jobs, cancelled = ((slurm.folder / name).read_text().split() for name in names[:2])
        return {job: os.path.basename(os.path.dirname(script))
                for job, script in zip(jobs[::2], jobs[1::2], strict=True) if job not in cancelled}
    return look


def kill(name):
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(name):
    os.kill(os.getpid(), signal.SIGINT)


def fill_the_disk(name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def no_sbatch_is_left(folder):
    """One that was started may outlive the submission."""
    def command(pid):
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_text()
        return ""

    return not any(f"{folder}/sbatch" in command(each.pid) for each in processes())


def submit_until(plan, number, what):
    """Submit in a child, in which ``what`` happens at the access of this number."""
    child = os.fork()
    if not child:
        passed, own = 0, os.getpid()

        def look(event, arguments):
            nonlocal passed
            if event in ACCESSES and os.getpid() == own:
                passed += 1
                if passed == number:
                    what(str(arguments[0]))

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.addaudithook(look)
        try:
            submit.submit(plan)
        except BaseException:
            os._exit(ENDED)
        os._exit(GONE_ON if passed >= number else ALL_PASSED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("what", [kill, interrupt, fill_the_disk])
def test_each_job_is_submitted_once_and_known(chains, slurm, queue, tmp_path, what):
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    number, resumed = 1, 0
    while True:
        queue(empty=True)
        plan = chains.plan(tmp_path / str(number), names=("extract", "sample", "fit"), on=on,
                           heal={"memory": 7})
        code = submit_until(plan, number, what)
        if code == ALL_PASSED:
            break
        until(lambda: no_sbatch_is_left(slurm.folder))
        about = f"{what.__name__} at access {number}, code {code}"
        if not plan.folder.record.exists():
            assert not queue(), about
            submit.submit(plan)
        elif code != GONE_ON:
            record = records.read(plan.workspace, "demo")
            # what did not kill it has withdrawn the jobs, or came after the last one
            assert code == -signal.SIGKILL or record.state == "submitted" or not queue(), about
            resume(plan.workspace, "demo", on)
            resumed += 1
        record = records.read(plan.workspace, "demo")
        assert queue() == {step.job: step.name for step in record.steps}, about
        assert record.state == "submitted", about
        for step, entry in zip(plan.steps, record.steps, strict=True):
            folder = plan.step_folder(step.name)
            assert json.loads(folder.requeue_policy.read_text())["memory"] == 7, about
            assert json.loads(folder.config.read_text()) == step.config("demo"), about
            assert (folder.logs / f"{entry.job}_submitted.pkl").exists(), about
        number += EVERY
    # most: after the others there is no run yet, or the submission has gone on
    assert resumed >= 5
