"""Real bash over rendered scripts, with a stand-in for Python that looks at what arrives."""

import json
import os
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.io.files import write_json
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts
from l3hpc.schedulers.requeue_policy import Policy
from l3hpc.workspace import markers

pytestmark = pytest.mark.slow

STUB = """#!/bin/bash
printf '%s\\0' "$@" > "$STUB_OUT/arguments"
env -0 > "$STUB_OUT/environment"
pwd > "$STUB_OUT/touched"
exit "${STUB_CODE:-0}"
"""
HOSTILE = ["$(touch pwned)", "`touch pwned`", "; touch pwned", "a'b", 'a"b', "a b", "-rf",
           "--help", "a\\b", "*", "~", "!x", "#x", "${HOME}", "&", "|cat", ">pwned",
           "é ü 漢字 🎵", "x" * 4000, "a\\", "=",
           "'$(touch pwned)'", "\"; touch pwned; \"", "%j", "{{ 7 * 7 }}", "{% raw %}"]


def step(name="train", tasks=1, done=()):
    return PlannedStep(name=name, kind="train", params={}, needs=(), inputs={},
                       fingerprint="0" * 16, artifact=Path("/none"), shards=[{}] * tasks,
                       done=tuple(done), resources=Resources(2, 1024, 0, 60))


def _listening():
    """The tests may run where Ctrl-C is ignored; bash cannot trap what it finds ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Machine:
    """A folder with a stand-in for Python, and a way to run a script as a job."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.python = self.folder / "python"
        self.python.write_text(STUB)
        self.python.chmod(0o755)
        self.work = self.folder / "work"
        self.work.mkdir()

    def plan(self, item, workspace=None, **profile):
        values = {"name": "local", "python": str(self.python), **profile}
        return Plan("r-20261120-1a2b", "r", Path(workspace or self.folder / "ws"),
                    ClusterProfile.model_validate(values), (item,))

    def script(self, item=None, workspace=None, **profile):
        item = item or step()
        made = self.plan(item, workspace, **profile)
        path = self.folder / "script"
        path.write_text(scripts.render(made, item))
        return path, made.step_folder(item.name).path

    def start(self, path, variables=None):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder),
                       "STUB_OUT": str(self.work), "SLURM_JOB_ID": "77",
                       "SLURM_CPUS_PER_TASK": "3", **(variables or {})}
        return subprocess.Popen(["bash", str(path)], env=environment, cwd=self.work,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                preexec_fn=_listening)

    def run(self, path, variables=None):
        process = self.start(path, variables)
        out, err = process.communicate(timeout=240)
        return process.returncode, out + err

    def arguments(self):
        return (self.work / "arguments").read_bytes().decode().split("\0")[:-1]

    def environment(self):
        pairs = (self.work / "environment").read_bytes().decode().split("\0")[:-1]
        return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path)


def marker(folder, name):
    return json.loads((folder / "markers" / name).read_text())


def test_the_command_and_its_environment(machine):
    path, folder = machine.script()
    code, said = machine.run(path, {"SBATCH_PARTITION": "evil"})
    assert (code, said) == (0, "")
    assert machine.arguments() == ["-u", "-m", "l3hpc.worker.job_entry", str(folder / "logs")]
    seen = machine.environment()
    assert seen["SUBMITIT_EXECUTOR"] == "slurm" and seen["SRUN_CPUS_PER_TASK"] == "3"
    assert seen["OMP_NUM_THREADS"] == seen["TF_NUM_INTRAOP_THREADS"] == "3"
    assert "SBATCH_PARTITION" not in seen


def test_markers_of_a_job(machine):
    path, folder = machine.script()
    before = time.time()
    machine.run(path, {"SLURM_RESTART_COUNT": "2"})
    begin, end = marker(folder, "0.begin"), marker(folder, "0.exit")
    assert begin["job"] == "77" and begin["restarts"] == 2 and begin["node"]
    assert before - 1 <= begin["time"] <= end["time"] <= time.time() + 1
    assert end["code"] == 0 and end["job"] == "77"
    assert not list((folder / "markers").glob(".*.tmp"))


