"""Where the results sheet is synchronised: the cluster profile's choice (``ledger_sync``).

By hand, by ``--watch`` or by cron are said after a submission. By job, a small Slurm job follows
each run in a partition with internet; it waits for the end of all jobs of the run, whatever their
end is. It belongs to no step: a run neither fails nor waits because of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import ClusterError
from l3hpc.files import write_text
from l3hpc.progress import Progress
from l3hpc.workflow import artifacts, records, render, waiting
from l3hpc.workflow.model import Plan, RunRecord
from l3hpc.workflow.shell import call
from l3hpc.workflow.units import slurm_time

if TYPE_CHECKING:
    from l3hpc.workflow.profile import ClusterProfile

FILE = "ledger-sync.sbatch"
SBATCH_TIMEOUT_S = 120


def wanted(plan: Plan) -> bool:
    """Whether a job follows the runs of this plan."""
    return (plan.profile.executor == "slurm" and plan.profile.ledger_sync.by == "job"
            and plan.ledger is not None and plan.ledger.sheet_id is not None)


def script(plan: Plan) -> str:
    """The text of the job."""
    from markupsafe import Markup

    profile: ClusterProfile = plan.profile
    ledger = plan.ledger
    words = [*profile.container, profile.python, "-m", "l3hpc", "ledger", "sync",
             "--workspace", str(plan.workspace), "--sheet", ledger.sheet_id]
    words += ["--key-file", str(ledger.key_file)] if ledger.key_file else []
    return render.text_of("ledger-sync.sbatch.j2", {
        "directives": [Markup(line) for line in _directives(plan)],
        "setup": [Markup(line) for line in profile.setup], "env": profile.env,
        "umask": "007" if profile.shared_group else "077",
        "command": Markup(" ".join(render.quoted(word) for word in words))})


def prepare(plan: Plan) -> None:
    """Write the job's script into the folder of the run, for now and for each resumption."""
    if wanted(plan):
        write_text(plan.folder / FILE, script(plan), durable=False)


def follow(workspace: Path, record: RunRecord, progress: Progress) -> None:
    """Submit the job behind all jobs of a run. A refusal is said, and nothing else happens."""
    path = records.run_folder(workspace, record.run) / FILE
    jobs = [job for step in record.steps if step.job
            for job in waiting.open_jobs(step, artifacts.finished(step.artifact)) or [step.job]]
    if not jobs or not path.is_file():
        return
    try:
        answer = call(["sbatch", "--parsable", f"--dependency=afterany:{':'.join(jobs)}",
                       str(path)], timeout_s=SBATCH_TIMEOUT_S)
    except ClusterError as error:
        progress.note(f"no job for the results sheet: {error.message}; later: l3hpc ledger sync")
        return
    record.sync_job = answer.strip().splitlines()[-1].partition(";")[0]
    records.write(workspace, record)


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
    profile: ClusterProfile = plan.profile
    own: Any = profile.ledger_sync
    lines = [render.directive("job-name", f"l3-{plan.run}-ledger-sync")]
    for name in ("account", "partition", "qos", "constraint", "wckey"):
        value = getattr(own, name, None) or getattr(profile, name)
        if value:
            lines.append(render.directive(name, value))
    lines += [render.directive("nodes", 1), render.directive("ntasks", 1),
              render.directive("cpus-per-task", 1)]
    if profile.memory_request == "mem":
        lines.append(render.directive("mem", f"{own.mem}M"))
    elif profile.memory_request == "mem-per-cpu":
        lines.append(render.directive("mem-per-cpu", f"{own.mem}M"))
    log = str(plan.folder / "ledger-sync.log").replace("%", "%%")
    return [*lines, render.directive("time", slurm_time(own.time)),
            render.directive("output", log), render.directive("open-mode", "append")]
