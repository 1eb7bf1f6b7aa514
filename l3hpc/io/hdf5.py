"""Opens HDF5 files that anybody may have written: what is read is in the file itself, and whole.

HDF5 can point at other files (external links, virtual data sets, external storage), declare arrays
that were never written, and need plugins. All reading goes through ``open_hdf5`` and, for each
array, ``numeric_dataset`` or ``read_strings``; the refusals (``InputError``) name the file and
what to do.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import mmap
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import refuse_special

MAX_ENTRIES = 100_000  # groups and data sets in one file
MAX_DEPTH = 64
PLUGINS = {307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle",
           32013: "zfp", 32015: "zstd", 32017: "sz", 32018: "fcidecomp", 32024: "sz3",
           32026: "blosc2", 32028: "sperr"}
WHOLE = "Is it complete? Compare its size with that of the original."
HEAP = b"GCOL\x01\0\0\0"  # where a collection of texts begins: signature, version, three zeros
SEARCHED = 16 << 20  # bytes at each end of a file in which heaps are looked for
_KINDS = {"f": "floating-point numbers", "iu": "whole numbers", "fiu": "numbers"}
_REMEMBERED = 4096
_checked: dict[tuple[Any, ...], None] = {}  # files (as they were) that the checks let through


class Hdf5File(h5py.File):
    """An ``h5py.File`` open for reading, whose contents were checked (see ``open_hdf5``).

    Used with ``with``, an error of HDF5 in the block is raised as ``InputError`` naming the file.
    """

    source: Path
    identity: tuple[Any, ...] | None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and _is_hdf5_error(error):
            raise damage_error(self.source, error) from error


def open_hdf5(path: Path | str, *, memory: BinaryIO | None = None) -> Hdf5File:
    """The HDF5 file ``path``, open for reading.

    Parameters
    ----------
    path
        The file; named in messages.
    memory
        Its bytes, where they were unpacked from ``path``.

    Raises
    ------
    InputError
        For what is no regular file or not HDF5; a file that is damaged or open in a writer; one
        that holds external links, soft links that lead nowhere or in a circle, or data sets whose
        values lie in other files.
    """
    path = Path(path)
    identity = None
    if memory is None:
        status = refuse_special(path)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                    status.st_ctime_ns)
    try:
        file = Hdf5File(path if memory is None else memory, "r")
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise _not_opened(path, error) from None
    file.source, file.identity = path, identity
    try:
        if identity is None or identity not in _checked:
            _check_links(file, path)
            _check_heaps(path, memory)
            _remember(identity)
    except InputError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        file.close()
        raise damage_error(path, error) from None
    except BaseException:
        file.close()
        raise
    return file


def numeric_dataset(file: Hdf5File, name: str, kinds: str = "fiu", dims: int | None = None
            ) -> h5py.Dataset:
    """The data set ``name``, whose values can be read: all of them are in the file.

    Parameters
    ----------
    kinds
        Letters of NumPy's ``dtype.kind`` that are allowed.
    dims
        The number of dimensions that it must have; None: any.

    Raises
    ------
    InputError
        Where there is no such data set, or it holds something else, needs a filter that is not
        installed, or was not written to its end.
    """
    data = _dataset(file, name)
    if data.shape is None or data.dtype.kind not in kinds:
        what = "no value" if data.shape is None else f"{_type_name(data.dtype)} values"
        raise InputError(f"holds {what} in '{name}'", where=str(file.source),
                         allowed=_KINDS.get(kinds, "numbers"))
    if dims is not None and data.ndim != dims:
        raise InputError(f"'{name}' has shape {data.shape}", where=str(file.source),
                         allowed=f"{dims} dimension{'s' * (dims != 1)}")
    refuse_unreadable(data, file.source, file.identity)
    return data


def matrix_shapes(file: Hdf5File) -> dict[str, tuple[int, int]]:
    """Shape by name of every two-dimensional data set of numbers at the top of a file."""
    found = {}
    for name in file:
        try:
            item = file.get(name)
            if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "fiu":
                found[name] = tuple(item.shape)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise damage_error(file.source, error, f"'{name}'") from None
    return found


def read_strings(file: Hdf5File, name: str) -> np.ndarray:
    """The strings of the one-dimensional data set ``name``, as an array of ``str`` objects."""
    data = _dataset(file, name)
    if data.shape is None or data.ndim != 1 or h5py.check_string_dtype(data.dtype) is None:
        raise InputError(f"holds {_type_name(data.dtype)} values of shape {data.shape} in "
                         f"'{name}'", where=str(file.source), allowed="a list of strings")
    refuse_unreadable(data, file.source, file.identity)
    try:
        return np.asarray(data.asstr()[()], object)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise damage_error(file.source, error, f"'{name}'") from None


def read_attributes(owner: Any, path: Path) -> dict[str, Any]:
    """All attributes of a file, group or data set, as h5py gives them."""
    try:
        return dict(owner.attrs.items())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise damage_error(path, error, "its attributes") from None


def refuse_unreadable(data: h5py.Dataset, path: Path, identity: tuple[Any, ...] | None = None
                      ) -> None:
    """Raise ``InputError`` for a data set with missing values, or a filter that is not there."""
    key = None if identity is None else (*identity, data.name)
    if key is not None and key in _checked:
        return
    try:
        _refuse_filters(data, path)
        _refuse_missing(data, path)
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise damage_error(path, error, f"'{data.name}'") from None
    _remember(key)


def damage_error(path: Path, error: BaseException, what: str | None = None) -> InputError:
    """What to raise for an error of HDF5 while a file is read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{what + ' cannot be read' if what else 'is damaged'}: {text[:300]}",
                      where=str(path), hint=WHOLE)


