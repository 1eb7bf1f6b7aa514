"""What the ``l3hpc ledger`` commands share: options, access to ledger and sheet, and output."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from l3hpc.cli import place
from l3hpc.errors import InputError, command_line
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile
    from l3hpc.ledger.journal.fold import Fold, Row
    from l3hpc.ledger.journal.reading import Damage
    from l3hpc.ledger.schema import Tab
    from l3hpc.ledger.sheets.client import Sheets
    from l3hpc.ledger.sheets.sync import SyncReport
    from l3hpc.ledger.store import Problem, Store


class Options(NamedTuple):
    """Values of the options about workspace and sheet."""

    workspace: str | None = None
    config_file: str | None = None
    sheet: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class LedgerConfig:
    """Settings of the ledger, from options, environment and cluster.yaml.

    Attributes
    ----------
    workspace
        Folder of the workspace.
    sheet, key_file
        Id of the Google Sheet and key of the service account, if they are set.
    profile
        Cluster profile, which decides whether a group shares the ledger.
    file
        The configuration file.
    """

    workspace: Path
    sheet: str | None
    key_file: Path | None
    profile: ClusterProfile
    file: Path


# --- options --------------------------------------------------------------------------------------

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def workspace_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--workspace`` and ``--config``, which the command gets as ``options``."""
    return _workspace(_gathered(function))


def sheet_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--workspace``, ``--config``, ``--sheet`` and ``--key-file``."""
    function = place.place_option("--key-file", metavar="PATH", type=click.Path(dir_okay=False),
                                  help="Service-account key. [default: application default "
                                       "credentials]")(_gathered(function))
    function = place.place_option("--sheet", metavar="ID",
                                  help="ID or URL of the Google Sheet. [env: GSHEET_ID]")(function)
    return _workspace(function)


def tab_option(help_text: str, multiple: bool = True) -> Callable[..., Any]:
    """Add ``--tab``, whose values the shell completes."""
    return click.option("--tab", "tabs" if multiple else "tab_name", multiple=multiple,
                        metavar="TAB", help=help_text, shell_complete=complete_tab)


def complete_tab(context: click.Context, parameter: click.Parameter, incomplete: str,
                 ) -> list[CompletionItem]:
    """Complete the names of tabs."""
    from l3hpc.ledger.schema import TABS

    return [CompletionItem(name) for name in TABS if name.startswith(incomplete)]


def examples(*lines: str) -> str:
    """Return the examples at the end of a help text."""
    return "\b\nExamples:\n" + "".join(f"  {line}\n" for line in lines)


def _workspace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--workspace`` and ``--config``."""
    return place.workspace_option("workspace")(place.config_option()(function))


def _gathered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass the values of the options about workspace and sheet as ``options``."""
    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        typed = {name: values.pop(name) for name in Options._fields if name in values}
        return function(*arguments, options=Options(**typed), **values)
    return call


# --- ledger and sheet -----------------------------------------------------------------------------

def ledger_config(options: Options) -> LedgerConfig:
    """Look up workspace and sheet in options, environment and cluster.yaml."""
    from l3hpc.config.settings import load, sheet_id

    given = {"paths.workspace": (options.workspace, "--workspace"),
             "ledger.sheet_id": (options.sheet, "--sheet"),
             "ledger.key_file": (options.key_file, "--key-file")}
    config = load(options.config_file,
                  overrides={name: (value, option) for name, (value, option) in given.items()
                             if value is not None})
    identity = config.ledger.sheet_id
    return LedgerConfig(config.workspace, sheet_id(identity) if identity else None,
                        config.ledger.key_file, config.profile, config.file)


def open_store(options: Options) -> tuple[Store, str | None]:
    """Return the ledger of the workspace, and the id of its sheet if there is one."""
    config = ledger_config(options)
    return store_of(config), config.sheet


def open_sheet(options: Options) -> tuple[Store, Sheets]:
    """Return the ledger and its sheet.

    Raises
    ------
    InputError
        No sheet is configured.
    """
    from l3hpc.ledger.sheets.client import Sheets

    config = ledger_config(options)
    if config.sheet is None:
        raise InputError("no Google Sheet is configured", where="ledger.sheet_id",
                         hint="Set its id in cluster.yaml (ledger: sheet_id: …), GSHEET_ID or "
                              f"--sheet. Without a sheet: {command_line('ledger', 'show')}, "
                              f"{command_line('ledger', 'export')}.")
    return store_of(config), Sheets(config.sheet, config.key_file, say=say)


def store_of(config: LedgerConfig) -> Store:
    """Return the ledger of a configuration.

    Raises
    ------
    InputError
        The workspace is a file, or its path leads through one.
    """
    import os

    from l3hpc.ledger.store import Store
    from l3hpc.workspace import sharing

    store = Store(config.workspace)
    _require_folder(store.folder)
    if config.profile.shared_group and store.folder.is_dir():
        # files that this command writes are to be writable by the group
        os.umask(0o007)
        # what is only read may be read-only: a command that writes reports it
        with contextlib.suppress(OSError):
            sharing.prepare_ledger(config.workspace)
    return store


def _require_folder(folder: Path) -> None:
    """Refuse a folder that cannot exist because a part of its path is a file."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            return
        if path.exists():
            raise InputError(f"cannot read the ledger in {folder}: {path} is a file, not a folder",
                             where="--workspace", allowed="the folder that holds runs/ and ledger/")


