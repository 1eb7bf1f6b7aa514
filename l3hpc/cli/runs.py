"""``l3hpc cancel``, ``l3hpc usage``, and what all commands about runs share.

That is: where the workspace is, and which run and step is meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


def workspace_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--workspace`` and ``--config``, handed on as ``workspace_dir`` and ``config_file``."""
    for option in (
        click.option("--config", "config_file", type=click.Path(dir_okay=False), metavar="FILE",
                     help="Configuration file. [default: cluster.yaml in this folder]"),
        click.option("--workspace", "workspace_dir", type=click.Path(file_okay=False),
                     metavar="DIR", help="Workspace folder. [default: from cluster.yaml]"),
    ):
        function = option(function)
    return function


def workspace(config_file: str | None, workspace_dir: str | None) -> Path:
    """The workspace that the options, cluster.yaml and the environment name."""
    if workspace_dir:
        return Path(workspace_dir).absolute()
    from l3hpc.config import settings

    return settings.load(config_file).workspace


def _known(context: click.Context) -> Path | None:
    from l3hpc.errors import L3hpcError

    try:
        return workspace(context.params.get("config_file"), context.params.get("workspace_dir"))
    except L3hpcError:  # completion stays silent
        return None


def complete_run(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of runs, for the shell."""
    from l3hpc.workspace import records

    folder = _known(context)
    names = [] if folder is None else ["latest", *records.names(folder)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_step(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the steps of the run that was typed before, for the shell."""
    from l3hpc.errors import L3hpcError
    from l3hpc.workspace import records

    folder, run = _known(context), context.params.get("run")
    if folder is None or not run:
        return []
    try:
        record = records.read(folder, records.find(folder, run))
    except L3hpcError:
        return []
    return [CompletionItem(step.name) for step in record.steps if step.name.startswith(incomplete)]


@click.command(epilog="""\b
Examples:
  l3hpc cancel latest
  l3hpc cancel upstream-20261120-1a2b
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print the cancelled job ids as JSON.")
@workspace_options
def cancel(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Cancel all jobs of RUN (a name, the beginning of one, or 'latest').

    Finished results are kept: the next submission of the same pipeline reuses them.
    """
    from l3hpc.runs.cancel import cancel
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    stopped = cancel(folder, name)
    if as_json:
        click.echo(json.dumps({"run": name, "cancelled": stopped}))
    elif stopped:
        click.echo(f"cancelled {name}: {' '.join(stopped)}")
    else:
        click.echo(f"no job of {name} was queued or running")


@click.command(epilog="""\b
Examples:
  l3hpc usage latest
  l3hpc usage upstream-20261120-1a2b --json

Suggestions are in the form that --set accepts: l3hpc submit upstream --set extract.mem=2GB
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def usage(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Compare the cores, memory and time that the steps of RUN requested with what they used.

    'Used' is the mean number of busy cores, the memory of the largest task and the time of the
    longest. The time spent waiting in the queue is shown too. Steps whose results were reused are
    left out.
    """
    from l3hpc.runs import usage
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    found = usage.collect(folder, name)
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": name,
                               "steps": [each.to_json() for each in found]}, indent=2))
        return
    if not found:
        click.echo(f"no task of {name} has finished here yet")
        return
    from l3hpc.runs.usage import table

    click.echo(table(name, found))