# links ----------------------------------------------------------------------------------------


def _check_links(file: h5py.File, path: Path) -> None:
    """Look at every link and every data set's storage; nothing of their values is read."""
    soft: list[tuple[Any, bytes, frozenset[int]]] = []
    root = h5py.h5o.get_info(file.id).addr
    waiting = [(file.id, "", frozenset([root]))]  # group, its name, itself and those around it
    done: set[int] = {root}
    entries = 0
    while waiting:
        group, place, around = waiting.pop()
        for name, kind in _links(group):
            entries += 1
            if entries > MAX_ENTRIES or len(around) > MAX_DEPTH:
                raise InputError(f"holds more than {MAX_ENTRIES:,} groups and data sets, or "
                                 f"groups nested more than {MAX_DEPTH} deep", where=str(path))
            full = f"{place}/{name.decode('utf-8', 'backslashreplace')}"
            if kind == h5py.h5l.TYPE_SOFT:
                soft.append((group, name, around))
                continue
            if kind != h5py.h5l.TYPE_HARD:
                raise InputError(f"holds a link to another file at '{full}'", where=str(path),
                                 allowed="values that lie in the file itself",
                                 hint="Copy the data into one file, for example with h5py: "
                                      "source.copy('/', target, expand_external=True)")
            info = h5py.h5o.get_info(group, name)
            if info.type == h5py.h5o.TYPE_GROUP:
                if info.addr in around:
                    raise _circle(full, path)
                if info.addr not in done:
                    done.add(info.addr)
                    waiting.append((h5py.h5g.open(group, name), full, around | {info.addr}))
            elif info.type == h5py.h5o.TYPE_DATASET and info.addr not in done:
                done.add(info.addr)
                _refuse_foreign(h5py.h5d.open(group, name).get_create_plist(), full, path)
    for group, name, around in soft:  # after the others: now none of them leaves the file
        full = name.decode("utf-8", "backslashreplace")
        try:
            info = h5py.h5o.get_info(group, name)
        except (KeyError, RuntimeError, OSError, ValueError):
            raise _circle(full, path) from None
        if info.addr in around:
            raise _circle(full, path)


def _links(group: Any) -> list[tuple[bytes, int]]:
    """(name, kind of link) of everything in a group."""
    found: list[tuple[bytes, int]] = []
    group.links.iterate(lambda name, info: found.append((name, info.type)), info=True)
    return found


def _circle(name: str, path: Path) -> InputError:
    return InputError(f"holds a link to another place at '{name}', which leads nowhere or in a "
                      "circle", where=str(path), allowed="links to data in the same file")


def _refuse_foreign(settings: Any, name: str, path: Path) -> None:
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise InputError(f"keeps the values of '{name}' in other files", where=str(path),
                         allowed="values that lie in the file itself",
                         hint="Copy the values into one file, for example with h5py: "
                              "target['x'] = source['x'][()]")


# heaps ----------------------------------------------------------------------------------------


