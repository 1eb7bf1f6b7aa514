"""Reading journals: every sound record of every file, whatever is torn, packed or moved meanwhile.

A journal folder holds ``*.jsonl``: files of writers, and bundles of closed ones (``compaction``).
A file that a compaction has set aside (``*.jsonl.closing``) is read like the others until its
bundle is there, so a reader at any moment sees every record at least once.

A line can be sealed and still be odd: written by a newer version, by hand, or by a defect.
``fault`` decides what is understood. A record that is not is set aside, with file and line, by
everything that reads journals; nothing else is touched by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
TEMPLATE_TRIES = 8  # templates that a file may need without having been worth it
MAX_MISSES = 8  # how often a name may be listed without a file behind it


MAX_NAMED = 3  # records of one file that are named one by one
NEWER = "written by a newer l3hpc"
NO_ROW = "it belongs to no row of a known tab"


@dataclass
class Damage:
    """What could not be read. torn: path → damaged lines. unreadable: path → reason.
    odd: path → (line, why) of each record that is not understood."""

    torn: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    odd: dict[str, list[tuple[int, str]]] = field(default_factory=dict, compare=False)


def damage_notes(damage: Damage) -> list[str]:
    """What a person should know about journals that could not be read as a whole."""
    found = [f"{count} damaged line{'s' if count != 1 else ''} skipped in {path}"
             for path, count in damage.torn.items()]
    found += [f"cannot read {path}: {reason}" for path, reason in damage.unreadable.items()]
    for path, odd in damage.odd.items():
        found += [f"{path}:{number}: a record is set aside: {why}" for number, why in odd[:MAX_NAMED]]
        if len(odd) > MAX_NAMED:
            found.append(f"{path}: {len(odd) - MAX_NAMED} more records are set aside; all of them:   "
                         "l3hpc ledger repair --journal --dry-run")
    return found


def record_fault(record: Any) -> str | None:
    """Why a sealed record is not understood; None for one that is.

    A record of an undeclared tab or without a key (``NO_ROW``) is whole: it is read and compacted
    like others, but no view can show it.
    """
    if not isinstance(record, dict):
        return f"a record is an object, not {_kind(record)}"
    schema = record.get("schema")
    if type(schema) is not int:
        return f"'schema' has to be a whole number, not {_kind(schema)}"
    if schema > SCHEMA:
        return f"{NEWER} (schema {schema}; this one knows {SCHEMA})"
    for name, kinds in _KINDS.items():
        value = record.get(name, None if _NONE in kinds and name != "key" else _MISSING)
        if type(value) not in kinds:
            return (f"{name!r} is missing" if value is _MISSING else
                    f"{name!r} is {_kind(value)}")
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
        return "'key' has to be a list of texts"
    if tab is None or not key:
        return _no_row(record)
    if len(key) != len(tab.key) or not all(key):
        return f"'key' has to be {len(tab.key)} text{'s' if len(tab.key) > 1 else ''}"
    return None


def _no_row(record: Mapping[str, Any]) -> str | None:
    if record["tab"] not in TABS:
        return f"{NO_ROW}: tab {record['tab'][:60]!r}"
    return None if record["key"] else f"{NO_ROW}: no key"


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number",
            float: "a number", _NONE: "nothing"}.get(type(value), "missing")


_NONE = type(None)
_MISSING = object()
_COUNTERS = dict.fromkeys(COUNTERS).keys()
_LARGEST = 2**63
_KINDS: dict[str, tuple[type, ...]] = {
    "tab": (str,), "key": (list, _NONE), "restart": (int,), "seq": (int,),
    "epoch": (int, _NONE), "time": (int, float), "values": (dict,),
    "beside": (dict, _NONE), "origin": (dict, _NONE)}


def journal_files(folders: Iterable[Path]) -> list[Path]:
    """The journal files in ``folders`` (those that exist), sorted by name.

    A file goes from ``.jsonl`` to ``.closing`` and on to a bundle, or back to its name; so it is in
    one of three listings in this order, whatever a compaction or a repair does between them.
    """
    return sorted({path for folder in folders if Path(folder).is_dir()
                   for pattern in ("*.jsonl", f"*.jsonl{CLOSING}*", "*.jsonl")
                   for path in Path(folder).glob(pattern)})


def read_all(folders: Iterable[Path], damage: Damage) -> Iterator[Part]:
    """The parts of all files; those that a compaction moves while we read are looked for again.

    A name that is listed ``MISSES`` times and never there (a link to nothing) is unreadable.
    """
    folders = list(folders)
    seen: set[Path] = set()
    missed: dict[Path, int] = {}
    again = True
    while again:
        again = False
        for path in journal_files(folders):
            if path in seen:
                continue
            try:
                yield from file_parts(path, damage)  # a file that is not there has yielded nothing
                seen.add(path)
            except FileNotFoundError as error:
                again = True
                missed[path] = missed.get(path, 0) + 1
                if missed[path] == MAX_MISSES:
                    damage.unreadable[os.fspath(path)] = error.strerror or str(error)
                    seen.add(path)


def all_records(folders: Iterable[Path], damage: Damage) -> Iterator[dict[str, Any]]:
    """The sound records of all files, one by one."""
    for part in read_all(folders, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def file_records(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """The sound records of one file, one by one; ``damage`` counts what is not."""
    for part in file_parts(path, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def file_parts(path: Path, damage: Damage) -> Iterator[Part]:
    """The sound records of one file; neighbours that are much alike as a ``Batch``.

    Raises ``FileNotFoundError`` for a file that is not there.
    """
    name = os.fspath(path)
    reader = _Reader(name, damage)
    pieces, numbers = reader.pieces, reader.numbers
    try:
        with open_regular(path, BUFFER) as stream:
            for number, line in enumerate(stream, 1):
                body = record_text(line)
                if body is not None:
                    piece = reader.cut(body)
                    if piece is None:
                        yield from reader.take(body, number)
                    else:  # the common case: a line like the one before
                        pieces.append(piece)
                        numbers.append(number)
                        if len(pieces) >= MAX_RECORDS:
                            yield from reader.flush()
                elif line.strip():
                    damage.torn[name] = damage.torn.get(name, 0) + 1
    except FileNotFoundError:
        raise
    except OSError as error:
        damage.unreadable[name] = error.strerror or str(error)
    yield from reader.flush()


class _Reader:
    """Turns the checked lines of one file into parts; notes in ``damage`` what is odd.

    pieces: what ``cut`` took from lines that fit the template; they wait to be parsed together.
    numbers: their line numbers.
    """

    def __init__(self, name: str, damage: Damage) -> None:
        self.pieces: list[tuple[bytes, bytes]] = []
        self.numbers: list[int] = []
        self.cut: Callable[[bytes], tuple[bytes, bytes] | None] = _fits_nothing
        self._name, self._damage = name, damage
        self._template: Template | None = None
        self._last: dict[str, Any] | None = None
        self._left = TEMPLATE_TRIES

    def take(self, body: bytes, number: int) -> list[Part]:
        """What waited, and the record of a line that does not fit the template."""
        found = self.flush()
        part = self._understood(body, number)
        if part is None or isinstance(part, Batch):
            return [*found, part] if part else found
        if self._last is not None and self._left > 0:
            self._left -= 1
            self._use(Template.of(self._last, part, body))
        self._last = part
        return [*found, part]

    def flush(self) -> list[Part]:
        """What waited."""
        if not self.pieces:
            return []
        assert self._template is not None
        batch = parse_batch(self._template, self.pieces)
        self._left += len(self.pieces) // 4
        if batch is not None and _are_counted(batch.items):
            found: list[Part] = [batch]
            why = _no_row(batch.common)
            if why is not None:
                self._damage.odd.setdefault(self._name, []).extend(
                    (number, why) for number in self.numbers)
        else:
            found = [part for piece, number in zip(self.pieces, self.numbers, strict=True)
                     if (part := self._understood(self._template.whole(piece), number)) is not None]
            self._use(None)
        self.pieces.clear()
        self.numbers.clear()
        return found

    def _understood(self, body: bytes, number: int) -> Part | None:
        """The record or the batch of a line; None for the head of a bundle, and for an odd one."""
        try:
            record = decode(body)
            if isinstance(record, dict) and "bundle" in record:
                return None
            if isinstance(record, dict) and "packed" in record:
                batch = unpack(record)
                why = _batch_fault(batch)
                part: Part = batch
            else:
                why = record_fault(record)
                part = record
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why, part = f"not a record ({type(error).__name__})", {}
        if why is not None:
            self._damage.odd.setdefault(self._name, []).append((number, why))
        return part if why is None or why.startswith(NO_ROW) else None

    def _use(self, template: Template | None) -> None:
        self._template = template
        self.cut = _fits_nothing if template is None else template.cut


def _batch_fault(batch: Batch) -> str | None:
    """``fault`` of the records of a batch, which differ in counters and changing values only."""
    for counters, values in batch.items:
        if counters.keys() != _COUNTERS or type(values) is not dict:
            return "not a record (of a bundle)"
    if not batch.items or not _are_counted(batch.items) or list(
            batch.common) != [name for name in ORDER if name not in COUNTERS]:
        return "not a record (of a bundle)"
    return record_fault({**batch.common, **batch.items[0][0]})


def _are_counted(items: Sequence[list[dict[str, Any]]]) -> bool:
    """Whether the counters of a batch's items are numbers of the right kinds."""
    columns = zip(*[(counters["seq"], counters["epoch"], counters["time"])
                    for counters, _ in items], strict=True)
    allowed: tuple[set[type], ...] = ({int}, {int, _NONE}, {int, float})
    for values, kinds in zip(columns, allowed, strict=True):
        if not set(map(type, values)) <= kinds:
            return False
        numbers = [value for value in values if value is not None]
        if numbers and not -_LARGEST < min(numbers) <= max(numbers) < _LARGEST:
            return False
    return True


def _fits_nothing(body: bytes) -> None:
    """No template, no piece."""
