"""Reading of untrusted HDF5 files: only values that are in the file itself, and only complete ones.

HDF5 files can refer to other files (external links, virtual data sets, external storage), declare
arrays that were never written, and need plugins. All reading goes through ``open_hdf5`` and, for
each array, ``numeric_dataset`` or ``read_strings``. They refuse such files with an ``InputError``
that names the file and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

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
HEAP = b"GCOL\x01\0\0\0"  # start of a heap of strings: signature, version, three zero bytes
SEARCHED = 16 << 20  # bytes at each end of a file that are searched for heaps
_KINDS = {"f": "floating-point numbers", "iu": "whole numbers", "fiu": "numbers"}
_MAX_CHECKED = 4096
Identity = tuple[int | str, ...]  # of a file at one time: device, inode, size and times
_checked: dict[Identity, None] = {}  # files and data sets that have passed the checks


class Hdf5File(h5py.File):
    """An ``h5py.File`` that was checked and is open for reading (see ``open_hdf5``).

    As a context manager it raises HDF5's errors in the block as an ``InputError`` that names the
    file.

    Attributes
    ----------
    source : Path
        The file, for messages.
    identity : tuple or None
        Identifies the file and its state; None for one in memory.
    """

    source: Path
    identity: Identity | None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and _is_hdf5_error(error):
            raise damage_error(self.source, error) from error


def open_hdf5(path: Path | str, *, memory: BinaryIO | None = None) -> Hdf5File:
    """Check an HDF5 file and open it for reading.

    Parameters
    ----------
    path
        The file.
    memory
        The contents, if they were unpacked from ``path``.

    Returns
    -------
    Hdf5File
        To be used as a context manager.

    Raises
    ------
    InputError
        ``path`` is not a regular file or not HDF5, is damaged or open for writing, or contains
        external links, broken or circular soft links, or data sets stored in other files.
    """
    path = Path(path)
    identity = None
    if memory is None:
        status = refuse_special(path)
        # Anything that changes when the file does: the checks then run again.
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
    """Return a data set of numbers, all of which can be read from the file.

    Parameters
    ----------
    file
        The open file.
    name
        Path of the data set within the file.
    kinds
        The allowed letters of NumPy's ``dtype.kind``.
    dims
        The required number of dimensions; None for any.

    Returns
    -------
    h5py.Dataset
        The data set; its values are not read yet.

    Raises
    ------
    InputError
        There is no such data set, it has another type or shape, it needs a filter that is not
        installed, or it was not written completely.
    """
    data = _dataset(file, name)
    if data.shape is None or data.dtype.kind not in kinds:
        what = "no value" if data.shape is None else f"{_type_name(data.dtype)} values"
        raise InputError(f"contains {what} in '{name}'", where=str(file.source),
                         allowed=_KINDS.get(kinds, "numbers"))
    if dims is not None and data.ndim != dims:
        raise InputError(f"'{name}' has shape {data.shape}", where=str(file.source),
                         allowed=f"{dims} dimension{'s' * (dims != 1)}")
    check_readable(data, file.source, file.identity)
    return data


def matrix_shapes(file: Hdf5File) -> dict[str, tuple[int, int]]:
    """Return name → shape of the two-dimensional data sets of numbers in the root group."""
    shapes = {}
    for name in file:
        try:
            item = file.get(name)
            if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "fiu":
                shapes[name] = tuple(item.shape)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise damage_error(file.source, error, f"'{name}'") from None
    return shapes


def read_strings(file: Hdf5File, name: str) -> np.ndarray:
    """Read a one-dimensional data set of strings as an array (n,) of ``str`` objects.

    Raises
    ------
    InputError
        As ``string_dataset``.
    """
    data = string_dataset(file, name)
    try:
        return np.asarray(data.asstr()[()], object)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise damage_error(file.source, error, f"'{name}'") from None


def string_dataset(file: Hdf5File, name: str) -> h5py.Dataset:
    """Return a one-dimensional data set of strings; its values are not read yet.

    Raises
    ------
    InputError
        There is no such data set, it has another type or shape, or it cannot be read completely.
    """
    data = _dataset(file, name)
    if data.shape is None or data.ndim != 1 or h5py.check_string_dtype(data.dtype) is None:
        raise InputError(f"contains {_type_name(data.dtype)} values of shape {data.shape} in "
                         f"'{name}'", where=str(file.source), allowed="a list of strings")
    check_readable(data, file.source, file.identity)
    return data


def read_attributes(owner: h5py.Group | h5py.Dataset, path: Path) -> dict[str, Any]:
    """Read all attributes of a file, group or data set; ``path`` is the file, for messages."""
    try:
        return dict(owner.attrs.items())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise damage_error(path, error, "its attributes") from None


def check_readable(data: h5py.Dataset, path: Path, identity: Identity | None = None) -> None:
    """Check that all values of a data set can be read.

    Parameters
    ----------
    data
        The data set.
    path
        The file, for messages.
    identity
        ``Hdf5File.identity``, to check a data set of an unchanged file only once; None to check it
        now.

    Raises
    ------
    InputError
        Values are missing, or a filter is not installed.
    """
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
    """Make the error to raise for one that HDF5 raised while reading.

    Parameters
    ----------
    path
        The file.
    error
        What HDF5 raised.
    what
        The part of the file that was read; None for the whole file.

    Returns
    -------
    InputError
        Names the file and the problem.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{what + ' cannot be read' if what else 'is damaged'}: {text[:300]}",
                      where=str(path), hint=WHOLE)


