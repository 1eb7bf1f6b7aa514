"""What this machine has: Slurm or not, modules, container programs, folders for large files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from l3hpc.arrays.threads import allocated_cores
from l3hpc.config.profile import machine_memory_mb
from l3hpc.errors import ClusterError, command_line
from l3hpc.schedulers.slurm import site
from l3hpc.schedulers.slurm.site import Site

CONTAINERS = ("apptainer", "singularity")
SCRATCH = ("SCRATCH", "WORK", "WORKDIR")
_OF_INTEREST = re.compile(r"(?i)^[\w.+/-]*(?:python|conda|mamba|cuda|cudnn|apptainer|singularity|"
                          r"ffmpeg)[\w.+/-]*$")
MODULES_S = 20.0
MOST_MODULES = 12


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes
    ----------
    site : Site or None
        What Slurm says; None without Slurm.
    cpus, mem_mb : int
        Of this machine.
    containers : tuple of str
        Programs that run containers.
    loaded_modules : tuple of str
        Environment modules loaded in this shell: what runs here may need them.
    modules : tuple of str
        Some of those that the site offers and that a job may want.
    scratch : str
        The variable that names a folder for large files, ``SCRATCH``; '' where there is none.
    """

    site: Site | None
    cpus: int
    mem_mb: int
    containers: tuple[str, ...] = ()
    loaded_modules: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    scratch: str = ""


def look(local: bool = False, account: str = "") -> Survey:
    """Ask Slurm, where it is installed, and look at this machine.

    Parameters
    ----------
    local : bool
        Do not ask Slurm.
    account : str
        The account to charge. Default: the person's default account.

    Raises
    ------
    ClusterError
        Slurm is installed, and does not answer or has no partition for this person.
    """
    containers = tuple(name for name in CONTAINERS if shutil.which(name))
    if local or not (shutil.which("sinfo") and shutil.which("sbatch")):
        return Survey(None, allocated_cores(), machine_memory_mb(), containers)
    try:
        found = site.ask(account)
    except site.NoPartitionError:
        raise
    except ClusterError as error:
        raise ClusterError(f"Slurm is installed but does not answer: {error.message}",
                           hint="Run this on a login node where sinfo works, or write a profile "
                                f"for this machine: {command_line('init', '--local')}") from None
    return Survey(found, allocated_cores(), machine_memory_mb(), containers,
                  tuple(filter(None, os.environ.get("LOADEDMODULES", "").split(":"))),
                  _modules(), _scratch())


def _modules() -> tuple[str, ...]:
    """Names that ``module avail`` lists, the last (newest) ones first; none without modules."""
    try:
        done = subprocess.run(["bash", "-lc", "module -t avail"], capture_output=True,
                              encoding="utf-8", errors="replace", timeout=MODULES_S,
                              stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    # Lmod and Environment Modules answer on standard error, unless the site redirects it
    names = [re.sub(r"\s*\(.*\)$", "", line.strip())
             for line in (done.stdout + "\n" + done.stderr).splitlines()]
    useful = dict.fromkeys(name for name in reversed(names)
                           if _OF_INTEREST.match(name) and not name.endswith(("/", ":")))
    return tuple(useful)[:MOST_MODULES]


def _scratch() -> str:
    for name in SCRATCH:
        folder = os.environ.get(name, "")
        if folder and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return name
    return ""
