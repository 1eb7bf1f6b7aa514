"""Compute the first blocks strip by strip: the same integers in a fraction of the memory.

A block is two 3x3 "same" convolutions and a 2x2 max pooling. Computed as a whole, both maps of its
full resolution are in memory at once; they make up most of the arena of these networks. But a row
of the pooled map depends on only six rows of the block's input. So the block is computed for a
strip of pooled rows at a time, from overlapping strips of the input, and the strips are joined
(patch-based inference: Lin et al. 2021, "MCUNetV2").

Everything is made of standard operators: SLICE takes the strip, PAD adds the zeros of "same"
padding (the zero point, in integers) around it, the convolutions become "valid" ones, and
CONCATENATION joins the strips. The graph of the plain export is rewritten: weights, biases and the
quantisation of every map are the same tensors, shared by all strips, so that every output is
bit-identical in integer formats (float kernels add in another order). Only the rows of the first
convolution's map that two strips share are computed twice.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.export import costs
from l3hpc.export.graph import Graph

BLOCK = ("CONV_2D", "CONV_2D", "MAX_POOL_2D")
MAX_STRIPS = 10  # inputs that TFLite Micro's CONCATENATION can join
ARENA_BUDGET = 102_400  # bytes: one map of the published students' first block


@dataclass(frozen=True)
class Rows:
    """Rows of a map, with the zeros around it.

    Attributes
    ----------
    first
        The first row that exists.
    last
        The row after the last that exists.
    above
        Rows of zeros above them.
    below
        Rows of zeros below them.
    """

    first: int
    last: int
    above: int
    below: int

    @classmethod
    def clipped(cls, first: int, last: int, height: int) -> Rows:
        """Rows of a map that may extend beyond its borders.

        Parameters
        ----------
        first
            The first row; may be negative.
        last
            The row after the last; may exceed ``height``.
        height
            Rows of the map.

        Returns
        -------
        Rows
            Rows that exist, and rows of zeros.
        """
        return cls(max(first, 0), min(last, height), max(-first, 0), max(last - height, 0))


@dataclass(frozen=True)
class Strip:
    """What one strip of pooled rows needs.

    Attributes
    ----------
    pooled
        Rows of the pooled map that it makes.
    hidden
        Rows of the first convolution's map.
    source
        Rows of the block's input.
    """

    pooled: int
    hidden: Rows
    source: Rows


def split_block(height: int, count: int) -> list[Strip]:
    """Divide a block into strips, as evenly as possible.

    Parameters
    ----------
    height
        Rows of the block, at least 2.
    count
        Number of strips.

    Returns
    -------
    list of Strip
        From top to bottom.

    Raises
    ------
    InputError
        The pooled map has fewer rows than there are strips.
    """
    pooled = height // 2
    if not 1 <= count <= pooled:
        raise InputError(f"{count} strips of a map with {pooled} pooled rows",
                         allowed=f"1 to {pooled}")
    bounds = [round(bound) for bound in np.linspace(0, pooled, count + 1)]
    strips = []
    for low, high in zip(bounds, bounds[1:], strict=False):
        # Each 3x3 convolution needs one more row at either side.
        hidden = Rows.clipped(2 * low - 1, 2 * high + 1, height)
        source = Rows.clipped(hidden.first - 1, hidden.last + 1, height)
        strips.append(Strip(high - low, hidden, source))
    return strips


def find_blocks(graph: Graph) -> list[int]:
    """Find the blocks of a graph: two convolutions and a 2x2 max pooling.

    Parameters
    ----------
    graph
        A plain export.

    Returns
    -------
    list of int
        Index in ``graph.operators`` of the first operator of each block.
    """
    names = [graph.name(operator) for operator in graph.operators]
    found = []
    for index in range(len(names) - 2):
        if tuple(names[index:index + 3]) != BLOCK:
            continue
        options = graph.operators[index + 2].builtinOptions
        if options.filterHeight == options.filterWidth == options.strideH == options.strideW == 2:
            found.append(index)
    return found


def tile_blocks(graph: Graph, counts: Sequence[int]) -> None:
    """Rewrite the first blocks of a plain export.

    Parameters
    ----------
    graph
        The graph; it is changed.
    counts
        Strips of each block; 1 leaves a block as it is.

    Raises
    ------
    InputError
        There are more counts than blocks.
    """
    starts = find_blocks(graph)
    if len(counts) > len(starts):
        raise InputError(f"strips for {len(counts)} blocks", allowed=f"at most {len(starts)}")
    # From the last to the first, so that the indices of the blocks before stay right.
    for start, count in reversed(list(zip(starts, counts, strict=False))):
        if count > 1:
            graph.operators[start:start + 3] = _rewritten(graph, graph.operators[start:start + 3],
                                                          count)


def choose_strips(graph: Graph, budget: int = ARENA_BUDGET) -> tuple[int, ...]:
    """Choose how many strips to divide each block into.

    Of all choices whose planned arena fits the budget, the one with the fewest multiply-accumulates
    computed twice, then with the fewest operators; where none fits, the one with the smallest
    arena.

    Parameters
    ----------
    graph
        A plain export.
    budget
        Bytes of arena.

    Returns
    -------
    tuple of int
        Strips of each block; (1, …) where nothing is to be done.
    """
    # The maps of the first two blocks are by far the largest: only there is every count worth
    # trying (a plan takes milliseconds, and the choices multiply).
    options = [[count for count in (range(1, MAX_STRIPS + 1) if number < 2 else (1, 2, 4))
                if count <= graph.shape(graph.operators[start].inputs[0])[1] // 2]
               for number, start in enumerate(find_blocks(graph))]
    best: tuple[int, tuple[int, ...]] | None = None
    for counts in sorted(itertools.product(*options),
                         key=lambda counts: (extra_macs(graph, counts), sum(counts))):
        tiled = graph.fork()
        tile_blocks(tiled, counts)
        total = costs.plan_arena(tiled).total
        if total <= budget:
            return counts
        if best is None or total < best[0]:
            best = total, counts
    return best[1] if best else ()


def extra_macs(graph: Graph, counts: Sequence[int]) -> int:
    """Multiply-accumulates that strips compute twice: two rows of the first map per seam.

    Parameters
    ----------
    graph
        A plain export.
    counts
        Strips of each block.

    Returns
    -------
    int
        Their number.
    """
    total = 0
    for start, count in zip(find_blocks(graph), counts, strict=False):
        first = graph.operators[start]
        _, _, width, channels = graph.shape(first.outputs[0])
        _, height, breadth, before = graph.shape(first.inputs[1])
        total += 2 * (count - 1) * width * channels * height * breadth * before
    return total


def _rewritten(graph: Graph, block: Sequence[Any], count: int) -> list[Any]:
    """The operators that replace a block; the tensor of the pooled map stays the same."""
    first, second, pool = block
    source, hidden, whole = first.inputs[0], first.outputs[0], second.outputs[0]
    _, height, width, _ = graph.shape(source)
    pooled = pool.outputs[0]
    made: list[Any] = []
    parts = []
    for strip in split_block(height, count):
        rows = _slice(graph, made, source, strip.source)
        # Zeros only at the borders of the map itself: elsewhere the strip already has the rows
        # that the convolution needs.
        rows = _pad(graph, made, rows, strip.source.above, strip.source.below)
        map_1 = _convolve(graph, made, first, rows, hidden, width)
        map_1 = _pad(graph, made, map_1, strip.hidden.above, strip.hidden.below)
        map_2 = _convolve(graph, made, second, map_1, whole, width)
        shape = (1, strip.pooled, *graph.shape(pooled)[2:])
        part = graph.add_like(pooled, shape)
        made.append(graph.operator("MAX_POOL_2D", [map_2], [part], pool.builtinOptions,
                                   _version(graph, pool)))
        parts.append(part)
    options = graph.schema.ConcatenationOptionsT()
    options.axis = 1
    options.fusedActivationFunction = graph.schema.ActivationFunctionType.NONE
    made.append(graph.operator("CONCATENATION", parts, [pooled], options, _widen(graph, pooled, 2)))
    return made


def _slice(graph: Graph, made: list[Any], source: int, rows: Rows) -> int:
    """Take the rows of a strip."""
    _, _, width, channels = graph.shape(source)
    shape = (1, rows.last - rows.first, width, channels)
    begin = graph.add_constant(np.array([0, rows.first, 0, 0]))
    size = graph.add_constant(np.array(shape))
    result = graph.add_like(source, shape)
    made.append(graph.operator("SLICE", [source, begin, size], [result],
                               graph.schema.SliceOptionsT(), _widen(graph, source, 2)))
    return result


def _pad(graph: Graph, made: list[Any], source: int, above: int, below: int) -> int:
    """Pad with one column of zeros at either side, and with rows of zeros above and below."""
    _, height, width, channels = graph.shape(source)
    amounts = graph.add_constant(np.array([[0, 0], [above, below], [1, 1], [0, 0]]))
    result = graph.add_like(source, (1, above + height + below, width + 2, channels))
    made.append(graph.operator("PAD", [source, amounts], [result], graph.schema.PadOptionsT(),
                               _widen(graph, source, 2)))
    return result


def _convolve(graph: Graph, made: list[Any], original: Any, source: int, like: int,
              width: int) -> int:
    """``original`` on a padded strip; the type and quantisation of its map are those of ``like``.
    """
    result = graph.add_like(like, (1, graph.shape(source)[1] - 2, width, graph.shape(like)[3]))
    options = copy.copy(original.builtinOptions)
    options.padding = graph.schema.Padding.VALID
    made.append(graph.operator("CONV_2D", [source, *original.inputs[1:]], [result], options,
                               _version(graph, original)))
    return result


def _version(graph: Graph, operator: Any) -> int:
    return int(graph.model.operatorCodes[operator.opcodeIndex].version)


def _widen(graph: Graph, tensor: int, int8: int) -> int:
    """The version of an operator that supports this tensor's type."""
    return {"INT8": int8, "INT16": 3}.get(graph.type(tensor), 1)
