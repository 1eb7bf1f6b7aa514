"""Where jobs run: ``slurm`` (a cluster) or ``local`` (this machine), from the same script.

``of`` gives the scheduler of a profile, ``of_record`` that of a run. Another one is added with
``register``; see ``base.Scheduler`` for what it has to do.
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
    name : str
    capabilities : Capabilities
    factory : callable
        Makes it of a workspace and, where jobs are to be submitted, a profile.
    """
    known.KNOWN[name] = capabilities
    _FACTORIES[name] = factory


def of(profile: ClusterProfile, workspace: Path) -> Scheduler:
    """The scheduler that runs the jobs of a cluster profile."""
    return _FACTORIES[profile.executor](Path(workspace), profile)


def of_record(workspace: Path, record: RunRecord) -> Scheduler:
    """The scheduler that has the jobs of a run; an ``InputError`` for one not known here."""
    known.of(record.executor)
    return _FACTORIES[record.executor](Path(workspace), None)


def starting(scheduler: Scheduler) -> Starts:
    """A scheduler whose jobs are started by us (``capabilities.runner``)."""
    assert scheduler.capabilities.runner
    return cast("Starts", scheduler)
