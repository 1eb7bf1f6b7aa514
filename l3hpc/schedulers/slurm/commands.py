"""Slurm's commands as subprocesses: a clean environment, a time limit, refusals as errors."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from l3hpc.errors import ClusterError

CONFIG_S = 20.0
_KEPT = {"SLURM_CONF"}
_NO_OPTION = {*_KEPT, "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_CLUSTERS",
              "SBATCH_CLUSTERS"}
_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SUBMITIT_",
            "PMI_", "L3HPC_LOCAL", "L3HPC_TASK")


_NOT_REACHED = re.compile(
    r"timed out|did not answer within|unable to contact|zero bytes|connection (?:refused|reset|"
    r"timed)|communication|transport endpoint|temporarily un|not responding|no route to host|"
    r"unexpected message|shutting down", re.IGNORECASE)


def scrubbed(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what an enclosing job or the user's ``SBATCH_*`` would slip in."""
    source = os.environ if environment is None else environment
    return {key: value for key, value in source.items()
            if key in _KEPT or not key.startswith(_FOREIGN)}


def unused_words(environment: Mapping[str, str]) -> str:
    """Which variables a person may have set for sbatch, and what to set instead; '' for none.

    The profile alone decides, so that a run does not depend on the shell it was submitted from.
    Inside a job the ``SLURM_*`` are that job's own, and nobody expects them to count.
    """
    inside = "SLURM_JOB_ID" in environment
    names = sorted(name for name in environment if name not in _NO_OPTION and (
        name.startswith("SBATCH_") or not inside and name.startswith("SLURM_")))
    if not names:
        return ""
    keys = [key for key in ("account", "partition", "qos", "constraint", "reservation", "wckey")
            if any(name.removeprefix("SBATCH_").removeprefix("SLURM_") == key.upper()
                   for name in names)]
    advice = f"; set {', '.join(f'{key}:' for key in keys)} of the profile instead" if keys else ""
    return (f"{', '.join(names)} of the environment {'is' if len(names) == 1 else 'are'} not used: "
            f"cluster.yaml decides{advice}")


def for_slurm() -> dict[str, str]:
    """The environment of Slurm's commands: scrubbed, and the indices of a pending array written out
    (they would be cut off after 64 characters)."""
    return {**scrubbed(), "SLURM_BITSTR_LEN": "0"}


def on_cluster(command: Sequence[str], cluster: str) -> list[str]:
    """The command for one cluster of a site with several ('' for its default, which needs no
    accounting database)."""
    return [command[0], *([f"--clusters={cluster}"] if cluster else ()), *command[1:]]


def not_reached(words: str) -> bool:
    """Whether an error says that Slurm did not answer: then it may have done what it was asked."""
    return _NOT_REACHED.search(words) is not None


def several(clusters: str) -> bool:
    """Whether ``--clusters`` names more than one: then Slurm chooses."""
    return "," in clusters or clusters == "all"


def call(command: Sequence[str], *, timeout_s: float) -> str:
    """Run one of Slurm's commands and return what it said; refusals are ``ClusterError``s."""
    program = command[0]
    try:
        done = subprocess.run(list(command), capture_output=True, encoding="utf-8",
                              errors="replace", timeout=timeout_s, env=for_slurm(),
                              stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ClusterError(f"{program} is not on this machine",
                           hint="Log in to the cluster, or use --cluster local.") from None
    except OSError as error:
        raise ClusterError(f"{program} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{program} did not answer within {timeout_s:.0f} s",
                           hint="Is the cluster up? l3hpc doctor") from None
    if done.returncode != 0:
        raise ClusterError(program_words(program, done.stderr or done.stdout))
    return done.stdout


def program_words(program: str, text: str) -> str:
    """What a program said, on one line, for an error."""
    lines = [line.strip().removeprefix(f"{program}: ").removeprefix("error: ")
             for line in text.splitlines() if line.strip()]
    return f"{program}: " + ("; ".join(lines) or "failed and printed nothing")


@functools.cache
def default_cluster() -> str:
    """The default cluster of Slurm's commands."""
    words = call(["scontrol", "show", "config"], timeout_s=CONFIG_S)
    found = re.search(r"^ClusterName\s*=\s*(\S+)", words, re.MULTILINE)
    return found[1] if found else ""
