"""``l3hpc init``: write a cluster.yaml for this site."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l3hpc.errors import EXIT_OK, InputError, command_line, shell_path, shell_word
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.setup.choices import Choice
    from l3hpc.setup.survey import Survey

EXAMPLES = """\b
Examples:
  l3hpc init                          on a login node: a profile for its cluster
  l3hpc init --dry-run                only print the file
  l3hpc init --partition short --account pr_42
  l3hpc init --local                  a profile for this machine alone
  l3hpc doctor                        afterwards: does everything work?
"""


@click.command("init", epilog=EXAMPLES)
@click.option("-o", "--output", "path", default="cluster.yaml", show_default=True, metavar="FILE",
              type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--name", metavar="NAME", help="Name of the profile. [default: the cluster's]")
@click.option("--partition", metavar="NAME",
              help="Partition of most jobs. [default: the site's default]")
@click.option("--account", metavar="NAME",
              help="Account of the jobs. [default: your default account]")
@click.option("--local", is_flag=True, help="Do not ask Slurm: a profile for this machine.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--dry-run", is_flag=True, help="Print the file; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(path: Path, name: str | None, partition: str | None, account: str | None, local: bool,
            force: bool, dry_run: bool, as_json: bool) -> int:
    """Write a cluster.yaml for this site.

    Asks Slurm for partitions, time limits, GPUs, accounts, QOS and the size of arrays, probes with
    'sbatch --test-only' how jobs must request memory and GPUs, and looks for modules and
    containers.
    Steps that ask for more than the partitions have get settings that fit. Nothing is submitted.
    Without Slurm, the profile is for this machine.
    """
    from l3hpc.schedulers.slurm import site
    from l3hpc.setup import choices, cluster_file, survey

    if not dry_run:
        cluster_file.check_target(path, force)
    found = survey.look(local, account or "")
    if found.site is None:
        _refuse_slurm_options(local, name=name, partition=partition, account=account)
    choice = None if found.site is None else choices.choose(
        found.site, site.refusal, name=name, partition=partition, account=account)
    content = cluster_file.text(found, choice)
    if not dry_run:
        cluster_file.write(path, content, force)
    if as_json:
        click.echo(json.dumps({
            "schema": 1, "file": str(path.absolute()), "written": not dry_run,
            "profile": choice.name if choice else "local", "found": asdict(found),
            "chosen": asdict(choice) if choice else None, "text": content}, indent=2))
    elif dry_run:
        click.echo(content, nl=False)
    else:
        _say(found, choice, path)
    return EXIT_OK


def _refuse_slurm_options(local: bool, **given: str | None) -> None:
    for option, value in given.items():
        if value is not None:
            why = "with --local" if local else "without Slurm (sinfo is not installed here)"
            raise InputError(f"--{option} {shell_word(value)} has no effect {why}",
                             hint="the profile of this machine is called local")


def _say(found: Survey, choice: Choice | None, path: Path) -> None:
    """What was chosen, and what is next."""
    from l3hpc.config.units import format_memory
    from l3hpc.console.formatting import table_lines
    from l3hpc.setup.cluster_file import loadable

    if found.site is None or choice is None:
        rows = [("machine", f"{count_of(found.cpus, 'core')}, "
                             f"{format_memory(found.mem_mb)}; no Slurm")]
    else:
        site, main = found.site, found.site.partitions[choice.partition]
        more = len(site.partitions) - 1
        steps = [f"{kind} ({', '.join(f'{key} {value}' for key, value in own.items())})"
                 for kind, own in choice.steps.items()]
        rows = [("cluster", f"{site.cluster}, {site.version}"),
                ("account", choice.account or "none"),
                ("partition", f"{main.name}: {main.words}" + (f"; {more} more" if more else "")),
                ("GPUs", f"{choice.gpu_request} {choice.gpu_type}".rstrip()),
                ("limits", ", ".join(f"{key} {value}" for key, value in choice.limits.items())),
                ("steps", ", ".join(steps) or "all fit as they are"),
                ("modules", ", ".join(loadable(found.loaded_modules)) or "none loaded"),
                *(("look at", note) for note in choice.notes)]
    for line in table_lines(rows, indent=""):
        click.echo(line)
    default = path.absolute() == Path("cluster.yaml").absolute()
    click.echo(f"\nwrote {shell_path(path)}\nnext: "
               + (command_line("doctor") if default else command_line("doctor", "--config", path)))
