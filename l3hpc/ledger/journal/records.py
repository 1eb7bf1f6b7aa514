"""The journal: where jobs write results, one append-only file per process, never failing the job.

A line is ``{"check":"<16 hex>","record":{…}}``; the check is the BLAKE2b digest of the record's
text, so that a torn line is recognised. Every record says all that is needed to place it: schema
version, tab, key, restart count, sequence number, epoch, values, host, job, commit and versions.
Files are never shared between processes and never rewritten: appending to one shared file is not
atomic on NFS, and SQLite fails on it.
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
CLOSING = ".closing"  # the end of a name: a compaction has set this file aside
BUNDLE = "+bundle-"  # the beginning of a name that no run's file has: a bundle of closed files
MAX_WAITING = 100_000
_PACKAGES = ("l3hpc", "tensorflow", "keras", "numpy", "scikit-learn")


class Journal:
    """Appends results records; satisfies ``l3hpc.steps.base.Recorder``.

    Only rank 0 writes. No file exists before the first record. Nothing here raises: a record that
    can be written nowhere is kept in memory and tried again at the next one, with one warning.

    Parameters
    ----------
    folder
        ``<workspace>/ledger/journal``.
    fallback
        A second folder for when the first cannot be written; ``second_folder(folder)`` in the home
        folder if it is not given.
    labels
        Values known at submission. Those that are columns of a tab go into each of its records
        (key fields must be here or in the values); others (``run``, ``note``) are kept beside.
    run
        The run's name, by which restarts are counted.
    job, restart, rank
        Taken from Slurm's environment where they are not given.
    git_commit
        That of the checkout this package runs from, if it is not given; empty: none is recorded.
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
        """Append a record, on disk when this returns.

        Parameters
        ----------
        tab
            The tab's name.
        values
            Field → value; the key fields, here or in the labels, say which row it belongs to.
            ``best_*`` need not be given: the fold finds them in ``latest_*``. Names that are not
            columns are kept beside the row: ``state`` (``running``, ``finished``, ``failed``),
            ``note``, ``log`` and ``artifact`` are shown by the views.
        epoch
            From 0, as in the published pipeline; fills ``latest_epoch`` where the tab has it.
        """
        try:
            with self._lock:
                if self._is_writer():
                    self._append(self._line(tab, values, epoch))
        except Exception as error:  # the contract: results never stop the work
            self._warn("record", f"a results record was not written: {error}")

    @property
    def waiting(self) -> int:
        """Records that could not be written anywhere yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Close the file (records may still be added: a new file is opened then)."""
        with self._lock:
            self._forget()

    def _is_writer(self) -> bool:
        rank = self._rank
        if rank is None:
            text = os.environ.get("SLURM_PROCID", "0")
            rank = int(text) if text.isdigit() else 0
        return rank == 0

    def _line(self, tab: str, values: Mapping[str, Any], epoch: int | None) -> bytes:
        declared = TABS.get(tab)
        if declared is None:
            self._warn(tab, f"tab {tab!r} is not declared; its records are kept but not shown")
        if os.getpid() != self._pid:  # a forked child writes its own file
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
            self._warn(tab + ".key", f"a record for {tab!r} lacks its key "
                                     f"({', '.join(declared.key)}); it is kept but has no row")
        row: dict[str, Any] = {}
        beside: dict[str, Any] = {}
        for name, value in merged.items():
            (row if declared and declared.has(name) else beside)[name] = json_value(value)
        record = {
            "schema": SCHEMA, "tab": tab, "key": list(key) if key else None,
            "restart": self._common["restart"], "seq": self._sequence,
            "epoch": None if epoch is None else int(epoch), "time": round(time.time(), 3),
            "values": row, "beside": beside, "origin": self._common["origin"],
        }
        self._sequence += 1
        return seal(record)

    def _provenance(self) -> dict[str, Any]:
        job = self._job
        if job is None:
            array, index = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
            job = f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
        restart = self._restart
        if restart is None:
            text = os.environ.get("SLURM_RESTART_COUNT", "0")
            restart = int(text) if text.isdigit() else 0
        for folder in self.folders if self.run else []:
            restart = max(restart, last_restart(folder, self.run) + 1)
        origin = {"run": self.run or None, "job": job, "host": socket.gethostname(),
                  "pid": self._pid,
                  "commit": source_commit() if self._commit is None else self._commit,
                  "versions": package_versions()}
        return {"restart": restart, "origin": origin}

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        problems = []
        for folder in self.folders:
            try:
                if self._handle < 0:
                    self._open(folder)
                while self._waiting:
                    self._write(self._waiting[0])
                    if self._is_gone():  # a compaction took it for closed: write it elsewhere
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
        """Close the file. Its number is forgotten first: soon it may be that of a foreign file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with contextlib.suppress(OSError):  # each record was flushed to disk when written
                os.close(handle)

    def _open(self, folder: Path) -> None:
        make_folder(folder)
        name = (f"{slug(self.run) or 'run'}-r{self._common['restart']}-{slug(socket.gethostname())}"
                f"-{self._pid}-{uuid.uuid4().hex[:8]}.jsonl")
        path = folder / name
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self.path, self._torn = path, False
        fsync_folder(folder)  # a file whose name is lost is lost, however well it was written

    def _is_gone(self) -> bool:
        """Whether the file that was just written is no longer found under its name."""
        assert self.path is not None
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except FileNotFoundError:
            return True

    def _write(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        self._torn = True
        written = 0
        while written < len(data):
            written += os.write(self._handle, data[written:])
        os.fsync(self._handle)
        self._torn = False

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed or full
                print(f"ledger: {text}", file=sys.stderr, flush=True)


def seal(record: Mapping[str, Any]) -> bytes:
    """One journal line, with its check and its newline."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass")
    return PREFIX + check_digits(text) + MIDDLE + text + b"}\n"


