"""Writing journals: one append-only file per process, whose failures never stop the job.

A line is ``{"check":"<16 hex>","record":{…}}``; the check value is the BLAKE2b digest of the
record's text, by which a torn line is recognised. A record holds everything that is needed to merge
it: schema version, tab, key, restart (which process of the run, by number), sequence number, epoch,
values, host, job, commit and versions. Files are never shared between processes and never
rewritten, because appending to a shared file is not atomic on NFS, and SQLite fails there.

``Journal`` writes; below it are the format of a line, the values in it, the names of files and the
provenance of records.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from l3hpc.io.files import fsync_folder, make_folder, open_regular
from l3hpc.ledger.schema import ALIASES, TABS

SCHEMA = 1
PREFIX = b'{"check":"'
MIDDLE = b'","record":'
START = len(PREFIX) + 16 + len(MIDDLE)
CLOSING = ".closing"  # suffix of a file that a compaction is working on
BUNDLE = "+bundle-"  # prefix of a bundle of closed files; no run's file can have it
MAX_WAITING = 100_000  # records kept in memory
_CHECKOUT = Path(__file__).resolve().parents[3]
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_PACKAGES = ("l3hpc", "tensorflow", "keras", "numpy", "scikit-learn")


class Journal:
    """Appends results to a journal file; implements ``l3hpc.steps.base.Recorder``.

    Only rank 0 writes. The file is created with the first record. Methods never raise: a record
    that cannot be written anywhere is kept in memory and tried again with the next one, after one
    warning.

    Parameters
    ----------
    folder
        ``<workspace>/ledger/journal``.
    fallback
        Folder that is used if ``folder`` cannot be written; by default ``fallback_folder(folder)``,
        in the home folder.
    labels
        Values that are known at submission. Those that are columns of a tab go into each of its
        records (key fields have to be here or in the values); others (``run``, ``note``) are kept
        in addition to the columns.
    run
        Name of the run, whose processes are numbered.
    job, restart, rank
        By default those of Slurm's environment variables. ``restart`` grows with every process of
        a run: of two records, that of the later process counts.
    git_commit
        By default that of the checkout from which this package runs; empty for none.
    """

    def __init__(
        self, folder: Path | str, *, fallback: Path | str | None = None,
        labels: Mapping[str, Any] | None = None, run: str = "", job: str | None = None,
        restart: int | None = None, rank: int | None = None, git_commit: str | None = None,
    ) -> None:
        self.folders = [Path(folder), Path(fallback) if fallback else fallback_folder(folder)]
        self.labels = {ALIASES.get(name, name): value for name, value in (labels or {}).items()
                       if value is not None}
        self.run = run or str(self.labels.get("run", ""))
        self.path: Path | None = None
        self._job, self._restart, self._rank = job, restart, rank
        self._commit = self.labels.get("git_commit") if git_commit is None else git_commit
        self._handle = -1
        self._pid = 0
        self._sequence = 0
        self._torn = False
        self._warned: set[str] = set()
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._common: dict[str, Any] = {}
        self._lock = threading.Lock()

    def record(self, tab: str, values: Mapping[str, Any], *, epoch: int | None = None) -> None:
        """Append a record, which is on disk when this returns.

        Parameters
        ----------
        tab
            Name of the tab.
        values
            Field → value. The key fields, here or in the labels, identify the row. ``best_*`` need
            not be given: the fold computes them from ``latest_*``. Names that are not columns are
            kept too; the views show ``state`` (``running``, ``finished``, ``failed``), ``note``,
            ``log`` and ``artifact``.
        epoch
            Counted from 0, as in the published pipeline; fills ``latest_epoch`` if the tab has it.
        """
        try:
            with self._lock:
                if self._is_writer():
                    self._append(self._line(tab, values, epoch))
        # results must never stop the work, whatever is wrong with them
        except Exception as error:
            self._warn("record", f"cannot write a results record: {error}")

    @property
    def waiting(self) -> int:
        """Number of records that could not be written anywhere yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Close the file; a further record opens a new one."""
        with self._lock:
            self._forget()

    def _is_writer(self) -> bool:
        """Return whether this process has rank 0."""
        rank = self._rank
        if rank is None:
            text = os.environ.get("SLURM_PROCID", "0")
            rank = int(text) if text.isdigit() else 0
        return rank == 0

    def _line(self, tab: str, values: Mapping[str, Any], epoch: int | None) -> bytes:
        """Return the line of a record."""
        declared = TABS.get(tab)
        if declared is None:
            self._warn(tab, f"tab {tab!r} is not declared; its records are kept but not shown")
        # a forked child writes a file of its own
        if os.getpid() != self._pid:
            self._handle, self._pid, self._sequence = -1, os.getpid(), 0
            self._common = self._provenance()
        merged = {**self.labels, **{ALIASES.get(name, name): value
                                    for name, value in values.items() if value is not None}}
        if declared and declared.has("latest_epoch") and epoch is not None:
            merged["latest_epoch"] = epoch
        commit = self._common["origin"]["commit"]
        if declared and declared.has("git_commit") and commit and not merged.get("git_commit"):
            merged["git_commit"] = commit
        key = declared.key_of(merged) if declared else None
        if declared and key is None:
            self._warn(tab + ".key", f"a record for {tab!r} is missing its key "
                                     f"({', '.join(declared.key)}); it is kept but has no row")
        columns: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in merged.items():
            (columns if declared and declared.has(name) else extra)[name] = json_value(value)
        record = {
            "schema": SCHEMA, "tab": tab, "key": list(key) if key else None,
            "restart": self._common["restart"], "seq": self._sequence,
            "epoch": None if epoch is None else int(epoch), "time": round(time.time(), 3),
            "values": columns, "beside": extra, "origin": self._common["origin"],
        }
        self._sequence += 1
        return seal(record)

    def _provenance(self) -> dict[str, Any]:
        """Return ``restart`` and the origin, which all records of this process share."""
        job = self._job
        if job is None:
            array, index = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
            job = f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
        restart = self._restart
        if restart is None:
            text = os.environ.get("SLURM_RESTART_COUNT", "0")
            restart = int(text) if text.isdigit() else 0
        # a resumed run has a new job, whose count starts at 0, but its records are newer
        for folder in self.folders if self.run else []:
            restart = max(restart, last_restart(folder, self.run) + 1)
        origin = {"run": self.run or None, "job": job, "host": socket.gethostname(),
                  "pid": self._pid,
                  "commit": source_commit() if self._commit is None else self._commit,
                  "versions": package_versions()}
        return {"restart": restart, "origin": origin}

    def _append(self, line: bytes) -> None:
        """Write a line, after those that are pending, to the first folder that can be written."""
        self._waiting.append(line)
        problems = []
        for folder in self.folders:
            try:
                if self._handle < 0:
                    self._open(folder)
                while self._waiting:
                    self._write(self._waiting[0])
                    # a compaction took the file for closed: write the line again, to another one
                    if self._is_gone():
                        self._forget()
                        self._open(folder)
                    else:
                        self._waiting.popleft()
                return
            except OSError as error:
                problems.append(f"{folder}: {error.strerror or error}")
                self._warn(str(folder), f"cannot write results to {folder}: {error.strerror}; "
                                        "trying another folder")
                self._forget()
        self._warn("all", "results are kept in memory until a folder can be written: "
                          + "; ".join(problems))

    def _forget(self) -> None:
        """Close the file."""
        # once closed, the descriptor may belong to another file of this process
        handle, self._handle = self._handle, -1
        if handle >= 0:
            # every record was synchronised to disk, so an error here loses nothing
            with contextlib.suppress(OSError):
                os.close(handle)

    def _open(self, folder: Path) -> None:
        """Create a file with a name of its own in ``folder``."""
        make_folder(folder)
        name = (f"{slug(self.run) or 'run'}-r{self._common['restart']}-{slug(socket.gethostname())}"
                f"-{self._pid}-{uuid.uuid4().hex[:8]}.jsonl")
        path = folder / name
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self.path, self._torn = path, False
        # without this, a crash of the server may lose the name of a file that is on disk
        fsync_folder(folder)

    def _is_gone(self) -> bool:
        """Return whether the open file no longer has its name."""
        assert self.path is not None
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except FileNotFoundError:
            return True

    def _write(self, line: bytes) -> None:
        """Write a line and synchronise it to disk."""
        # after a failed write, part of the last line may be in the file: end it first
        data = b"\n" + line if self._torn else line
        self._torn = True
        written = 0
        while written < len(data):
            written += os.write(self._handle, data[written:])
        os.fsync(self._handle)
        self._torn = False

    def _warn(self, topic: str, text: str) -> None:
        """Print a warning, once per topic."""
        if topic not in self._warned:
            self._warned.add(topic)
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed or full
                print(f"ledger: {text}", file=sys.stderr, flush=True)


# --- the format of a line -------------------------------------------------------------------------

_DECODER = json.JSONDecoder(parse_constant=str)


def seal(record: Mapping[str, Any]) -> bytes:
    """Return the line of a record, with its check value and a newline."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass")
    return PREFIX + check_digits(text) + MIDDLE + text + b"}\n"


