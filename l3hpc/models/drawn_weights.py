"""Random weights that are drawn once: every further task of an array reads them from a file.

Drawing the teacher's 4.7 million weights takes a third of a second, reading them a tenth of that.
The file, in ``~/.cache/l3hpc/untrained``, holds bare float32 numbers after their checksum: nothing
in it is executed. Where it cannot be read or written, the weights are drawn. The files that were
used last are kept, a few of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_own_file, write_bytes
from l3hpc.models.engines import cache_file
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec

LEAST_VALUES = 1 << 20  # fewer are drawn as fast as a file is read
VERSION = 1  # of the way in which ``untrained`` draws
KEPT = 4  # files; one of the published network has 19 MB
_CHECKSUM_BYTES = 64


def untrained_once(spec: NetworkSpec, seed: int) -> Parameters:
    """Return what ``untrained`` returns, from a file if it was drawn before.

    Parameters
    ----------
    spec
        The network.
    seed
        Decides the weights.

    Returns
    -------
    Parameters
        The weights, which the caller may change.
    """
    layers = spec.layers()
    count = sum(math.prod(shape) for _, shapes in layers for shape in shapes)
    if count < LEAST_VALUES:
        return untrained(spec, seed)
    try:
        path = cache_file().with_name("untrained") / f"{digest([VERSION, seed, layers])}.f32"
    except OSError:  # a user without a home folder
        return untrained(spec, seed)
    with contextlib.suppress(OSError, InputError):  # InputError: of another user
        content = read_own_file(path)
        numbers = memoryview(content)[_CHECKSUM_BYTES:]
        if len(numbers) == 4 * count and _checksum(numbers) == content[:_CHECKSUM_BYTES]:
            _keep(path)
            # a copy: like weights that were drawn, it can be changed
            return Parameters(spec, _split(np.frombuffer(numbers, "<f4").copy(), layers))
    drawn = untrained(spec, seed)
    values = np.concatenate([array.ravel() for arrays in drawn.layers for array in arrays])
    bare = values.astype("<f4", copy=False).tobytes()
    with contextlib.suppress(OSError):
        write_bytes(path, _checksum(bare) + bare, mode=0o600, durable=False)
        _keep(path)
        _remove_old(path.parent)
    return drawn


def _keep(path: Path) -> None:
    """Make a file the one that was used last."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _remove_old(folder: Path) -> None:
    # a file that is being written has another name, until it is whole
    used = {path: path.stat().st_mtime_ns for path in folder.glob("*.f32")
            if not path.name.startswith(".")}
    for path in sorted(used, key=lambda path: used[path], reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def _checksum(numbers: bytes | memoryview) -> bytes:
    return hashlib.blake2b(numbers).digest()


def _split(values: np.ndarray, layers: list[tuple[str, tuple[tuple[int, ...], ...]]]
           ) -> tuple[tuple[np.ndarray, ...], ...]:
    """Divide the values among the arrays of the layers, without copying them."""
    found, start = [], 0
    for _, shapes in layers:
        arrays = []
        for shape in shapes:
            end = start + math.prod(shape)
            arrays.append(values[start:end].reshape(shape))
            start = end
        found.append(tuple(arrays))
    return tuple(found)
