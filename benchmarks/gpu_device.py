"""Where ``benchmarks.gpu`` computes: the device, its clock, and what it can do at most.

Without a GPU it is the CPU, with tiny sizes.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import torch

from benchmarks.tables import Table, figure
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if GPU else "cpu")
PRECISIONS = ("float32", "tf32", "bfloat16") if GPU else ("float32", "bfloat16")
DRY = "dry run on CPU tensors with tiny sizes: shows that the script works, measures nothing"


def seconds(work: Callable[[], object], runs: int = 7, inner: int = 1) -> float:
    """Median time of one call on the device, after two that are not counted; of one on a CPU."""
    if not GPU:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    for _ in range(2):
        work()
    times = []
    for _ in range(runs):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(inner):
            work()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3 / inner)
    return statistics.median(times)


def without_figures(table: Table, columns: Collection[int]) -> Table:
    """A table of a dry run: times and rates in these columns are not measured, and prove nothing.

    What is no number stays: empty cells, and why something failed.
    """
    rows = [tuple("not measured" if place in columns and cell[:1].isdigit() else cell
                  for place, cell in enumerate(row)) for row in table.rows]
    return replace(table, rows=rows, claims=[])


def limits_of_the_device(small: bool, limits: dict[str, float]) -> Table:
    """Matrix rates and copies: the ceilings that the other tables are held against."""
    size = 256 if small else 8192
    for name in PRECISIONS:
        kind = torch.bfloat16 if name == "bfloat16" else torch.float32
        a, b = (torch.randn(size, size, device=DEVICE).to(kind) for _ in range(2))
        torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        limits[name] = 2 * size**3 / seconds(lambda a=a, b=b: a @ b, inner=4) / 1e12
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    rows = [(f"matrix product {size}³, {name}", f"{figure(rate)} TFLOP/s")
            for name, rate in limits.items()]
    count = 1 << (20 if small else 28)
    on_device = torch.randn(count, device=DEVICE)
    other = torch.empty_like(on_device)
    limits["copy"] = 8 * count / seconds(lambda: other.copy_(on_device)) / 1e9
    rows.append(("copy on the device, read and written", f"{figure(limits['copy'])} GB/s"))
    for locked in (False, True) if GPU else (False,):
        host = torch.empty(count // 4, pin_memory=locked)
        part = on_device[:count // 4]
        kind = "page-locked" if locked else "pageable"
        there = count / seconds(lambda h=host, p=part: p.copy_(h, non_blocking=True)) / 1e9
        back = count / seconds(lambda h=host, p=part: h.copy_(p, non_blocking=True)) / 1e9
        rows.append((f"host to device, {kind} memory", f"{figure(there)} GB/s"))
        rows.append((f"device to host, {kind} memory", f"{figure(back)} GB/s"))
    return Table("Limits of the device", ("what", "measured"), rows, [about_device()],
                 figures={f"gpu {name} tflops": limits[name] for name in PRECISIONS})


def about_device() -> str:
    """The card and the versions that computed."""
    if not GPU:
        return f"No GPU: {DRY}. PyTorch {torch.__version__}."
    own = torch.cuda.get_device_properties(0)
    return (f"{own.name}, {own.total_memory / 2**30:.0f} GiB, {own.multi_processor_count} "
            f"multiprocessors; PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN "
            f"{torch.backends.cudnn.version()}; {len(os.sched_getaffinity(0))} cores.")


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """``work`` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@functools.cache
def lively(spec: NetworkSpec) -> Parameters:
    """Random weights, with biases and normalisations that are not neutral."""
    rng = np.random.default_rng(0)
    layers: list[tuple[np.ndarray, ...]] = []
    for (kind, _), arrays in zip(spec.layers(), untrained(spec, 0).layers, strict=True):
        if kind == "conv":
            layers.append((arrays[0], rng.normal(0, 0.05, arrays[1].shape).astype(np.float32)))
        else:
            layers.append(tuple((rng.uniform(0.8, 1.2, array.shape) + shift).astype(np.float32)
                                for array, shift in zip(arrays, (0, -1, -1, 0), strict=True)))
    layers[0] = tuple(np.array([value], np.float32) for value in (1.0, 0.1, -40.0, 300.0))
    return Parameters(spec, tuple(layers))
