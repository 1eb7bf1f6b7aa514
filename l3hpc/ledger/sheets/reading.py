"""Reading a spreadsheet: its structure, its results tabs, or a whole tab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l3hpc.ledger.sheets.client import Sheets
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid, cell_range, fill_grid, parse_structure


def read_snapshot(sheets: Sheets) -> Snapshot:
    """Read a spreadsheet: first its structure, then the cells of all results tabs (two requests).

    Parameters
    ----------
    sheets
        The spreadsheet.
    """
    snapshot = parse_structure(sheets.structure())
    read_values(sheets, list(snapshot.tabs.values()))
    return snapshot


def read_values(sheets: Sheets, grids: Sequence[TabGrid]) -> None:
    """Read the declared columns of tabs into their grids (one request).

    Parameters
    ----------
    sheets
        The spreadsheet.
    grids
        The tabs; header and rows are replaced.
    """
    for grid, values in zip(grids, sheets.values([cell_range(grid) for grid in grids]),
                            strict=True):
        fill_grid(grid, values)


def all_cells(sheets: Sheets, grid: TabGrid) -> list[list[Any]]:
    """Read all cells of a tab, the columns that people added included (one request).

    Parameters
    ----------
    sheets
        The spreadsheet.
    grid
        The tab, which is not changed.

    Returns
    -------
    list of list
        Rows of cells, header first; empty cells at the end of a row are left out.
    """
    title = grid.title.replace("'", "''")
    (values,) = sheets.values([f"'{title}'"])
    return values
