"""``l3hpc resume``: go on with a run that failed, was cancelled or lost jobs."""

from __future__ import annotations

import json
from typing import Any

import click

from l3hpc.cli.planning import note_unused
from l3hpc.cli.runs import complete_run, complete_step, workspace, workspace_options


@click.command(epilog="""\b
Examples:
  l3hpc resume latest
  l3hpc resume downstream-20261119-99fe --set classify.mem=160GB
  l3hpc resume latest --from fit                 fit and all behind it, anew
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Another cpus, mem, gpus or time for a step.")
@click.option("--from", "again", metavar="STEP", shell_complete=complete_step,
              help="Compute STEP and all behind it anew, also what is finished.")
@click.option("--yes", is_flag=True, help="With --from: do not ask before results are discarded.")
@click.option("--detach", is_flag=True, help="On local: leave a runner behind and return at once.")
@click.option("--dry-run", is_flag=True, help="Only say what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="What was submitted, as JSON.")
@workspace_options
def command(
    run: str, sets: tuple[str, ...], again: str | None, yes: bool, detach: bool, dry_run: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit again what is missing or failed of RUN, task by task, and nothing else.

    Finished tasks are kept, live jobs are left alone, and dependents wait only for live jobs.
    """
    return go_on(run, (), sets, again, yes, detach, dry_run, as_json, config_file, workspace_dir)


def go_on(
    run: str, only: tuple[str, ...], sets: tuple[str, ...], again: str | None, yes: bool,
    detach: bool, dry_run: bool, as_json: bool, config_file: str | None,
    workspace_dir: str | None,
) -> int:
    """What ``resume`` and ``retry`` share: find out what is missing, say it, submit it."""
    from l3hpc.errors import EXIT_FAILED, EXIT_OK
    from l3hpc.progress import for_person
    from l3hpc.workflow import config, records, submission
    from l3hpc.workflow import resume as resumption
    from l3hpc.workflow.model import RunRecord

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    profile = config.load(config_file, records.read(folder, name).cluster).profile
    note_unused(profile)
    todo = resumption.missing(folder, name, profile, sets, only=only, again=again or "")
    words = _words(todo)
    if dry_run or not (todo.steps or todo.held):
        value = {step.name: list(step.missing) for step in todo.steps}
        click.echo(json.dumps({"run": name, "would_submit": value,
                               "would_release": list(todo.held)}) if as_json else
                   f"would submit {words}" if todo.steps or todo.held else
                   f"nothing to resume: all steps of {name} are "
                   + ("done" if todo.finished else "done, queued or running"))
        return EXIT_OK
    if todo.again and not yes:
        others = resumption.used_by(folder, name, todo.again)
        click.confirm("discard the results of " + ", ".join(one.name for one in todo.again)
                      + (f" (also used by {', '.join(others)})" if others else "") + "?",
                      abort=True, err=True)

    def told(record: RunRecord) -> None:
        chosen = {step.name: records.step(record, step.name).job for step in todo.steps}
        if as_json:
            click.echo(json.dumps({"run": name, "submitted": chosen,
                                   "released": list(todo.held)}))
        else:
            click.echo(f"resumed {name}: {words}\nfollow it with   l3hpc status {name} --watch")

    record = resumption.resume(folder, name, profile, sets=sets, only=only, again=again or "",
                               detach=detach, progress=for_person(), on_submitted=told)
    if not todo.steps:
        told(record)
    elif record.local and not detach and not submission.succeeded(folder, record):
        return EXIT_FAILED
    return EXIT_OK


def _words(todo: Any) -> str:
    parts = [f"{step.name} ({len(step.missing)} of {step.tasks} tasks)" for step in todo.steps]
    parts += [f"{job} (released with {', '.join(changes)})"
              for job, changes in todo.held.items()]
    return ", ".join(parts)
