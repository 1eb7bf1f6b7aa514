"""Reading journals: every valid record of every file, while others write, compact or repair them.

A journal folder holds ``*.jsonl``: files of writers, and bundles of closed ones (``upkeep``). A
file that a compaction has renamed (``*.jsonl.closing``) is read like the others until its bundle
exists, so a reader sees every record at least once at any moment.

A line whose check value is right can still be unusable: written by a newer version, by hand, or by
a bug. ``record_fault`` finds these. Every reader of journals skips such a record and reports its
file and line; other records are not affected.

The parts of this module: what is reported (``Damage``), what is valid (``record_fault``), and
reading itself (``read_all``, ``file_parts``).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import command_line
from l3hpc.io.files import open_regular
from l3hpc.ledger.journal.batch import (
    COUNTERS,
    MAX_RECORDS,
    ORDER,
    Batch,
    Template,
    parse_batch,
    unpack,
)
from l3hpc.ledger.journal.records import CLOSING, SCHEMA, decode, record_text
from l3hpc.ledger.schema import TABS

Part = dict[str, Any] | Batch
BUFFER = 1 << 18  # bytes read at once
TEMPLATE_TRIES = 8  # templates that a file may need before one has saved any work
MAX_MISSES = 8  # how often a name may be listed without a file behind it
MAX_NAMED = 3  # records of one file that are reported one by one
NEWER = "written by a newer l3hpc"
NO_ROW = "it belongs to no row of a known tab"

_NONE = type(None)
_MISSING = object()
_COUNTERS = dict.fromkeys(COUNTERS).keys()
_LARGEST = 2**63
_TYPES: dict[str, tuple[type, ...]] = {
    "tab": (str,), "key": (list, _NONE), "restart": (int,), "seq": (int,),
    "epoch": (int, _NONE), "time": (int, float), "values": (dict,),
    "beside": (dict, _NONE), "origin": (dict, _NONE)}
_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean",
               int: "a number", float: "a number", _NONE: "null"}


@dataclass
class Damage:
    """What could not be read.

    Attributes
    ----------
    torn
        Path → number of damaged lines.
    unreadable
        Path → reason the file cannot be read.
    not_understood
        Path → (line number, reason) of each record that is not understood.
    """

    torn: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    not_understood: dict[str, list[tuple[int, str]]] = field(default_factory=dict, compare=False)


def damage_notes(damage: Damage) -> list[str]:
    """Return messages about what could not be read of the journals.

    Parameters
    ----------
    damage
        What a reader found.

    Returns
    -------
    list of str
        One sentence per file or record; at most ``MAX_NAMED`` records of a file are named.
    """
    found = [f"{count} damaged line{'s' if count != 1 else ''} skipped in {path}"
             for path, count in damage.torn.items()]
    found += [f"cannot read {path}: {reason}" for path, reason in damage.unreadable.items()]
    for path, records in damage.not_understood.items():
        found += [f"{path}:{number}: record skipped: {reason}"
                  for number, reason in records[:MAX_NAMED]]
        if len(records) > MAX_NAMED:
            found.append(f"{path}: {len(records) - MAX_NAMED} more records skipped; to list them:"
                         f"   {command_line('ledger', 'repair', '--journal', '--dry-run')}")
    return found


def record_fault(record: object) -> str | None:
    """Return reason a record is not understood; None for one that is.

    A record of an undeclared tab or without a key (``NO_ROW``) is read and compacted like others,
    but belongs to no row.

    Parameters
    ----------
    record
        The JSON value of a line whose check value is right.
    """
    if not isinstance(record, dict):
        return f"a record must be an object, not {_type_name(record)}"
    schema = record.get("schema")
    if type(schema) is not int:
        return f"'schema' must be a whole number, not {_type_name(schema)}"
    if schema > SCHEMA:
        return f"{NEWER} (schema {schema}; this version reads up to {SCHEMA})"
    for name, types in _TYPES.items():
        value = record.get(name, None if _NONE in types and name != "key" else _MISSING)
        # type, not isinstance: for that, true would be a number
        if type(value) not in types:
            if value is _MISSING:
                return f"{name!r} is missing"
            allowed = " or ".join(dict.fromkeys(_TYPE_NAMES[each] for each in types))
            return f"{name!r} must be {allowed}, not {_type_name(value)}"
    for name in COUNTERS:
        value = record.get(name)
        if value is not None and not -_LARGEST < value < _LARGEST:
            return f"{name!r} is out of range"
    origin = record.get("origin") or {}
    if type(origin.get("host")) not in (str, _NONE) or (
            type(origin.get("pid")) not in (int, _NONE)):
        return "'origin' does not name a host and a process"
    key, tab = record["key"], TABS.get(record["tab"])
    if key and (not all(type(part) is str for part in key)):
        return "'key' must be a list of strings"
    if tab is None or not key:
        return _no_row(record)
    if len(key) != len(tab.key) or not all(key):
        return f"'key' must be {len(tab.key)} string{'s' if len(tab.key) > 1 else ''}"
    return None


def _no_row(record: Mapping[str, Any]) -> str | None:
    """Return reason a record belongs to no row; None if it belongs to one."""
    if record["tab"] not in TABS:
        return f"{NO_ROW}: tab {record['tab'][:60]!r}"
    return None if record["key"] else f"{NO_ROW}: no key"


def _type_name(value: object) -> str:
    """Return the type of a JSON value for a message."""
    return _TYPE_NAMES.get(type(value), "missing")


def journal_files(folders: Iterable[Path], damage: Damage | None = None) -> list[Path]:
    """Return the journal files in ``folders``, sorted by path; missing folders count as empty.

    Parameters
    ----------
    folders
        Folders with journal files.
    damage
        Collects folders that cannot be read.
    """
    # a compaction renames a file from .jsonl to .closing and perhaps back again, so a file that
    # is moved between two listings is still found by one of these three
    return sorted({Path(folder, name) for folder in folders
                   for pattern in ("*.jsonl", f"*.jsonl{CLOSING}*", "*.jsonl")
                   for name in fnmatch.filter(_names(folder, damage), pattern)})


def _names(folder: Path, damage: Damage | None) -> list[str]:
    # not glob, for which a folder that cannot be read is empty
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        if damage is not None:
            damage.unreadable[os.fspath(folder)] = error.strerror or str(error)
    return []


def read_all(folders: Iterable[Path], damage: Damage) -> Iterator[Part]:
    """Yield the valid records of all files, neighbours that are much alike as a ``Batch``.

    Files that a compaction moves meanwhile are searched for again. A name that is listed
    ``MAX_MISSES`` times without a file behind it (a broken link) counts as unreadable.

    Parameters
    ----------
    folders
        Folders with journal files.
    damage
        Collects what could not be read.
    """
    folders = list(folders)
    seen: set[Path] = set()
    missed: dict[Path, int] = {}
    again = True
    while again:
        again = False
        for path in journal_files(folders, damage):
            if path in seen:
                continue
            try:
                # a missing file raises before its first part, so no record comes twice
                yield from file_parts(path, damage)
                seen.add(path)
            except FileNotFoundError as error:
                again = True
                missed[path] = missed.get(path, 0) + 1
                if missed[path] == MAX_MISSES:
                    damage.unreadable[os.fspath(path)] = error.strerror or str(error)
                    seen.add(path)


def all_records(folders: Iterable[Path], damage: Damage) -> Iterator[dict[str, Any]]:
    """Yield the valid records of all files, one by one; ``damage`` collects the rest."""
    for part in read_all(folders, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def file_records(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """Yield the valid records of one file, one by one; ``damage`` collects the rest."""
    for part in file_parts(path, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def file_parts(path: Path, damage: Damage) -> Iterator[Part]:
    """Yield the valid records of one file, neighbours that are much alike as a ``Batch``.

    Parameters
    ----------
    path
        A journal file.
    damage
        Collects what could not be read.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    name = os.fspath(path)
    reader = _Reader(name, damage)
    pieces, numbers = reader.pieces, reader.numbers
    try:
        with open_regular(path, BUFFER) as stream:
            for number, line in enumerate(stream, 1):
                body = record_text(line)
                if body is None:
                    if line.strip():
                        damage.torn[name] = damage.torn.get(name, 0) + 1
                    continue
                piece = reader.match(body)
                if piece is None:
                    yield from reader.take(body, number)
                    continue
                # the common case: a line like the one before
                pieces.append(piece)
                numbers.append(number)
                if len(pieces) >= MAX_RECORDS:
                    yield from reader.flush()
    except FileNotFoundError:
        raise
    except OSError as error:
        damage.unreadable[name] = error.strerror or str(error)
    yield from reader.flush()


