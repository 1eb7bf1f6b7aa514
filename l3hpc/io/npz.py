"""Reading of untrusted NumPy files (.npz, .npy, .npy.gz).

Nothing is unpickled, and no memory is allocated for an array before its header has been compared
with the size of the file. All reading of such files goes through ``read_npz``, ``headers`` and
``read_npy``.
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
from typing import IO

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import refuse_special

ALWAYS_ALLOWED = 1 << 30  # bytes of arrays that a file of any size may unpack to
MAX_RATIO = 100  # bytes of arrays for each byte of a larger file
_PICKLED = "contains Python objects, and reading them would execute code"
# Everything that zipfile, gzip and NumPy raise for damaged files.
DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError, RuntimeError,
          MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Header:
    """Shape and type of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_npz(path: Path) -> bool:
    """Whether a file is an NPZ file, by its suffix, in capitals too."""
    return path.suffix.lower() == ".npz"


def headers(path: Path | str) -> dict[str, Header]:
    """Return name → header of every array in an NPZ file, without reading values.

    Raises
    ------
    InputError
        As for ``read_npz``.
    """
    with _opened(Path(path)) as (_, stored):
        return stored


def read_npz(path: Path | str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of an NPZ file.

    Parameters
    ----------
    path
        The file.
    names
        The arrays to read; None for all.

    Returns
    -------
    dict
        Name → array.

    Raises
    ------
    InputError
        The file is not a regular file or not an NPZ file, an array is missing, a member is not an
        array, occurs twice, has a path outside the archive, contains Python objects, or declares
        a shape that does not fit its size, or the arrays are much larger than the file.
    """
    path = Path(path)
    with _opened(path) as (archive, stored):
        arrays = {}
        for name in stored if names is None else names:
            if name not in stored:
                raise InputError(f"contains no array '{name}'", where=str(path),
                                 allowed=f"it has: {', '.join(stored) or 'none'}")
            if stored[name].dtype.hasobject:
                raise ValueError(f"'{name}' {_PICKLED}")
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


def read_npy(path: Path | str) -> np.ndarray:
    """Read the array of a ``.npy`` or ``.npy.gz`` file.

    Raises
    ------
    InputError
        As for ``read_npz``.
    """
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
            # One byte more than there should be, to notice what follows the values.
            values = stream.read(header.size + 1)
            if len(values) != header.size:
                raise _mismatch("it", header, len(values))
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"not a readable array ({_short(error)})", where=str(path)) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Header]]]:
    """Open an archive and check its headers; damage found in the block is an ``InputError``."""
    size = refuse_special(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, _headers(archive, size, path)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"not a readable NPZ file ({_short(error)})", where=str(path)) from None


def _headers(archive: zipfile.ZipFile, size: int, path: Path) -> dict[str, Header]:
    checked: dict[str, Header] = {}
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise ValueError(f"'{name}' in it is not an array")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"the name '{name}' in it points outside the archive")
        if name in checked:
            raise ValueError(f"'{name}' is in it twice")
        with archive.open(member) as stream:
            header = _header(stream)
            stored = member.file_size - stream.tell()
        # Pickled objects have no known size; they are refused when they are read.
        if not header.dtype.hasobject:
            if header.size != stored:
                raise _mismatch(f"'{name}'", header, stored)
            total += header.size
        checked[name] = header
    _refuse_large(total, size, path)
    return checked


def _header(stream: IO[bytes] | gzip.GzipFile) -> Header:
    """Read a header, which leaves the stream at the values."""
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
    if total > max(ALWAYS_ALLOWED, MAX_RATIO * size):
        raise InputError(f"would unpack to {total:,} bytes from {size:,}", where=str(path),
                         allowed=f"at most {MAX_RATIO} times its size, or 1 GB")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
