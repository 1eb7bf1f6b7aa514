"""Putting a tab's columns back: titles that were changed, columns that were moved, put in or taken.

A header that was moved into the rows goes back to the first row. A column is recognised by its
title, else by its cells (rows of ours that show what the journals say), else by its place, if that
leaves no doubt. Own columns of people go behind the declared ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.cells import same
from l3hpc.ledger.schema import Tab, letter
from l3hpc.ledger.sheets.grid import header_place
from l3hpc.ledger.sheets.requests import Request, put

Known = Mapping[tuple[str, ...], Sequence[Any]]  # key texts → the cells of ours


@dataclass(frozen=True)
class Change:
    """One change of a tab's columns: ``title`` at ``place``, or ``move`` from ``place`` to ``to``,
    or ``insert`` at ``place``; or ``row``: the row at ``place`` becomes the first one. Places are
    0-based, as they are when the changes before are made."""

    kind: Literal["title", "move", "insert", "row"]
    place: int
    to: int = 0
    old: Any = None
    new: str | None = None

    def words(self) -> str:
        """For a person: ``T1: 'epoch' → 'Latest Epoch'``."""
        if self.kind == "title":
            return f"{letter(self.place)}1: {self.old!r} → {self.new!r}"
        if self.kind == "row":
            return f"row {self.place + 1} (the header) moves to row 1"
        if self.kind == "move":
            return f"column {letter(self.place)} ({self.old!r}) moves to {letter(self.to)}"
        return f"column {letter(self.place)} is put in for {self.new!r}"


def as_requests(made: Sequence[Change], sheet: int, width: int) -> list[Request]:
    """Changes of a tab of ``width`` columns as requests of the Sheets API."""
    found: list[Request] = []
    for change in made:
        if change.kind == "row":
            found.append({"moveDimension": {"source": {
                "sheetId": sheet, "dimension": "ROWS", "startIndex": change.place,
                "endIndex": change.place + 1}, "destinationIndex": 0}})
            continue
        area = {"sheetId": sheet, "dimension": "COLUMNS", "startIndex": change.place,
                "endIndex": change.place + 1}
        if change.kind == "title":
            found.append(put(sheet, 0, change.place, [[change.new]]))
        elif change.kind == "move":  # the destination counts as the columns are before the move
            target = change.to if change.to < change.place else change.to + 1
            found.append({"moveDimension": {"source": area, "destinationIndex": target}})
        elif change.place < width:
            found.append({"insertDimension": {"range": area,
                                              "inheritFromBefore": change.place > 0}})
            width += 1
        else:  # columns can be inserted only before an existing one
            found.append({"appendDimension": {"sheetId": sheet, "dimension": "COLUMNS",
                                              "length": change.place + 1 - width}})
            width = change.place + 1
    return found


def changes(tab: Tab, lines: Sequence[Sequence[Any]], known: Known, where: str) -> list[Change]:
    """What brings the columns of a tab to the declared ones.

    lines: the whole tab as it is, as wide as it is, header first. where: the tab, for messages.
    Raises ``HeaderDriftError`` where cannot tell which column is which.
    """
    place = header_place(tab, lines)
    if place:
        lines = [lines[place], *lines[:place], *lines[place + 1:]]
        return [Change("row", place), *changes(tab, lines, known, where)]
    header: list[Any] = [value if value != "" else None for value in (lines[0] if lines else [])]
    twice = [title for title in tab.titles if header.count(title) > 1]
    if twice:
        places = [f"{letter(place)}1" for place, title in enumerate(header) if title == twice[0]]
        raise HeaderDriftError(f"{where}: {twice[0]!r} stands in {' and '.join(places)}",
                               hint="Delete or rename one of them in the sheet.")
    owner: list[int | None] = [tab.titles.index(title) if title in tab.titles else None
                               for title in header]
    _by_cells(tab, lines, owner, known)
    deleted = _by_place(tab, header, owner, where)
    return _ordered(tab, header, owner, deleted)


def _by_cells(tab: Tab, lines: Sequence[Sequence[Any]], owner: list[int | None],
              known: Known) -> None:
    """Give columns with an unknown title to the declared column whose values they show."""
    keys = [owner.index(tab.index(name)) for name in tab.key if tab.index(name) in owner]
    if len(keys) != len(tab.key):
        return
    rows = [(line, known[key]) for line in lines[1:]
            if (key := tuple(str(_at(line, place)) for place in keys)) in known]
    for column in (column for column in range(len(tab.columns)) if column not in owner):
        fitting = []
        for place in (place for place, own in enumerate(owner) if own is None):
            shown = [(_at(line, place), ours[column]) for line, ours in rows
                     if ours[column] is not None and _at(line, place) is not None]
            right = sum(same(theirs, ours) for theirs, ours in shown)
            if right and right > len(shown) / 2:
                fitting.append(place)
        rivals = [other for other in range(len(tab.columns)) if other not in owner
                  and other != column and rows
                  and all(same(ours[other], ours[column]) for _, ours in rows)]
        if len(fitting) == 1 and not rivals:
            owner[fitting[0]] = column


def _by_place(tab: Tab, header: Sequence[Any], owner: list[int | None], where: str) -> list[int]:
    """Give what is left by the neighbours; the declared columns that are gone."""
    deleted: list[int] = []
    missing = [column for column in range(len(tab.columns)) if column not in owner]
    while missing:
        group = [missing.pop(0)]
        while missing and missing[0] == group[-1] + 1:
            group.append(missing.pop(0))
        before = owner.index(group[0] - 1) if group[0] and group[0] - 1 in owner else -1
        last = group[-1] + 1
        after = owner.index(last) if last < len(tab.columns) else len(owner)
        between = [place for place in range(before + 1, after) if owner[place] is None]
        if len(between) == len(group) and last < len(tab.columns):
            for place, column in zip(between, group, strict=True):
                owner[place] = column
        elif not between:
            deleted += group
        else:
            names = ", ".join(repr(tab.titles[column]) for column in group)
            cells = ", ".join(f"{letter(place)}1 {header[place]!r}" for place in between)
            raise HeaderDriftError(f"{where}: cannot tell which column was {names}",
                                   allowed=f"one of {cells}, or it was deleted",
                                   hint="Write the title back by hand, or delete the column's "
                                        "title and cells, then: l3hpc ledger repair")
    return deleted


def _ordered(tab: Tab, header: Sequence[Any], owner: list[int | None],
             deleted: Sequence[int]) -> list[Change]:
    made = [Change("title", place, old=header[place], new=tab.titles[column])
            for place, column in enumerate(owner)
            if column is not None and header[place] != tab.titles[column]]
    now: list[tuple[int | None, Any]] = [
        (column, header[place] if column is None else tab.titles[column])
        for place, column in enumerate(owner)]
    end = max((place for place, (column, _) in enumerate(now) if column is not None), default=-1)
    for place in reversed([place for place in range(end) if now[place][0] is None]):
        made.append(Change("move", place, end, old=now[place][1]))
        now.insert(end, now.pop(place))
        end -= 1
    for column, title in enumerate(tab.titles):
        places = [place for place, (own, _) in enumerate(now) if own == column]
        if not places:
            made += [Change("insert", column, new=title), Change("title", column, new=title)]
            now.insert(column, (column, title))
        elif places[0] != column:
            made.append(Change("move", places[0], column, old=title))
            now.insert(column, now.pop(places[0]))
    assert [title for _, title in now[:len(tab.titles)]] == tab.titles and len(
        now) == len(owner) + len(deleted)
    return made


def _at(line: Sequence[Any], place: int) -> Any:
    value = line[place] if place < len(line) else None
    return None if value == "" else value
