"""What a job does about its own failure, on a Slurm that says what the test wants."""

import json

import pytest

from l3hpc.io.files import write_json
from l3hpc.schedulers import requeue_policy
from l3hpc.worker import execute, requeue
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder


@pytest.fixture
def task(slurm, tmp_path, monkeypatch):
    """(folder of the step, run): ``run(code)`` is the script's end with that exit code."""
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    for name in ("scontrol", "sbatch"):
        slurm.says(name, "echo 101")
    folder = tmp_path / "step"
    (folder / "markers").mkdir(parents=True)
    (folder / "logs").mkdir()

    def run(code, **changes):
        rules = {"memory": 1, "time": 1, "nodes": 1, "mem_mb": 200, "time_min": 10, **changes}
        write_json(StepFolder(folder).requeue_policy, rules)
        return requeue.main([str(folder), "0", "failed", str(code)])

    return folder, run


def requeues(folder):
    marks = markers.read(folder / "markers").get(0, markers.TaskMarks())
    return [entry["reason"] for entry in marks.requeues]


def test_a_warning_that_met_a_python_that_did_not_listen_is_the_time_limit(task, slurm):
    folder, run = task
    assert run(140) == 0 and requeues(folder) == ["time limit"]
    [entry] = markers.read(folder / "markers")[0].requeues
    assert entry["time_min"] == 20
    assert slurm.calls("scontrol") == ["scontrol requeuehold 100"]
    assert "TimeLimit=20" in slurm.calls("sbatch")[0]
    assert run(140) == 1 and requeues(folder) == ["time limit"]  # not for ever
    assert "after 1 requeue" in markers.read(folder / "markers")[0].gave_up


def test_a_step_that_continues_goes_back_as_it_is(task, slurm):
    folder, run = task
    assert run(140, continues=True) == 0
    assert slurm.calls("scontrol") == ["scontrol requeue 100"] and not slurm.calls("sbatch")


@pytest.mark.parametrize(("minutes", "then"), [(1, 2), (2, 4), (3, None)])
def test_a_limit_within_which_the_warning_comes_at_once_is_raised(task, minutes, then):
    """Nothing can be continued there: the task would be requeued in vain until it fails."""
    folder, run = task
    assert run(140, continues=True, time_min=minutes) == 0
    assert markers.read(folder / "markers")[0].requeues[0].get("time_min") == then


OOM = "slurmstepd-n1: error: Detected 1 oom_kill event in StepId=100.0. Some of the step tasks"


@pytest.mark.parametrize(("code", "error", "log", "wanted"), [
    (137, None, OOM, ["out of memory"]), (137, None, "", []), (9, None, "", []),
    (137, {"type": "ValueError"}, OOM, []), (253, None, OOM, ["out of memory"]),
    (1, {"type": "MemoryError"}, "", ["out of memory"]), (1, None, "", []),
    (140, {"type": "ValueError"}, "", [])])
def test_what_heals_and_what_does_not(task, code, error, log, wanted):
    folder, run = task
    (folder / "logs/100_0_log.err").write_text(f"{OOM}\nStarting with a new attempt\n{log}\n")
    if error:
        (folder / "markers/0.error.json").write_text(json.dumps(error))
    assert run(code) == (0 if wanted else 1)
    assert requeues(folder) == wanted


@pytest.mark.parametrize(("said", "wanted"), [
    ("RUNNING\nRUNNING\nOUT_OF_MEMORY", True), ("oom 3\noom_kill 1", True),
    ("oom 0\noom_kill 0", False), ("oom_kill_disable 0\nunder_oom 0\noom_kill 12", True),
    (OOM, True),
    ("slurmstepd: error: Detected 2 oom-kill event(s) in step 7.0 cgroup.", True),
    ("slurmstepd-n1: error: Exceeded job memory limit", True),
    ("slurmstepd: error: Step 7.0 exceeded memory limit (612 > 200), being killed", True),
    ("slurmstepd: error: Job 7 exceeded memory limit (612 > 200), being killed", True),
    ("slurmstepd-n2: error: StepId=6.0 exceeded memory limit (428191744 > 104857600), being killed",
     True),  # Slurm 24.11
    ("[2026-11-28T16:23:44.270] error: Exceeded job memory limit", True),  # Slurm 26.05
    ("[2026-11-28T16:23:44.495] error: Detected 1 oom_kill event in StepId=6.0. Some of the step "
     "tasks have been OOM Killed.", True),
    ("[2026-11-28T16:23:44.270] error: *** STEP 6.0 ON n2 CANCELLED AT 2026-11-28T16:23:44 DUE to "
     "SIGNAL Killed ***", False),
    ("srun: error: n1: task 0: Out Of Memory", True),
    ("[1.5] Memory cgroup out of memory: Killed process 4711 (python)", True),
    ("terminate called after throwing an instance of 'std::bad_alloc'", True),
    ("srun: error: n1: task 0: Killed", False), ("RUNNING\nFAILED\nCANCELLED by 0", False),
    ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-27T18:00:00 ***", False),
    ("epoch 3: out of memory would be bad", False), ("", False)])
