"""The ``l3hpc ledger`` commands that repair: repair, restore, adopt, compact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.ledger.common import (
    Options,
    examples,
    open_store,
    place,
    print_json,
    print_report,
    rows_named,
    say,
    sheet_options,
    sheets_at,
    tab_option,
    warn_damage,
    workspace_option,
)
from l3hpc.io.values import one_line

if TYPE_CHECKING:
    from l3hpc.ledger.journal.fold import Row
    from l3hpc.ledger.sheets.client import Sheets
    from l3hpc.ledger.sheets.diff import SyncPlan
    from l3hpc.ledger.store import Store

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
    """Restore a row that was deleted from the sheet. KEY is the end of the row's key."""
    from l3hpc.ledger.sheets.sync import sync as sync_once

    store, sheets = sheets_at(options)
    _, rows = rows_named(store.fold(), (key,), tab_name)
    report = sync_once(store, sheets, restore=rows, say=say)
    if as_json:
        print_json({**vars(report), "key": list(rows[0].key), "tab": rows[0].tab.name})
    else:
        print_report(report)


@click.command(epilog=examples(
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
    has_sheet = place(options).sheet is not None
    if not only_journal and (has_sheet or not shown["journals"]):
        store, sheets = sheets_at(options)
        shown["columns"], whole = _repair_columns(store, sheets, yes, asks, as_json)
        if whole:
            shown.update(_repair_cells(store, sheets, yes, asks, as_json))
        elif not as_json:
            click.echo("cells are compared when the columns are right")
    if as_json:
        print_json({**shown, "written": yes})
    elif only_journal and not shown["journals"]:
        click.echo("no journal file is damaged")


def _repair_journals(store: Store, yes: bool, asks: bool, quiet: bool) -> list[dict[str, Any]]:
    from l3hpc.ledger.journal import upkeep as journal_repair

    found = journal_repair.find_damaged_files(store.folders)
    for one in found if not quiet else ():
        for number, why in one.odd:
            click.echo(f"{one.path}:{number}: {why} (the line is left as it is)")
    for one in found if not quiet else ():
        if not one.lines:
            continue
        click.echo(f"{one.path}: {len(one.lines)} of {one.sound + len(one.lines)} lines damaged"
                   + (" (written a short while ago: left to its writer)" if one.busy else ""))
        for number, beginning in one.lines[:3]:
            click.echo(f"  line {number}: {beginning}…")
    free = [one for one in found if one.lines and not one.busy]
    kept = {}
    if free and (yes or asks and click.confirm("remove the damaged lines?")):
        kept = {one.path: str(journal_repair.repair_file(one)) for one in free}
        for path in kept.values() if not quiet else ():
            click.echo(f"kept as it was: {path}")
    return [{"file": str(one.path), "lines": [number for number, _ in one.lines],
             "sound": one.sound, "busy": one.busy, "kept": kept.get(one.path),
             "not_understood": [{"line": number, "why": why} for number, why in one.odd]}
            for one in found]


def _repair_columns(store: Store, sheets: Sheets, yes: bool, asks: bool, quiet: bool,
                    ) -> tuple[dict[str, list[str]], bool]:
    """What differs, and whether the columns are right now."""
    from l3hpc.ledger.sheets.repair import plan_header_repair, restore_headers

    changes = plan_header_repair(store, sheets)
    words = {name: [change.describe() for change in made] for name, made in changes.items()}
    for name, lines in words.items() if not quiet else ():
        for line in lines:
            click.echo(f"{name}  {line}")
    if changes and (yes or asks and click.confirm("put the columns back?")):
        restore_headers(store, sheets, changes)
        return words, True
    return words, not changes


def _repair_cells(store: Store, sheets: Sheets, yes: bool, asks: bool, quiet: bool,
                  ) -> dict[str, Any]:
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
        for problem in plan.problems:
            say(f"{problem['kind']}: {problem['tab']}: {problem['text']}")
        if plan.is_empty:
            click.echo(f"{snapshot.title!r} equals the journals")
    if not plan.is_empty and (yes or asks and click.confirm("write this?")):
        report = sync_once(store, sheets, policy="ours", restore=deleted, say=say)
        if not quiet:
            print_report(report)
    return {"cells": cells, "rows": rows, "problems": plan.problems,
            "report": vars(report) if report else None}


def _differences(plan: SyncPlan, deleted: list[Row]) -> tuple[list[dict[str, Any]],
                                                         list[dict[str, Any]]]:
    from l3hpc.ledger.schema import column_letter

    cells = [{"tab": tab.grid.tab.name, "cell": f"{column_letter(write.column)}{write.place + 1}",
              "title": tab.grid.tab.titles[write.column], "sheet": write.old, "journal": write.new}
             for tab in plan.tabs for write in tab.writes]
    rows = [{"tab": tab.grid.tab.name, "kind": "deleted" if row in deleted else "new",
             "key": list(row.key)} for tab in plan.tabs for row in tab.inserts]
    return cells, rows


@click.command(epilog=examples(
    "l3hpc ledger adopt                       shows the rows, asks, takes them",
    "l3hpc ledger adopt --tab sonyc_ust --yes"))
@sheet_options
@tab_option("Tabs to look at [default: all].")
@_DRY_RUN
@_YES
@_JSON
def adopt(options: Options, tabs: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Adopt rows that people typed or pasted into the sheet."""
    import getpass

    from l3hpc.ledger.schema import TABS, find_tab
    from l3hpc.ledger.sheets.repair import adopt as adopt_rows
    from l3hpc.ledger.sheets.repair import unknown_rows

    store, sheets = sheets_at(options)
    chosen = [find_tab(name) for name in tabs] or list(TABS.values())
    found = unknown_rows(store, sheets, chosen)
    if not as_json:
        for row in found:
            click.echo(f"{row.tab.name}: {one_line(' '.join(row.key))}")
        if not found:
            click.echo("no rows of others")
    take = bool(found) and not dry_run and (
        yes or not as_json and click.confirm(f"adopt {len(found)} rows?"))
    if take:
        adopt_rows(store, found, getpass.getuser())
    if as_json:
        print_json({"rows": [{"tab": row.tab.name, "key": list(row.key)} for row in found],
                    "adopted": take})


@click.command(epilog=examples(
    "l3hpc ledger compact --dry-run           what would become one file",
    "l3hpc ledger compact"))
@workspace_option
@_DRY_RUN
@_JSON
def compact(options: Options, dry_run: bool, as_json: bool) -> None:
    """Merge the journals of closed runs into one small file. No record is lost.

    A run is closed if its rows are finished or failed and nothing was written for an hour, or if
    nothing was written for thirty days.
    """
    from l3hpc.ledger.journal.upkeep import DAMAGED, NOT_UNDERSTOOD
    from l3hpc.ledger.journal.upkeep import compact as compact_folder

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
            made = f" → {report.bytes_after / 1e6:.1f} MB in {report.bundle}" if report.bundle \
                else ""
            click.echo(f"{name}: {report.files} files of {report.runs} closed runs, "
                       f"{report.bytes_before / 1e6:.1f} MB{made}; {len(report.kept)} files stay")
        for file, why in report.kept.items():
            if why in (DAMAGED, NOT_UNDERSTOOD):
                say(f"note: {file}: {why}")
    if not any(report.files for report in reports.values()):
        click.echo("nothing to compact")
    elif dry_run:
        click.echo("nothing was written (--dry-run)")


COMMANDS = (repair, restore, adopt, compact)
