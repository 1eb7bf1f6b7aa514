"""The ``l3hpc`` command: one module per subcommand, loaded only when that subcommand is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from l3hpc._version import __version__
from l3hpc.errors import EXIT_CODES, EXIT_INTERRUPTED, L3hpcError

COMMANDS = {
    "submit": "Submit a pipeline as a chain of jobs.",
    "render": "Print exactly what would be submitted.",
    "status": "Show where runs stand.",
    "logs": "Show or follow the log of a step.",
    "cancel": "Cancel a run.",
    "resume": "Go on with a run: only what is missing or failed.",
    "run": "Run one step here, without a scheduler.",
    "config": "Show or check the effective configuration.",
    "demo": "Run the whole chain on a generated city.",
    "doctor": "Check this machine, the cluster, data and ledger.",
    "ledger": "Show, export and synchronise the results tables.",
    "data": "Generate a synthetic city, or check a real data set.",
}

EXAMPLES = """\b
Examples:
  l3hpc demo                                                 everything, on generated data
  l3hpc submit upstream --approx pca --asr 8000 --mels 64    a chain of five jobs
  l3hpc status --watch                                       follow it
  l3hpc ledger show                                          the results

\b
Exit codes:
""" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())


class LazyGroup(click.Group):
    """Lists all subcommands without importing them, so that the command starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"l3hpc.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=EXAMPLES,
             context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show Python tracebacks of errors.")
@click.option("-C", "--directory", type=click.Path(exists=True, file_okay=False),
              help="Work as if started in this folder.")
@click.version_option(__version__, prog_name="l3hpc")
def cli(debug: bool, directory: str | None) -> None:
    """Train small audio embeddings on a Slurm cluster, or on this machine.

    Shell completion: eval "$(_L3HPC_COMPLETE=bash_source l3hpc)" (or zsh_source, fish_source).
    """
    if directory:
        import os

        os.chdir(directory)


def show_error(error: L3hpcError) -> None:
    """Print an error for a person, on standard error: what, where, what is allowed, what next."""
    for number, line in enumerate(str(error).splitlines()):
        click.echo(f"error: {line}" if number == 0 else f"       {line}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every ``L3hpcError`` becomes a short message and its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options: dict[str, Any] = {"prog_name": "l3hpc", "standalone_mode": False, "args": words}
    try:
        result = cli(**options)
    except L3hpcError as error:
        if "--debug" in words:
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(result if isinstance(result, int) else 0)
