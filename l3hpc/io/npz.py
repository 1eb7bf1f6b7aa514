"""Reads NumPy's files (.npz, .npy, .npy.gz) that anybody may have written.

Nothing is unpickled, and no memory is taken for an array before its header was compared with what
the file holds. All reading of such files goes through ``read_npz``, ``headers`` and ``read_npy``.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import refuse_special

FREE_BYTES = 1 << 30  # of arrays, whatever the size of the file they come from
MAX_RATIO = 100  # bytes of arrays for each byte of the file, beyond that
_PICKLED = "holds Python objects, whose reading would execute code"
# What zipfile, gzip and NumPy raise for damaged files.
DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError, RuntimeError,
          MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Header:
    """Shape and type of a stored array; ``size`` counts the bytes of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def headers(path: Path | str) -> dict[str, Header]:
    """Name, shape and type of every array in an NPZ file; no values are read."""
    with _opened(Path(path)) as (_, found):
        return found


def read_npz(path: Path | str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name.

    Parameters
    ----------
    names
        The arrays that are wanted; one that the file does not have is an error. None: all.

    Raises
    ------
    InputError
        For what is no regular file or no NPZ; a member that is no array, occurs twice, has a name
        that leads elsewhere, holds Python objects, or declares a shape that its bytes do not have;
        and for arrays far larger than the file.
    """
    path = Path(path)
    with _opened(path) as (archive, found):
        arrays = {}
        for name in found if names is None else names:
            if name not in found:
                raise InputError(f"holds no array '{name}'", where=str(path),
                                 allowed=f"it has: {', '.join(found) or 'none'}")
            if found[name].dtype.hasobject:
                raise ValueError(f"'{name}' {_PICKLED}")
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


def read_npy(path: Path | str) -> np.ndarray:
    """The array of a ``.npy`` or ``.npy.gz`` file; refuses as ``read_npz`` does."""
    path = Path(path)
    size = refuse_special(path).st_size
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            header = _header(stream)
            if header.dtype.hasobject:
                raise ValueError(f"it {_PICKLED}")
            _refuse_large(header.size, size, path)
            if not packed and header.size != size - stream.tell():
                raise _mismatch("it", header, size - stream.tell())
            values = stream.read(header.size + 1)
            if len(values) != header.size:
                raise _mismatch("it", header, len(values))
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"not a readable array ({_words(error)})", where=str(path)) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Header]]]:
    """The archive and its checked headers; damage that shows meanwhile is raised in words."""
    size = refuse_special(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, _headers(archive, size, path)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"not a readable NPZ file ({_words(error)})", where=str(path)) from None


def _headers(archive: zipfile.ZipFile, size: int, path: Path) -> dict[str, Header]:
    found: dict[str, Header] = {}
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise ValueError(f"'{name}' in it is not an array")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"the name '{name}' in it points outside the archive")
        if name in found:
            raise ValueError(f"'{name}' is in it twice")
        with archive.open(member) as stream:
            header = _header(stream)
            stored = member.file_size - stream.tell()
        if not header.dtype.hasobject:  # else nothing is read, or it is refused
            if header.size != stored:
                raise _mismatch(f"'{name}'", header, stored)
            total += header.size
        found[name] = header
    _refuse_large(total, size, path)
    return found


def _header(stream: Any) -> Header:
    """Read the header; afterwards the stream is at the values."""
    version = np.lib.format.read_magic(stream)
    read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
            else np.lib.format.read_array_header_2_0)
    shape, _, kind = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"declares shape {shape}")
    return Header(tuple(shape), kind)


def _mismatch(name: str, header: Header, stored: int) -> ValueError:
    return ValueError(f"{name} is declared as {header.dtype} of shape {header.shape}, which is "
                      f"{header.size:,} bytes; it has {stored:,}")


def _refuse_large(total: int, size: int, path: Path) -> None:
    if total > max(FREE_BYTES, MAX_RATIO * size):
        raise InputError(f"would unpack to {total:,} bytes from {size:,}", where=str(path),
                         allowed=f"at most {MAX_RATIO} times its size, or 1 GB")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
