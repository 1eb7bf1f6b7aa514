"""Ctrl-C, TERM and HUP while a job is being submitted: no job may be left that nobody knows."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from l3hpc.schedulers.requests import GivenUpError

# Ctrl-C is the last one that is let through again: it raises an error at once
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Ctrl-C, TERM and HUP, which wait until a job is on record.

    To block them is not enough: a thread that does not, as that of the submission lock or of a
    library, receives them, and Python then interrupts the main thread.
    """

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}  # those that are replaced
        self._came: list[int] = []
        self._notice: Callable[[], None] | None = None
        self._said = False

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Have them wait within the block."""
        self._said = False
        # sbatch inherits this, and finishes too
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._replace()
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            self._restore()

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """Let them through after all, within a block of ``hold``."""
        previous = signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            self._restore()
            yield
        finally:
            self._replace()
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    @contextlib.contextmanager
    def notice(self, say: Callable[[], None], lookup: Callable[[], str]) -> Iterator[None]:
        """Within a block of ``hold``, say at the first one what is waited for, and raise a
        ``GivenUpError`` at the second one.

        Parameters
        ----------
        say
            Called at the first one.
        lookup
            Returns the command that shows whether the job exists.
        """
        def notice() -> None:
            if len(self._came) > 1:
                self._came.clear()
                raise GivenUpError("interrupted before sbatch had answered",
                                   hint=f"See whether the job exists: {lookup()}")
            if self._came and not self._said:
                self._said = True
                say()

        self._notice = notice
        previous = signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            notice()
            yield
        finally:
            self._notice = None
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _receive(self, number: int, frame: object) -> None:
        self._came.append(number)
        if self._notice is not None:
            self._notice()

    def _replace(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python never interrupts another one
        for number in _SIGNALS:
            # not those that nohup has set to be ignored
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._handlers[number] = signal.signal(number, self._receive)

    def _restore(self) -> None:
        for number in _SIGNALS:
            if number in self._handlers:
                signal.signal(number, self._handlers.pop(number))
        came, self._came = self._came, []
        for each in dict.fromkeys(came):
            signal.raise_signal(each)
