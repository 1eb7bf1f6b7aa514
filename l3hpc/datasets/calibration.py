"""A few windows that stand for many recordings: for ranges and errors of reduced precision.

Which ones depends on the list of recordings alone, so that every task of an array takes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from l3hpc.audio.files import AudioError
from l3hpc.datasets.corpus import Recording
from l3hpc.datasets.windows import pieces


def spread(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """At most ``count`` recordings, evenly through the list, from the first to the last."""
    places = np.linspace(0, len(recordings) - 1, min(count, len(recordings)))
    return [recordings[place] for place in np.rint(places).astype(int)]


def windows_of(folder: Path, recordings: Sequence[Recording], rate: int, hop: float, center: bool,
               count: int, min_seconds: float = 1.0) -> np.ndarray:
    """About ``count`` windows (n, rate) float32, as many of each recording, evenly through it.

    Of a long recording the first 256 windows are looked at. What cannot be used is left out; n is 0
    where nothing can.
    """
    each = -(-count // max(len(recordings), 1))
    found = [np.empty((0, rate), np.float32)]
    for recording in recordings:
        path = Path(folder) / recording.file
        try:
            first = next(pieces(path, rate, hop, center, min_seconds=min_seconds), None)
        except (AudioError, OSError):  # the step itself lists it with its reason
            continue
        if first is None:
            continue
        places = np.linspace(0, len(first.windows) - 1, min(each, len(first.windows)))
        found.append(first.windows[np.rint(places).astype(int)])
    return np.concatenate(found)
