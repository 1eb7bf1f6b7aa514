"""Ctrl-C, TERM and HUP while a job is being submitted: no job may be left without a record."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

from l3hpc.schedulers.requests import GivenUpError

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Ctrl-C, TERM and HUP, which wait until a job is on record.

    To block them is not enough: a thread that does not, as that of the submission lock or of a
    library, receives them, and Python then interrupts the main thread. Their handlers cannot be
    replaced all at once either; so the new one does what the former would do unless they are held.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}  # those that are replaced
        self._held = False
        self._came: list[int] = []
        self._notice: Callable[[], None] | None = None
        self._said = False

    def hold(self) -> AbstractContextManager[None]:
        """Have them wait within the block."""
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, ())

        def begin() -> None:
            self._said = False
            # sbatch inherits this, and finishes too
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            self._replace()
            self._held = True

        def end() -> None:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)
                self._release()
            finally:
                self._restore()

        return _Block(begin, end)

    @property
    def came(self) -> bool:
        """Whether any waits."""
        return bool(self._came)

    def let_through(self) -> AbstractContextManager[None]:
        """Let them through after all, within a block of ``hold``."""
        def begin() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._release()

        def end() -> None:
            self._held = True
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

        return _Block(begin, end)

    def notice(self, say: Callable[[], None] | None, unknown: Callable[[], GivenUpError]
               ) -> AbstractContextManager[None]:
        """Within a block of ``hold``, say at the first one what is waited for, and give up at the
        second one.

        Parameters
        ----------
        say
            Called at the first one; None if that is known, and the first one gives up.
        unknown
            Returns the error, which says what is not known.
        """
        def notice() -> None:
            if len(self._came) > (say is not None):
                self._came.clear()
                raise unknown()
            if self._came and say and not self._said:
                self._said = True
                say()

        def begin() -> None:
            self._notice = notice
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            notice()

        def end() -> None:
            self._notice = None
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

        return _Block(begin, end)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._came.append(number)
            if self._notice is not None:
                self._notice()
        elif callable(self._handlers[number]):
            self._handlers[number](number, frame)
        else:  # the system's own
            signal.signal(number, self._handlers[number])
            signal.raise_signal(number)

    def _release(self) -> None:
        self._held = False
        came, self._came = self._came, []
        for each in dict.fromkeys(came):
            signal.raise_signal(each)

    def _replace(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python never interrupts another one
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # not those that nohup has set to be ignored
            if handler not in (signal.SIG_IGN, None, self._receive):
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def _restore(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) == self._receive:
                signal.signal(number, self._handlers[number])


class _Block:
    """A context manager of two functions.

    A generator would be closed late, after the end of ``hold``, if a signal interrupted the
    ``with`` that has just called it.
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin, self._end = begin, end

    def __enter__(self) -> None:
        # an interrupted beginning may have blocked signals already: pthread_sigmask runs the
        # handlers of those that are pending
        try:
            self._begin()
        except BaseException:
            self._end()
            raise

    def __exit__(self, *error: object) -> None:
        self._end()
