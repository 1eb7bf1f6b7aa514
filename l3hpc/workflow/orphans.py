"""Jobs without a record: the submitting process was killed after sbatch, before it noted the id.

Slurm knows by which script such a job was submitted, and a script lies in one run's folder only.
The job would not find its pickle, which never got the id: it can only be cancelled.
"""

from __future__ import annotations

import os
from pathlib import Path

from l3hpc.workflow import queue, records
from l3hpc.workflow.model import RunRecord


def find(workspace: Path, record: RunRecord) -> list[str]:
    """Base ids of the live jobs that were submitted with a script of this run and that no step of
    its record names, the leaf first. A ``ClusterError`` where squeue does not answer."""
    if record.local or record.state != "submitting":
        return []
    known = {attempt["job"].partition("_")[0] for step in record.steps for attempt in step.attempts}
    ranks = {os.path.realpath(records.step_folder(workspace, record.run, step.name)): rank
             for rank, step in enumerate(record.steps[::-1])}
    found = {}
    for job, script in queue.scripts(record.user).items():
        rank = ranks.get(os.path.realpath(os.path.dirname(script)))
        if rank is not None and job not in known:
            found[job] = rank
    return sorted(found, key=lambda job: (found[job], -int(job)))

