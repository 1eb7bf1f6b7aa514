"""Where jobs run: ``slurm`` (a cluster) or ``local`` (this machine), with the same scripts.

``of`` returns the scheduler of a profile, and ``of_record`` that of a run. ``register`` adds
another one; ``base.Scheduler`` describes what it has to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from l3hpc.config import capabilities as known

if TYPE_CHECKING:
    from l3hpc.config.capabilities import Capabilities
    from l3hpc.config.profile import ClusterProfile
    from l3hpc.schedulers.base import Scheduler, Starts
    from l3hpc.workspace.run_record import RunRecord

    Factory = Callable[[Path, ClusterProfile | None], Scheduler]


def _local(workspace: Path, profile: ClusterProfile | None) -> Scheduler:
    from l3hpc.schedulers.local.scheduler import LocalScheduler

    return LocalScheduler(workspace)


def _slurm(workspace: Path, profile: ClusterProfile | None) -> Scheduler:
    from l3hpc.schedulers.slurm.scheduler import SlurmScheduler

    return SlurmScheduler(workspace, profile)


_FACTORIES: dict[str, Factory] = {known.LOCAL: _local, known.SLURM: _slurm}


def register(name: str, capabilities: Capabilities, factory: Factory) -> None:
    """Add a scheduler, which profiles then name as their ``executor``.

    Parameters
    ----------
    name
        Its name.
    capabilities
        What it can do.
    factory
        Creates it from a workspace and a profile; the profile is None if no jobs will be submitted.
    """
    known.KNOWN[name] = capabilities
    _FACTORIES[name] = factory


def of(profile: ClusterProfile, workspace: Path) -> Scheduler:
    """Return the scheduler of a cluster profile.

    Parameters
    ----------
    profile
        The cluster profile.
    workspace
        The workspace folder.
    """
    return _FACTORIES[profile.executor](Path(workspace), profile)


def prepared(profile: ClusterProfile, workspace: Path) -> Scheduler:
    """Return the scheduler of a cluster profile, which is fetching what ``validate`` will need.

    Parameters
    ----------
    profile
        The cluster profile.
    workspace
        The workspace folder.
    """
    scheduler = of(profile, workspace)
    scheduler.prepare()
    return scheduler


def of_record(workspace: Path, record: RunRecord) -> Scheduler:
    """Return the scheduler that has the jobs of a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.

    Raises
    ------
    InputError
        If there is no such scheduler.
    """
    known.of(record.executor)
    return _FACTORIES[record.executor](Path(workspace), None)


def starting(scheduler: Scheduler) -> Starts:
    """Return a scheduler with ``capabilities.runner`` as one that starts its jobs itself.

    Parameters
    ----------
    scheduler
        The scheduler.
    """
    assert scheduler.capabilities.runner
    return cast("Starts", scheduler)
