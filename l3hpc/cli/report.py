"""``l3hpc report``: a page about a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.cli.runs import complete_run, workspace, workspace_options

if TYPE_CHECKING:
    from l3hpc.report.data import Comparison, ReportData

EXAMPLES = """\b
Examples:
  l3hpc report latest --open
  l3hpc report upstream-20261120-1a2b -o ~/report.html
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("run", default="latest", shell_complete=complete_run)
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False),
              help="Where to write the page. [default: report.html in the run's folder]")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print what the page shows as JSON.")
@workspace_options
def command(run: str, output: str | None, open_page: bool, as_json: bool,
            config_file: str | None, workspace_dir: str | None) -> None:
    """Write a page about RUN (a name, the beginning of one, or 'latest').

    It works for every pipeline, and for runs that failed or have not ended: states and times of
    the steps, what went wrong, the parameters that are not the default, scripts and logs, and the
    results. The page is one file that needs no network.
    """
    from l3hpc.report.run import write
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    path, data = write(folder, records.find(folder, run),
                       None if output is None else Path(output).absolute())
    if as_json:
        click.echo(json.dumps(as_json_value(path, data), indent=2))
    else:
        click.echo(f"{data.run}: {data.state}; report: {path}")
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
                    "macro_auprc": scores.macro_auprc} for scores in data.scores],
        "ledger": [{"tab": row.tab, "cells": dict(row.cells)} for row in data.ledger],
    }


def comparison_value(found: Comparison) -> dict[str, object]:
    """Return a comparison as ``--json`` prints it; ``best`` is a place in ``variants``."""
    return {
        "options": list(found.options), "best": found.best,
        "metrics": [{"name": metric.name, "better": metric.better or None}
                    for metric in found.metrics],
        "variants": [{"label": variant.label, "values": dict(variant.values),
                      "state": variant.state, "result": variant.result,
                      "metrics": dict(variant.metrics)} for variant in found.variants],
    }
