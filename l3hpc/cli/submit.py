"""``l3hpc submit``: show what will run, then submit it as a chain of jobs.

``l3hpc resume`` and ``l3hpc retry`` continue a run that failed, was cancelled or lost jobs.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.place import complete_run, complete_step, workspace, workspace_options
from l3hpc.cli.planning import PlanCommand, note_unused, plan_options
from l3hpc.cli.runs import announce
from l3hpc.errors import (
    EXIT_FAILED,
    EXIT_OK,
    InputError,
    L3hpcError,
    Lines,
    command_line,
    shell_path,
)
from l3hpc.io.values import in_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from l3hpc.console.progress import Progress
    from l3hpc.pipelines.planned import Plan, PlannedStep
    from l3hpc.runs.resume_plan import ResumePlan
    from l3hpc.schedulers.base import Scheduler
    from l3hpc.workspace.run_record import RunRecord

EXAMPLES = """\b
Examples:
  l3hpc submit upstream --approx pca --asr 8000 --mels 64
  l3hpc submit upstream --dry-run                         only show what would run
  l3hpc submit upstream --cluster greene --test-only      have Slurm check every script
  l3hpc submit downstream --student latest
  l3hpc submit downstream --teacher --phi latest          the bound of its students
  l3hpc submit clips --table labels.csv --audio DIR
  l3hpc submit upstream --from train --audio-dir A --embedding-dir E
  l3hpc submit all --set train.mem=64GB --set train.epochs=300
  l3hpc submit upstream --grid emb-dim=64,128 --grid sampling=dpp,random
  l3hpc submit upstream --per-sensor                      a reduction and student for each
