"""Files that were written without waiting for the disk, brought to it together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

THREADS = 4


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
    start_syncing(paths)()


def start_syncing(paths: Iterable[Path | str]) -> Callable[[], None]:
    """Have files and folders that were written without ``durable`` brought to disk in the
    background.

    Parameters
    ----------
    paths
        Those that have been removed in the meantime are ignored.

    Returns
    -------
    callable
        Waits until they are there; raises ``OSError`` if the disk does not confirm it.
    """
    distinct = list(dict.fromkeys(map(str, paths)))
    left, errors = iter(distinct), list[OSError]()

    def work() -> None:
        for path in left:  # which the threads share
            try:
                _sync(path)
            except OSError as error:
                errors.append(error)

    # Disks and file servers combine requests that arrive together: many cost little more than one.
    threads = [threading.Thread(target=work) for _ in distinct[:THREADS]]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # this user may have no more processes, as on a busy login node
            break
        started.append(thread)

    def wait() -> None:
        work()  # what no thread has taken
        for thread in started:
            thread.join()
        if errors:
            raise errors[0]

    return wait


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