def test_what_says_that_memory_ran_out(said, wanted):
    assert requeue.ran_out_of_memory(said) is wanted


LAUNCH = "srun: error: Application launch failed: "


@pytest.mark.parametrize(("said", "error", "wanted"), [
    (LAUNCH + "Job credential expired", None, ["node failure"]),
    ("srun: [2026-11-28T16:23:44.270] error: Application launch failed: Slurmd could not connect "
     "IO", None, ["node failure"]),
    (LAUNCH + "Socket timed out on send/recv operation", None, ["node failure"]),
    (LAUNCH + "Communication connection failure", None, ["node failure"]),
    (LAUNCH + "Job credential expired", {"type": "ValueError"}, []),  # of an earlier line
    (LAUNCH + "MPI plugin's pre-launch setup failed", None, []),  # would fail again
    ("l3hpc: Application launch failed: Job credential expired", None, [])])
def test_a_node_that_is_too_busy_to_start_the_command(task, said, error, wanted):
    folder, run = task
    (folder / "logs/100_0_log.err").write_text(f"Starting with a new attempt\n{said}\n")
    if error:
        (folder / "markers/0.error.json").write_text(json.dumps(error))
    assert run(167) == (0 if wanted else 1)
    assert requeues(folder) == wanted


@pytest.mark.parametrize("code", [137, 85, 140])
def test_what_belongs_to_a_cancelled_run_stays_where_it_is(slurm, tmp_path, monkeypatch, code):
    folder = tmp_path / "runs/demo/steps/train"
    (folder / "markers").mkdir(parents=True)
    write_json(StepFolder(folder).requeue_policy, requeue_policy.Policy().to_json())
    write_json(tmp_path / "runs/demo/run.json", {"state": "submitted"})
    assert requeue.after_end(folder, 0, code, OOM) is not None
    write_json(tmp_path / "runs/demo/run.json", {"state": "cancelled"})
    assert requeue.after_end(folder, 0, code, OOM) is None


@pytest.mark.parametrize(("request_", "words"), [
    ("mem", ["--mem=100M"]), ("mem-per-cpu", ["--mem-per-cpu=100M"]), ("none", [])])
def test_the_helper_asks_for_memory_as_the_profile_says(chains, tmp_path, capsys, request_, words):
    made = chains.plan(tmp_path, names=("extract",), on=chains.profile(
        name="site", executor="slurm", memory_request=request_, partition="cpu"))
    folder = tmp_path / "step"
    (folder / "markers").mkdir(parents=True)
    write_json(StepFolder(folder).requeue_policy,
               requeue_policy.of(made.profile, made.steps[0]).to_json())
    lines = requeue.script_lines(folder, requeue.after_end(folder, 0, 137, OOM))
    assert lines == ["again requeuehold", "change MinMemoryNode=200",
                     *(f"helper {word}" for word in [*words, "--partition=cpu"])]


def test_the_helper_is_billed_and_placed_as_its_step_without_what_only_the_work_needs(
        chains, tmp_path):
    site = chains.profile(
        name="site", executor="slurm", account="birds", partition="cpu", qos="long", wckey="w1",
        constraint="skylake", extra=["--comment=grant-7", "--licenses=matlab:1", "--nice=100",
                                     "--tmp=10G"],
        steps={"extract": {"partition": "gpu", "qos": "short", "extra": ["--nice=5", "--mcs=a"]}})
    made = chains.plan(tmp_path, names=("extract",), on=site)
    assert requeue_policy.of(made.profile, made.steps[0]).helper == (
        "--account=birds", "--partition=gpu", "--qos=short", "--constraint=skylake",
        "--wckey=w1", "--comment=grant-7", "--nice=5", "--mcs=a")


