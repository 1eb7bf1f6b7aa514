"""How jobs get started: ``slurm`` (submitit with our scripts) and ``local`` (bash on this machine).

Both take the same rendered script and the same pickled call; they differ in who runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile
    from l3hpc.schedulers.slurm.executor import ScriptExecutor


def is_local(profile: ClusterProfile) -> bool:
    """True for a profile whose jobs run on this machine, without a scheduler."""
    return profile.executor == "local"


def executor(
    profile: ClusterProfile, workspace: Path, folder: Path, clusters: str = "",
) -> ScriptExecutor:
    """The executor of a cluster profile for one step whose submitit files live in ``folder``.

    clusters: what stands behind Slurm's ``--clusters`` ('' for none).
    """
    if is_local(profile):
        from l3hpc.schedulers.local.executor import LocalExecutor

        return LocalExecutor(folder, workspace=workspace)
    from l3hpc.schedulers.slurm.executor import ScriptExecutor

    return ScriptExecutor(folder, kill_on_invalid_dep=profile.kill_on_invalid_dep,
                          clusters=clusters)
