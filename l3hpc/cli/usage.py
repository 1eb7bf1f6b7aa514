"""``l3hpc usage``: what a run asked for and used, and what to ask for next time."""

from __future__ import annotations

import json

import click

from l3hpc.cli.runs import complete_run, workspace, workspace_options


@click.command(epilog="""\b
Examples:
  l3hpc usage latest
  l3hpc usage upstream-20261120-1a2b --json

A suggestion is written as --set takes it: l3hpc submit upstream --set extract.mem=2GB
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def command(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Show what the steps of RUN asked for and used: cores, memory, time, waiting.

    Used means: mean cores at work, memory of the largest task, time of the longest. Steps whose
    results existed before are left out.
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
