"""``l3hpc tensorboard``: the curves of runs in TensorBoard."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import click

from l3hpc.cli.place import complete_run, workspace, workspace_options
from l3hpc.errors import InputError, command_line
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.workspace.run_record import RunRecord

EXAMPLES = """\b
Examples:
  l3hpc tensorboard latest
  l3hpc tensorboard upstream-20261120-1a2b upstream-20261121-93aa --port 6007
  l3hpc tensorboard latest --path
"""


@click.command("tensorboard", epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", shell_complete=complete_run)
@click.option("--port", type=click.IntRange(1, 65535), default=6006, show_default=True,
              help="Port on this machine.")
@click.option("--path", "only_path", is_flag=True,
              help="Print the folders with event files; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON; start nothing.")
@workspace_options
def command(runs: tuple[str, ...], port: int, only_path: bool, as_json: bool,
            config_file: str | None, workspace_dir: str | None) -> int:
    """Open the event files of each RUN (a name, the beginning of one, or 'latest') in TensorBoard.

    The steps of several runs, and those of a sweep, are shown in one page under their names, also
    while they are running. Ctrl-C ends TensorBoard. A training writes event files if its parameter
    'tensorboard' is set, for example with: l3hpc submit upstream --set train.tensorboard=true
    """
    from l3hpc.runs import tensorboard
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    names = dict.fromkeys(records.find(folder, run) for run in runs)
    chosen = [records.read(folder, name) for name in names]
    found = tensorboard.event_folders(chosen)
    if as_json:
        click.echo(json.dumps({"schema": 1, "folders": {
            name: str(path) for name, path in found.items()}}, indent=2))
        return 0
    if not found:
        raise InputError(f"no step of {', '.join(names)} has written event files",
                         hint=_hint(chosen))
    if only_path:
        for path in found.values():
            click.echo(path)
        return 0
    click.echo(f"{count_of(len(found), 'folder')} with event files; from another machine, first:   "
               f"ssh -L {port}:localhost:{port} {socket.gethostname()}", err=True)
    return tensorboard.serve(found, port)


def _hint(runs: list[RunRecord]) -> str:
    """Return how to get event files, and where the curves are without them."""
    from l3hpc.steps import step

    options = []
    for entry in (entry for run in runs for entry in run.steps):
        try:
            fields = step(entry.kind).params_type.model_fields
        except InputError:  # of another package, which is not installed here
            continue
        if "tensorboard" in fields:
            options.append(f"--set {entry.kind}.tensorboard=true")
    lines = [f"submit with {option}" for option in dict.fromkeys(options)]
    return "\n".join([*lines, f"The curves of every run: {command_line('report', runs[0].run)}, or "
                              + command_line("ledger", "export", "--html", "FILE")])
