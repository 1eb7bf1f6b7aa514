"""Signals at every point of a submission: each is obeyed once, after what it must not interrupt."""

import contextlib
import signal
import socket
import sys
import threading

import pytest

from l3hpc.runs import interrupts
from l3hpc.runs.interrupts import Interrupts

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