def chosen_tabs(names: tuple[str, ...], found: Fold, main_too: bool = False) -> list[Tab]:
    """Return the named tabs, or all tabs with rows.

    Parameters
    ----------
    names
        Names that were given on the command line.
    found
        The rows.
    main_too
        Whether to add the two main tabs if no names were given.
    """
    from l3hpc.ledger.schema import MAIN_TABS, TABS, find_tab

    if names:
        return [find_tab(name) for name in names]
    filled = {tab for tab, _ in found.rows} | (set(MAIN_TABS) if main_too else set())
    return [tab for name, tab in TABS.items() if name in filled]


def find_rows(found: Fold, keys: tuple[str, ...], tab_name: str | None) -> tuple[Tab, list[Row]]:
    """Find rows by the names of their runs or by their keys, all in the same tab.

    Parameters
    ----------
    found
        The rows.
    keys
        Names of runs, keys, or parts of these, as ``select.find_row`` takes them.
    tab_name
        The tab; by default the first one that has all of the rows.

    Raises
    ------
    InputError
        No tab has all of the rows. Of several tabs, the error is that of the tab with the most of
        them, because a name that fits two rows is not one that fits none.
    """
    from l3hpc.ledger.views import runs, select

    runs.name_rows(found)
    problems: list[tuple[int, InputError]] = []
    for tab in chosen_tabs((tab_name,) if tab_name else (), found):
        rows = found.rows_of(tab)
        try:
            return tab, [select.find_row(rows, tab, key) for key in keys]
        except InputError as error:
            fitting = sum(bool(select.rows_named(rows, key)) for key in keys)
            problems.append((fitting, error))
    if not problems:
        raise InputError("there are no results yet", hint=command_line("submit", "upstream"))
    most, problem = max(problems, key=lambda item: item[0])
    if not most and not tab_name:
        raise InputError(f"no tab has a run or key named {keys[0]!r}", hint=problem.hint)
    raise problem


# --- output ---------------------------------------------------------------------------------------

def say(text: str) -> None:
    """Print a message on standard error, apart from the output."""
    click.echo(text, err=True)


def warn_damage(found: Damage) -> None:
    """Print notes about what could not be read of the journals."""
    from l3hpc.ledger.journal.reading import damage_notes

    for note in damage_notes(found):
        say(f"note: {note}")


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_problems(problems: Iterable[Problem]) -> None:
    """Print the rows of the sheet that need a person."""
    for problem in problems:
        say(f"{problem['kind']}: {problem['tab']}: {problem['text']}")


def print_report(report: SyncReport) -> None:
    """Print what a sync wrote, and the rows that need a person."""
    parts = [f"{count_of(count, 'row')} {what}" for what, count in (
        ("added", report.inserted), ("updated", report.updated)) if count]
    if report.swept:
        parts.append(f"{report.swept} swept options written")
    if report.put_back:
        parts.append(f"{count_of(report.put_back, 'cell')} restored")
    rows = f"{count_of(report.rows, 'row')} in the journal"
    click.echo(f"{report.title!r}: {', '.join(parts) or 'nothing to write'}; {rows}, "
               f"{report.requests} requests")
    for note in report.notes:
        say(f"note: {note}")
    print_problems(report.problems)
    if any(problem["kind"] == "conflict" for problem in report.problems):
        command = command_line("ledger", "sync", "--on-conflict", "ours")
        say(f"resolve with   {command}   (or theirs)")
