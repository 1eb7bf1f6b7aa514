"""The mel front end as C tables and the integer arithmetic that belongs to them.

What a sensor does: window the samples (Q15), take the spectrum (its own FFT, for example that of
CMSIS-DSP), square it, and hand it, one at a time, to ``l3_frontend_mel``: sparse triangles in Q15
give one 64-bit energy per band, whose base-2 logarithm is kept in Q16. After the last spectrum
``l3_frontend_input`` subtracts the largest value, clamps, and gives the model's input. Any constant
factor of samples, window and spectrum cancels when the largest is subtracted, so that only ratios
count; each triangle is scaled to Q15 on its own and its scale added again as a logarithm.

Not as in floats: energies below 1 count as silence (so a spectrum should use its 32 bits), and the
absolute floor of 1e-10 is not reached by integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from l3hpc.audio.frontends import RANGE_DB, Frontend, hann
from l3hpc.errors import InputError

Q15 = 32767
SILENT = -(1 << 30)
INPUT_TYPES = {"int8": "int8_t", "int16": "int16_t", "float32": "float"}


@dataclass(frozen=True)
class Table:
    """A front end in integers.

    window: (n_dft,) int16, 32767 is 1. first, count: (bands,) first bin of each band, and how many.
    weights: all bands' weights one after the other, int16, each band's largest is 32767.
    offset: (bands,) int32, base-2 logarithm of each band's scale in Q16, the largest is 0.
    """

    window: np.ndarray
    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray
    offset: np.ndarray


def table(front: Frontend) -> Table:
    """The tables of a front end with mels; ``InputError`` for a linear spectrogram."""
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


def header(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """``l3_frontend.h``; dtype, scale, zero: the model's input (real dB = scale * (q - zero))."""
    before, _ = front.padding()
    bands, times = front.shape
    values = [("RATE", front.rate, "samples per second, and per frame"),
              ("DFT", front.n_dft, "samples per spectrum"), ("HOP", front.hop, "samples between"),
              ("PAD_BEFORE", before, "zeros before the frame; as many behind as are needed"),
              ("BINS", front.n_dft // 2 + 1, "bins of a spectrum"), ("BANDS", bands, "rows"),
              ("TIMES", times, "columns: spectra per frame"),
              ("SQUARED", int(front.power), "1: bins are squared magnitudes, 0: magnitudes")]
    defines = "\n".join(f"#define L3_FRONTEND_{name:<10} {value:<6} /* {words} */"
                        for name, value, words in values)
    return f"""/* The model's mel front end, convention {front.name}. Made by l3hpc export. */
#ifndef L3_FRONTEND_H
#define L3_FRONTEND_H

#include <stdint.h>

{defines}

typedef {INPUT_TYPES[dtype]} l3_input_t;  /* {_said(dtype, scale, zero)} */

extern const int16_t l3_frontend_window[L3_FRONTEND_DFT];  /* Q15, periodic Hann */

/* Spectrum number `time` to the column `time` of logs[BANDS * TIMES]: base-2 logarithms in Q16. */
void l3_frontend_mel(const uint32_t spectrum[L3_FRONTEND_BINS], int time, int32_t *logs);

/* The model's input [BANDS][TIMES] from all logs of a frame. */
void l3_frontend_input(const int32_t *logs, l3_input_t *input);

#endif
"""


def source(front: Frontend, dtype: str, scale: float, zero: int) -> str:
    """``l3_frontend.c``."""
    made = table(front)
    per_log2 = front.decibel_factor * float(np.log10(2.0))  # decibels of a factor 2
    floor = round(RANGE_DB / per_log2 * 65536)
    return f"""/* Made by l3hpc export; see l3_frontend.h. Integers only, but for float inputs. */
#include "l3_frontend.h"

#define SILENT ({SILENT})
#define FLOOR ({floor}) /* {RANGE_DB:g} dB as a base-2 logarithm in Q16 */

{_array("const int16_t l3_frontend_window[L3_FRONTEND_DFT]", made.window)}

{_array("static const uint16_t first_bin[L3_FRONTEND_BANDS]", made.first)}

{_array("static const uint16_t bin_count[L3_FRONTEND_BANDS]", made.count)}

{_array(f"static const int16_t weights[{max(len(made.weights), 1)}]", made.weights)}

{_array("static const int32_t band_scale[L3_FRONTEND_BANDS]", made.offset)}

/* Base-2 logarithm in Q16 of x > 0: the exponent, then one bit of the fraction per squaring. */
static int32_t log2_q16(uint64_t x)
{{
    int exponent = 63;
    int32_t fraction = 0;
    while (!(x >> 63)) {{
        x <<= 1;
        exponent--;
    }}
    uint64_t m = x >> 32; /* 1 <= m / 2^31 < 2 */
    for (int bit = 15; bit >= 0; bit--) {{
        m = (m * m) >> 31;
        if (m >> 32) {{
            m >>= 1;
            fraction |= 1 << bit;
        }}
    }}
    return exponent * 65536 + fraction;
}}

void l3_frontend_mel(const uint32_t spectrum[L3_FRONTEND_BINS], int time, int32_t *logs)
{{
    const int16_t *weight = weights;
    for (int band = 0; band < L3_FRONTEND_BANDS; band++) {{
        const uint32_t *bin = spectrum + first_bin[band];
        uint64_t energy = 0;
        for (int i = 0; i < bin_count[band]; i++)
            energy += (uint64_t)bin[i] * (uint64_t)*weight++;
        logs[band * L3_FRONTEND_TIMES + time] =
            energy ? log2_q16(energy) + band_scale[band] : SILENT;
    }}
}}

void l3_frontend_input(const int32_t *logs, l3_input_t *input)
{{
    const int size = L3_FRONTEND_BANDS * L3_FRONTEND_TIMES;
    int32_t largest = SILENT;
    for (int i = 0; i < size; i++)
        if (logs[i] > largest)
            largest = logs[i];
    for (int i = 0; i < size; i++) {{
        int32_t below = largest - logs[i];
        if (below > FLOOR)
            below = FLOOR;
{_convert(dtype, per_log2, scale, zero)}
    }}
}}
"""


def _convert(dtype: str, per_log2: float, scale: float, zero: int) -> str:
    """C that makes input[i] of how far a band is below the largest."""
    if dtype == "float32":
        return f"        input[i] = -(float)below * {per_log2 / 65536:.9e}f;"
    limits = np.iinfo(dtype)
    steps = round(per_log2 / scale * 65536)  # steps of the input per factor 2, in Q16
    return f"""        int64_t steps = ((int64_t)below * {steps} + (1LL << 31)) >> 32;
        int64_t value = {zero} - steps;
        input[i] = (l3_input_t)(value < {limits.min} ? {limits.min} :
                                value > {limits.max} ? {limits.max} : value);"""


def _said(dtype: str, scale: float, zero: int) -> str:
    if dtype == "float32":
        return "decibels, 0 at the largest"
    return f"dB = {scale:.9g} * (value - {zero}), 0 dB at the largest"


def _array(declaration: str, values: Iterable[int]) -> str:
    numbers = [str(int(value)) for value in values] or ["0"]
    lines = [", ".join(numbers[start:start + 12]) for start in range(0, len(numbers), 12)]
    return f"{declaration} = {{\n    " + ",\n    ".join(lines) + "\n};"
