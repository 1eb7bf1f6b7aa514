"""``l3hpc status``: where runs stand, in a table for people or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import click

from l3hpc.cli.runs import complete_run, workspace, workspace_options
from l3hpc.console.terminal import own
from l3hpc.errors import EXIT_FAILED, EXIT_OK, InputError
from l3hpc.io.text import one_line

SHOWN = 5


@click.command(epilog="""\b
Examples:
  l3hpc status                    the newest runs
  l3hpc status latest --watch     follow the newest run until it ends
  l3hpc status upstream-2026 --json

States: waiting (for earlier steps), queued (with Slurm's reason), running, requeued, done,
reused (from an earlier run), failed, blocked (by a step that failed), lost, cancelled.
With --json: {"schema", "runs": [{"run", "pipeline", "cluster", "state", "created", "steps",
"next", "notes", "damaged", "combinations"}], "left_out": [{"where", "message"}]}; each step has
name, kind, job, state, done, tasks, elapsed_s, detail, blocked_by, restarts, log, progress,
last_words, failed_tasks, artifact.

\b
Damaged files are named and left out; everything else is shown, and the exit code is 1.
""")
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--all", "everything", is_flag=True,
              help=f"Show all runs, not only the newest {SHOWN}.")
@click.option("-w", "--watch", is_flag=False, flag_value=5.0, type=click.FloatRange(1.0),
              metavar="[SECONDS]", help="Refresh every SECONDS seconds (5 if omitted).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def command(
    run: str | None, everything: bool, watch: float | None, as_json: bool,
    config_file: str | None, workspace_dir: str | None,
) -> int:
    """Show the state, tasks, time, progress and last message of every step of a run.

    RUN is the name of a run, the beginning of one, or 'latest'. Without RUN: the newest runs.
    """
    folder = workspace(config_file, workspace_dir)
    while True:
        text, moving, code = _look(folder, run, everything, as_json)
        if watch is not None and sys.stdout.isatty() and not as_json:
            click.echo("\033[H\033[J", nl=False, file=own(sys.stdout))
            click.echo(f"{_fitting(text)}\nevery {watch:g} s, Ctrl-C ends")
        else:
            click.echo(text)
        sys.stdout.flush()
        if watch is None or not moving:
            return code
        time.sleep(watch)


def _fitting(text: str) -> str:
    """As much of the text as the terminal has room for, above one line of words."""
    size = shutil.get_terminal_size()
    lines = [line[:size.columns] for line in text.splitlines()]
    room = max(size.lines - 2, 1)
    return "\n".join(lines if len(lines) <= room else [*lines[:room - 1], "…"][:room])


def _look(folder: Path, run: str | None, everything: bool, as_json: bool) -> tuple[str, bool, int]:
    """The text, whether anything still moves, and the exit code: 1 where a file is damaged."""
    from l3hpc.runs import display, status
    from l3hpc.workspace import records

    broken: list[InputError] = []
    if run is not None:
        found = status.collect(folder, [records.find(folder, run)])
    else:
        found = status.collect(folder, last=None if everything else SHOWN, broken=broken)
    moving = any(each.state.is_active for each in found)
    code = EXIT_FAILED if broken or any(each.damaged for each in found) else EXIT_OK
    if as_json:
        left_out = [{"where": error.where, "message": error.message} for error in broken]
        value = {"schema": status.SCHEMA, "runs": [each.to_json() for each in found],
                 "left_out": left_out}
        return json.dumps(value, indent=2), moving, code
    for error in broken:
        click.echo(f"error: {one_line(error.where)}: {one_line(error.message)}", err=True)
        for line in (error.hint or "").splitlines():
            click.echo(f"       {line}", err=True)
    if not found:
        return ("no other runs yet" if broken else
                f"no runs yet in {folder}\n"
                "start one with   l3hpc submit upstream   (or see it all: l3hpc demo)"), False, code
    text = "\n\n".join(display.run_text(each) for each in found)
    hidden = 0 if run or everything else len(records.names(folder)) - len(found) - len(broken)
    if hidden > 0:
        text += f"\n\nand {hidden:,} older: l3hpc status --all"
    return text, moving, code
