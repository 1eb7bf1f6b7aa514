"""Batches read ahead of the network, in order, by a thread of their own. No TensorFlow.

(``tf.data`` reads ahead too, but not where TensorFlow is asked to be deterministic.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Batch = TypeVar("Batch")
DEPTH = 4


def read_ahead(
    load: Callable[[Key], Batch], keys: Iterable[Key], depth: int = DEPTH,
) -> Iterator[Batch]:
    """``load`` of every key, in order; while one is used, up to ``depth`` are being loaded.

    ``load`` runs in one other thread, one key at a time. What it raises is raised here, in its
    place. Closing the iterator waits for the load that is running, and starts no other.
    """
    remaining = iter(keys)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        try:
            waiting.extend(reader.submit(load, key) for key in islice(remaining, depth))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(reader.submit(load, key) for key in islice(remaining, 1))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
