"""The nouns of a run: what a plan holds and what its record keeps. Data only, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.workflow.typed import made


@dataclass(frozen=True)
class Resources:
    """What one task of a step asks for. ``mem_mb`` in MiB, ``time_min`` in minutes."""

    cpus: int = 1
    mem_mb: int = 2048
    gpus: int = 0
    time_min: int = 60


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan, with everything that decides its content already fixed.

    name: name in the pipeline; also that of its folder in the run. kind: the step module.
    params: validated parameters as JSON values. needs: names of the steps of this plan that it
    waits for. inputs: input name → absolute folder (an artifact, or published files).
    fingerprint: 16 hex digits. artifact: ``<workspace>/artifacts/<kind>/<fingerprint>``.
    shards: one entry per task. done: indices of the tasks finished before this plan was made.
    waits_for: job ids of other live runs on which an input depends.
    """

    name: str
    kind: str
    params: dict[str, Any]
    needs: tuple[str, ...]
    inputs: dict[str, str]
    fingerprint: str
    artifact: Path
    shards: list[dict[str, Any]]
    done: tuple[int, ...]
    resources: Resources
    labels: dict[str, Any] = field(default_factory=dict)
    waits_for: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        """Number of tasks of the step."""
        return len(self.shards)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the tasks that still have to run."""
        finished = set(self.done)
        return tuple(index for index in range(self.tasks) if index not in finished)

    @property
    def state(self) -> str:
        """``done before``, ``partly done`` or ``to run``."""
        if not self.missing:
            return "done before"
        return "partly done" if self.done else "to run"

    def config(self, run: str) -> dict[str, Any]:
        """The frozen config of the step: what ``l3hpc run STEP --config`` repeats."""
        return {
            "schema": 1, "run": run, "name": self.name, "step": self.kind,
            "version": self.extra.get("version"), "params": self.params, "inputs": self.inputs,
            "fingerprint": self.fingerprint, "artifact": str(self.artifact),
            "shards": self.shards, "labels": self.labels,
        }


@dataclass(frozen=True)
class Plan:
    """A pipeline with parameters, ready to be rendered and submitted.

    run: the run's name (also its folder in ``<workspace>/runs``). profile: the cluster profile
    (``workflow.config.ClusterProfile``). options: what the person typed, for the record.
    ledger: the settings of the results sheet (``workflow.config.Ledger``), where they are known.
    """

    run: str
    pipeline: str
    workspace: Path
    profile: Any
    steps: tuple[PlannedStep, ...]
    options: dict[str, Any] = field(default_factory=dict)
    ledger: Any = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.workspace / "runs" / self.run

    def step_folder(self, name: str) -> Path:
        """The folder of one step of the run: config.json, script.sbatch, logs/, markers/."""
        return self.folder / "steps" / name


@dataclass
class StepRecord:
    """What the record of a run says of one step.

    state: ``planned``, ``submitted`` or ``reused``. job: the latest job id (base id of an array).
    submitted_tasks: indices of the tasks handed to the scheduler with ``job``.
    attempts: every submission of this step, oldest first: ``{"job", "array", "tasks", "time",
    "script"}``, ``cluster`` where Slurm was asked for one by name, ``offset`` where the array's
    indices start later, ``requeues`` by task where it healed. ``identity`` reads them.
    """

    name: str
    kind: str
    artifact: str
    tasks: int
    needs: list[str]
    state: str = "planned"
    job: str | None = None
    submitted_tasks: list[int] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    waits_for: list[str] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)


def task_ids(attempt: Mapping[str, Any]) -> dict[int, str]:
    """Task index → id of the job or array task that an attempt gave it."""
    offset = attempt.get("offset", 0)
    return {index: f"{attempt['job']}_{index - offset}" if attempt["array"] else attempt["job"]
            for index in attempt["tasks"]}


@dataclass
class RunRecord:
    """``run.json``: who submitted what, where and when.

    state: ``submitting``, ``submitted``, ``refused`` or ``cancelled``. local: run by the runner of
    this machine instead of Slurm. slots: ``cpus`` and ``mem_mb`` that a local run may use at once.
    folder: the working folder of the submission. note: why a run was refused or cancelled.
    sync_job: the job that brings the run's rows to the results sheet. clusters: what stands behind
    Slurm's ``--clusters`` for this run ('' for the default of Slurm's commands).
    """

    run: str
    pipeline: str
    cluster: str
    created: float
    user: str
    host: str
    command: list[str]
    options: dict[str, Any]
    state: str
    steps: list[StepRecord]
    schema: int = 1
    local: bool = False
    slots: dict[str, int] = field(default_factory=dict)
    folder: str = ""
    note: str = ""
    sync_job: str | None = None
    clusters: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """The record read back from JSON values."""
        steps = value.get("steps") if isinstance(value, dict) else None
        if not isinstance(steps, list):
            raise InputError("it has no list of steps")
        return made(cls, {**value, "steps": [made(StepRecord, step, f"steps[{place}]")
                                             for place, step in enumerate(steps)]}, "record")