def test_markers_of_an_array_task(machine):
    path, folder = machine.script(step(tasks=5))
    machine.run(path, {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "4"})
    assert marker(folder, "4.begin")["job"] == "70_4" and marker(folder, "4.exit")["code"] == 0


@pytest.mark.parametrize("code", [1, 2, 42, 75, 127, 255])
def test_the_exit_code_is_pythons(machine, code):
    path, folder = machine.script()
    assert machine.run(path, {"STUB_CODE": str(code)})[0] == code
    assert marker(folder, "0.exit")["code"] == code


def test_a_new_attempt_removes_the_old_end(machine):
    path, folder = machine.script()
    machine.run(path, {"STUB_CODE": "3"})
    machine.python.write_text('#!/bin/bash\nls "$STUB_OUT/../ws/runs/r-20261120-1a2b/steps/train'
                              '/markers"\n')
    code, said = machine.run(path)
    assert code == 0 and said.split() == ["0.begin"]


def test_a_failing_setup_line_fails_the_job(machine):
    path, folder = machine.script(setup=["true", "false", "true"])
    assert machine.run(path)[0] == 1
    assert marker(folder, "0.exit")["code"] == 1 and not (machine.work / "arguments").exists()


def test_setup_lines_may_use_unset_variables_the_rest_may_not(machine):
    path, _ = machine.script(setup=['export FOUND="${NOT_SET}x"'])
    assert machine.run(path)[0] == 0
    assert machine.environment()["FOUND"] == "x"


def test_a_missing_python_fails_the_job(machine):
    path, folder = machine.script(python="/no/such/python")
    code, said = machine.run(path)
    assert code == 127 and "/no/such/python" in said and marker(folder, "0.exit")["code"] == 127


def test_markers_that_cannot_be_written_stop_the_job(machine):
    path, folder = machine.script()
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    assert machine.run(path)[0] != 0 and not (machine.work / "arguments").exists()


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o640)])
def test_the_group_reads_only_where_the_profile_says_so(machine, shared, mode):
    path, folder = machine.script(shared_group=shared)
    machine.run(path)
    assert (folder / "markers" / "0.begin").stat().st_mode & 0o777 == mode
    assert (machine.work / "arguments").stat().st_mode & 0o777 == mode


SIGNALLED = """#!/bin/bash
trap 'echo usr2 >> "$STUB_OUT/signals"' USR2
trap 'echo term >> "$STUB_OUT/signals"; kill "$sleeper"; exit 9' TERM
touch "$STUB_OUT/ready"
for number in $(seq 600); do
    sleep 0.1 & sleeper=$!
    wait "$sleeper" || true
    if [ -e "$STUB_OUT/stop" ]; then exit 5; fi
done
exit 6
"""


def wait_for(path, lines=0):
    """Until the file is there and has so many lines."""
    end = time.monotonic() + 240
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.02)


def test_signals_go_to_python_and_its_code_comes_back(machine):
    machine.python.write_text(SIGNALLED)
    path, folder = machine.script()
    process = machine.start(path)
    wait_for(machine.work / "ready")
    for number in range(3):  # a checkpoint may be asked for more than once; the job goes on
        process.send_signal(signal.SIGUSR2)
        wait_for(machine.work / "signals", number + 1)
    assert process.poll() is None
    (machine.work / "stop").touch()
    assert process.wait(timeout=240) == 5
    assert (machine.work / "signals").read_text().split() == ["usr2"] * 3
    assert marker(folder, "0.exit")["code"] == 5
    process.communicate()


