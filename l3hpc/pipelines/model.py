"""A plan: steps with everything decided, ready to be rendered and submitted. Only data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.config.profile import Resources


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
    (``config.profile.ClusterProfile``). options: what the person typed, for the record.
    ledger: the settings of the results sheet (``config.settings.Ledger``), where they are known.
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


