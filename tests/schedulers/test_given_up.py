"""Ctrl-C while squeue or scancel hangs: the command ends at once, and says what is not known."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakeslurm import queue_line
from submitted import Case, submit_in_a_child, until_said

from l3hpc.workspace import records

# Ctrl-C reaches the program too, and a wrapper of a site may ignore it
HANGS = "trap '' INT; touch {folder}/hangs; sleep 600"


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={})


@pytest.fixture
def case(chains, slurm, tmp_path):
    return Case(chains, slurm, tmp_path, names=("extract", "sample"))


def command(slurm, *words):
    """Run a command, and Ctrl-C while the program hangs; its exit code, output and seconds."""
    (slurm.folder / "hangs").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; from l3hpc.cli import main; signal.signal("
         f"signal.SIGINT, signal.default_int_handler); main({list(words)})"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    while not (slurm.folder / "hangs").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[0]
    assert "Traceback" not in said
    return process.returncode, said, time.monotonic() - began


def test_status_does_not_wait_for_squeue_after_ctrl_c(case, slurm, tmp_path):
    slurm.says("squeue", HANGS.format(folder=slurm.folder))
    code, said, seconds = command(slurm, "status", "demo", "--workspace", str(tmp_path))
    assert (code, said.split()[-1]) == (130, "interrupted") and seconds < 300


def test_cancel_says_whether_jobs_may_be_left(case, slurm, tmp_path):
    slurm.says("squeue", HANGS.format(folder=slurm.folder))
    words = "cancel", "demo", "--workspace", str(tmp_path)
    again = f"To cancel {{}}: l3hpc cancel demo --workspace {tmp_path}"
    code, said, seconds = command(slurm, *words)
    assert code == 130 and seconds < 300
    assert "interrupted before squeue had answered" in said and "nothing was cancelled" in said
    assert again.format("it") in said and slurm.calls("scancel") == []
    case.queue(queue_line("100", "PENDING"))
    slurm.says("scancel", HANGS.format(folder=slurm.folder))
    code, said, seconds = command(slurm, *words)
    assert code == 130 and seconds < 300
    assert "interrupted before Slurm had cancelled all jobs; may still be in the queue: job " \
        "100" in said
    assert again.format("them") in said


def test_a_submission_that_withdraws_ends_at_the_next_ctrl_c(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
[ $n = 101 ] && kill -INT $PPID
echo $n""")
    slurm.says("scancel", f"({until_said('cancelling 100, 101', tmp_path / 'said')}; "
                          "kill -INT $PPID) & exec sleep 600")
    began = time.monotonic()
    code, said = submit_in_a_child(
        chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on), tmp_path / "said")
    assert code == 130 and time.monotonic() - began < 300
    assert "interrupted: cancelling 100, 101. Ctrl-C again does not wait for it" in said
    assert "interrupted before Slurm had cancelled all jobs; may still be in the queue: jobs " \
        "100, 101" in said and "To cancel them: l3hpc cancel demo" in said
    record = records.read(tmp_path, "demo")
    assert [step.job for step in record.steps] == ["100", "101", None]


def test_a_lookup_that_hangs_ends_at_the_second_ctrl_c(chains, slurm, on, tmp_path):
    slurm.says("sbatch", "echo 'sbatch: error: Batch job submission failed: Socket timed out on "
               "send/recv operation' >&2; exit 1")
    slurm.says("squeue", "(kill -INT $PPID; "
               f"{until_said('interrupted; waiting for Slurm', tmp_path / 'said')}; "
               "kill -INT $PPID) & exec sleep 600")
    began = time.monotonic()
    code, said = submit_in_a_child(chains.plan(tmp_path, names=("extract",), on=on),
                                   tmp_path / "said")
    assert code == 130 and time.monotonic() - began < 300
    assert "extract: interrupted; waiting for Slurm" in said
    assert "whether extract was submitted is not known" in said and "l3hpc resume demo" in said
    assert "squeue --me --name=l3-demo-extract" in said


def test_a_resumption_says_what_was_done_and_how_to_go_on(case, slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(json.dumps({"clusters": {"greene": {"executor": "slurm"}}}))
    words = "resume", "demo", "--workspace", str(tmp_path)
    again = f"To continue: l3hpc resume demo --workspace {tmp_path}"
    slurm.says("squeue", HANGS.format(folder=slurm.folder))
    for options in ((), ("--dry-run",)):
        code, said, seconds = command(slurm, *words, *options)
        assert code == 130 and seconds < 300
        assert "interrupted before it was known which jobs are in the queue\n" in said
        assert f"       nothing was submitted\n       {again}\n" in said
    held = "\n".join(queue_line(job, "PENDING", reason="JobHeldUser") for job in ("100", "101"))
    slurm.says("squeue", f"case $* in *%T) echo PENDING;; *) cat <<'E'\n{held}\nE\nesac")
    slurm.says("scontrol", f"""case "$*" in *101*) {HANGS.format(folder=slurm.folder)};; esac""")
    code, said, seconds = command(slurm, *words)
    assert code == 130 and seconds < 300
    assert "interrupted before all jobs were cancelled and released\n" in said
    assert f"       released: job 100; nothing was submitted\n       {again}\n" in said
