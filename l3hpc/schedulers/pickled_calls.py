"""What a job looks for when it starts: its pickled call and its script, beside its logs.

They have submitit's names and its ``DelayedSubmission``, so that submitit's entry point finds the
call, counts the time-outs and requests a checkpoint.
"""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from l3hpc.io.files import create_file, share_file
from l3hpc.pipelines.planned import PlannedStep
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.requests import Call, JobRequest
from l3hpc.workspace.layout import StepFolder


def write(step: PlannedStep, calls: Sequence[Call], max_timeouts: int) -> tuple[Path, ...]:
    """Pickle calls, before they are submitted: a job waits only a minute for its own.

    They have temporary names, which are replaced when the id of the job is known.

    Parameters
    ----------
    step
        The step whose jobs run the calls.
    calls
        The calls.
    max_timeouts
        How often a task may reach its time limit and be requeued.

    Returns
    -------
    tuple of Path
        The files, which the caller removes if nothing is submitted.
    """
    DelayedSubmission = import_submitit().DelayedSubmission
    pickles: list[Path] = []
    try:
        for call in calls:
            delayed = DelayedSubmission(call.work)
            # by the real limit, submitit distinguishes a time-out from a preemption
            delayed.set_timeout(step.of_a_job.job_min, max_timeouts)
            pickles.append(call.folder / f".{uuid.uuid4().hex}.pkl")
            # not cloudpickle, which a class of a module does not need
            create_file(pickles[-1], pickle.dumps(delayed, pickle.HIGHEST_PROTOCOL), mode=0o666)
    except BaseException:  # a full disk
        for path in pickles:
            path.unlink(missing_ok=True)
        raise
    return tuple(pickles)


def submit(request: JobRequest, submit_script: Callable[[], JobId]) -> JobId:
    """Submit a script once, and store the calls under the ids that its jobs will look for.

    For an array the names contain our own indices (``3,7-9``): ``<id>_<index>_submitted.pkl``. The
    script is kept under the id as well.

    Parameters
    ----------
    request
        The script, its calls and their pickles.
    submit_script
        Submits the script.

    Returns
    -------
    JobId
        What ``submit_script`` returned.
    """
    if not request.calls:
        return submit_script()
    job = submit_script()
    request.submitted(job)
    # a later attempt writes its script over this one: the job's own has to stay as it was submitted
    kept = StepFolder(request.script.parent).submitted_script(job.id)
    kept.unlink(missing_ok=True)
    share_file(request.script, kept)
    for call, path in zip(request.calls, request.pickles, strict=True):
        name = job.id if call.index is None else f"{job.id}_{call.index}"
        path.rename(call.folder / f"{name}_submitted.pkl")
    return job


def import_submitit() -> ModuleType:
    """Import ``submitit.core.utils`` and leave the logging of this process as it is."""
    # By default submitit configures logging when it is imported, which closes every handler of the
    # process: a notebook's log file, and the stderr that TensorFlow's handler (absl) writes to.
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        from submitit.core import utils
    finally:
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if before is not None:  # for the jobs
            os.environ["SUBMITIT_LOG_LEVEL"] = before
    return utils
