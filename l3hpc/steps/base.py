"""What every step consists of: typed parameters, tasks to run, and one folder as output.

A step is a subclass of ``Step``: it states its name, version, parameters and inputs, and does the
work in ``run``. It is independent of Slurm, Click and runs, and imports TensorFlow, pandas or
scikit-learn only inside ``run``. Planner, command line, report and doctor use only the attributes
and methods defined here and never a step's name, so that a step of another package
(``docs/steps/your-own.md``) works everywhere like one of ours.

What a step states about itself comes first, then ``Step``. ``task`` has what ``run`` is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from l3hpc.steps.params import Params as Params
from l3hpc.steps.params import absolute as absolute
from l3hpc.steps.task import Task


class Output(str, Enum):
    """What kind of output a step has, which decides the option that can replace it."""

    EMBEDDINGS = "embeddings"  # --embedding-dir
    STUDENT = "student"  # --student
    OTHER = "other"


class ReportItem(str, Enum):
    """What the report can show of a step's output, and the files or keys that it reads."""

    TEACHER = "teacher"  # "teacher" in the result: which network made the embeddings
    TRAINING = "training"  # history.csv, and the model that the result names
    VARIANCE = "variance"  # phi.h5
    SCORES = "scores"  # evaluation.json, curves.json
    CORRESPONDENCE = "correspondence"  # "test" in the result: accuracy on audio-visual pairs


@dataclass(frozen=True)
class Input:
    """An input of a step: the output of another one.

    Attributes
    ----------
    required : bool
        Whether the step cannot run without it.
    parameter : str
        Name of the parameter that replaces the input when it is set (a file in place of the output
        of an earlier step); empty for none.
    """

    required: bool = True
    parameter: str = ""


@dataclass(frozen=True)
class RunFile:
    """What a parameter takes that a run may have made, and is then named by that run.

    Attributes
    ----------
    kinds : tuple of str
        The kinds of steps that make it, the preferred one first.
    files : tuple of str
        Its name in the folder of a task, or its names, of which the first that exists counts.
        Empty: it is the folder of the step's artifact.
    others : bool
        Whether the parameter also takes names that are no paths, such as ``untrained``.
    """

    kinds: tuple[str, ...]
    files: tuple[str, ...] = ()
    others: bool = False


P = TypeVar("P", bound=Params)
PlanParams = Mapping[str, Params]  # kind of step → its parameters in a plan
Shard = dict[str, Any]  # what one task works on, as JSON values
Upstream = Mapping[str, Sequence[Mapping[str, Any]]]  # input → its shards ([]: published files)
Results = Sequence[Mapping[str, Any]]  # what ``run`` returned, task by task

LedgerFolder = Literal["model_dir", "output_dir"]
# Field of the ledger that names a folder → the step whose folder it is, in a run in which no
# other step declares it as its ``ledger_folder``.
LEDGER_FOLDERS = {"model_dir": "train", "output_dir": "classify"}
LedgerTab = Literal["embedding_approx_mse", "sonyc_ust", "emb_approx_sonyc_ust", "classifier",
                    "clip_tags", "prunedembedding", "distillation", "embedding"]


