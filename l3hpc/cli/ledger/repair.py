"""The ``l3hpc ledger`` commands that repair: repair, restore, adopt, compact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.ledger.common import (
    Options,
    examples,
    find_rows,
    ledger_config,
    open_sheet,
    open_store,
    print_json,
    print_problems,
    print_report,
    say,
    sheet_options,
    tab_option,
    warn_damage,
    workspace_option,
)
from l3hpc.console.formatting import file_size
from l3hpc.io.values import count_of, one_line

if TYPE_CHECKING:
    from l3hpc.ledger.journal.fold import Row
    from l3hpc.ledger.sheets.client import Sheets
    from l3hpc.ledger.sheets.diff import SyncPlan
    from l3hpc.ledger.store import Store

# prompts would mix with the JSON
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, without prompting.")
_YES = click.option("--yes", is_flag=True, help="Write without asking for confirmation.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show the changes; write nothing.")


@click.command(epilog=examples(
    "l3hpc ledger restore 1a2b                the row whose key ends with 1a2b",
    "l3hpc ledger restore 1a2b --tab sonyc_ust"))
@click.argument("key")
@sheet_options
@tab_option("Tab of the row. [default: found by key]", multiple=False)
@_JSON
def restore(key: str, options: Options, tab_name: str | None, as_json: bool) -> None:
    """Restore a row that was deleted from the sheet.

    KEY is the name of its run as "ledger show" prints it, or the end of the row's key.
    """
    from l3hpc.ledger.sheets.sync import sync as sync_once

    store, sheets = open_sheet(options)
    _, rows = find_rows(store.fold(), (key,), tab_name)
    report = sync_once(store, sheets, restore=rows, say=say)
    if as_json:
        print_json({**vars(report), "key": list(rows[0].key), "tab": rows[0].tab.name})
    else:
        print_report(report)


@click.command(short_help="Repair journals, columns and cells after asking.", epilog=examples(
    "l3hpc ledger repair --dry-run            only show what differs",
    "l3hpc ledger repair                      show it, ask, write",
    "l3hpc ledger repair --journal            damaged journal files only; needs no sheet"))
@sheet_options
@click.option("--journal", "only_journal", is_flag=True,
              help="Repair only the journal files of the workspace.")
@_DRY_RUN
@_YES
@_JSON
def repair(options: Options, only_journal: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Repair journals, columns and cells: show the differences, ask, then write.

    Damaged lines are removed from journal files that are no longer being written; the original file
    is kept in damaged/. Columns of the sheet that were renamed, moved, inserted or deleted are
    restored, and columns that people added are moved to the right of the declared ones. Then cells
    that people edited are overwritten and deleted rows are restored; rows and columns that people
    added are kept.

    With --json, nothing is written unless --yes is given.
    """
    store = open_store(options)[0]
    yes = yes and not dry_run
    asks = not (yes or dry_run or as_json)
    shown: dict[str, Any] = {"journals": _repair_journals(store, yes, asks, as_json)}
    has_sheet = ledger_config(options).sheet is not None
    # without a sheet, repairing the journals alone is a success
    if not only_journal and (has_sheet or not shown["journals"]):
        store, sheets = open_sheet(options)
        shown["columns"], restored = _repair_columns(store, sheets, yes, asks, as_json)
        if restored:
            shown.update(_repair_cells(store, sheets, yes, asks, as_json))
        elif not as_json:
            click.echo("cells are compared once the columns are restored")
    if as_json:
        print_json({**shown, "written": yes})
    elif only_journal and not shown["journals"]:
        click.echo("no journal file is damaged")


def _repair_journals(store: Store, yes: bool, asks: bool, quiet: bool) -> list[dict[str, Any]]:
    """Repair journal files; return what was found, as ``--json`` prints it."""
    from l3hpc.ledger.journal import upkeep

    found = upkeep.find_damaged_files(store.folders)
    for file in found if not quiet else ():
        for number, reason in file.not_understood:
            click.echo(f"{file.path}:{number}: {reason} (the line is kept)")
    for file in found if not quiet else ():
        if not file.lines:
            continue
        click.echo(f"{file.path}: {len(file.lines)} of {file.valid + len(file.lines)} lines damaged"
                   + (" (skipped: it was written within the last hour)" if file.busy else ""))
        for number, beginning in file.lines[:3]:
            click.echo(f"  line {number}: {beginning}…")
    repairable = [file for file in found if file.lines and not file.busy]
    kept = {}
    if repairable and (yes or asks and click.confirm("remove the damaged lines?")):
        kept = {file.path: str(upkeep.repair_file(file)) for file in repairable}
        for path in kept.values() if not quiet else ():
            click.echo(f"original file: {path}")
    return [{"file": str(file.path), "lines": [number for number, _ in file.lines],
             "sound": file.valid, "busy": file.busy, "kept": kept.get(file.path),
             "not_understood": [{"line": number, "why": reason}
                                for number, reason in file.not_understood]}
            for file in found]


