"""``l3hpc resume`` and ``l3hpc retry``: continue a run that failed, was cancelled or lost jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from l3hpc.cli.place import complete_run, complete_step, workspace, workspace_options
from l3hpc.cli.planning import confirm, naming_resume, note_unused, tell
from l3hpc.errors import EXIT_FAILED, EXIT_OK, command_line
from l3hpc.io.values import in_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from l3hpc.runs.resume_plan import ResumePlan
    from l3hpc.workspace.run_record import RunRecord

_SETS = click.option("--set", "sets", multiple=True, metavar="STEP.RESOURCE=VALUE",
                     help="Override the cpus, mem, gpus, time or pack of a step.")
_DETACH = click.option("--detach", is_flag=True,
                       help="On local: return at once and run in the background.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show what would be submitted.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was submitted as JSON.")


@click.command("resume", epilog="""\b
Examples:
  l3hpc resume latest
  l3hpc resume downstream-20261119-99fe --set classify.mem=160GB
  l3hpc resume latest --from fit                 recompute fit and everything after it
""")
@click.argument("run", shell_complete=complete_run)
@_SETS
@click.option("--from", "again", metavar="STEP", shell_complete=complete_step,
              help="Recompute STEP and everything after it, finished or not.")
@click.option("--yes", is_flag=True, help="With --from: discard results without asking.")
@_DETACH
@_DRY_RUN
@_JSON
@workspace_options
def command(run: str, yes: bool, **values: Any) -> int:
    """Submit the missing and failed tasks of RUN again, and nothing else.

    Finished tasks are kept, queued and running jobs are left alone, and dependent steps wait only
    for jobs that have not ended.
    """
    return _continue(run, (), yes, **values)


@click.command(epilog="""\b
Examples:
  l3hpc retry latest train
  l3hpc retry latest classify --set classify.mem=160GB
""")
@click.argument("run", shell_complete=complete_run)
@click.argument("steps", nargs=-1, required=True, metavar="STEP...", shell_complete=complete_step)
@_SETS
@_DETACH
@_DRY_RUN
@_JSON
@workspace_options
def retry(run: str, steps: tuple[str, ...], **values: Any) -> int:
    """Submit the failed tasks of STEP in RUN again, and the steps that depend on it.

    Other failed steps stay as they are: 'resume' submits them all. Finished tasks are kept: to
    recompute them, use 'resume --from STEP'.
    """
    return _continue(run, steps, True, again=None, **values)


def _continue(run: str, only: tuple[str, ...], yes: bool, *, sets: tuple[str, ...],
              again: str | None, detach: bool, dry_run: bool, as_json: bool,
              config_file: str | None, workspace_dir: str | None) -> int:
    """Find out what is missing in a run, print it and submit it."""
    from l3hpc.config import settings
    from l3hpc.console.progress import default_progress
    from l3hpc.runs import resume, resume_plan, submit
    from l3hpc.workspace import records

    folder = workspace(config_file, workspace_dir)
    name = records.find(folder, run)
    profile = settings.load(config_file, records.read(folder, name).cluster).profile
    note_unused(profile)
    told = _Messages(folder, name, only, yes, as_json)
    if dry_run:
        todo = resume_plan.plan_resume(folder, name, profile, sets, only=only, again=again or "",
                                       progress=default_progress())
        told.dry_run(todo)
        return EXIT_OK
    # the plan is made inside of resume, under the lock of the run: what is announced is submitted
    with naming_resume(folder, name):
        record = resume.resume(folder, name, profile, sets=sets, only=only, again=again or "",
                               detach=detach, progress=default_progress(), on_planned=told.plan,
                               on_submitted=told.submitted)
    [todo] = told.plans
    if as_json and not todo.is_needed:
        click.echo(json.dumps({"run": name, "would_submit": {}, "would_release": []}))
    if todo.steps and record.capabilities.runner and not detach \
            and not submit.succeeded(folder, record):
        return EXIT_FAILED
    return EXIT_OK


@dataclass
class _Messages:
    """What is printed about a run that is continued; ``plans`` are those that were announced."""

    workspace: Path
    run: str
    only: tuple[str, ...]
    yes: bool
    as_json: bool
    plans: list[ResumePlan] = field(default_factory=list)

    def dry_run(self, todo: ResumePlan) -> None:
        """Print what would be submitted."""
        from l3hpc.pipelines import preview

        if self.as_json:
            click.echo(json.dumps({
                "run": self.run,
                "would_submit": {step.name: list(step.missing) for step in todo.steps},
                "would_leave_out": todo.left_out,
                "would_release": [job.id for job in todo.held],
                "would_cancel": [job.id for job in (*todo.untracked, *todo.stale)],
                "held_by_administrator": todo.held_by_administrator,
                "notes": preview.notes(todo.plan)}))
        else:
            click.echo(f"would {todo.describe()}" if todo.is_needed
                       else _nothing(self.run, self.only, todo, dry_run=True))
        self._notes(todo)

    def plan(self, todo: ResumePlan) -> None:
        """Announce what will be submitted; ask before results are discarded."""
        from l3hpc.runs import resume_plan

        self.plans.append(todo)
        self._notes(todo)
        if todo.recompute and not self.yes:
            others = resume_plan.used_by(self.workspace, self.run, todo.recompute)
            names = ", ".join(step.name for step in todo.recompute)
            also = f" (also used by {', '.join(others)})" if others else ""
            confirm(f"discard the results of {names}{also}?",
                    "nothing was discarded or submitted")
        if not self.as_json:
            click.echo(f"resuming {self.run}: {todo.describe()}" if todo.is_needed
                       else _nothing(self.run, self.only, todo))

    def submitted(self, record: RunRecord, steps: list[str]) -> None:
        """Print what was submitted."""
        tell(self._submitted(record, steps))

    def _submitted(self, record: RunRecord, steps: list[str]) -> str:
        from l3hpc.pipelines import preview
        from l3hpc.runs import submit
        from l3hpc.workspace import records

        if self.as_json:
            [todo] = self.plans
            return json.dumps({
                "run": self.run,
                "submitted": {step: records.step(record, step).job for step in steps},
                "left_out": todo.left_out,
                "released": [job.id for job in todo.held],
                "cancelled": [job.id for job in (*todo.untracked, *todo.stale)],
                "notes": preview.notes(todo.plan)})
        chain = submit.describe_jobs(record, steps)
        return (f"resumed {self.run}" + (f": {chain}" if chain else "")
                + "\nfollow it with   " + command_line("status", self.run, "--watch"))

    def _notes(self, todo: ResumePlan) -> None:
        from l3hpc.pipelines import preview
        from l3hpc.runs.status import held_message

        for step, jobs in todo.held_by_administrator.items():
            click.echo(f"note: {held_message(step, jobs)}", err=True)
        for text in () if self.as_json else preview.notes(todo.plan):
            click.echo(f"note: {text}", err=True)


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
