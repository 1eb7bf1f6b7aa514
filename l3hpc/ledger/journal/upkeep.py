"""Maintenance of journal files: compacting those of closed runs, and removing damaged lines.

``compact`` merges the journals of closed runs into one small bundle that contains every record. A
run is closed if each of its rows is finished or failed and none of its files was written for an
hour, or if nothing was written for thirty days. It can be killed at any time: each file is renamed
(to ``.closing``; a writer that is still alive notices and starts another file) and read, the bundle
is written under a temporary name and renamed, then the files are removed. Readers also read
``.closing`` files, and a record that exists twice counts once, so no record is missing at any time.

``repair_file`` removes damaged lines and keeps the original file in ``damaged/``. A line is damaged
if its writer was killed in the middle of it (nothing that was acknowledged is lost) or if a disk
failed. Records that are not understood (``reading.record_fault``) are reported and kept, since a
newer version may understand them.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.io.files import (
    digest,
    file_server_time,
    fsync_folder,
    open_regular,
    write_bytes,
)
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

QUIET_S = 3600.0  # a file that was written since is still in use
SILENT_S = 30 * 86_400.0  # a run that has written nothing since is closed, whatever its state
ENDED = ("finished", "failed")
EXCERPT = 60  # bytes of a damaged line that are shown


# --- compaction -----------------------------------------------------------------------------------

@dataclass
class Compacted:
    """The result of a compaction.

    Attributes
    ----------
    files, runs
        Number of files and runs that were merged.
    bytes_before, bytes_after
        Size of these files, and of the bundle.
    bundle
        Name of the bundle; None if there was nothing to merge.
    kept
        Name of a file → why it was left unchanged.
    """

    files: int = 0
    runs: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    bundle: str | None = None
    kept: dict[str, str] = field(default_factory=dict)


def damaged() -> str:
    """Return why a file with damaged lines is kept, and what to do about it."""
    return f"damaged: {command_line('ledger', 'repair', '--journal')}"


def not_understood() -> str:
    """Return why a file whose records have no meaning here is kept, and what lists them."""
    return ("it holds records that are not understood: "
            + command_line("ledger", "repair", "--journal", "--dry-run"))


def compact(folder: Path, *, dry_run: bool = False, quiet_s: float = QUIET_S,
            silent_s: float = SILENT_S, fold: Fold | None = None) -> Compacted:
    """Merge the journal files of closed runs in one folder into a bundle.

    Parameters
    ----------
    folder
        The journal folder.
    dry_run
        Only count what would be merged; write nothing.
    quiet_s
        A file that was written less than this many seconds ago is left unchanged.
    silent_s
        A run that has written nothing for this many seconds is closed, whatever its state.
    fold
        Fold of all folders of the ledger, for the states of rows; by default of this folder.

    Returns
    -------
    Compacted
        What was merged, and which files were left unchanged.

    Raises
    ------
    InputError
        Another compaction is running in this folder.
    L3hpcError
        The folder cannot be written.
    """
    folder = Path(folder)
    report = Compacted()
    if not folder.is_dir():
        return report
    with _compaction_lock(folder, dry_run):
        bundled = set().union(*(bundle_header(path).get("sources", ())
                                for path in folder.glob(f"{BUNDLE}*.jsonl")))
        # an earlier compaction was killed after it wrote the bundle: these are in it already
        left = [path for path in _files(folder, CLOSING)
                if path.name.removesuffix(CLOSING) in bundled]
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
    """Write the bundle of ``closed`` files, except those ``left`` over, and remove the files."""
    lines: list[bytes] = []
    aside: list[Path] = []
    restarts: dict[str, int] = {}
    for run, paths in closed.items():
        for path in paths:
            moved = None if path in left else _set_aside(path)
            if moved is None:
                continue
            packed, highest, reason = _packed(moved)
            if reason:
                report.kept[path.name] = reason
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
    # named by its contents: a repetition after a kill writes the same file again
    bundle = folder / f"{BUNDLE}{digest(names)[:16]}.jsonl"
    write_bytes(bundle, data, mode=0o666)
    _remove(aside)
    fsync_folder(folder)
    report.files, report.runs, report.bundle = len(aside), len(restarts), bundle.name
    report.bytes_after = len(data)


def _closed(folder: Path, fold: Fold, quiet_s: float, silent_s: float,
            report: Compacted) -> dict[str, list[Path]]:
    """Return the files of closed runs, by run, with those that a killed compaction renamed."""
    # files have the times of the file server, whose clock may differ from that of this machine
    now = file_server_time(folder)
    ended = {place for place, row in fold.rows.items() if row.extra.get("state") in ENDED}
    files: dict[str, list[Path]] = {}
    reasons: dict[str, str] = {}
    for path in [*_files(folder, ""), *_files(folder, CLOSING)]:
        run, rows = _contents(path)
        if run is None:
            report.kept[path.name] = (
                not_understood() if _holds_unknown_records(path, fold) else "empty")
            continue
        files.setdefault(run, []).append(path)
        silence = now - path.stat().st_mtime
        if silence < quiet_s:
            reasons[run] = "written a short while ago"
        elif silence < silent_s and not rows <= ended:
            reasons.setdefault(run, "its run has not ended")
    # a run is closed as a whole: one file that is still written keeps all of them
    for run, reason in reasons.items():
        paths = files.pop(run)
        report.kept.update(dict.fromkeys((path.name for path in paths), reason))
    for paths in files.values():
        # what cannot be read completely stays, so that it can still be repaired by hand
        for path in [path for path in paths if os.fspath(path) in fold.torn]:
            report.kept[path.name] = damaged()
            paths.remove(path)
        for path in [path for path in paths if _holds_unknown_records(path, fold)]:
            report.kept[path.name] = not_understood()
            paths.remove(path)
    return {run: paths for run, paths in sorted(files.items()) if paths}


def _holds_unknown_records(path: Path, damage: Damage) -> bool:
    """Return whether a file holds records that are not understood; such a file is not merged."""
    records = damage.not_understood.get(os.fspath(path), ())
    return any(not reason.startswith(NO_ROW) for _, reason in records)


def _contents(path: Path) -> tuple[str | None, set[tuple[str, tuple[str, ...]]]]:
    """Return the run of a file (None if it has no record) and the rows of its records."""
    run, rows = None, set()
    for part in file_parts(path, Damage()):
        record = part.common if isinstance(part, Batch) else part
        run = slug(str((record.get("origin") or {}).get("run") or ""))
        rows.add((record["tab"], tuple(record["key"] or ())))
    return run, rows


def _packed(path: Path) -> tuple[list[bytes], int, str]:
    """Return the lines of a file in a bundle and its highest restart, or why it is not merged."""
    damage = Damage()
    records = list(file_records(path, damage))
    if damage.torn or damage.unreadable:
        return [], -1, damaged()
    if _holds_unknown_records(path, damage):
        return [], -1, not_understood()
    lines = [seal(item) for item in pack(records)]
    # what a reader of the bundle gets has to be the same text, byte for byte
    if [compact_json(item) for line in lines for item in _unpacked(line)] != _texts(path):
        return [], -1, "not written by this version"
    return lines, max(int(record["restart"]) for record in records), ""


def _unpacked(line: bytes) -> Iterator[dict[str, Any]]:
    """Yield the records of a line of a bundle."""
    body = record_text(line)
    assert body is not None
    record = json.loads(body.decode("utf-8", "surrogatepass"))
    part = unpack(record) if "packed" in record else record
    yield from part.records() if isinstance(part, Batch) else (part,)


def _texts(path: Path) -> list[bytes | None]:
    """Return the texts of the records of a file."""
    with open_regular(path) as stream:
        lines = stream.read().splitlines(keepends=True)
    return [record_text(line) for line in lines if line.strip()]


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return the journal files with this suffix, without bundles."""
    return sorted(path for path in folder.glob(f"*.jsonl{suffix}")
                  if path.is_file() and not path.name.startswith(BUNDLE))


