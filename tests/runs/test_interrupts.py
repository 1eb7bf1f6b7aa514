"""Signals at every point of a submission: each is obeyed once, after what it must not interrupt."""

import contextlib
import signal
import socket
import sys
import threading

import pytest

from l3hpc.runs import interrupts
from l3hpc.runs.interrupts import Interrupts
from l3hpc.schedulers.requests import GivenUpError

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Arrived(BaseException):
    """What the handlers of these tests raise, as Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture
def arrived():
    """Numbers of the signals that were obeyed."""
    numbers = []

    def obey(number, frame):
        numbers.append(number)
        raise Arrived(number)

    previous = {number: signal.signal(number, obey) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield numbers
    for number, handler in previous.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def send_to_thread():
    """Send a signal to a thread that does not block it, as a library may have one."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()

    def send(number):
        here, there = socket.socketpair()
        there.setblocking(False)
        before = signal.set_wakeup_fd(there.fileno())
        try:
            signal.pthread_kill(thread.ident, number)
            here.recv(1)  # Python knows of it now, and interrupts the main thread
        finally:
            signal.set_wakeup_fd(before)
            here.close()
            there.close()

    yield send
    end.set()
    thread.join()


def interrupted_at(point, work, send):
    """Call ``work``, and ``send`` before its operation of this number. How many there are."""
    passed = 0

    def trace(frame, event, argument):
        nonlocal passed
        if passed == point or frame.f_code.co_filename != interrupts.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == point:
                sys.settrace(None)  # what follows need not be slow
                send()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return passed


def submission(steps):
    """A job is submitted and put on record."""
    held = Interrupts()

    def work():
        with held.hold():
            with held.let_through():
                steps.append("paused")
            steps.append("submitted")
            with held.notice(lambda: None, lambda: "squeue"):
                steps.append("answered")
            steps.append("recorded")
    return work


def blocked_now():
    """The signals that are blocked; afterwards none is."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)
    with contextlib.suppress(Arrived):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return blocked


@pytest.mark.parametrize("receiver", ["main thread", "another thread"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_at_any_point_is_obeyed_once_and_no_job_stays_without_a_record(
        arrived, send_to_thread, number, receiver):
    send = (lambda: signal.raise_signal(number)) if receiver == "main thread" \
        else (lambda: send_to_thread(number))
    total = interrupted_at(-1, submission([]), send)
    assert total > 200 and not arrived
    for point in range(1, total + 1):
        arrived.clear()
        steps = []
        with contextlib.suppress(Arrived):
            interrupted_at(point, submission(steps), send)
        what = f"point {point} of {total}, after {steps}"
        assert not blocked_now() and arrived == [number], what
        assert steps.count("submitted") == steps.count("recorded"), what
        for each in SIGNALS:  # they are obeyed as before
            arrived.clear()
            with contextlib.suppress(Arrived):
                signal.raise_signal(each)
            assert arrived == [each], what


@pytest.fixture
def came(monkeypatch):
    """The signals that a handler which returns, as of a notebook, has been called with."""
    calls, before = [], {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: calls.append(number))
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_that_came_is_obeyed_once_at_the_end(came, send_to_thread):
    held = Interrupts()
    with held.hold():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            send_to_thread(number)
        assert came == [] and held.came
    assert came == [signal.SIGINT, signal.SIGTERM] and not held.came
    send_to_thread(signal.SIGINT)
    assert came[2:] == [signal.SIGINT]


def test_after_a_pause_they_are_held_again(came, send_to_thread):
    held = Interrupts()
    with held.hold():
        send_to_thread(signal.SIGINT)
        with held.let_through():
            assert came == [signal.SIGINT]
            send_to_thread(signal.SIGTERM)
            assert came == [signal.SIGINT, signal.SIGTERM]
        send_to_thread(signal.SIGINT)
        assert came[2:] == []
    assert came[2:] == [signal.SIGINT]


def test_one_that_came_before_is_noticed_and_none_after_it(came, send_to_thread):
    said, held = [], Interrupts()

    def unknown():
        return GivenUpError("not known")

    with held.hold():
        with held.notice(lambda: said.append(1), unknown):
            pass
        send_to_thread(signal.SIGINT)
        assert said == []
        with held.notice(lambda: said.append(1), unknown):
            assert said == [1]
        with held.notice(lambda: said.append(1), unknown):
            assert said == [1]  # once is enough
        send_to_thread(signal.SIGTERM)  # gives up where somebody waits, and not here
        with pytest.raises(GivenUpError), held.notice(lambda: said.append(1), unknown):
            pass
    assert came == []  # those that gave up


def test_one_that_is_ignored_stays_so(came):
    """By nohup: the sbatch that is started meanwhile inherits it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts().hold():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)
    assert came == []


def test_a_submission_in_another_thread_holds_nothing_and_fails_nowhere(came):
    done = []

    def submit_there():
        with Interrupts().hold():
            done.append(1)

    thread = threading.Thread(target=submit_there)
    thread.start()
    thread.join()
    assert done == [1]
