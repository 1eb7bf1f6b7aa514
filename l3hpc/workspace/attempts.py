"""The job ids of a step: the latest of each task, those still open, and those to depend on.

``afterok`` on an array waits for all of its tasks and can never be satisfied once one of them has
failed, even if that task was submitted again. In that case its tasks are listed one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from l3hpc.workspace.run_record import StepRecord


def latest(entry: StepRecord) -> dict[int, str]:
    """Return the latest job of every task.

    Parameters
    ----------
    entry
        The step in the record of its run.

    Returns
    -------
    dict of int to str
        Task index → id of its job (``12``) or array task (``13_4``).
    """
    return {index: job for attempt in entry.attempts
            for index, job in attempt.task_ids.items()}


def packed(entry: StepRecord) -> dict[int, tuple[int, ...]]:
    """Return the tasks that share their latest job with other tasks.

    Parameters
    ----------
    entry
        The step in the record of its run.

    Returns
    -------
    dict of int to tuple of int
        Task index → all tasks of its job, in the order in which it runs them; without the tasks
        whose job was submitted for them alone.
    """
    found: dict[int, tuple[int, ...]] = {}
    for attempt in entry.attempts:
        for together in attempt.elements:
            for index in together:
                found.pop(index, None)
                if attempt.pack > 1:
                    found[index] = together
    return found


def log_names(entry: StepRecord) -> dict[int, str]:
    """Return the name of the latest logs of every task, as ``StepFolder.log`` takes it.

    Parameters
    ----------
    entry
        The step in the record of its run.
    """
    return {index: name for attempt in entry.attempts
            for index, name in attempt.log_names.items()}


def open_jobs(entry: StepRecord, done: Collection[int]) -> list[str]:
    """Return the submissions that have an unfinished task.

    Parameters
    ----------
    entry
        The step in the record of its run.
    done
        Indices of the finished tasks.

    Returns
    -------
    list of str
        Job ids as sbatch returned them.
    """
    jobs = latest(entry)
    unfinished = {job for index, job in jobs.items() if index not in done}
    return [attempt.job for attempt in entry.attempts
            if unfinished & {*attempt.task_ids.values()}]


def live_ids(entry: StepRecord, done: Collection[int], live: Mapping[int, str]) -> list[str]:
    """Return the ids that a dependency on the live tasks of a step has to list, as few as possible.

    Parameters
    ----------
    entry
        The step in the record of its run.
    done
        Indices of the finished tasks.
    live
        Task index → id, of the tasks that are waiting or running.

    Returns
    -------
    list of str
        The base id of an array if all its other tasks have succeeded, else one id per task.
    """
    jobs = latest(entry)
    ids: list[str] = []
    for attempt in entry.attempts:
        tasks = attempt.task_ids
        still_live = [job for index, job in tasks.items() if live.get(index) == job]
        # a task that failed, or was submitted again since, would make afterok on the array fail
        satisfiable = all(jobs[index] == job and (index in done or live.get(index) == job)
                          for index, job in tasks.items())
        # the tasks of a packed job have one id
        ids += [attempt.job] if still_live and satisfiable and attempt.array \
            else dict.fromkeys(still_live)
    return ids
