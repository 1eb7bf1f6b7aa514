"""The ``l3hpc ledger`` commands that talk to the Google Sheet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from l3hpc.cli.ledger.common import (
    Options,
    chosen_tabs,
    examples,
    place,
    print_json,
    print_report,
    say,
    sheet_options,
    sheets_at,
    tab_option,
)


@click.command(epilog=examples(
    "l3hpc ledger init                        the sheet of cluster.yaml or GSHEET_ID",
    "l3hpc ledger init --sheet https://docs.google.com/spreadsheets/d/1AbC… --key-file key.json",
    "l3hpc ledger init --tab distillation     one tab more"))
@sheet_options
@tab_option("Tabs to create [default: embedding_approx_mse, sonyc_ust and those with rows].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def init(options: Options, tabs: tuple[str, ...], as_json: bool) -> None:
    """Create or complete the sheet's tabs: header, columns, frozen row, protection, filter view.

    Create the spreadsheet yourself and share it with the service account as Editor. Nothing below a
    header row is changed; a tab with a different header is refused.
    """
    from l3hpc.ledger.sheets.sync import initialise

    store, sheets = sheets_at(options)
    chosen = chosen_tabs(tabs, store.fold(), main_too=True)
    made = initialise(sheets, chosen)
    if as_json:
        print_json({"sheet": sheets.sheet_id, "requests": sheets.requests, "tabs": {
            tab.name: {"made": tab.name in made, "columns": len(tab.columns)} for tab in chosen}})
        return
    for tab in chosen:
        click.echo(f"{tab.name}: {'made' if tab.name in made else 'as declared'}, "
                   f"{len(tab.columns)} columns")


@click.command(epilog=examples(
    "l3hpc ledger check                       exit code 3 when a header differs",
    "l3hpc ledger check --json"))
@sheet_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(options: Options, as_json: bool) -> None:
    """Compare the sheet's header rows with the declared columns, cell by cell. Writes nothing."""
    from l3hpc.errors import EXIT_HEADER_DRIFT
    from l3hpc.ledger.sheets.sync import read_snapshot

    store, sheets = sheets_at(options)
    snapshot = read_snapshot(sheets)
    wanted = chosen_tabs((), store.fold(), main_too=True)
    tabs = list(dict.fromkeys([*wanted, *(grid.tab for grid in snapshot.tabs.values())]))
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
                click.echo(f"{name}: not in {snapshot.title!r}; make it with   l3hpc ledger init")
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
@click.option("--watch", metavar="SECONDS", type=click.FloatRange(min=10),
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

    store, sheets = sheets_at(options)
    while True:
        try:
            report = sync_once(store, sheets, policy=on_conflict,  # type: ignore[arg-type]
                               say=say)
        except (L3hpcError, OSError) as error:
            if watch is None or isinstance(error, (InputError, SignInError)):
                raise  # a wrong sheet or key does not pass by itself
            show_error(error if isinstance(error, L3hpcError) else L3hpcError(
                error.strerror or str(error), where=str(error.filename or store.folder)))
            say(f"trying again in {watch:g} s (Ctrl-C ends it)")
        else:
            if as_json:
                click.echo(json.dumps(vars(report)))
            else:
                print_report(report)
            if watch is None:
                sys.exit(EXIT_FAILED if report.problems else 0)
        time.sleep(watch)


@click.command(epilog=examples(
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
    import shlex
    import shutil
    from importlib import metadata

    from l3hpc.errors import InputError
    from l3hpc.io.files import digest, private_file, private_folder
    from l3hpc.ledger.journal.records import slug

    where = place(options)
    workspace = where.workspace.absolute()
    # in ~/.l3hpc: a log or a lock in a folder of several people could be a link of somebody else
    folder = private_folder(Path("~/.l3hpc/sync").expanduser().absolute())
    name = f"{slug(workspace.name)}-{digest([str(workspace), where.sheet])[:8]}"
    log = private_file(folder / f"{name}.log")
    # cron knows no variable of this shell, and starts in the home folder
    settings = {} if where.key_file else {
        variable: str(Path(os.environ[variable]).absolute())
        for variable in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")
        if os.environ.get(variable)}
    try:
        metadata.distribution("l3hpc")
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        settings["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    words = ["env", *(f"{variable}={value}" for variable, value in settings.items())]
    words = words if settings else []
    words += [sys.executable, "-m", "l3hpc", "ledger", "sync", "--workspace", str(workspace),
              "--config", str(where.file.absolute())]
    words += ["--sheet", where.sheet] if where.sheet else []
    words += ["--key-file", str(where.key_file.absolute())] if where.key_file else []
    flock = shutil.which("flock")
    if flock:
        words = [flock, "-n", str(private_file(folder / f"{name}.lock")), *words]
    odd = next((word for word in [*words, str(log)] if not word.isprintable()), None)
    if odd is not None:
        raise InputError("a crontab cannot hold a path with a line break or a control character",
                         where=repr(odd))
    line = f"{shlex.join(words)} >>{shlex.quote(str(log))} 2>&1"
    click.echo(f"*/{every} * * * * " + line.replace("%", r"\%"))
    say(f"log: {log}")


COMMANDS = (init, check, sync, cron)