class Step(ABC, Generic[P]):
    """One kind of work. Subclasses set the attributes and implement ``shards`` and ``run``.

    Attributes
    ----------
    name : str
        As in pipelines and folders.
    version : int
        Increase it when the output changes: artifacts of earlier versions are then not reused.
    title : str
        The output, in a few words.
    params_type : type of Params
        The class of the parameters.
    inputs : dict
        Kind of step → how its output is used.
    not_in_fingerprint : frozenset of str
        Parameters that locate something or affect only speed. ``digests`` covers the content of
        the files that they name.
    output : Output
        The kind of output.
    continues : bool
        Whether a task that reached its time limit resumes from a checkpoint.
    tab : str or None
        The tab of the ledger in which the step records rows.
    further_tabs : tuple of str
        Other tabs in which it records rows.
    ledger_folder : str or None
        The field in which rows of the ledger name this step's folder.
    report_items : frozenset of ReportItem
        What the report shows of the output.
    kept_files : tuple of str
        Patterns of the files that are copied to the report's folder.
    takes_any : bool
        Whether the step can use the output of every step, under its name in the pipeline, also of
        a step that has failed. ``inputs`` is then empty.
    declares : frozenset of str
        Parameters that stand beside ``params:`` in a pipeline file, not in it. If the class of the
        parameters allows others, ``params:`` declares the parameters of the step.
    literal : frozenset of str
        Parameters in which ``{paths.…}`` is not replaced.
    executes_config : bool
        Whether its frozen config contains code. Only the user who wrote the config can run it.
    run_files : dict
        Parameters that take a file or folder, in whose place a run may be named → what it is (or
        the kind of step that makes it and the name of the file, as in earlier versions).
    bound_parameter : str
        The parameter that ``--teacher`` sets to true, because the step marks the results of a
        teacher; empty for none.
    """

    name: str
    version: int = 1
    title: str
    params_type: type[P]
    inputs: Mapping[str, Input] = {}
    not_in_fingerprint: frozenset[str] = frozenset()
    output: Output = Output.OTHER
    continues: bool = False
    tab: LedgerTab | None = None
    further_tabs: tuple[LedgerTab, ...] = ()
    ledger_folder: LedgerFolder | None = None
    report_items: frozenset[ReportItem] = frozenset()
    kept_files: tuple[str, ...] = ()
    takes_any: bool = False
    declares: frozenset[str] = frozenset()
    literal: frozenset[str] = frozenset()
    executes_config: bool = False
    run_files: Mapping[str, RunFile | tuple[str, str]] = {}
    bound_parameter: str = ""

    @property
    def has_own_params(self) -> bool:
        """Whether a pipeline file may declare further parameters."""
        return self.params_type.model_config.get("extra") == "allow"

    def parse(self, values: Mapping[str, Any]) -> P:
        """The typed parameters.

        Parameters
        ----------
        values
            Name → value, as in YAML or JSON.

        Raises
        ------
        pydantic.ValidationError
            For invalid values.
        """
        return self.params_type.model_validate(dict(values))

    def params_in(self, plan: PlanParams) -> P | None:
        """This step's parameters in a plan; None where the plan has no such step."""
        params = plan.get(self.name)
        return params if isinstance(params, self.params_type) else None

    def implied(self, stated: Mapping[str, Any], earlier: PlanParams,
                audio: Path | None) -> dict[str, Any]:
        """Parameters that are not given and follow from the rest of the plan.

        Parameters
        ----------
        stated
            The parameters that have a value already, as given: not checked yet.
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
            Parameters of this step.
        plan
            Parameters of all steps of the plan, to compare with.

        Raises
        ------
        InputError
            With the parameter or option to change.
        """

    def check_gpus(self, params: P, gpus: int) -> str:
        """Refuse, before anything is submitted, a number of GPUs with which the tasks would fail.

        Parameters
        ----------
        params
            Parameters of this step.
        gpus
            GPUs that each task requests from Slurm.

        Returns
        -------
        str
            A note for the preview, such as GPUs that would stay idle; empty: none.

        Raises
        ------
        InputError
            With the parameter or resource to change.
        """
        return ""

    def check_embeddings(self, params: P, source: str, available: Collection[str], folder: Path,
                         length: Callable[[str | None], int | None]) -> None:
        """Refuse a folder of existing embeddings that this step cannot use.

        Parameters
        ----------
        params
            Parameters of this step.
        source
            The input that the folder replaces.
        available
            All inputs that the step has.
        folder
            The folder of embeddings.
        length
            Dataset (None: the only one) → length of an embedding there, None while jobs are still
            writing it. Raises ``InputError`` for a folder without embeddings.

        Raises
        ------
        InputError
            With the parameter or option to change.
        """
        length(None)

    def ledger_tab(self, params: P) -> LedgerTab | None:
        """The tab in which the step records rows with these parameters (default: ``tab``)."""
        return self.tab

    def packages(self, params: P) -> dict[str, str]:
        """Importable name of each package needed beyond l3hpc's own → how to install it."""
        return {}

    def describe(self, params: P, plan: PlanParams) -> str:
        """One line for the preview of a plan; may be empty.

        Parameters
        ----------
        params
            Parameters of this step.
        plan
            Parameters of this step and of those on which it depends.
        """
        return ""

    def shards(self, params: P, upstream: Upstream) -> list[Shard]:
        """What each task works on (default: one task for everything).

        Parameters
        ----------
        params
            Parameters of this step.
        upstream
            Input → the shards of the step that makes it; empty for published files.
        """
        return [{}]

    def choices(self, parameter: str, upstream: Upstream) -> Sequence[str]:
        """All values of a parameter that the inputs have, for an option that runs each of them.

        Parameters
        ----------
        parameter
            Name of the parameter.
        upstream
            As for ``shards``.

        Raises
        ------
        InputError
            Where the inputs do not say.
        """
        raise NotImplementedError(f"{self.name}.{parameter} has no such values")

    def digests(self, params: P) -> dict[str, Any]:
        """JSON values that identify the content of files named by parameters (not of inputs)."""
        return {}

    @abstractmethod
    def run(self, params: P, task: Task) -> dict[str, Any]:
        """Do the work of one task.

        Parameters
        ----------
        params
            Parameters of this step.
        task
            What to work on, and where to write.

        Returns
        -------
        dict
            JSON values, for ``summary`` and the report.
        """

    def summary(self, results: Results) -> str:
        """The output in one line, for ``status`` and the report; may be empty.

        Parameters
        ----------
        results
            What ``run`` returned, task by task.
        """
        return ""

    def shown_params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters as the report shows them.

        Parameters
        ----------
        params
            The frozen parameters, as JSON values.
        """
        return params

    def files_to_keep(self, params: Mapping[str, Any]) -> Sequence[str]:
        """The patterns of the files that are copied to the report's folder.

        Parameters
        ----------
        params
            The frozen parameters, as JSON values.
        """
        return self.kept_files

    def networks(self, params: Mapping[str, Any], results: Results
                 ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The networks whose size the report shows.

        Parameters
        ----------
        params
            The frozen parameters, as JSON values.
        results
            Of the finished tasks; may be empty.

        Returns
        -------
        sequence of (str, dict)
            Name and spec (``NetworkSpec.to_dict``) of each.
        """
        return ()
