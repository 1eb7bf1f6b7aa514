"""What every step is made of: typed parameters, a task to run, one folder as output.

A step module offers ``NAME``, ``VERSION`` (raise it when the output changes), ``TITLE``,
``INPUTS`` (names of the steps whose artifacts it may read), ``Params``, ``check``, ``shards`` and
``run``. It knows nothing of Slurm, Click or runs, and imports TensorFlow, pandas or scikit-learn
only inside ``run``.

``PLACES`` names the parameters that say where or how fast but never what comes out: they stay out
of the fingerprint, because ``digests`` speaks for the content of what they point at. A step may
also offer ``describe(params)``: one line for the plan that a person sees before submitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from l3hpc.arrays.cores import allocated_cores
from l3hpc.console.progress import Progress


class Params(BaseModel):
    """Typed parameters: unknown names are refused and values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recorder(Protocol):
    """Where a step records results for the ledger. Never raises into the step."""

    def record(self, tab: str, values: Mapping[str, Any], *, epoch: int | None = None) -> None:
        """Add ``values`` (field name → value) to this task's row of ``tab``."""


class NoRecorder:
    """Records nothing: for steps run by hand or in tests."""

    def record(self, tab: str, values: Mapping[str, Any], *, epoch: int | None = None) -> None:
        """Forget the values."""


class Preemption:
    """Where a long task leaves word how to save itself when the node is taken away.

    The worker calls ``save`` from its signal handler, between two Python instructions of the task;
    a task registers only functions that are safe to call there.
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


PREEMPTION = Preemption()  # a process runs one task at a time


@dataclass(frozen=True)
class Task:
    """One shard of a step at work.

    output: an empty temporary folder; what is in it when ``run`` returns becomes the task's part of
        the artifact by one rename.
    scratch: survives a killed attempt of the same task; for checkpoints and finished files. It is
        removed when the task is done.
    inputs: step name → artifact folder (see ``l3hpc.io.files.task_folders``) or a folder of
        published files.
    shard: this task's entry of the frozen list that ``shards`` returned.
    labels: what only the ledger needs (user name, model folder, run); never decides content.
    threads: processor cores that this task may use.
    preemption: what the worker calls on a preemption or time-limit signal.
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
