"""``l3hpc resume`` and ``l3hpc retry``: continue a run that failed, was cancelled or lost jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from l3hpc.cli.planning import note_unused
from l3hpc.cli.runs import complete_run, complete_step, workspace, workspace_options
from l3hpc.errors import command_line

if TYPE_CHECKING:
    from l3hpc.runs.resume import Todo


@click.command(epilog="""\b
Examples:
  l3hpc resume latest
  l3hpc resume downstream-20261119-99fe --set classify.mem=160GB
  l3hpc resume latest --from fit                 recompute fit and everything after it
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Override the cpus, mem, gpus or time of a step.")
@click.option("--from", "again", metavar="STEP", shell_complete=complete_step,
              help="Recompute STEP and everything after it, finished or not.")
@click.option("--yes", is_flag=True, help="With --from: discard results without asking.")
@click.option("--detach", is_flag=True, help="On local: return at once and run in the background.")
@click.option("--dry-run", is_flag=True, help="Only show what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was submitted as JSON.")
@workspace_options
def command(
    run: str, sets: tuple[str, ...], again: str | None, yes: bool, detach: bool, dry_run: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit the missing and failed tasks of RUN again, and nothing else.

    Finished tasks are kept, queued and running jobs are left alone, and dependent steps wait only
    for jobs that have not ended.
    """
    return go_on(run, (), sets, again, yes, detach, dry_run, as_json, config_file, workspace_dir)


@click.command(epilog="""\b
Examples:
  l3hpc retry latest train
  l3hpc retry latest classify --set classify.mem=160GB
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("steps", nargs=-1, required=True, metavar="STEP...", shell_complete=complete_step)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Override the cpus, mem, gpus or time of a step.")
@click.option("--detach", is_flag=True, help="On local: return at once and run in the background.")
@click.option("--dry-run", is_flag=True, help="Only show what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was submitted as JSON.")
@workspace_options
def retry(
    run: str, steps: tuple[str, ...], sets: tuple[str, ...], detach: bool, dry_run: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit the failed tasks of STEP in RUN again, and the steps that depend on it.

    Other failed steps stay as they are: 'resume' submits them all. Finished tasks are kept: to
    recompute them, use 'resume --from STEP'.
    """
    return go_on(run, steps, sets, None, True, detach, dry_run, as_json, config_file,
                 workspace_dir)


def go_on(
    run: str, only: tuple[str, ...], sets: tuple[str, ...], again: str | None, yes: bool,
    detach: bool, dry_run: bool, as_json: bool, config_file: str | None,
    workspace_dir: str | None,
) -> int:
    """What ``resume`` and ``retry`` share: find out what is missing, say it, submit it."""
    from l3hpc.config import settings
    from l3hpc.console.progress import for_person
    from l3hpc.errors import EXIT_FAILED, EXIT_OK
    from l3hpc.runs import resume as resumption
    from l3hpc.runs import submit
    from l3hpc.workspace import records
    from l3hpc.workspace.records import RunRecord

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    profile = settings.load(config_file, records.read(folder, name).cluster).profile
    note_unused(profile)
    if dry_run:
        todo = resumption.look(folder, name, profile, sets, only=only, again=again or "",
                               progress=for_person())
        said = {"run": name, "would_submit": {step.name: list(step.missing) for step in todo.steps},
                "would_release": [job.id for job in todo.held],
                "would_cancel": [job.id for job in (*todo.orphans, *todo.stale)],
                "held_by_administrator": todo.for_administrators}
        click.echo(json.dumps(said) if as_json else
                   f"would {todo.words()}" if todo.anything else _nothing(name, todo))
        _tell_administrators(todo)
        return EXIT_OK
    announced: list[resumption.Todo] = []

    def announce(todo: resumption.Todo) -> None:
        announced.append(todo)
        _tell_administrators(todo)
        if todo.again and not yes:
            others = resumption.used_by(folder, name, todo.again)
            click.confirm("discard the results of " + ", ".join(one.name for one in todo.again)
                          + (f" (also used by {', '.join(others)})" if others else "") + "?",
                          abort=True, err=True)
        if not as_json:
            click.echo(f"resuming {name}: {todo.words()}" if todo.anything
                       else _nothing(name, todo))

    def told(record: RunRecord, submitted: list[str]) -> None:
        chosen = {step: records.step(record, step).job for step in submitted}
        if as_json:
            [todo] = announced
            click.echo(json.dumps({
                "run": name, "submitted": chosen, "released": [job.id for job in todo.held],
                "cancelled": [job.id for job in (*todo.orphans, *todo.stale)]}))
        else:
            chain = " → ".join(f"{step} {job}" for step, job in chosen.items())
            click.echo(f"resumed {name}" + (f": {chain}" if chain else "")
                       + "\nfollow it with   " + command_line("status", name, "--watch"))

    record = resumption.resume(folder, name, profile, sets=sets, only=only, again=again or "",
                               detach=detach, progress=for_person(), on_planned=announce,
                               on_submitted=told)
    [todo] = announced
    if as_json and not todo.anything:
        click.echo(json.dumps({"run": name, "would_submit": {}, "would_release": []}))
    if todo.steps and record.capabilities.runner and not detach \
            and not submit.succeeded(folder, record):
        return EXIT_FAILED
    return EXIT_OK


def _nothing(name: str, todo: Todo) -> str:
    return (f"nothing to resume: all steps of {name} are "
            + ("done" if todo.finished else "done, queued or running"))


def _tell_administrators(todo: Todo) -> None:
    from l3hpc.runs.status import held_words

    for step, jobs in todo.for_administrators.items():
        click.echo(f"note: {held_words(step, jobs)}", err=True)
