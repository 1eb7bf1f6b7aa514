"""Requeueing on ``local``, by the policy of a step: what the runner decides about a job."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from l3hpc.schedulers import requeue_policy
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.local_jobs import LocalJob

REQUEUE = 85  # exit code of a job that is to be requeued


def requeue_or_give_up(folder: Path | StepFolder, job: LocalJob, cause: str,
                       task: int | None = None) -> bool:
    """Requeue a job with what the policy grants, or give it up.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    job
        Gets the new ``mem_mb`` and ``time_min``.
    cause
        ``requeue_policy.MEMORY`` or ``TIME``.
    task
        The task to which it happened. None: the one that the job is running.

    Returns
    -------
    bool
        False if it is given up.
    """
    task = current_task(folder, job) if task is None else task
    decision = policy_decision(folder, task, cause, job.tasks)
    if not decision.again:
        markers.give_up(StepFolder(folder).markers, task, decision.words, time.time())
        return False
    note_requeue(folder, task, cause, decision)
    reset_for_requeue(folder, job)
    return True


def current_task(folder: Path | StepFolder, job: LocalJob) -> int:
    """Return the task that a job is running: of a packed job, the one that began last.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    job
        The job.
    """
    marks = markers.read(StepFolder(folder).markers, job.tasks)
    begun = {index: mark.started or 0.0 for index, mark in marks.items() if _is_of(mark, job)}
    return max(begun, key=lambda index: (begun[index], index), default=job.task)


def _is_of(mark: markers.TaskMarks, job: LocalJob) -> bool:
    """Whether a task began in this job (an element of an array, which has these tasks alone)."""
    return mark.begin is not None and mark.begin.get("job", "").partition("_")[0] == job.job


def failed_tasks(folder: Path | StepFolder, job: LocalJob, done: Collection[int]
                 ) -> dict[int, int]:
    """Return the tasks of a packed job that have failed, with their exit codes.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    job
        The job.
    done
        Indices of the finished tasks of the step.
    """
    marks = markers.read(StepFolder(folder).markers, set(job.tasks).difference(done))
    return {index: mark.exit_code for index, mark in sorted(marks.items())
            if mark.exit_code and _is_of(mark, job)}


def noted_exit_code(folder: Path | StepFolder, job: LocalJob, done: Collection[int]) -> int:
    """Return the exit code of a job that nobody waited for, from its markers.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    job
        The job.
    done
        Indices of the finished tasks of the step.

    Returns
    -------
    int
        1 if a task has left none, and no result either.
    """
    marks = markers.read(StepFolder(folder).markers, {job.task, *job.tasks})
    codes = []
    for index in job.tasks or [job.task]:
        mark = marks.get(index, markers.TaskMarks())
        code = mark.exit_code if not job.tasks or _is_of(mark, job) else None
        codes.append((0 if job.tasks and index in done else 1) if code is None else code)
    return next((code for code in codes if code), 0)


def policy_decision(folder: Path | StepFolder, task: int, cause: str,
                    together: Collection[int] = ()) -> requeue_policy.Decision:
    """Apply the policy of a step to a task.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    cause
        What happened to it: ``requeue_policy.MEMORY`` or ``TIME``.
    together
        Indices of all tasks of its packed job.
    """
    own, others = requeue_policy.requeues_of(folder, task, together)
    return requeue_policy.decide(requeue_policy.read(folder), cause, own, others=others)


def note_requeue(folder: Path | StepFolder, task: int, cause: str,
                 decision: requeue_policy.Decision) -> None:
    """Write a requeue into the markers of a task.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    cause
        Why it is requeued.
    decision
        What it requests from now on.
    """
    markers.add_requeue(StepFolder(folder).markers, task, cause, time.time(), words=decision.words,
                        mem_mb=decision.mem_mb, time_min=decision.time_min)


def reset_for_requeue(folder: Path | StepFolder, job: LocalJob) -> None:
    """Make a job pending again, under its id, with what its requeues have granted.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    job
        The job.
    """
    own, others = requeue_policy.requeues_of(folder, job.task, job.tasks)
    mem, minutes = requeue_policy.granted_to_job(requeue_policy.read(folder), [own, *others])
    job.requeue()
    job.mem_mb, job.time_min = mem, minutes
