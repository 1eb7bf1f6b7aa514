"""Slurm's commands as subprocesses: a clean environment, a time limit, and refusals as errors."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from l3hpc.console.progress import doing
from l3hpc.errors import ClusterError, command_line

CONFIG_S = 20.0
# names the site's configuration, without which its commands may not find their controller
_KEPT = {"SLURM_CONF"}
# variables of Slurm's commands that are no options of sbatch, and so may be set
_NO_OPTION = {*_KEPT, "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_CLUSTERS",
              "SBATCH_CLUSTERS"}
# variables that an enclosing job or the user's shell would pass on to the job
_DROPPED = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SUBMITIT_",
            "PMI_", "L3HPC_LOCAL", "L3HPC_TASK")
_NOT_REACHED = re.compile(
    r"timed out|did not respond within|unable to contact|zero bytes|"
    r"connection (?:refused|reset|timed)|communication|transport endpoint|temporarily un|"
    r"not responding|no route to host|unexpected message|shutting down", re.IGNORECASE)


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Remove the variables by which an enclosing job or the user's ``SBATCH_*`` would have an
    effect.

    Parameters
    ----------
    environment
        None: that of this process.
    """
    source = os.environ if environment is None else environment
    return {key: value for key, value in source.items()
            if key in _KEPT or not key.startswith(_DROPPED)}


def ignored_variables(environment: Mapping[str, str]) -> str:
    """Describe the variables that a user may have set for sbatch, and what to set instead.

    Only the profile counts, so that a run does not depend on the shell it was submitted from.

    Parameters
    ----------
    environment
        The environment variables.

    Returns
    -------
    str
        One sentence; '' if there are none.
    """
    # inside a job the SLURM_* are those of that job, and nobody expects them to have an effect
    inside = "SLURM_JOB_ID" in environment
    names = sorted(name for name in environment if name not in _NO_OPTION and (
        name.startswith("SBATCH_") or not inside and name.startswith("SLURM_")))
    if not names:
        return ""
    keys = [key for key in ("account", "partition", "qos", "constraint", "reservation", "wckey")
            if any(name.removeprefix("SBATCH_").removeprefix("SLURM_") == key.upper()
                   for name in names)]
    advice = f"; set {', '.join(f'{key}:' for key in keys)} in the profile instead" if keys else ""
    plural = len(names) > 1
    return (f"the environment variable{'s' * plural} {', '.join(names)} "
            f"{'are' if plural else 'is'} ignored: cluster.yaml decides{advice}")


def slurm_environment() -> dict[str, str]:
    """Return the environment of Slurm's commands.

    It is clean, and the indices of a pending array are written out (they would be truncated after
    64 characters).
    """
    return {**clean_environment(), "SLURM_BITSTR_LEN": "0"}


def on_cluster(command: Sequence[str], cluster: str) -> list[str]:
    """Address a command to one cluster of a site.

    Parameters
    ----------
    command
        The command and its arguments.
    cluster
        The value of ``--clusters``; '' for the default cluster, which needs no accounting database.
    """
    return [command[0], *([f"--clusters={cluster}"] if cluster else ()), *command[1:]]


def is_unreachable(message: str) -> bool:
    """Whether an error means that Slurm did not respond: it may have done what was requested.

    Parameters
    ----------
    message
        The error message.
    """
    return _NOT_REACHED.search(message) is not None


def is_several(clusters: str) -> bool:
    """Whether ``--clusters`` names more than one cluster, of which Slurm then chooses.

    Parameters
    ----------
    clusters
        The value of ``--clusters``.
    """
    return "," in clusters or clusters == "all"


def call(command: Sequence[str], *, timeout_s: float) -> str:
    """Run one of Slurm's commands.

    Parameters
    ----------
    command
        The command and its arguments.
    timeout_s
        Time limit, seconds.

    Returns
    -------
    str
        Its standard output.

    Raises
    ------
    ClusterError
        If it does not exist, fails, or does not respond in time.
    """
    program = command[0]
    try:
        with doing(f"waiting for {program}", alone=True):
            done = subprocess.run(list(command), capture_output=True, encoding="utf-8",
                                  errors="replace", timeout=timeout_s, env=slurm_environment(),
                                  stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ClusterError(f"{program} is not available on this machine",
                           hint="Log in to the cluster, or use --cluster local.") from None
    except OSError as error:
        raise ClusterError(f"cannot run {program}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{program} did not respond within {timeout_s:.0f} s",
                           hint=f"Is the cluster up? {command_line('doctor')}") from None
    if done.returncode != 0:
        raise ClusterError(error_text(program, done.stderr or done.stdout))
    return done.stdout


def error_text(program: str, text: str) -> str:
    """Put the output of a program on one line, as an error message.

    Parameters
    ----------
    program
        Name of the program.
    text
        Its output.
    """
    lines = [line.strip().removeprefix(f"{program}: ").removeprefix("error: ")
             for line in text.splitlines() if line.strip()]
    return f"{program}: " + ("; ".join(lines) or "failed and printed nothing")


@functools.cache
def default_cluster() -> str:
    """Return the default cluster of Slurm's commands.

    Raises
    ------
    ClusterError
        If Slurm does not respond.
    """
    config = call(["scontrol", "show", "config"], timeout_s=CONFIG_S)
    found = re.search(r"^ClusterName\s*=\s*(\S+)", config, re.MULTILINE)
    return found[1] if found else ""
