"""``l3hpc render PIPELINE [STEP]``: exactly the scripts that ``submit`` would submit."""

from __future__ import annotations

from typing import Any

import click

from l3hpc.cli.planning import plan_options

EXAMPLES = """\b
Examples:
  l3hpc render upstream train --mels 64 > train.sbatch
  l3hpc render all --cluster greene
"""


@click.command("render", epilog=EXAMPLES)
@plan_options
@click.argument("step", required=False)
def command(pipeline: str, step: str | None, **values: Any) -> None:
    """Print the scripts of PIPELINE, or the script of one STEP, plain on standard output.

    Takes the options of submit. With STEP the output is byte for byte what runs in the job (the
    dependency is given to sbatch, not in the script). An array above the cluster's limits.array is
    split; STEP then shows its first script.
    """
    from l3hpc.pipelines.from_options import plan_from_options
    from l3hpc.schedulers.scripts import parts, render

    plan, _ = plan_from_options(pipeline, values)
    if step is not None:
        click.echo(render(plan, step), nl=False)
        return
    for planned in plan.steps:
        for number, part in enumerate(parts(plan, planned) if planned.missing else ()):
            click.echo(f"##### {plan.step_folder(planned.name).script(number)}")
            click.echo(render(plan, planned, part))
        if not planned.missing:
            click.echo(f"{planned.name}: done before, nothing to submit", err=True)
