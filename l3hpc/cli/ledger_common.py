"""What the ``l3hpc ledger`` commands share: where the ledger is, which tabs and rows are meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l3hpc.errors import InputError

if TYPE_CHECKING:
    from l3hpc.ledger.columns import Tab
    from l3hpc.ledger.fold import Fold, Row
    from l3hpc.ledger.store import Store


@dataclass(frozen=True)
class Place:
    """Where results are and where they go."""

    workspace: Path
    sheet: str | None
    key_file: Path | None


def place(workspace: str | None, sheet: str | None = None, key_file: str | None = None) -> Place:
    """Workspace and sheet from options, environment and cluster.yaml (the one look-up here)."""
    from l3hpc.workflow.config import load, sheet_id

    given = {"paths.workspace": (workspace, "--workspace"), "ledger.sheet_id": (sheet, "--sheet"),
             "ledger.key_file": (key_file, "--key-file")}
    config = load(overrides={name: (value, option) for name, (value, option) in given.items()
                             if value is not None})
    identity = config.ledger.sheet_id
    return Place(config.workspace, sheet_id(identity) if identity else None,
                 config.ledger.key_file)


def workspace_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--workspace", metavar="DIR", type=click.Path(file_okay=False),
                        help="Folder of runs and journals [default: from cluster.yaml].")(function)


def sheet_options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--key-file", metavar="PATH", type=click.Path(dir_okay=False),
                            help="Service-account key (default: application default "
                                 "credentials).")(function)
    function = click.option("--sheet", metavar="ID",
                            help="Id or address of the Google Sheet [env: GSHEET_ID].")(function)
    return workspace_option(function)


def open_store(workspace: str | None) -> tuple[Store, str | None]:
    from l3hpc.ledger.store import Store

    where = place(workspace)
    return Store(where.workspace), where.sheet


def chosen_tabs(names: tuple[str, ...], found: Fold, main_too: bool = False) -> list[Tab]:
    """The named tabs, else all that have rows (and the two main ones when asked)."""
    from l3hpc.ledger.columns import MAIN_TABS, TABS, tab_named

    if names:
        return [tab_named(name) for name in names]
    filled = {tab for tab, _ in found.rows} | (set(MAIN_TABS) if main_too else set())
    return [tab for name, tab in TABS.items() if name in filled]


def rows_named(found: Fold, keys: tuple[str, ...], tab_name: str | None) -> tuple[Tab, list[Row]]:
    from l3hpc.ledger import select

    tabs = chosen_tabs((tab_name,) if tab_name else (), found)
    problem: InputError | None = None
    for tab in tabs:
        try:
            return tab, [select.find(found.of(tab), tab, key) for key in keys]
        except InputError as error:
            problem = problem or error
    raise problem or InputError("there are no results yet", hint="l3hpc submit upstream")
