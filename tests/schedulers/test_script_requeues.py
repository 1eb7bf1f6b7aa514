"""Real bash over rendered scripts: what a job whose command has failed asks Slurm for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l3hpc.io.files import write_json
from l3hpc.schedulers.requeue_policy import Policy
from l3hpc.schedulers.slurm import commands
from l3hpc.workspace import markers

pytestmark = pytest.mark.slow


class Hidden:
    """A job on a Slurm of make-believe, in a container that holds none of Slurm's commands."""

    def __init__(self, machine, slurm, **profile):
        self.slurm, empty = slurm, machine.folder / "empty"
        empty.mkdir()
        inside = machine.folder / "container"
        inside.write_text(f'#!/bin/sh\nPATH={empty} exec "$@"\n')
        inside.chmod(0o755)
        machine.python.write_text(
            f'#!/bin/sh\ncase "$*" in *job_entry*) exec {machine.work}/step ;;'
            f' *) exec {sys.executable} "$@" ;; esac\n')
        for name in ("scontrol", "sbatch", "sacct"):
            slurm.says(name, "echo 101")
        self.path, self.folder = machine.script(
            executor="slurm", container=[str(inside)], **{"srun": False, **profile})
        (self.folder / "logs").mkdir(parents=True)
        self.machine = machine

    def run(self, step, variables=None, policy=None):
        self.machine.work.joinpath("step").write_text(f"#!/bin/sh\n{step}\n")
        self.machine.work.joinpath("step").chmod(0o755)
        rules = Policy(**{"mem_mb": 200, "time_min": 1, **(policy or {})})
        write_json(self.folder / "heal.json", rules.to_json())
        text = self.path.read_text().replace("{1..120}; do", "{1..3}; do").replace(
            "        sleep 1 &", "        sleep 0.01 &").replace(
            "for pause in 5 15 30 60 0;", "for pause in 0.01 0.02 0;")
        self.path.write_text(text)
        with open(self.machine.folder / "log", "ab") as log:
            return subprocess.run(
                ["bash", self.path], stderr=log, stdout=log, timeout=240, cwd=self.machine.work,
                env={"PATH": os.environ["PATH"], "HOME": "/", "SLURM_JOB_ID": "77",
                     "SLURM_JOB_NAME": "l3", **(variables or {})}).returncode

    @property
    def marks(self):
        return markers.read(self.folder / "markers")[0]


OOM = "/bin/echo 'slurmstepd: error: Detected 1 oom_kill event in StepId=77.0.' >&2; "


@pytest.fixture
def hidden(machine, slurm):
    return Hidden(machine, slurm)


def test_memory_heals_from_a_container_without_slurm(hidden):
    assert hidden.run(f"{OOM} kill -9 $$",
                      policy={"helper": ("--partition=cpu", "--comment=grant 7")}) == 137
    [entry] = hidden.marks.requeues
    assert (entry["reason"], entry["mem_mb"]) == ("out of memory", 400) and "held" not in entry
    assert hidden.slurm.calls("scontrol") == ["scontrol requeuehold 77"]
    [helper] = hidden.slurm.calls("sbatch")
    assert "--mem=100M --partition=cpu --comment=grant 7 --wrap" in helper
    assert "set -- 77 MinMemoryNode=400; job=" in helper
    assert hidden.run("kill -9 $$") == 137  # what an earlier attempt wrote into the log is old
    assert len(hidden.marks.requeues) == 1


def test_the_job_that_changes_a_request_inherits_none_of_it(hidden):
    """Slurm 24.11 sets SLURM_TRES_PER_TASK, which would contradict the options of the small job."""
    hidden.run(f"{OOM} kill -9 $$", {"SLURM_TRES_PER_TASK": "cpu=2", "SLURM_OOM_KILL_STEP": "0",
                                     "SLURM_CONF": "/etc/slurm.conf"})
    seen = {name for name in hidden.slurm.environment() if name.startswith(("SLURM", "SRUN"))}
    assert hidden.slurm.calls("sbatch") and seen == {"SLURM_CONF"}


