"""Real bash over the script of a packed job, with a stand-in for Python."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from waiting import until

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts

pytestmark = pytest.mark.slow

STUB = """#!/bin/bash
case "$*" in
*l3hpc.worker.requeue*)
    echo "requeue ${*:3} in ${L3HPC_PACK#* }" >> "$STUB_OUT/calls"
    case "$*" in *" ended "*) cat > "$STUB_OUT/evidence" ;; esac
    cat "$STUB_OUT/answer" 2> /dev/null
    exit 0 ;;
esac
task="${@: -1}"
echo "task $task restarts $SLURM_RESTART_COUNT" >> "$STUB_OUT/calls"
echo "says $task"
. "$STUB_OUT/behave"
"""


class Machine:
    """Five tasks, three in a job."""

    def __init__(self, folder, **profile):
        self.folder = folder
        self.out = folder / "out"
        self.out.mkdir()
        python = folder / "python"
        python.write_text(STUB)
        python.chmod(0o755)
        self.behave("")
        self.artifact = folder / "artifact"
        step = PlannedStep(
            name="extract", kind="extract", params={}, needs=(), inputs={},
            fingerprint="0" * 16, artifact=self.artifact, shards=[{}] * 5, done=(),
            resources=Resources(2, 1024, 0, 60, pack=3))
        plan = Plan("demo", "r", folder / "ws", ClusterProfile.model_validate(
            {"name": "local", "python": str(python), **profile}), (step,))
        self.script = folder / "script"
        self.script.write_text(scripts.render(plan, step))
        self.step = plan.step_folder("extract")
        self.step.logs.mkdir(parents=True)
        self.step.markers.mkdir()

    def behave(self, text):
        (self.out / "behave").write_text(text)

    def start(self, element=0, restarts=0):
        return subprocess.Popen(
            ["bash", str(self.script)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": f"{self.folder}:{os.environ['PATH']}", "STUB_OUT": str(self.out),
                 "SLURM_JOB_ID": "80", "SLURM_ARRAY_JOB_ID": "77",
                 "SLURM_ARRAY_TASK_ID": str(element), "SLURM_RESTART_COUNT": str(restarts)},
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL)
                                for each in (signal.SIGINT, signal.SIGQUIT)])

    def run(self, element=0, restarts=0):
        process = self.start(element, restarts)
        out, err = process.communicate(timeout=240)
        assert err == ""
        return process.returncode, out

    def calls(self):
        path = self.out / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def marker(self, name):
        return json.loads((self.step.markers / name).read_text())

    def hidden(self):
        return sorted(path.name for path in self.step.markers.glob(".*"))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_each_task_has_its_own_files(machine):
    assert machine.run(1) == (0, "task 3: exit code 0\ntask 4: exit code 0\n")
    assert machine.calls() == ["task 3 restarts 0", "task 4 restarts 0"]
    assert machine.step.log("77_1_3", "out").read_text() == "says 3\n"
    assert machine.step.log("77_1_4", "err").read_text() == ""
    assert machine.marker("4.begin")["job"] == machine.marker("4.exit")["job"] == "77_1"
    assert {path.name for path in machine.step.markers.iterdir()} == {
        "3.begin", "3.exit", "4.begin", "4.exit"}
    assert machine.run(2) == (0, "")  # there is no such element


def test_the_first_failure_is_that_of_the_job_and_stops_nothing(machine):
    machine.behave('exit $((task ? task + 4 : 0))')
    code, out = machine.run()
    assert (code, out.splitlines()) == (5, [f"task {n}: exit code {c}"
                                            for n, c in ((0, 0), (1, 5), (2, 6))])
    assert [machine.marker(f"{n}.exit")["code"] for n in range(3)] == [0, 5, 6]
    assert machine.hidden() == []


def test_after_a_requeue_what_is_done_or_failed_is_not_repeated(machine):
    (machine.artifact / "0000").mkdir(parents=True)
    (machine.artifact / "0000/result.json").write_text("{}")
    folder = machine.step.markers
    (folder / ".1.failed").write_text("77_0 9\n")
    (folder / "2.begin").write_text('{"job": "77_0", "node": "n", "restarts": 2}\n')
    assert machine.run(restarts=3) == (9, "task 2: exit code 0\n")
    assert machine.calls() == ["task 2 restarts 3"]
    assert machine.marker("2.begin")["restarts"] == 3
    assert machine.hidden() == []
    # what another job has left says nothing about this one
    (folder / ".1.failed").write_text("76_0 9\n")
    (folder / "2.begin").write_text('{"job": "76_0", "node": "n", "restarts": 2}\n')
    assert machine.run(restarts=1)[0] == 0
    assert machine.calls()[1:] == ["task 1 restarts 0", "task 2 restarts 0"]
    # nor anything, if the job starts for the first time
    (folder / ".1.failed").write_text("77_0 9\n")
    assert machine.run()[0] == 0
    assert machine.calls()[3:] == ["task 1 restarts 0", "task 2 restarts 0"]


def test_a_job_that_goes_back_starts_no_other_task(machine):
    machine.behave("exit $((task == 0 ? 3 : 85))")
    assert machine.run() == (85, "task 0: exit code 3\ntask 1: exit code 85\n")
    assert machine.hidden() == [".0.failed"]  # kept for the time after the requeue
    machine.behave("")
    assert machine.run(restarts=1) == (3, "task 1: exit code 0\ntask 2: exit code 0\n")
    assert machine.calls()[2:] == ["task 1 restarts 1", "task 2 restarts 0"]
    assert machine.hidden() == []


def test_a_signal_ends_the_task_and_the_job(machine):
    machine.behave('trap "exit 7" TERM; touch "$STUB_OUT/ready"\n'
                   'for _ in {1..2400}; do sleep 0.1; done')
    process = machine.start()
    until((machine.out / "ready").exists)
    process.terminate()
    process.communicate(timeout=240)
    assert process.returncode == 143
    assert machine.calls() == ["task 0 restarts 0"]
    assert (machine.marker("0.exit")["code"], machine.marker("0.exit")["signal"]) == (7, "TERM")
    assert machine.hidden() == []


@pytest.mark.parametrize("name", ["HUP", "USR1", "XCPU"])
def test_a_signal_that_no_step_handles_ends_the_job(machine, name):
    """No other task begins, and its marker says why."""
    machine.behave('echo $$ > "$STUB_OUT/pid"; touch "$STUB_OUT/ready"; exec sleep 240')
    process, number = machine.start(), getattr(signal, f"SIG{name}")
    until((machine.out / "ready").exists)
    process.send_signal(number)
    process.wait(timeout=240)
    os.kill(int((machine.out / "pid").read_text()), signal.SIGKILL)  # Slurm ends it with the job
    process.communicate()
    assert process.returncode == 128 + number
    assert machine.calls() == ["task 0 restarts 0"]
    seen = machine.marker("0.exit")
    assert (seen["code"], seen["signal"]) == (128 + number, name)


ENDS = ('if [ "$task" = 0 ]; then trap "touch $STUB_OUT/warned" USR2; touch "$STUB_OUT/ready"\n'
        'until [ -e "$STUB_OUT/warned" ]; do sleep 0.05; done; fi; exit 0')


def warn(machine):
    machine.behave(ENDS)
    process = machine.start()
    until((machine.out / "ready").exists)
    process.send_signal(signal.SIGUSR2)
    return process


def test_after_the_warning_no_task_begins_on_this_machine(machine):
    process = warn(machine)
    out, _ = process.communicate(timeout=240)
    assert (process.returncode, out) == (140, "task 0: exit code 0\ntask 1: exit code 140\n")
    assert machine.calls() == ["task 0 restarts 0"]
    assert machine.hidden() == []


@pytest.mark.parametrize(("number", "code", "calls"), [
    (signal.SIGUSR2, 140, []), (signal.SIGTERM, 143, []), (None, 0, ["task 1 restarts 0",
                                                                     "task 2 restarts 0"])])
def test_a_signal_between_two_tasks(machine, number, code, calls):
    pipe = machine.step.markers / ".1.failed"
    os.mkfifo(pipe)
    process = machine.start(restarts=1)
    with open(pipe, "w") as stream:  # once the script reads whether task 1 has failed
        if number is not None:
            process.send_signal(number)
        stream.write("76_0 9\n")
    process.communicate(timeout=240)
    assert process.returncode == code
    assert machine.calls() == ["task 0 restarts 0", *calls]
    if number == signal.SIGUSR2:  # it began, in order to ask for a requeue
        assert machine.marker("1.exit")["code"] == 140
    if number == signal.SIGTERM:
        assert not (machine.step.markers / "1.begin").exists()


def test_after_the_warning_the_next_task_asks_for_a_requeue(tmp_path):
    machine = Machine(tmp_path, name="far", srun=False)
    scontrol = Path(tmp_path / "scontrol")
    scontrol.write_text('#!/bin/bash\necho "scontrol $*" >> "' + str(machine.out / "calls") + '"\n')
    scontrol.chmod(0o755)
    (machine.out / "answer").write_text("again requeue\n")
    # it says that it waits for its end, and does so for three seconds and not for two minutes
    text = machine.script.read_text()
    waits = "for _ in {1..120}; do"
    assert text.count(waits) == 1
    machine.script.write_text(text.replace(waits, 'touch "$STUB_OUT/waits"; for _ in 1 2 3; do'))
    process = warn(machine)
    until((machine.out / "waits").exists)
    process.terminate()  # as Slurm does then
    process.communicate(timeout=240)
    assert process.returncode == 85
    assert machine.calls() == [
        "task 0 restarts 0", f"requeue {machine.step} 1 ended 140 in 0 1 2",
        "scontrol requeue 77_0"]
    assert machine.marker("0.exit")["code"] == 0 and machine.marker("1.exit")["signal"] == "TERM"
    assert machine.hidden() == []


def test_where_no_requeue_is_granted_the_job_ends(tmp_path):
    machine = Machine(tmp_path, name="far", srun=False)
    process = warn(machine)
    process.communicate(timeout=240)
    assert process.returncode == 140
    assert machine.calls() == ["task 0 restarts 0",
                               f"requeue {machine.step} 1 ended 140 in 0 1 2"]


def test_that_a_task_ran_out_of_memory_says_nothing_about_those_after_it(tmp_path):
    """Accounting and the control group tell of the whole job."""
    machine = Machine(tmp_path, name="far", srun=False)
    sacct = tmp_path / "sacct"
    sacct.write_text('#!/bin/bash\n'
                     'case "$*" in *"--format State,JobID"*) cat "$STUB_OUT/states" ;; esac\n')
    sacct.chmod(0o755)
    machine.behave('\n'.join((
        'if [ "$task" = 1 ]; then cp "$STUB_OUT/evidence" "$STUB_OUT/first"; fi',
        'if [ "$task" -lt 2 ]; then echo "OUT_OF_MEMORY|77_0.$task" >> "$STUB_OUT/states"; fi',
        'echo "of task $task" >&2; exit 9')))
    (machine.out / "states").write_text("RUNNING|77_0\n")
    assert machine.run()[0] == 9
    assert (machine.out / "first").read_text() == (
        "RUNNING|77_0\nOUT_OF_MEMORY|77_0.0\nof task 0\n")
    # the third task: nothing of the first two, only its log
    assert (machine.out / "evidence").read_text() == "of task 2\n"
    machine.behave('if [ "$task" = 2 ]; then cp "$STUB_OUT/evidence" "$STUB_OUT/second"; fi\n'
                   + (machine.out / "behave").read_text())
    (machine.out / "states").write_text("RUNNING|77_0\n")
    machine.run()
    assert (machine.out / "second").read_text() == "OUT_OF_MEMORY|77_0.1\nof task 1\n"
