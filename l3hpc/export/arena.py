"""How much memory inference takes on a microcontroller: planned from the file, and measured.

TFLite Micro keeps everything in one arena: at its head the maps, laid out once by a greedy planner
so that those alive together do not overlap, and at its tail what the interpreter remembers of
tensors, operators and convolutions. ``plan`` computes both from the flatbuffer alone; ``measure``
asks the TFLite Micro interpreter itself, where its Python package is at hand (CPython 3.11 on
x86-64 Linux), in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l3hpc.errors import L3hpcError
from l3hpc.export.graph import Graph

ALIGNMENT = 16
PYTHON = "L3HPC_TFLM_PYTHON"  # an interpreter that has tflite_micro
HEAD_ROOM = 64 << 20


@dataclass(frozen=True)
class Lifetime:
    """One map: its bytes, and the operators (in order) from the one that writes it to its last reader.
    """

    tensor: int
    nbytes: int
    first: int
    last: int


def lifetimes(graph: Graph) -> list[Lifetime]:
    """Of every tensor that is not in the file. Inputs live from the start, outputs to the end."""
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = {}
    for step, operator in enumerate(graph.operators):
        for tensor in map(int, operator.outputs):
            first.setdefault(tensor, step)
            last[tensor] = max(last.get(tensor, step), step)
        for tensor in map(int, operator.inputs):
            if tensor >= 0 and not graph.is_constant(tensor):
                last[tensor] = step
    end = len(graph.operators) - 1
    last.update(dict.fromkeys(graph.outputs, end))
    return [Lifetime(tensor, graph.nbytes(tensor), begin, last.get(tensor, end))
            for tensor, begin in first.items()]


def live_bytes(lives: Sequence[Lifetime]) -> int:
    """The most bytes alive during one operator: no layout can do with less."""
    steps = max((life.last for life in lives), default=-1) + 1
    return max((sum(life.nbytes for life in lives if life.first <= step <= life.last)
                for step in range(steps)), default=0)


def layout(lives: Sequence[Lifetime]) -> dict[int, int]:
    """Offset of each map: the largest first, each at the lowest place free during its life.

    (Greedy by size: Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
    inference".) Sizes are rounded up to 16 bytes.
    """
    order = sorted(lives, key=lambda life: (-_aligned(life.nbytes), life.tensor))
    placed: list[tuple[int, int, Lifetime]] = []  # offset, end, life
    for life in order:
        size, offset = _aligned(life.nbytes), 0
        beside = sorted((begin, end) for begin, end, other in placed
                        if other.first <= life.last and life.first <= other.last)
        for begin, end in beside:
            if offset + size <= begin:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, life))
    return {life.tensor: offset for offset, _, life in placed}


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
