"""``l3hpc report``: a page about a run, or one that compares several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.cli.place import complete_run, workspace, workspace_options
from l3hpc.io.values import count_of, one_line

if TYPE_CHECKING:
    from l3hpc.report.data import ReportData
    from l3hpc.report.results import Comparison, Scores

EXAMPLES = """\b
Examples:
  l3hpc report latest --open
  l3hpc report upstream-20261120-1a2b -o ~/report.html
  l3hpc report upstream-20261120 upstream-20261121 -o compared.html
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_run)
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False),
              help="Where to write the page. [default: report.html in the run's folder; for "
                   "several runs, in this folder]")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print what the page shows as JSON.")
@workspace_options
def command(runs: tuple[str, ...], output: str | None, open_page: bool, as_json: bool,
            config_file: str | None, workspace_dir: str | None) -> None:
    """Write a page about RUN (a name, the beginning of one, or 'latest'), by default the newest.

    It works for every pipeline, and for runs that failed or have not ended: states and times of
    the steps, what went wrong, the combinations of a sweep, the parameters that are not the
    default, scripts and logs, and the results. With several runs, the page compares them: results,
    loss curves, and the parameters that differ. The page is one file that needs no network.
    """
    from l3hpc.report.page import RANDOM_TEACHER
    from l3hpc.report.run import compare, write
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    names = list(dict.fromkeys(records.find(folder, run) for run in runs or ("latest",)))
    target = None if output is None else Path(output).absolute()
    if len(names) == 1:
        path, data = write(folder, names[0], target)
        value, words = as_json_value(path, data), f"{data.run}: {data.state}"
        notes, random = data.notes, [] if data.teacher_trained else [data.run]
    else:
        path = target or Path("report.html").absolute()
        compared = compare(folder, names, path)
        value = {"schema": 1, "report": str(path), "runs": names,
                 "comparison": comparison_value(compared)}
        notes = compared.notes
        random = [variant.label for variant in compared.variants if variant.random_weights]
        words = count_of(len(names), "run")
    for note in notes:
        click.echo(f"note: {one_line(note)}", err=True)
    if random and not as_json:
        click.echo(RANDOM_TEACHER if len(names) == 1 else f"{', '.join(random)}: {RANDOM_TEACHER}")
    click.echo(json.dumps(value, indent=2) if as_json else f"{words}; report: {path}")
    if open_page:
        import webbrowser

        webbrowser.open(path.as_uri())


def as_json_value(path: Path, data: ReportData) -> dict[str, object]:
    """Return a report as ``--json`` prints it (schema 1)."""
    return {
        "schema": 1, "report": str(path), "run": data.run, "state": data.state,
        "next": data.next_command or None,
        "problems": [{"step": one.step, "state": one.state, "detail": one.detail}
                     for one in data.problems],
        "steps": [{"name": step.name, "state": step.state, "tasks": step.tasks,
                   "seconds": step.seconds, "detail": step.detail} for step in data.steps],
        "sweep": None if data.sweep is None else comparison_value(data.sweep),
        "changed": [{"step": one.step, "parameter": one.name, "value": one.value,
                     "default": one.default} for one in data.changed],
        "scores": [{"split": scores.split, "level": scores.level,
                    "micro_auprc": scores.micro_auprc, "micro_f1": scores.micro_f1,
                    "macro_auprc": scores.macro_auprc, "seeds": scores.seeds,
                    "spread": dict(scores.spread), "detection": detection_value(scores)}
                   for scores in data.scores],
        "ledger": [{"tab": row.tab, "cells": dict(row.cells)} for row in data.ledger],
        "notes": list(data.notes),
    }


def detection_value(scores: Scores) -> dict[str, float | None] | None:
    """Return F1 at the thresholds of the tags, and the calibration; None without them."""
    found = scores.detection
    if found is None:
        return None
    calibration = found.calibration
    return {"micro_f1": found.micro_f1, "macro_f1": found.macro_f1,
            "brier": None if calibration is None else calibration.brier,
            "calibration_error": None if calibration is None else calibration.error}


def comparison_value(found: Comparison) -> dict[str, object]:
    """Return a comparison as ``--json`` prints it; ``best`` is a place in ``variants``."""
    return {
        "options": list(found.options), "best": found.best,
        "metrics": [{"name": metric.name, "better": metric.better or None}
                    for metric in found.metrics],
        "variants": [{"label": variant.label, "values": dict(variant.values),
                      "state": variant.state, "result": variant.result,
                      "random_weights": variant.random_weights,
                      "metrics": dict(variant.metrics)} for variant in found.variants],
    }
