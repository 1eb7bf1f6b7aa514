"""Reading journals: every sound record of every file, whatever is torn, packed or moved meanwhile.

A journal folder holds ``*.jsonl``: files of writers, and bundles of closed ones (``compaction``).
A file that a compaction has set aside (``*.jsonl.closing``) is read like the others until its
bundle is there, so a reader at any moment sees every record at least once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.ledger.batch import MOST, Batch, Template, parsed, unpacked
from l3hpc.ledger.journal import CLOSING, sealed

Part = dict[str, Any] | Batch
BUFFER = 1 << 18  # bytes read at once
TRIES = 8  # templates that a file may need without having been worth it
MISSES = 8  # how often a name may be listed without a file behind it


@dataclass
class Damage:
    """What could not be read. torn: path → damaged lines. unreadable: path → reason."""

    torn: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def journal_files(folders: Iterable[Path]) -> list[Path]:
    """The journal files in ``folders`` (those that exist), sorted by name.

    A file goes from ``.jsonl`` to ``.closing`` and on to a bundle, or back to its name; so it is in
    one of three listings in this order, whatever a compaction or a repair does between them.
    """
    return sorted({path for folder in folders if Path(folder).is_dir()
                   for pattern in ("*.jsonl", f"*.jsonl{CLOSING}*", "*.jsonl")
                   for path in Path(folder).glob(pattern)})


def everything(folders: Iterable[Path], damage: Damage) -> Iterator[Part]:
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
                yield from parts(path, damage)  # a file that is not there has yielded nothing
                seen.add(path)
            except FileNotFoundError as error:
                again = True
                missed[path] = missed.get(path, 0) + 1
                if missed[path] == MISSES:
                    damage.unreadable[os.fspath(path)] = error.strerror or str(error)
                    seen.add(path)


def every_record(folders: Iterable[Path], damage: Damage) -> Iterator[dict[str, Any]]:
    """The sound records of all files, one by one."""
    for part in everything(folders, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def read(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """The sound records of one file, one by one; ``damage`` counts what is not."""
    for part in parts(path, damage):
        yield from part.records() if isinstance(part, Batch) else (part,)


def parts(path: Path, damage: Damage) -> Iterator[Part]:
    """The sound records of one file; neighbours that are much alike as a ``Batch``.

    Raises ``FileNotFoundError`` for a file that is not there.
    """
    name = os.fspath(path)
    reader = _Reader()
    pieces = reader.pieces
    try:
        with open(path, "rb", buffering=BUFFER) as stream:
            for line in stream:
                body = sealed(line)
                if body is not None:
                    piece = reader.cut(body)
                    if piece is None:
                        yield from reader.take(body)
                    else:  # the common case: a line like the one before
                        pieces.append(piece)
                        if len(pieces) >= MOST:
                            yield from reader.flush()
                elif line.strip():
                    damage.torn[name] = damage.torn.get(name, 0) + 1
    except FileNotFoundError:
        raise
    except OSError as error:
        damage.unreadable[name] = error.strerror or str(error)
    yield from reader.flush()


class _Reader:
    """Turns the checked lines of one file into parts.

    pieces: what ``cut`` took from lines that fit the template; they wait to be parsed together.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, bytes]] = []
        self.cut: Callable[[bytes], tuple[bytes, bytes] | None] = _fits_nothing
        self._template: Template | None = None
        self._last: dict[str, Any] | None = None
        self._left = TRIES

    def take(self, body: bytes) -> list[Part]:
        """What waited, and the record of a line that does not fit the template."""
        found = self.flush()
        record = _parsed(body)
        if record is None or "bundle" in record:
            return found
        if "packed" in record:
            return [*found, unpacked(record)]
        if self._last is not None and self._left > 0:
            self._left -= 1
            self._use(Template.of(self._last, record, body))
        self._last = record
        return [*found, record]

    def flush(self) -> list[Part]:
        """What waited."""
        if not self.pieces:
            return []
        assert self._template is not None
        batch = parsed(self._template, self.pieces)
        self._left += len(self.pieces) // 4
        found: list[Part] = [batch] if batch is not None else [
            record for piece in self.pieces
            if (record := _parsed(self._template.whole(piece))) is not None]
        if batch is None:
            self._use(None)
        self.pieces.clear()
        return found

    def _use(self, template: Template | None) -> None:
        self._template = template
        self.cut = _fits_nothing if template is None else template.cut


def _fits_nothing(body: bytes) -> None:
    """No template, no piece."""


def _parsed(body: bytes) -> dict[str, Any] | None:
    record = json.loads(body.decode("utf-8", "surrogatepass"))
    return record if isinstance(record, dict) else None
