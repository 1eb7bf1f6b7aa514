"""``l3hpc cancel``: stop a run."""

from __future__ import annotations

import json

import click

from l3hpc.cli.runs import complete_run, workspace, workspace_options


@click.command(epilog="""\b
Examples:
  l3hpc cancel latest
  l3hpc cancel upstream-20261120-1a2b
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print the cancelled job ids as JSON.")
@workspace_options
def command(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Cancel the whole chain of RUN (a name, the beginning of one, or 'latest').

    Finished results are kept: the next submission of the same pipeline uses them.
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