"""


@click.command("submit", cls=PlanCommand, epilog=EXAMPLES)
@plan_options
@click.option("--dry-run", is_flag=True, help="Show what would run; submit nothing.")
@click.option("--test-only", is_flag=True,
              help="Have the cluster check every script; submit nothing.")
@click.option("--detach", is_flag=True, help="On local: return at once and run in the background.")
@click.option("--yes", is_flag=True, help="Submit without asking, whatever the cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan and its jobs as JSON.")
def command(pipeline: str, dry_run: bool, test_only: bool, detach: bool, yes: bool, as_json: bool,
            **values: Any) -> int:
    """Submit PIPELINE as a chain of jobs.

    PIPELINE is one of those below; a file jobs/NAME.yaml adds one of your own. Steps whose results
    exist are not run again. With the profile 'local' the jobs run on this machine, in the
    foreground unless --detach is given. Options that a pipeline does not offer are refused.
    """
    from l3hpc import schedulers
    from l3hpc.pipelines import preview, sweep
    from l3hpc.pipelines.from_options import plan_from_options

    asked: list[Scheduler] = []  # while the plan is made
    try:
        plan, swept = plan_from_options(pipeline, values, lambda config: asked.append(
            schedulers.prepared(config.profile, config.workspace)))
        [scheduler] = asked
        unchecked = scheduler.validate(plan) if dry_run else ""
    except InputError as error:
        raise _nothing_submitted(error) from None
    note_unused(plan.profile)
    if unchecked:
        click.echo(f"note: {unchecked}", err=True)
    if not as_json:
        click.echo(preview.as_text(plan))
        if swept is not None:
            click.echo("\n" + "\n".join([sweep.table(swept), *_arrays(plan)]))
    if dry_run:
        _finish(plan, None, as_json, "nothing was submitted (--dry-run)")
        return EXIT_OK
    if not (yes or test_only):
        _confirm(plan)

    from l3hpc.console.progress import Progress, default_progress
    from l3hpc.runs import submit

    progress = Progress() if plan.profile.capabilities.runner else default_progress()

    if test_only:
        _test(plan, scheduler, progress, as_json)
        return EXIT_OK
    try:
        record = submit.submit(
            plan, detach=detach, progress=progress, scheduler=scheduler,
            on_submitted=None if as_json else lambda record: click.echo(
                _submitted(plan, record)))
    except InputError as error:
        raise _nothing_submitted(error) from None
    if as_json:
        _finish(plan, record, True, "")
    foreground = plan.profile.capabilities.runner and not detach
    for line in announce(plan.workspace, values["config_file"]) if foreground else ():
        click.echo(line, err=True)
    if foreground and not submit.succeeded(plan.workspace, record):
        why = command_line("status", plan.run)
        click.echo(f"\n{plan.run} did not finish. Why:   {why}", err=True)
        return EXIT_FAILED
    if foreground and not as_json and any(step.job for step in record.steps):
        # steps that record no row leave files and the report
        shown = command_line("ledger", "show") if any(map(_tab, plan.steps)) else (
            command_line("report", plan.run))
        click.echo(f"\n{plan.run} is done. Results:   {shown}      files: {plan.folder.artifacts}")
    return EXIT_OK


def _confirm(plan: Plan) -> None:
    """Ask for confirmation of an expensive plan; without a terminal, refuse it."""
    from l3hpc.pipelines import preview

    if not preview.needs_confirmation(plan):
        return
    if not sys.stdin.isatty():
        raise _nothing_submitted(InputError(
            f"this may cost {preview.maximum_cost(plan).as_text()}",
            hint="if that is intended: --yes"))
    click.confirm("\nsubmit it?", abort=True, err=True)


def _test(plan: Plan, scheduler: Scheduler, progress: Progress, as_json: bool) -> None:
    """Have the cluster check every script of the plan, and print the result."""
    from l3hpc.runs import submit

    try:
        submit.submit(plan, test_only=True, progress=progress, scheduler=scheduler)
    except L3hpcError as error:
        raise _nothing_submitted(error) from None
    count = sum(bool(step.missing) for step in plan.steps)
    scripts = in_number(f"[the script|all {count} scripts]", count)
    _finish(plan, None, as_json, f"{plan.profile.name} would accept {scripts}; "
                                 "nothing was submitted (--test-only)")


def _arrays(plan: Plan) -> list[str]:
    """Return a line for each group of steps of a sweep that is submitted as one array."""
    from l3hpc.runs import submit

    return [f"  one job array: {' '.join(array.names)}" for array in submit.planned_arrays(plan)]


def _submitted(plan: Plan, record: RunRecord) -> str:
    """Return ``submitted RUN: sample 8812 → fit 8813`` and the next commands."""
    from l3hpc.runs import last_job
    from l3hpc.runs.submit import describe_jobs

    chain = describe_jobs(record)
    if not chain:
        return f"\nnothing to compute; recorded as {plan.run}"
    tabs = dict.fromkeys(tab for step in plan.steps
                         if step.missing and (tab := _tab(step)))
    lines = ["", f"submitted {plan.run}: {chain}",
             "follow it with   " + command_line("status", "--watch")]
    lines += [f"results:         {command_line('ledger', 'show', '--tab', tab)}"
              for tab in tabs]
    if plan.profile.report and (record.sync_job or record.capabilities.runner):
        lines.append(f"report:          {shell_path(plan.folder.report)}, "
                     "when the run has ended")
    sheet = last_job.describe(plan, record)
    if tabs and sheet:
        lines.append(f"to the sheet:    {sheet}")
    return "\n".join(lines)


def _tab(planned: PlannedStep) -> str | None:
    """Return the tab of the ledger in which a step records its rows."""
    from l3hpc import steps

    step = steps.step(planned.kind)
    return step.ledger_tab(step.parse(planned.params))


def _finish(plan: Plan, record: RunRecord | None, as_json: bool, message: str) -> None:
    """Print the plan and its jobs as JSON, or ``message``."""
    from l3hpc.pipelines import preview

    if as_json:
        jobs = {step.name: step.job for step in record.steps} if record else {}
        value = {**preview.as_json(plan), "submitted": record is not None, "jobs": jobs}
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo(f"\n{message}")


def _nothing_submitted(error: L3hpcError) -> L3hpcError:
    """Return the same error with a hint that nothing was submitted."""
    return error.replaced(hint=Lines(error.hint, "nothing was submitted"))


@click.command(epilog="""\b
Examples:
  l3hpc resume latest
  l3hpc resume downstream-20261119-99fe --set classify.mem=160GB
  l3hpc resume latest --from fit                 recompute fit and everything after it
""")
@click.argument("run", shell_complete=complete_run)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Override the cpus, mem, gpus, time or pack of a step.")
@click.option("--from", "again", metavar="STEP", shell_complete=complete_step,
              help="Recompute STEP and everything after it, finished or not.")
@click.option("--yes", is_flag=True, help="With --from: discard results without asking.")
@click.option("--detach", is_flag=True, help="On local: return at once and run in the background.")
@click.option("--dry-run", is_flag=True, help="Only show what would be submitted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was submitted as JSON.")
@workspace_options
def resume(
    run: str, sets: tuple[str, ...], again: str | None, yes: bool, detach: bool, dry_run: bool,
    as_json: bool, config_file: str | None, workspace_dir: str | None,
) -> int:
    """Submit the missing and failed tasks of RUN again, and nothing else.

    Finished tasks are kept, queued and running jobs are left alone, and dependent steps wait only
    for jobs that have not ended.
    """
    return _resume(run, (), sets, again, yes, detach, dry_run, as_json, config_file, workspace_dir)


@click.command(epilog="""\b
Examples:
  l3hpc retry latest train
  l3hpc retry latest classify --set classify.mem=160GB
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("steps", nargs=-1, required=True, metavar="STEP...", shell_complete=complete_step)
@click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
              help="Override the cpus, mem, gpus, time or pack of a step.")
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
    return _resume(run, steps, sets, None, True, detach, dry_run, as_json, config_file,
                   workspace_dir)


