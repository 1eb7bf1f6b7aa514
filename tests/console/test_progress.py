"""What a person sees while something lasts: the phases of a task, and what it waits for."""

import io
import json
import sys
import threading
import time

import pytest

from l3hpc.console import progress as module
from l3hpc.console.formatting import describe_progress
from l3hpc.console.progress import (
    BarProgress,
    LogProgress,
    Progress,
    StateProgress,
    doing,
    reporting,
)


@pytest.fixture
def no_time_passes(monkeypatch):
    """A phase that lasts a second shows how fast it is, too."""
    monkeypatch.setattr("l3hpc.console.progress.time.monotonic", lambda: 1000.0)


def test_a_job_says_at_once_what_it_waits_for_in_its_log_and_for_status(
        tmp_path, no_time_passes):
    log, state = io.StringIO(), tmp_path / "progress.json"
    seen = []

    def shown():
        seen.append(describe_progress(json.loads(state.read_text())))

    progress = StateProgress(state, LogProgress(log))
    progress.start("loading")
    shown()
    with reporting(progress):
        with doing("measuring engines"):
            shown()
        shown()
        progress.start("embedding", total=120, unit="windows")
        with doing("compiling"):
            shown()
    shown()
    progress.advance(120)
    progress.finish()
    assert seen == ["loading", "loading, measuring engines", "loading",
                    "embedding 0/120 windows, compiling", "embedding 0/120 windows"]
    assert log.getvalue().splitlines() == [
        "loading", "measuring engines", "embedding: 0/120 windows", "compiling",
        "embedding: 120/120 windows"]


def test_a_wait_after_a_phase_has_nothing_of_its_counts(tmp_path, no_time_passes):
    state = tmp_path / "progress.json"
    progress = StateProgress(state, LogProgress(io.StringIO()))
    progress.start("preparing spectra", total=48, unit="windows")
    progress.advance(48)
    progress.finish()
    with reporting(progress), doing("starting TensorFlow", at_once=True):
        shown = json.loads(state.read_text())
    assert describe_progress(shown) == "starting TensorFlow"
    assert shown["done"] == 0 and shown["total"] is None  # no 100% before the training


def test_a_command_says_it_only_where_it_lasts(monkeypatch):
    said = io.StringIO()

    def wait(text):
        end = time.monotonic() + 240
        while text not in said.getvalue() and time.monotonic() < end:
            time.sleep(0.01)

    with reporting(LogProgress(said, delay_s=600)):
        with doing("waiting for squeue"):
            pass
        with doing("starting TensorFlow", at_once=True):
            assert said.getvalue() == "starting TensorFlow\n"
    with reporting(LogProgress(said, delay_s=0.5)), \
            doing("planning extract"), doing("listing audio"):
        wait("listing")
    assert said.getvalue() == "starting TensorFlow\nplanning extract: listing audio\n"


def test_what_is_waited_for_again_and_again_is_said_once_a_minute(monkeypatch):
    """As by status --watch into a pipe."""
    said, shown = io.StringIO(), threading.Event()
    progress = LogProgress(said, delay_s=0.01)
    real = progress._print_again

    def show(what):
        real(what)
        shown.set()

    def wait_for(what):
        shown.clear()
        with reporting(progress), doing(what):
            assert shown.wait(240)

    monkeypatch.setattr(progress, "_print_again", show)
    for what in ("squeue", "squeue", "sacct", "squeue"):
        wait_for(what)
    assert said.getvalue() == "squeue\nsacct\n"
    monkeypatch.setattr(module, "SAME_EVERY_S", 0)
    wait_for("squeue")
    assert said.getvalue() == "squeue\nsacct\nsqueue\n"


@pytest.mark.parametrize("make", [lambda said: LogProgress(said), lambda said: BarProgress()])
def test_a_program_is_named_only_where_nothing_says_what_it_does(make, capsys):
    said = io.StringIO()
    progress = make(said)
    with reporting(progress), doing("starting TensorFlow", at_once=True), \
            doing("waiting for python", at_once=True, alone=True):
        pass
    with reporting(progress), doing("waiting for squeue", at_once=True, alone=True):
        pass
    assert said.getvalue() + capsys.readouterr().err == "starting TensorFlow\nwaiting for squeue\n"


def test_a_phase_that_counts_nothing_shows_no_count_and_ends_silently(no_time_passes):
    log = io.StringIO()
    progress = LogProgress(log)
    progress.start("reading embeddings")
    progress.start("training", total=2, unit="epochs")
    progress.advance(2)
    progress.finish()
    assert log.getvalue().splitlines() == [
        "reading embeddings", "training: 0/2 epochs", "training: 2/2 epochs"]


def test_a_line_does_not_repeat_what_it_counts(no_time_passes):
    log = io.StringIO()
    progress = LogProgress(log)
    progress.start("training", total=12, unit="epochs")
    progress.advance(12, epoch=12, batch="8/34")
    assert progress.line() == "training: 12/12 epochs, batch 8/34"
    assert progress.snapshot()["epoch"] == 12
    progress.advance(0, batch=None)
    assert progress.line() == "training: 12/12 epochs" and "batch" not in progress.snapshot()


def test_without_a_command_nothing_is_shown(capfd):
    with doing("starting TensorFlow", at_once=True):
        pass
    with reporting(Progress()), doing("starting TensorFlow", at_once=True):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_bar_shows_what_it_waits_for(monkeypatch, capsys):
    bar = BarProgress()
    with bar.doing("measuring engines", at_once=True):
        assert capsys.readouterr().err == "measuring engines\n"
    bar.start("embedding", total=3, unit="recordings")
    [task] = bar._bar.tasks
    assert task.fields["amount"] == "0/3"
    with bar.doing("compiling"):
        bar.advance(1, loss=0.5)
        assert (task.fields["amount"], task.fields["details"]) == ("1/3", "compiling, loss 0.5")
    assert task.fields["details"] == "loss 0.5"
    bar.finish()


def test_details_read_as_english():
    """"recordings 10" and "best_epoch 3" were names of variables."""
    progress = module.Progress()
    progress.start("embedding", 400, "windows")
    progress.advance(0, recordings=1, rows=12_000, best_epoch=3, val_loss=0.25, batch="8/34")
    assert progress.line() == ("embedding: 0/400 windows, 1 recording, 12,000 rows, best epoch 3, "
                               "val loss 0.25, batch 8/34")


def test_the_progress_of_a_command_ends_with_it(capsys):
    from l3hpc.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert module._current.get() is None


def test_a_command_that_waits_for_slurm_says_so(tmp_path, monkeypatch):
    from l3hpc.cli import main

    class Said(io.TextIOWrapper):
        def write(self, text):
            if "waiting for sinfo" in text:
                (tmp_path / "said").touch()
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Said(io.BytesIO(), write_through=True))
    (tmp_path / "sinfo").write_text(
        f"#!/bin/sh\nuntil [ -e {tmp_path}/said ]; do sleep 0.1; done\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(module, "DELAY_S", 0.001)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("clusters:\n  there: {partition: p}\n")
    with pytest.raises(SystemExit):
        main(["doctor", "--quick", "--cluster", "there"])
    assert b"waiting for sinfo\n" in sys.stderr.buffer.getvalue()
