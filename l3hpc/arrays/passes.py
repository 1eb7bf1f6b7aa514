"""Parallel passes over all rows of a matrix, with results that do not depend on the cores.

Blocks are read in order and processed by all cores. Each core multiplies with a single-threaded
BLAS, and results are taken in the order of the blocks. So a pass gives the same bits for any
division of the rows and any number of cores (except for rows of several thousand columns, where
memory limits the number of blocks and each gets more than one BLAS thread).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from l3hpc.arrays.features import FeatureRows
from l3hpc.arrays.rows import Rows, rechunk
from l3hpc.arrays.threads import allocated_cores, pull_in_order

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")

BLOCK_ROWS = 2048
SMALL = 128  # BLAS computes square matrices up to this size in one thread anyway
ALONE = 1024  # square matrices up to this size are computed by one core
BUFFER_BYTES = 192 << 20  # for all cores together


def map_blocks(
    rows: Rows, work: Callable[[np.ndarray], Result], kind: np.dtype,
) -> Iterator[Result]:
    """Apply a function to every block of a matrix, on several threads.

    Parameters
    ----------
    rows
        (n, d) matrix.
    work
        Called with blocks (m, d), where m is ``BLOCK_ROWS`` except for the last. It may keep the
        block, but must not change anything else.
    kind
        Type of the blocks.

    Yields
    ------
    Result
        ``work(block)`` for each block, in the order of the blocks.
    """
    n, d = rows.shape
    source = rows.rows if isinstance(rows, FeatureRows) else rows
    # Bytes per worker: the block as it is read (up to 8 bytes per value), a copy and its product
    # in ``kind``, and a (d, d) result.
    needed = d * (BLOCK_ROWS * (8 + 2 * kind.itemsize) + d * kind.itemsize)
    cores = allocated_cores()
    workers = max(1, min(cores, BUFFER_BYTES // needed, -(-n // BLOCK_ROWS)))
    buffers: list[np.ndarray] = []

    def items() -> Iterator[tuple[int, np.ndarray]]:
        # pull_in_order has one item in progress for each worker: as many buffers are used in turn.
        # A block itself is only valid until the next one.
        for number, block in enumerate(rechunk(source.chunks(BLOCK_ROWS), BLOCK_ROWS)):
            if len(buffers) < workers:
                buffers.append(np.empty_like(block))
            slot = number % workers
            if buffers[slot].dtype != block.dtype or len(buffers[slot]) < len(block):
                buffers[slot] = np.empty_like(block)
            copy = buffers[slot][:len(block)]
            copy[...] = block
            yield number * BLOCK_ROWS, copy

    def prepared(item: tuple[int, np.ndarray]) -> Result:
        start, block = item
        # Rows that are not finite are refused by the caller, with their number.
        with np.errstate(invalid="ignore", over="ignore"):
            if isinstance(rows, FeatureRows):
                return work(rows.of(block, slice(start, start + len(block)), kind))
            return work(block.astype(kind))

    if n <= BLOCK_ROWS and n * d <= SMALL * SMALL:
        yield from map(prepared, items())
        return
    with _libraries().limit(limits=max(1, cores // workers), user_api="blas"):
        yield from pull_in_order(prepared, items(), workers)


# Looking through a process for its BLAS libraries takes longer than a small product.
@cache
def _libraries() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def reproducible_blas(size: int) -> AbstractContextManager[object]:
    """Make linear algebra reproducible in every bit, whatever the number of cores.

    Parameters
    ----------
    size
        Side of the square matrices. Above ``ALONE`` one thread would take too long: all cores are
        used, and the last bits may depend on their number.

    Returns
    -------
    context manager
        The limit holds inside the block.
    """
    # This keeps BLAS from starting threads, which would spin for a while after their work and slow
    # down the threads of the next pass.
    threads = 1 if size <= ALONE else allocated_cores()
    return _libraries().limit(limits=threads, user_api="blas")
