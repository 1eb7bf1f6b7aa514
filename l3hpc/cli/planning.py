"""``l3hpc render``, and the options of a plan, which it shares with ``submit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from l3hpc.errors import InputError
from l3hpc.pipelines.options import COMPRESS, DOWNSTREAM, FOLDS, UPSTREAM, Option

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile

Command = TypeVar("Command", bound=Callable[..., Any])
_PATHS = {
    "--workspace": "Folder for runs, artifacts and journals.",
    "--audio-dir": "Folder of audio: WAV, FLAC, OGG or HDF5.",
    "--embedding-dir": "Folder of published embeddings, for --from.",
    "--weights": "The teacher: a weight file, or 'untrained' (demonstration only).",
    "--sonyc-ust": "Folder of SONYC-UST: annotations.csv, taxonomy, audio/.",
    "--us8k": "Folder of UrbanSound8K: metadata/UrbanSound8K.csv, audio/fold1/ …",
    "--esc50": "Folder of ESC-50: meta/esc50.csv, audio/.",
}


def plan_options(command: Command) -> Command:
    """Add the argument PIPELINE and all options of a plan to a command."""
    options = [
        *(_click(option) for option in (*UPSTREAM, *DOWNSTREAM, *FOLDS, *COMPRESS)),
        *(click.option(name, metavar="PATH", help=f"{text} [default: that of cluster.yaml]")
          for name, text in _PATHS.items()),
        click.option("--embedding-valid-dir", metavar="PATH",
                     help="The validate/ folder, if --embedding-dir is a train/ folder."),
        click.option("--from", "start", metavar="STEP",
                     help="Start at this step; its inputs come from other runs or folders."),
        click.option("--input", "inputs", metavar="STEP=PATH|RUN", multiple=True,
                     help="Folder or run to use as the output of a step. Repeatable."),
        click.option("--student", metavar="RUN|FILE", help=(
            "Student for downstream, us8k and esc50: a run, a weight file or 'latest'. "
            "[default: latest]")),
        click.option("--set", "sets", metavar="STEP.NAME=VALUE", multiple=True, help=(
            "Set any parameter of a step, or its cpus, mem (16GB), gpus or time (4h). "
            "Repeatable.")),
        click.option("--grid", "grid", metavar="OPTION=VALUE,VALUE", multiple=True, help=(
            "Run all combinations of these values in one run; STEP.NAME=… for any parameter. "
            "Repeatable.")),
        click.option("--name", help="Prefix of the run's name. [default: name of the pipeline]"),
        click.option("--cluster", metavar="NAME", shell_complete=complete_cluster,
                     help="Cluster profile. [default: that of cluster.yaml, or local]"),
        click.option("--config", "config_file", metavar="FILE",
                     help="Configuration file. [default: cluster.yaml in this folder]"),
    ]
    # decorators apply from the last to the first, and the help lists options in that order
    for option in reversed(options):
        command = option(command)
    return click.argument("pipeline", shell_complete=_complete)(command)


def note_unused(profile: ClusterProfile) -> None:
    """Print a note about variables of the environment that have no effect.

    Parameters
    ----------
    profile
        The cluster profile; only Slurm has such variables.
    """
    import os

    from l3hpc.config.capabilities import SLURM
    from l3hpc.schedulers.slurm.commands import ignored_variables

    note = ignored_variables(os.environ) if profile.executor == SLURM else ""
    if note:
        click.echo(f"note: {note}", err=True)


def _click(option: Option) -> Callable[[Command], Command]:
    """Return an option of a pipeline as an option of a command."""
    kinds: dict[str, Any] = {"int": click.INT, "float": click.FLOAT}
    kind = click.Choice(option.choices) if option.choices else kinds.get(option.kind, click.STRING)
    return click.option(f"--{option.name}", type=kind,
                        help=f"{option.help} [default: {option.default}]")


def complete_cluster(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of cluster profiles."""
    from l3hpc.config import settings as config

    try:
        names = config.load(context.params.get("config_file")).clusters
    except InputError:  # a message would break into the line that is being typed
        return []
    return [name for name in names if name.startswith(incomplete)]


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of pipelines."""
    from l3hpc.config import sources

    return [name for name in sources.pipelines() if name.startswith(incomplete)]


RENDER_EXAMPLES = """\b
Examples:
  l3hpc render upstream train --mels 64 > train.sbatch
  l3hpc render all --cluster greene
"""


@click.command("render", epilog=RENDER_EXAMPLES)
@plan_options
@click.argument("step", required=False)
def render(pipeline: str, step: str | None, **values: Any) -> None:
    """Print the scripts of PIPELINE, or the script of one STEP, on standard output.

    Takes the options of submit. With STEP, the output is byte for byte what runs in the job
    (dependencies are passed to sbatch and are not in the script). An array larger than the
    cluster's limits.array is split; with STEP, its first script is shown.
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