def _set_aside(path: Path) -> Path | None:
    """Rename a file to ``.closing``; None if it has gone."""
    if path.name.endswith(CLOSING):
        return path
    try:
        return path.rename(path.with_name(path.name + CLOSING))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise L3hpcError(f"cannot rename a closed journal: {error.strerror}",
                         where=str(path)) from None


def _remove(paths: list[Path]) -> None:
    """Remove files, of which some may have gone."""
    for path in paths:
        path.unlink(missing_ok=True)


@contextmanager
def _compaction_lock(folder: Path, dry_run: bool) -> Iterator[None]:
    """Allow one compaction at a time, if the file system has locks (two would do no harm)."""
    if dry_run:
        yield
        return
    try:
        handle = os.open(folder / ".compaction.lock", os.O_RDWR | os.O_CREAT
                         | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise L3hpcError(f"cannot write to the journal folder: {error.strerror}",
                         where=str(folder)) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another compaction is running", where=str(folder)) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


# --- repair ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class DamagedFile:
    """A file with lines that are damaged or not understood.

    Attributes
    ----------
    path
        The file.
    lines
        Number and beginning of each damaged line.
    valid
        Number of the other lines.
    busy
        Whether the file was written a short while ago and may still be in use.
    not_understood
        Line number and reason of the records that are not understood.
    """

    path: Path
    lines: list[tuple[int, str]]
    valid: int
    busy: bool
    not_understood: list[tuple[int, str]] = field(default_factory=list)


def find_damaged_files(folders: Iterable[Path], quiet_s: float = QUIET_S) -> list[DamagedFile]:
    """Find the journal files with lines that are damaged or not understood.

    Parameters
    ----------
    folders
        Journal folders.
    quiet_s
        A file that was written less than this many seconds ago is busy.

    Returns
    -------
    list of DamagedFile
        Without files that cannot be read.
    """
    found = []
    for path in journal_files(folders):
        try:
            with open_regular(path) as stream:
                data, age = stream.read(), time.time() - path.stat().st_mtime
        except OSError:
            continue
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1)
                 if line.strip()]
        torn = [(number, line[:EXCERPT].decode("utf-8", "backslashreplace"))
                for number, line in lines if record_text(line) is None]
        damage = Damage()
        try:
            for _ in file_parts(path, damage):
                pass
        except FileNotFoundError:
            continue
        unknown = damage.not_understood.get(os.fspath(path), [])
        if torn or unknown:
            found.append(DamagedFile(path, torn, len(lines) - len(torn), age < quiet_s, unknown))
    return found


def repair_file(damaged: DamagedFile) -> Path:
    """Remove the damaged lines of a file.

    Parameters
    ----------
    damaged
        The file. It must not be busy.

    Returns
    -------
    Path
        The original file, in ``damaged/``.
    """
    # the file is renamed, its valid lines are written under its name, and then the original is
    # moved, so that a reader finds every valid line at any time
    path = damaged.path
    name = path.name.removesuffix(CLOSING)
    aside = path if path.name.endswith(CLOSING) else path.rename(path.with_name(name + CLOSING))
    lines = [line for line in aside.read_bytes().split(b"\n") if record_text(line) is not None]
    stat = aside.stat()
    whole = path.with_name(name)
    write_bytes(whole, b"".join(line + b"\n" for line in lines), mode=0o666)
    # compaction tells by this time whether a file is still in use
    os.utime(whole, (stat.st_atime, stat.st_mtime))
    kept = path.parent / "damaged" / f"{name}.{time.time_ns():x}"
    kept.parent.mkdir(exist_ok=True)
    aside.rename(kept)
    fsync_folder(path.parent)
    return kept
