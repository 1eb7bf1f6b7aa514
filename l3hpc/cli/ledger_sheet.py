"""The ``l3hpc ledger`` commands that talk to the Google Sheet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.ledger_common import (
    chosen_tabs,
    place,
    rows_named,
    sheet_options,
)
from l3hpc.errors import InputError

if TYPE_CHECKING:
    from l3hpc.ledger.sheets import Sheets
    from l3hpc.ledger.store import Store
    from l3hpc.ledger.sync import Report


@click.command()
@sheet_options
@click.option("--tab", "tabs", multiple=True, metavar="TAB",
              help="Tabs to make [default: embedding_approx_mse, sonyc_ust and those with rows].")
def init(workspace: str | None, sheet: str | None, key_file: str | None,
         tabs: tuple[str, ...]) -> None:
    """Make or complete the tabs of the sheet: header, columns, frozen row, protection, filter view.

    A person makes the spreadsheet and shares it (Editor) with the service account's address.
    Nothing below a header is touched; a tab with another header is refused.
    """
    from l3hpc.ledger.sync import initialise

    store, sheets = _sheets(workspace, sheet, key_file)
    chosen = chosen_tabs(tabs, store.fold(), main_too=True)
    made = initialise(sheets, chosen)
    for tab in chosen:
        click.echo(f"{tab.name}: {'made' if tab.name in made else 'as declared'}, "
                   f"{len(tab.columns)} columns")


@click.command()
@sheet_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(workspace: str | None, sheet: str | None, key_file: str | None, as_json: bool) -> None:
    """Compare the sheet's header rows with the declared columns, cell by cell. Writes nothing."""
    from l3hpc.errors import EXIT_HEADER_DRIFT
    from l3hpc.ledger.sync import snapshot_of

    store, sheets = _sheets(workspace, sheet, key_file)
    snapshot = snapshot_of(sheets)
    wanted = chosen_tabs((), store.fold(), main_too=True)
    tabs = list(dict.fromkeys([*wanted, *(grid.tab for grid in snapshot.tabs.values())]))
    report: dict[str, Any] = {"title": snapshot.title, "tabs": {}}
    for tab in tabs:
        grid = snapshot.tabs.get(tab.name)
        drift = grid.drift() if grid else None
        report["tabs"][tab.name] = None if drift is None else [
            {"cell": cell, "expected": expected, "found": found} for cell, expected, found in drift]
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for name, drift in report["tabs"].items():
            if drift is None:
                click.echo(f"{name}: not in {snapshot.title!r}; make it with   l3hpc ledger init")
            elif not drift:
                click.echo(f"{name}: as declared")
            for item in drift or ():
                click.echo(f"{name}  {item['cell']}: expected {item['expected']!r}, "
                           f"found {item['found']!r}")
    if any(drift is None or drift for drift in report["tabs"].values()):
        sys.exit(EXIT_HEADER_DRIFT)


@click.command()
@sheet_options
@click.option("--on-conflict", type=click.Choice(["report", "ours", "theirs"]), default="report",
              show_default=True, help="What to do with cells that a person changed.")
@click.option("--watch", metavar="SECONDS", type=click.FloatRange(min=10),
              help="Sync again and again; an unreachable sheet is tried again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line per pass.")
def sync(workspace: str | None, sheet: str | None, key_file: str | None, on_conflict: str,
         watch: float | None, as_json: bool) -> None:
    """Bring the Google Sheet to what the journals say; each run once, in its columns.

    Exit codes: 0 done, 1 something for a person to look at, 3 changed columns, 75 offline.
    """
    import time

    from l3hpc.cli import show_error
    from l3hpc.errors import EXIT_FAILED, OfflineError
    from l3hpc.ledger.sync import sync as sync_once

    store, sheets = _sheets(workspace, sheet, key_file)
    while True:
        try:
            report = sync_once(store, sheets, policy=on_conflict,  # type: ignore[arg-type]
                               say=_say)
        except OfflineError as error:
            if watch is None:
                raise
            show_error(error)
        else:
            if as_json:
                click.echo(json.dumps(vars(report), ensure_ascii=False))
            else:
                _print_report(report)
            if watch is None:
                sys.exit(EXIT_FAILED if report.problems else 0)
        time.sleep(watch)


@click.command()
@click.argument("key")
@sheet_options
@click.option("--tab", "tab_name", metavar="TAB", help="Tab of the row [default: where it is].")
def restore(key: str, workspace: str | None, sheet: str | None, key_file: str | None,
            tab_name: str | None) -> None:
    """Write a row again that someone deleted from the sheet. KEY is the end of the row's key."""
    from l3hpc.ledger.sync import sync as sync_once

    store, sheets = _sheets(workspace, sheet, key_file)
    _, rows = rows_named(store.fold(), (key,), tab_name)
    _print_report(sync_once(store, sheets, restore=rows, say=_say))


