"""The ledger of one workspace: its journal folders, and the state of the last sync."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.io.owners import who_decides
from l3hpc.ledger.cells import Cell, cell_shows, cells, same_cell
from l3hpc.ledger.journal.fold import Fold, Row, fold_folders
from l3hpc.ledger.journal.records import fallback_folder
from l3hpc.ledger.schema import TABS
from l3hpc.workspace import layout


class Problem(TypedDict):
    """A row that needs a person: ``kind`` (conflict, deleted, duplicate, …), key and message."""

    kind: str
    tab: str
    key: list[str]
    text: str


@dataclass
class SyncState:
    """The state of the last sync with one sheet. If its file is lost, the next sync rebuilds it.

    Attributes
    ----------
    sheet
        Id of the sheet.
    last_sync
        When a sync last completed, in seconds since the Unix epoch; 0 for never.
    confirmed
        Tab → key (as JSON) → those of our cells that the sheet showed when it was last read.
    problems
        Rows that need a person.
    records
        Tab → key (as JSON) → number of records that the journals then held for the row.
    swept
        Tab → key (as JSON) → the swept options that were written to the sheet.
    absent
        Optional tabs that the sheet does not have.
    """

    sheet: str
    last_sync: float = 0.0
    confirmed: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    swept: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def last(self, row: Row) -> list[Any] | None:
        """Return our cells that the sheet last showed for ``row``; None if it never had the row."""
        return self.confirmed.get(row.tab.name, {}).get(key_json(row.key))

    def is_confirmed(self, row: Row) -> bool:
        """Return whether the sheet showed the row as it is now, apart from accepted changes."""
        last = self.last(row)
        if last is None:
            return row.accepted.get("/row") == ["deleted"]
        return all(ours is None or same_cell(ours, shown) or column.field in row.accepted
                   for column, ours, shown in zip(row.tab.columns, cells(row), last, strict=True))

    def confirm(self, row: Row, shown: list[Any]) -> None:
        """Record which of our cells the sheet shows.

        Parameters
        ----------
        row
            The row.
        shown
            Cells of its row in the sheet, in column order. A cell that shows another value than
            ours keeps the value of ours that it last showed.
        """
        before = self.last(row) or [None] * len(shown)
        self.confirmed.setdefault(row.tab.name, {})[key_json(row.key)] = [
            ours if ours is not None and cell_shows(column, theirs, ours) else old
            for column, ours, theirs, old in zip(row.tab.columns, cells(row), shown, before,
                                                 strict=True)]
        self.records.setdefault(row.tab.name, {})[key_json(row.key)] = row.records

    def waiting_records(self, row: Row) -> int:
        """Return how many records of a row are newer than the last sync; at least 1."""
        return max(1, row.records - self.records.get(row.tab.name, {}).get(key_json(row.key), 0))

    def waiting_since(self, row: Row) -> float:
        """Return since when a row has waited, in seconds since the Unix epoch (an estimate)."""
        if self.last(row) is None:
            return row.first_time
        return min(row.last_time, max(row.first_time, self.last_sync))


class Store:
    """The ledger of one workspace.

    Parameters
    ----------
    workspace
        The workspace's folder. It need not exist.

    Attributes
    ----------
    folder, journal
        Folder of the ledger, and folder of its journal files.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = Path(workspace)
        paths = layout.Workspace(workspace)
        self.folder, self.journal = paths.ledger, paths.journal

    @property
    def folders(self) -> list[Path]:
        """All folders that may hold journal files of this workspace."""
        return [self.journal, fallback_folder(self.journal)]

    def fold(self, *, history: bool = False) -> Fold:
        """Fold all journals into rows.

        Parameters
        ----------
        history
            Whether rows keep the values of every epoch, not only the latest and the best.

        Returns
        -------
        Fold
            The rows, and what could not be read.

        Raises
        ------
        InputError
            The journal folder cannot be read: without it there would seem to be no results.
        """
        found = fold_folders(self.folders, history=history)
        if reason := found.unreadable.get(str(self.journal)):
            raise InputError(f"the results in it cannot be read: {reason}",
                             where=str(self.journal), hint=who_decides(self.journal))
        return found

    def state_path(self, sheet: str) -> Path:
        """Return the path of the sync state of a sheet."""
        return layout.Workspace(self.workspace).sync_state(digest(sheet)[:12])

    def state(self, sheet: str) -> SyncState:
        """Return the sync state of a sheet; an empty one if there is none or it is damaged."""
        try:
            value = read_json(self.state_path(sheet))
            found = SyncState(sheet, float(value["last_sync"]), dict(value["confirmed"]),
                              list(value["problems"]), dict(value.get("records", {})),
                              dict(value.get("swept", {})), list(value.get("absent", [])))
            # a file of another version must not fail in the middle of a sync
            for tab, rows in found.confirmed.items():
                if any(len(cells_of) != len(TABS[tab].columns) for cells_of in rows.values()):
                    raise ValueError("rows of another width")
            for counts in found.records.values():
                if any(type(count) is not int for count in counts.values()):
                    raise TypeError("not a count")
            for written in found.swept.values():
                if not all(isinstance(options, dict) for options in written.values()):
                    raise TypeError("not options")
            for item in found.problems:
                key_json(item["key"])
                if not all(isinstance(item[name], str) for name in ("kind", "tab", "text")):
                    raise TypeError("not a problem")
            return found
        except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
            return SyncState(sheet)

    def save(self, state: SyncState, now: float | None = None) -> None:
        """Save the state of a sync that has completed.

        Parameters
        ----------
        state
            The state; ``last_sync`` is set.
        now
            Time of the sync in seconds since the Unix epoch; by default the present.
        """
        state.last_sync = time.time() if now is None else now
        write_json(self.state_path(state.sheet), vars(state))


def waiting_rows(rows: Iterable[Row], state: SyncState) -> list[Row]:
    """Return the rows that the next sync has to write; rows that need a person are left out."""
    stuck = {(item["tab"], key_json(item["key"])) for item in state.problems}
    return [row for row in rows if row.tab.name not in state.absent
            and not state.is_confirmed(row)
            and (row.tab.name, key_json(row.key)) not in stuck]


def key_json(key: Iterable[str]) -> str:
    """Return a row key as JSON, which is unambiguous for any texts in the key."""
    return json.dumps(list(key), ensure_ascii=False)
