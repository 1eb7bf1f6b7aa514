"""Slurm is slow or silent at the moment at which a task goes back to the queue."""

import json
import shutil
import signal

import pytest
from follow import names, profile, settled, states, until
from realslurm import PATIENCE

from l3hpc.config.resources import Resources
from l3hpc.runs import status, submit, task_state
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers.slurm import queue
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import Workspace

pytestmark = pytest.mark.slow


def hungry(chains, cluster, folder, **on):
    made = chains.plan(folder, names=("extract", "sample"), on=profile(chains, cluster, **on),
                       params={"extract": {"memory_mb": 300}},
                       resources={"extract": Resources(1, 200, 0, 5)})
    submit.submit(made)
    return made


def marks(folder):
    return markers.read_task(Workspace(folder).run("demo").step("extract").markers, 0)


def test_a_task_in_the_queue_has_not_failed_while_squeue_is_silent(
        slurm_plain, chains, tmp_path, monkeypatch):
    """It is held, so that it stays there, and was requeued a while ago."""
    monkeypatch.setattr(task_state, "_BETWEEN_S", 0.0)
    on = profile(chains, slurm_plain)
    hungry(chains, slurm_plain, tmp_path)
    rules = Workspace(tmp_path).run("demo").step("extract").requeue_policy
    value = json.loads(rules.read_text())
    rules.write_text(json.dumps({**value, "helper": [*value["helper"], "--partition=nowhere"]}))
    until(tmp_path, "demo", lambda found: marks(tmp_path).requeues
          and "held" in found.steps[0].detail)
    controller = slurm_plain.processes["slurmctld"]
    controller.send_signal(signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:  # a busy machine takes longer than a second to answer
            patch.setattr(queue, "SQUEUE_S", 1.0)
            [found] = status.collect(tmp_path, ["demo"])
    finally:
        controller.send_signal(signal.SIGCONT)
    assert found.state == "running" and found.steps[0].state == "requeued"
    assert found.steps[0].detail.startswith("squeue does not respond")
    resume(tmp_path, "demo", on)
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}


def wrap(folder, name, text):
    """Lines of setup that put a program in front of one of Slurm's; $REAL is that one."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / name).write_text(f'#!/bin/bash\nREAL={shutil.which(name)} HERE={site}\n{text}\n')
    (site / name).chmod(0o755)
    return [f"PATH={site}:$PATH"]


def wrap_scontrol(folder, text):
    others = 'if [ "$1" != requeuehold ]; then exec "$REAL" "$@"; fi'
    return wrap(folder, "scontrol", f"{others}\n{text}")


def test_a_requeue_whose_reply_is_lost_is_one(slurm_plain, chains, tmp_path):
    """The node is slow to end the script, which asks again and is refused."""
    nodes = [slurm_plain.processes[node] for node in slurm_plain.nodes]
    stopped = " ".join(str(node.pid) for node in nodes)
    asked = tmp_path / "site" / "asked"
    setup = wrap_scontrol(tmp_path, f"""
if [ ! -e "$HERE/asked" ]; then kill -STOP {stopped}; fi
reply="$("$REAL" "$@" 2>&1)" code=$?
echo "$code $reply" >> "$HERE/asked"
if [ "$(wc -l < "$HERE/asked")" = 1 ]; then reply="Socket timed out" code=1; fi
echo "$reply" >&2
exit "$code" """)
    hungry(chains, slurm_plain, tmp_path, setup=setup)
    try:
        slurm_plain.until(lambda: asked.exists() and asked.read_text().count("\n") > 1,
                          "scontrol is not called again")
    finally:
        for node in nodes:
            node.send_signal(signal.SIGCONT)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "done"}, asked.read_text()
    first, second = asked.read_text().splitlines()[:2]  # "1 Job is pending execution for job 7"
    assert first.startswith("0") and not second.startswith("0")
    assert [entry["mem_mb"] for entry in marks(tmp_path).requeues] == [400]


@pytest.mark.parametrize("helper", [True, False])
def test_what_is_cancelled_while_it_asks_to_be_requeued_computes_nothing(
        slurm_plain, chains, tmp_path, helper):
    """Slurm requeues a job that was cancelled a moment before. Where no job can be submitted that
    releases it, it would stay in the queue."""
    setup = wrap_scontrol(tmp_path, """
touch "$HERE/asked"
trap '' TERM
while [ ! -e "$HERE/go" ]; do sleep 0.1; done
exec "$REAL" "$@" """)
    if not helper:
        wrap(tmp_path, "sbatch", "exit 1")
    hungry(chains, slurm_plain, tmp_path, setup=setup)
    slurm_plain.until((tmp_path / "site/asked").exists, "scontrol is not called")
    assert cancel(tmp_path, "demo")
    (tmp_path / "site/go").touch()
    slurm_plain.until(lambda: not slurm_plain.command("squeue", "-h", "-o", "%A %T %r").strip(),
                      "a job of a cancelled run stays in the queue", seconds=60 * PATIENCE)
    [found] = status.collect(tmp_path, ["demo"])
    assert states(found) == {"extract": "cancelled", "sample": "cancelled"}
    log = "".join(path.read_text() for path in
                  Workspace(tmp_path).run("demo").step("extract").logs.glob("*_log.err"))
    assert log.count("working: 0/10") <= 1


def test_a_helper_job_that_waits_is_cancelled_with_its_run(slurm_plain, chains, tmp_path):
    setup = wrap(tmp_path, "sbatch", 'exec "$REAL" --hold "$@"')
    hungry(chains, slurm_plain, tmp_path, setup=setup)
    until(tmp_path, "demo", lambda found: found.steps[0].held)
    helper, _ = next(line.split() for line in names(slurm_plain) if line.endswith("-heal"))
    assert helper in cancel(tmp_path, "demo")
    own = {helper, *(step.job for step in records.read(tmp_path, "demo").steps)}
    slurm_plain.until(lambda: not own & slurm_plain.ids(),
                      "a job of a cancelled run stays in the queue")
    [found] = status.collect(tmp_path, ["demo"])
    assert states(found) == {"extract": "cancelled", "sample": "cancelled"}


def test_a_held_job_of_a_cancelled_run_computes_when_it_is_released(
        slurm_plain, chains, tmp_path, gate):
    """Somebody has put it back by hand."""
    on = profile(chains, slurm_plain)
    made = chains.plan(tmp_path, names=("extract",), on=on,
                       params={"extract": {"gate": str(gate)}})
    job = submit.submit(made).steps[0].job
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    cancel(tmp_path, "demo")
    slurm_plain.until(lambda: job not in slurm_plain.ids(), "the cancelled job does not end")
    slurm_plain.command("scontrol", "requeuehold", job)
    until(tmp_path, "demo", lambda found: found.steps[0].held)
    gate.unlink()
    assert resume(tmp_path, "demo", on).steps[0].job == job
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}
