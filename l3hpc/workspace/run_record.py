"""What the record of a run holds: the run, its steps, and every submission of a step.

``records`` reads and writes these as ``run.json``; ``to_json`` and ``from_json`` convert them to
and from JSON values, also those of earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.config.capabilities import LOCAL, SLURM, Capabilities
from l3hpc.config.capabilities import of as capabilities_of
from l3hpc.errors import InputError
from l3hpc.io.values import check_mapping, dataclass_from, short_repr
from l3hpc.workspace.states import RunState, StepState


class _AttemptJson(TypedDict):
    job: str
    array: bool
    tasks: list[int]
    time: float
    offset: NotRequired[int]
    requeues: NotRequired[dict[str, Any]]
    script: NotRequired[str | None]
    cluster: NotRequired[str | None]
    pack: NotRequired[int]


@dataclass
class Attempt:
    """One submission of a step.

    Attributes
    ----------
    job : str
        The id that the scheduler assigned: ``12``, of an array its base id, and ``12_3`` for a step
        that was one task of an array of several steps.
    array : bool
        Whether the script of the step is an array of its own.
    tasks : list of int
        Indices of the submitted tasks.
    time : float
        Unix seconds.
    script : str or None
        Path of the script; None in records of early versions.
    offset : int
        Task index minus array index, of an array whose own indices start below those of the tasks.
    cluster : str
        The value of ``--clusters`` ('' for Slurm's default).
    requeues : dict of str to list
        Task index → its requeues, noted when another attempt follows.
    pack : int
        How many of ``tasks`` one element of the array runs, one after another, in this order. With
        one, the index of an element is that of its task less ``offset``; with more, elements are
        counted from 0.
    """

    job: str
    array: bool
    tasks: list[int]
    time: float
    script: str | None = None
    offset: int = 0
    cluster: str = ""
    requeues: dict[str, Any] = field(default_factory=dict)
    pack: int = 1

    @property
    def base(self) -> str:
        """The id without the array index."""
        return self.job.partition("_")[0]

    @property
    def task_ids(self) -> dict[int, str]:
        """Task index → id of its job or array task; several tasks of a packed job have the same."""
        if self.pack > 1:
            return {index: f"{self.job}_{place // self.pack}"
                    for place, index in enumerate(self.tasks)}
        return {index: f"{self.job}_{index - self.offset}" if self.array else self.job
                for index in self.tasks}

    @property
    def elements(self) -> list[tuple[int, ...]]:
        """The tasks of each job or array element."""
        return [tuple(self.tasks[first:first + self.pack])
                for first in range(0, len(self.tasks), self.pack)]

    @property
    def log_names(self) -> dict[int, str]:
        """Task index → the name of its logs: the id of its job, in a packed job with the task."""
        if self.pack > 1:
            return {index: f"{job}_{index}" for index, job in self.task_ids.items()}
        return self.task_ids

    def to_json(self) -> dict[str, Any]:
        """Return the attempt as JSON values, without the fields that have no content."""
        value = {"job": self.job, "array": self.array, "tasks": self.tasks, "time": self.time}
        rest = {"script": self.script, "offset": self.offset or None,
                "cluster": self.cluster or None, "requeues": self.requeues or None,
                "pack": self.pack if self.pack > 1 else None}
        return value | {name: item for name, item in rest.items() if item is not None}

    @classmethod
    def from_json(cls, value: object, what: str) -> Attempt:
        """Read an attempt back from its JSON values.

        Parameters
        ----------
        value
            What ``to_json`` returned, also in an earlier version.
        what
            How messages call it.

        Raises
        ------
        InputError
            If a field is missing or of another type.
        """
        known = check_mapping(_AttemptJson, value, what)
        return cls(known["job"], known["array"], known["tasks"], known["time"],
                   known.get("script"), known.get("offset", 0), known.get("cluster") or "",
                   known.get("requeues", {}), known.get("pack", 1))


@dataclass
class StepRecord:
    """What the record of a run holds of one step.

    Attributes
    ----------
    name, kind : str
        Its name in the run, and which step it is.
    artifact : str
        Folder of its artifact.
    tasks : int
        Number of tasks.
    needs : list of str
        Names of the steps that it depends on.
    state : StepState
        ``planned``, ``submitted`` or ``reused``.
    job : str or None
        The latest job id (base id of an array).
    submitted_tasks : list of int
        Indices of the tasks that were submitted as ``job``.
    resources : dict
        What one task requests: the fields of ``Resources``.
    waits_for : list of str
        Jobs of other runs that compute an input, as of the submission.
    attempts : list of Attempt
        Every submission of the step, oldest first.
    any_needs : list of str
        Those of ``needs`` that need only have ended.
    like : str
        The kind of step for which the profile says where it runs; empty for its own.
    """

    name: str
    kind: str
    artifact: str
    tasks: int
    needs: list[str]
    state: StepState = StepState.PLANNED
    job: str | None = None
    submitted_tasks: list[int] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    waits_for: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    any_needs: list[str] = field(default_factory=list)
    like: str = ""

    @property
    def ok_needs(self) -> list[str]:
        """Names of the steps that have to succeed first."""
        return [name for name in self.needs if name not in self.any_needs]


@dataclass
class RunRecord:
    """The content of ``run.json``: who submitted what, where and when.

    Attributes
    ----------
    run, pipeline, cluster : str
        Names of the run, of its pipeline and of the cluster profile.
    created : float
        Unix seconds.
    user, host : str
        Who submitted it, and from where.
    command : list of str
        The command line.
    options : dict
        The options of the pipeline that were given.
    state : RunState
        ``submitting``, ``submitted``, ``refused`` or ``cancelled``.
    steps : list of StepRecord
        In the order of submission.
    schema : int
        Version of the format.
    local : bool
        Whether the runner on this machine runs it, and not Slurm.
    slots : dict
        ``cpus`` and ``mem_mb`` that a local run may use at once.
    folder : str
        Working folder of the submission.
    note : str
        Why a run was refused or cancelled.
    sync_job : str or None
        The job that synchronises the results sheet.
    clusters : str
        The value of ``--clusters`` for this run ('' for Slurm's default).
    scheduler : str
        Its scheduler, if that is neither ``slurm`` nor ``local``.
    """

    run: str
    pipeline: str
    cluster: str
    created: float
    user: str
    host: str
    command: list[str]
    options: dict[str, Any]
    state: RunState
    steps: list[StepRecord]
    schema: int = 1
    local: bool = False
    slots: dict[str, int] = field(default_factory=dict)
    folder: str = ""
    note: str = ""
    sync_job: str | None = None
    clusters: str = ""
    scheduler: str = ""

    @property
    def executor(self) -> str:
        """The scheduler of its jobs, as a profile names it."""
        return self.scheduler or (LOCAL if self.local else SLURM)

    @property
    def capabilities(self) -> Capabilities:
        """What that scheduler can do."""
        return capabilities_of(self.executor)

    def swept(self) -> dict[str, dict[str, str]]:
        """Return the values of a sweep that each artifact stands for.

        Returns
        -------
        dict
            Artifact → option → value; empty for a run that is no sweep.
        """
        own = {step.name: step.artifact for step in self.steps}
        using: dict[str, list[Mapping[str, Any]]] = {}
        for combination in self.options.get("combinations", ()):
            for name in set(combination["steps"].values()):
                using.setdefault(own[name], []).append(combination["values"])
        # a step that several combinations share has only the values that they agree on
        return {artifact: {option: str(value) for option, value in members[0].items()
                           if all(other.get(option) == value for other in members)}
                for artifact, members in using.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        # asdict would copy every value, which for hundreds of steps takes longer than writing them
        value: dict[str, Any] = {**vars(self), "steps": [
            {**vars(step), "attempts": [attempt.to_json() for attempt in step.attempts]}
            for step in self.steps]}
        for step in value["steps"]:
            for name in ("any_needs", "like"):  # earlier versions do not know them
                if not step[name]:
                    del step[name]
        # records of Slurm and local are as they were before there could be other schedulers
        if not self.scheduler:
            del value["scheduler"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """Read a record back from its JSON values.

        Parameters
        ----------
        value
            What ``to_json`` returned, also in an earlier version.

        Raises
        ------
        InputError
            If a field is missing, unknown or of another type.
        """
        steps = value.get("steps") if isinstance(value, dict) else None
        if not isinstance(steps, list):
            raise InputError("the list of steps is missing")
        parsed = [_step_from_json(step, f"steps[{place}]") for place, step in enumerate(steps)]
        fields = _with_state(RunState, {**value, "steps": parsed}, "record")
        return dataclass_from(cls, fields, "record")


def _step_from_json(value: object, what: str) -> StepRecord:
    value = _with_state(StepState, value, what)
    if isinstance(value, dict) and isinstance(value.get("attempts"), list):
        name = f"attempt of {value.get('name')}"
        value = {**value, "attempts": [Attempt.from_json(one, name) for one in value["attempts"]]}
    return dataclass_from(StepRecord, value, what)


def _with_state(kind: type[StepState | RunState], value: object, what: str) -> object:
    """Replace the word for a state in JSON values by the state."""
    if not isinstance(value, dict) or not isinstance(value.get("state"), str):
        return value
    try:
        return {**value, "state": kind(value["state"])}
    except ValueError:
        raise InputError(f"{what}.state cannot be {short_repr(value['state'])}") from None
