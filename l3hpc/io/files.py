"""File operations that all packages share: atomic writing, JSON, digests, folders of tasks.

Everything that another process may read is written under a temporary name in the same folder,
flushed to disk and renamed, so that a reader sees the old contents or the new ones, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from l3hpc.errors import InputError
from l3hpc.io import indented
from l3hpc.io.owners import read_own_file
from l3hpc.io.values import ESCAPED

MAX_JSON = 2**30  # bytes; no file that l3hpc writes is larger
RESULT = "result.json"  # written last into the folder of a finished task

# atomic writing -------------------------------------------------------------------------------


def fsync_folder(folder: Path | str) -> None:
    """Make a rename inside ``folder`` durable; ignored by file systems that cannot do it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse fsync on folders
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a stream whose contents replace ``path`` by one rename when the block ends.

    Missing parent folders are made. If the block raises, ``path`` stays as it was.

    Parameters
    ----------
    path
        The file to replace.
    mode
        Permissions of the file, before the umask.
    durable
        Wait until the contents are on disk. Without it they may be lost in a power failure.

    Yields
    ------
    BinaryIO
        Open for writing and reading.
    """
    folder, name = os.path.split(path)
    # In the same folder: a rename is atomic only within one file system.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        handle = os.open(temporary, flags, mode)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(temporary, flags, mode)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        name_full_disk(error, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_folder(folder or os.curdir)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # From the top: a folder whose parent has lost it is lost as well.
    for path in reversed(missing):
        fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write bytes to a file, atomically.

    Parameters
    ----------
    path, mode, durable
        As for ``atomic_file``.
    data
        The contents.
    """
    with atomic_file(path, mode=mode, durable=durable) as stream:
        stream.write(data)


def create_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write bytes to a new file, in place: for a folder that is not read yet.

    Parameters
    ----------
    path
        The file, which does not exist.
    data
        The contents.
    mode
        Permissions of the file, before the umask.

    Raises
    ------
    FileExistsError
        If it exists.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
    except OSError as error:
        name_full_disk(error, path)
        raise


