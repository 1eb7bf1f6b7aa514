"""Passes over all rows: blocks are read in order, and worked on by all cores at once.

Each core multiplies on its own, with a BLAS of one thread, and results are taken in the order of
the blocks. So a pass gives the same bits however the rows were cut and however many cores there
are (rows of several thousand columns excepted: there a core is given more than one thread).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import numpy as np

from l3hpc.arrays.features import FeatureRows
from l3hpc.arrays.rows import Rows, rechunk
from l3hpc.arrays.threads import allocated_cores, map_in_order

Result = TypeVar("Result")

BLOCK_ROWS = 2048
SMALL = 128  # BLAS does not share out matrices of this size
ALONE = 1024  # square matrices up to this size are worked on by one core
BUFFER_BYTES = 192 << 20  # of all cores together


def map_blocks(
    rows: Rows, work: Callable[[np.ndarray], Result], kind: np.dtype,
) -> Iterator[Result]:
    """``work(block)`` of every block of ``rows``, in their order.

    block: (m, d) of ``kind``, m = 2048 except in the last. ``work`` runs on several threads, must
    leave nothing but its result, and may keep the block.
    """
    n, d = rows.shape
    source = rows.rows if isinstance(rows, FeatureRows) else rows
    needed = d * (BLOCK_ROWS * (8 + 2 * kind.itemsize) + d * kind.itemsize)
    cores = allocated_cores()
    workers = max(1, min(cores, BUFFER_BYTES // needed, -(-n // BLOCK_ROWS)))
    kept: list[np.ndarray] = []

    def items() -> Iterator[tuple[int, np.ndarray]]:
        for number, block in enumerate(rechunk(source.chunks(BLOCK_ROWS), BLOCK_ROWS)):
            if len(kept) <= workers:
                kept.append(np.empty_like(block))
            place = number % (workers + 1)
            if kept[place].dtype != block.dtype or len(kept[place]) < len(block):
                kept[place] = np.empty_like(block)
            copy = kept[place][:len(block)]
            copy[...] = block
            yield number * BLOCK_ROWS, copy

    def prepared(item: tuple[int, np.ndarray]) -> Result:
        start, block = item
        with np.errstate(invalid="ignore", over="ignore"):  # refused afterwards
            if isinstance(rows, FeatureRows):
                return work(rows.of(block, slice(start, start + len(block)), kind))
            return work(block.astype(kind))

    if n <= BLOCK_ROWS and n * d <= SMALL * SMALL:
        yield from map(prepared, items())
        return
    with _libraries().limit(limits=max(1, cores // workers), user_api="blas"):
        yield from map_in_order(prepared, items(), workers)


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def reproducible_blas(size: int) -> AbstractContextManager[Any]:
    """While it lasts, linear algebra on ``size`` × ``size`` numbers has bits that do not depend on
    the number of cores; above ``ALONE`` that would take too long, and all cores are used.

    Nor are BLAS's own threads started, which would turn in place for a while and keep cores from
    the threads of the next pass.
    """
    threads = 1 if size <= ALONE else allocated_cores()
    return _libraries().limit(limits=threads, user_api="blas")
