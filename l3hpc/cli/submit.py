"""``l3hpc submit``: show what will run, then submit it as a chain of jobs."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.planning import (
    PlanCommand,
    confirm,
    naming_resume,
    note_unused,
    plan_options,
    tell,
)
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
    from collections.abc import Iterator

    from l3hpc.console.progress import Progress
    from l3hpc.pipelines.planned import Plan, PlannedStep
    from l3hpc.runs.job_scripts import RunScripts
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
    from l3hpc.runs import job_scripts
    from l3hpc.workspace import sharing

    asked: list[Scheduler] = []  # while the plan is made
    with _nothing_submitted(InputError):
        plan, swept = plan_from_options(pipeline, values, lambda config: asked.append(
            schedulers.prepared(config.profile, config.workspace)))
        [scheduler] = asked
        rendered = job_scripts.render(plan, dry_run=dry_run)
        unchecked = scheduler.validate(plan) if dry_run else ""
    note_unused(plan.profile)
    if unchecked:
        click.echo(f"note: {unchecked}", err=True)
    for warning in sharing.warnings(rendered.risks) if dry_run else ():  # otherwise when submitted
        click.echo(warning, err=True)
    if not as_json:
        click.echo(preview.as_text(plan))
        if swept is not None:
            click.echo("\n" + "\n".join([sweep.table(swept), *_arrays(rendered)]))
    if dry_run:
        _finish(plan, None, as_json, "nothing was submitted (--dry-run)")
        return EXIT_OK
    if not (yes or test_only) and _confirm(plan):
        # other runs may have begun meanwhile with what this one would compute
        with _nothing_submitted(InputError):
            rendered = job_scripts.render(plan)

    from l3hpc.console.progress import Progress, default_progress
    from l3hpc.runs import submit

    progress = Progress() if plan.profile.capabilities.runner else default_progress()
    if test_only:
        _test(plan, scheduler, rendered, progress, as_json)
        return EXIT_OK
    with naming_resume(plan.workspace, plan.run), _nothing_submitted(InputError):
        record = submit.submit(
            plan, detach=detach, progress=progress, scheduler=scheduler, rendered=rendered,
            on_submitted=None if as_json else lambda record: tell(_submitted(plan, record)))
    if as_json:
        _finish(plan, record, True, "")
    if detach or not plan.profile.capabilities.runner:
        return EXIT_OK
    return _after_the_run(plan, record, as_json, values["config_file"])


def _after_the_run(plan: Plan, record: RunRecord, as_json: bool, config_file: str | None) -> int:
    """Print how a run in the foreground has ended; return the exit code."""
    from l3hpc.runs import submit

    for line in announce(plan.workspace, config_file):
        click.echo(line, err=True)
    if not submit.succeeded(plan.workspace, record):
        why = command_line("status", plan.run)
        click.echo(f"\n{plan.run} did not finish. Why:   {why}", err=True)
        return EXIT_FAILED
    if not as_json and any(step.job for step in record.steps):
        # steps that record no row leave files and the report
        shown = command_line("ledger", "show") if any(map(_tab, plan.steps)) else (
            command_line("report", plan.run))
        click.echo(f"\n{plan.run} is done. Results:   {shown}      files: {plan.folder.artifacts}")
    return EXIT_OK


def _confirm(plan: Plan) -> bool:
    """Ask for confirmation of an expensive plan; without a terminal, refuse it. Return whether the
    user was asked.
    """
    from l3hpc.pipelines import preview

    if not preview.needs_confirmation(plan):
        return False
    if not sys.stdin.isatty():
        with _nothing_submitted(InputError):
            raise InputError(f"this may cost {preview.maximum_cost(plan).as_text()}",
                             hint="if that is intended: --yes")
    confirm("\nsubmit it?", "nothing was submitted")
    return True


def _test(plan: Plan, scheduler: Scheduler, rendered: RunScripts, progress: Progress,
          as_json: bool) -> None:
    """Have the cluster check every script of the plan, and print the result."""
    from l3hpc.runs import submit

    with _nothing_submitted(L3hpcError):
        submit.submit(plan, test_only=True, progress=progress, scheduler=scheduler,
                      rendered=rendered)
    count = sum(bool(step.missing) for step in plan.steps)
    scripts = in_number(f"[the script|all {count} scripts]", count)
    _finish(plan, None, as_json, f"{plan.profile.name} would accept {scripts}; "
                                 "nothing was submitted (--test-only)")


def _arrays(rendered: RunScripts) -> list[str]:
    """Return a line for each group of steps of a sweep that is submitted as one array."""
    return [f"  one job array: {' '.join(names)}" for names in rendered.arrays]


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


@contextlib.contextmanager
def _nothing_submitted(kind: type[L3hpcError]) -> Iterator[None]:
    """Add to an error of this kind that nothing was submitted."""
    try:
        yield
    except kind as error:
        raise error.replaced(hint=Lines(error.hint, "nothing was submitted")) from None
