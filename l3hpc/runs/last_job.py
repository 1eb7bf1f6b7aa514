"""The job that follows a run, in whatever way its jobs end: report, messages, results sheet.

It writes the report (``report`` of the cluster profile); with ``ledger_sync: {by: job}``, it also
sends the messages that are due and synchronises the sheet, in a partition with internet access. It
belongs to no step: a run neither fails nor waits because of it. On ``local``, its script runs after
the last job.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from l3hpc import schedulers
from l3hpc.config.profile import LedgerSync
from l3hpc.config.units import slurm_time
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, command_line
from l3hpc.io.syncing import Syncing
from l3hpc.pipelines.planned import Plan
from l3hpc.runs import status
from l3hpc.schedulers import scripts, templates
from l3hpc.schedulers.jobs import JobId, submitted_job
from l3hpc.schedulers.requests import JobRequest, OutcomeUnknownError
from l3hpc.workspace import records
from l3hpc.workspace.layout import RunFolder, Workspace
from l3hpc.workspace.run_record import RunRecord

if TYPE_CHECKING:
    from markupsafe import Markup

GIVE_UP_S = 60.0  # short, because no step depends on the job
HERE_S = 300.0  # a report of a large workspace takes seconds


def needs_job(plan: Plan) -> bool:
    """Whether a job follows the runs of a plan.

    Parameters
    ----------
    plan
        The plan of the run.
    """
    can_follow = plan.profile.capabilities.after_end or plan.profile.capabilities.runner
    return can_follow and plan.profile.report or _needs_network(plan)


def _needs_network(plan: Plan) -> bool:
    """Whether the job synchronises the sheet or sends messages."""
    return (plan.profile.capabilities.after_end and plan.profile.ledger_sync.by == "job"
            and (_has_sheet(plan) or plan.profile.notify is not None))


def script_text(plan: Plan) -> str:
    """Return the script of the job.

    Parameters
    ----------
    plan
        The plan of the run.

    Raises
    ------
    ValueError
        If no job follows the runs of the plan.
    """
    from markupsafe import Markup

    if not needs_job(plan):
        raise ValueError(f"no job follows {plan.run}")
    profile, ledger, network = plan.profile, plan.ledger, _needs_network(plan)
    program = [*profile.container, profile.python, "-m", "l3hpc"]
    report, sync, notify = [], [], []
    if profile.report:
        report = [*program, "report", plan.run, "--workspace", str(plan.workspace)]
    if network and ledger is not None and ledger.sheet_id is not None:
        sync = [*program, "ledger", "sync", "--workspace", str(plan.workspace),
                "--sheet", ledger.sheet_id]
        sync += ["--key-file", str(ledger.key_file)] if ledger.key_file else []
    if network and profile.notify is not None:
        notify = [*program, "notify", "--workspace", str(plan.workspace)]
        # the addresses are secrets: the script names the file that has them
        notify += ["--config", str(plan.config_file.absolute())] if plan.config_file else []
    return templates.render(["ledger-sync.sbatch.j2"], {
        "directives": [Markup(line) for line in _directives(plan)],
        "setup": [Markup(line) for line in profile.setup], "env": profile.env,
        "umask": "007" if profile.shared_group else "077",
        "report": _shell(report), "notify": _shell(notify), "command": _shell(sync)})[0]


def _has_sheet(plan: Plan) -> bool:
    return plan.ledger is not None and plan.ledger.sheet_id is not None


def _shell(words: list[str]) -> Markup:
    from markupsafe import Markup

    return Markup(" ".join(templates.quoted(word) for word in words))


def follows(workspace: Path, record: RunRecord) -> bool:
    """Whether ``submit_job`` has a job to submit. Where a runner starts the jobs, it has none: see
    ``run_here``.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    """
    return not record.capabilities.runner \
        and Workspace(workspace).run(record.run).sync_script.is_file()


def submit_job(workspace: Path, record: RunRecord, progress: Progress, since: float = 0.0,
               syncing: Syncing | None = None) -> None:
    """Submit the job, depending on all jobs of a run, and write the record, if a job follows.

    One that still waits, of an earlier submission, is cancelled: the new one does all it would do,
    and later. A refusal is noted, and nothing else happens.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    progress
        Receives the note.
    since
        When the submission of the jobs of the run began, unix seconds.
    syncing
        As in ``records.write``.
    """
    if not follows(workspace, record):
        return
    written = False

    def write() -> None:
        nonlocal written
        if not written:
            records.write(workspace, record, syncing=syncing)
            written = True

    def meanwhile() -> None:
        with contextlib.suppress(OSError):  # raised when it is written at last
            write()

    earlier, job = record.sync_job, None
    try:
        if job := _submit(workspace, record, progress, since, meanwhile):
            record.sync_job, written = job.id, False
    finally:
        write()
    if job and earlier:
        # if Slurm does not answer, the report is written twice
        with contextlib.suppress(ClusterError):
            scheduler = schedulers.of_record(workspace, record)
            scheduler.cancel([
                other for other in scheduler.jobs(record).following(record, pending=True)
                if other.id != job.id], record.run)


def recover_job(workspace: Path, record: RunRecord, progress: Progress) -> None:
    """Put the job on record if the submission was killed before it could, and submit it if that
    has not been done.

    Does nothing once all jobs of the run have ended.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    progress
        Receives a note.
    """
    if record.sync_job and _follows_all(record, record.sync_job) or not follows(workspace, record):
        return
    try:
        found = schedulers.of_record(workspace, record).jobs(record).following(record)
    except ClusterError as error:
        _note_failure(progress, record.run, Workspace(workspace).run(record.run).sync_script, error)
        return
    if found := [job for job in found if _follows_all(record, job.id)]:
        record.sync_job = found[-1].id
        records.write(workspace, record)
    else:
        submit_job(workspace, record, progress, time.time())


def _follows_all(record: RunRecord, job: str) -> bool:
    """Whether a job was submitted after all jobs of the run. That of an earlier submission does not
    wait for those that a resumption has submitted.
    """
    attempts = [attempt for step in record.steps for attempt in step.attempts]
    ids = [job, *(attempt.base for attempt in attempts)]
    if len({attempt.cluster for attempt in attempts}) > 1 or not all(map(str.isdecimal, ids)):
        return True  # clusters have ids of their own; other schedulers may not count
    return max(ids, key=int) == job


def _submit(workspace: Path, record: RunRecord, progress: Progress, since: float,
            meanwhile: Callable[[], None]) -> JobId | None:
    """The job; None, and a note, if it was not submitted. meanwhile: as in ``JobRequest``."""
    path = Workspace(workspace).run(record.run).sync_script
    try:
        jobs = _jobs_to_follow(workspace, record, since)
        if not jobs:
            return None
        recorded = {record.sync_job or ""}
        return schedulers.of_record(workspace, record).submit(JobRequest(
            path, record.run, after_any=tuple(jobs), cluster=jobs[0].cluster,
            recorded=lambda: recorded, notify=progress.note, give_up_s=GIVE_UP_S,
            meanwhile=meanwhile))
    except OutcomeUnknownError as error:
        what, instead = _purpose(record.run, path)
        progress.note(f"it is not known whether a job for {what} was submitted: "
                      f"{error.message}; run {instead} later")
    except ClusterError as error:
        _note_failure(progress, record.run, path, error)
    return None


def _note_failure(progress: Progress, run: str, script: Path, error: ClusterError) -> None:
    what, instead = _purpose(run, script)
    progress.note(f"no job for {what} was submitted: {error.message}; run {instead} later")


def _purpose(run: str, script: Path) -> tuple[str, str]:
    """What the job is for, and the commands that do the same by hand."""
    text = script.read_text(encoding="utf-8", errors="replace")
    purposes = {" report ": ("the report", command_line("report", run)),
                " ledger sync ": ("the results sheet", command_line("ledger", "sync"))}
    there = [words for sign, words in purposes.items() if f"-m l3hpc{sign}" in text]
    return (" and ".join(what for what, _ in there) or "messages",
            " and ".join(command for _, command in there) or command_line("notify"))


def run_here(folder: RunFolder) -> None:
    """Run the script of the job on this machine, after the last job of a local run.

    What it prints is in its log. It never fails.

    Parameters
    ----------
    folder
        The folder of the run.
    """
    if not folder.sync_script.is_file():
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired), \
            open(folder.sync_log, "ab") as log:
        subprocess.run(["bash", str(folder.sync_script)], stdin=subprocess.DEVNULL, stdout=log,
                       stderr=log, check=False, timeout=HERE_S)


def _jobs_to_follow(workspace: Path, record: RunRecord, since: float) -> list[JobId]:
    """What was submitted since then, and those earlier jobs of the run that are still live (an old
    id may be that of any job).
    """
    jobs: dict[JobId, None] = {}
    resumed = any(attempt.time < since for step in record.steps for attempt in step.attempts)
    live = status.live_tasks(workspace, record) if resumed else {}
    for step in record.steps:
        live_jobs = {task.job for task in live.get(step.name, {}).values()}
        for attempt in step.attempts:
            if attempt.time >= since or live_jobs & {*attempt.task_ids.values()}:
                jobs[submitted_job(attempt)] = None
    return list(jobs)


def describe(plan: Plan, record: RunRecord) -> str | None:
    """Describe how the rows of a run get into the results sheet.

    Parameters
    ----------
    plan
        The plan of the run.
    record
        Its record.

    Returns
    -------
    str or None
        None if no sheet is set.
    """
    if plan.ledger is None or plan.ledger.sheet_id is None:
        return None
    once, watch = command_line("ledger", "sync"), command_line("ledger", "sync", "--watch", "60")
    return {
        "hand": f"run {once} where there is internet access",
        "watch": f"synchronised by {watch}, where that is running",
        "cron": f"synchronised by cron ({command_line('ledger', 'cron')} prints the line)",
        "job": f"synchronised by job {record.sync_job} after all jobs of this run"
               if record.sync_job else f"run {once} (no job was submitted for it)",
    }[plan.profile.ledger_sync.by]


def _directives(plan: Plan) -> list[str]:
    profile = plan.profile
    # without network, the partition with internet access is not needed
    settings = profile.ledger_sync if _needs_network(plan) else LedgerSync()
    name = "ledger-sync" if _needs_network(plan) else "report"
    lines = [scripts.directive("job-name", f"l3-{plan.run}-{name}")]
    for name in ("account", "partition", "qos", "constraint", "wckey"):
        value = getattr(settings, name, None) or getattr(profile, name)
        if value:
            lines.append(scripts.directive(name, value))
    lines += [scripts.directive("nodes", 1), scripts.directive("ntasks", 1),
              scripts.directive("cpus-per-task", 1)]
    if profile.memory_request == "mem":
        lines.append(scripts.directive("mem", f"{settings.mem}M"))
    elif profile.memory_request == "mem-per-cpu":
        lines.append(scripts.directive("mem-per-cpu", f"{settings.mem}M"))
    for option in profile.small_job_options():
        name, _, value = option.removeprefix("--").partition("=")
        lines.append(scripts.directive(name, value or None))
    log = str(plan.folder.sync_log).replace("%", "%%")
    return [*lines, scripts.directive("time", slurm_time(settings.time)),
            scripts.directive("output", log), scripts.directive("open-mode", "append")]
