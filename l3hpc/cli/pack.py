"""``l3hpc runs``: ``pack`` makes one file of the many small ones of a run, ``unpack`` undoes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.place import complete_run, workspace, workspace_options
from l3hpc.console.formatting import file_size
from l3hpc.errors import command_line
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.runs.pack import Outcome


@click.group(epilog="""\b
Examples:
  l3hpc runs pack upstream-20261120-1a2b    one file in place of five for each task
  l3hpc runs unpack upstream-20261120-1a2b  put them back
""")
def runs() -> None:
    """Pack the small files of runs that have ended, and unpack them."""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("run", shell_complete=complete_run),
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        workspace_options,
    ):
        function = option(function)
    return function


@runs.command(epilog="""\b
Examples:
  l3hpc runs pack upstream-20261120-1a2b
  l3hpc runs pack latest --dry-run --json
""")
@_options
def pack(run: str, dry_run: bool, as_json: bool, config_file: str | None,
         workspace_dir: str | None) -> None:
    """Put the logs and markers of RUN into one file.

    Each task leaves five such files. 'status', 'logs', 'usage' and 'report' read them there;
    'resume' unpacks them by itself. A run that is pending or running is refused. Results are not
    touched.
    """
    from l3hpc.runs import pack as packing
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    done = packing.pack(folder, records.find(folder, run), dry_run=dry_run)
    nothing = "is packed already" if os.path.exists(done.archive) else "has nothing to pack"
    _print(done, as_json, "would be packed" if dry_run else "packed", nothing)
    if done.moved and not dry_run and not as_json:
        click.echo(f"to undo it: {command_line('runs', 'unpack', done.run)}", err=True)


@runs.command(epilog="""\b
Examples:
  l3hpc runs unpack latest
""")
@_options
def unpack(run: str, dry_run: bool, as_json: bool, config_file: str | None,
           workspace_dir: str | None) -> None:
    """Put the logs and markers of RUN back.

    Every file is restored byte for byte, and the archive is removed.
    """
    from l3hpc.runs import pack as packing
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    done = packing.unpack(folder, records.find(folder, run), dry_run=dry_run)
    _print(done, as_json, "would be unpacked" if dry_run else "unpacked", "is not packed")


def _print(done: Outcome, as_json: bool, what: str, nothing: str) -> None:
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
    elif not done.moved:
        click.echo(f"{done.run} {nothing}")
    else:
        after = "" if done.bytes_after is None else f" ({file_size(done.bytes_after)})"
        click.echo(f"{done.run}: {count_of(done.moved, 'file')} {what}; "
                   f"{count_of(done.files_before, 'file')} "
                   f"({file_size(done.bytes_before)}) → {done.files_after:,}{after}")
