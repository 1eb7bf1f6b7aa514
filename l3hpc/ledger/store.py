"""Where the ledger lives in a workspace: journal folders, and what the last sync confirmed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.files import digest, read_json, write_json
from l3hpc.ledger.cells import cells
from l3hpc.ledger.fold import Fold, Row, fold_folders
from l3hpc.ledger.journal import second_folder


@dataclass
class SyncState:
    """What a sync left behind for one sheet. Lost, nothing is lost: the next sync rebuilds it.

    confirmed: tab → key (as JSON) → digest of the cells seen on the sheet. problems: what a person
    has to look at (conflicts, deleted and duplicate rows), each with kind, tab, key, text.
    """

    sheet: str
    last_sync: float = 0.0
    confirmed: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def is_confirmed(self, row: Row) -> bool:
        """Whether the sheet showed the row as it is now."""
        return self.confirmed.get(row.tab.name, {}).get(key_json(row.key)) == row_digest(row)

    def confirm(self, row: Row) -> None:
        """Remember that the sheet shows the row as it is now."""
        self.confirmed.setdefault(row.tab.name, {})[key_json(row.key)] = row_digest(row)

    def forget(self, row: Row) -> None:
        """The sheet does not show the row as it is."""
        self.confirmed.get(row.tab.name, {}).pop(key_json(row.key), None)


class Store:
    """The ledger of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = Path(workspace)
        self.folder = self.workspace / "ledger"
        self.journal = self.folder / "journal"

    @property
    def folders(self) -> list[Path]:
        """All folders that may hold journal files of this workspace."""
        return [self.journal, second_folder(self.journal)]

    def fold(self, *, history: bool = False) -> Fold:
        """The rows of all journals."""
        return fold_folders(self.folders, history=history)

    def state_path(self, sheet: str) -> Path:
        """The file that keeps the sync state of a sheet."""
        return self.folder / "sync" / f"{digest(sheet)[:12]}.json"

    def state(self, sheet: str) -> SyncState:
        """The sync state of a sheet; an empty one when there is none or it is damaged."""
        try:
            value = read_json(self.state_path(sheet))
            return SyncState(sheet, float(value["last_sync"]), dict(value["confirmed"]),
                             list(value["problems"]))
        except (OSError, InputError, KeyError, TypeError, ValueError):
            return SyncState(sheet)

    def save(self, state: SyncState, now: float | None = None) -> None:
        """Keep the state of a sync that reached its end."""
        state.last_sync = time.time() if now is None else now
        write_json(self.state_path(state.sheet), vars(state))


def waiting(rows: Iterable[Row], state: SyncState) -> list[Row]:
    """The rows that the sheet has not been seen to show."""
    return [row for row in rows if not state.is_confirmed(row)]


def row_digest(row: Row) -> str:
    """Changes when any cell of the row does."""
    return digest(cells(row))[:16]


def key_json(key: Iterable[str]) -> str:
    """A row key as one text that cannot be confused with another."""
    return json.dumps(list(key), ensure_ascii=False)
