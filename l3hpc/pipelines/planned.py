"""Planned steps and plans as data, and the fingerprint that names an artifact's folder.

Two outputs are the same where their fingerprints are: kind, version, parameters, inputs, external
files and task list of the step decide. Resources, cluster, run names and log paths do not, nor do
parameters that only locate something (the step's ``not_in_fingerprint``): external files count by
their content or listing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.io.files import digest, refuse_unreadable
from l3hpc.steps import AnyStep
from l3hpc.workspace.layout import RunFolder, StepFolder, Workspace

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile, RequeueLimits
    from l3hpc.config.settings import Ledger

LENGTH = 16  # hex digits of a fingerprint


def fingerprint_of_step(
    step: AnyStep, params: Mapping[str, Any], inputs: Mapping[str, str],
    digests: Mapping[str, Any], shards: Sequence[Mapping[str, Any]],
) -> str:
    """The fingerprint of a step's output.

    Parameters
    ----------
    step
        The step.
    params
        Its validated parameters as JSON values.
    inputs
        Input name → fingerprint of what is read there.
    digests
        Content of files that the parameters name (``Step.digests``).
    shards
        What each task works on.

    Returns
    -------
    str
        16 hex digits.
    """
    return digest({
        "step": step.name, "version": step.version,
        "params": {name: value for name, value in params.items()
                   if name not in step.not_in_fingerprint},
        "inputs": dict(inputs), "digests": dict(digests), "shards": list(shards),
    })[:LENGTH]


def fingerprint_of_folder(folder: Path) -> str:
    """The fingerprint of a folder that l3hpc did not write: names, sizes, modification times.

    Hidden files do not count, and links to folders are followed.

    Parameters
    ----------
    folder
        The folder, with subfolders.

    Returns
    -------
    str
        16 hex digits.

    Raises
    ------
    InputError
        For a folder that does not exist, is empty or cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder))
    listing: list[list[Any]] = []
    for parent, _, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not name.startswith("."):
                status = path.stat()
                listing.append([str(path.relative_to(folder)), status.st_size,
                                status.st_mtime_ns])
    if not listing:
        raise InputError("the folder is empty", where=str(folder))
    return digest({"folder": sorted(listing)})[:LENGTH]


def _default_requeue_limits() -> RequeueLimits:
    from l3hpc.config.profile import RequeueLimits

    return RequeueLimits()


@dataclass(frozen=True)
class InputOrigin:
    """The origin of an external input.

    Attributes
    ----------
    run : str or None
        The run that made it; None for published files.
    path : str
        Its absolute folder or file.
    step : str or None
        Name of the step of that run.
    """

    run: str | None
    path: str
    step: str | None = None


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan, whose content is fixed.

    Attributes
    ----------
    name : str
        Name in the pipeline; also that of its folder in the run.
    kind : str
        Kind of step (``steps.names()``).
    params : dict
        Validated parameters as JSON values.
    needs : tuple of str
        Names of the steps of this plan that must finish first.
    inputs : dict
        Input name → absolute folder (an artifact, or published files).
    fingerprint : str
        16 hex digits.
    artifact : Path
        ``<workspace>/artifacts/<kind>/<fingerprint>``.
    shards : list of dict
        One entry per task.
    done : tuple of int
        Indices of the tasks that were finished before this plan was made.
    resources : Resources
        What one task requests.
    labels : dict
        What only the ledger needs: user, run, row.
    waits_for : tuple of str
        Ids of jobs of other runs that still have to make an input.
    version : int or None
        The version of the step's code; None where no config is frozen (a check of templates).
    requeue_limits : RequeueLimits
        How often a task may be requeued.
    continues : bool
        Whether the step resumes from its last checkpoint.
    given : dict
        Input name → origin, for external inputs.
    any_needs : tuple of str
        Those of ``needs`` that need only have ended, whether they succeeded or not.
    partial_inputs : tuple of str
        Their names as inputs, which a sweep does not change.
    like : str
        The kind of step for which the profile says where this step runs; empty for its own.
    not_granted : tuple of str
        What was asked for explicitly and is not given, or has no effect.
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
    version: int | None = None
    requeue_limits: RequeueLimits = field(default_factory=_default_requeue_limits)
    continues: bool = False
    given: dict[str, InputOrigin] = field(default_factory=dict)
    any_needs: tuple[str, ...] = ()
    partial_inputs: tuple[str, ...] = ()
    like: str = ""
    not_granted: tuple[str, ...] = ()

    @property
    def placement(self) -> str:
        """The kind of step whose partition, GPUs and options the profile uses."""
        return self.like or self.kind

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
    def of_a_job(self) -> Resources:
        """The resources, with as many tasks in one job as there are to run at most."""
        return self.resources.packed(len(self.missing) or self.tasks)

    @property
    def jobs(self) -> int:
        """Number of jobs (or elements of arrays) that its missing tasks need."""
        return -(-len(self.missing) // self.of_a_job.pack)

    @property
    def state(self) -> str:
        """``done before``, ``partly done`` or ``to run``."""
        if not self.missing:
            return "done before"
        return "partly done" if self.done else "to run"

    def config(self, run: str) -> dict[str, Any]:
        """The frozen config of the step, from which ``l3hpc run STEP --config`` runs a task.

        Parameters
        ----------
        run
            Name of the run.

        Returns
        -------
        dict
            JSON values, the content of ``config.json``.
        """
        return {
            "schema": 1, "run": run, "name": self.name, "step": self.kind,
            "version": self.version, "params": self.params, "inputs": self.inputs,
            "fingerprint": self.fingerprint, "artifact": str(self.artifact),
            "shards": self.shards, "labels": self.labels,
            **({"partial_inputs": list(self.partial_inputs)} if self.partial_inputs else {}),
        }


@dataclass(frozen=True)
class Plan:
    """A pipeline with parameters, ready to be rendered and submitted.

    Attributes
    ----------
    run : str
        The run's name (also its folder in ``<workspace>/runs``).
    pipeline : str
        Name of the pipeline.
    workspace : Path
        The folder that holds runs, artifacts and journals.
    profile : ClusterProfile
        Where the jobs run.
    steps : tuple of PlannedStep
        Each after its needs.
    options : dict
        The options as typed, for the record of the run.
    ledger : Ledger or None
        The settings of the results sheet; None where they are not configured.
    config_file : Path or None
        The cluster.yaml that was read, for a job that needs what is only there.
    """

    run: str
    pipeline: str
    workspace: Path
    profile: ClusterProfile
    steps: tuple[PlannedStep, ...]
    options: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None
    config_file: Path | None = None

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return Workspace(self.workspace).run(self.run)

    def step_folder(self, name: str) -> StepFolder:
        """The folder of one step of the run."""
        return self.folder.step(name)
