"""Real bash over rendered scripts, with a stand-in for Python that looks at what arrives."""

import json
import os
import signal
import string
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.workflow import render
from l3hpc.workflow.model import Plan, PlannedStep, Resources
from l3hpc.workflow.profile import ClusterProfile

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
        path.write_text(render.render(made, item))
        return path, made.step_folder(item.name)

    def start(self, path, variables=None):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder),
                       "STUB_OUT": str(self.work), "SLURM_JOB_ID": "77",
                       "SLURM_CPUS_PER_TASK": "3", **(variables or {})}
        return subprocess.Popen(["bash", str(path)], env=environment, cwd=self.work,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, path, variables=None):
        process = self.start(path, variables)
        out, err = process.communicate(timeout=30)
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
    assert machine.arguments() == ["-u", "-m", "l3hpc.workflow.job_entry", str(folder / "logs")]
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
    end = time.monotonic() + 50
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
    assert process.wait(timeout=50) == 5
    assert (machine.work / "signals").read_text().split() == ["usr2"] * 3
    assert marker(folder, "0.exit")["code"] == 5
    process.communicate()


def test_term_ends_python_first(machine):
    machine.python.write_text(SIGNALLED)
    path, folder = machine.script()
    process = machine.start(path)
    wait_for(machine.work / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=50) == 9
    assert marker(folder, "0.exit")["code"] == 9
    process.communicate()


def test_a_killed_python_shows_its_signal(machine):
    machine.python.write_text("#!/bin/bash\nkill -KILL $$\n")
    path, folder = machine.script()
    assert machine.run(path)[0] == 137 and marker(folder, "0.exit")["code"] == 137


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
        value, str(machine.python), "-m", "l3hpc.workflow.healing.job", str(folder), "0",
        "failed", "3"]
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
