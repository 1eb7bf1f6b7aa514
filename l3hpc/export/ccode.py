"""Write C for a sensor's firmware: the model as an array, and the mel front end in integers.

A sensor windows the samples (Q15), computes the spectrum with its own FFT (for example that of
CMSIS-DSP), squares it, and passes the spectra one at a time to ``l3_frontend_mel``: sparse
triangles in Q15 give one 64-bit energy per band, whose base-2 logarithm is kept in Q16. After the
last spectrum ``l3_frontend_input`` subtracts the largest value, clamps, and gives the model's
input. Any constant factor of samples, window and spectrum cancels out when the largest is
subtracted, so only ratios count; each triangle is scaled to Q15 separately, and its scale is added
back as a logarithm.

Unlike the float front end, energies below 1 count as silence (so a spectrum should use its full 32
bits), and the absolute floor of 1e-10 cannot be represented. The templates are in ``assets/``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio.frontends import RANGE_DB, Frontend, hann
from l3hpc.errors import InputError
from l3hpc.export.graph import Graph

if TYPE_CHECKING:
    from jinja2 import Environment

Q15 = 32767  # 1 in Q15
SILENT = -(1 << 30)  # stands for the logarithm of no energy; far below any real one in Q16
INPUT_TYPES = {"int8": "int8_t", "int16": "int16_t", "float32": "float"}


def model_header(graph: Graph, size: int, arena: int) -> str:
    """The text of ``l3_model.h``.

    Parameters
    ----------
    graph
        The exported model.
    size
        Bytes of its flatbuffer.
    arena
        Bytes of arena to reserve; 0 where it was not measured.

    Returns
    -------
    str
        C source.
    """
    ends = []
    for kind, tensor in (("INPUT", graph.inputs[0]), ("OUTPUT", graph.outputs[0])):
        shape, (scale, zero) = graph.shape(tensor), graph.quantisation(tensor)
        ends.append({"kind": kind, "count": prod(shape), "shape": shape, "scale": scale,
                     "zero": zero, "type": graph.type(tensor).lower()})
    operators = sorted({graph.name(operator) for operator in graph.operators})
    return _render("l3_model.h.j2", operators=operators, size=size, arena=arena, ends=ends)


def model_source(flatbuffer: bytes) -> str:
    """The text of ``l3_model.c``: the flatbuffer as an array for flash.

    Parameters
    ----------
    flatbuffer
        The model.

    Returns
    -------
    str
        C source.
    """
    return _render("l3_model.c.j2", lines=[",".join(map(str, flatbuffer[start:start + 32]))
                                           for start in range(0, len(flatbuffer), 32)])


@dataclass(frozen=True)
class FrontendTables:
    """The tables of a front end in integers.

    Attributes
    ----------
    window
        int16, (n_dft,); 32767 is 1.
    first
        int, (bands,): the first bin of each band.
    count
        int, (bands,): how many bins it has.
    weights
        int16: the weights of all bands, one after another; the largest of each band is 32767.
    offset
        int32, (bands,): base-2 logarithm of each band's scale in Q16; the largest is 0.
    """

    window: np.ndarray
    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray
    offset: np.ndarray


def frontend_tables(front: Frontend) -> FrontendTables:
    """Compute the integer tables of a mel front end.

    Parameters
    ----------
    front
        The front end.

    Returns
    -------
    FrontendTables
        The tables.

    Raises
    ------
    InputError
        A linear spectrogram has no mel table.
    """
    if front.n_mels is None:
        raise InputError("a linear spectrogram has no mel table")
    bank = front.filterbank()
    # Each triangle uses the full range of Q15; its scale becomes an offset of the logarithm.
    largest = bank.max(axis=0)
    first, count, weights = [], [], []
    for band, top in zip(bank.T, largest, strict=True):
        used = np.flatnonzero(band)
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 0)
        first.append(low)
        count.append(high - low)
        weights.append(np.rint(band[low:high] / (top or 1.0) * Q15))
    # A band without a bin has no logarithm of its own; any value will do, as its energy is always
    # 0.
    scale = np.log2(np.where(largest > 0, largest, largest.max()) / largest.max())
    return FrontendTables(np.rint(hann(front.n_dft) * Q15).astype(np.int16), np.array(first),
                          np.array(count), np.concatenate(weights).astype(np.int16),
                          np.rint(scale * 65536).astype(np.int32))


def frontend_header(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """The text of ``l3_frontend.h``.

    Parameters
    ----------
    front
        A front end with mels.
    dtype
        Type of the model's input: one of ``INPUT_TYPES``.
    scale
        Its quantisation step in dB: dB = scale · (value - zero).
    zero
        Its zero point.

    Returns
    -------
    str
        C source.
    """
    before, _ = front.padding()
    bands, times = front.shape
    rate = [("RATE", front.rate, "samples per second, and per frame")]
    if front.samples != front.rate:
        rate = [("RATE", front.rate, "samples per second"),
                ("SAMPLES", front.samples, "samples per frame")]
    values = [*rate,
              ("DFT", front.n_dft, "samples per spectrum"),
              ("HOP", front.hop, "samples from one spectrum to the next"),
              ("PAD_BEFORE", before, "zeros before the frame; after it as many as are needed"),
              ("BINS", front.n_dft // 2 + 1, "bins of a spectrum"), ("BANDS", bands, "rows"),
              ("TIMES", times, "columns: spectra per frame"),
              ("SQUARED", int(front.power), "1: bins are squared magnitudes, 0: magnitudes")]
    return _render("l3_frontend.h.j2", convention=front.name, values=values, dtype=dtype,
                   c_type=INPUT_TYPES[dtype], scale=scale, zero=zero)


def frontend_source(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """The text of ``l3_frontend.c``.

    Parameters
    ----------
    front
        As in ``frontend_header``.
    dtype
        As in ``frontend_header``.
    scale
        As in ``frontend_header``.
    zero
        As in ``frontend_header``.

    Returns
    -------
    str
        C source.
    """
    tables = frontend_tables(front)
    per_log2 = front.decibel_factor * float(np.log10(2.0))  # decibels of a factor 2
    integer = dtype != "float32"
    return _render(
        "l3_frontend.c.j2", silent=SILENT, floor=round(RANGE_DB / per_log2 * 65536),
        range_db=RANGE_DB, window=_integers(tables.window), first=_integers(tables.first),
        count=_integers(tables.count), weights=_integers(tables.weights),
        offset=_integers(tables.offset), dtype=dtype, factor=per_log2 / 65536, zero=zero,
        # steps of the input per factor 2, in Q16
        steps=round(per_log2 / scale * 65536) if integer else None,
        limits=np.iinfo(dtype) if integer else None)


def _integers(values: Iterable[int]) -> list[int]:
    """Python integers for a C array, which cannot be empty."""
    return [int(value) for value in values] or [0]


def _render(name: str, **values: object) -> str:
    return _environment().get_template(name).render(values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # C is not HTML: nothing is escaped, and all values are numbers and names of this package.
    return Environment(loader=PackageLoader("l3hpc.export", "assets"), undefined=StrictUndefined,
                       autoescape=False, trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True)
