"""The number of cores this process may use, and work on several threads with results in order.

Nodes are shared: Slurm states how many cores a job has, but does not always bind it to them. The
first part finds that number and limits libraries to it. ``map_in_order`` computes on several
threads (each with a single-threaded BLAS, so that the result does not depend on their number), and
``read_ahead`` loads the next items while one is in use; ``take_ahead`` does the same for the items
of an iterator.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from contextvars import copy_context
from itertools import count, islice, repeat
from threading import Lock
from typing import Generic, TypeVar

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
         "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
BETWEEN_OPERATIONS = "TF_NUM_INTEROP_THREADS"
DEPTH = 4  # items that are loaded ahead
Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")


def allocated_cores() -> int:
    """Return the number of cores this process may use.

    Returns
    -------
    int
        In a Slurm job ``SLURM_CPUS_PER_TASK``; if that is not set, the cores that the job has on
        this node, or 1 if it has several tasks. Never more than the CPU affinity, which is the
        result outside a job.
    """
    bound = len(os.sched_getaffinity(0))
    asked = _number("SLURM_CPUS_PER_TASK")
    if asked is None and "SLURM_JOB_ID" in os.environ:
        alone = (_number("SLURM_NTASKS") or 1) == 1
        # The cores on the node are those of all tasks of the job: with several, each has one.
        asked = _number("SLURM_CPUS_ON_NODE") if alone else 1
    return min(asked or bound, bound)


def limit_pools(threads: int) -> None:
    """Limit the thread pools of BLAS, OpenMP, numba and TensorFlow.

    The limits are environment variables, so they apply to libraries that are not loaded yet. A
    variable with a smaller number is left as it is.

    Parameters
    ----------
    threads
        Most threads of each library.
    """
    for name in POOLS:
        if name == "NUMBA_NUM_THREADS" and "numba" in sys.modules:
            # numba raises an error if the number changes after it has started.
            continue
        os.environ[name] = str(min(_number(name) or threads, threads))
    os.environ[BETWEEN_OPERATIONS] = str(min(_number(BETWEEN_OPERATIONS) or 2, 2, threads))


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def available_threads(threads: int | None = None) -> int:
    """Return ``threads``, at least 1; None for the number of cores this process may use."""
    return max(threads, 1) if threads is not None else allocated_cores()


def blas_threads(count: int) -> AbstractContextManager[object]:
    """Limit matrix products, on any thread, to ``count`` BLAS threads while the block runs."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count, user_api="blas")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int,
) -> Iterator[Result]:
    """Apply a function to items on several threads.

    At most ``threads`` + 1 items are in progress, and the next one is only taken when the caller
    requests the next result. So ``threads`` + 1 buffers, used in turn, are enough for items and
    results.

    Parameters
    ----------
    work
        The function.
    items
        Its arguments.
    threads
        The number of threads.

    Yields
    ------
    Result
        ``work(item)`` of each item, in the order of the items. The first error ends all.
    """
    running: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class InOrder(Generic[Item, Result]):
    """Apply a function to items that are added one by one, on other threads.

    Parameters
    ----------
    work
        The function.
    threads
        The number of threads, and of items that may be unfinished when ``add`` returns.
    """

    def __init__(self, work: Callable[[Item], Result], threads: int) -> None:
        self._work, self._threads = work, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="in-order")
        self._running: deque[tuple[Item, Future[Result]]] = deque()
        self._left = threading.Event()

    def __enter__(self) -> InOrder[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check(self) -> None:
        """End work whose result is no longer needed; for long work to call now and then.

        Raises
        ------
        CancelledError
            The ``with`` block has been left, by an error or an interrupt.
        """
        if self._left.is_set():
            raise CancelledError

    def add(self, item: Item) -> tuple[Item, Result] | None:
        """Start to work on an item.

        Parameters
        ----------
        item
            The argument of the function.

        Returns
        -------
        tuple or None
            If more than ``threads`` items would be unfinished, the oldest and its result, for which
            this call waits.
        """
        self._running.append((item, self._pool.submit(self._work, item)))
        return self._oldest() if len(self._running) > self._threads else None

    def rest(self) -> Iterator[tuple[Item, Result]]:
        """The items that ``add`` has not returned, and their results.

        Yields
        ------
        tuple
            Item and result, in the order in which the items were added.
        """
        while self._running:
            yield self._oldest()

    def run(self, work: Callable[[], None]) -> None:
        """Do other work on one of the threads, and wait for it.

        Parameters
        ----------
        work
            Called without arguments.
        """
        self._pool.submit(work).result()

    def _oldest(self) -> tuple[Item, Result]:
        item, result = self._running.popleft()
        return item, result.result()


def pull_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int,
) -> Iterator[Result]:
    """As ``map_in_order``, but the threads that compute also take the items, one at a time.

    So an item may be read and prepared by the iterator without a thread of its own, which would
    compete with those that compute: where every core has one, blocks are done a tenth earlier.

    Parameters
    ----------
    work
        The function.
    items
        Its arguments. The iterator runs on several threads, never on two at once. As many are in
        progress as there are threads, so that as many buffers, used in turn, are enough.
    threads
        The number of threads.

    Yields
    ------
    Result
        ``work(item)`` of each item, in the order of the items. The first error ends all.
    """
    remaining, lock, taken = enumerate(items), Lock(), 0
    # Of the caller: what reads may note its progress there, or what is damaged.
    context = copy_context()

    def one() -> tuple[int, list[Result]]:
        nonlocal taken
        with lock:
            found = context.run(next, remaining, None)
            if found is None:
                return taken, []
            taken += 1
        return found[0], [work(found[1])]

    running: deque[Future[tuple[int, list[Result]]]] = deque()
    done: dict[int, list[Result]] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        running.extend(pool.submit(one) for _ in range(threads))
        for number in count():
            # Two threads may take their items in another order than they were started.
            while number not in done:
                other, result = running.popleft().result()
                done[other] = result
            if not done[number]:
                return
            yield done.pop(number)[0]
            running.append(pool.submit(one))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compute_batches(
    work: Callable[[Item], Result], batches: Iterable[Iterable[Item]], pool: Executor,
) -> Iterator[list[Result]]:
    """Apply a function to the items of batches, without a pause from one batch to the next.

    The items of the next batch are submitted before the results of a batch are awaited: otherwise
    all threads but one would be idle while the last item of every batch is computed.

    Parameters
    ----------
    work
        The function.
    batches
        Its arguments. Two batches are in progress at a time.
    pool
        The threads.

    Yields
    ------
    list of Result
        ``work(item)`` of each item of a batch, in order. The first error ends all.
    """
    running: deque[list[Future[Result]]] = deque()
    try:
        for batch in batches:
            running.append([pool.submit(work, item) for item in batch])
            if len(running) > 1:
                yield [future.result() for future in running.popleft()]
        while running:
            yield [future.result() for future in running.popleft()]
    finally:
        for future in (future for batch_futures in running for future in batch_futures):
            future.cancel()


def read_ahead(
    load: Callable[[Key], Result], keys: Iterable[Key], depth: int = DEPTH, threads: int = 1,
) -> Generator[Result, None, None]:
    """Load items ahead of their use, on other threads.

    Closing the iterator waits for the loads that are running and starts no others. One that has a
    name must be closed (``contextlib.closing``): where its user fails, the traceback keeps it, and
    its threads with it.

    Parameters
    ----------
    load
        Called with a key. What it raises is raised here, in the place of its result.
    keys
        One for each item.
    depth
        The number of items that are loaded while one is in use.
    threads
        The number of threads that load.

    Yields
    ------
    Result
        ``load(key)`` of each key, in the order of the keys.
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


def take_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Take items from an iterator ahead of their use: one, on another thread.

    As with ``read_ahead``, an iterator that has a name must be closed. What ``items`` holds (open
    files, other threads) is not closed by that.

    Parameters
    ----------
    items
        Only the other thread takes from them. What they raise is raised here, in its place.

    Yields
    ------
    Item
        Each item, in order.
    """
    source, end = iter(items), object()
    with closing(read_ahead(lambda _: next(source, end), repeat(None), depth=1)) as loaded:
        for item in loaded:
            if item is end:
                return
            yield item  # type: ignore[misc]
