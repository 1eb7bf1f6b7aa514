"""Results as one self-contained page: no network, no server, all rows, every epoch.

The page holds the data as JSON, and ``web/assets/ledger.js`` draws them. Text from journals is only
ever put in as text, never as markup.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from l3hpc.io.files import write_text
from l3hpc.ledger.cells import cells
from l3hpc.ledger.journal.fold import Row, number
from l3hpc.ledger.schema import Tab
from l3hpc.ledger.store import SyncState, key_json
from l3hpc.ledger.views import select
from l3hpc.ledger.views.table import short_keys
from l3hpc.web.templates import render

LINKS = ("log", "artifact", "report")


def write_html(path: Path, tables: Mapping[Tab, Sequence[Row]], state: SyncState | None = None,
               now: float | None = None) -> None:
    """Write the results tables as one page.

    Parameters
    ----------
    path
        The file to write, whole or not at all.
    tables
        The rows of each tab. Rows folded with ``history=True`` bring learning curves.
    state
        What the last sync knows of the sheet; with it, rows show whether the sheet has them.
    now
        The time of the page in seconds since the epoch; the present if it is not given.
    """
    moment = time.time() if now is None else now
    data = {"made": moment, "tabs": [_tab(tab, rows, state, moment)
                                     for tab, rows in tables.items()]}
    write_text(path, render("ledger.html.j2", data=data))


def _tab(tab: Tab, rows: Sequence[Row], state: SyncState | None, now: float) -> dict[str, object]:
    top = select.best(rows, tab)
    return {
        "name": tab.name, "rank": tab.index(tab.rank), "best": tab.best,
        "key": [tab.index(name) for name in tab.key],
        "columns": [[column.label, column.kind, column.rule] for column in tab.columns],
        "rows": [{**_row(row, row is top, state, now), "short": short}
                 for row, short in zip(rows, short_keys(rows), strict=True)]}


def _row(row: Row, best: bool, state: SyncState | None, now: float) -> dict[str, object]:
    kinds = {item["kind"] for item in state.problems if item["tab"] == row.tab.name
             and key_json(item["key"]) == key_json(row.key)} if state else set()
    marks = [select.state(row, now)] + sorted(kinds)
    if state and not kinds and not state.is_confirmed(row):
        marks.append("not synced")
    beside = {name: value for name, value in row.beside.items()
              if name not in ("state", "note", *LINKS)}
    return {
        "cells": cells(row), "best": best, "marks": [mark for mark in marks if mark],
        "note": str(row.beside.get("note") or ""), "time": row.last_time,
        "links": {name: str(row.beside[name]) for name in LINKS if row.beside.get(name)},
        "beside": {**beside, "restarts": row.restart,
                   **{name: value for name, value in row.origin.items() if value}},
        "curves": _curves(row)}


def _curves(row: Row) -> dict[str, object]:
    """metric → values per epoch (six digits; null where there is none), and the epochs."""
    if not row.epochs:
        return {}
    epochs = sorted(row.epochs)
    names = sorted({name for values in row.epochs.values() for name in values} - {"time"})
    return {"epoch": epochs, **{name: [_short(row.epochs[epoch].get(name)) for epoch in epochs]
                                for name in names}}


def _short(value: object) -> float | None:
    finite = number(value)
    return None if finite is None else float(f"{finite:.6g}")