def test_a_policy_that_a_power_failure_emptied_is_made_again_from_the_record(tmp_path):
    folder = tmp_path / "runs/demo/steps/train"
    folder.mkdir(parents=True)
    step = {"name": "train", "state": "submitted", "resources": {"mem_mb": 300, "time_min": 7}}
    write_json(tmp_path / "runs/demo/run.json", {"steps": [step]})
    for damaged in (None, "", "{", "[]", "\0" * 40):
        if damaged is not None:
            StepFolder(folder).requeue_policy.write_text(damaged)
        assert requeue_policy.read(folder) == requeue_policy.Policy(mem_mb=300, time_min=7)


def test_where_slurm_refuses_it_is_given_up_and_says_so(task, slurm):
    folder, run = task
    slurm.says("scontrol", "echo 'scontrol: error: Requested operation is disabled' >&2; exit 1")
    (folder / "logs/100_0_log.err").write_text(OOM)
    assert run(137) == 1 and requeues(folder) == []
    assert "Slurm did not requeue it" in markers.read(folder / "markers")[0].gave_up


def test_at_the_time_limit_the_script_asks_slurm_or_python_for_one_of_a_version_before(
        task, slurm, monkeypatch):
    folder, _ = task
    policy = requeue_policy.Policy(time=1, time_min=1)
    write_json(StepFolder(folder).requeue_policy, policy.to_json())
    monkeypatch.setattr(execute.time, "sleep", lambda seconds: None)
    call = execute.TaskCall(str(folder / "config.json"), 0)
    assert call.checkpoint() is None and requeues(folder) == ["time limit"]
    assert slurm.calls("scontrol") == ["scontrol requeuehold 100"]
    monkeypatch.setenv("L3HPC_REQUEUES", "1")
    with pytest.raises(SystemExit) as end:
        call.checkpoint()
    assert end.value.code == 85 and len(slurm.calls("scontrol")) == 1


def test_a_node_without_scontrol_is_no_traceback_for_a_script_of_a_version_before(
        task, monkeypatch):
    folder, _ = task
    write_json(StepFolder(folder).requeue_policy,
               requeue_policy.Policy(time=1, time_min=1, continues=True).to_json())
    monkeypatch.setenv("PATH", str(folder))
    assert execute.TaskCall(str(folder / "config.json"), 0).checkpoint() is None
    assert requeues(folder) == []
    assert markers.read(folder / "markers")[0].gave_up == (
        "time limit; Slurm did not requeue it: scontrol is not available on this machine")


def test_a_task_with_all_memory_of_its_node_cannot_get_more():
    decision = requeue_policy.decide(requeue_policy.Policy(mem_mb=0), requeue_policy.MEMORY, [])
    assert not decision.again and decision.words == "out of memory (whole node)"


def test_at_the_cap_of_the_profile_it_is_given_up_and_says_what_was_tried():
    policy = requeue_policy.Policy(memory=3, mem_mb=200, mem_cap_mb=400, nodes=2)
    tried = [{"reason": "out of memory", "mem_mb": 400}, {"reason": "node failure"}]
    assert requeue_policy.decide(policy, requeue_policy.MEMORY, tried[1:]).mem_mb == 400
    decision = requeue_policy.decide(policy, requeue_policy.MEMORY, tried)
    assert not decision.again and decision.mem_mb is None
    assert decision.words == ("out of memory (400 MB) after 1 requeue (200 MB → 400 MB, the "
                              "profile's cap)")


@pytest.mark.parametrize(("attempts", "reason", "host"), [
    ("PREEMPTED|n1|2026-11-29T10:00:00\n", "preempted", "n1"),
    ("REQUEUED|n1|2026-11-29T10:00:00\n", "requeued by Slurm", "n1"),
    ("", "requeued by Slurm", "")])
