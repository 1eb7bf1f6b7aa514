"""Real bash over rendered scripts: markers, exit codes, signals and setup lines of a job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted import marker, step
from waiting import until

from l3hpc.schedulers import templates

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("looked_before", [False, True])
def test_a_job_that_ends_late_leaves_the_markers_of_the_next_one_alone(machine, looked_before):
    """A cancelled one, which Slurm has not ended yet when ``resume`` submits its task again; or it
    looked whose markers they are, and the next one began a moment later."""
    path, folder = machine.script()
    marks = folder / "markers"
    machine.python.write_text(f"""#!/bin/bash
touch {folder}/began.$SLURM_JOB_ID
until [ -e {folder}/over.$SLURM_JOB_ID ]; do sleep 0.05; done
[ "$SLURM_JOB_ID" = 78 ]
""")
    jobs = {}
    for job in ("77", "78"):
        jobs[job] = machine.start(path, {"SLURM_JOB_ID": job})
        until((folder / f"began.{job}").exists)
    begun = (marks / "0.begin").read_text()
    if looked_before:
        (marks / "0.begin").write_text(begun.replace('"78"', '"77"'))
    (folder / "over.77").touch()
    jobs["77"].communicate(timeout=60)
    assert jobs["77"].returncode == 1 and (marks / "0.exit").exists() == looked_before
    (marks / "0.begin").write_text(begun)
    (folder / "over.78").touch()
    jobs["78"].communicate(timeout=60)
    assert jobs["78"].returncode == 0
    assert marker(folder, "0.exit")["job"] == "78" and not list(marks.glob("*.step"))
    assert marker(folder, "0.exit")["stage"] == "step"


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


def test_an_empty_script_of_a_sweep_is_no_success(machine):
    text, _ = templates.render(["job-array.sbatch.j2"],
                               {"directives": [], "folders": [str(machine.work)]})
    (machine.work / "logs").mkdir()
    (machine.work / "script.sbatch").write_text("")
    path = machine.folder / "array"
    path.write_text(text)
    assert machine.run(path, {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0"})[0] == 1
    assert "is missing or empty" in (machine.work / "logs/5_0_0_log.err").read_text()


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
from l3hpc.schedulers.pickled_calls import import_submitit
import_submitit().DelayedSubmission
logging.getLogger("notebook").warning("still here")
print(stream.getvalue().strip(), os.environ.get("SUBMITIT_LOG_LEVEL"))
"""
    monkeypatch.delenv("SUBMITIT_LOG_LEVEL", raising=False)
    if level:
        monkeypatch.setenv("SUBMITIT_LOG_LEVEL", level)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"still here {level}\n", done.stderr
