"""What a task is given besides its parameters: folders, inputs, its shard, progress, a recorder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from l3hpc.arrays.threads import allocated_cores
from l3hpc.console.progress import Progress
from l3hpc.errors import L3hpcError


class Recorder(Protocol):
    """Records results for the ledger. An implementation never raises into the step."""

    def record(self, tab: str, values: Mapping[str, Any], *, epoch: int | None = None) -> None:
        """Add values to this task's row of a tab.

        Parameters
        ----------
        tab
            Name of the tab.
        values
            Field name → value.
        epoch
            The epoch that they belong to, from 1 (None: no epoch).
        """


class NoRecorder:
    """Records nothing: for single steps (``l3hpc run``) and tests."""

    def record(self, tab: str, values: Mapping[str, Any], *, epoch: int | None = None) -> None:
        """Discard the values."""


class Preemption:
    """Functions that save the state of a long task when its job is about to be killed.

    The worker calls ``save`` from its signal handler, between two Python instructions of the task:
    register only functions that are safe to call there.
    """

    def __init__(self) -> None:
        self._savers: list[Callable[[], None]] = []

    @contextmanager
    def on_signal(self, saver: Callable[[], None]) -> Iterator[None]:
        """While the block runs, ``save`` calls ``saver``."""
        self._savers.append(saver)
        try:
            yield
        finally:
            self._savers.remove(saver)

    def save(self) -> None:
        """Call every registered function, the latest first."""
        for saver in reversed(self._savers):
            saver()


PREEMPTION = Preemption()  # one is enough: a process runs one task at a time


@dataclass(frozen=True)
class Task:
    """What ``run`` is given besides the parameters.

    Attributes
    ----------
    output : Path
        An empty temporary folder. When ``run`` returns, it becomes the task's part of the artifact
        in one rename.
    scratch : Path
        Kept when an attempt of the task is killed: for checkpoints and finished files. Removed
        when the task is done.
    node_scratch : Path or None
        A folder on the disk of the node, if the profile has one. Removed when the attempt ends:
        use it through ``roomy``.
    temporary : Path or None
        Where a command makes its temporary files; None: in the folder that ``TMPDIR`` names.
        Removed when the attempt ends.
    inputs : dict
        Step name → artifact folder (see ``l3hpc.io.files.task_folders``), or a folder of
        published files.
    index : int
        Number of the task, from 0.
    tasks : int
        Number of tasks of the step.
    shard : dict
        This task's entry of the list that ``shards`` returned.
    labels : dict
        What only the ledger needs (user name, model folder, run); never affects content.
    progress : Progress
        For progress and notes.
    recorder : Recorder
        For rows of the ledger.
    threads : int
        Cores that the task may use.
    preemption : Preemption
        Where to register functions that save a checkpoint at a preemption or time-limit signal.
    """

    output: Path
    scratch: Path
    inputs: Mapping[str, Path]
    index: int = 0
    shard: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    recorder: Recorder = field(default_factory=NoRecorder)
    threads: int = field(default_factory=allocated_cores)
    preemption: Preemption = PREEMPTION
    tasks: int = 1
    node_scratch: Path | None = None
    temporary: Path | None = None

    def roomy(self, name: str, needed: int) -> Path:
        """Return the place for a large file or folder that can be made again.

        It is on the disk of the node if there is one with enough space, else in ``scratch``.

        Parameters
        ----------
        name
            Its name.
        needed
            Bytes that it will have.
        """
        shared = self.scratch / name
        # what an earlier attempt has begun there is completed there
        if self.node_scratch is None or shared.exists():
            return shared
        free = shutil.disk_usage(self.node_scratch).free
        if free < needed:
            self.progress.note(f"{name} needs {needed / 1e9:,.1f} GB and the node's scratch "
                               f"{self.node_scratch} has {free / 1e9:,.1f} GB free: it is made in "
                               "the workspace instead")
            return shared
        return self.node_scratch / name


@contextmanager
def refuse_exit(what: str, where: str | None = None) -> Iterator[None]:
    """Turn a ``sys.exit()`` that means success into an error while the work of a task runs.

    The job would end with exit code 0 and without a result, and the steps that depend on it would
    start.

    Parameters
    ----------
    what, where
        What runs, and the place of it, for the message.

    Raises
    ------
    L3hpcError
        The block raised a ``SystemExit`` by which the process would end with exit code 0.
    """
    try:
        yield
    except SystemExit as error:
        # Other codes are failures already, or come from our signal handlers, which requeue or stop
        # the task. The system keeps eight bits of a code.
        if error.code is None or isinstance(error.code, int) and not error.code & 0xFF:
            raise L3hpcError(f"{what} raised {error!r}", where=where,
                             hint="Return the result, or raise an exception.") from error
        raise