def test_term_ends_python_first(machine):
    machine.python.write_text(SIGNALLED)
    path, folder = machine.script()
    process = machine.start(path)
    wait_for(machine.work / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 9
    assert marker(folder, "0.exit")["code"] == 9
    process.communicate()


def test_a_killed_python_shows_its_signal(machine):
    machine.python.write_text("#!/bin/bash\nkill -KILL $$\n")
    path, folder = machine.script()
    assert machine.run(path)[0] == 137 and marker(folder, "0.exit")["code"] == 137


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "XCPU", "KILL"])
def test_a_signal_during_the_setup_lines_is_the_exit_code(machine, name):
    """At once, though bash would first wait for the program that the line runs."""
    lasting = "until [ -e on ]; do touch ready; sleep 0.1; done"
    path, folder = machine.script(setup=[f"cd {machine.work}; sh -c '{lasting}'"])
    process = machine.start(path)
    wait_for(machine.work / "ready")
    target = process.pid
    if name == "KILL":  # what ends the shell of the work; the whole script can write nothing then
        target = int(Path(f"/proc/{target}/task/{target}/children").read_text().split()[0])
    number = getattr(signal, f"SIG{name}")
    os.kill(target, number)
    assert process.wait(timeout=240) == 128 + number
    (machine.work / "on").touch()
    for stream in (process.stdout, process.stderr):
        stream.close()
    end = marker(folder, "0.exit")
    assert (end["code"], end["stage"]) == (128 + number, "setup")
    assert not (machine.work / "arguments").exists()


def test_a_signal_while_the_first_marker_is_written_is_the_exit_code_too(machine):
    path, folder = machine.script()
    slow = machine.folder / "bin" / "mkdir"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\n/bin/mkdir \"$@\"; cd {machine.work}\n"
                    "until [ -e on ]; do touch ready; /bin/sleep 0.1; done\n")
    slow.chmod(0o755)
    process = machine.start(path, {"PATH": f"{slow.parent}:{os.environ['PATH']}"})
    wait_for(machine.work / "ready")
    process.send_signal(signal.SIGTERM)
    (machine.work / "on").touch()
    assert process.wait(timeout=240) == 143
    process.communicate()
    assert marker(folder, "0.exit")["code"] == 143 and not (folder / "markers/0.begin").exists()


def test_a_signal_to_all_at_once_is_not_lost_with_the_code(machine):
    """As Slurm does it: the shell dies just when its parent is told. bash then knows no code."""
    path, folder = machine.script(setup=["kill -s TERM $$ $BASHPID; sleep 1"])
    for _ in range(20):
        assert machine.run(path)[0] == marker(folder, "0.exit")["code"] == 143


@pytest.mark.parametrize(("lines", "code", "stage"), [
    (["exit 0"], 1, "setup"), (["exit 3"], 3, "setup"), (["false"], 1, "setup"),
    (["trap 'true' EXIT", "exit 0"], 1, "setup"), (["no-such-command"], 127, "setup"),
    (["set +e", "false"], 7, "step"), (["trap - EXIT TERM USR2", "trap '' TERM"], 7, "step"),
    (["trap 'touch cleaned' EXIT"], 7, "step"), (["cd /", "unset HOME job task markers node"], 7,
                                                 "step"),
    (["markers=/nowhere task=9 job=x child=1 code=0 work=1 got=1"], 7, "step"),
    (["unset $(compgen -v | grep -v -x -e PATH -e STUB_OUT -e STUB_CODE) 2> /dev/null || true"], 7,
     "step"),
    (["IFS=,", "set -f", "exec 3< /dev/null"], 7, "step")])
def test_what_setup_lines_may_do_to_the_shell(machine, lines, code, stage):
    path, folder = machine.script(setup=lines)
    status, said = machine.run(path, {"STUB_CODE": "7"})
    end = marker(folder, "0.exit")
    assert (status, end["code"], end["stage"], end["job"]) == (code, code, stage, "77"), said
    assert (machine.work / "arguments").exists() is (stage == "step")
    assert ("the setup lines ended the script with exit 0" in said) is ("exit 0" in lines)
    assert (machine.work / "cleaned").exists() is any("cleaned" in line for line in lines)


