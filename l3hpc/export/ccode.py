"""C for a sensor's firmware: the model as an array, and the mel front end in integers.

What a sensor does: window the samples (Q15), take the spectrum (its own FFT, for example that of
CMSIS-DSP), square it, and pass the spectra one at a time to ``l3_frontend_mel``: sparse triangles
in Q15 give one 64-bit energy per band, whose base-2 logarithm is kept in Q16. After the last
spectrum ``l3_frontend_input`` subtracts the largest value, clamps, and gives the model's input. Any
constant factor of samples, window and spectrum cancels when the largest is subtracted, so only
ratios count; each triangle is scaled to Q15 on its own and its scale added back as a logarithm.

Unlike the float front end, energies below 1 count as silence (so a spectrum should use its 32
bits), and the absolute floor of 1e-10 cannot be represented. The files' text is in ``assets/``.
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

Q15 = 32767
SILENT = -(1 << 30)
INPUT_TYPES = {"int8": "int8_t", "int16": "int16_t", "float32": "float"}


def model_header(graph: Graph, size: int, arena: int) -> str:
    """The text of ``l3_model.h``.

    Parameters
    ----------
    graph : Graph
        The exported model.
    size : int
        Bytes of its flatbuffer.
    arena : int
        Bytes of arena to reserve; 0 where it was not measured.
    """
    ends = []
    for kind, tensor in (("INPUT", graph.inputs[0]), ("OUTPUT", graph.outputs[0])):
        shape, (scale, zero) = graph.shape(tensor), graph.quantisation(tensor)
        ends.append({"kind": kind, "count": prod(shape), "shape": shape, "scale": scale,
                     "zero": zero, "type": graph.type(tensor).lower()})
    operators = sorted({graph.name(operator) for operator in graph.operators})
    return _render("l3_model.h.j2", operators=operators, size=size, arena=arena, ends=ends)


def model_source(flatbuffer: bytes) -> str:
    """The text of ``l3_model.c``: the flatbuffer as an array for flash."""
    return _render("l3_model.c.j2", lines=[",".join(map(str, flatbuffer[start:start + 32]))
                                           for start in range(0, len(flatbuffer), 32)])


@dataclass(frozen=True)
class Table:
    """A front end in integers.

    Attributes
    ----------
    window : ndarray of int16, shape (n_dft,)
        32767 is 1.
    first, count : ndarray of int, shape (bands,)
        First bin of each band, and how many bins it has.
    weights : ndarray of int16
        All bands' weights one after the other; each band's largest is 32767.
    offset : ndarray of int32, shape (bands,)
        Base-2 logarithm of each band's scale in Q16; the largest is 0.
    """

    window: np.ndarray
    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray
    offset: np.ndarray


def table(front: Frontend) -> Table:
    """The integer tables of a mel front end.

    Raises
    ------
    InputError
        For a linear spectrogram, which has no mel table.
    """
    if front.n_mels is None:
        raise InputError("a linear spectrogram has no mel table")
    bank = front.filterbank()
    largest = bank.max(axis=0)
    first, count, weights = [], [], []
    for band, top in zip(bank.T, largest, strict=True):
        used = np.flatnonzero(band)
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 0)
        first.append(low)
        count.append(high - low)
        weights.append(np.rint(band[low:high] / (top or 1.0) * Q15))
    scale = np.log2(np.where(largest > 0, largest, largest.max()) / largest.max())
    return Table(np.rint(hann(front.n_dft) * Q15).astype(np.int16), np.array(first),
                 np.array(count), np.concatenate(weights).astype(np.int16),
                 np.rint(scale * 65536).astype(np.int32))


def frontend_header(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """The text of ``l3_frontend.h``.

    Parameters
    ----------
    front : Frontend
        With mels.
    dtype : str
        The model's input: one of ``INPUT_TYPES``.
    scale, zero : float, int
        Its quantisation: dB = scale · (value - zero).
    """
    before, _ = front.padding()
    bands, times = front.shape
    values = [("RATE", front.rate, "samples per second, and per frame"),
              ("DFT", front.n_dft, "samples per spectrum"), ("HOP", front.hop, "samples between"),
              ("PAD_BEFORE", before, "zeros before the frame; as many behind as are needed"),
              ("BINS", front.n_dft // 2 + 1, "bins of a spectrum"), ("BANDS", bands, "rows"),
              ("TIMES", times, "columns: spectra per frame"),
              ("SQUARED", int(front.power), "1: bins are squared magnitudes, 0: magnitudes")]
    return _render("l3_frontend.h.j2", convention=front.name, values=values, dtype=dtype,
                   c_type=INPUT_TYPES[dtype], scale=scale, zero=zero)


def frontend_source(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """The text of ``l3_frontend.c``; parameters as those of ``frontend_header``."""
    made = table(front)
    per_log2 = front.decibel_factor * float(np.log10(2.0))  # decibels of a factor 2
    integer = dtype != "float32"
    return _render(
        "l3_frontend.c.j2", silent=SILENT, floor=round(RANGE_DB / per_log2 * 65536),
        range_db=RANGE_DB, window=_integers(made.window), first=_integers(made.first),
        count=_integers(made.count), weights=_integers(made.weights),
        offset=_integers(made.offset), dtype=dtype, factor=per_log2 / 65536, zero=zero,
        # steps of the input per factor 2, in Q16
        steps=round(per_log2 / scale * 65536) if integer else None,
        limits=np.iinfo(dtype) if integer else None)


def _integers(values: Iterable[int]) -> list[int]:
    """Plain numbers; C has no array of none."""
    return [int(value) for value in values] or [0]


def _render(name: str, **values: object) -> str:
    return _environment().get_template(name).render(values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # C is not HTML: nothing is escaped, and what comes in are numbers and names of ours
    return Environment(loader=PackageLoader("l3hpc.export", "assets"), undefined=StrictUndefined,
                       autoescape=False, trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True)
