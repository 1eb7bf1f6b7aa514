"""The options that say where things are, and completion of the names that are found there.

A message may name the next command (``errors.command_line``). That command repeats these options:
without them it would look for the run, the configuration or the sheet somewhere else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from l3hpc.errors import InputError, completed_commands

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])

_given: dict[str, str] = {}  # of this process's command: option → value


# --- options that are repeated --------------------------------------------------------------------

def place_option(*declarations: str, **attributes: Any) -> Callable[[Command], Command]:
    """Declare an option that says where things are; the commands that messages name repeat it.

    Parameters
    ----------
    declarations, attributes
        As for ``click.option``. The first declaration is the form that is repeated.
    """
    return click.option(*declarations, callback=remember, **attributes)


def config_option(name: str = "config_file") -> Callable[[Command], Command]:
    """Declare ``--config``.

    Parameters
    ----------
    name
        Of the argument with its value.
    """
    return place_option("--config", name, type=click.Path(dir_okay=False), metavar="FILE",
                        help="Configuration file. [default: cluster.yaml in this folder, "
                             "or else the installation's]")


def workspace_option(name: str = "workspace_dir") -> Callable[[Command], Command]:
    """Declare ``--workspace``.

    Parameters
    ----------
    name
        Of the argument with its value.
    """
    return place_option("--workspace", name, type=click.Path(file_okay=False), metavar="DIR",
                        help="Workspace folder. [default: from cluster.yaml]")


def workspace_options(function: Command) -> Command:
    """Add ``--workspace`` and ``--config``, passed as ``workspace_dir`` and ``config_file``."""
    return workspace_option()(config_option()(function))


def remember(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep the value of an option, so that commands of messages repeat it; return the value."""
    if value and not context.resilient_parsing:
        _given[parameter.opts[0]] = str(value)
    return value


@contextlib.contextmanager
def repeated(root: click.Group) -> Iterator[None]:
    """Repeat the options of the command that runs in this block in those that messages name.

    Parameters
    ----------
    root
        The group with all commands, which tells what options they have.
    """
    _given.clear()
    with completed_commands(lambda words: _with_options(root, words)):
        yield


def _with_options(root: click.Group, words: Sequence[str]) -> Sequence[str]:
    """Add to a command the remembered options that it has and that are not among its words."""
    if not _given:
        return words
    command: click.Command = root
    context = click.Context(root)
    for word in words:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command = found
    # what only asks for help is the same everywhere, but for the pipelines of a folder
    known = {parameter.opts[0] for parameter in command.params
             if parameter.callback is remember and "--help" not in words}
    options = [each for name, value in _given.items() if name in known and name not in words
               for each in (name, value)]
    folder = ["-C", _given["-C"]] if "-C" in _given else []
    end = words.index("--") if "--" in words else len(words)
    return [*folder, *words[:end], *options, *words[end:]]


# --- the workspace --------------------------------------------------------------------------------

def workspace(config_file: str | None, workspace_dir: str | None) -> Path:
    """The workspace that the options, cluster.yaml and the environment name."""
    if workspace_dir is not None:
        if not workspace_dir:
            raise InputError("--workspace: the path is empty")
        return Path(os.path.abspath(workspace_dir))
    from l3hpc.config import settings

    return settings.load(config_file).workspace


def _completed_workspace(context: click.Context) -> Path | None:
    """Return the workspace for completion; None if the configuration is wrong."""
    from l3hpc.errors import L3hpcError

    try:
        # submit and render have it among their paths
        folder = context.params.get("workspace_dir") or context.params.get("workspace")
        return workspace(context.params.get("config_file"), folder)
    except L3hpcError:  # a message would break into the line that is being typed
        return None


def complete_run(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of runs."""
    from click.shell_completion import CompletionItem

    from l3hpc.workspace import run_names

    folder = _completed_workspace(context)
    names = [] if folder is None else ["latest", *run_names.names(folder)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_run_or_path(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of runs, and of files."""
    from click.shell_completion import CompletionItem

    return [*complete_run(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


def complete_step(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of the steps of the run that was typed before."""
    from click.shell_completion import CompletionItem

    from l3hpc.errors import L3hpcError
    from l3hpc.workspace import records

    folder, run = _completed_workspace(context), context.params.get("run")
    if folder is None or not run:
        return []
    try:
        record = records.read(folder, records.find(folder, run))
    except L3hpcError:
        return []
    return [CompletionItem(step.name) for step in record.steps if step.name.startswith(incomplete)]
