"""Work done ahead of its use, in order, by other threads: batches, recordings, spectrograms.

(``tf.data`` reads ahead too, but not where TensorFlow is asked to be deterministic.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")
DEPTH = 4


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
