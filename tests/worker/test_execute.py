"""One task at work: from a frozen config to a finished folder."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fakestep
import pytest
from latenames import LateNames

import l3hpc.steps
from l3hpc.console.formatting import describe_progress
from l3hpc.console.progress import Progress, doing
from l3hpc.errors import ClusterError, InputError, L3hpcError
from l3hpc.io.files import read_json, write_json
from l3hpc.schedulers.requeue_policy import Policy
from l3hpc.worker import execute, job_entry
from l3hpc.workspace import artifacts, markers
from l3hpc.workspace.lease import Lease

pytestmark = pytest.mark.slow


@pytest.fixture
def config(chains, tmp_path, monkeypatch):
    """Write the config of a fake step and return its path."""
    monkeypatch.setattr(l3hpc.steps, "step", fakestep.named)

    def write(name="extract", tasks=1, run="demo", **params):
        made = chains.plan(tmp_path, run, tasks={name: tasks}, params={name: params})
        step = next(step for step in made.steps if step.name == name)
        path = made.step_folder(name).config
        write_json(path, step.config(run))
        return path

    return write


def run(path, index=0):
    return execute.run_task(path, index, progress=Progress())


@pytest.mark.parametrize("state, restarts, ends", [
    ("cancelled", "1", True), ("cancelled", "0", False), ("submitted", "1", False)])
def test_a_requeued_attempt_of_a_cancelled_run_computes_nothing(
        config, monkeypatch, capsys, state, restarts, ends):
    """Slurm requeues a job that was cancelled while it asked for that."""
    path = config()
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(execute.terminal, "install_safe_output", lambda **lossy: None)
    monkeypatch.setattr(execute.signal, "signal", lambda *arguments: None)
    write_json(path.parents[2] / "run.json", {"state": state})
    if ends:
        with pytest.raises(SystemExit) as caught:
            execute.TaskCall(str(path), 0)()
        assert caught.value.code == 143 and "was cancelled" in capsys.readouterr().err
    else:
        execute.TaskCall(str(path), 0)()
    assert artifacts.finished(Path(read_json(path)["artifact"])) == (set() if ends else {0})


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_the_times_of_a_result_fit_although_the_clock_was_set(config, monkeypatch, ahead):
    path, real, calls = config(), time.time, []

    def clock():
        calls.append(1)
        return real() + (ahead if len(calls) > 1 else 0.0)

    monkeypatch.setattr(execute.time, "time", clock)
    result = run(path)
    assert abs(result["finished"] - result["started"] - result["elapsed_s"]) < 0.01
    assert 0 <= result["elapsed_s"] < 60


def test_a_task_leaves_one_finished_folder(config):
    path = config(tasks=2)
    artifact = Path(read_json(path)["artifact"])
    result = run(path, 1)
    assert result == read_json(artifact / "0001" / "result.json")
    assert (artifact / "0001" / "out.txt").read_text() == "(1)"
    assert result["summary"] == {"rows": 2}
    assert list(result["files"]) == ["out.txt"] and result["bytes"] == 3
    assert result["environment"]["packages"]["numpy"] and result["index"] == 1
    assert sorted(artifacts.finished(artifact)) == [1]
    assert not (artifact / "summary.json").exists()
    run(path, 0)
    assert artifacts.detail(artifact) == "3 rows"
    left = [entry.name for entry in artifact.iterdir() if entry.name.startswith(".")]
    assert left == [".work"]
    assert list((artifact / ".work").iterdir()) == []  # neither scratch folders nor claims


def test_status_shows_what_any_step_does_from_its_first_second(config, monkeypatch):
    path, seen = config(), []

    def note():
        state = read_json(markers.path(path.parent / "markers", 0, "progress.json"))
        seen.append(describe_progress(state).partition(",")[0])

    def slow_step(params, task):
        note()
        with doing("measuring engines"):
            seen.append(task.progress.activity)
        return {"rows": 1}

    monkeypatch.setattr(fakestep, "run", slow_step)
    run(path)
    assert seen == ["loading", "measuring engines"]


def test_a_finished_task_is_not_computed_again(config):
    path = config()
    first = run(path)
    assert run(path) == first  # with the times of the first one


def test_checksums_are_those_of_the_files(config):
    from l3hpc.io.files import digest_file

    path = config()
    result = run(path)
    folder = Path(read_json(path)["artifact"]) / "0000"
    assert result["files"]["out.txt"]["blake2b"] == digest_file(folder / "out.txt")


def test_a_failure_leaves_its_last_words_and_no_folder(config):
    path = config(fail="error")
    with pytest.raises(L3hpcError):
        run(path)
    marks = markers.read(path.parent / "markers")[0]
    assert marks.error["type"] == "L3hpcError" and marks.error["where"] == "fake:1"
    assert marks.error["message"] == "the fake was told to fail"
    artifact = Path(read_json(path)["artifact"])
    assert artifacts.finished(artifact) == set()
    assert not list(artifact.glob(".0000.*.tmp"))


@pytest.mark.parametrize("code", [None, 0, 256])
def test_a_step_that_exits_has_failed(config, monkeypatch, code):
    def leave(params, task):
        raise SystemExit(code)

    path = config()
    monkeypatch.setattr(fakestep, "run", leave)
    with pytest.raises(L3hpcError, match="extract raised SystemExit"):
        run(path)
    assert "SystemExit" in markers.read(path.parent / "markers")[0].error["message"]
    assert artifacts.finished(Path(read_json(path)["artifact"])) == set()


def test_a_crash_keeps_the_end_of_its_traceback(config):
    path = config(fail="crash")
    with pytest.raises(RuntimeError):
        run(path)
    error = markers.read(path.parent / "markers")[0].error
    assert error["tail"][-1] == "RuntimeError: an unforeseen crash"


def test_scratch_survives_a_failed_attempt(config):
    path = config(fail="scratch")
    with pytest.raises(L3hpcError):
        run(path)
    assert run(path)["summary"] == {"rows": 1}


def test_what_a_killed_attempt_left_is_swept_away(config):
    path = config()
    artifact = Path(read_json(path)["artifact"])
    (artifact / ".0000.deadbeef.tmp").mkdir(parents=True)
    (artifact / "0000").mkdir()  # someone removed its result.json
    (artifact / "0000" / "old.txt").write_text("old")
    run(path)
    assert sorted(entry.name for entry in (artifact / "0000").iterdir()) == [
        "out.txt", "result.json"]
    assert not (artifact / ".0000.deadbeef.tmp").exists()


def test_two_at_the_same_task_compute_it_once(config):
    paths = [config(run="one", seconds=0.6), config(run="two", seconds=0.6)]
    results = []
    threads = [threading.Thread(target=lambda path=path: results.append(run(path)))
               for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and results[0] == results[1]


def test_what_another_node_has_just_finished_is_not_computed_again(config, monkeypatch):
    """It was removed and computed anew, where NFS still said that there was no result."""
    path = config(seconds=1.0)
    artifact = Path(read_json(path)["artifact"])
    there = Lease(artifacts.scratch_folder(artifact, 0), "one")  # another node has the task
    assert there.acquire()
    LateNames(monkeypatch)
    waiting = threading.Thread(target=run, args=(path,))
    waiting.start()
    time.sleep(0.5)
    code = ("import os; os.makedirs(f'{artifact}/0000'); "
            "open(f'{artifact}/0000/result.json', 'w').write('{\"index\": 0}')")
    subprocess.run([sys.executable, "-c", f"artifact = {str(artifact)!r}; {code}"], check=True)
    there.release()
    waiting.join()
    assert (artifact / "0000/result.json").read_text() == '{"index": 0}'


def test_a_job_that_starts_before_its_pickle_has_a_name_waits_for_it(tmp_path, monkeypatch):
    path = tmp_path / "runs/demo/steps/extract/logs/7_submitted.pkl"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(job_entry, "WAIT_S", 0.3)
    LateNames(monkeypatch)
    with pytest.raises(ClusterError, match="did not appear within 0.3 s: .*7_submitted") as caught:
        job_entry.wait_for(path)
    assert caught.value.hint.endswith("Next: l3hpc resume demo")
    subprocess.run(["touch", path], check=True)
    job_entry.wait_for(path)


def test_inputs_have_to_be_there_and_complete(config):
    with pytest.raises(InputError, match="input 'extract' does not exist"):
        run(config("sample"))
    above = config("extract", tasks=3)
    artifact = Path(read_json(above)["artifact"])
    write_json(artifact / "config.json", read_json(above))
    run(above, 0)
    below = config("sample")
    value = read_json(below)
    write_json(below, {**value, "inputs": {"extract": str(artifact)}})
    with pytest.raises(InputError) as caught:
        run(below)
    assert "2 of 3 tasks are missing (1, 2)" in caught.value.message
    run(above, 1)
    run(above, 2)
    assert run(below)["summary"] == {"rows": 1}


def test_wrong_parameters_and_tasks_are_refused(config):
    path = config()
    value = read_json(path)
    write_json(path, {**value, "params": {"txt": "x"}})
    with pytest.raises(InputError, match=r"extract\.txt"):
        run(path)
    with pytest.raises(InputError, match="no task 4") as caught:
        run(path, 4)
    assert caught.value.allowed == "0 to 0"
    write_json(path, {**value, "version": 99})
    with pytest.raises(InputError, match="now version 1"):
        run(path)
    write_json(path, {"name": "x"})
    with pytest.raises(InputError, match="is not the frozen config of a step"):
        run(path)


def test_the_pickled_call_is_tiny_and_needs_only_an_import():
    call = execute.TaskCall("/some/where/config.json", 3)
    data = pickle.dumps(call)
    assert len(data) < 200
    again = pickle.loads(data)
    assert (again.config_path, again.index) == ("/some/where/config.json", 3)


def test_a_checkpoint_asks_for_the_same_task_again(config):
    path = config()
    call = execute.TaskCall(str(path), 0)
    delayed = call.checkpoint()
    assert delayed.function is call
    assert markers.read(path.parent / "markers")[0].restarts == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("in XLA")])
def test_a_checkpoint_that_cannot_be_written_does_not_keep_the_job_from_the_queue(
        config, monkeypatch, capsys, error):
    def save():
        raise error

    monkeypatch.setattr(execute.PREEMPTION, "save", save)
    call = execute.TaskCall(str(config()), 0)
    assert call.checkpoint().function is call
    said = capsys.readouterr().err
    assert said.startswith("warning: could not write a checkpoint: ") and str(error) in said


def test_errors_for_people_end_the_job_with_their_exit_code(config, capsys):
    call = execute.TaskCall(str(config(fail="error")), 0)
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 1
    assert "error: fake:1: the fake was told to fail\n       Do not ask it to." in \
        capsys.readouterr().err


def test_the_config_of_an_artifact_repeats_its_step(config):
    path = config()
    value = read_json(path)
    artifact = Path(value["artifact"])
    copy = artifact / "config.json"
    write_json(copy, value)
    assert run(copy)["summary"] == {"rows": 1}
    assert (artifact / ".work" / "markers" / "0.progress.json").exists()
    assert json.loads((artifact / ".work/markers/0.progress.json").read_text())["done"] == 10


@pytest.mark.parametrize("where", ["L3HPC_LOCAL", "L3HPC_REQUEUES"])
def test_the_warning_imports_nothing(config, where):
    """It may come while Python imports the very module, which is then there by half."""
    path = config()
    path.with_name("markers").mkdir()
    write_json(path.with_name("heal.json"), Policy(mem_mb=100, time_min=5).to_json())
    code = ("import sys; from l3hpc.worker import execute; before = {*sys.modules}\n"
            f"try: execute.TaskCall({str(path)!r}, 0).checkpoint()\n"
            "except SystemExit as end: print(end.code)\n"
            "print(*sorted({*sys.modules} - before))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, where: "1"})
    assert (done.stdout, done.stderr) == ("85\n\n", "")


def test_term_on_slurm_writes_a_checkpoint_and_the_task_goes_on(config, monkeypatch):
    """Preemption: TERM, and KILL only after a while."""
    monkeypatch.delenv("L3HPC_LOCAL", raising=False)
    path, saved = config(seconds=3), []
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def preempt():
        while signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:  # nobody listens yet
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with execute.PREEMPTION.on_signal(lambda: saved.append(True)):
            thread = threading.Thread(target=preempt, daemon=True)
            thread.start()
            result = execute.TaskCall(str(path), 0)()
            thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert saved == [True] and result["summary"] == {"rows": 1}