@pytest.mark.parametrize("sites", [{"SLURM_EXPORT_ENV": "NONE"}, {"SRUN_EXPORT_ENV": "PATH,HOME"}])
def test_a_site_that_exports_nothing_does_not_empty_the_step(machine, sites):
    path, _ = machine.script(executor="slurm", env={"WANTED": "it"})
    srun = machine.folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nwhile [[ "$1" = --* ]]; do echo "$1"; shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    code, said = machine.run(path, {"PATH": f"{srun.parent}:{os.environ['PATH']}", **sites})
    assert code == 0 and said.startswith("--export=ALL\n")
    seen = machine.environment()
    assert seen["WANTED"] == "it" and not {*sites} & {*seen}


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
            executor="slurm", srun=False, container=[str(inside)], **profile)
        (self.folder / "logs").mkdir(parents=True)
        self.machine = machine

    def run(self, step, variables=None, policy=None):
        self.machine.work.joinpath("step").write_text(f"#!/bin/sh\n{step}\n")
        self.machine.work.joinpath("step").chmod(0o755)
        rules = Policy(mem_mb=200, time_min=1, **(policy or {}))
        write_json(self.folder / "heal.json", rules.to_json())
        text = self.path.read_text().replace("sleep 120 &", "sleep 0 &").replace(
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


def test_the_time_limit_heals_from_a_container_without_slurm(hidden):
    assert hidden.run('[ "$L3HPC_REQUEUES" = 1 ] && exit 85') == 85
    [entry] = hidden.marks.requeues
    assert (entry["reason"], entry["time_min"]) == ("time limit", 2)
    assert hidden.slurm.calls("scontrol") == ["scontrol requeuehold 77"]
    assert hidden.run("exit 85", policy={"continues": True}) == 85
    assert hidden.slurm.calls("scontrol")[1:] == ["scontrol requeue 77"]
    assert hidden.run("exit 85", policy={"time": 2}) == 85
    assert hidden.marks.gave_up == "time limit (2 min) after 2 requeues (1 min → 2 min)"


def test_a_refused_requeue_is_not_shown_as_one(hidden):
    hidden.slurm.says("scontrol", "echo 'scontrol: error: Access denied' >&2; exit 1")
    assert hidden.run(f"{OOM} kill -9 $$") == 137
    assert hidden.marks.requeues == [] and hidden.marks.restarts == 0
    assert hidden.marks.gave_up == ("out of memory; Slurm did not requeue it: "
                                    "scontrol: error: Access denied")


@pytest.mark.parametrize("lost", [
    "echo 'Socket timed out on send/recv operation' >&2; exit 1",
    "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "exit 124"])
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


@pytest.mark.parametrize("states", [["RUNNING", "COMPLETING", "PENDING"], ["", "PENDING"]])
def test_the_helper_waits_until_the_job_is_in_the_queue_again(hidden, states, tmp_path):
    hidden.run(f"{OOM} kill -9 $$")
    [helper] = hidden.slurm.calls("sbatch")
    text = (hidden.slurm.folder / "calls").read_text().partition(" --wrap ")[2].partition(
        "\nscontrol ")[0]
    said = tmp_path / "states"
    said.write_text("".join(f"{state}\n" for state in states))
    hidden.slurm.says("squeue", f"head -n 1 {said}; sed -i 1d {said}")
    subprocess.run(["sh", "-c", text], check=True, timeout=240)
    assert hidden.slurm.calls("scontrol")[-2:] == [
        "scontrol update JobId=77 MinMemoryNode=400", "scontrol release 77"]


def test_an_empty_script_of_a_sweep_is_no_success(machine):
    text = scripts.render_template("job-array.sbatch.j2",
                           {"directives": [], "folders": [str(machine.work)]})
    (machine.work / "logs").mkdir()
    (machine.work / "script.sbatch").write_text("")
    path = machine.folder / "array"
    path.write_text(text)
    assert machine.run(path, {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0"})[0] == 1
    assert "is missing or empty" in (machine.work / "logs/5_0_0_log.err").read_text()


ANY = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60),
                st.text(alphabet=string.punctuation + " \n\t", max_size=30))
RELAXED = settings(max_examples=40, deadline=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_arrive_unharmed(machine, value):
    check_arrives(machine, value)


@RELAXED
@given(ANY)
@example("a\nb")
@example("\x00")
def test_any_value_arrives_unharmed_or_is_refused(machine, value):
    check_arrives(machine, value)


def check_arrives(machine, value):
    """As an environment variable, a word of the launcher, and a part of the workspace's path."""
    for name in ("arguments", "environment"):
        (machine.work / name).unlink(missing_ok=True)
    launcher = [str(machine.python), value]
    try:
        path, _ = machine.script(env={"VALUE": value}, container=launcher)
    except (InputError, ValueError):
        assert refused_rightly(value)
        return
    code, said = machine.run(path)
    assert (code, said) == (0, "")
    assert machine.environment()["VALUE"] == value
    assert machine.arguments()[0] == value
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


@RELAXED
@given(ANY)
@example("$(touch pwned)")
@example("-rf")
def test_the_command_that_asks_for_another_attempt_is_harmless_too(machine, value):
    (machine.work / "arguments").unlink(missing_ok=True)
    try:
        path, folder = machine.script(executor="slurm", srun=False,
                                      container=[str(machine.python), value])
    except (InputError, ValueError):
        assert refused_rightly(value)
        return
    assert machine.run(path, {"STUB_CODE": "3"}) == (3, "")
    assert machine.arguments() == [
        value, str(machine.python), "-m", "l3hpc.worker.requeue", str(folder), "0",
        "ended", "3"]
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


def refused_rightly(value):
    """Only control characters (and what UTF-8 cannot hold) are refused here."""
    import unicodedata

    return any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in value)


@RELAXED
@given(ANY)
@example("a b")
@example("é")
@example("$(touch pwned)")
def test_a_workspace_of_any_name_works_or_is_refused(machine, value):
    workspace = machine.folder / "spaces" / value
    if not value or "/" in value or value in (".", "..") or len(value.encode(
            errors="replace")) > 200:
        return
    (machine.work / "arguments").unlink(missing_ok=True)
    try:
        path, folder = machine.script(workspace=workspace)
    except InputError:
        assert refused_rightly(value) or any(one in value for one in "\"'\\")
        return
    code, said = machine.run(path)
    assert (code, said) == (0, "")
    assert machine.arguments()[-1] == str(folder / "logs")
    assert marker(folder, "0.exit")["code"] == 0
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


@RELAXED
@given(ANY)
def test_slurm_names_are_one_harmless_line_or_refused(machine, value):
    try:
        profile = dict.fromkeys(("account", "partition", "qos", "constraint", "reservation",
                                 "wckey", "mail_user", "exclude"), value)
        path, _ = machine.script(executor="slurm", **profile)
    except (InputError, ValueError):
        return
    said = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH")]
    assert f"#SBATCH --account={value}" in said or f'#SBATCH --account="{value}"' in said
    head = path.read_text().split("set -euo pipefail")[0].splitlines()
    assert all(line.startswith("#") or not line for line in head)
    assert not value.startswith("-") and not any(one.isspace() for one in value)


@pytest.mark.parametrize("level", [None, "WARNING"])
def test_submitting_leaves_the_logging_of_the_process_alone(level, monkeypatch):
    """submitit's own configuration would close all handlers: a notebook's log, absl's stderr."""
    code = """
import io, logging, os
stream = io.StringIO()
class Handler(logging.StreamHandler):
    def close(self):
        self.stream.close()
handler = Handler(stream)
logging.getLogger("notebook").addHandler(handler)
from l3hpc.schedulers.scripts import import_submitit
import_submitit().DelayedSubmission
logging.getLogger("notebook").warning("still here")
print(stream.getvalue().strip(), os.environ.get("SUBMITIT_LOG_LEVEL"))
"""
    monkeypatch.delenv("SUBMITIT_LOG_LEVEL", raising=False)
    if level:
        monkeypatch.setenv("SUBMITIT_LOG_LEVEL", level)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"still here {level}\n", done.stderr
