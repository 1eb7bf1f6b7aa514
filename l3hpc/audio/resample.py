"""Change the sampling rate of a signal, band-limited, by soxr at its best quality."""

from __future__ import annotations

import numpy as np

from l3hpc.errors import InputError


def resample(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """``signal`` (n,) at ``target_rate`` Hz: float32 of length ``ceil(n * target / source)``.

    Very high quality (soxr VHQ): flat pass band, no aliasing above the 16-bit noise floor, and no
    delay. The published pipeline used resampy's ``kaiser_best``; the two differ near the band edge
    only. Raises ``InputError`` for rates below 1 Hz.
    """
    if source_rate < 1 or target_rate < 1:
        raise InputError(f"cannot resample from {source_rate} Hz to {target_rate} Hz",
                         allowed="sampling rates are positive whole numbers of Hz")
    signal = np.ascontiguousarray(signal, dtype=np.float32)
    if source_rate == target_rate:
        return signal
    import soxr

    length = -(-len(signal) * target_rate // source_rate)
    result = soxr.resample(signal, source_rate, target_rate, quality="VHQ")
    if len(result) < length:
        return np.pad(result, (0, length - len(result)))
    return np.ascontiguousarray(result[:length], dtype=np.float32)
