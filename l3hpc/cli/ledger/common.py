"""What the ``l3hpc ledger`` commands share: where the ledger is, which tabs and rows are meant."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from l3hpc.errors import InputError

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile
    from l3hpc.ledger.journal.fold import Fold, Row
    from l3hpc.ledger.journal.reading import Damage
    from l3hpc.ledger.schema import Tab
    from l3hpc.ledger.sheets.client import Sheets
    from l3hpc.ledger.sheets.sync import SyncReport
    from l3hpc.ledger.store import Store


class Options(NamedTuple):
    """What was typed: where results are and where they go."""

    workspace: str | None = None
    config_file: str | None = None
    sheet: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class Place:
    """Where results are, where they go, whether a group shares them, and the file that says so."""

    workspace: Path
    sheet: str | None
    key_file: Path | None
    profile: ClusterProfile
    file: Path


def place(options: Options) -> Place:
    """Workspace and sheet from options, environment and cluster.yaml (the one look-up here)."""
    from l3hpc.config.settings import load, sheet_id

    given = {"paths.workspace": (options.workspace, "--workspace"),
             "ledger.sheet_id": (options.sheet, "--sheet"),
             "ledger.key_file": (options.key_file, "--key-file")}
    config = load(options.config_file,
                  overrides={name: (value, option) for name, (value, option) in given.items()
                             if value is not None})
    identity = config.ledger.sheet_id
    return Place(config.workspace, sheet_id(identity) if identity else None,
                 config.ledger.key_file, config.profile, config.file)


def workspace_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--workspace`` and ``--config``, handed on as ``options``."""
    return _workspace(_gathered(function))


def sheet_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with ``--sheet`` and ``--key-file``."""
    function = click.option("--key-file", metavar="PATH", type=click.Path(dir_okay=False),
                            help="Service-account key. [default: application default "
                                 "credentials]")(_gathered(function))
    function = click.option("--sheet", metavar="ID",
                            help="ID or URL of the Google Sheet. [env: GSHEET_ID]")(function)
    return _workspace(function)


def tab_option(words: str, multiple: bool = True) -> Callable[..., Any]:
    """``--tab``, whose values the shell completes."""
    return click.option("--tab", "tabs" if multiple else "tab_name", multiple=multiple,
                        metavar="TAB", help=words, shell_complete=complete_tab)


def complete_tab(context: click.Context, parameter: click.Parameter, incomplete: str,
                 ) -> list[CompletionItem]:
    """Names of tabs, for the shell."""
    from l3hpc.ledger.schema import TABS

    return [CompletionItem(name) for name in TABS if name.startswith(incomplete)]


def examples(*lines: str) -> str:
    """The end of a help text."""
    return "\b\nExamples:\n" + "".join(f"  {line}\n" for line in lines)


def _workspace(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--config", "config_file", metavar="FILE",
                            type=click.Path(dir_okay=False),
                            help="Configuration file. [default: cluster.yaml in this "
                                 "folder]")(function)
    return click.option("--workspace", metavar="DIR", type=click.Path(file_okay=False),
                        help="Workspace folder. [default: from cluster.yaml]")(function)


def _gathered(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*words: Any, **values: Any) -> Any:
        typed = {name: values.pop(name) for name in Options._fields if name in values}
        return function(*words, options=Options(**typed), **values)
    return call


def open_store(options: Options) -> tuple[Store, str | None]:
    """The ledger of the workspace, and the sheet's id if there is one."""
    where = place(options)
    return store_at(where), where.sheet


def store_at(where: Place) -> Store:
    """The ledger of a place. Where a group shares it, so do the files of this command."""
    import os

    from l3hpc.ledger.store import Store
    from l3hpc.workspace import sharing

    store = Store(where.workspace)
    if where.profile.shared_group and store.folder.is_dir():
        os.umask(0o007)
        sharing.prepare_ledger(where.workspace)
    return store


def sheets_at(options: Options) -> tuple[Store, Sheets]:
    """The ledger and its sheet; an ``InputError`` where none is set."""
    from l3hpc.ledger.sheets.client import Sheets

    where = place(options)
    if where.sheet is None:
        raise InputError("no Google Sheet is set", where="ledger.sheet_id",
                         hint="Put its id into cluster.yaml (ledger: sheet_id: …), GSHEET_ID or "
                              "--sheet. Without one: l3hpc ledger show, l3hpc ledger export.")
    return store_at(where), Sheets(where.sheet, where.key_file, say=say)


def say(text: str) -> None:
    """A line for a person, beside the output."""
    click.echo(text, err=True)


def warn_damage(found: Damage) -> None:
    """Name what could not be read of the journals."""
    from l3hpc.ledger.journal.reading import damage_notes

    for note in damage_notes(found):
        say(f"note: {note}")


def print_json(value: Any) -> None:
    """A result as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_report(report: SyncReport) -> None:
    """What a sync did, and what is left to a person."""
    parts = [f"{count} rows {what}" for what, count in (
        ("added", report.inserted), ("brought up to date", report.updated)) if count]
    if report.put_back:
        parts.append(f"{report.put_back} cells put back")
    click.echo(f"{report.title!r}: {', '.join(parts) or 'nothing to write'}; {report.rows} rows in "
               f"the journal, {report.requests} requests")
    for note in report.notes:
        say(f"note: {note}")
    for problem in report.problems:
        say(f"{problem['kind']}: {problem['tab']}: {problem['text']}")
    if any(problem["kind"] == "conflict" for problem in report.problems):
        say("resolve with   l3hpc ledger sync --on-conflict ours   (or theirs)")


def chosen_tabs(names: tuple[str, ...], found: Fold, main_too: bool = False) -> list[Tab]:
    """The named tabs, else all that have rows (and the two main ones when asked)."""
    from l3hpc.ledger.schema import MAIN_TABS, TABS, find_tab

    if names:
        return [find_tab(name) for name in names]
    filled = {tab for tab, _ in found.rows} | (set(MAIN_TABS) if main_too else set())
    return [tab for name, tab in TABS.items() if name in filled]


def rows_named(found: Fold, keys: tuple[str, ...], tab_name: str | None) -> tuple[Tab, list[Row]]:
    from l3hpc.ledger.views import select

    tabs = chosen_tabs((tab_name,) if tab_name else (), found)
    problem: InputError | None = None
    for tab in tabs:
        try:
            return tab, [select.find_row(found.of(tab), tab, key) for key in keys]
        except InputError as error:
            problem = problem or error
    raise problem or InputError("there are no results yet", hint="l3hpc submit upstream")
