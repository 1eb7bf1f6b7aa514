"""How the results sheet is synchronised after a submission: ``ledger_sync`` of the cluster profile.

By ``hand``, ``watch`` and ``cron`` need no job, and are only mentioned. With ``job``, a small Slurm
job follows each run in a partition with internet access; it depends on the end of all jobs of the
run, in whatever way they end, and sends the messages that are due about it as well. It belongs to
no step: a run neither fails nor waits because of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from l3hpc import schedulers
from l3hpc.config.units import slurm_time
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError
from l3hpc.io.files import write_text
from l3hpc.pipelines.planned import Plan
from l3hpc.runs import status
from l3hpc.schedulers import scripts
from l3hpc.schedulers.base import JobId, JobRequest, OutcomeUnknownError, submitted_job
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord

if TYPE_CHECKING:
    from markupsafe import Markup

GIVE_UP_S = 60.0  # short, because no step depends on the job


def needs_job(plan: Plan) -> bool:
    """Whether a job follows the runs of a plan.

    Parameters
    ----------
    plan
        The plan of the run.
    """
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
        If the plan has neither a results sheet nor addresses for messages.
    """
    from markupsafe import Markup

    if not _has_sheet(plan) and plan.profile.notify is None:
        raise ValueError(f"{plan.run} has no results sheet and no addresses for messages")
    profile, ledger = plan.profile, plan.ledger
    program = [*profile.container, profile.python, "-m", "l3hpc"]
    sync, notify = [], []
    if ledger is not None and ledger.sheet_id is not None:
        sync = [*program, "ledger", "sync", "--workspace", str(plan.workspace),
                "--sheet", ledger.sheet_id]
        sync += ["--key-file", str(ledger.key_file)] if ledger.key_file else []
    if profile.notify is not None:
        notify = [*program, "notify", "--workspace", str(plan.workspace)]
        # the addresses are secrets: the script names the file that has them
        notify += ["--config", str(plan.config_file.absolute())] if plan.config_file else []
    return scripts.render_template("ledger-sync.sbatch.j2", {
        "directives": [Markup(line) for line in _directives(plan)],
        "setup": [Markup(line) for line in profile.setup], "env": profile.env,
        "umask": "007" if profile.shared_group else "077",
        "command": _shell(sync), "notify": _shell(notify)})


def _has_sheet(plan: Plan) -> bool:
    return plan.ledger is not None and plan.ledger.sheet_id is not None


def _shell(words: list[str]) -> Markup:
    from markupsafe import Markup

    return Markup(" ".join(scripts.quoted(word) for word in words))


def prepare(plan: Plan) -> None:
    """Write the script of the job into the folder of the run, for now and for each resumption.

    Parameters
    ----------
    plan
        The plan of the run.
    """
    if needs_job(plan):
        write_text(plan.folder.sync_script, script_text(plan), durable=False)


def submit_job(workspace: Path, record: RunRecord, progress: Progress, since: float = 0.0) -> None:
    """Submit the job, depending on all jobs of a run. A refusal is noted, and nothing else happens.

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
    """
    path = Workspace(workspace).run(record.run).sync_script
    if not path.is_file():
        return
    try:
        jobs = _jobs_to_follow(workspace, record, since)
    except ClusterError as error:
        _note_failure(progress, error)
        return
    if not jobs:
        return
    recorded = {record.sync_job or ""}
    try:
        job = schedulers.of_record(workspace, record).submit(JobRequest(
            path, record.run, after_any=tuple(jobs), cluster=jobs[0].cluster,
            recorded=lambda: recorded, notify=progress.note, give_up_s=GIVE_UP_S))
    except OutcomeUnknownError as error:
        progress.note(f"it is not known whether a job for the results sheet was submitted: "
                      f"{error.message}; run l3hpc ledger sync later")
        return
    except ClusterError as error:
        _note_failure(progress, error)
        return
    record.sync_job = job.id
    records.write(workspace, record)


def _note_failure(progress: Progress, error: ClusterError) -> None:
    progress.note(f"no job for the results sheet was submitted: {error.message}; run l3hpc ledger "
                  "sync later")


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
    return {
        "hand": "run l3hpc ledger sync where there is internet access",
        "watch": "synchronised by l3hpc ledger sync --watch 60, where that is running",
        "cron": "synchronised by cron (l3hpc ledger cron prints the line)",
        "job": f"synchronised by job {record.sync_job} after all jobs of this run"
               if record.sync_job else "run l3hpc ledger sync (no job was submitted for it)",
    }[plan.profile.ledger_sync.by]


def _directives(plan: Plan) -> list[str]:
    profile = plan.profile
    settings = profile.ledger_sync
    lines = [scripts.directive("job-name", f"l3-{plan.run}-ledger-sync")]
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
    log = str(plan.folder.sync_log).replace("%", "%%")
    return [*lines, scripts.directive("time", slurm_time(settings.time)),
            scripts.directive("output", log), scripts.directive("open-mode", "append")]
