"""Batches: consecutive records of one writer that differ in a few members only.

A training run repeats its whole row with every epoch. When such lines are read, only the members
that change are parsed (``Template``); when closed journals are compacted, the others are stored
once (``pack``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from l3hpc.ledger.journal.records import decode

HEAD = ("schema", "tab", "key", "restart")
COUNTERS = ("seq", "epoch", "time")
ORDER = [*HEAD, *COUNTERS, "values", "beside", "origin"]  # of the members of a record
MAX_RECORDS = 1000  # of one batch
_COUNTERS = dict.fromkeys(COUNTERS).keys()


class Batch(NamedTuple):
    """Consecutive records of one writer.

    Attributes
    ----------
    common
        A record without the members that change.
    items
        Per record, the counters (``seq``, ``epoch`` and ``time``) and the values that change.
    """

    common: Mapping[str, Any]
    items: list[list[dict[str, Any]]]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records, with their members in the order in which they were written."""
        for counters, values in self.items:
            whole = {**self.common, **counters,
                     "values": {**self.common["values"], **values}}
            yield {name: whole[name] for name in ORDER}


@dataclass(frozen=True)
class Template:
    """The text that the lines of a batch have in common.

    Attributes
    ----------
    common
        The members that do not change.
    before, between, after
        Text before the counters, between counters and changing values, and after these.
    """

    common: Mapping[str, Any]
    before: bytes
    between: bytes
    after: bytes

    @classmethod
    def from_pair(cls, first: Mapping[str, Any], second: Mapping[str, Any], body: bytes,
                  ) -> Template | None:
        """Return the template that fits two consecutive records.

        Parameters
        ----------
        first, second
            The records.
        body
            The text of ``second``.

        Returns
        -------
        Template or None
            None if the records differ in more than counters and the last of their values, or if
            ``body`` is not formatted as this module writes records.
        """
        common = _common(first, second)
        if common is None:
            return None
        changing = dict(list(second["values"].items())[len(common["values"]):])
        shared = compact_json(common["values"])[1:-1]
        made = cls(common, compact_json({name: common[name] for name in HEAD})[:-1] + b',"seq":',
                   b',"values":{' + shared + (b"," if shared else b""),
                   b'},"beside":' + compact_json(common["beside"])
                   + b',"origin":' + compact_json(common["origin"]) + b"}")
        # without the '{"seq":' that ``before`` ends with, and without the closing brace
        counters = compact_json({name: second[name] for name in COUNTERS})[7:-1]
        whole = made.before + counters + made.between + compact_json(changing)[1:-1] + made.after
        return made if changing and whole == body else None

    def match(self, body: bytes) -> tuple[bytes, bytes] | None:
        """Return the texts of counters and changing values; None if the line does not fit."""
        before, after = self.before, self.after
        if not body.startswith(before) or not body.endswith(after):
            return None
        start = len(before)
        at = body.find(self.between, start)
        return None if at < 0 else (body[start:at], body[at + len(self.between):-len(after)])

    def line(self, piece: tuple[bytes, bytes]) -> bytes:
        """Return the line in which ``match`` found ``piece``."""
        return self.before + piece[0] + self.between + piece[1] + self.after


def parse_batch(template: Template, pieces: Iterable[tuple[bytes, bytes]]) -> Batch | None:
    """Parse pieces that a template matched.

    Parameters
    ----------
    template
        The template.
    pieces
        Results of ``Template.match``.

    Returns
    -------
    Batch or None
        None if one of them is not valid; the lines then have to be parsed one by one.
    """
    # one call of the JSON parser for all of them is faster than one per line
    listing = b",".join([b'[{"seq":%b},{%b}]' % piece for piece in pieces])
    try:
        items = decode(b"[" + listing + b"]")
    except (ValueError, RecursionError):
        return None
    if set(map(len, items)) != {2} or any(counters.keys() != _COUNTERS for counters, _ in items):
        return None
    return Batch(template.common, items)


def pack(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records with neighbours that have much in common as one ``packed`` record."""
    waiting: list[Mapping[str, Any]] = []
    common: dict[str, Any] | None = None
    for record in records:
        joined = _common(common or waiting[-1], record) if waiting and _same_layout(
            waiting[-1], record) else None
        # what is common is stored once, so a further record must not make it less
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
    """Return the batch of a ``packed`` record."""
    return Batch(record["packed"], record["items"])


def compact_json(value: object) -> bytes:
    """Return a value as JSON without spaces, as the lines of a journal are written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass")


def _packed(common: dict[str, Any] | None, records: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one record that holds ``records``."""
    if common is None or len(records) == 1:
        return dict(records[0])
    kept = len(common["values"])
    return {"schema": common["schema"], "packed": common, "items": [
        [{name: record[name] for name in COUNTERS}, dict(list(record["values"].items())[kept:])]
        for record in records]}


def _same_layout(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two records have the same members, so that a fold can merge them together."""
    return (list(first) == ORDER and list(first["values"]) == list(second.get("values", ()))
            and (first["epoch"] is None) == (second.get("epoch") is None))


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what two records have in common: all but counters and the last of their values."""
    if list(second) != ORDER or any(
            not _same_json(first.get(name), second[name]) for name in (*HEAD, "beside", "origin")):
        return None
    shared = {}
    for (name, value), (second_name, second_value) in zip(
            first["values"].items(), second["values"].items(), strict=False):
        if name != second_name or not _same_json(value, second_value):
            break
        shared[name] = value
    return {**{name: second[name] for name in HEAD}, "values": shared, "beside": second["beside"],
            "origin": second["origin"]}


def _same_json(first: object, second: object) -> bool:
    """Return whether two JSON values are written alike (1, 1.0 and true are not)."""
    if isinstance(first, (dict, list, int, float)):
        return compact_json(first) == compact_json(second)
    return type(first) is type(second) and bool(first == second)