class _Reader:
    """Turns the checked lines of one file into parts; reports in ``damage`` what is not understood.

    Attributes
    ----------
    pieces
        What ``match`` found in lines that fit the template; they are parsed together later.
    numbers
        Their line numbers.
    match
        ``Template.match`` of the present template.
    """

    def __init__(self, name: str, damage: Damage) -> None:
        self.pieces: list[tuple[bytes, bytes]] = []
        self.numbers: list[int] = []
        self.match: Callable[[bytes], tuple[bytes, bytes] | None] = _fits_nothing
        self._name, self._damage = name, damage
        self._template: Template | None = None
        self._last: dict[str, Any] | None = None
        self._left = TEMPLATE_TRIES

    def take(self, body: bytes, number: int) -> list[Part]:
        """Return the parts of pending lines, and that of a line that does not fit the template."""
        found = self.flush()
        part = self._understood(body, number)
        if part is None or isinstance(part, Batch):
            return [*found, part] if part else found
        if self._last is not None and self._left > 0:
            self._left -= 1
            self._use(Template.from_pair(self._last, part, body))
        self._last = part
        return [*found, part]

    def flush(self) -> list[Part]:
        """Return the parts of pending lines."""
        if not self.pieces:
            return []
        assert self._template is not None
        batch = parse_batch(self._template, self.pieces)
        # a template that has served many lines earns the file further tries
        self._left += len(self.pieces) // 4
        if batch is not None and _are_counted(batch.items):
            found: list[Part] = [batch]
            reason = _no_row(batch.common)
            if reason is not None:
                self._damage.not_understood.setdefault(self._name, []).extend(
                    (number, reason) for number in self.numbers)
        else:
            found = [part for piece, number in zip(self.pieces, self.numbers, strict=True)
                     if (part := self._understood(self._template.line(piece), number)) is not None]
            self._use(None)
        self.pieces.clear()
        self.numbers.clear()
        return found

    def _understood(self, body: bytes, number: int) -> Part | None:
        """Return the record or batch of a line.

        None for the header of a bundle and for a record that is not understood.
        """
        try:
            record = decode(body)
            if isinstance(record, dict) and "bundle" in record:
                return None
            if isinstance(record, dict) and "packed" in record:
                batch = unpack(record)
                reason = _batch_fault(batch)
                part: Part = batch
            else:
                reason = record_fault(record)
                part = record
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason, part = f"not a record ({type(error).__name__})", {}
        if reason is not None:
            self._damage.not_understood.setdefault(self._name, []).append((number, reason))
        return part if reason is None or reason.startswith(NO_ROW) else None

    def _use(self, template: Template | None) -> None:
        """Set the template of the next lines."""
        self._template = template
        self.match = _fits_nothing if template is None else template.match


def _batch_fault(batch: Batch) -> str | None:
    """Return reason a batch is not understood; None for one that is.

    Its records differ in counters and values only, so one of them stands for the others.
    """
    for counters, values in batch.items:
        if counters.keys() != _COUNTERS or type(values) is not dict:
            return "not a record (of a bundle)"
    if not batch.items or not _are_counted(batch.items) or list(
            batch.common) != [name for name in ORDER if name not in COUNTERS]:
        return "not a record (of a bundle)"
    return record_fault({**batch.common, **batch.items[0][0]})


def _are_counted(items: Sequence[list[dict[str, Any]]]) -> bool:
    """Return whether the counters of a batch are numbers of the right types and in range."""
    columns = zip(*[(counters["seq"], counters["epoch"], counters["time"])
                    for counters, _ in items], strict=True)
    allowed: tuple[set[type], ...] = ({int}, {int, _NONE}, {int, float})
    for values, types in zip(columns, allowed, strict=True):
        if not set(map(type, values)) <= types:
            return False
        numbers = [value for value in values if value is not None]
        if numbers and not -_LARGEST < min(numbers) <= max(numbers) < _LARGEST:
            return False
    return True


def _fits_nothing(body: bytes) -> None:
    """Match no line: there is no template yet."""