def _repair_columns(store: Store, sheets: Sheets, yes: bool, asks: bool, quiet: bool,
                    ) -> tuple[dict[str, list[str]], bool]:
    """Repair columns; return the changes, and whether the columns are now as declared."""
    from l3hpc.ledger.sheets.repair import plan_header_repair, restore_headers

    changes = plan_header_repair(store, sheets)
    described = {name: [change.describe() for change in own] for name, own in changes.items()}
    for name, lines in described.items() if not quiet else ():
        for line in lines:
            click.echo(f"{name}  {line}")
    if changes and (yes or asks and click.confirm("restore the columns?")):
        restore_headers(store, sheets, changes)
        return described, True
    return described, not changes


def _repair_cells(store: Store, sheets: Sheets, yes: bool, asks: bool, quiet: bool,
                  ) -> dict[str, Any]:
    """Repair cells and rows; return the differences, as ``--json`` prints them."""
    from l3hpc.ledger.sheets.repair import plan_repair
    from l3hpc.ledger.sheets.sync import sync as sync_once

    snapshot, plan, deleted = plan_repair(store, sheets)
    cells, rows = _differences(plan, deleted)
    report = None
    if not quiet:
        for cell in cells:
            click.echo(f"{cell['tab']}  {cell['cell']} ({cell['title']}): {cell['sheet']!r} → "
                       f"{cell['journal']!r}")
        for row in rows:
            click.echo(f"{row['tab']}  {row['kind']} row: {one_line(' '.join(row['key']))}")
        print_problems(plan.problems)
        if plan.is_empty:
            click.echo(f"{snapshot.title!r} shows what the journals have")
    if not plan.is_empty and (yes or asks and click.confirm("write these changes?")):
        report = sync_once(store, sheets, policy="ours", restore=deleted, say=say)
        if not quiet:
            print_report(report)
    return {"cells": cells, "rows": rows, "problems": plan.problems,
            "report": vars(report) if report else None}


def _differences(plan: SyncPlan, deleted: list[Row]) -> tuple[list[dict[str, Any]],
                                                              list[dict[str, Any]]]:
    """Return the cells and the rows that a plan writes, as ``--json`` prints them."""
    cells = [{"tab": tab.grid.tab.name, "cell": write.cell_name,
              "title": tab.grid.tab.titles[write.column], "sheet": write.old, "journal": write.new}
             for tab in plan.tabs for write in tab.writes]
    rows = [{"tab": tab.grid.tab.name, "kind": "deleted" if row in deleted else "new",
             "key": list(row.key)} for tab in plan.tabs for row in tab.inserts]
    return cells, rows


@click.command(epilog=examples(
    "l3hpc ledger adopt                       show the rows, ask, adopt them",
    "l3hpc ledger adopt --tab sonyc_ust --yes"))
@sheet_options
@tab_option("Tabs to search. [default: all]")
@_DRY_RUN
@_YES
@_JSON
def adopt(options: Options, tabs: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Adopt rows that people typed or pasted into the sheet."""
    import getpass

    from l3hpc.ledger.schema import TABS, find_tab
    from l3hpc.ledger.sheets.repair import adopt as adopt_rows
    from l3hpc.ledger.sheets.repair import unknown_rows

    store, sheets = open_sheet(options)
    chosen = [find_tab(name) for name in tabs] or list(TABS.values())
    found = unknown_rows(store, sheets, chosen)
    if not as_json:
        for row in found:
            click.echo(f"{row.tab.name}: {one_line(' '.join(row.key))}")
        if not found:
            click.echo("no rows to adopt")
    adopted = bool(found) and not dry_run and (
        yes or not as_json and click.confirm(f"adopt {count_of(len(found), 'row')}?"))
    if adopted:
        adopt_rows(store, found, getpass.getuser())
    if as_json:
        print_json({"rows": [{"tab": row.tab.name, "key": list(row.key)} for row in found],
                    "adopted": adopted})


@click.command(epilog=examples(
    "l3hpc ledger compact --dry-run           only show what would be merged",
    "l3hpc ledger compact"))
@workspace_option
@_DRY_RUN
@_JSON
def compact(options: Options, dry_run: bool, as_json: bool) -> None:
    """Merge the journals of closed runs into one small file. No record is lost.

    A run is closed if its rows are finished or failed and nothing was written for an hour, or if
    nothing was written for thirty days.
    """
    from l3hpc.ledger.journal.upkeep import compact as compact_folder
    from l3hpc.ledger.journal.upkeep import damaged, not_understood

    store = open_store(options)[0]
    fold = store.fold()
    warn_damage(fold)
    reports = {str(folder): compact_folder(folder, dry_run=dry_run, fold=fold)
               for folder in store.folders}
    if as_json:
        print_json({"dry_run": dry_run,
                    "folders": {name: vars(report) for name, report in reports.items()}})
        return
    for name, report in reports.items():
        if report.files or report.kept:
            bundle = f" → {file_size(report.bytes_after)} in {report.bundle}" if report.bundle \
                else ""
            click.echo(f"{name}: {count_of(report.files, 'file')} of "
                       f"{count_of(report.runs, 'closed run')}, "
                       f"{file_size(report.bytes_before)}{bundle}; "
                       f"{count_of(len(report.kept), 'file')} kept")
        for file, reason in report.kept.items():
            if reason in (damaged(), not_understood()):
                say(f"note: {file}: {reason}")
    if not any(report.files for report in reports.values()):
        click.echo("nothing to compact")
    elif dry_run:
        click.echo("nothing was written (--dry-run)")


COMMANDS = (repair, restore, adopt, compact)