def test_a_restart_is_noted_once_with_what_slurm_says_of_it(task, attempts, reason, host):
    folder, _ = task
    assert requeue.after_restart(folder, 0, 1, "n2", attempts) is None
    assert requeue.after_restart(folder, 0, 1, "n2", attempts) is None
    [entry] = markers.read(folder / "markers")[0].requeues
    assert (entry["reason"], entry.get("host", "")) == (reason, host)


def test_a_script_of_a_version_before_that_reached_its_limit_too_often_is_given_up(task):
    folder, run = task
    (folder / "markers/0.error.json").write_text(json.dumps({"type": requeue.TOO_MANY_TIMEOUTS}))
    assert run(1, time=0) == 1 and requeues(folder) == []
    assert markers.read(folder / "markers")[0].gave_up == "time limit (10 min)"


def test_only_a_kill_is_said_to_be_one(task, capsys):
    folder, run = task
    run(137)
    assert "killed by signal 9; no evidence that memory was the cause" in capsys.readouterr().err
    run(1)
    (folder / "markers/0.error.json").write_text('{"type": "ValueError"}')
    run(9)
    assert "signal 9" not in capsys.readouterr().err


@pytest.mark.parametrize(("attempts", "last"), [
    ("", ("", "")),
    ("NODE_FAIL|n1|2026-11-29T10:00:00\nRUNNING|n2|Unknown\n", ("NODE_FAIL", "n1")),
    ("PREEMPTED|n1|2026-11-29T11:00:00\nNODE_FAIL|n3|2026-11-29T10:00:00\n", ("PREEMPTED", "n1")),
    ("CANCELLED by 1000|n1|2026-11-29T10:00:00\n", ("CANCELLED", "n1")),
    ("the site says: | accounting | is | slow\nNODE_FAIL|n1|2026-11-29T10:00:00\nx|y\n",
     ("NODE_FAIL", "n1")),
    ("RUNNING|n2|Unknown\n", ("", "")),
])
def test_the_last_attempt_that_has_ended(attempts, last):
    assert requeue._last_attempt(attempts) == last


@pytest.mark.parametrize(("noted", "restarts", "added"), [
    ([], 1, True), ([0], 1, False), ([0], 2, True), ([0, 1], 2, False), ([1], 1, True),
    # early versions did not note which restart it was
    ([None], 1, False), ([None], 2, True), ([None, 1], 2, False)])
def test_each_restart_is_noted_once(task, noted, restarts, added):
    folder, _ = task
    for number in noted:
        markers.add_requeue(folder / "markers", 0, "time limit", 1.0, restarts=number)
    requeue.after_restart(folder, 0, restarts, "n2", "")
    assert len(requeues(folder)) == len(noted) + added


@pytest.mark.parametrize(("has", "then"), [
    (None, 800), ("200", 400),  # its request was never changed
    ("400", 800), ("300", 800), ("many", 800)])  # a site counts otherwise
def test_memory_that_the_job_has_not_got_is_not_doubled(task, monkeypatch, has, then):
    folder, _ = task
    write_json(StepFolder(folder).requeue_policy, {"memory": 3, "mem_mb": 200, "time_min": 10})
    markers.add_requeue(folder / "markers", 0, "out of memory", 1.0, mem_mb=400)
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    if has is not None:
        monkeypatch.setenv("SLURM_MEM_PER_NODE", has)
    assert requeue.decide(folder, 0, requeue_policy.MEMORY).mem_mb == then


def test_the_time_limit_is_near_from_the_warning_on(task, monkeypatch):
    folder, _ = task
    write_json(StepFolder(folder).requeue_policy, {"time_min": 10})
    assert requeue.near_time_limit(folder, 0)  # it is not known when the job began
    write_json(folder / "markers/0.begin", {"job": "100", "time": 1000})
    warned = 1000 + 600 - requeue_policy.WARNING_S
    for now, near in [(warned, False), (warned + 1, True), (1000, False)]:
        monkeypatch.setattr(requeue.time, "time", lambda now=now: now)
        assert requeue.near_time_limit(folder, 0) is near
    markers.add_requeue(folder / "markers", 0, "time limit", 1.0, time_min=20)
    monkeypatch.setattr(requeue.time, "time", lambda: warned + 599)
    assert not requeue.near_time_limit(folder, 0)