def record_text(line: bytes) -> bytes | None:
    """The text of the record in a line (with or without its newline), or None when the line is
    torn or foreign."""
    body = line[START:-2]  # every line comes through here: PREFIX, check, MIDDLE are spelled out
    if line[-2:] == b"}\n" and line[:START] == b'{"check":"%b","record":' % (
            hashlib.blake2b(body, digest_size=8).hexdigest().encode()):
        return body
    return record_text(line + b"\n") if line[-1:] == b"}" else None


def unseal(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None when the line is torn or foreign."""
    body = record_text(line)
    try:
        record = None if body is None else decode(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def decode(body: bytes) -> Any:
    """The JSON value of a sealed text. Numbers that JSON does not know (a foreign writer's NaN) are
    their names, as this module writes them."""
    return _DECODER.decode(body.decode("utf-8", "surrogatepass"))


_DECODER = json.JSONDecoder(parse_constant=str)


def check_digits(text: bytes) -> bytes:
    """16 hex digits that change when the text does."""
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


def json_value(value: Any) -> Any:
    """``value`` as JSON: NumPy scalars become Python's; NaN and infinities become their names."""
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
    """The text that stands for a number that is none: ``NaN``, ``Infinity``, ``-Infinity``."""
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def slug(text: str) -> str:
    """``text`` as a file name part."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80]


def fallback_folder(folder: Path | str) -> Path:
    """The folder in the user's home that stands in for a journal folder that cannot be written."""
    name = hashlib.blake2b(str(Path(folder).absolute()).encode(), digest_size=6).hexdigest()
    home = Path(os.path.expanduser("~"))  # in a container a user may have none
    if not home.is_absolute():
        home = Path(tempfile.gettempdir()) / f"l3hpc-{os.getuid()}"
    return home / ".l3hpc" / "journal" / name


def last_restart(folder: Path, run: str) -> int:
    """The highest restart count among a run's journal files, -1 when there is none."""
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
    """What the first line of a bundle says: ``sources`` (names of the files in it) and ``runs``
    (name → highest restart count); empty when it cannot be read."""
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


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, without importing them."""
    versions = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def source_commit() -> str | None:
    """The commit of the checkout this package runs from, None when it is installed from a wheel."""
    root = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (root / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head or None
        reference = head[5:]
        if (root / reference).is_file():
            return (root / reference).read_text(encoding="utf-8").strip()
        for line in (root / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(" " + reference):
                return line.split()[0]
    except OSError:
        return None
    return None
