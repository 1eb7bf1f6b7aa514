"""The results tables in a notebook: one tab as a pandas DataFrame, columns as in the sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from l3hpc.ledger import schema
from l3hpc.ledger.cells import cells
from l3hpc.ledger.journal.reading import notes
from l3hpc.ledger.store import Store
from l3hpc.ledger.views import select

if TYPE_CHECKING:
    import pandas


def results(workspace: Path | str = "workspace", tab: str = "sonyc_ust") -> pandas.DataFrame:
    """The rows of a tab, folded from the journals of a workspace.

    Columns: those of the sheet, in its order and under its titles; then ``state`` and ``note``.
    Index: the row's key as one text. Numbers are numbers, an empty cell is missing. Raises
    ``InputError`` for an unknown tab; warns of records that could not be read. Imports pandas when
    called.
    """
    import warnings

    import pandas

    found = schema.tab_named(tab)
    fold = Store(Path(workspace)).fold()
    for note in notes(fold):
        warnings.warn(note, stacklevel=2)
    rows = [row for row in fold.rows.values() if row.tab is found]
    table = pandas.DataFrame([cells(row) for row in rows], columns=found.titles,
                             index=[select.key_text(row) for row in rows]).convert_dtypes()
    table["state"] = [row.beside.get("state") for row in rows]
    table["note"] = [row.beside.get("note") for row in rows]
    return table
