"""``l3hpc ledger export``: results for other programs and for experiment trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.cli.ledger.common import (
    Options,
    chosen_tabs,
    examples,
    open_store,
    print_json,
    say,
    tab_option,
    warn_damage,
    workspace_option,
)
from l3hpc.errors import InputError, shell_path
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.ledger.journal.fold import Row
    from l3hpc.ledger.schema import Tab
    from l3hpc.ledger.views.trackers import Exported

Tables = dict["Tab", list["Row"]]


@click.command(epilog=examples(
    "l3hpc ledger export                       CSV and XLSX into the workspace",
    "l3hpc ledger export --csv rows.csv --tab sonyc_ust",
    "l3hpc ledger export --html results.html --where 'Approximation mode=pca'",
    "l3hpc ledger export --mlflow sqlite:///runs.db",
    "l3hpc ledger export --mlflow http://localhost:5000 --tab sonyc_ust"))
@workspace_option
@tab_option("Tabs to export. [default: all]")
@click.option("--csv", "csv_path", metavar="FILE", type=click.Path(),
              help="Write one tab as CSV, or several into a folder.")
@click.option("--xlsx", metavar="FILE", type=click.Path(), help="Write all tabs as one workbook.")
@click.option("--html", metavar="FILE", type=click.Path(),
              help="Write a self-contained page: tables, learning curves, comparison.")
@click.option("--mlflow", "mlflow_uri", metavar="URI",
              help="Write runs into MLflow: a folder, sqlite:///FILE or http://HOST:PORT.")
@click.option("--wandb", "wandb_dir", metavar="DIR", type=click.Path(file_okay=False),
              help="Write offline runs for Weights & Biases, without using the network.")
@click.option("--where", "conditions", multiple=True, metavar="'TITLE=VALUE'",
              help="Only rows that match.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(options: Options, tabs: tuple[str, ...], csv_path: str | None, xlsx: str | None,
           html: str | None, mlflow_uri: str | None, wandb_dir: str | None,
           conditions: tuple[str, ...], as_json: bool) -> None:
    """Write results to files or experiment trackers.

    Without options, writes one CSV file per tab (sonyc_ust.csv …) and results.xlsx, a workbook of
    all tabs, into ledger/ of the workspace. A file that is not an earlier export is never replaced.

    A tracker gets one run per row: parameters, swept options, the metrics of every epoch, and links
    to the artifacts. Another export adds what is new. Trackers need the extra mlflow or wandb.
    """
    from l3hpc.ledger.views import exports, mlflow_store, select, wandb_folder
    from l3hpc.ledger.views.runs import view_tabs
    from l3hpc.runs.rows import follow_running

    if html:
        exports.check_html(Path(html))
    uri = None if mlflow_uri is None else mlflow_store.tracking_uri(mlflow_uri)
    folder = Path(wandb_dir) if wandb_dir else None
    # before anything is written
    if uri is not None:
        mlflow_store.require(uri)
    if folder is not None:
        wandb_folder.require(folder)
    store, sheet = open_store(options)
    to_tracker = uri is not None or folder is not None
    found = store.fold(history=html is not None or to_tracker)
    warn_damage(found)
    follow_running(found, store.workspace)
    views = view_tabs(found, store.workspace)
    chosen = [views[tab.name] for tab in chosen_tabs(tabs, found, main_too=True)]
    if not tabs:
        chosen = select.tabs_with_columns(chosen, conditions)
    tables = {tab: select.sort_rows(select.filter_rows(found.rows_of(tab), tab, conditions), tab)
              for tab in chosen}
    if not (csv_path or xlsx or html or to_tracker):
        csv_path, xlsx = str(store.folder), str(store.folder / "results.xlsx")
    csv_files = _csv_files(Path(csv_path), tables) if csv_path else {}
    for path in csv_files.values():
        exports.check_csv(path)
    if xlsx:
        exports.check_xlsx(Path(xlsx))
    written = list(csv_files.values())
    for tab, path in csv_files.items():
        exports.write_csv(path, tables[tab], tab)
    if xlsx:
        written.append(Path(xlsx))
        exports.write_xlsx(written[-1], tables)
    if html:
        written.append(Path(html))
        exports.write_html(written[-1], {tab: select.sort_with_means(rows, tab)
                                         for tab, rows in tables.items()},
                           store.state(sheet) if sheet else None)
    exported = _write_to_trackers(tables, uri, folder)
    if as_json:
        print_json({"files": [str(path) for path in written],
                    "rows": {tab.name: len(rows) for tab, rows in tables.items()},
                    "trackers": {name: {**vars(done), "where": where}
                                 for name, where, done, _ in exported}})
    else:
        _print_written(written, exported)


def _print_written(files: Sequence[Path], exported: Sequence[tuple[str, str, Exported, str]]
                   ) -> None:
    for path in files:
        click.echo(shell_path(path))
    for _, where, done, following in exported:
        click.echo(f"{where}: {count_of(done.new, 'run')} new, {done.updated} updated, "
                   f"{done.unchanged} unchanged")
        for note in done.notes:
            say(f"note: {note}")
        click.echo(following)


def _csv_files(target: Path, tables: Tables) -> dict[Tab, Path]:
    """Return the CSV file of each tab."""
    if target.is_dir() or len(tables) > 1 and target.suffix.lower() != ".csv":
        return {tab: target / f"{tab.name}.csv" for tab in tables}
    # a new workspace has every tab, and most often rows in one
    filled = [tab for tab, rows in tables.items() if rows] or list(tables)[:1]
    if len(filled) > 1:
        raise InputError("a CSV file can hold one tab only", where="--csv",
                         allowed=f"--tab with one of {', '.join(tab.name for tab in filled)}, "
                                 "or a folder")
    return dict.fromkeys(filled, target)


def _write_to_trackers(tables: Tables, uri: str | None, folder: Path | None,
                       ) -> list[tuple[str, str, Exported, str]]:
    """Write runs to trackers; return the name, the place, the numbers and a last line of each."""
    from l3hpc.ledger.views import mlflow_store, wandb_folder
    from l3hpc.ledger.views.trackers import tracked_runs

    done: list[tuple[str, str, Exported, str]] = []
    if uri is None and folder is None:
        return done
    runs = [run for tab, rows in tables.items() for run in tracked_runs(rows, tab)]
    if uri is not None:
        shown = mlflow_store.without_password(uri)
        at = f"open {shown}" if uri.startswith("http") else (
            f"open with   {mlflow_store.view_command(uri)}")
        done.append(("mlflow", shown, mlflow_store.export(uri, runs, say), at))
    if folder is not None:
        pattern = f"{shell_path(folder)}/wandb/offline-run-*"
        done.append(("wandb", str(folder), wandb_folder.export(folder, runs),
                     f"upload with   wandb sync {pattern}"))
    return done


COMMANDS = (export,)
