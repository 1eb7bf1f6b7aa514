"""How many cores this process may use, and libraries kept to that number.

A node is shared: Slurm says how many of its cores are ours, and does not always bind a job to them.
"""

from __future__ import annotations

import os
import sys

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
         "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
BETWEEN_OPERATIONS = "TF_NUM_INTEROP_THREADS"


def allocated_cores() -> int:
    """Cores this process may use: those of the Slurm allocation that it is bound to, at least 1.

    Within a job: ``SLURM_CPUS_PER_TASK``; without that, what the job has on this node, or 1 where
    several tasks share it. Never more than the CPU affinity, which alone counts outside of a job.
    """
    bound = len(os.sched_getaffinity(0))
    asked = _number("SLURM_CPUS_PER_TASK")
    if asked is None and "SLURM_JOB_ID" in os.environ:
        alone = (_number("SLURM_NTASKS") or 1) == 1
        asked = _number("SLURM_CPUS_ON_NODE") if alone else 1
    return min(asked or bound, bound)


def limit_pools(threads: int) -> None:
    """Let BLAS, OpenMP, numba and TensorFlow use at most ``threads`` threads each.

    By environment variables, so it counts for libraries that are not loaded yet; a variable that
    asks for less stays as it is.
    """
    for name in POOLS:
        if name == "NUMBA_NUM_THREADS" and "numba" in sys.modules:
            continue  # numba refuses another number once it has started
        os.environ[name] = str(min(_number(name) or threads, threads))
    os.environ[BETWEEN_OPERATIONS] = str(min(_number(BETWEEN_OPERATIONS) or 2, 2, threads))


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() and int(value) > 0 else None