def name_full_disk(error: BaseException, path: Path) -> None:
    """Enter the file into an error of writing, which does not say which disk is full."""
    if (isinstance(error, OSError) and error.filename is None
            and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        error.filename = str(path)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write text to a file in UTF-8, atomically.

    Parameters
    ----------
    path, durable
        As for ``atomic_file``.
    text
        The contents.
    """
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write a value to a file as indented JSON, atomically.

    Parameters
    ----------
    path, durable
        As for ``atomic_file``.
    value
        Any value that JSON has.

    Raises
    ------
    ValueError
        ``value`` contains NaN or infinity.
    """
    write_bytes(path, json_bytes(value), durable=durable)


def json_bytes(value: object) -> bytes:
    """Return the contents of a JSON file with this value.

    Raises
    ------
    ValueError
        ``value`` contains NaN or infinity.
    """
    return (indented.dumps(value) + "\n").encode("utf-8", ESCAPED)


def file_server_time(folder: Path) -> float:
    """Return the present time by the clock of the file server, by which files have their times.

    Parameters
    ----------
    folder
        Where a file is created for it. If none can be, the time is that of this machine.
    """
    # a random name: in a shared folder nobody can have put a link there
    probe = Path(folder) / f".clock-{uuid.uuid4().hex}"
    try:
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return time.time()
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def share_file(source: Path, target: Path) -> None:
    """Hard-link ``source`` as ``target``, or copy it if the file system has no hard links.

    Use it only for files that are replaced, never changed in place. An existing ``target`` stays.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        if not os.path.exists(target):
            write_bytes(target, Path(source).read_bytes(), durable=False)


def read_json(path: Path | str, *, own: bool = False) -> Any:
    """Read the JSON value in ``path``.

    Parameters
    ----------
    path
        The file.
    own
        Refuse a file that another user wrote (see ``read_own_file``).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    InputError
        The file cannot be read or is damaged; the error names line and column.
    """
    try:
        content = read_own_file(path) if own else read_bounded(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return parse_json(content, path)


def parse_json(content: bytes, path: Path | str) -> Any:
    """Parse the bytes of the JSON file ``path``; an ``InputError`` if they are not valid JSON."""
    try:
        return _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"damaged: byte 0x{content[error.start]:02x} is not UTF-8",
                         where=f"{path}:{line}") from None
    except json.JSONDecodeError as error:
        problem = "the file is empty" if not content.strip() else \
            f"{error.msg} in column {error.colno}"
        raise InputError(f"not valid JSON: {problem}", where=f"{path}:{error.lineno}") from None
    except (RecursionError, ValueError):  # nested too deep; a number of more than 4,300 digits
        raise InputError("not valid JSON: l3hpc did not write it",
                         where=str(path)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which l3hpc does not write


# Shared, because making a decoder takes as long as decoding a small file.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

# guarded opening ------------------------------------------------------------------------------


def read_bounded(path: Path | str, limit: int = MAX_JSON) -> bytes:
    """Read a regular file of at most ``limit`` bytes; an ``InputError`` for any other."""
    # status reads tens of thousands of small files: open() would take longer than reading one
    handle = _open_without_waiting(os.fspath(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = os.fstat(handle)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise InputError("not a regular file", where=str(path))
        if state.st_size > limit:
            raise InputError(f"has {state.st_size:,} bytes, more than any file that l3hpc writes",
                             where=str(path))
        content = os.read(handle, state.st_size)
        while len(content) < state.st_size and (more := os.read(
                handle, state.st_size - len(content))):
            content += more
        return content
    finally:
        os.close(handle)


def open_regular(path: Path | str, buffering: int = -1) -> IO[bytes]:
    """Open a regular file for reading; ``OSError`` for a pipe or device, which could block."""
    stream: IO[bytes] = open(path, "rb", buffering, opener=_open_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return stream


def check_replaced(path: Path, is_ours: Callable[[IO[bytes]], bool], what: str, option: str
                   ) -> None:
    """Refuse to replace a file that this package did not write.

    Parameters
    ----------
    path
        Where a file is to be written; it need not exist.
    is_ours
        Tells by the content of an existing file whether it is of the kind that replaces it.
    what, option
        The kind of file (``a page of results``), and the option that names it, for messages.

    Raises
    ------
    InputError
        ``path`` is a folder, a pipe or a device, or a file with other content.
    """
    hint = f"Name another file: {option} FILE"
    if path.is_dir():
        raise InputError("is a folder", where=str(path), hint=hint)
    try:
        with open_regular(path) as stream:
            ours = is_ours(stream)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot be replaced: {error.strerror}", where=str(path), hint=hint
                         ) from None
    if not ours:
        raise InputError(f"exists, and is not {what} of l3hpc", where=str(path), hint=hint)


def _open_without_waiting(path: str, flags: int) -> int:
    """Opener that does not wait for a writer if ``path`` is a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def refuse_special(path: Path) -> os.stat_result:
    """Return the status of a regular file (links are followed).

    Raises
    ------
    InputError
        There is no such file, or it is a folder, pipe, socket or device. Opening a pipe or device
        could block for ever.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError("no such file" if isinstance(error, FileNotFoundError) else
                         f"cannot be read: {(error.strerror or 'error').lower()}",
                         where=str(path)) from None
    except ValueError:  # a NUL byte, or a character that cannot be encoded
        raise InputError(f"{str(path)!r} is not a file name") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for test, text in (
            (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"),
            (stat.S_ISSOCK, "a socket")) if test(status.st_mode)), "a device")
        raise InputError(f"is {kind}, not a file", where=str(path))
    return status


# digests --------------------------------------------------------------------------------------


def canonical_json(value: object) -> str:
    """Serialise a value as one line of JSON with sorted keys; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """BLAKE2b (128 bits, 32 hex digits) of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """BLAKE2b (128 bits, 32 hex digits) of the bytes of a regular file; ``OSError`` for others."""
    state = hashlib.blake2b(digest_size=16)
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


# folders --------------------------------------------------------------------------------------


def is_task_folder(folder: Path) -> bool:
    """Whether a folder contains the finished output of one task of a step."""
    return (Path(folder) / RESULT).is_file()


def task_folders(artifact: Path) -> list[Path]:
    """List the finished task folders (``0000``, ``0001``, …) of an artifact, in order.

    A task folder is finished if it contains ``result.json``, which is written last.
    """
    folders = [path for path in Path(artifact).iterdir()
               if path.is_dir() and path.name.isdecimal() and is_task_folder(path)]
    return sorted(folders, key=lambda path: int(path.name))


def refuse_unreadable(error: OSError) -> None:
    """Refuse a folder that cannot be read, for ``os.walk``: to that it would look empty.

    Parameters
    ----------
    error
        Of listing a folder. One that has just been removed is empty.

    Raises
    ------
    InputError
        Of any other one.
    """
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise InputError(f"cannot be read: {error.strerror}", where=str(error.filename),
                         hint="Files in it would be left out: ask its owner for permission, or "
                              "move it elsewhere.") from None


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield every file below ``folder``, sorted by name within each folder.

    Hidden files and folders are skipped. Links are followed, but each folder is visited once.

    Raises
    ------
    InputError
        A folder cannot be read.
    """
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        # A link to a folder above would never end.
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(base, name) for name in sorted(names) if not name.startswith("."))