def _check_heaps(path: Path, memory: BinaryIO | None) -> None:
    """Refuse a heap of texts in which HDF5 would never come to an end: its loop over the objects
    of a heap goes on by their sizes, and does not notice one of 0 or below 0."""
    with contextlib.ExitStack() as stack:
        if memory is not None:
            memory.seek(0)
            data: Any = memory.read()
            memory.seek(0)
        else:
            file = stack.enter_context(open(path, "rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for first in {0, max(len(data) - SEARCHED, 0)}:
            start = data.find(HEAP, first, first + SEARCHED)
            while start >= 0:
                _check_heap(data, start, path)
                start = data.find(HEAP, start + 16, first + SEARCHED)


def _check_heap(data: Any, start: int, path: Path) -> None:
    end = min(start + int.from_bytes(data[start + 8:start + 16], "little"), len(data))
    place = start + 16
    while place + 16 <= end:
        size = int.from_bytes(data[place + 8:place + 16], "little")
        if data[place:place + 2] != b"\0\0":  # number 0 is the space that is free
            size = 16 + -(-size // 8) * 8
        if not 0 < size < 1 << 63:
            raise InputError("is damaged: a heap of strings refers to itself",
                             where=str(path), hint=WHOLE)
        place += size


# arrays ---------------------------------------------------------------------------------------


def _dataset(file: Hdf5File, name: str) -> h5py.Dataset:
    try:
        found = file.get(name)
        right = isinstance(found, h5py.Dataset) and (found.dtype, found.shape) is not None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise damage_error(file.source, error, f"'{name}'") from None
    if not right:
        raise InputError(f"holds no data set '{name}'", where=str(file.source))
    return found


def _type_name(kind: np.dtype) -> str:
    if h5py.check_string_dtype(kind) is not None:
        return "text"
    if h5py.check_ref_dtype(kind) is not None:
        return "reference"
    if h5py.check_vlen_dtype(kind) is not None:
        return "variable-length"
    return str(kind)


def _refuse_filters(data: h5py.Dataset, path: Path) -> None:
    settings = data.id.get_create_plist()
    for place in range(settings.get_nfilters()):
        number, _, _, label = settings.get_filter(place)
        if _available(number):
            continue
        name = PLUGINS.get(number) or label.decode("utf-8", "replace").split(";")[0] or "unknown"
        raise InputError(
            f"'{data.name.lstrip('/')}' is compressed with {name} (HDF5 filter {number}), which "
            "is not installed", where=str(path),
            allowed="no compression, gzip, lzf, or a filter that hdf5plugin brings",
            hint="pip install hdf5plugin (where the jobs run), or write the file with gzip")


def _available(number: int) -> bool:
    return h5py.h5z.filter_avail(number) or (_plugins() and h5py.h5z.filter_avail(number))


@functools.cache
def _plugins() -> bool:
    """Whether hdf5plugin is installed; importing it makes its filters known to HDF5."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        return False
    return True


def _refuse_missing(data: h5py.Dataset, path: Path) -> None:
    """HDF5 gives the fill value, mostly 0, for what was never written: no number to go on with."""
    if not data.size:
        return
    layout, name = data.id.get_create_plist().get_layout(), data.name.lstrip("/")
    if layout == h5py.h5d.CHUNKED:
        sides = zip(data.shape, data.chunks, strict=True)
        expected = math.prod(-(-length // side) for length, side in sides)
        written = data.id.get_num_chunks()
    elif layout == h5py.h5d.CONTIGUOUS:
        expected = data.size * data.id.get_type().get_size()
        start = data.id.get_offset()
        written = 0 if start is None else min(expected, data.file.id.get_filesize() - start)
    else:
        return
    if written < expected:
        share = "none of its values are in the file"
        if written:  # never rounded to all or nothing
            percent = min(max(written / expected, 0.01), 0.99)
            share = f"only {percent:.0%} of its values are in the file"
        raise InputError(f"'{name}' is declared with shape {data.shape}, but {share}",
                         where=str(path),
                         hint="Whatever wrote it stopped before its end: write the file again.")


# opening --------------------------------------------------------------------------------------


def _not_opened(path: Path, error: BaseException) -> InputError:
    text = " ".join(str(error).split())
    if "unable to lock file" in text and getattr(error, "errno", None) in (
            errno.EAGAIN, errno.EACCES, None):
        return InputError("is open for writing in another program", where=str(path),
                          hint="Wait until that program has closed the file, then try again.")
    if "unable to lock file" in text:
        return InputError("cannot be locked on this file system", where=str(path),
                          hint="export HDF5_USE_FILE_LOCKING=FALSE, then try again.")
    if "already open for write" in text or "consistency flags" in text:
        return InputError("is open for writing in another program, or that program was killed",
                          where=str(path), hint=f"If no program is writing it: h5clear -s {path}")
    if "truncated file" in text:
        return InputError("is shorter than it says: an HDF5 file that was not copied or written "
                          "to its end", where=str(path), hint="Copy it again.")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return InputError("cannot be read: permission denied", where=str(path))
    return InputError(f"not a readable HDF5 file ({text[:300]})", where=str(path), hint=WHOLE)


def _is_hdf5_error(error: BaseException) -> bool:
    """Whether HDF5 raised this: its errors carry no file name, those of Python's own files do."""
    return (isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
            and not isinstance(error, NotImplementedError)) or (
        isinstance(error, OSError) and error.filename is None
        and error.errno in (None, errno.EIO, errno.ESTALE))


def _remember(key: tuple[Any, ...] | None) -> None:
    if key is None:
        return
    while len(_checked) >= _REMEMBERED:
        _checked.pop(next(iter(_checked)), None)
    _checked[key] = None
