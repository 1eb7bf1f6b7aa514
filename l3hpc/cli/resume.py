"""``l3hpc resume``: go on with a run that failed, was cancelled or lost jobs."""

from __future__ import annotations

import json

import click

from l3hpc.cli.runs import complete_run, workspace, workspace_options


@click.command(epilog="""\b
Examples:
  l3hpc resume latest
  l3hpc resume downstream-20261119-99fe --set classify.mem=160GB
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Another cpus, mem, gpus or time for a step.")
@click.option("--detach", is_flag=True, help="On local: leave a runner behind and return at once.")
@click.option("--dry-run", is_flag=True, help="Only say what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="What was submitted, as JSON.")
@workspace_options
def command(
    run: str, sets: tuple[str, ...], detach: bool, dry_run: bool, as_json: bool,
    config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit again what is missing or failed of RUN, task by task, and nothing else.

    Finished tasks are kept, live jobs are left alone, and dependents wait only for live jobs.
    """
    from l3hpc.errors import EXIT_FAILED, EXIT_OK
    from l3hpc.progress import for_person
    from l3hpc.workflow import config, records, submission
    from l3hpc.workflow import resume as resumption
    from l3hpc.workflow.model import RunRecord

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    profile = config.load(config_file, records.read(folder, name).cluster).profile
    todo = resumption.missing(folder, name, profile, sets)
    words = ", ".join(f"{step.name} ({len(step.missing)} of {step.tasks} tasks)"
                      for step in todo.steps)
    if dry_run or not todo.steps:
        value = {step.name: list(step.missing) for step in todo.steps}
        click.echo(json.dumps({"run": name, "would_submit": value}) if as_json else
                   f"would submit {words}" if todo.steps else f"nothing of {name} is missing "
                   "that does not wait or run already")
        return EXIT_OK

    def told(record: RunRecord) -> None:
        chosen = {step.name: records.step(record, step.name).job for step in todo.steps}
        if as_json:
            click.echo(json.dumps({"run": name, "submitted": chosen}))
        else:
            click.echo(f"resumed {name}: {words}\nfollow it with   l3hpc status {name} --watch")

    record = resumption.resume(folder, name, profile, sets=sets, detach=detach,
                               progress=for_person(), on_submitted=told)
    if record.local and not detach and not submission.succeeded(folder, record):
        return EXIT_FAILED
    return EXIT_OK
