"""Steps of a sweep that go to Slurm as one job array."""

import os
import pickle
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from l3hpc.config.resources import Resources
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError
from l3hpc.runs import job_scripts, status, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers import step_arrays
from l3hpc.workspace import records

VALUES = ("a", "b", "c")


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


def found(made, waiting=None):
    texts = job_scripts.render(made).texts
    return [one.names for one in step_arrays.group_steps(made, made.steps, texts, waiting or texts)]


def test_together_goes_what_waits_for_the_same(chains, on, tmp_path):
    made = chains.sweep(tmp_path, VALUES, on)
    assert found(made) == [["sample-a", "sample-b", "sample-c"]]
    done = {f"sample-{value}" for value in VALUES}
    texts = job_scripts.render(made, [step for step in made.steps if step.name not in done]).texts
    assert [one.names for one in step_arrays.group_steps(made, made.steps, texts, texts)] == [
        ["fit-a", "fit-b", "fit-c"]]  # once their parents are there


def test_what_differs_stays_alone(chains, on, tmp_path):
    more = Resources(cpus=1, mem_mb=200, time_min=5)
    made = chains.sweep(tmp_path, VALUES, on, resources={"sample-b": more})
    assert found(made) == [["sample-a", "sample-c"]]
    assert found(chains.sweep(tmp_path, ("a",), on)) == []
    steps = tuple(replace(step, waits_for=("9",)) if step.name == "sample-a" else step
                  for step in chains.sweep(tmp_path, VALUES, on).steps)
    assert found(replace(made, steps=steps)) == [["sample-b", "sample-c"]]


def test_only_sweeps_and_only_on_slurm(chains, on, tmp_path):
    made = chains.sweep(tmp_path, VALUES, on)
    assert found(replace(made, options={})) == []
    local = chains.sweep(tmp_path, VALUES, chains.profile())
    assert found(local) == [] and job_scripts.render(local).arrays == []
    assert job_scripts.render(made).arrays == [("sample-a", "sample-b", "sample-c")]


def test_a_steps_own_directives_count(chains, on, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/sample-b.sbatch.j2").write_text(
        '{% extends "default/sample.sbatch.j2" %}\n{% block directives %}{{ super() }}'
        "#SBATCH --nice=5\n{% endblock %}")
    assert found(chains.sweep(tmp_path, VALUES, on)) == [["sample-a", "sample-c"]]


def test_the_sites_limit_cuts_it(chains, on, tmp_path):
    from l3hpc.config.profile import Limits

    small = on.model_copy(update={"limits": Limits(array=2)})
    assert found(chains.sweep(tmp_path, "abcde", small)) == [
        ["sample-a", "sample-b"], ["sample-c", "sample-d"]]


def test_several_arrays_of_a_step_are_announced(chains, slurm, on, tmp_path, monkeypatch):
    from l3hpc.config.profile import Limits

    notes, progress = [], Progress()
    monkeypatch.setattr(progress, "note", notes.append)
    small = on.model_copy(update={"limits": Limits(array=2)})
    submit.submit(chains.plan(tmp_path, names=("extract",), on=small, tasks={"extract": 5}),
                  progress=progress)
    assert notes == ["extract: 5 tasks in 3 arrays"]


def test_one_sbatch_and_a_record_of_each_step(chains, slurm, on, tmp_path):
    made = chains.sweep(tmp_path, VALUES, on)
    record = submit.submit(made)
    assert {step.name: step.job for step in record.steps} == {
        "extract": "100", "sample-a": "101_0", "sample-b": "101_1", "sample-c": "101_2",
        "fit-a": "102", "fit-b": "103", "fit-c": "104"}
    calls = slurm.calls("sbatch")
    assert len(calls) == 5 and calls[1].endswith("sample-a/array.sbatch")
    assert "--dependency=afterok:100 " in calls[1]
    assert "--dependency=afterok:101_1 " in calls[3]
    assert records.read(tmp_path, "demo") == record
    for index, value in enumerate(VALUES):
        logs = made.step_folder(f"sample-{value}").logs
        assert sorted(path.name for path in logs.iterdir()) == [
            f"101_{index}_submitted.pkl", *["101_submission.sh"][:index == 0]]
        call = pickle.loads((logs / f"101_{index}_submitted.pkl").read_bytes()).function
        assert call.index == 0 and call.config_path == str(logs.parent / "config.json")


def test_the_script(chains, on, tmp_path):
    parallel = on.model_copy(update={"array_parallelism": 2})
    made = chains.sweep(tmp_path, VALUES, parallel)
    texts = job_scripts.render(made).texts
    [one] = step_arrays.group_steps(made, made.steps, texts, texts)
    lines = one.text.splitlines()
    header = [line for line in lines if line.startswith("#SBATCH")]
    assert header[0] == "#SBATCH --job-name=l3-demo-sample"
    assert header[-3:] == ["#SBATCH --array=0-2%2", "#SBATCH --output=/dev/null",
                           "#SBATCH --error=/dev/null"]
    assert "#SBATCH --partition=gpu" in header and "#SBATCH --signal=B:USR2@90" in header
    assert len([line for line in header if "--output" in line or "--array" in line]) == 2


