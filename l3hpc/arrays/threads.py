"""How many cores this process may use, and libraries kept to that number.

A node is shared: Slurm says how many of its cores are ours, and does not always bind a job to them.

Work on several threads, with results in order: products on all cores, and loading ahead of use.

For products each thread multiplies on its own, with a BLAS that uses one thread: no core waits for
another within a product, and the result does not depend on how many threads there are.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
         "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
BETWEEN_OPERATIONS = "TF_NUM_INTEROP_THREADS"
Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")
DEPTH = 4


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


def available_threads(threads: int | None = None) -> int:
    """``threads``, or as many as the cores this process may use (None)."""
    return max(threads, 1) if threads is not None else allocated_cores()


def blas_threads(count: int) -> AbstractContextManager[Any]:
    """While the block runs, a matrix product uses ``count`` threads, wherever it is called."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count, user_api="blas")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int,
) -> Iterator[Result]:
    """``work(item)`` of every item, on ``threads`` threads, in the order of the items.

    Items are taken when they are needed: at most ``threads`` + 1 are under way, and the next is
    only taken when the caller comes back for the next result. So ``threads`` + 1 buffers that are
    used in turn are enough for items and results. The first error ends all, and is raised here.
    """
    under_way: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(
    load: Callable[[Key], Result], keys: Iterable[Key], depth: int = DEPTH, threads: int = 1,
) -> Iterator[Result]:
    """``load`` of every key, in order; while one is used, up to ``depth`` are being loaded.

    ``load`` runs in ``threads`` other threads, each with one key at a time. What it raises is
    raised here, in its place. Closing the iterator waits for the loads that are running, and starts
    no other.
    """
    remaining = iter(keys)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as reader:
        try:
            waiting.extend(reader.submit(load, key) for key in islice(remaining, depth))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(reader.submit(load, key) for key in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
