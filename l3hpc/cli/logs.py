"""``l3hpc logs``: print or follow the log of one step."""

from __future__ import annotations

import json
from pathlib import Path

import click

from l3hpc.cli.runs import complete_run, complete_step, workspace, workspace_options
from l3hpc.errors import command_line
from l3hpc.io.text import log_text

ASK_SLURM_EVERY_S = 10.0


@click.command(epilog="""\b
Examples:
  l3hpc logs latest                   the steps of the newest run, and their logs
  l3hpc logs latest train             the log of a step
  l3hpc logs latest train -f          follow it while it grows
  l3hpc logs upstream-2026 extract --task 3 --out
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("step", required=False, shell_complete=complete_step)
@click.option("-f", "--follow", is_flag=True,
              help="Keep printing until the task ends (Ctrl-C stops).")
@click.option("--task", type=click.IntRange(0), metavar="N",
              help="Task of an array (default: the first failed one, else the first running).")
@click.option("--out", "which", flag_value="out", help="Print the standard output of the step.")
@click.option("--err", "which", flag_value="err", default=True,
              help="Print its messages and errors (the default).")
@click.option("--path", "only_path", is_flag=True, help="Print the path of the log file.")
@click.option("--json", "as_json", is_flag=True, help="Without STEP: print the list as JSON.")
@workspace_options
def command(
    run: str, step: str | None, follow: bool, task: int | None, which: str, only_path: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> None:
    """Print the log of STEP in RUN (a name, the beginning of one, or 'latest').

    Without STEP: list the steps of RUN.
    """
    from l3hpc.errors import InputError
    from l3hpc.io.files import open_regular
    from l3hpc.runs import logs, status
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    record = records.read(folder, name)
    if step is None:
        _list(folder, name, as_json)
        return
    if as_json:
        raise InputError("--json is for the list of steps",
                         hint=command_line("logs", name, "--json"))
    entry = records.step(record, step)
    path = logs.find(folder, record, entry, task=task, which=which or "err")
    if only_path:
        click.echo(path)
        return
    if follow:
        printed, stands = False, ""

        def ended() -> bool:
            nonlocal stands
            now = next(each for each in status.collect(folder, [name])[0].steps
                       if each.name == step)
            words = f"{now.state} ({now.detail})" if now.detail else now.state
            if not printed and words != stands and now.state.is_active:
                click.echo(f"{step} of {name} is {words}; its log is empty so far", err=True)
            stands = words
            return not now.state.is_active

        ask_every_s = ASK_SLURM_EVERY_S if record.capabilities.remote else logs.POLL_S
        for text in logs.follow(path, ended, ask_every_s=ask_every_s):
            click.echo(log_text(text), nl=False)
            printed = True
        if not printed:
            click.echo(f"{step} of {name} is {stands}; its log is empty: {path}", err=True)
        return
    if not path.exists():
        raise InputError(f"{step} of {name} has not started: it has no log yet",
                         hint=f"See where it stands: {command_line('status', name)}")
    with open_regular(path) as stream:
        text = stream.read().decode("utf-8", "replace")
    click.echo(log_text(text), nl=False)
    if not text:
        click.echo(f"the log of {step} is empty: {path}", err=True)


def _list(workspace_folder: Path, run: str, as_json: bool) -> None:
    """The steps of a run: state, and the log that ``l3hpc logs RUN STEP`` would print."""
    from l3hpc.console import table
    from l3hpc.errors import InputError
    from l3hpc.runs import logs, status
    from l3hpc.workspace import records

    record = records.read(workspace_folder, run)
    rows = []
    for now in status.collect(workspace_folder, [run])[0].steps:
        try:
            path = logs.find(workspace_folder, record, records.step(record, now.name))
            size = path.stat().st_size if path.exists() else None
        except InputError:  # it was done before this run, or not submitted
            path, size = None, None
        rows.append({"step": now.name, "state": now.state, "bytes": size,
                     "log": None if size is None else str(path)})
    if as_json:
        click.echo(json.dumps({"run": run, "steps": rows}, indent=2))
        return
    cells = [(str(row["step"]), str(row["state"]), "no log" if row["bytes"] is None
              else f"{row['bytes']:,} bytes  {row['log']}") for row in rows]
    for line in table.lines(cells, indent="", at_least={1: 9}):
        click.echo(line)
    click.echo(f"\nprint one with   {command_line('logs', run)} STEP", err=True)