def test_each_task_runs_its_steps_script(chains, on, tmp_path):
    """bash itself reads it, in a workspace whose name it would rather not have."""
    workspace = tmp_path / "a $(touch no) here"
    made = chains.sweep(workspace, VALUES, on)
    texts = job_scripts.render(made).texts
    [one] = step_arrays.group_steps(made, made.steps, texts, texts)
    for step in one.steps:
        made.step_folder(step.name).logs.mkdir(parents=True)
        made.step_folder(step.name).script().write_text(
            f'echo "{step.name} ${{L3HPC_TASK:-none}}"\necho oh >&2\nexit 3\n')
    for index in (1, 2):
        done = subprocess.run(["bash", "-c", one.text], capture_output=True, cwd=tmp_path, env={
            "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index), "PATH": "/usr/bin:/bin"})
        assert done.returncode == 3 and not done.stdout + done.stderr
        logs = made.step_folder(one.names[index]).logs
        assert (logs / f"7_{index}_0_log.out").read_text() == f"{one.names[index]} 0\n"
        assert (logs / f"7_{index}_0_log.err").read_text() == "oh\n"
    assert not (made.step_folder("sample-a").logs / "7_0_0_log.out").exists()
    assert not (tmp_path / "no").exists()
    strange = subprocess.run(["bash", "-c", one.text], capture_output=True, env={
        "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "9", "PATH": "/usr/bin:/bin"})
    assert strange.returncode == 2


def test_a_refusal_takes_the_earlier_jobs_back(chains, slurm, on, tmp_path):
    slurm.says("sbatch", 'case "$*" in *fit-b*) echo "sbatch: error: no" >&2; exit 1 ;; '
                         f"*) n=$(cat {slurm.folder}/n 2>/dev/null || echo 100); "
                         f"echo $((n + 1)) > {slurm.folder}/n; echo $n ;; esac")
    with pytest.raises(ClusterError, match="fit-b: sbatch: no"):
        submit.submit(chains.sweep(tmp_path, VALUES, on))
    assert slurm.calls("scancel") == ["scancel 102 101 100"]
    record = records.read(tmp_path, "demo")
    assert record.state == "refused"
    assert all(step.job is None and not step.attempts for step in record.steps)


def test_slurm_is_asked_about_the_array(chains, slurm, on, tmp_path):
    submit.submit(chains.sweep(tmp_path, VALUES, on), test_only=True)
    assert len(slurm.calls("sbatch --test-only")) == 5


def test_cancel_and_resume_take_the_steps_that_are_meant(chains, slurm, on, tmp_path):
    from fakeslurm import queue_line

    made = chains.sweep(tmp_path, VALUES, on)
    submit.submit(made)
    for name in ("extract", "sample-a", "fit-a", "sample-c"):
        step = next(step for step in made.steps if step.name == name)
        (step.artifact / "0000").mkdir()
        (step.artifact / "0000/result.json").write_text("{}")
    lines = [queue_line("101_1", "FAILED", code="256"), queue_line("104", "RUNNING"),
             queue_line("103", "PENDING", "DependencyNeverSatisfied")]
    (slurm.folder / "queue").write_text("\n".join(lines) + "\n")
    slurm.says("squeue", f"cat {slurm.folder}/queue")
    [now] = status.collect(tmp_path, ["demo"])
    assert {step.name: step.state for step in now.steps} == {
        "extract": "done", "sample-a": "done", "fit-a": "done", "sample-b": "failed",
        "fit-b": "blocked", "sample-c": "done", "fit-c": "running"}
    record = resume(tmp_path, "demo", on)
    assert slurm.calls("scancel") == ["scancel 103"]
    again = slurm.calls("sbatch")[5:]
    assert len(again) == 2 and again[0].endswith("sample-b/script.sbatch")  # alone: a job
    assert re.search(r"--dependency=afterok:105 .*fit-b/script.sbatch", again[1])
    assert [attempt.job for attempt in records.step(record, "sample-b").attempts] == [
        "101_1", "105"]


def test_cancel_names_tasks_of_the_array(chains, slurm, on, tmp_path):
    from fakeslurm import queue_line

    submit.submit(chains.sweep(tmp_path, VALUES, on))
    lines = [queue_line(job, "PENDING") for job in ("101_0", "101_2", "101_1", "104")]
    slurm.says("squeue", "cat <<'E'\n" + "\n".join(lines) + "\nE")
    assert cancel(tmp_path, "demo") == ["104", "101_2", "101_1", "101_0"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("owner", "shown", "code"), [
    (0, 0, 0), (1234, 0, 2), (1234, 1234, 0)], ids=["ours", "somebody's", "one owner for all"])
def test_a_task_executes_only_what_its_user_wrote(
        chains, slurm, on, tmp_path, monkeypatch, owner, shown, code):
    submit.submit(chains.sweep(tmp_path, ["a", "b"], on))
    [array] = tmp_path.glob("runs/*/steps/*/array.sbatch")
    folder = array.parent
    (folder / "script.sbatch").write_text("echo done\n")
    os.chown(folder / "script.sbatch", owner, -1)
    real = shutil.which("mktemp")
    slurm.says("mktemp", f'new=$({real} "$@") && chown {shown} "$new" && echo "$new"')
    done = subprocess.run(["bash", array], env={
        **os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"})
    assert done.returncode == code
    said = "".join(path.read_text() for path in folder.glob("logs/7_0_0_log.*"))
    assert ("belongs to another user" in said) == bool(code) and ("done" in said) != bool(code)
    assert not [*folder.glob("logs/.owner*")]