@click.command()
@sheet_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def repair(workspace: str | None, sheet: str | None, key_file: str | None, yes: bool) -> None:
    """Make the sheet equal to the journals: shows the difference, asks, then writes.

    Overrules cells that people changed and brings deleted rows back. Own rows and own columns of
    people stay. Columns that were moved or renamed have to be put back by hand first.
    """
    from l3hpc.ledger.columns import letter
    from l3hpc.ledger.sync import difference
    from l3hpc.ledger.sync import sync as sync_once

    store, sheets = _sheets(workspace, sheet, key_file)
    snapshot, plan, deleted = difference(store, sheets)
    for tab in plan.tabs:
        for write in tab.writes:
            click.echo(f"{tab.grid.tab.name}  {letter(write.column)}{write.place + 1} "
                       f"({tab.grid.tab.titles[write.column]}): {write.old!r} → {write.new!r}")
        for row in tab.inserts:
            click.echo(f"{tab.grid.tab.name}  {'deleted' if row in deleted else 'new'} row: "
                       f"{' '.join(row.key)}")
    for problem in plan.problems:
        click.echo(f"{problem['kind']}: {problem['tab']}: {problem['text']}", err=True)
    if plan.is_empty:
        click.echo(f"{snapshot.title!r} equals the journals")
    elif yes or click.confirm("write this?"):
        _print_report(sync_once(store, sheets, policy="ours", restore=deleted, say=_say))


@click.command()
@sheet_options
@click.option("--tab", "tabs", multiple=True, metavar="TAB", help="Tabs to look at [default: all].")
@click.option("--yes", is_flag=True, help="Do not ask.")
def adopt(workspace: str | None, sheet: str | None, key_file: str | None, tabs: tuple[str, ...],
          yes: bool) -> None:
    """Take rows that people typed or pasted into the sheet into the journal."""
    import getpass

    from l3hpc.ledger.columns import TABS, tab_named
    from l3hpc.ledger.sync import adopt as adopt_rows
    from l3hpc.ledger.sync import foreign_rows

    store, sheets = _sheets(workspace, sheet, key_file)
    chosen = [tab_named(name) for name in tabs] or list(TABS.values())
    found = foreign_rows(store, sheets, chosen)
    for row in found:
        click.echo(f"{row.tab.name}: {' '.join(row.key)}")
    if not found:
        click.echo("no rows of others")
    elif yes or click.confirm(f"take {len(found)} rows into the journal?"):
        adopt_rows(store, found, getpass.getuser())


@click.command()
@sheet_options
@click.option("--every", metavar="MINUTES", type=click.IntRange(1, 59), default=5,
              show_default=True, help="How often.")
def cron(workspace: str | None, sheet: str | None, key_file: str | None, every: int) -> None:
    """Print a crontab line that syncs from this machine (one with internet)."""
    import shlex

    where = place(workspace, sheet, key_file)  # cron knows neither GSHEET_ID nor OUTPUT_DIR
    words = [sys.executable, "-m", "l3hpc", "ledger", "sync", "--workspace", str(where.workspace)]
    words += ["--sheet", where.sheet] if where.sheet else []
    words += ["--key-file", str(where.key_file)] if where.key_file else []
    command_line = shlex.join(words)
    log = shlex.quote(str(where.workspace / "ledger" / "sync.log"))
    line = f"cd {shlex.quote(str(Path.cwd()))} && {command_line} >>{log} 2>&1"
    click.echo(f"*/{every} * * * * " + line.replace("%", r"\%"))


def _sheets(workspace: str | None, sheet: str | None, key_file: str | None,
            ) -> tuple[Store, Sheets]:
    from l3hpc.ledger.sheets import Sheets
    from l3hpc.ledger.store import Store

    where = place(workspace, sheet, key_file)
    if where.sheet is None:
        raise InputError("no Google Sheet is set", where="ledger.sheet_id",
                         hint="Put its id into cluster.yaml (ledger: sheet_id: …), GSHEET_ID or "
                              "--sheet. Without one: l3hpc ledger show, l3hpc ledger export.")
    return Store(where.workspace), Sheets(where.sheet, where.key_file, say=_say)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _print_report(report: Report) -> None:
    parts = [f"{count} rows {what}" for what, count in (
        ("added", report.inserted), ("brought up to date", report.updated)) if count]
    if report.put_back:
        parts.append(f"{report.put_back} cells put back")
    click.echo(f"{report.title!r}: {', '.join(parts) or 'nothing to write'}; {report.rows} rows in "
               f"the journal, {report.requests} requests")
    for problem in report.problems:
        click.echo(f"{problem['kind']}: {problem['tab']}: {problem['text']}", err=True)
    if any(problem["kind"] == "conflict" for problem in report.problems):
        click.echo("resolve with   l3hpc ledger sync --on-conflict ours   (or theirs)", err=True)


COMMANDS = (init, check, sync, repair, restore, adopt, cron)
