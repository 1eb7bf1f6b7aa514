"""The ``l3hpc`` command: a subcommand's module is loaded only when that subcommand is used."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import sys

import click

from l3hpc._version import __version__
from l3hpc.cli.place import place_option, repeated
from l3hpc.console import terminal
from l3hpc.errors import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    InputError,
    L3hpcError,
    Lines,
    collect_damage,
    command_line,
    nearest,
    path_from_shell,
)
from l3hpc.io.values import one_line

COMMANDS = {
    "submit": "Submit a pipeline as a chain of jobs.",
    "render": "Print exactly what would be submitted.",
    "status": "Show the state of runs.",
    "logs": "Show or follow the log of a step.",
    "usage": "Compare what a run requested with what it used.",
    "report": "Write a page about a run, or compare several.",
    "compare": "Test whether two evaluations differ, on the same clips.",
    "tensorboard": "Open the event files of runs in TensorBoard.",
    "notify": "Send messages about runs: done, failed, requeued.",
    "cancel": "Cancel a run.",
    "resume": "Continue a run: only what is missing or failed.",
    "retry": "Submit failed steps again, and those that depend on them.",
    "runs": "Pack the small files of ended runs, or unpack them.",
    "run": "Run one step on this machine, without a scheduler.",
    "init": "Write a cluster.yaml for this site.",
    "config": "Show or check the effective configuration.",
    "embed": "Embed sound files with any model: npz, HDF5 or CSV.",
    "teacher": "Describe a network of another kind, to use it as a teacher.",
    "demo": "Run the whole pipeline on a synthetic city.",
    "doctor": "Check this machine, the cluster, the data and the ledger.",
    "ledger": "Show, export and synchronise the results tables.",
    "export": "Export a model for a microcontroller and measure it.",
    "data": "Generate a synthetic city, or check a data set.",
}

# commands that share a module with another: command → module and name there
SHARED = {"status": ("runs", "status"), "logs": ("runs", "logs"), "cancel": ("runs", "cancel"),
          "usage": ("runs", "usage"), "retry": ("resume", "retry"),
          "render": ("planning", "render"), "runs": ("pack", "runs")}

LONGEST_LINE = 1500  # characters of a line of a message, but for its hint

EXAMPLES = """\b
Examples:
  l3hpc demo                                                 everything, on synthetic data
  l3hpc submit upstream --approx pca --asr 8000 --mels 64    a chain of five jobs
  l3hpc status --watch                                       follow its progress
  l3hpc ledger show                                          the results

\b
Exit codes:
""" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())


class LazyGroup(click.Group):
    """A group that lists its subcommands without importing them, for a short start-up time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a subcommand and return the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module, name = SHARED.get(cmd_name, (cmd_name, "command"))
        command = getattr(importlib.import_module(f"l3hpc.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; of an unknown one, say which names are similar."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise InputError(f"there is no command {args[0]!r}", allowed=nearest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands, from our own texts instead of the imported ones."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=EXAMPLES,
             context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show Python tracebacks for errors.")
@place_option("-C", "--directory", type=click.Path(exists=True, file_okay=False),
              help="Run as if started in this folder.")
@click.version_option(__version__, prog_name="l3hpc")
def cli(debug: bool, directory: str | None) -> None:
    """Train compact audio embedding models on a Slurm cluster or on this machine.

    Shell completion: eval "$(_L3HPC_COMPLETE=bash_source l3hpc)" (or zsh_source, fish_source).
    """
    if directory:
        os.chdir(directory)


def show_error(error: L3hpcError) -> None:
    """Print an error on standard error: what is wrong and where, what is allowed, what to do.

    Parameters
    ----------
    error
        The error.
    """
    # if standard error is closed, the exit code still shows the failure
    with contextlib.suppress(OSError):
        error = error.replaced(where=_from_shell(error.where))
        # a quoted cell of a damaged table may hold the whole table
        for number, line in enumerate(error.lines(LONGEST_LINE)):
            click.echo(f"error: {line}" if number == 0 else f"       {line}", err=True)


def _from_shell(where: str | None) -> str | None:
    """A path, perhaps with a line, as seen from where the command was typed; anything else as is,
    such as a path that is seen from there already.
    """
    path, colon, rest = (where or "").partition(":")
    if os.path.isabs(path) or not os.path.exists(os.path.dirname(path) or path):
        return where
    return path_from_shell(path) + colon + rest


def _usage(error: click.ClickException) -> L3hpcError:
    """Return click's error about an option or argument in our own form."""
    context = getattr(error, "ctx", None)
    hint = command_line(*context.command_path.split()[1:], "--help") if context else None
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        # click offers --help for --model, and the line below names it anyway
        error = click.NoSuchOption(error.option_name, ctx=error.ctx, possibilities=[
            one for one in error.possibilities if one != "--help"])
    message = error.format_message().rstrip(".").replace("\n", " ")
    allowed = None
    if message.startswith("Missing argument 'RUN"):
        allowed = ("latest, or the name of a run, or its beginning, as listed by "
                   + command_line("status"))
    return InputError(f"{message[:1].lower()}{message[1:]}", allowed=allowed, hint=hint)


def _unexpected(error: Exception) -> L3hpcError:
    """Return an error for a failure of the system (disk full, no permission) or a bug of ours."""
    if isinstance(error, OSError) and error.strerror:
        path = str(error.filename) if error.filename is not None else None
        hint = None
        if path is not None and isinstance(error, PermissionError):
            from l3hpc.io.owners import who_decides

            hint = who_decides(path)
        return L3hpcError(error.strerror[:1].lower() + error.strerror[1:], where=path, hint=hint)
    first, *others = str(error).splitlines() or [""]
    return L3hpcError(f"{type(error).__name__}: {first}".removesuffix(": "), allowed=Lines(*others),
                      hint="This is a bug; please report it with the traceback of   "
                           "l3hpc --debug …")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments
        By default those of the process, whose streams are then set up as well.

    Raises
    ------
    SystemExit
        Always, with the exit code. An ``L3hpcError`` is printed as a short message.
    """
    if arguments is None:
        terminal.restart_in_utf8()
        terminal.install_safe_output()
        # Python would look through all objects twice before it ends: a tenth of most commands.
        atexit.register(gc.freeze)
    with terminal.safe_output():
        out, err = sys.stdout, sys.stderr
        with collect_damage() as damage, repeated(cli):
            code = _run(sys.argv[1:] if arguments is None else arguments)
        with contextlib.suppress(OSError):
            for error in damage:
                message = one_line(f"{error.where}: {error.message}")
                click.echo(f"warning: skipped: {message}", err=True)
        for stream in (out, err):
            try:
                stream.flush()
            except (OSError, ValueError):  # a full disk, or the reader has gone
                terminal.discard_output(stream)
                code = code or EXIT_FAILED
        # the reader (head, less) has closed the pipe
        if getattr(out, "broken", False):
            code = EXIT_INTERRUPTED
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit code; print errors."""
    from l3hpc.console.progress import DELAY_S, LogProgress, reporting

    try:
        with reporting(LogProgress(delay_s=DELAY_S)):
            result = cli(arguments, prog_name="l3hpc", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_OK
    except click.UsageError as error:
        # click 8.2 and later raise this where earlier versions printed the help
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            show_error(_usage(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        known = error if isinstance(error, L3hpcError) else _unexpected(error)
        show_error(known)
        return known.exit_code
    return result if isinstance(result, int) else EXIT_OK
