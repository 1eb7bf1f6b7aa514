"""``l3hpc cancel``, ``usage``, ``status`` and ``logs``."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from l3hpc.cli.cron import Interval
from l3hpc.cli.place import complete_run, complete_step, workspace, workspace_options
from l3hpc.console.terminal import with_controls
from l3hpc.errors import EXIT_FAILED, EXIT_OK, InputError, command_line
from l3hpc.io.values import log_text, one_line

SHOWN = 5  # runs in the list of ``status``
COMBINATIONS = 10  # of each sweep in that list
ASK_SLURM_EVERY_S = 10.0
NOTIFY_EVERY_S = 60.0  # while runs move; at their end at once


# --- cancel and usage -----------------------------------------------------------------------------

@click.command(epilog="""\b
Examples:
  l3hpc cancel latest
  l3hpc cancel upstream-20261120-1a2b
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print the cancelled job ids as JSON.")
@workspace_options
def cancel(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Cancel all jobs of RUN (a name, the beginning of one, or 'latest').

    Finished results are kept: the next submission of the same pipeline reuses them. What a killed
    submission has left is removed.
    """
    from l3hpc.runs import submission_lock
    from l3hpc.runs.resume import cancel
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    if submission_lock.discard(folder, run):
        click.echo(json.dumps({"run": run, "cancelled": [], "removed": True}) if as_json
                   else f"removed {run}: none of its jobs had been submitted")
        return
    name = records.find(folder, run)
    stopped = cancel(folder, name)
    if as_json:
        click.echo(json.dumps({"run": name, "cancelled": stopped}))
    elif stopped:
        from l3hpc.schedulers.jobs import list_jobs

        click.echo(f"cancelled {name}: {list_jobs(stopped, most=len(stopped))}")
    else:
        click.echo(f"no job of {name} was queued or running")


@click.command(epilog="""\b
Examples:
  l3hpc usage latest
  l3hpc usage upstream-20261120-1a2b --json

Suggestions are in the form that --set accepts: l3hpc submit upstream --set extract.mem=2GB
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def usage(
    run: str, as_json: bool, config_file: str | None, workspace_dir: str | None
) -> None:
    """Compare the cores, memory and time that the steps of RUN requested with what they used.

    'Used' is the mean number of busy cores, the memory of the largest task and the time of the
    longest. The time spent waiting in the queue is shown too. Steps whose results were reused are
    left out.
    """
    from l3hpc.runs import usage
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    found = usage.collect(folder, name)
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": name,
                               "steps": [each.to_json() for each in found]}, indent=2))
        return
    if not found:
        click.echo(f"no task of {name} has finished: {command_line('status', name)}")
        return
    from l3hpc.runs.usage import table

    click.echo(table(name, found))


# --- status ---------------------------------------------------------------------------------------

@click.command(epilog="""\b
Examples:
  l3hpc status                    the newest runs
  l3hpc status latest --watch     follow the newest run until it ends
  l3hpc status upstream-2026 --json

States: planned (not submitted), submitting, waiting (for earlier steps), queued (with Slurm's
reason), running, requeued, done, reused (from an earlier run), failed, blocked (by a step that
failed), lost, cancelled.
With --json: {"schema", "runs": [{"run", "pipeline", "cluster", "state", "created", "steps",
"next", "then", "notes", "damaged", "combinations", "computed_by"}], "left_out": [{"where",
"message"}], "unsubmitted": [{"run", "folder", "started", "next", "empty"}]}; each step has
name, kind, job, state, done, tasks, elapsed_s, detail, blocked_by, restarts, log, progress,
last_words, failed_tasks, artifact, held, held_by_administrator, computed_by (the other runs that
have computed
what it did not), repeats (resume alone would fail again), needs_mem_mb; each
combination has values, steps, state, result.

A run that failed stays failed when a later run computes its results: "failed (since computed by
RUN)". Resuming it takes them over.

\b
Damaged files are named and left out; everything else is shown, and the exit code is 1.
""")
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--all", "everything", is_flag=True,
              help=f"Show all runs, not only the newest {SHOWN}.")
