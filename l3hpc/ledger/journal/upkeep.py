"""Compaction: the journals of closed runs become one small bundle; every record stays.

A run is closed when each of its rows is finished or failed and none of its files was written for an
hour, or when it has been silent for thirty days. Files with damaged lines are left as they are.

Steps, of which a kill may fall between any two: each file is renamed (``.closing``; a writer that
is alive after all sees that its file has gone and starts another), read whole, the bundle is
written under a temporary name and renamed, the files are removed. Readers take ``.closing`` files
for journals, and a record that is there twice counts once; so at each moment all is there.

Taking damaged lines out of journals. The file as it was is kept in ``damaged/``. Records that
are not understood (``reading.fault``) are found too, and left: a newer version may know them.

A line is damaged when its writer was killed in the middle of it (nothing acknowledged is lost) or
when a disk failed. Files that were written within the last hour are left to their writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import digest, fsync_folder, open_regular, write_bytes
from l3hpc.ledger.journal.batch import Batch, compact_json, pack, unpack
from l3hpc.ledger.journal.fold import Fold, fold_folders
from l3hpc.ledger.journal.reading import NO_ROW, Damage, file_parts, file_records, journal_files
from l3hpc.ledger.journal.records import (
    BUNDLE,
    CLOSING,
    SCHEMA,
    bundle_header,
    record_text,
    seal,
    slug,
)

QUIET_S = 3600.0
SILENT_S = 30 * 86_400.0
ENDED = ("finished", "failed")
DAMAGED = "damaged: l3hpc ledger repair --journal"
NOT_UNDERSTOOD = "it holds records that are not understood: l3hpc ledger repair --journal --dry-run"
REPAIR_QUIET_S = 3600.0
SHOWN = 60


@dataclass
class Compacted:
    """What a compaction did. kept: file name → why it stays as it is."""

    files: int = 0
    runs: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    bundle: str | None = None
    kept: dict[str, str] = field(default_factory=dict)


def compact(folder: Path, *, dry_run: bool = False, quiet_s: float = QUIET_S,
            silent_s: float = SILENT_S, fold: Fold | None = None) -> Compacted:
    """Turn the closed journal files of one folder into a bundle.

    fold: of all folders of the ledger (default: of this one), for the states of rows. dry_run: only
    say what would be done. Raises ``InputError`` when another compaction is at work.
    """
    folder = Path(folder)
    report = Compacted()
    if not folder.is_dir():
        return report
    with _compaction_lock(folder, dry_run):
        known = set().union(*(bundle_header(path).get("sources", ())
                              for path in folder.glob(f"{BUNDLE}*.jsonl")))
        left = [path for path in _files(folder, CLOSING)
                if path.name.removesuffix(CLOSING) in known]
        closed = _closed(folder, fold or fold_folders([folder]), quiet_s, silent_s, report)
        chosen = [path for run in closed.values() for path in run if path not in left]
        report.files, report.runs = len(chosen), len(closed)
        report.bytes_before = sum(path.stat().st_size for path in chosen)
        if dry_run:
            return report
        _remove(left)
        report.files = report.runs = report.bytes_before = 0
        _bundle(folder, closed, set(left), report)
    return report


def _bundle(folder: Path, closed: Mapping[str, list[Path]], left: set[Path],
            report: Compacted) -> None:
    lines: list[bytes] = []
    aside: list[Path] = []
    restarts: dict[str, int] = {}
    for run, paths in closed.items():
        for path in paths:
            moved = None if path in left else _set_aside(path)
            if moved is None:
                continue
            packed, highest, why = _packed(moved)
            if why:
                report.kept[path.name] = why
                moved.rename(moved.with_name(moved.name.removesuffix(CLOSING)))
                continue
            aside.append(moved)
            lines += packed
            restarts[run] = max(restarts.get(run, -1), highest)
            report.bytes_before += moved.stat().st_size
    if not aside:
        return
    fsync_folder(folder)
    names = sorted(path.name.removesuffix(CLOSING) for path in aside)
    header = seal({"schema": SCHEMA, "bundle": {"sources": names, "runs": restarts}})
    data = header + b"".join(lines)
    bundle = folder / f"{BUNDLE}{digest(names)[:16]}.jsonl"
    write_bytes(bundle, data, mode=0o666)
    _remove(aside)
    fsync_folder(folder)
    report.files, report.runs, report.bundle = len(aside), len(restarts), bundle.name
    report.bytes_after = len(data)


def _closed(folder: Path, fold: Fold, quiet_s: float, silent_s: float,
            report: Compacted) -> dict[str, list[Path]]:
    """Run → its files, of the closed runs; with what an interrupted compaction set aside."""
    now = _file_server_time(folder)
    ended = {place for place, row in fold.rows.items() if row.beside.get("state") in ENDED}
    files: dict[str, list[Path]] = {}
    reasons: dict[str, str] = {}
    for path in [*_files(folder, ""), *_files(folder, CLOSING)]:
        run, rows = _contents(path)
        if run is None:
            report.kept[path.name] = NOT_UNDERSTOOD if _holds_unknown_records(path, fold) else "empty"
            continue
        files.setdefault(run, []).append(path)
        silence = now - path.stat().st_mtime
        if silence < quiet_s:
            reasons[run] = "written a short while ago"
        elif silence < silent_s and not rows <= ended:
            reasons.setdefault(run, "its run has not ended")
    for run, why in reasons.items():
        paths = files.pop(run)
        report.kept.update(dict.fromkeys((path.name for path in paths), why))
    for paths in files.values():
        for path in [path for path in paths if os.fspath(path) in fold.torn]:
            report.kept[path.name] = DAMAGED
            paths.remove(path)
        for path in [path for path in paths if _holds_unknown_records(path, fold)]:
            report.kept[path.name] = NOT_UNDERSTOOD
            paths.remove(path)
    return {run: paths for run, paths in sorted(files.items()) if paths}


def _holds_unknown_records(path: Path, damage: Damage) -> bool:
    """Whether a file holds records that are not understood; they stay as they are, byte for byte.
    """
    return any(not why.startswith(NO_ROW) for _, why in damage.odd.get(os.fspath(path), ()))


def _contents(path: Path) -> tuple[str | None, set[tuple[str, tuple[str, ...]]]]:
    """The run of a file (None: there is no record in it) and the rows that it writes about."""
    run, rows = None, set()
    for part in file_parts(path, Damage()):
        record = part.common if isinstance(part, Batch) else part
        run = slug(str((record.get("origin") or {}).get("run") or ""))
        rows.add((record["tab"], tuple(record["key"] or ())))
    return run, rows


def _packed(path: Path) -> tuple[list[bytes], int, str]:
    """The lines of a file in a bundle, its highest restart, or why it cannot be in one."""
    damage = Damage()
    records = list(file_records(path, damage))
    if damage.torn or damage.unreadable:
        return [], -1, DAMAGED
    if _holds_unknown_records(path, damage):
        return [], -1, NOT_UNDERSTOOD
    lines = [seal(item) for item in pack(records)]
    if [compact_json(item) for line in lines for item in _unpacked(line)] != _texts(path):
        return [], -1, "not written by this version"
    return lines, max(int(record["restart"]) for record in records), ""


def _unpacked(line: bytes) -> Iterator[dict[str, Any]]:
    body = record_text(line)
    assert body is not None
    record = json.loads(body.decode("utf-8", "surrogatepass"))
    part = unpack(record) if "packed" in record else record
    yield from part.records() if isinstance(part, Batch) else (part,)


def _texts(path: Path) -> list[bytes | None]:
    with open_regular(path) as stream:
        return [record_text(line) for line in stream.read().splitlines(keepends=True) if line.strip()]


def _files(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*.jsonl{ending}")
                  if path.is_file() and not path.name.startswith(BUNDLE))


def _set_aside(path: Path) -> Path | None:
    if path.name.endswith(CLOSING):
        return path
    try:
        return path.rename(path.with_name(path.name + CLOSING))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise L3hpcError(f"cannot set a closed journal aside: {error.strerror}",
                         where=str(path)) from None


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _file_server_time(folder: Path) -> float:
    """Now, by the clock of the file server (that of file times)."""
    probe = folder / f".clock-{uuid.uuid4().hex}"  # nobody can have put a link there
    try:
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return time.time()
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


@contextmanager
def _compaction_lock(folder: Path, dry_run: bool) -> Iterator[None]:
    """One compaction at a time, as far as the file system knows locks (two would do no harm)."""
    if dry_run:
        yield
        return
    try:
        handle = os.open(folder / ".compaction.lock", os.O_RDWR | os.O_CREAT
                         | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise L3hpcError(f"cannot write into the journal's folder: {error.strerror}",
                         where=str(folder)) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another compaction is at work here", where=str(folder)) from None
        except OSError:
            pass  # no locks here
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True)
class DamagedFile:
    """One file with damaged lines. lines: (number, its beginning). sound: how many lines are.
    odd: (number, why) of the sound lines that are not understood."""

    path: Path
    lines: list[tuple[int, str]]
    sound: int
    busy: bool
    odd: list[tuple[int, str]] = field(default_factory=list)


def find_damaged_files(folders: Iterable[Path], quiet_s: float = REPAIR_QUIET_S) -> list[DamagedFile]:
    """The journal files that hold lines that are damaged or not understood; files that cannot be
    read are left out."""
    found = []
    for path in journal_files(folders):
        try:
            with open_regular(path) as stream:
                data, age = stream.read(), time.time() - path.stat().st_mtime
        except OSError:
            continue
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1)
                 if line.strip()]
        bad = [(number, line[:SHOWN].decode("utf-8", "backslashreplace"))
               for number, line in lines if record_text(line) is None]
        damage = Damage()
        try:
            deque(file_parts(path, damage), maxlen=0)
        except FileNotFoundError:
            continue
        odd = damage.odd.get(os.fspath(path), [])
        if bad or odd:
            found.append(DamagedFile(path, bad, len(lines) - len(bad), age < quiet_s, odd))
    return found


def repair_file(damaged: DamagedFile) -> Path:
    """Leave only the sound lines in a file; where it is kept as it was.

    At each moment a reader finds every sound line: the file is renamed, its sound lines are written
    under its name, and then the old one is moved away.
    """
    path = damaged.path
    name = path.name.removesuffix(CLOSING)
    aside = path if path.name.endswith(CLOSING) else path.rename(path.with_name(name + CLOSING))
    lines = [line for line in aside.read_bytes().split(b"\n") if record_text(line) is not None]
    stat = aside.stat()
    whole = path.with_name(name)
    write_bytes(whole, b"".join(line + b"\n" for line in lines), mode=0o666)
    os.utime(whole, (stat.st_atime, stat.st_mtime))
    kept = path.parent / "damaged" / f"{name}.{time.time_ns():x}"
    kept.parent.mkdir(exist_ok=True)
    aside.rename(kept)
    fsync_folder(path.parent)
    return kept
