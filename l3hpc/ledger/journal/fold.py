"""Folding: journal records, in whatever order they are read, become rows.

For each field, a row keeps the value that the rule of its column picks: ``set`` the last one
written (by restart, then sequence number, never by clock), ``latest`` that of the highest epoch,
``min`` and ``max`` the best finite one. So a record that is read twice, late or out of order
changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.console.progress import doing
from l3hpc.ledger.journal.batch import Batch
from l3hpc.ledger.journal.reading import NEWER, NO_ROW, Damage, read_all
from l3hpc.ledger.journal.records import SCHEMA
from l3hpc.ledger.schema import TABS, Tab

Stamp = tuple[Any, ...]  # when a value was written; compared with those of other records


@dataclass
class Row:
    """One row of a tab.

    Attributes
    ----------
    tab, key
        The tab, and the texts of the key fields.
    values
        Field → value.
    extra
        Values that are not columns of the tab: ``state``, ``note``, ``log`` and others.
    epochs
        Epoch (from 0) → its values, if the fold keeps history.
    accepted
        Field → values that people typed into the sheet and that were accepted.
    first_time, last_time
        Times of the oldest and the newest record, in seconds since the Unix epoch, by the clocks
        of their writers.
    restart
        Which process of its run wrote the newest record, from 0: every task and every requeue is a
        process, and those that begin at the same moment may have the same number.
    records
        Number of records of the row.
    origin
        Writer of the newest record: run, job, host, process, commit, versions.
    """

    tab: Tab
    key: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)
    accepted: dict[str, list[Any]] = field(default_factory=dict)
    first_time: float = float("inf")
    last_time: float = 0.0
    restart: int = 0
    records: int = 0
    origin: dict[str, Any] = field(default_factory=dict)
    stamps: dict[str, tuple[Stamp, Stamp]] = field(default_factory=dict, repr=False)
    extra_stamps: dict[str, Stamp] = field(default_factory=dict, repr=False)
    epoch_stamps: dict[int, Stamp] = field(default_factory=dict, repr=False)
    newest: Stamp = field(default=(), repr=False)
    furthest: Stamp = field(default=(), repr=False)


@dataclass
class Fold(Damage):
    """Rows by (tab name, key), and what could not be used.

    Attributes
    ----------
    history
        Whether rows keep the values of every epoch.
    rows
        The rows.
    newer
        Number of records with a later schema than this version supports.
    unplaced
        Number of records without a key or of an unknown tab.
    records
        Number of all records.
    """

    history: bool = False
    rows: dict[tuple[str, tuple[str, ...]], Row] = field(default_factory=dict)
    newer: int = 0
    unplaced: int = 0
    records: int = 0

    def rows_of(self, tab: Tab | str) -> list[Row]:
        """Return the rows of one tab, oldest first."""
        name = tab if isinstance(tab, str) else tab.name
        return sorted((row for (own, _), row in self.rows.items() if own == name),
                      key=lambda row: (row.first_time, row.key))

    def add(self, record: dict[str, Any]) -> None:
        """Merge one record into its row."""
        self.records += 1
        if record.get("schema", 0) > SCHEMA:
            self.newer += 1
            return
        tab = TABS.get(record.get("tab", ""))
        key = record.get("key")
        if tab is None or not key:
            self.unplaced += 1
            return
        place = (tab.name, tuple(key))
        row = self.rows.get(place)
        if row is None:
            row = self.rows[place] = Row(tab, place[1])
        accepted = (record.get("beside") or {}).get("accepted")
        if isinstance(accepted, dict):
            _accept(row, accepted)
        else:
            _merge(row, record, self.history)

    def add_batch(self, batch: Batch) -> None:
        """Merge a batch of records into their row.

        If they are in order, the last record decides every value but the best ones, so only the
        two ends are merged in full; the others count for best values, epochs and times.
        """
        if len(batch.items) < 3 or not _in_order(batch):
            for record in batch.records():
                self.add(record)
            return
        ends = Batch(batch.common, [batch.items[0], batch.items[-1]])
        for record in ends.records():
            self.add(record)
        between = batch.items[1:-1]
        self.records += len(between)
        row = self.rows.get((batch.common["tab"], tuple(batch.common["key"] or ())))
        if batch.common["schema"] > SCHEMA:
            self.newer += len(between)
        elif row is None:
            self.unplaced += len(between)
        else:
            _merge_between(row, batch, between, self.history)


def fold(records: Iterable[dict[str, Any]], *, history: bool = False) -> Fold:
    """Fold records into rows.

    Parameters
    ----------
    records
        In any order. A record that occurs twice changes no value.
    history
        Whether rows keep the values of every epoch.
    """
    result = Fold(history=history)
    for record in records:
        result.add(record)
    return result


def fold_folders(folders: Iterable[Path], *, history: bool = False) -> Fold:
    """Fold all journal files in ``folders``.

    Parameters
    ----------
    folders
        Folders with journal files; missing ones count as empty.
    history
        Whether rows keep the values of every epoch.

    Returns
    -------
    Fold
        The rows. Damaged lines and files are listed in it, not raised.
    """
    result = Fold(history=history)
    with doing("reading the journals"):
        for part in read_all(folders, result):
            if isinstance(part, Batch):
                result.add_batch(part)
            else:
                result.add(part)
    for _, reason in (line for lines in result.not_understood.values() for line in lines):
        # records without a row were counted when they were read
        result.records += not reason.startswith(NO_ROW)
        result.newer += reason.startswith(NEWER)
    return result


def finite_number(value: object) -> float | None:
    """Return ``value`` if it is a finite number, else None.

    NaN and infinities are journaled as text, so they are None too.
    """
    # an integer beyond the range of floats would overflow where it is compared with one
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0 and (
            -sys.float_info.max <= value <= sys.float_info.max):
        return value
    return None


_RULES = {name: {column.field: column.rule for column in tab.columns} for name, tab in TABS.items()}
_FOLLOWERS = {name: {column.follows: (column.field, column.rule) for column in tab.columns
                     if column.follows} for name, tab in TABS.items()}
_BEST = {name: frozenset(column.field for column in tab.columns if column.rule in ("min", "max"))
         for name, tab in TABS.items()}


def _merge(row: Row, record: dict[str, Any], history: bool) -> None:
    """Merge one record into its row."""
    values, epoch = record["values"], record.get("epoch")
    origin = record.get("origin") or {}
    # host and process break ties, so that the order of reading never decides
    written = (record["restart"], record["seq"], origin.get("host") or "", origin.get("pid") or 0)
    if epoch is None:
        latest = finite_number(values.get("latest_epoch"))
        epoch = None if latest is None else int(latest)
    reached: Stamp = (-1 if epoch is None else epoch, *written)
    stamps = (written, reached)
    extra = record.get("beside") or {}
    newest = written > row.newest
    if newest and reached > row.furthest and None not in values.values():
        # the common case: records in the order in which they were written
        _take_all(row, values, stamps)
    else:
        _take_each(row, values, stamps)
    if newest:
        row.newest, row.origin = written, origin
        row.restart = record["restart"]
        row.extra.update(extra)
        row.extra_stamps.update(dict.fromkeys(extra, written))
    else:
        for name, value in extra.items():
            old = row.extra_stamps.get(name)
            if old is None or written > old:
                row.extra_stamps[name] = written
                row.extra[name] = value
    if reached > row.furthest:
        row.furthest = reached
    if history and epoch is not None:
        _merge_epoch(row, epoch, written, values, record["time"])
    row.records += 1
    when = record["time"]
    if when < row.first_time:
        row.first_time = when
    if when > row.last_time:
        row.last_time = when


def _in_order(batch: Batch) -> bool:
    """Return whether the records of a batch are in order, by epoch too, with the same fields."""
    last = batch.items[-1][1].values()
    if ("accepted" in (batch.common["beside"] or {}) or None in last
            or None in batch.common["values"].values()):
        return False
    fields = list(batch.items[0][1])
    epochs = [counters["epoch"] for counters, _ in batch.items]
    numbers = [counters["seq"] for counters, _ in batch.items]
    return (None not in epochs and epochs == sorted(epochs)
            and numbers == sorted(set(numbers))
            and all([list(values) == fields for _, values in batch.items]))  # noqa: C419 (faster)


def _merge_between(row: Row, batch: Batch, items: Sequence[list[dict[str, Any]]],
                   history: bool) -> None:
    """Merge the inner records of a batch in order: best values, epochs and times."""
    rules, followers = _RULES[row.tab.name], _FOLLOWERS[row.tab.name]
    columns = zip(*[values.values() for _, values in items], strict=True)
    for name, column in zip(items[0][1], columns, strict=True):
        target, rule = followers.get(name) or (name, rules.get(name))
        if rule in ("min", "max"):
            found: Sequence[Any] = column
            # NaN and infinities are texts in a journal; a bool is no number either
            if not set(map(type, column)) <= {float, int}:
                found = [value for value in column if finite_number(value) is not None]
            if found:
                _better(row.values, target, rule, min(found) if rule == "min" else max(found))
    if history:
        origin = batch.common["origin"] or {}
        writer = (origin.get("host") or "", origin.get("pid") or 0)
        constant = {name: value for name, value in batch.common["values"].items()
                    if name.startswith("latest_")}
        for counters, values in items:
            written = (batch.common["restart"], counters["seq"], *writer)
            _merge_epoch(row, counters["epoch"], written, {**constant, **values},
                         counters["time"])
    times = [counters["time"] for counters, _ in items]
    row.records += len(items)
    row.first_time = min(row.first_time, *times)
    row.last_time = max(row.last_time, *times)


def _take_all(row: Row, values: dict[str, Any], new_stamps: tuple[Stamp, Stamp]) -> None:
    """Take values that are newer than all before them."""
    own, best = row.values, _BEST[row.tab.name]
    if best.isdisjoint(values):
        own.update(values)
        row.stamps.update(dict.fromkeys(values, new_stamps))
    else:
        for name, value in values.items():
            if name in best:
                _better(own, name, _RULES[row.tab.name][name], value)
            else:
                own[name] = value
                row.stamps[name] = new_stamps
    for name, (target, rule) in _FOLLOWERS[row.tab.name].items():
        if name in values:
            _better(own, target, rule, values[name])


def _take_each(row: Row, values: dict[str, Any], new_stamps: tuple[Stamp, Stamp]) -> None:
    """Take each value that the rule of its column prefers to the present one."""
    own, stamps = row.values, row.stamps
    rules, followers = _RULES[row.tab.name], _FOLLOWERS[row.tab.name]
    for name, value in values.items():
        rule = rules.get(name)
        if value is None:
            continue
        if rule in ("min", "max"):
            _better(own, name, rule, value)
            continue
        which = 1 if rule == "latest" else 0
        old = stamps.get(name)
        if old is None or new_stamps[which] > old[which]:
            stamps[name] = new_stamps
            own[name] = value
        if name in followers:
            _better(own, *followers[name], value)


def _better(own: dict[str, Any], name: str, rule: str, value: Any) -> None:
    """Take a finite value if it is better than the present one."""
    if type(value) is not float and finite_number(value) is None:
        return
    old = own.get(name)
    if old is None or (value < old if rule == "min" else value > old):
        own[name] = value


def _accept(row: Row, accepted: dict[str, Any]) -> None:
    """Add values of the sheet that a person accepted."""
    for name, agreed in accepted.items():
        known = row.accepted.setdefault(name, [])
        if agreed not in known:
            known.append(agreed)
            # in the same order however the files are read; by repr, since numbers and text cannot
            # be compared
            known.sort(key=repr)


def _merge_epoch(
    row: Row, epoch: int, written: Stamp, values: dict[str, Any], when: float,
) -> None:
    """Merge the values of one epoch; those of the newest record of the epoch win."""
    old = row.epoch_stamps.get(epoch)
    fresh = {name[len("latest_"):]: value for name, value in values.items()
             if name.startswith("latest_") and name != "latest_epoch"}
    if old is None or written > old:
        row.epoch_stamps[epoch] = written
        row.epochs[epoch] = {**row.epochs.get(epoch, {}), **fresh, "time": when}
    else:
        row.epochs[epoch] = {**fresh, **row.epochs[epoch]}
