"""What a packed job has pickled: one call for all its tasks, of which each process runs one."""

from __future__ import annotations

from collections.abc import Sequence

from l3hpc.errors import InputError
from l3hpc.worker.execute import TaskCall


class PackedCall:
    """The tasks of one packed job. Its name and fields are in the pickles of queued jobs.

    Parameters
    ----------
    config_path
        The frozen config.
    tasks
        Indices of the tasks.
    """

    def __init__(self, config_path: str, tasks: Sequence[int]) -> None:
        self.config_path, self.tasks = config_path, tuple(tasks)

    def of(self, task: int) -> TaskCall:
        """Return the call of one of its tasks.

        Parameters
        ----------
        task
            Index of the task.

        Raises
        ------
        InputError
            If the job does not have it.
        """
        if task not in self.tasks:
            raise InputError(f"this job has no task {task}", where=self.config_path,
                             allowed=f"tasks: {', '.join(map(str, self.tasks))}")
        return TaskCall(self.config_path, task)
