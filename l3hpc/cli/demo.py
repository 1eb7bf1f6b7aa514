"""``l3hpc demo``: the whole pipeline on a synthetic city, and a page of results."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.errors import EXIT_FAILED, EXIT_OK, shell_path
from l3hpc.workspace.states import RunState

if TYPE_CHECKING:
    from l3hpc.demo import DemoResult, DemoSettings
    from l3hpc.report.ledger_rows import LedgerRow

EXAMPLES = """\b
Examples:
  l3hpc demo                       into ./demo, in less than two minutes on two cores
  l3hpc demo --quick -o /tmp/try   a very small city
  l3hpc demo --sensors 6 --fresh   a larger city, from scratch
  l3hpc demo --weights openl3_audio_mel256_env.h5    with a trained teacher
"""
SHOWN_COLUMNS = (  # of the results tables, in the summary that is printed at the end
    "Model Dir", "Output Dir", "Exp. ID", "Approximation mode", "Student Emb Len", "# Epochs",
    "Model Type", "Best Valid Loss", "Best Valid MAE", "Label Mode", "Micro AUPRC",
    "Micro F1 (@0.5)", "Macro AUPRC")


@click.command("demo", epilog=EXAMPLES)
@click.option("-o", "--output", "folder", default="demo", show_default=True, metavar="FOLDER",
              type=click.Path(file_okay=False), help="Folder for all output.")
@click.option("--quick", is_flag=True, help="Use a very small city, just to see every step run.")
@click.option("--sensors", type=click.IntRange(1, 100), help="Number of sensors. [default: 3]")
@click.option("--weights", metavar="FILE",
              help="Use a trained teacher instead of random weights.")
@click.option("--keep/--fresh", default=True, show_default=True,
              help="Reuse the results of an earlier demo in FOLDER, or remove them first.")
@click.option("--open", "open_page", is_flag=True, help="Open the report in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--yes", is_flag=True, help="Start without asking for confirmation.")
def command(folder: str, quick: bool, sensors: int | None, weights: str | None, keep: bool,
            open_page: bool, as_json: bool, yes: bool) -> int:
    """Run the whole pipeline on a synthetic city, on this machine.

    Audio is synthesised and embedded by an L3 network (with random weights, unless you give
    trained ones). The embeddings are sampled and reduced, a small student learns them, and a
    classifier is trained and evaluated on the student's embeddings of tagged clips. Every step
    runs as it would on a cluster. The results are a ledger, a folder of files and a report page.
    """
    from l3hpc import demo
    from l3hpc.cli.planning import confirm
    from l3hpc.console.progress import default_progress
    from l3hpc.pipelines import preview

    path = Path(folder).absolute()
    settings = with_options(demo.QUICK if quick else demo.DemoSettings(), sensors, weights)
    # before the question: what was confirmed must not be refused afterwards
    demo.check_folder(path)
    say = (lambda text: None) if as_json else click.echo
    say(f"l3hpc demo in {path}: about {max(1, round(settings.minutes))} min on two cores; "
        "if interrupted, it continues where it stopped")
    if not (yes or as_json) and sys.stdin.isatty():
        confirm("start?", "nothing was started", default=True)
    if not keep:
        demo.remove_earlier(path)
    config = demo.prepare(path, settings, default_progress())
    planned = demo.make_plan(config, settings)
    say("\n" + preview.as_text(planned) + "\n")
    result = demo.run_plan(planned, path)
    if as_json:
        click.echo(json.dumps(as_json_value(result, path), indent=2))
    else:
        for line in summary(result, path):
            click.echo(line)
    if open_page:
        import webbrowser

        webbrowser.open(result.report.as_uri())
    return EXIT_OK if result.state is RunState.DONE else EXIT_FAILED


def with_options(settings: DemoSettings, sensors: int | None, weights: str | None) -> DemoSettings:
    """Return the settings with the values that were given on the command line."""
    from dataclasses import replace

    if sensors is not None:
        settings = replace(settings, sensors=sensors)
    return settings if weights is None else replace(settings, weights=weights)


def summary(result: DemoResult, folder: Path) -> list[str]:
    """Return what is printed at the end: ledger rows, paths, and the next commands."""
    from l3hpc.ledger.schema import find_tab

    here = shell_path(folder)
    lines = [""]
    # an optional tab repeats the scores of another one
    for row in (one for one in result.data.ledger if not find_tab(one.tab).optional):
        lines += [row.tab, *row_lines(row), ""]
    if result.state is not RunState.DONE:
        lines += [f"{result.plan.run} is not complete ({result.state}). "
                  f"Why:   l3hpc -C {here} status", ""]
    elif not result.data.teacher_trained:
        from l3hpc.report.page import RANDOM_TEACHER

        lines += [RANDOM_TEACHER, ""]
    lines += [f"report    {result.report}", f"results   {result.report.parent}"]
    if (environment := environment_to_activate()) is not None:
        lines.append(f"first     source {shell_path(environment)}")
    return lines + [
        f"next      l3hpc -C {here} status       l3hpc -C {here} ledger show --columns all",
    ]


def environment_to_activate() -> Path | None:
    """Return what puts ``l3hpc`` on the PATH: ``make demo`` runs it from ``.venv``; None if it is.
    """
    script = Path(sys.prefix, "bin", "activate")
    return script if shutil.which("l3hpc") is None and script.is_file() else None


def row_lines(row: LedgerRow) -> list[str]:
    """Return the most important cells of a row, a line each."""
    from l3hpc.console import formatting

    cells = [(title, value) for title, value in row.cells if title in SHOWN_COLUMNS and value]
    return formatting.table_lines(cells)


def as_json_value(result: DemoResult, folder: Path) -> dict[str, object]:
    """Return the result as ``--json`` prints it (schema 1)."""
    data = result.data
    return {
        "schema": 1, "run": result.plan.run, "state": result.state,
        "seconds": round(result.seconds, 1), "folder": str(folder),
        "workspace": str(result.plan.workspace), "results": str(result.report.parent),
        "report": str(result.report), "teacher": data.teacher,
        "teacher_trained": data.teacher_trained,
        "steps": [{"name": step.name, "state": step.state, "tasks": step.tasks,
                   "seconds": step.seconds, "detail": step.detail} for step in data.steps],
        "scores": [{"split": scores.split, "level": scores.level,
                    "micro_auprc": scores.micro_auprc, "micro_f1": scores.micro_f1,
                    "macro_auprc": scores.macro_auprc} for scores in data.scores],
        "ledger": {row.tab: dict(row.cells) for row in data.ledger},
    }
