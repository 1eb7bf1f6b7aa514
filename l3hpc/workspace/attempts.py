"""For which jobs a step waits: those that still work on what it needs, in as few ids as will do.

``afterok`` of an array waits for all of its tasks and is never fulfilled once one has failed, even
when that task was submitted again; then its tasks are named one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from l3hpc.workspace.records import StepRecord


def latest(entry: StepRecord) -> dict[int, str]:
    """Task index → id (``12``, ``13_4``) of the latest job that has it."""
    return {index: job for attempt in entry.attempts
            for index, job in attempt.task_ids.items()}


def open_jobs(entry: StepRecord, done: Collection[int]) -> list[str]:
    """Ids, as sbatch gave them, of the submissions that have an unfinished task."""
    jobs = latest(entry)
    unfinished = {job for index, job in jobs.items() if index not in done}
    return [attempt.job for attempt in entry.attempts
            if unfinished & {*attempt.task_ids.values()}]


def live_ids(entry: StepRecord, done: Collection[int], live: Mapping[int, str]) -> list[str]:
    """What stands behind ``afterok`` for a step of which ``live`` (task index → id) still waits or
    runs. The base id of an array whose other tasks all ended well; else one id per task."""
    jobs = latest(entry)
    found: list[str] = []
    for attempt in entry.attempts:
        tasks = attempt.task_ids
        mine = [job for index, job in tasks.items() if live.get(index) == job]
        well = all(jobs[index] == job and (index in done or live.get(index) == job)
                   for index, job in tasks.items())
        found += [attempt.job] if mine and well and attempt.array else mine
    return found