# links ----------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """A group that is still to be visited."""

    id: h5py.h5g.GroupID
    name: str
    ancestors: frozenset[int]  # addresses of this group and of those that contain it


def _check_links(file: h5py.File, path: Path) -> None:
    """Check every link and the storage of every data set, without reading values."""
    root = h5py.h5o.get_info(file.id).addr
    waiting = [_Group(file.id, "", frozenset([root]))]
    soft: list[tuple[_Group, bytes]] = []
    visited: set[int] = {root}
    entries = 0
    while waiting:
        group = waiting.pop()
        for name, kind in _links(group.id):
            entries += 1
            if entries > MAX_ENTRIES or len(group.ancestors) > MAX_DEPTH:
                raise InputError(f"contains more than {MAX_ENTRIES:,} groups and data sets, or "
                                 f"groups nested more than {MAX_DEPTH} deep", where=str(path))
            if kind == h5py.h5l.TYPE_SOFT:
                soft.append((group, name))
            elif kind == h5py.h5l.TYPE_HARD:
                waiting += _follow_hard_link(group, name, visited, path)
            else:
                raise InputError(f"contains a link to another file at '{_full(group, name)}'",
                                 where=str(path), allowed="values that are in the file itself",
                                 hint="Copy the data into one file, for example with h5py: "
                                      "source.copy('/', target, expand_external=True)")
    # Soft links come last: now none of them can lead to another file.
    for group, name in soft:
        _check_soft_link(group, name, path)


def _follow_hard_link(group: _Group, name: bytes, visited: set[int], path: Path) -> list[_Group]:
    """Check what a hard link leads to; return it if it is a group that is not visited yet."""
    info, full = h5py.h5o.get_info(group.id, name), _full(group, name)
    if info.type == h5py.h5o.TYPE_GROUP and info.addr in group.ancestors:
        raise _broken_link(full, path)
    if info.addr in visited:
        return []
    if info.type == h5py.h5o.TYPE_GROUP:
        visited.add(info.addr)
        return [_Group(h5py.h5g.open(group.id, name), full, group.ancestors | {info.addr})]
    if info.type == h5py.h5o.TYPE_DATASET:
        visited.add(info.addr)
        _refuse_foreign(h5py.h5d.open(group.id, name).get_create_plist(), full, path)
    return []


def _check_soft_link(group: _Group, name: bytes, path: Path) -> None:
    try:
        info = h5py.h5o.get_info(group.id, name)
    except (KeyError, RuntimeError, OSError, ValueError):
        raise _broken_link(_full(group, name), path) from None
    if info.addr in group.ancestors:
        raise _broken_link(_full(group, name), path)


def _full(group: _Group, name: bytes) -> str:
    return f"{group.name}/{name.decode('utf-8', 'backslashreplace')}"


def _links(group: h5py.h5g.GroupID) -> list[tuple[bytes, int]]:
    """(name, kind of link) of every entry of a group."""
    links: list[tuple[bytes, int]] = []
    group.links.iterate(lambda name, info: links.append((name, info.type)), info=True)
    return links


def _broken_link(name: str, path: Path) -> InputError:
    return InputError(f"contains a broken or circular link at '{name}'", where=str(path),
                      allowed="links to data in the same file")