@pytest.mark.parametrize("has_result", [False, True])
def test_srun_that_gave_up_waiting_for_a_killed_step_is_not_believed(machine, slurm, has_result):
    """Seen on a busy Slurm 26.05, whose srun then exits with 0: the next step began."""
    slurm.says("srun", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    hidden = Hidden(machine, slurm, srun=True)
    text = hidden.path.read_text()
    artifact = re.search(r"printf -v result '%s/%04d/result.json' (\S+) ", text)[1]
    hidden.path.write_text(text.replace(f" {artifact} ", f" {machine.folder}/artifact "))
    if has_result:
        (machine.folder / "artifact/0000").mkdir(parents=True)
        write_json(machine.folder / "artifact/0000/result.json", {})
    gave_up = "/bin/echo 'srun: error: Timed out waiting for job step to complete' >&2"
    assert hidden.run(f"{OOM} {gave_up}; exit 0") == (0 if has_result else 1)
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == [400] * (not has_result)


@pytest.mark.parametrize(("step", "code"), [("kill -9 $$", 137), ("exit 9", 9), ("exit 1", 1)])
def test_a_kill_alone_says_nothing_of_memory(hidden, step, code):
    assert hidden.run(step) == code
    assert hidden.marks.requeues == [] and hidden.marks.gave_up == ""
    assert hidden.slurm.calls("scontrol") == hidden.slurm.calls("sbatch") == []


def test_what_was_told_to_end_is_not_put_back_whatever_the_log_says(hidden):
    assert hidden.run(f"{OOM} trap '' TERM; kill -s TERM $PPID; /bin/sleep 0.3; kill -9 $$") == 137
    assert hidden.marks.requeues == [] and hidden.slurm.calls("scontrol") == []


def test_accounting_says_so_too(hidden):
    hidden.slurm.says("sacct", "echo RUNNING; echo OUT_OF_MEMORY")
    assert hidden.run("kill -9 $$") == 137
    assert [entry["reason"] for entry in hidden.marks.requeues] == ["out of memory"]


@pytest.mark.parametrize(("line", "counter"), [
    ("0::/system.slice/n1_slurmstepd.scope/job_77/step_batch/user/task_0",
     "system.slice/n1_slurmstepd.scope/job_77/memory.events"),
    ("0::/system.slice/n1_slurmstepd.scope/s4K5M8KRK4N500/step_batch/user/task_0",  # 26.05
     "system.slice/n1_slurmstepd.scope/s4K5M8KRK4N500/memory.events"),
    ("9:memory:/slurm/uid_0/job_77/step_batch/task_0",
     "memory/slurm/uid_0/job_77/step_batch/memory.oom_control")])
def test_the_control_group_says_so_too(hidden, tmp_path, line, counter):
    (tmp_path / "own").write_text(line + "\n")
    (tmp_path / "group" / counter).parent.mkdir(parents=True)
    (tmp_path / "group" / counter).write_text("oom 1\noom_kill 1\n")
    hidden.path.write_text(hidden.path.read_text().replace(
        "/proc/self/cgroup", f"{tmp_path}/own").replace("/sys/fs/cgroup", f"{tmp_path}/group"))
    assert hidden.run("kill -9 $$") == 137
    assert [entry["reason"] for entry in hidden.marks.requeues] == ["out of memory"]


def test_the_time_limit_heals_from_a_container_without_slurm(hidden):
    assert hidden.run("exit 85", policy={"continues": True, "time_min": 10}) == 85
    assert hidden.slurm.calls("scontrol") == ["scontrol requeue 77"]
    assert hidden.run('[ "$L3HPC_REQUEUES" = 1 ] && exit 85') == 85
    entry = hidden.marks.requeues[-1]
    assert (entry["reason"], entry["time_min"]) == ("time limit", 2)
    assert hidden.slurm.calls("scontrol")[1:] == ["scontrol requeuehold 77"]
    assert hidden.run("exit 85", policy={"time": 1}) == 85
    assert hidden.marks.gave_up == "time limit (2 min) after 1 requeue (1 min → 2 min)"


def test_a_refused_requeue_is_not_shown_as_one(hidden):
    hidden.slurm.says("scontrol", "echo 'scontrol: error: Access denied' >&2; exit 1")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.marks.requeues == [] and hidden.marks.restarts == 0
    assert hidden.marks.gave_up == ("out of memory; Slurm did not requeue it: "
                                    "scontrol: error: Access denied")


@pytest.mark.parametrize("lost", [
    "echo 'Socket timed out on send/recv operation' >&2; exit 1",
    "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "exit 124",
    # 22.05, which does it nevertheless when its controller goes on
    "echo 'Unexpected message received for job 77' >&2; exit 1"])
def test_scontrol_is_asked_again_where_its_answer_is_lost(hidden, lost):
    hidden.slurm.says("scontrol", f"[ -e {hidden.folder}/once ] && exit; touch "
                                  f"{hidden.folder}/once; {lost}")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == [400]
    assert hidden.slurm.calls("scontrol") == ["scontrol requeuehold 77"] * 2
    hidden.slurm.says("scontrol", lost)
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert "Slurm did not requeue it" in hidden.marks.gave_up
    assert len(hidden.slurm.calls("scontrol")) == 2 + 3


@pytest.mark.parametrize(("reply", "is_lost"), [
    *((reply, True) for reply in (
        "Socket timed out on send/recv operation", "Zero Bytes were transmitted or received",
        "Unable to contact slurm controller (connect failure)", "Connection refused",
        "Connection reset by peer", "Communication connection failure", "No route to host",
        "Transport endpoint is not connected", "Resource temporarily unavailable",
        "Slurm controller not responding", "Unexpected message received",
        "Slurm backup controller is shutting down")),
    *((reply, False) for reply in (
        "Job is pending execution", "Access/permission denied", "Invalid job id specified"))])
def test_script_and_python_agree_on_a_controller_that_was_not_reached(hidden, reply, is_lost):
    lost = re.search(r"^lost='(.*?)'$", hidden.path.read_text(), re.MULTILINE | re.DOTALL)[1]
    said = subprocess.run(["bash", "-c", f'{lost}\nlost "$1"', "bash", f"scontrol: error: {reply}"])
    assert (said.returncode == 0) == is_lost
    assert bool(commands._NOT_REACHED.search(reply)) == is_lost


def lose_first_reply(hidden):
    """The requeue is done, so that a second one is refused."""
    hidden.slurm.says("scontrol", f"if [ -e {hidden.folder}/once ]; then\n"
                                  "echo 'Job is pending execution' >&2; exit 1; fi\n"
                                  f"touch {hidden.folder}/once; exit 124")


@pytest.mark.parametrize(("state", "gave_up"), [("COMPLETING", ""), ("PENDING", ""), (
    "RUNNING", "out of memory; Slurm did not requeue it: Job is pending execution")])
def test_a_requeue_that_is_refused_because_it_was_done_is_one(hidden, state, gave_up):
    """The reply to the first call was lost, and the node is slow to end the script."""
    lose_first_reply(hidden)
    hidden.slurm.says("squeue", f"echo 'WARNING: maintenance'; echo {state}")  # as a site may
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.marks.gave_up == gave_up
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == [400] * (not gave_up)


def find_scripts(hidden):
    """Lines of a stub that note the processes of the script which called it."""
    return f"""up=$PPID scripts=
while [ "$up" -gt 1 ]; do
    one="$up" up="$(sed 's/.*) //' /proc/$up/stat | cut -d ' ' -f 2)"
    if [ "$(tr '\\0' ' ' < /proc/$one/cmdline)" = "bash {hidden.path} " ]; then
        scripts="$scripts $one"; fi
done"""


@pytest.mark.parametrize("later_s", [0, 0.5])
def test_a_squeue_that_slurm_ends_with_the_script_is_no_refusal(hidden, later_s):
    """The requeue whose reply was lost begins, and ends all processes of the job, one by one."""
    lose_first_reply(hidden)
    hidden.slurm.says("squeue", f"""{find_scripts(hidden)}
if [ ! -e {hidden.folder}/ended ]; then
    touch {hidden.folder}/ended
    if [ {later_s} = 0 ]; then kill -TERM $scripts
    else (sleep {later_s}; kill -TERM $scripts) > /dev/null 2>&1 & fi
fi
exit 143""")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.marks.gave_up == ""
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == [400]


@pytest.mark.parametrize("ended", [True, False])
def test_a_script_that_slurm_ends_does_not_wait_to_be_killed(hidden, ended):
    """The job would start again only after KillWait, by default half a minute."""
    hidden.slurm.says("sleep", "")
    hidden.slurm.says("scontrol", f"{find_scripts(hidden)}; kill -TERM $scripts" if ended else "")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.slurm.calls("sleep") == ["sleep 0.01"] * 3 * (not ended)
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == [400]


def test_a_requeue_is_refused_although_squeue_says_nothing(hidden):
    lose_first_reply(hidden)
    hidden.slurm.says("squeue", "exit 1")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.marks.gave_up == ("out of memory; Slurm did not requeue it: "
                                    "Job is pending execution")


def test_a_node_without_scontrol_is_a_plain_message(machine, slurm, monkeypatch):
    found = machine.folder / "found"
    found.mkdir()
    for folder in os.environ["PATH"].split(":")[1:]:
        for program in Path(folder).glob("*") if Path(folder).is_dir() else ():
            if not program.name.startswith(("scontrol", "sbatch", "sacct")) and not (
                    found / program.name).is_symlink():
                (found / program.name).symlink_to(program)
    hidden = Hidden(machine, slurm)
    assert hidden.run("exit 85", {"PATH": str(found)}) == 85
    assert hidden.marks.gave_up == ("time limit; Slurm did not requeue it: "
                                    "scontrol is not on this node")
    assert hidden.marks.requeues == []


def test_where_no_helper_can_be_submitted_it_is_held(hidden):
    hidden.slurm.says("sbatch", "echo 'sbatch: error: not from a compute node' >&2; exit 1")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    [entry] = hidden.marks.requeues
    assert entry["held"] is True and entry["mem_mb"] == 400
    assert hidden.slurm.calls("scontrol") == ["scontrol requeuehold 77"]


def test_a_job_that_wakes_up_on_the_node_that_failed_leaves_it(hidden):
    hidden.slurm.says("sacct", "echo 'NODE_FAIL|n1|2026-11-27T10:00:00'")
    variables = {"SLURM_RESTART_COUNT": "1", "SLURMD_NODENAME": "n1"}
    assert hidden.run(": > started", variables) == 1
    assert not (hidden.machine.work / "started").exists()
    assert [entry["reason"] for entry in hidden.marks.requeues] == ["node failure"] * 2
    assert hidden.slurm.calls("scontrol") == ["scontrol requeuehold 77"]
    assert "set -- 77 ExcNodeList=n1; job=" in hidden.slurm.calls("sbatch")[0]
    assert hidden.run(": > started", {**variables, "SLURM_RESTART_COUNT": "2"}) == 0


def test_each_restart_is_noted_once_also_after_one_that_reached_no_script(hidden):
    """Slurm restarts a job whose node could not start it (a prolog that fails)."""
    hidden.slurm.says("sacct", "")
    assert hidden.run(f"{OOM} kill -9 $$", {"SLURM_RESTART_COUNT": "2"}) == 137
    assert [(entry["reason"], entry["restarts"]) for entry in hidden.marks.requeues] == [
        ("requeued by Slurm", 1), ("out of memory", 2)]
    assert hidden.run(": > started", {"SLURM_RESTART_COUNT": "3"}) == 0
    assert hidden.run(": > started", {"SLURM_RESTART_COUNT": "5"}) == 0
    assert [entry["reason"] for entry in hidden.marks.requeues] == [
        "requeued by Slurm", "out of memory", "requeued by Slurm"]


@pytest.mark.parametrize(("has", "then"), [
    ("400", [400, 800]),
    ("200", [400, 400]),  # released before the helper job had changed it, or its node failed
    ("150", [400, 800]),  # the site changes what is requested
])
def test_what_was_requested_but_not_granted_is_not_doubled(hidden, has, then):
    hidden.run(f"{OOM} kill -9 $$", {"SLURM_MEM_PER_NODE": "200"})
    hidden.run(f"{OOM} kill -9 $$", {"SLURM_MEM_PER_NODE": has, "SLURM_RESTART_COUNT": "1"})
    assert [entry["mem_mb"] for entry in hidden.marks.requeues] == then
    assert hidden.slurm.calls("sbatch")[1].count(f"MinMemoryNode={then[1]};") == 1


@pytest.mark.parametrize("states", [["RUNNING", "COMPLETING", "PENDING"], ["", "PENDING"]])
def test_the_helper_waits_until_the_job_is_in_the_queue_again(hidden, states, tmp_path):
    hidden.run(f"{OOM} kill -9 $$")
    [helper] = hidden.slurm.calls("sbatch")
    text = (hidden.slurm.folder / "calls").read_text().partition(" --wrap ")[2].partition(
        "\nscontrol ")[0]
    said = tmp_path / "states"
    said.write_text("".join(f"{state}\n" for state in states))
    hidden.slurm.says("squeue", "echo 'WARNING: PENDING maintenance'; echo 'on Friday' >&2\n"
                                f"head -n 1 {said}; sed -i 1d {said}")
    subprocess.run(["sh", "-c", text], check=True, timeout=240)
    assert hidden.slurm.calls("scontrol")[-2:] == [
        "scontrol update JobId=77 MinMemoryNode=400", "scontrol release 77"]


@pytest.mark.parametrize(("fails", "calls"), [
    ('[ "$1" = update ]', ["update", "update", "release"]),
    ('[ "$1" = release ]', ["update", "release", "update", "release"])])
@pytest.mark.parametrize("reply", [
    "slurm_update error: Job update not available right now, the DB index is being set, "
    "try again in a bit", "Socket timed out on send/recv operation"])
def test_the_helper_asks_again_where_slurm_says_later(hidden, tmp_path, fails, calls, reply):
    hidden.run(f"{OOM} kill -9 $$")
    text = (hidden.slurm.folder / "calls").read_text().partition(" --wrap ")[2].partition(
        "\nscontrol ")[0]
    hidden.slurm.says("squeue", "echo PENDING")
    hidden.slurm.says("scontrol", f"if {fails} && ! [ -e {tmp_path}/once ]; then\n"
                                  f"touch {tmp_path}/once; echo '{reply}' >&2; exit 1; fi")
    subprocess.run(["sh", "-c", text], check=True, timeout=240)
    assert [call.split()[1] for call in hidden.slurm.calls("scontrol")[1:]] == calls
    hidden.slurm.says("scontrol", "echo 'Access/permission denied' >&2; exit 1")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "Access/permission denied" in done.stderr
    assert done.stderr.rstrip().endswith("job 77 (PENDING) was not changed; next: l3hpc resume")
