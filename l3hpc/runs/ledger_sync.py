"""Where the results sheet is synchronised: the cluster profile's choice (``ledger_sync``).

By hand, by ``--watch`` or by cron are said after a submission. By job, a small Slurm job follows
each run in a partition with internet; it waits for the end of all jobs of the run, whatever their
end is. It belongs to no step: a run neither fails nor waits because of it.
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
from l3hpc.workspace.records import RunRecord

if TYPE_CHECKING:
    pass

GIVE_UP_S = 60.0  # a run does not wait for it


def wanted(plan: Plan) -> bool:
    """Whether a job follows the runs of this plan."""
    return (plan.profile.capabilities.after_end and plan.profile.ledger_sync.by == "job"
            and plan.ledger is not None and plan.ledger.sheet_id is not None)


def script(plan: Plan) -> str:
    """The text of the job. Raises ``ValueError`` where the plan has no results sheet."""
    from markupsafe import Markup

    profile, ledger = plan.profile, plan.ledger
    if ledger is None or ledger.sheet_id is None:
        raise ValueError(f"{plan.run} has no results sheet")
    words = [*profile.container, profile.python, "-m", "l3hpc", "ledger", "sync",
             "--workspace", str(plan.workspace), "--sheet", ledger.sheet_id]
    words += ["--key-file", str(ledger.key_file)] if ledger.key_file else []
    return scripts.text_of("ledger-sync.sbatch.j2", {
        "directives": [Markup(line) for line in _directives(plan)],
        "setup": [Markup(line) for line in profile.setup], "env": profile.env,
        "umask": "007" if profile.shared_group else "077",
        "command": Markup(" ".join(scripts.quoted(word) for word in words))})


def prepare(plan: Plan) -> None:
    """Write the job's script into the folder of the run, for now and for each resumption."""
    if wanted(plan):
        write_text(plan.folder.sync_script, script(plan), durable=False)


def follow(workspace: Path, record: RunRecord, progress: Progress, since: float = 0.0) -> None:
    """Submit the job behind all jobs of a run. A refusal is said, and nothing else happens.

    since: when the submission of these jobs began (unix seconds).
    """
    path = Workspace(workspace).run(record.run).sync_script
    if not path.is_file():
        return
    try:
        jobs = _to_wait_for(workspace, record, since)
    except ClusterError as error:
        progress.note(f"no job for the results sheet: {error.message}; later: l3hpc ledger sync")
        return
    if not jobs:
        return
    before = {record.sync_job or ""}
    try:
        job = schedulers.of_record(workspace, record).submit(JobRequest(
            path, record.run, behind=tuple(jobs), cluster=jobs[0].cluster,
            known=lambda: before, say=progress.note, give_up_s=GIVE_UP_S))
    except OutcomeUnknownError as error:
        progress.note(f"whether a job for the results sheet was submitted is not known: "
                      f"{error.message}; later: l3hpc ledger sync")
        return
    except ClusterError as error:
        progress.note(f"no job for the results sheet: {error.message}; later: l3hpc ledger sync")
        return
    record.sync_job = job.id
    records.write(workspace, record)


def _to_wait_for(workspace: Path, record: RunRecord, since: float) -> list[JobId]:
    """What was submitted since then, and of the earlier jobs of the run those that still wait or
    run (an old number may be anybody's)."""
    jobs: dict[JobId, None] = {}
    old = any(attempt.time < since for step in record.steps for attempt in step.attempts)
    live = status.live_tasks(workspace, record) if old else {}
    for step in record.steps:
        alive = {task.job for task in live.get(step.name, {}).values()}
        for attempt in step.attempts:
            if attempt.time >= since or alive & {*attempt.task_ids.values()}:
                jobs[submitted_job(attempt)] = None
    return list(jobs)


def words(plan: Plan, record: RunRecord) -> str | None:
    """How the rows of a run get into the sheet; None where no sheet is set."""
    if plan.ledger is None or plan.ledger.sheet_id is None:
        return None
    return {
        "hand": "l3hpc ledger sync   where there is internet",
        "watch": "by l3hpc ledger sync --watch 60, where it runs",
        "cron": "by cron (l3hpc ledger cron prints the line)",
        "job": f"by job {record.sync_job} when all have ended" if record.sync_job
               else "l3hpc ledger sync   (no job was submitted for it)",
    }[plan.profile.ledger_sync.by]


def _directives(plan: Plan) -> list[str]:
    profile = plan.profile
    own = profile.ledger_sync
    lines = [scripts.directive("job-name", f"l3-{plan.run}-ledger-sync")]
    for name in ("account", "partition", "qos", "constraint", "wckey"):
        value = getattr(own, name, None) or getattr(profile, name)
        if value:
            lines.append(scripts.directive(name, value))
    lines += [scripts.directive("nodes", 1), scripts.directive("ntasks", 1),
              scripts.directive("cpus-per-task", 1)]
    if profile.memory_request == "mem":
        lines.append(scripts.directive("mem", f"{own.mem}M"))
    elif profile.memory_request == "mem-per-cpu":
        lines.append(scripts.directive("mem-per-cpu", f"{own.mem}M"))
    log = str(plan.folder.sync_log).replace("%", "%%")
    return [*lines, scripts.directive("time", slurm_time(own.time)),
            scripts.directive("output", log), scripts.directive("open-mode", "append")]
