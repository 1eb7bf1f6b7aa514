"""Optional packages that a step needs, looked for where its jobs will run, before submission."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping

from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import InputError

TIMEOUT_S = 20.0


def refuse_missing(step: str, packages: Mapping[str, str], profile: ClusterProfile) -> None:
    """Refuse a step whose packages the Python of its jobs lacks, as far as can be known here.

    Parameters
    ----------
    step
        The step, for the message.
    packages
        Importable name → how to install it.
    profile
        The cluster profile of the jobs.

    Raises
    ------
    InputError
        For a missing package, with the command that installs it.
    """
    for package, install in packages.items():
        if _is_missing(package, profile):
            raise InputError(f"{step} needs the package {package!r}, which is not installed",
                             where=profile.python, hint=install)


def _is_missing(package: str, profile: ClusterProfile) -> bool:
    """Whether jobs would not find a package; False where only they can tell."""
    # What a container, the lines of setup and PYTHONPATH add is only seen inside a job. Without
    # them, a job starts an interpreter that is usually on a shared disk and can be asked here.
    if profile.container or profile.setup or "PYTHONPATH" in profile.env:
        return False
    if profile.python == sys.executable:
        return importlib.util.find_spec(package) is None
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    try:
        asked = subprocess.run([profile.python, "-c", code], stdin=subprocess.DEVNULL,
                               capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    # An interpreter that does not start exits with 1 too, and says why.
    return asked.returncode == 1 and not asked.stderr
