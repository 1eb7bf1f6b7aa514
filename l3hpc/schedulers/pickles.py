"""What a job finds when it starts: its pickled call and its script, beside its logs.

submitit's names and its ``DelayedSubmission``, so that its entry point finds the call, counts the
time-outs and asks for a checkpoint.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.io.files import share_file
from l3hpc.schedulers.base import JobId, JobRequest
from l3hpc.workspace.layout import StepFolder

_ARRAY = re.compile(r"^#SBATCH\s+--array[= ]", re.MULTILINE)


def submitted(request: JobRequest, submit: Callable[[], JobId]) -> JobId:
    """Pickle first, submit once, rename the pickles to the ids that the jobs will look for.

    Of an array these keep our own indices (``3,7-9``): ``<id>_<index>_submitted.pkl``. The script
    is kept under the id as well.
    """
    if not request.calls:
        return submit()
    is_array = bool(_ARRAY.search(request.script.read_text(encoding="utf-8")))
    if not is_array and len(request.calls) != 1:
        raise ClusterError(f"the script is not an array, but {len(request.calls)} tasks are to be "
                           "submitted", hint="its template has lost the --array line")
    pickles = _pickled(request)
    try:
        job = submit()
    except BaseException:
        for pickle in pickles:
            pickle.unlink(missing_ok=True)
        raise
    kept = StepFolder(request.script.parent).submitted_script(job.id)
    kept.unlink(missing_ok=True)
    share_file(request.script, kept)
    for one, pickle in zip(request.calls, pickles, strict=True):
        name = f"{job.id}_{one.index}" if is_array else job.id
        pickle.rename(one.folder / f"{name}_submitted.pkl")
    return job


def _pickled(request: JobRequest) -> list[Path]:
    """One file for each call, under a name that nobody looks for."""
    from submitit.core.utils import DelayedSubmission

    assert request.step is not None
    pickles = []
    for one in request.calls:
        delayed = DelayedSubmission(one.work)
        # it tells a time-out from a preemption by the true limit
        delayed.set_timeout(request.step.resources.time_min, request.max_timeouts)
        pickles.append(one.folder / f".{uuid.uuid4().hex}.pkl")
        delayed.dump(pickles[-1])
    return pickles
