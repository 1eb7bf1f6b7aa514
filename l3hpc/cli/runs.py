"""What the commands about runs share: where the workspace is, which run and step is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


def workspace_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--workspace`` and ``--config``, handed on as ``workspace_dir`` and ``config_file``."""
    for option in (
        click.option("--config", "config_file", type=click.Path(dir_okay=False), metavar="FILE",
                     help="Another cluster.yaml than that of this folder."),
        click.option("--workspace", "workspace_dir", type=click.Path(file_okay=False),
                     metavar="DIR", help="Another workspace than cluster.yaml names."),
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
