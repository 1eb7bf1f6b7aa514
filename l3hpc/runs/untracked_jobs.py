"""Jobs without a record: sbatch had submitted them, but their ids never reached us.

The submitting process or sbatch was killed, or the answer of sbatch was lost. Slurm knows the
script of such a job, and a script lies in one run's folder only. The job would not find its
pickle, which never got the id: it can only be cancelled.
"""

from __future__ import annotations

from pathlib import Path

from l3hpc.schedulers.slurm import identity, queue
from l3hpc.schedulers.slurm.identity import JobId
from l3hpc.workspace.records import RunRecord


def find(workspace: Path, record: RunRecord, answer: queue.Answer | None = None) -> list[JobId]:
    """The live jobs that were submitted with a script of this run and that no step of its record
    names, the leaf first. A ``ClusterError`` where squeue does not answer.

    answer: of all clusters of the record, where they were asked already.
    """
    if record.local:
        return []
    if answer is None:
        answer = queue.ask(record.user, identity.clusters(record))
    known: dict[str, list[JobId]] = {}
    for step in record.steps:
        for task, job in identity.of_step(workspace, record, step).items():
            known.setdefault(task.partition("_")[0], []).append(job)
    ranks = {step.name: rank for rank, step in enumerate(record.steps[::-1])}
    found: dict[JobId, int] = {}
    for task, live in answer.live.items():
        base = task.partition("_")[0]
        for origin in {job.origin for job in live}:
            rank = ranks.get(identity.step_of(workspace, record.run, origin) or "")
            if origin.name.endswith(identity.HELPER):  # its log lies beside the step's
                continue
            if rank is not None and not any(one.owns(origin) for one in known.get(base, ())):
                found[JobId(base, origin.asked)] = rank
    return sorted(found, key=lambda job: (found[job], -int(job.id)))
