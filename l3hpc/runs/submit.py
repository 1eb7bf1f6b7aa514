"""Submitting a plan: the folder of the run with all that its jobs read, then the jobs themselves.

``submit`` is the whole of it; ``run_folder`` writes the folder, and ``submit_jobs`` submits the
jobs.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from l3hpc import schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, L3hpcError, command_line
from l3hpc.io.owners import current_user
from l3hpc.pipelines.planned import Plan
from l3hpc.runs import last_job, run_folder
from l3hpc.runs.job_scripts import RunScripts, render
from l3hpc.runs.submit_jobs import Submission, submit_steps
from l3hpc.schedulers.base import Scheduler
from l3hpc.workspace import artifacts, records, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord
from l3hpc.workspace.states import RunState, StepState


def submit(
    plan: Plan, *, test_only: bool = False, detach: bool = False,
    progress: Progress | None = None, on_submitted: Callable[[RunRecord], None] | None = None,
    scheduler: Scheduler | None = None, rendered: RunScripts | None = None,
) -> RunRecord:
    """Write the folder of a run and submit its missing tasks.

    Parameters
    ----------
    plan
        The plan of the run.
    test_only
        Have Slurm check every script (``sbatch --test-only``); submit and keep nothing.
    detach
        On ``local``: start a runner in the background and return at once. Otherwise the jobs run
        here, in the foreground.
    progress
        Receives the progress and notes.
    on_submitted
        Called with the record after the submission, before any job is run in the foreground.
    scheduler
        Of the plan's profile (``schedulers.prepared``), so that it need not be asked again what is
        known since the planning. None: it is asked here.
    rendered
        The scripts of the plan, if ``job_scripts.render`` has been called just now. None: it is
        called here.

    Returns
    -------
    RunRecord
        The record of the run.

    Raises
    ------
    InputError
        If the run exists, a step has no partition that can run it, or its script cannot be
        rendered.
    ClusterError
        If the cluster refuses a job; then no job of the run is left.
    L3hpcError
        If a step failed during the submission, so that others were not submitted.
    """
    progress = progress or Progress()
    scheduler = scheduler or schedulers.prepared(plan.profile, plan.workspace)
    if not test_only:
        sharing.check(plan.workspace, {step.kind for step in plan.steps})
    # before anything is written: a refusal here leaves no folder behind
    rendered = rendered or render(plan)
    if unchecked := scheduler.validate(plan):
        progress.note(unchecked)
    if test_only:
        return _check_scripts(plan, rendered, progress, scheduler)
    with run_folder.umask(plan.profile):
        with run_folder.create(plan):
            for warning in sharing.warnings((*sharing.find_risks(plan.workspace),
                                             *rendered.risks)):
                progress.note(warning)
            record = run_folder.write(plan, rendered)
            left_out = _submit_jobs(plan, rendered, record, progress)
        if on_submitted is not None:
            on_submitted(record)
        raise_if_incomplete(plan.run, left_out)
        if record.capabilities.runner \
                and any(step.state is StepState.SUBMITTED for step in record.steps):
            run_local(plan.workspace, plan.run, detach=detach)
            record = records.read(plan.workspace, plan.run)
    return record


def _submit_jobs(plan: Plan, rendered: RunScripts, record: RunRecord, progress: Progress
                 ) -> dict[str, str]:
    """Submit the jobs of a new run, and the one that follows it; return the steps that were left
    out, and why.
    """
    with run_folder.durable(progress) as syncing:
        syncing.add(run_folder.needed_to_resume(plan))
        left_out = submit_steps(Submission(
            plan, rendered, record, progress,
            lambda step: run_folder.write_new_step(plan, step, rendered.texts[step.name]),
            syncing))
        last_job.submit_job(plan.workspace, record, progress, syncing=syncing)
    return left_out


def raise_if_incomplete(run: str, left_out: Mapping[str, str]) -> None:
    """Raise an error if steps were left out of a submission.

    Parameters
    ----------
    run
        Name of the run.
    left_out
        What ``submit_jobs.submit_steps`` returned.

    Raises
    ------
    L3hpcError
        If there are any.
    """
    if left_out:
        first = next(iter(left_out.values()))
        raise L3hpcError(f"{first}, so {', '.join(left_out)} "
                         f"{'was' if len(left_out) == 1 else 'were'} not submitted",
                         hint=f"See: {command_line('status', run)}; then: "
                              + command_line("resume", run))


def run_local(workspace: Path, run: str, *, detach: bool) -> None:
    """Run the submitted jobs of a local run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    detach
        Whether a runner in the background does it; otherwise this process, with a display.
    """
    scheduler = schedulers.starting(schedulers.of_record(workspace, records.read(workspace, run)))
    if detach:
        scheduler.start_runner(run, Path.cwd())  # which runs the script of the last job, too
        return
    from l3hpc.runs import display

    shown = display.create_display(workspace)
    # TERM and HUP end the jobs as Ctrl-C does
    previous = {number: signal.signal(number, signal.default_int_handler)
                for number in (signal.SIGTERM, signal.SIGHUP)
                if signal.getsignal(number) is not signal.SIG_IGN} if _in_main_thread() else {}
    try:
        scheduler.run_jobs(run, shown)
    finally:
        shown.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    last_job.run_here(Workspace(workspace).run(run))


def succeeded(workspace: Path, record: RunRecord) -> bool:
    """Whether every step of a run is complete.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    """
    return all(len(artifacts.finished(Path(step.artifact))) >= step.tasks
               for step in record.steps)


def _check_scripts(plan: Plan, rendered: RunScripts, progress: Progress, scheduler: Scheduler
                   ) -> RunRecord:
    """Have the scheduler check every script."""
    import tempfile

    progress.start("checking", len(rendered.in_turn), "scripts")
    for script in rendered.in_turn:
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
            file.write(script.text)
            file.flush()
            try:
                scheduler.check(Path(file.name))
            except ClusterError as error:
                raise ClusterError(f"{script.step.name}: {error.message}",
                                   hint=error.hint) from None
        progress.advance(1)
    progress.finish()
    return RunRecord(
        run=plan.run, pipeline=plan.pipeline, cluster=plan.profile.name, created=time.time(),
        user=current_user(), host=socket.gethostname(), command=list(sys.argv),
        options=plan.options, state=RunState.TESTED, steps=[])


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def describe_jobs(record: RunRecord, steps: Collection[str] | None = None) -> str:
    """List submitted jobs in order.

    Parameters
    ----------
    record
        The record of the run.
    steps
        Only the jobs of these steps. Default: of all steps that have one.

    Returns
    -------
    str
        ``fit-6 42_0, fit-7 42_1 → train 44``: an arrow where jobs wait for the ones before it; ''
        for none.
    """
    ranks: dict[str, int] = {}  # a step comes after those it needs
    levels: dict[int, list[str]] = {}
    for step in record.steps:
        if step.job and (steps is None or step.name in steps):
            rank = max((ranks[need] + 1 for need in step.needs if need in ranks), default=0)
            ranks[step.name] = rank
            levels.setdefault(rank, []).append(f"{step.name} {step.job}")
    return " → ".join(", ".join(levels[rank]) for rank in sorted(levels))