def _refuse_foreign(settings: h5py.h5p.PropDCID, name: str, path: Path) -> None:
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise InputError(f"the values of '{name}' are stored in other files", where=str(path),
                         allowed="values that are in the file itself",
                         hint="Copy the values into one file, for example with h5py: "
                              "target['x'] = source['x'][()]")


# heaps ----------------------------------------------------------------------------------------


def _check_heaps(path: Path, memory: BinaryIO | None) -> None:
    """Refuse heaps of strings on which HDF5 would loop for ever."""
    with contextlib.ExitStack() as stack:
        if memory is not None:
            memory.seek(0)
            data: bytes | mmap.mmap = memory.read()
            memory.seek(0)
        else:
            file = stack.enter_context(open(path, "rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        # Heaps lie where strings were written, at the beginning or the end: large files are not
        # searched whole.
        for first in {0, max(len(data) - SEARCHED, 0)}:
            start = data.find(HEAP, first, first + SEARCHED)
            while start >= 0:
                _check_heap(data, start, path)
                start = data.find(HEAP, start + 16, first + SEARCHED)


def _check_heap(data: bytes | mmap.mmap, start: int, path: Path) -> None:
    end = min(start + int.from_bytes(data[start + 8:start + 16], "little"), len(data))
    position = start + 16
    # HDF5 steps from object to object by their sizes, and does not notice a size of 0 or below.
    while position + 16 <= end:
        size = int.from_bytes(data[position + 8:position + 16], "little")
        if data[position:position + 2] != b"\0\0":  # object 0 is the free space
            size = 16 + -(-size // 8) * 8
        if not 0 < size < 1 << 63:
            raise InputError("is damaged: a heap of strings refers to itself",
                             where=str(path), hint=WHOLE)
        position += size


# arrays ---------------------------------------------------------------------------------------


def _dataset(file: Hdf5File, name: str) -> h5py.Dataset:
    try:
        item = file.get(name)
        # Reading type and shape raises for a damaged data set.
        valid = isinstance(item, h5py.Dataset) and (item.dtype, item.shape) is not None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise damage_error(file.source, error, f"'{name}'") from None
    if not valid:
        raise InputError(f"contains no data set '{name}'", where=str(file.source))
    return item


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
    for index in range(settings.get_nfilters()):
        number, _, _, label = settings.get_filter(index)
        if _available(number):
            continue
        name = PLUGINS.get(number) or label.decode("utf-8", "replace").split(";")[0] or "unknown"
        raise InputError(
            f"'{data.name.lstrip('/')}' is compressed with {name} (HDF5 filter {number}), which "
            "is not installed", where=str(path),
            allowed="no compression, gzip, lzf, or a filter of hdf5plugin",
            hint="pip install hdf5plugin (where the jobs run), or write the file with gzip")


def _available(number: int) -> bool:
    return h5py.h5z.filter_avail(number) or (_plugins() and h5py.h5z.filter_avail(number))


@functools.cache
def _plugins() -> bool:
    """Whether hdf5plugin is installed; importing it registers its filters with HDF5."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        return False
    return True


def _refuse_missing(data: h5py.Dataset, path: Path) -> None:
    """Refuse a data set of which some values were never written."""
    # HDF5 would return the fill value, mostly 0, for them.
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
        # Limits keep the rounding from showing 0% or 100%.
        if written:
            percent = min(max(written / expected, 0.01), 0.99)
            share = f"only {percent:.0%} of its values are in the file"
        raise InputError(f"'{name}' is declared with shape {data.shape}, but {share}",
                         where=str(path),
                         hint="The program that wrote it stopped early: write the file again.")


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
        return InputError("is shorter than its header states: it was not copied or written "
                          "completely", where=str(path), hint="Copy it again.")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return InputError("cannot be read: permission denied", where=str(path))
    return InputError(f"not a readable HDF5 file ({text[:300]})", where=str(path), hint=WHOLE)


def _is_hdf5_error(error: BaseException) -> bool:
    """Whether HDF5 raised this error; unlike those of Python's files, it has no file name."""
    return (isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
            and not isinstance(error, NotImplementedError)) or (
        isinstance(error, OSError) and error.filename is None
        and error.errno in (None, errno.EIO, errno.ESTALE))


def _remember(key: Identity | None) -> None:
    if key is None:
        return
    while len(_checked) >= _MAX_CHECKED:
        _checked.pop(next(iter(_checked)), None)
    _checked[key] = None