def _resume(
    run: str, only: tuple[str, ...], sets: tuple[str, ...], again: str | None, yes: bool,
    detach: bool, dry_run: bool, as_json: bool, config_file: str | None,
    workspace_dir: str | None,
) -> int:
    """Find out what is missing in a run, print it and submit it (``resume`` and ``retry``)."""
    from l3hpc.config import settings
    from l3hpc.console.progress import default_progress
    from l3hpc.errors import EXIT_FAILED, EXIT_OK
    from l3hpc.pipelines import preview
    from l3hpc.runs import resume as resumption
    from l3hpc.runs import resume_plan, submit
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    profile = settings.load(config_file, records.read(folder, name).cluster).profile
    note_unused(profile)

    def note(todo: ResumePlan) -> None:
        _note_administrator_holds(todo)
        for text in () if as_json else preview.notes(todo.plan):
            click.echo(f"note: {text}", err=True)

    if dry_run:
        todo = resume_plan.plan_resume(folder, name, profile, sets, only=only, again=again or "",
                                       progress=default_progress())
        _print_dry_run(name, only, todo, as_json)
        note(todo)
        return EXIT_OK
    # the plan is made inside of resume, under the lock of the run: what is announced is submitted
    announced: list[ResumePlan] = []

    def announce(todo: ResumePlan) -> None:
        announced.append(todo)
        note(todo)
        if todo.recompute and not yes:
            others = resume_plan.used_by(folder, name, todo.recompute)
            names = ", ".join(step.name for step in todo.recompute)
            also = f" (also used by {', '.join(others)})" if others else ""
            click.confirm(f"discard the results of {names}{also}?", abort=True, err=True)
        if not as_json:
            click.echo(f"resuming {name}: {todo.describe()}" if todo.is_needed
                       else _nothing(name, only, todo))

    def report(record: RunRecord, submitted: list[str]) -> None:
        jobs = {step: records.step(record, step).job for step in submitted}
        if as_json:
            [todo] = announced
            click.echo(json.dumps({
                "run": name, "submitted": jobs, "released": [job.id for job in todo.held],
                "cancelled": [job.id for job in (*todo.untracked, *todo.stale)],
                "notes": preview.notes(todo.plan)}))
        else:
            chain = submit.describe_jobs(record, submitted)
            click.echo(f"resumed {name}" + (f": {chain}" if chain else "")
                       + "\nfollow it with   " + command_line("status", name, "--watch"))

    record = resumption.resume(folder, name, profile, sets=sets, only=only, again=again or "",
                               detach=detach, progress=default_progress(), on_planned=announce,
                               on_submitted=report)
    [todo] = announced
    if as_json and not todo.is_needed:
        click.echo(json.dumps({"run": name, "would_submit": {}, "would_release": []}))
    if todo.steps and record.capabilities.runner and not detach \
            and not submit.succeeded(folder, record):
        return EXIT_FAILED
    return EXIT_OK


def _print_dry_run(name: str, only: Sequence[str], todo: ResumePlan, as_json: bool) -> None:
    from l3hpc.pipelines import preview

    if as_json:
        click.echo(json.dumps({
            "run": name, "would_submit": {step.name: list(step.missing) for step in todo.steps},
            "would_release": [job.id for job in todo.held],
            "would_cancel": [job.id for job in (*todo.untracked, *todo.stale)],
            "held_by_administrator": todo.held_by_administrator,
            "notes": preview.notes(todo.plan)}))
    else:
        click.echo(f"would {todo.describe()}" if todo.is_needed
                   else _nothing(name, only, todo, dry_run=True))


def _nothing(name: str, only: Sequence[str], todo: ResumePlan, *, dry_run: bool = False) -> str:
    """Return the message of a run with nothing to submit."""
    from l3hpc.workspace import origin

    if todo.finished and todo.taken_over:
        runs = sorted({run for several in todo.taken_over.values() for run in several})
        return (f"nothing left to compute ({', '.join(todo.taken_over)}: {origin.in_words(runs)}); "
                f"{name} {'would be' if dry_run else 'is'} done")
    they_are = "done, queued or running" if todo.live or not (only or todo.finished) else "done"
    if only:
        lines = [f"nothing to retry: {', '.join(only)} of {name} and the steps that depend on "
                 f"{in_number('[it|them]', len(only))} are {they_are}"]
        if todo.unchosen:
            lines.append(f"not done: {', '.join(todo.unchosen)}. To submit what is missing: "
                         f"{command_line('resume', name)}")
    else:
        lines = [f"nothing to resume: all steps of {name} are {they_are}"]
    return "\n".join([*lines, *(f"note: {note}" for note in todo.notes)])


def _note_administrator_holds(todo: ResumePlan) -> None:
    """Print a note about jobs that only an administrator can release."""
    from l3hpc.runs.status import held_message

    for step, jobs in todo.held_by_administrator.items():
        click.echo(f"note: {held_message(step, jobs)}", err=True)
