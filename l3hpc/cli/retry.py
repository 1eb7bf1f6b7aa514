"""``l3hpc retry``: submit the failed tasks of named steps again, and the steps that need them."""

from __future__ import annotations

import click

from l3hpc.cli.resume import go_on
from l3hpc.cli.runs import complete_run, complete_step, workspace_options


@click.command(epilog="""\b
Examples:
  l3hpc retry latest train
  l3hpc retry latest classify --set classify.mem=160GB
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("steps", nargs=-1, required=True, metavar="STEP...", shell_complete=complete_step)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Override cpus, mem, gpus or time of a step.")
@click.option("--detach", is_flag=True, help="On local: return at once and run in the background.")
@click.option("--dry-run", is_flag=True, help="Only show what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was submitted as JSON.")
@workspace_options
def command(
    run: str, steps: tuple[str, ...], sets: tuple[str, ...], detach: bool, dry_run: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit the failed tasks of STEP in RUN again, and the steps that depend on it.

    Other failed steps stay as they are; 'resume' submits all of them. Finished tasks are kept:
    to recompute them, use 'resume --from STEP'.
    """
    return go_on(run, steps, sets, None, True, detach, dry_run, as_json, config_file,
                 workspace_dir)
