"""Reading what squeue and sacct print."""

import pytest
from fakeslurm import queue_line
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.console import formatting
from l3hpc.schedulers.slurm import parsing, queue
from l3hpc.schedulers.slurm.identity import Identity


def test_squeue_lines_become_live_and_ended_jobs():
    text = "\n".join([
        queue_line("12", "RUNNING", used="1-02:03:04", restarts=2, limit="7-00:00:00"),
        queue_line("13_[0-2,7%2]", "PENDING", "Priority", start="2026-11-20T14:05:00"),
        queue_line("14", "FAILED", used="0:10", code="256", node="n1"),
        queue_line("15", "OUT_OF_MEMORY", code="9"), ""])
    live, ended = map(dict, parsing.parse_squeue(text))
    assert sorted(live) == ["12", "13_0", "13_1", "13_2", "13_7"]
    assert (live["12"].elapsed_s, live["12"].restarts, live["12"].limit_s) == (93784, 2, 604800)
    assert live["13_7"].reason_code == "Priority" and live["13_7"].start is not None
    assert ended["14"] == parsing.AccountedJob("FAILED", 1, 10.0, "n1")
    assert ended["15"].exit_code == 137


def test_sacct_lines_become_ended_jobs():
    text = ("12|CANCELLED by 1000|0:15|61|n1\n13_4|FAILED|3:0|5|n2\n12.batch|FAILED|1:0|5|n1\n"
            "14_[1-2]|PENDING|0:0|0|None assigned\nbroken\n")
    ended = dict(parsing.parse_sacct(text))
    assert ended["12"] == parsing.AccountedJob("CANCELLED", 143, 61.0, "n1")
    assert ended["13_4"].exit_code == 3
    assert sorted(ended) == ["12", "13_4", "14_1", "14_2"]


@pytest.mark.parametrize(("squeue", "sacct", "code"), [
    ("768", "3:0", 3), ("9", "0:9", 137), ("35072", "137:0", 137), ("0", "0:0", 0),  # Slurm 22.05
    ("3:0", "3:0", 3), ("0:9", "0:9", 137), ("137:0", "137:0", 137), ("0:0", "0:0", 0)])  # 24.11 on
def test_exit_codes_of_old_and_new_slurm(squeue, sacct, code):
    line = queue_line("12", "FAILED", "RaisedSignal:9(Killed)", used="0:10", code=squeue, node="n1")
    wanted = [("12", parsing.AccountedJob("FAILED", code, 10.0, "n1"))]
    assert parsing.parse_squeue(line) == ([], wanted)
    assert parsing.parse_sacct(f"12|FAILED|{sacct}|10|n1\n12.0|CANCELLED|0:9|9|n1") == wanted


@pytest.mark.parametrize(("code", "text"), [
    ("Priority", "other jobs have a higher priority (Priority)"),
    ("(Priority)", "other jobs have a higher priority (Priority)"),
    ("(ReqNodeNotAvail, UnavailableNodes:n1)", "requested nodes are down, drained or reserved "
                                               "(ReqNodeNotAvail, UnavailableNodes:n1)"),
    ("None", "about to start"),
    ("RaisedSignal:9(Killed)", "RaisedSignal:9(Killed)"),
    ("(RaisedSignal:9(Killed))", "RaisedSignal:9(Killed)"),
    ("(RaisedSignal:9(Killed)", "RaisedSignal:9(Killed)"),  # cut by squeue
    ("( Priority )", "other jobs have a higher priority (Priority)")])
def test_reasons_with_and_without_parentheses(code, text):
    assert parsing.reason_text(code) == text


def test_a_list_of_indices_that_was_cut_short_counts_as_far_as_it_is_certain():
    assert parsing.expand("7_[0-2,5,4...]") == ["7_0", "7_1", "7_2", "7_5"]
    assert parsing.expand("7_[0,12...%2]") == ["7_0"]
    assert parsing.expand("7_[4...]") == []


@pytest.mark.parametrize("job", [
    "7_[-,0-2]", "7_[1--2]", "7_[0-4:0]", "7_[0-]", "7_[:]", "7_[5,,6]", "7_[0-999999999]",
    "7_[0-4000001]", "7_[0-3999999,0-3999999]", "7_[99999999999999999999]"])
def test_a_garbled_list_of_indices_is_no_list_and_takes_no_memory(job):
    assert parsing.expand(job) == [job]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=30, unique=True))
def test_array_spans_are_expanded(indices):
    from l3hpc.schedulers.scripts import array_spec

    names = parsing.expand(f"7_[{array_spec(indices)}%3]")
    assert sorted(names) == sorted(f"7_{index}" for index in indices)


@given(st.integers(0, 10**7))
def test_clocks_are_read_as_they_are_written(count):
    assert formatting.parse_slurm_time(formatting.clock(count)) == count


def test_one_call_each_and_none_that_is_not_needed(slurm):
    answer = queue.Answer()
    queue.query_sacct([], answer)
    assert slurm.calls() == [] and answer.sacct is None
    queue.query_squeue(["you", "me", "you"], answer)
    queue.query_sacct(["9", "10", "9"], answer)
    assert len(slurm.calls("squeue")) == 1 and "--user me,you" in slurm.calls("squeue")[0]
    assert "--jobs 9,10 " in slurm.calls("sacct")[0]
    assert answer.squeue and answer.sacct


def test_sacct_is_asked_with_options_that_every_version_takes(slurm):
    """Slurm 22.05 refuses --array."""
    queue.query_sacct(["9"], queue.Answer())
    assert queue.query_history({"9": Identity("9")}) == []
    assert [line.split(" --jobs")[0] for line in slurm.calls("sacct")] == [
        "sacct --noheader --allocations --parsable2 --duplicates"] * 2
    assert slurm.environment()["SLURM_BITSTR_LEN"] == "0"


def test_too_many_ids_for_a_command_line_are_asked_by_user(slurm):
    answer = queue.Answer()
    queue.query_sacct(map(str, range(10**6, 10**6 + 20_000)), answer, users=["me"], since=86400.0)
    [line] = slurm.calls("sacct")
    assert "--user me --starttime 1970-01-0" in line and "--jobs" not in line


def test_a_silent_or_broken_slurm_is_noted(slurm, monkeypatch):
    slurm.says("squeue", "exec sleep 5")
    slurm.says("sacct", "echo 'sacct: error: Slurm accounting storage is disabled' >&2; exit 1")
    monkeypatch.setattr(queue, "SQUEUE_S", 0.2)
    answer = queue.Answer()
    queue.query_squeue(["me"], answer)
    queue.query_sacct(["9"], answer)
    assert answer.squeue is False and answer.sacct is False
    assert answer.notes == ["squeue did not respond within 0 s",
                            "sacct: Slurm accounting storage is disabled"]
