"""Rows of the ledger with the states of the runs that wrote them, and as data frames.

Jobs write ``running`` into their rows, and one that is killed cannot take it back. So ``ledger
show``, ``l3hpc.results`` and ``Run.results`` look up what has become of its step.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l3hpc.errors import InputError, L3hpcError, collect_damage
from l3hpc.ledger import schema
from l3hpc.ledger.journal.fold import Fold
from l3hpc.ledger.journal.reading import damage_notes
from l3hpc.ledger.store import Store
from l3hpc.ledger.views import select
from l3hpc.runs.notebook_place import folder_of, naming
from l3hpc.workspace import origin, records, run_names
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.states import StepState

if TYPE_CHECKING:
    import pandas

MAIN_TAB = "sonyc_ust"


def follow_running(found: Fold, workspace: Path) -> None:
    """Give rows that say ``running`` the state of their step.

    Parameters
    ----------
    found
        The rows; what was recorded stays in ``extra``.
    workspace
        The workspace folder, whose runs are looked up (and on Slurm their jobs).
    """
    rows = [row for row in found.rows.values() if select.is_recorded_as_running(row)]
    if not rows:
        return
    from l3hpc.runs import status  # costs `ledger show` more time than reading the rows

    there = {str(row.extra.get("run")) for row in rows} & {*run_names.names(workspace)}
    now: dict[tuple[str, str], StepState] = {}
    # where a run cannot be looked up, the rows show what was recorded
    with contextlib.suppress(L3hpcError, OSError):
        now = {(run.run, step.name): step.state
               for run in status.collect(workspace, sorted(there)) for step in run.steps}
    for row in rows:
        state = now.get((str(row.extra.get("run")), str(row.extra.get("step"))))
        if state is not None:
            row.values[select.STATE_NOW] = "finished" if state.is_done else str(state)


def results(workspace: str | os.PathLike[str] | None = None, tab: str | None = None
            ) -> pandas.DataFrame:
    """Read the rows of a tab from the journals of a workspace.

    Parameters
    ----------
    workspace
        The workspace folder. None: that of ``cluster.yaml``.
    tab
        Name of the tab. None: ``sonyc_ust``, or, if it has no rows, the first one that has some.

    Returns
    -------
    pandas.DataFrame
        A row for each row of the ledger, the oldest first. The columns of the sheet, with its
        titles and in its order; then those of swept options, such as ``emb-dim`` or
        ``train.epochs``; then ``run`` (the name of the row), ``state`` (as in ``l3hpc ledger
        show``) and ``note``. The index is the key of a row as one text. Empty cells are missing
        values.

    Raises
    ------
    InputError
        There is no such tab or workspace.

    Warns
    -----
    UserWarning
        Some records of the journals or of runs could not be read.
    """
    if tab is not None:
        schema.find_tab(tab)
    folder = folder_of(workspace)
    if not folder.is_dir():
        raise InputError("there is no such workspace", where=str(folder),
                         hint="The workspace is the folder that holds runs/ and ledger/.")
    with naming(folder):
        found = _fold(folder)
        filled = {row.tab.name for row in found.rows.values()}
        first = MAIN_TAB if MAIN_TAB in filled or not filled else next(
            name for name in schema.TABS if name in filled)
        return _frame(found, folder, tab or first)


def results_of(workspace: Path, run: str, tab: str | None = None) -> pandas.DataFrame:
    """Read the rows of a run, and of the artifacts that it has reused.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    tab
        Name of a tab. None: the first that has a row of this run.

    Returns
    -------
    pandas.DataFrame
        As of ``results``; no rows if the run has not recorded any.

    Raises
    ------
    InputError
        If there is no such tab.
    """
    if tab is not None:
        schema.find_tab(tab)
    # rows are found by the name of the run: it is part of the paths and keys that they hold
    reused = _reused(workspace, run)
    found = _fold(workspace)
    own = {key: row for key, row in found.rows.items()
           if _is_of(select.key_text(row), run, reused)}
    filled = {row.tab.name for row in own.values()}
    first = next((name for name in schema.TABS if name in filled), next(iter(schema.TABS)))
    table = _frame(found, workspace, tab or first)
    return table[[_is_of(str(key), run, reused) for key in table.index]]


def _fold(workspace: Path) -> Fold:
    found = Store(workspace).fold()
    follow_running(found, workspace)
    return found


def _frame(found: Fold, workspace: Path, tab: str) -> pandas.DataFrame:
    """The rows of a tab; a warning about what could not be read."""
    from l3hpc.ledger.views.exports import frame
    from l3hpc.ledger.views.runs import view_tabs

    with collect_damage() as damage:
        view = view_tabs(found, workspace)[tab]
    notes = [f"skipped: {error.where}: {error.message}" for error in damage]
    for note in [*damage_notes(found), *notes]:
        warnings.warn(note, stacklevel=3)
    return frame(found.rows_of(tab), view)


def _reused(workspace: Path, run: str) -> dict[str, tuple[str, set[str]]]:
    """Of the runs whose artifacts this one reused: the folder, in the workspace, of the links to
    the artifacts of each, and the links to those that were reused.
    """
    place = Workspace(workspace)
    reused = {Path(step.artifact).resolve() for step in records.read(workspace, run).steps
              if step.state is StepState.REUSED}
    found: dict[str, tuple[str, set[str]]] = {}
    for name in set().union(*(origin.runs_of(workspace, path) for path in reused)):
        folder = place.run(name).artifacts
        links = list(folder.iterdir()) if folder.is_dir() else []
        found[name] = (os.path.relpath(folder, workspace), {
            link.name for link in links if link.resolve() in reused})
    return found


def _is_of(key: str, run: str, reused: Mapping[str, tuple[str, set[str]]]) -> bool:
    """Whether the row with this key is of ``run``, or of one of those of which it has reused
    something, and then of that, if it names an artifact.

    The key names its run as a folder in a path, or as a word of its own.
    """
    words = key.replace("/", " ").split()
    if run in words:
        return True
    for name, (folder, links) in reused.items():
        if name in words:
            rest = key.partition(f"{folder}/")[2].replace("/", " ").split()
            if not rest or rest[0] in links:
                return True
    return False
