"""Leases: one holder at a time for a piece of work, and none that stays for ever after a crash.

A ``Lease`` is a series of numbered claim files ``<name>.owner.<n>`` beside the thing it guards. The
highest number holds it. A process takes over a dead holder's claim by creating the next number
(exclusively, so only one can succeed). The holder rewrites its claim regularly with a
growing ``beat``; another process checks by its own clock whether the beat still grows, so the
clocks of the machines need not agree. On the holder's own machine a vanished process is noticed at
once. A claim of another machine that is minutes old by any clock counts as dead at the first check.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.files import create_file, file_server_time, read_bounded, write_json
from l3hpc.io.processes import process_start

BEAT_EVERY_S = 5.0
EXPIRES_S = 60.0
MAX_BYTES = 2**16
DEAD_S = 900.0  # no two clocks of a cluster differ by that much
EMPTY_S = 1.0  # where there are no hard links, a claim is empty until it is written
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


class Lease:
    """A claim on a name in a folder.

    Call ``acquire()`` (True if it is ours) and ``release()``, or use it as a context manager after
    a successful ``acquire``.

    Parameters
    ----------
    path
        What the lease guards. Nothing is written to ``path`` itself, and it need not exist.
    label
        Describes the holder in messages to others.
    expires_s
        How long a beat may stand still until the holder counts as dead, seconds.
    forget
        Whether the end of a ``with`` block removes the claim, as ``release(forget=True)``.
    """

    def __init__(
        self, path: Path, label: str = "", *, expires_s: float = EXPIRES_S, forget: bool = False,
    ) -> None:
        self._forget = forget
        self._folder, self._name = Path(path).parent, Path(path).name
        self._label, self._expires = label, expires_s
        self._number: int | None = None
        self._token, self._since = uuid.uuid4().hex, 0.0
        self._beat = 0
        self._seen: tuple[tuple[object, object], float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Try once to become the holder.

        Returns
        -------
        bool
            False while another holder is alive: call again later.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if os.path.lexists(self._folder) and not self._folder.is_dir():
                raise
            return False  # another process has just removed it
        number, state = self._highest()
        if state is not None and state.get("age", 0.0) > DEAD_S:
            # our clock may be the one that is wrong
            ahead = time.time() - file_server_time(self._folder)
            state["age"] = min(state["age"], state["age"] - ahead)
        if state is not None and self._alive(state):
            return False
        mine, self._since = number + 1, time.time()
        if not self._create(self._claim(mine)):
            return False
        # a slow file system may have shown us the folder as it was before a newer claim
        if self._numbers()[-1:] != [mine]:
            self._claim(mine).unlink(missing_ok=True)
            return False
        self._number = mine
        for old in self._older(mine):
            with contextlib.suppress(PermissionError):  # of another user: it stays
                old.unlink(missing_ok=True)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()
        return True

    def release(self, *, forget: bool = False) -> None:
        """Give the claim up; does nothing if it is not ours.

        Parameters
        ----------
        forget
            Remove the claim file: nobody will claim this again.
        """
        if self._number is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):  # a full disk must not hide the result of the work
            if forget:
                self._claim(self._number).unlink(missing_ok=True)
            else:
                # marked instead of removed: the next holder must get a higher number
                write_json(self._claim(self._number), {**self._state(), "released": True})
        self._number = None

    def holder(self) -> dict[str, Any] | None:
        """Return the live holder.

        Returns
        -------
        dict or None
            Its ``host``, ``pid`` and ``label``, among others; None if nobody holds the lease.
        """
        _, state = self._highest()
        return state if state is not None and self._alive(state) else None

    def latest(self) -> dict[str, Any] | None:
        """Return the latest holder, alive or not.

        Returns
        -------
        dict or None
            As from ``holder``; its ``since`` says when it acquired the lease, in unix seconds of
            its own clock, and ``age`` how long ago its last beat was, in seconds.
        """
        return self._highest()[1]

    def still_ours(self) -> bool:
        """Whether no other process has taken the claim over (because we seemed dead)."""
        return self._number is not None and self._numbers()[-1:] == [self._number]

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release(forget=self._forget)

    def _create(self, claim: Path) -> bool:
        """Create a claim; False if another process has just done so."""
        whole = claim.with_name(f".{claim.name}.{self._token[:8]}.tmp")
        content = json.dumps(self._state()).encode()
        try:
            # a process killed between creating and writing a claim would leave one that tells
            # nobody whose it was
            try:
                create_file(whole, content)
                os.link(whole, claim)
            except FileNotFoundError:  # removed by another process, alone or with the folder
                return False
            except FileExistsError:
                # a file server may repeat a link whose answer was lost
                with contextlib.suppress(FileNotFoundError):
                    return os.stat(whole).st_nlink > 1
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_in_place(claim, content)
        finally:
            with contextlib.suppress(OSError):
                whole.unlink(missing_ok=True)
        return True

    def _create_in_place(self, claim: Path, content: bytes) -> bool:
        try:
            # O_EXCL also holds on network file systems: of two processes one gets the number
            create_file(claim, content)
        except (FileExistsError, FileNotFoundError):
            return False
        except BaseException:  # a full disk
            claim.unlink(missing_ok=True)
            raise
        return True

    def _state(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"host": socket.gethostname(), "pid": pid, "start": process_start(pid),
                "label": self._label, "token": self._token, "beat": self._beat,
                "since": self._since}

    def _claim(self, number: int) -> Path:
        return self._folder / f"{self._name}.owner.{number}"

    def _numbers(self) -> list[int]:
        prefix = f"{self._name}.owner."
        try:
            names = [name[len(prefix):] for name in os.listdir(self._folder)
                     if name.startswith(prefix)]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def _older(self, mine: int) -> list[Path]:
        """The claims before ours, and what processes that were killed had begun to write."""
        claim = f"{self._name}.owner."
        return [Path(entry.path) for entry in os.scandir(self._folder)
                if entry.name.startswith(claim) and entry.name[len(claim):].isdecimal()
                and int(entry.name[len(claim):]) < mine
                or entry.name.startswith(f".{claim}") and entry.name.endswith(".tmp")]

    def _highest(self) -> tuple[int, dict[str, Any] | None]:
        numbers = self._numbers()
        if not numbers:
            return 0, None
        try:
            content = self._read(self._claim(numbers[-1]))
            state = json.loads(content) if content else {"released": True}
        except FileNotFoundError:  # released or taken over since the folder was listed
            if self._numbers() != numbers:
                return self._highest()
            state = {"released": True}  # listed by a network file system that is behind
        except (InputError, OSError, ValueError, RecursionError):  # being written, or damaged
            state = None
        if not isinstance(state, dict):
            state = {"token": f"unreadable {numbers[-1]}"}
        with contextlib.suppress(OSError):
            file = self._claim(numbers[-1]).stat()
            state["age"], state["own"] = time.time() - file.st_mtime, file.st_uid == os.geteuid()
        return numbers[-1], state

    def _read(self, claim: Path) -> bytes:
        """What a claim holds. One that stays empty is of a process that was killed."""
        end = time.monotonic() + EMPTY_S
        while not (content := read_bounded(claim, MAX_BYTES)):
            if time.monotonic() > end:
                break
            time.sleep(EMPTY_S / 20)
        return content

    def _alive(self, state: dict[str, Any]) -> bool:
        if state.get("released"):
            return False
        if state.get("host") == socket.gethostname() and "pid" in state and state.get("own", True):
            start = process_start(state["pid"])
            # the id of a vanished process may have been given to another one, which started at
            # another time
            if start is None or start != state.get("start"):
                return False
            # it exists, however old its claim looks: the clock may have been set
        elif state.get("age", 0.0) > DEAD_S:
            return False
        # by our own monotonic clock: the clocks of two machines may differ by minutes
        mark, now = (state.get("token"), state.get("beat")), time.monotonic()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now)
        return now - self._seen[1] < self._expires

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_EVERY_S):
            # somebody took the claim over, because this process was stopped for too long: writing
            # on would revive the old claim
            if not self.still_ours():
                return
            self._beat += 1
            with contextlib.suppress(OSError):  # tried again at the next beat
                write_json(self._claim(self._number or 0), self._state())
