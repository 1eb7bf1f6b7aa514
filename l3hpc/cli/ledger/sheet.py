"""The ``l3hpc ledger`` commands for the Google Sheet: init, check, sync, cron."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from l3hpc.cli.cron import Interval
from l3hpc.cli.ledger.common import (
    Options,
    chosen_tabs,
    examples,
    json_option,
    ledger_config,
    open_sheet,
    print_json,
    print_report,
    say,
    sheet_options,
    tab_option,
)
from l3hpc.errors import command_line
from l3hpc.io.values import count_of


@click.command(short_help="Create or complete the tabs of the sheet.", epilog=examples(
    "l3hpc ledger init                        the sheet of cluster.yaml or GSHEET_ID",
    "l3hpc ledger init --sheet https://docs.google.com/spreadsheets/d/1AbC… --key-file key.json",
    "l3hpc ledger init --tab distillation     another tab"))
@sheet_options
@tab_option("Tabs to create [default: embedding_approx_mse, sonyc_ust and those with rows].")
@json_option
def init(options: Options, tabs: tuple[str, ...], as_json: bool) -> None:
    """Create or complete the sheet's tabs: header, columns, frozen row, protection, filter view.

    Create the spreadsheet yourself and share it with the service account as Editor. Nothing below a
    header row is changed; a tab with a different header is refused.
    """
    from l3hpc.ledger.sheets.repair import initialise

    store, sheets = open_sheet(options)
    chosen = chosen_tabs(tabs, store.fold(), main_too=True)
    changed = initialise(sheets, chosen)
    if as_json:
        print_json({"sheet": sheets.sheet_id, "requests": sheets.requests, "tabs": {
            tab.name: {"made": tab.name in changed, "columns": len(tab.columns)}
            for tab in chosen}})
        return
    for tab in chosen:
        click.echo(f"{tab.name}: {'set up' if tab.name in changed else 'as declared'}, "
                   f"{count_of(len(tab.columns), 'column')}")


@click.command(short_help="Compare the sheet's header rows with the columns.", epilog=examples(
    "l3hpc ledger check                       exit code 3 if a header differs",
    "l3hpc ledger check --json"))
@sheet_options
@json_option
def check(options: Options, as_json: bool) -> None:
    """Compare the sheet's header rows with the declared columns, cell by cell. Writes nothing."""
    from l3hpc.errors import EXIT_HEADER_DRIFT
    from l3hpc.ledger.sheets.grid import has_place_for
    from l3hpc.ledger.sheets.reading import read_snapshot

    store, sheets = open_sheet(options)
    snapshot = read_snapshot(sheets)
    expected_tabs = [tab for tab in chosen_tabs((), store.fold(), main_too=True)
                     if has_place_for(snapshot, tab)]
    # a tab that the sheet has is compared although nothing has been recorded for it yet
    tabs = list(dict.fromkeys([*expected_tabs, *(grid.tab for grid in snapshot.tabs.values())]))
    report: dict[str, Any] = {"title": snapshot.title, "tabs": {}}
    for tab in tabs:
        grid = snapshot.tabs.get(tab.name)
        drift = grid.drift() if grid else None
        report["tabs"][tab.name] = None if drift is None else [
            {"cell": cell, "expected": expected, "found": found} for cell, expected, found in drift]
    if as_json:
        print_json(report)
    else:
        for name, drift in report["tabs"].items():
            if drift is None:
                click.echo(f"{name}: not in {snapshot.title!r}; to create it:   "
                           + command_line("ledger", "init"))
            elif not drift:
                click.echo(f"{name}: as declared")
            for item in drift or ():
                click.echo(f"{name}  {item['cell']}: expected {item['expected']!r}, "
                           f"found {item['found']!r}")
    if any(drift is None or drift for drift in report["tabs"].values()):
        sys.exit(EXIT_HEADER_DRIFT)


@click.command(epilog=examples(
    "l3hpc ledger sync                        once (two requests if nothing has changed)",
    "l3hpc ledger sync --watch 60             every minute, until Ctrl-C",
    "l3hpc ledger sync --on-conflict theirs   accept what people typed"))
@sheet_options
@click.option("--on-conflict", type=click.Choice(["report", "ours", "theirs"]), default="report",
              show_default=True, help="What to do with cells that people edited.")
@click.option("--watch", metavar="SECONDS", type=Interval(10),
              help="Sync repeatedly; failures are reported and retried, unless the sheet's ID or "
                   "the key is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line per pass.")
def sync(options: Options, on_conflict: str, watch: float | None, as_json: bool) -> None:
    """Update the Google Sheet from the journals, one row per run.

    Exit codes: 0 done, 1 needs attention, 3 changed columns, 75 offline.
    """
    import time

    from l3hpc.cli import show_error
    from l3hpc.errors import EXIT_FAILED, InputError, L3hpcError
    from l3hpc.ledger.sheets.client import SignInError
    from l3hpc.ledger.sheets.sync import sync as sync_once

    store, sheets = open_sheet(options)
    while True:
        try:
            report = sync_once(store, sheets, policy=on_conflict,  # type: ignore[arg-type]
                               say=say)
        except (L3hpcError, OSError) as error:
            # a wrong sheet or key stays wrong until a person changes it
            if watch is None or isinstance(error, (InputError, SignInError)):
                raise
            show_error(error if isinstance(error, L3hpcError) else L3hpcError(
                error.strerror or str(error), where=str(error.filename or store.folder)))
            say(f"trying again in {watch:g} s (Ctrl-C to stop)")
        else:
            if as_json:
                click.echo(json.dumps(vars(report)))
            else:
                print_report(report)
            if watch is None:
                sys.exit(EXIT_FAILED if report.problems else 0)
        time.sleep(watch)


@click.command(short_help="Print a crontab line that syncs regularly.", epilog=examples(
    "l3hpc ledger cron                        print the line",
    "l3hpc ledger cron | crontab -            if your crontab is empty; otherwise: crontab -e"))
@sheet_options
@click.option("--every", metavar="MINUTES", type=click.IntRange(1, 59), default=5,
              show_default=True, help="Interval in minutes.")
def cron(options: Options, every: int) -> None:
    """Print a crontab line that syncs from this machine (which needs internet access).

    Passes never overlap (flock). Their output goes to a log file in ~/.l3hpc/sync, whose name is
    printed with the line.
    """
    import os

    from l3hpc.cli.cron import crontab_line
    from l3hpc.io.files import digest
    from l3hpc.ledger.journal.records import slug

    config = ledger_config(options)
    workspace = config.workspace.absolute()
    name = f"{slug(workspace.name)}-{digest([str(workspace), config.sheet])[:8]}"
    variables = {} if config.key_file else {
        variable: str(Path(os.environ[variable]).absolute())
        for variable in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")
        if os.environ.get(variable)}
    arguments = ["ledger", "sync", "--workspace", str(workspace),
                 "--config", str(config.file.absolute())]
    arguments += ["--sheet", config.sheet] if config.sheet else []
    arguments += ["--key-file", str(config.key_file.absolute())] if config.key_file else []
    # not in the workspace: in a shared folder, log or lock could be a link that another user made
    line, log = crontab_line(arguments, name, every, Path("~/.l3hpc/sync"), variables)
    click.echo(line)
    say(f"log: {log}")


COMMANDS = (init, check, sync, cron)
