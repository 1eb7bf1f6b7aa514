"""What an export starts from: the model, and real frames to calibrate and check it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.datasets.corpus import Recording, scan
from l3hpc.datasets.windows import spread, windows_of
from l3hpc.embedding.names import find
from l3hpc.embedding.recognise import geometry_of
from l3hpc.errors import InputError, command_line
from l3hpc.models.parameters import Parameters
from l3hpc.models.weights import WeightsInfo, describe, load_parameters

HOP_S = 0.5
RANGE_FRAMES = 200
CHECK_FRAMES = 100
RECORDINGS = 100  # for either


def read_model(name: str | Path, geometry: Mapping[str, Any] | None = None
               ) -> tuple[Parameters, WeightsInfo]:
    """The parameters of a model, and who they are.

    name: a weights file, a name as ``l3hpc.embedding.load_model`` takes it, or ``untrained[:SEED]``
    (a ``Path`` is always a file). geometry: front-end values that overrule the file.

    Raises ``InputError`` as ``find`` and ``l3hpc.models.weights.load_parameters`` do.
    """
    file, options = _found(name, geometry)
    return load_parameters(file, **options)


def describe_model(name: str | Path, geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Who the model is, from headers alone."""
    file, options = _found(name, geometry)
    return describe(file, **options)


def _found(name: str | Path, geometry: Mapping[str, Any] | None
           ) -> tuple[str | Path, dict[str, Any]]:
    file, named = find(name)
    representation = named.options.get("input_repr")
    return file, {"embedding_size": named.options.get("embedding_size"),
                  "geometry": geometry_of(representation, None, geometry)}


@dataclass(frozen=True)
class Frames:
    """One-second frames (n, rate) float32: for ranges and, of other recordings, for the check.

    recordings: how many the folder holds.
    """

    ranges: np.ndarray
    check: np.ndarray
    recordings: int


def read(folder: Path, rate: int) -> Frames:
    """Frames of recordings spread evenly through ``folder`` (and the folders in it), centred.

    Every second recording is for ranges, the others for the check (a single one is for both).
    Raises ``InputError`` where there is no audio that can be used.
    """
    recordings = scan(folder)
    mine, other = recordings[0::2], recordings[1::2] or recordings
    found = Frames(_windows(folder, mine, rate, RANGE_FRAMES),
                   _windows(folder, other, rate, CHECK_FRAMES), len(recordings))
    if not len(found.ranges) or not len(found.check):
        raise InputError(f"none of the {len(recordings)} recordings can be used",
                         where=str(folder), allowed="audible recordings of at least one second",
                         hint=command_line('data', 'check', folder, '--listen'))
    return found


def windows(folder: Path, rate: int, count: int) -> np.ndarray:
    """At most ``count`` frames (n, rate) float32, spread evenly through the recordings."""
    return _windows(folder, scan(folder), rate, count)


def _windows(folder: Path, recordings: Sequence[Recording], rate: int, count: int) -> np.ndarray:
    most = min(count, RECORDINGS)
    return windows_of(folder, spread(recordings, most), rate, HOP_S, True, count)[:count]
