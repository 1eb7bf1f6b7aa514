"""Records of one writer that have most members in common: read together, folded together, packed.

A training run repeats its whole row with every epoch. Of such lines only the members that change
are parsed (``Template``), and a bundle of closed journals stores the others once (``pack``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from l3hpc.ledger.journal.records import decode

HEAD = ("schema", "tab", "key", "restart")
COUNTERS = ("seq", "epoch", "time")
ORDER = [*HEAD, *COUNTERS, "values", "beside", "origin"]
MAX_RECORDS = 1000  # records of one batch
_COUNTERS = dict.fromkeys(COUNTERS).keys()


class Batch(NamedTuple):
    """Consecutive records. common: a record without what changes. items: per record the pair
    (``seq``, ``epoch`` and ``time``; the values that change)."""

    common: Mapping[str, Any]
    items: list[list[dict[str, Any]]]

    def records(self) -> Iterator[dict[str, Any]]:
        """The records, member for member as they were written."""
        for counters, values in self.items:
            whole = {**self.common, **counters,
                     "values": {**self.common["values"], **values}}
            yield {name: whole[name] for name in ORDER}


@dataclass(frozen=True)
class Template:
    """The text that the lines of a batch have in common, around counters and changing values."""

    common: Mapping[str, Any]
    before: bytes
    between: bytes
    after: bytes

    @classmethod
    def of(cls, one: Mapping[str, Any], other: Mapping[str, Any], body: bytes) -> Template | None:
        """What ``one`` and ``other`` have in common, if ``body`` is the text of ``other`` as this
        module would write it; None where they differ in more than counters and last values."""
        common = _common(one, other)
        if common is None:
            return None
        changing = dict(list(other["values"].items())[len(common["values"]):])
        shared = compact_json(common["values"])[1:-1]
        made = cls(common, compact_json({name: common[name] for name in HEAD})[:-1] + b',"seq":',
                   b',"values":{' + shared + (b"," if shared else b""),
                   b'},"beside":' + compact_json(common["beside"])
                   + b',"origin":' + compact_json(common["origin"]) + b"}")
        counters = compact_json({name: other[name] for name in COUNTERS})[7:-1]
        whole = made.before + counters + made.between + compact_json(changing)[1:-1] + made.after
        return made if changing and whole == body else None

    def cut(self, body: bytes) -> tuple[bytes, bytes] | None:
        """The texts of counters and changing values of a line like the others; None if it is not.
        """
        before, after = self.before, self.after
        if not body.startswith(before) or not body.endswith(after):
            return None
        start = len(before)
        at = body.find(self.between, start)
        return None if at < 0 else (body[start:at], body[at + len(self.between):-len(after)])

    def whole(self, piece: tuple[bytes, bytes]) -> bytes:
        """The line that ``piece`` was cut from."""
        return self.before + piece[0] + self.between + piece[1] + self.after


def parse_batch(template: Template, pieces: Iterable[tuple[bytes, bytes]]) -> Batch | None:
    """The batch of some ``cut`` pieces; None where one of them is no pair of the right kind."""
    listing = b",".join([b'[{"seq":%b},{%b}]' % piece for piece in pieces])
    try:
        items = decode(b"[" + listing + b"]")
    except (ValueError, RecursionError):
        return None
    if set(map(len, items)) != {2} or any(counters.keys() != _COUNTERS for counters, _ in items):
        return None
    return Batch(template.common, items)


def pack(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records as few: neighbours with much in common become one ``packed`` record."""
    waiting: list[Mapping[str, Any]] = []
    common: dict[str, Any] | None = None
    for record in records:
        joined = _common(common or waiting[-1], record) if waiting and _same_layout(
            waiting[-1], record) else None
        fits = joined is not None and (
            common is None or joined["values"].keys() == common["values"].keys())
        if waiting and (not fits or len(waiting) >= MAX_RECORDS):
            yield _packed(common, waiting)
            waiting, joined = [], None
        waiting.append(record)
        common = joined
    if waiting:
        yield _packed(common, waiting)


def unpack(record: Mapping[str, Any]) -> Batch:
    """The batch of a ``packed`` record."""
    return Batch(record["packed"], record["items"])


def compact_json(value: Any) -> bytes:
    """Compact JSON, as every line of a journal has it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass")


def _packed(common: dict[str, Any] | None, records: list[Mapping[str, Any]]) -> dict[str, Any]:
    if common is None or len(records) == 1:
        return dict(records[0])
    kept = len(common["values"])
    return {"schema": common["schema"], "packed": common, "items": [
        [{name: record[name] for name in COUNTERS}, dict(list(record["values"].items())[kept:])]
        for record in records]}


def _same_layout(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two whole records have the same fields, so that a fold can take them together."""
    return (list(one) == ORDER and list(one["values"]) == list(other.get("values", ()))
            and (one["epoch"] is None) == (other.get("epoch") is None))


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """What two records have in common: all but counters and the last of their values."""
    if list(other) != ORDER or any(
            not _same_json(one.get(name), other[name]) for name in (*HEAD, "beside", "origin")):
        return None
    shared = {}
    for (name, value), (own, ours) in zip(one["values"].items(), other["values"].items(),
                                          strict=False):
        if name != own or not _same_json(value, ours):
            break
        shared[name] = value
    return {**{name: other[name] for name in HEAD}, "values": shared, "beside": other["beside"],
            "origin": other["origin"]}


def _same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are written alike (1, 1.0 and true are not)."""
    if isinstance(one, (dict, list, int, float)):
        return compact_json(one) == compact_json(other)
    return type(one) is type(other) and bool(one == other)
