"""How to embed, checked once for the command line and for Python; and what is said of odd audio."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from l3hpc.audio.kaiser import resample_kaiser
from l3hpc.audio.resample import resample
from l3hpc.audio.samples import is_number
from l3hpc.errors import InputError, nearest

HOP_S = 0.1
LONGEST_HOP_S = 3600.0
RESAMPLERS = {"soxr": resample, "kaiser_best": resample_kaiser}


class AudioWarning(UserWarning):
    """Audio that can be embedded, but may not be what was meant: silent, very short, ends early,
    or an array whose scale or shape had to be worked out."""


@dataclass(frozen=True)
class Settings:
    """How to embed: see ``get_embedding``. Raises ``InputError`` for a value that none can be."""

    hop_size: float = HOP_S
    center: bool = True
    batch_size: int | None = None
    overwrite: bool = False
    resampler: str = "soxr"

    def __post_init__(self) -> None:
        hop = self.hop_size
        if not is_number(hop) or not 0 < hop <= LONGEST_HOP_S or not math.isfinite(hop):
            raise InputError(f"a hop of {hop!r:.40}", where="hop_size",
                             allowed=f"seconds: a number above 0, at most {LONGEST_HOP_S:,.0f}")
        size = self.batch_size
        if size is not None and (not isinstance(size, numbers.Integral) or isinstance(size, bool)
                                 or size < 1):
            raise InputError(f"a batch of {size!r:.40} frames", where="batch_size",
                             allowed="a whole number, at least 1; or None: by memory")
        if not isinstance(self.center, (bool, np.bool_)) and self.center not in (0, 1):
            raise InputError(f"center is {self.center!r:.40}", where="center",
                             allowed="True, False")
        resampler_of(self.resampler)


def resampler_of(name: object) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """The function of one of ``RESAMPLERS``."""
    if not isinstance(name, str) or name not in RESAMPLERS:
        raise InputError(f"unknown resampler {name!r:.40}", where="resampler",
                         allowed=nearest(str(name), RESAMPLERS))
    return RESAMPLERS[name]


def warn_of(words: Iterable[str], where: str | None, depth: int) -> None:
    """Warn (``AudioWarning``) of what is odd about a recording.

    depth: of calls from here to the line that the warning names.
    """
    for one in words:
        place = f"{where}: " if where else ""
        warnings.warn(f"{place}{one}", AudioWarning, stacklevel=depth + 1)
