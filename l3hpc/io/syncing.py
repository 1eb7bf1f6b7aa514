"""Bring written files to disk, and look past the cache of a network file system."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

THREADS = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exists_now(path: Path | str) -> bool:
    """Whether there is a file or folder, also if another machine has just made or removed it.

    Parameters
    ----------
    path
        The file or folder.
    """
    # For up to a minute NFS does not ask its server again for a name that it has not found. Opening
    # the folder makes it compare that.
    with contextlib.suppress(OSError):
        os.close(os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY))
    return os.path.exists(path)


def make_durable(paths: Iterable[Path | str]) -> None:
    """Wait until files and folders that were written without ``durable`` are on disk.

    Parameters
    ----------
    paths
        Those that have been removed in the meantime are ignored.

    Raises
    ------
    OSError
        If the disk does not confirm it.
    """
    with Syncing() as syncing:
        syncing.add(paths)
        syncing.wait()


class Syncing:
    """Brings files and folders that were written without ``durable`` to disk in the background.

    A context manager: its threads end with the block, also if nobody waits for them. They start
    with ``start``, because that takes a moment, which the caller chooses.
    """

    def __init__(self) -> None:
        self._queue = queue.SimpleQueue[str | None]()
        self._waiting = set[str]()  # what is in the queue
        self._threads = list[threading.Thread]()
        self._errors = list[OSError]()
        self._started = False

    def __enter__(self) -> Syncing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for _ in self._threads:
            self._queue.put(None)

    def add(self, paths: Iterable[Path | str]) -> None:
        """Add paths; one that is added several times is brought to disk once, if its turn has not
        come meanwhile.

        Parameters
        ----------
        paths
            Those that have been removed in the meantime are ignored.
        """
        for path in map(str, paths):
            if path not in self._waiting:
                self._waiting.add(path)
                self._queue.put(path)

    def start(self) -> None:
        """Begin to bring to disk what was added; does nothing if it has begun."""
        if self._started:
            return
        self._started = True
        # Ctrl-C has to reach the main thread: where another receives it, no wait of that ends
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            # Disks and file servers combine requests that arrive together: many cost little more
            # than one.
            for _ in range(THREADS):
                thread = threading.Thread(target=self._work, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # this user may have no more, as on a busy login node
                    break
                self._threads.append(thread)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self) -> None:
        """Wait until everything that was added is on disk.

        Raises
        ------
        OSError
            If the disk does not confirm it.
        """
        if len(self._waiting) > 1:
            self.start()
        # one for each thread, after all paths: it ends the thread
        for _ in range(len(self._threads) + 1):
            self._queue.put(None)
        self._work()  # what no thread has taken
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        while (path := self._queue.get()) is not None:
            self._waiting.discard(path)
            try:
                _sync(path)
            except OSError as error:
                self._errors.append(error)


def _sync(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    except OSError:
        if not os.path.isdir(path):  # some network file systems refuse fsync on folders
            raise
    finally:
        os.close(handle)
