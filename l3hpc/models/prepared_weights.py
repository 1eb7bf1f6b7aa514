"""Networks folded once: every further task of an array maps the weights from a file.

Reading the teacher's weights (or drawing random ones), folding them and writing them in ncnn's
order takes a core a tenth of a second or more; mapping the file takes three milliseconds. The file,
in ``~/.cache/l3hpc/weights``, holds float32 numbers as ncnn reads them, so that ncnn is given the
file itself: nothing in it is executed. If it cannot be read or written, belongs to another user or
is damaged, the network is folded again. Only the few files that were used last are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import digest, write_bytes
from l3hpc.io.owners import open_own_file
from l3hpc.models import ncnn_engine
from l3hpc.models.engines import cache_file
from l3hpc.models.parameters import Convolution, FoldedNetwork, OpenFile, has_relu
from l3hpc.models.spec import NetworkSpec

LEAST_VALUES = 1 << 20  # fewer are read and folded as fast
VERSION = 2  # of the file, of folding, and of the way in which ``untrained`` draws
KEPT = 4  # files; one of the published network has 19 MB
IN_USE_S = 60.0  # since the last use: another task may be reading it, or writing it
_AFFINE = struct.Struct("<dd")  # scale and shift, after the numbers
_CHECKSUM_BYTES = 64  # after these
_BLOCK = 4096  # bytes


def prepared(content: Callable[[], str], spec: NetworkSpec, make: Callable[[], FoldedNetwork]
             ) -> FoldedNetwork:
    """Return a folded network, from a file if it was made before.

    Parameters
    ----------
    content
        Says what the weights are: a digest of their file, or the seed of random ones.
    spec
        The network.
    make
        Makes it where there is no file.

    Returns
    -------
    FoldedNetwork
        Its arrays cannot be changed if they are those of the file.
    """
    if sum(math.prod(shape) for shape in _kernel_shapes(spec)) < LEAST_VALUES:
        return make()
    order = ncnn_engine.convolution_order(spec)
    before = content()
    try:
        name = digest([VERSION, before, spec.to_dict(), order])
        path = cache_file().with_name("weights") / f"{name}.bin"
    except OSError:  # a user without a home folder
        return make()
    useless = _state(path)
    with contextlib.suppress(OSError, InputError):  # InputError: of another user
        found = _read(path, spec, order)
        if found is not None:
            _note_use(path)
            return found
    network = make()
    if content() != before:  # somebody has replaced the file meanwhile
        return network
    with contextlib.suppress(OSError):
        # of a thousand tasks that start together, all would fill a home's quota
        if _state(path) == useless and not _is_being_written(path):
            _write(path, network, order)
            _note_use(path)
            _remove_old(path.parent)
    return network


def _read(path: Path, spec: NetworkSpec, order: list[int]) -> FoldedNetwork | None:
    """The network in a file; None if that is damaged, or others may write to it."""
    shapes = _kernel_shapes(spec)
    sizes = [4 * (1 + math.prod(shapes[index]) + shapes[index][3]) for index in order]
    numbers = sum(sizes)
    with open_own_file(path) as stream:
        state = os.fstat(stream.fileno())
        if (state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                or state.st_size != numbers + _AFFINE.size + _CHECKSUM_BYTES):
            return None
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        if _checksum(content[:-_CHECKSUM_BYTES], path) != content[-_CHECKSUM_BYTES:]:
            return None
        file = OpenFile(stream.fileno())
    convolutions = {}
    start = 0
    for index, size in zip(order, sizes, strict=True):
        height, width, inputs, outputs = shapes[index]
        values = np.frombuffer(content[start + 4:start + size], "<f4")
        kernel = values[:-outputs].reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)
        convolutions[index] = Convolution(kernel, values[-outputs:], has_relu(spec, index))
        start += size
    scale, shift = _AFFINE.unpack_from(content, numbers)
    network = FoldedNetwork(spec, scale, shift, tuple(convolutions[index]
                                                      for index in range(len(shapes))))
    object.__setattr__(network, "file", file)
    return network


def _write(path: Path, network: FoldedNetwork, order: list[int]) -> None:
    content = b"".join([*ncnn_engine.weight_file(network, order),
                        _AFFINE.pack(network.scale, network.shift)])
    write_bytes(path, content + _checksum(memoryview(content), path), mode=0o600, durable=False)


def _state(path: Path) -> tuple[int, int] | None:
    """What a file changes when it is replaced; None if there is none."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


def _is_being_written(path: Path) -> bool:
    """Whether another task is at it."""
    now = time.time()
    return any(now - half.stat().st_mtime < IN_USE_S for half in _halves(path.parent, path.name))


def _halves(folder: Path, name: str = "*.bin") -> list[Path]:
    """Files that are not whole: they are being written, or their writer was killed."""
    return list(folder.glob(f".{name}.*.tmp"))


def _checksum(content: memoryview, path: Path) -> bytes:
    """A checksum against damage, as of a disk that was full, in a tenth of a digest's time, and
    against a file under the name of another one.
    """
    end = len(content) // _BLOCK * _BLOCK
    sums = np.frombuffer(content[:end], "<u8").reshape(-1, _BLOCK // 8).sum(axis=0, dtype="<u8")
    return hashlib.blake2b(sums.tobytes() + bytes(content[end:]) + path.name.encode()).digest()


def _note_use(path: Path) -> None:
    """Make a file the one that was used last."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _remove_old(folder: Path) -> None:
    used = {path: path.stat().st_mtime for path in (*folder.glob("*.bin"), *_halves(folder))}
    # compared with each other: the clock of the file system may be another than ours
    latest = max(used.values(), default=0.0)
    whole = [path for path in used if path.suffix == ".bin"]
    kept = sorted(whole, key=lambda path: used[path], reverse=True)[:KEPT]
    for path in used.keys() - kept:
        if latest - used[path] > IN_USE_S:
            path.unlink(missing_ok=True)


def _kernel_shapes(spec: NetworkSpec) -> list[tuple[int, ...]]:
    """(height, width, inputs, outputs) of every convolution."""
    return [shapes[0] for kind, shapes in spec.layers() if kind == "conv"]
