"""What every step is made of: typed parameters, a task to run, one folder as output.

A step is a subclass of ``Step``: it states its name, version, parameters and inputs, and does the
work in ``run``. It knows nothing of Slurm, Click or runs, and imports TensorFlow, pandas or
scikit-learn only inside ``run``. Planner, command line, report and doctor know steps by what they
say here and never by name, so that a step of another package (``docs/steps/your-own.md``) is worth
as much as one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from l3hpc.arrays.threads import allocated_cores
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


class Output(str, Enum):
    """What kind of thing a step makes: it decides which option may name it in place of the step."""

    EMBEDDINGS = "embeddings"  # --embedding-dir
    STUDENT = "student"  # --student
    OTHER = "other"


class Finding(str, Enum):
    """What the report finds in a step's output."""

    TEACHER = "teacher"  # "teacher" in the result: which network embedded
    TRAINING = "training"  # history.csv, and the model that the result names
    VARIANCE = "variance"  # phi.h5
    SCORES = "scores"  # evaluation.json, curves.json
    CORRESPONDENCE = "correspondence"  # "test" in the result: pairs told apart


@dataclass(frozen=True)
class Input:
    """An input of a step: the output of another one.

    Parameters
    ----------
    required
        Whether the step cannot do without.
    parameter
        Name of the parameter that, when it is set, stands in for the input (a file in place of
        what an earlier step makes).
    """

    required: bool = True
    parameter: str = ""


P = TypeVar("P", bound=Params)
PlanParams = Mapping[str, BaseModel]  # parameters of the steps of a plan, by name of the step
Shard = dict[str, Any]  # what one task works on, as JSON values
Upstream = Mapping[str, Sequence[Mapping[str, Any]]]  # input → its shards ([]: files of others)
Results = Sequence[Mapping[str, Any]]  # what ``run`` returned, task by task

# the labels under which rows of the ledger name a folder → the step whose folder it is in a run
# where no other step says so
LEDGER_FOLDERS = {"model_dir": "train", "output_dir": "classify"}


class Step(Generic[P]):
    """One kind of work. Subclasses state the attributes and implement ``shards`` and ``run``.

    Attributes
    ----------
    name
        As in pipelines and folders.
    version
        Raise it when the output changes: artifacts of earlier versions are then not used again.
    title
        What comes out, in a few words.
    params_type
        The class of the parameters.
    inputs
        Name of the step → how its output is used.
    not_in_fingerprint
        Parameters that say where or how fast but never what comes out: ``digests`` speaks for the
        content of what they point at.
    output
        What kind of thing comes out.
    continues
        Whether a task that a time limit ends goes on at a checkpoint.
    tab
        The tab of the ledger in which the step records rows.
    ledger_folder
        The label under which rows of the ledger name this step's folder.
    findings, kept_files
        What the report shows of it, and patterns of the files that are copied beside the report.
    """

    name: str
    version: int = 1
    title: str
    params_type: type[P]
    inputs: Mapping[str, Input] = {}
    not_in_fingerprint: frozenset[str] = frozenset()
    output: Output = Output.OTHER
    continues: bool = False
    tab: str | None = None
    ledger_folder: Literal["model_dir", "output_dir"] | None = None
    findings: frozenset[Finding] = frozenset()
    kept_files: tuple[str, ...] = ()

    def own(self, plan: PlanParams) -> P | None:
        """This step's parameters in a plan; None where the plan has no such step."""
        found = plan.get(self.name)
        return found if isinstance(found, self.params_type) else None

    def implied(self, stated: Collection[str], earlier: PlanParams,
                audio: Path | None) -> dict[str, Any]:
        """Parameters that nobody stated and that follow from the rest of the plan.

        Parameters
        ----------
        stated
            Names of the parameters that have a value already.
        earlier
            Parameters of the steps that the plan runs before this one.
        audio
            The folder of audio of the configuration, ``paths.audio``.
        """
        return {}

    def check(self, params: P, plan: PlanParams) -> None:
        """Refuse, before anything is submitted, what cannot work.

        Parameters
        ----------
        params
            Of this step.
        plan
            Of all steps of the plan, to compare with.

        Raises
        ------
        InputError
            With the parameter or option to change.
        """

    def check_embeddings(self, params: P, source: str, available: Collection[str], folder: Path,
                         length: Callable[[str | None], int | None]) -> None:
        """Refuse a folder of ready embeddings that this step cannot use.

        Parameters
        ----------
        source
            The input that the folder stands for.
        available
            All inputs that the step has.
        folder
            Where the embeddings lie.
        length
            Dataset (None: the only one) → length of an embedding there, None while jobs still
            make it. It refuses a folder without embeddings.
        """
        length(None)

    def packages(self, params: P) -> dict[str, str]:
        """Importable name of what this needs beyond the core dependencies → how to install it."""
        return {}

    def describe(self, params: P, plan: PlanParams) -> str:
        """One line for the plan that a person sees before submitting; may be empty."""
        return ""

    def shards(self, params: P, upstream: Upstream) -> list[Shard]:
        """What each task works on; one task for everything, unless a step says otherwise."""
        return [{}]

    def digests(self, params: P) -> dict[str, Any]:
        """What identifies the content of files that the parameters name (not the inputs)."""
        return {}

    def run(self, params: P, task: Task) -> dict[str, Any]:
        """Do the work of one task: files into ``task.output``, JSON values as the result."""
        raise NotImplementedError(f"the step {self.name} does not say how it runs")

    def summary(self, results: Results) -> str:
        """What came out, in one line for ``status`` and the report; may be empty."""
        return ""

    def networks(self, params: Mapping[str, Any], results: Results
                 ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Name and spec (``NetworkSpec.to_dict``) of the networks whose size the report shows.

        Parameters
        ----------
        params
            The frozen parameters, as JSON values.
        results
            Of the finished tasks; may be empty.
        """
        return ()