def record_text(line: bytes) -> bytes | None:
    """Return the text of the record in a line; None if the check value is wrong or missing.

    Parameters
    ----------
    line
        With or without its newline.
    """
    # every line passes here, so PREFIX, check_digits and MIDDLE are written out for speed
    body = line[START:-2]
    if line[-2:] == b"}\n" and line[:START] == b'{"check":"%b","record":' % (
            hashlib.blake2b(body, digest_size=8).hexdigest().encode()):
        return body
    return record_text(line + b"\n") if line[-1:] == b"}" else None


def unseal(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if the line is damaged or not of a journal."""
    body = record_text(line)
    try:
        record = None if body is None else decode(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def decode(body: bytes) -> Any:
    """Return the JSON value of a record's text.

    NaN and infinities, which other programs write though JSON has no such numbers, become their
    names.
    """
    return _DECODER.decode(body.decode("utf-8", "surrogatepass"))


def check_digits(text: bytes) -> bytes:
    """Return the check value of a text: 16 hex digits."""
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


# --- values ---------------------------------------------------------------------------------------

def json_value(value: object) -> Any:
    """Return ``value`` as a JSON value.

    Parameters
    ----------
    value
        NumPy scalars and arrays become numbers and lists, NaN and infinities their names, and
        objects without a JSON form their ``str``.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else nonfinite_name(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_value(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return json_value(value.item())
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    return str(value)


def nonfinite_name(value: float) -> str:
    """Return the name of a number that is not finite: ``NaN``, ``Infinity`` or ``-Infinity``."""
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


# --- files ----------------------------------------------------------------------------------------

def slug(text: str) -> str:
    """Return ``text`` as part of a file name, at most 80 characters long."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80]


def fallback_folder(folder: Path | str) -> Path:
    """Return the folder that is used if a journal folder cannot be written.

    Parameters
    ----------
    folder
        The journal folder.

    Returns
    -------
    Path
        A folder in the user's home, or in the temporary folder for a user without a home.
    """
    name = hashlib.blake2b(str(Path(folder).absolute()).encode(), digest_size=6).hexdigest()
    # a user in a container may have no home: "~" is then left as it is
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute():
        home = Path(tempfile.gettempdir()) / f"l3hpc-{os.getuid()}"
    return home / ".l3hpc" / "journal" / name


def last_restart(folder: Path, run: str) -> int:
    """Return the highest ``restart`` among a run's journal files; -1 if it has none."""
    pattern = re.compile(re.escape(slug(run)) + r"-r(\d+)-")
    try:
        names = os.listdir(folder)
    except OSError:
        return -1
    counts = [int(found[1]) for found in map(pattern.match, names) if found]
    counts += [int(bundle_header(folder / name).get("runs", {}).get(slug(run), -1))
               for name in names if name.startswith(BUNDLE)]
    return max(counts, default=-1)


def bundle_header(path: Path) -> dict[str, Any]:
    """Return the header of a bundle.

    Parameters
    ----------
    path
        The bundle.

    Returns
    -------
    dict
        ``sources`` (names of the files in it) and ``runs`` (name → highest ``restart``); empty
        if it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            record = unseal(stream.readline())
    except OSError:
        return {}
    found = record.get("bundle") if record else None
    if not isinstance(found, dict):
        return {}
    sources, runs = found.get("sources"), found.get("runs")
    return {
        "sources": [name for name in sources if isinstance(name, str)]
        if isinstance(sources, list) else [],
        "runs": {run: count for run, count in runs.items() if type(count) is int}
        if isinstance(runs, dict) else {}}


# --- provenance -----------------------------------------------------------------------------------

@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    versions = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in _PACKAGES:
        # from the metadata: importing TensorFlow takes seconds
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def source_commit(checkout: Path = _CHECKOUT) -> str | None:
    """Return the commit of the checkout from which this package runs.

    Parameters
    ----------
    checkout
        Its folder.

    Returns
    -------
    str or None
        None if the package is installed from a wheel.
    """
    # read from the files of .git: git may not be installed where jobs run
    folder = checkout / ".git"
    try:
        if folder.is_file():  # a worktree, or a submodule
            folder = checkout / _content(folder).removeprefix("gitdir: ")
        found = _content(folder / "HEAD")
        if found.startswith("ref: "):
            if (folder / "commondir").is_file():  # a worktree has the branches of its repository
                folder /= _content(folder / "commondir")
            found = _commit_of(folder, found[5:])
    except (OSError, UnicodeDecodeError):
        return None
    return found if _COMMIT.fullmatch(found) else None


def _commit_of(folder: Path, branch: str) -> str:
    if (folder / branch).is_file():
        return _content(folder / branch)
    return next((line.split()[0] for line in _content(folder / "packed-refs").splitlines()
                 if line.endswith(f" {branch}")), "")


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()