@click.option("-w", "--watch", is_flag=False, flag_value=5.0, type=Interval(1.0),
              metavar="[SECONDS]", help="Refresh every SECONDS seconds (5 if omitted).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_options
def status(
    run: str | None, everything: bool, watch: float | None, as_json: bool,
    config_file: str | None, workspace_dir: str | None,
) -> int:
    """Show the state, tasks, time, progress and last message of every step of a run.

    RUN is the name of a run, the beginning of one, or 'latest'. Without RUN: the newest runs.
    The status of a sweep ends with the state and the result of each combination.
    With --watch, messages about runs that are due (profile key notify) are sent as well.
    """
    folder, notified = workspace(config_file, workspace_dir), -NOTIFY_EVERY_S
    while True:
        text, is_active, code = _status_text(folder, run, everything, as_json)
        # less often than the table is drawn, but in any case when the run has ended
        if watch is not None and (not is_active or time.monotonic() - notified >= NOTIFY_EVERY_S):
            failed = announce(folder, config_file)
            notified = time.monotonic()
            if as_json:
                click.echo("".join(f"{line}\n" for line in failed), nl=False, err=True)
            else:
                text = "\n".join([text, *failed])
        if watch is not None and sys.stdout.isatty() and not as_json:
            click.echo("\033[H\033[J", nl=False, file=with_controls(sys.stdout))
            click.echo(f"{_cut_to_terminal(text)}\nevery {watch:g} s, Ctrl-C to stop")
        else:
            click.echo(text)
        sys.stdout.flush()
        if watch is None or not is_active:
            return code
        time.sleep(watch)


def announce(folder: Path, config_file: str | None) -> list[str]:
    """Send the messages that are due; a line for each that was not sent, or could not be."""
    from l3hpc.runs import notifications

    try:
        return [f"note: {one.words}" for one in notifications.announce(folder, config_file)
                if not one.sent]
    except (InputError, OSError) as error:  # a watch goes on without messages
        return error_lines("note: no messages are sent", error)


def error_lines(what: str, error: Exception) -> list[str]:
    """Return a note about an error that does not end the command, with its hint below."""
    first, *rest = str(error).split("\n")
    return [f"{what}: {one_line(first)}", *(f"      {one_line(line)}" for line in rest)]


def _cut_to_terminal(text: str) -> str:
    """Return as much of a text as fits into the terminal above one more line.

    Lines with a command are whole, and take several lines of the terminal: they are to be pasted.
    """
    size = shutil.get_terminal_size()
    lines = [line if " l3hpc " in line else line[:size.columns] for line in text.splitlines()]
    heights = [max(math.ceil(len(line) / size.columns), 1) for line in lines]
    room = max(size.lines - 2, 1)
    if sum(heights) <= room:
        return "\n".join(lines)
    while heights and sum(heights) >= room:
        heights.pop()
    return "\n".join([*lines[:len(heights)], "…"])


def _status_text(folder: Path, run: str | None, everything: bool, as_json: bool,
                 ) -> tuple[str, bool, int]:
    """Return the text, whether a run is still active, and the exit code (1 for damaged files)."""
    from l3hpc.runs import display, status, submission_lock
    from l3hpc.workspace import records, run_names

    broken: list[InputError] = []
    lost: list[InputError] = []
    unsubmitted: list[submission_lock.Unsubmitted] = []
    if run is not None:
        found = status.collect(folder, [records.find(folder, run)])
    else:
        found = status.collect(folder, last=None if everything else SHOWN, broken=broken)
        unsubmitted = submission_lock.unsubmitted(folder, lost)
    older = 0 if run or everything else len(run_names.names(folder)) - len(found) - len(broken)
    broken += lost
    is_active = any(each.state.is_active for each in found)
    # damage does not hide the other runs, but a script must notice it
    code = EXIT_FAILED if broken or any(each.damaged for each in found) else EXIT_OK
    if as_json:
        left_out = [{"where": error.where, "message": error.message} for error in broken]
        value = {"schema": status.SCHEMA, "runs": [each.to_json() for each in found],
                 "left_out": left_out, "unsubmitted": [asdict(each) for each in unsubmitted]}
        return json.dumps(value, indent=2), is_active, code
    for error in broken:
        click.echo(f"error: {one_line(error.where)}: {one_line(error.message)}", err=True)
        for line in (error.hint or "").splitlines():
            click.echo(f"       {line}", err=True)
    if not found and not unsubmitted:
        return ("no other runs yet" if broken else
                f"no runs yet in {folder}\n"
                f"start one with   {command_line('submit', 'upstream')}   "
                f"(or try: {command_line('demo')})"), False, code
    parts = [display.run_text(each, None if run else COMBINATIONS) for each in found]
    if older > 0:
        parts.append(f"and {older:,} older: {command_line('status', '--all')}")
    parts += [display.unsubmitted_text(each) for each in unsubmitted]
    return "\n\n".join(parts), is_active, code


# --- logs -----------------------------------------------------------------------------------------

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
def logs(
    run: str, step: str | None, follow: bool, task: int | None, which: str, only_path: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> None:
    """Print the log of STEP in RUN (a name, the beginning of one, or 'latest').

    Without STEP: list the steps of RUN.
    """
    from l3hpc.errors import InputError
    from l3hpc.runs import logs
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    record = records.read(folder, name)
    if step is None:
        _list(folder, name, as_json)
        return
    if as_json:
        raise InputError("--json can only be used without STEP",
                         hint=command_line("logs", name, "--json"))
    entry = records.step(record, step)
    path = logs.find_log(folder, record, entry, task=task, which=which or "err")
    size = logs.log_size(path)
    if only_path:
        if size is not None and not path.exists():
            raise InputError(f"{name} is packed: its logs are in one file",
                             hint=f"First: {command_line('runs', 'unpack', name)}")
        click.echo(path)
        return
    if follow and (size is None or path.exists()):  # a packed run has ended
        _follow(folder, name, step, path, record.capabilities.remote)
        return
    if size is None:
        raise InputError(f"{step} of {name} has not started: it has no log yet",
                         hint=f"To see its state: {command_line('status', name)}")
    for text in logs.pieces(path):
        click.echo(log_text(text), nl=False)
    if not size:
        click.echo(f"the log of {step} is empty: {path}", err=True)


def _follow(folder: Path, run: str, step: str, path: Path, is_remote: bool) -> None:
    """Print the log of a step while it grows, until its task ends."""
    from l3hpc.runs import logs, status

    printed, last_state = False, ""

    def ended() -> bool:
        nonlocal last_state
        now = next(each for each in status.collect(folder, [run])[0].steps if each.name == step)
        state = f"{now.state} ({now.detail})" if now.detail else str(now.state)
        # while there is no output, the state is the only sign that something happens
        if not printed and state != last_state and now.state.is_active:
            click.echo(f"{step} of {run} is {state}; its log is empty so far", err=True)
        last_state = state
        return not now.state.is_active

    for text in logs.follow(path, ended,
                            ask_every_s=ASK_SLURM_EVERY_S if is_remote else logs.POLL_S):
        click.echo(log_text(text), nl=False)
        printed = True
    if not printed:
        click.echo(f"{step} of {run} is {last_state}; its log is empty: {path}", err=True)


def _list(workspace_folder: Path, run: str, as_json: bool) -> None:
    """Print the steps of a run with their states and the logs that ``logs RUN STEP`` prints."""
    from l3hpc.console import formatting
    from l3hpc.errors import InputError
    from l3hpc.runs import logs, status
    from l3hpc.workspace import records
    from l3hpc.workspace.layout import Workspace

    record = records.read(workspace_folder, run)
    rows = []
    for now in status.collect(workspace_folder, [run])[0].steps:
        try:
            path = logs.find_log(workspace_folder, record, records.step(record, now.name))
            size = logs.log_size(path)
            if size is not None and not path.exists():
                path = Workspace(workspace_folder).run(run).packed
        except InputError:  # the step was done before this run, or has not been submitted
            path, size = None, None
        rows.append({"step": now.name, "state": now.state, "bytes": size,
                     "log": None if size is None else str(path)})
    if as_json:
        click.echo(json.dumps({"run": run, "steps": rows}, indent=2))
        return
    cells = [(str(row["step"]), str(row["state"]), "no log" if row["bytes"] is None
              else f"{row['bytes']:,} bytes  {row['log']}") for row in rows]
    for line in formatting.table_lines(cells, indent="", at_least={1: 9}):
        click.echo(line)
    click.echo(f"\nto print one:   {command_line('logs', run, 'STEP')}", err=True)
