"""The ``l3hpc ledger`` commands that show results: show, diff, status."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.ledger.common import (
    Options,
    chosen_tabs,
    examples,
    find_rows,
    json_option,
    open_store,
    print_json,
    say,
    tab_option,
    warn_damage,
    workspace_option,
)
from l3hpc.errors import InputError, command_line
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.ledger.journal.fold import Row
    from l3hpc.ledger.schema import Tab
    from l3hpc.ledger.store import SyncState


@click.command(short_help="Show results, the best row first (★).", epilog=examples(
    "l3hpc ledger show                        best row first, differing columns only",
    "l3hpc ledger show --tab sonyc_ust --where 'Label Mode=coarse' --sort 'Micro AUPRC'",
    "l3hpc ledger show --where emb-dim=64      an option of a sweep",
    "l3hpc ledger show --json --columns all"))
@workspace_option
@tab_option("Tab to show. [default: all that have rows]")
@click.option("--where", "conditions", multiple=True, metavar="'TITLE=VALUE'",
              help="Only rows that match; also != < <= > >=. Repeatable.")
@click.option("--sort", metavar="TITLE", help="Sort by this column (-TITLE: descending).")
@click.option("--columns", type=click.Choice(["differing", "all"]), default="differing",
              show_default=True, help=(
    "Which columns to show; of a single row, differing leaves out folders and empty ones."))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every column, note and state.")
def show(options: Options, tabs: tuple[str, ...], conditions: tuple[str, ...],
         sort: str | None, columns: str, as_json: bool) -> None:
    """Show results: best rows marked (★), and only the columns that differ.

    A row has the name of its run, with the step if the run has several rows. Options that a sweep
    varied (submit --grid) are columns too, named like the option, also for --where and --sort. The
    folds of a cross-validation, and several seeds, follow their mean (± standard deviation), which
    is in no sheet; a single fold or seed is never the best row. Losses are compared only between
    students of the same target and length, so each target has its own best row.
    """
    from l3hpc.ledger.schema import TABS
    from l3hpc.ledger.views import folds, select
    from l3hpc.ledger.views.runs import swept_columns, view_tabs
    from l3hpc.runs.rows import follow_running

    store, sheet = open_store(options)
    found = store.fold(history=as_json)
    warn_damage(found)
    follow_running(found, store.workspace)
    state = store.state(sheet) if sheet else None
    output = []
    views = view_tabs(found, store.workspace)
    chosen = [views[tab.name] for tab in chosen_tabs(tabs, found)]
    # a condition about one tab leaves out the others, unless they were named
    if not tabs:
        chosen = select.tabs_with_columns(chosen, conditions, sort)
    for number, tab in enumerate(chosen):
        every = found.rows_of(tab)
        chosen_rows = select.filter_rows(every, tab, conditions)
        if as_json:
            rows = select.sort_rows(chosen_rows, tab, sort)
            means = [row for row in select.sort_with_means(chosen_rows, tab, sort)
                     if folds.is_mean(row)]
            best = {id(row) for row in select.best_rows([*rows, *means], tab)}
            output.append({"tab": tab.name, "columns": TABS[tab.name].titles,
                           "swept": [column.title for column in swept_columns(tab)],
                           "rows": [_as_json(row, tab, id(row) in best, state) for row in rows],
                           "means": [_mean_as_json(row, tab, id(row) in best) for row in means]})
        else:
            if number:
                click.echo()
            _print_table(tab, select.sort_with_means(chosen_rows, tab, sort), len(every),
                         columns == "all", state)
    if as_json:
        print_json(output)
    elif not found.rows:
        click.echo(f"no results in {store.journal} yet: {command_line('demo')}, or "
                   + command_line("submit", "upstream"))


@click.command(short_help="Compare runs side by side.", epilog=examples(
    "l3hpc ledger diff 1a2b 77c0               what differs; numbers with their difference",
    "l3hpc ledger diff 1a2b 77c0 93aa --columns all"))
@click.argument("keys", nargs=-1, required=True, metavar="KEY KEY…")
@workspace_option
@tab_option("Tab of the rows. [default: found by key]", multiple=False)
@click.option("--columns", type=click.Choice(["differing", "all"]), default="differing",
              show_default=True, help="Which columns to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(keys: tuple[str, ...], options: Options, tab_name: str | None, columns: str,
         as_json: bool) -> None:
    """Compare runs side by side; numbers show their difference from the first run.

    KEY is the name of a run as "ledger show" prints it, or the end or beginning of one; or the end
    of a row's key: its model folder, or its output folder and experiment.
    """
    from l3hpc.ledger.views import as_text, select
    from l3hpc.ledger.views.runs import view_tabs
    from l3hpc.runs.rows import follow_running

    if len(keys) < 2:
        raise InputError("ledger diff needs two keys or more",
                         hint=f"{command_line('ledger', 'show')}   lists them")
    store = open_store(options)[0]
    found = store.fold(history=as_json)
    warn_damage(found)
    follow_running(found, store.workspace)
    views = view_tabs(found, store.workspace)
    declared, rows = find_rows(found, keys, tab_name)
    tab = views[declared.name]
    if as_json:
        print_json({
            "tab": tab.name,
            "differing": [column.title for column in select.differing_columns(rows, tab)],
            "rows": [_as_json(row, tab, False, None) for row in rows]})
        return
    for line in as_text.side_by_side(rows, tab, columns == "all"):
        click.echo(line)
    # the columns of the sheet are fixed; parameters that came later have none
    runs = list(dict.fromkeys(str(row.extra["run"]) for row in rows if row.extra.get("run")))
    if len(runs) > 1:
        say(f"to compare parameters that have no column:   {command_line('report', *runs)}")


@click.command(short_help="Show rows not yet in the sheet, and conflicts.", epilog=examples(
    "l3hpc ledger status",
    "l3hpc ledger status --json"))
@workspace_option
@json_option
def status(options: Options, as_json: bool) -> None:
    """Show rows not yet in the sheet, the last sync, conflicts and damaged journals."""
    from l3hpc.console.formatting import age
    from l3hpc.ledger import store as stores
    from l3hpc.ledger.journal.reading import journal_files

    store, sheet = open_store(options)
    found = store.fold()
    state = store.state(sheet) if sheet else None
    waiting = stores.waiting_rows(found.rows.values(), state) if state else []
    oldest = min((state.waiting_since(row) for row in waiting), default=None) if state else None
    facts: dict[str, Any] = {
        "journal": str(store.journal), "files": len(journal_files(store.folders)),
        "records": found.records,
        "rows": {tab.name: len(found.rows_of(tab)) for tab in chosen_tabs((), found)},
        "damaged_lines": found.torn, "unreadable_files": found.unreadable,
        "not_understood": {path: [{"line": number, "why": reason} for number, reason in records]
                           for path, records in found.not_understood.items()},
        "newer_records": found.newer, "records_without_row": found.unplaced,
        "sheet": sheet, "last_sync": state.last_sync or None if state else None,
        "waiting_rows": len(waiting), "oldest_waiting": oldest,
        "waiting_records": sum(map(state.waiting_records, waiting)) if state else 0,
        "problems": state.problems if state else [],
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"journal   {store.journal}: {count_of(facts['records'], 'record')} in "
               f"{count_of(facts['files'], 'file')}")
    for name, count in facts["rows"].items():
        click.echo(f"rows      {name}: {count}")
    warn_damage(found)
    if state is None:
        click.echo("sheet     none; set ledger.sheet_id in cluster.yaml, GSHEET_ID or --sheet")
        return
    last = age(state.last_sync) if state.last_sync else "never"
    oldest_text = f", the oldest {age(oldest)}" if oldest else ""
    click.echo(f"sheet     {sheet}: last sync {last}, {count_of(len(waiting), 'row')} waiting "
               f"({count_of(facts['waiting_records'], 'record')}){oldest_text}")
    for problem in state.problems:
        click.echo(f"{problem['kind']:<9} {problem['tab']}: {problem['text']}")


def _print_table(tab: Tab, shown: list[Row], every: int, everything: bool,
                 state: SyncState | None) -> None:
    """Print rows of a tab and the means among them; there are ``every`` rows in all."""
    from l3hpc.ledger.views import as_text, folds, select
    from l3hpc.ledger.views.runs import BOUND, RUN, is_swept

    rows = [row for row in shown if not folds.is_mean(row)]
    columns = list(tab.columns)
    if not everything:
        # the rank is shown even if all rows have the same; the name stands for the key
        fields = {tab.rank, BOUND.field}
        fields |= {column.field for column in select.differing_columns(rows, tab)}
        columns = [column for column in columns
                   if column.field in fields and column.field not in tab.key]
    columns.sort(key=lambda column: not is_swept(column))
    if BOUND in columns:
        columns.remove(BOUND)
        columns.insert(columns.index(tab.column(tab.rank)) + 1, BOUND)
    columns.insert(0, RUN)
    of = f"{len(rows)} of {every} rows" if len(rows) != every else (
        f"{count_of(every, 'row')}")
    head = f"{tab.name}: {of}"
    if len(rows) > 1 and not everything:
        head += f", {len(columns)} of {len(tab.columns) + 1} columns shown (all: --columns all)"
    if len(rows) == 1 and (name := rows[0].values.get(RUN.field)):
        head += f", {name}"
    click.echo(f"{head}{_sync_text(rows, state)}")
    if len(rows) == 1:
        lines, left_out = as_text.row_lines(rows[0], tab, everything)
        for line in lines:
            click.echo(line)
        if left_out:
            click.echo(f"  and {left_out} more (folders, empty ones, the origin): --columns all")
        return
    if not rows:
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines, left_out = as_text.table_lines(shown, tab, columns, None if everything else width)
    for line in lines:
        click.echo(line)
    if any(line.startswith(as_text.STAR) for line in lines):
        click.echo(f"  {as_text.STAR} the best of the rows that can be compared")
    if left_out:
        differ = count_of(left_out, "more column differs", "more columns differ")
        click.echo(f"  {differ}; to see them, use a wider terminal, --columns all or --json")


def _sync_text(rows: list[Row], state: SyncState | None) -> str:
    """Return when the sheet was last synced, and how many rows wait; empty without a sheet."""
    from l3hpc.console.formatting import age
    from l3hpc.ledger.store import waiting_rows

    if state is None:
        return ""
    last = f"synced {age(state.last_sync)}" if state.last_sync else "never synced"
    return f"    {last}, {len(waiting_rows(rows, state))} waiting"


def _mean_as_json(row: Row, tab: Tab, best: bool) -> dict[str, Any]:
    """Return the mean over folds or seeds as ``--json`` prints it."""
    from l3hpc.ledger.views import folds, select
    from l3hpc.ledger.views.runs import RUN

    measured = folds.measured(tab)
    return {"name": row.values.get(RUN.field), "best": best,
            **{name: row.extra[name] for name in (folds.FOLDS, folds.SEEDS) if name in row.extra},
            "mean": {column.title: select.cell_of(row, column) for column in measured},
            "standard_deviation": {column.title: folds.deviation_of(row, column)
                                   for column in measured}}


def _as_json(row: Row, tab: Tab, best: bool, state: SyncState | None) -> dict[str, Any]:
    """Return a row as ``--json`` prints it."""
    from l3hpc.ledger.views import select
    from l3hpc.ledger.views.runs import BOUND, RUN, swept_columns

    return {
        "key": list(row.key), "name": row.values.get(RUN.field), "best": best,
        "state": select.row_state(row) or None, "note": row.extra.get("note"),
        "bound": row.values.get(BOUND.field),
        "values": {column.title: select.cell_of(row, column) for column in row.tab.columns},
        "swept": {column.title: value for column in swept_columns(tab)
                  if (value := select.cell_of(row, column)) is not None},
        "beside": row.extra, "origin": row.origin, "restart": row.restart,
        "first_time": row.first_time, "last_time": row.last_time,
        "epochs": {str(epoch): row.epochs[epoch] for epoch in sorted(row.epochs)},
        "synced": state.is_confirmed(row) if state else None,
    }


COMMANDS = (show, diff, status)
