"""Small, safe file work that every room shares: whole files or none, digests, JSON.

Everything that another process may read is written to a temporary name in the same folder, flushed
to disk and renamed, so that a reader sees the old state or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import json
import os
import pwd
import shlex
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from l3hpc.errors import InputError
from l3hpc.io.values import ESCAPED

SYNCED_AT_ONCE = 16
MAX_JSON = 2**30
RESULT = "result.json"  # written last into the folder of a finished task


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable (a no-op where the file system refuses it)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse fsync on folders
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """A stream to write and read whose content replaces ``path`` in one rename at the end.

    If the block raises, nothing is left. durable: wait until the disk has it; not needed for what a
    killed machine may forget.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        handle = os.open(temporary, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, flags, mode)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def make_durable(paths: Iterable[Path | str]) -> None:
    """Wait until the disk has these files and folders, which were written without waiting.

    Several at once: a disk and a file server write them together, so that many cost little more
    than one. What has gone meanwhile is ignored.
    """
    from concurrent.futures import ThreadPoolExecutor

    every = list(dict.fromkeys(map(str, paths)))
    with ThreadPoolExecutor(min(SYNCED_AT_ONCE, max(len(every), 1))) as pool:
        list(pool.map(_sync, every))


def _sync(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    except OSError:
        if not os.path.isdir(path):  # some network file systems refuse fsync on folders
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """A folder with all above it, each new one durable: its name is on the disk."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(new):
        fsync_folder(each.parent)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` in one rename (see ``atomic_file``)."""
    with atomic_file(path, mode=mode, durable=durable) as stream:
        stream.write(data)


def write_text(path: Path, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by UTF-8 ``text`` in one rename."""
    write_bytes(path, text.encode(), mode=mode, durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace ``path`` by ``value`` as indented JSON (NaN and infinity are refused)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8", ESCAPED), durable=durable)


def share_file(source: Path, target: Path) -> None:
    """``target`` becomes a second name of ``source`` (a copy where the file system has no links).

    Only for files that are replaced, never changed in place. One that exists stays.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        if not os.path.exists(target):
            write_bytes(target, Path(source).read_bytes(), durable=False)


def read_json(path: Path | str, *, own: bool = False) -> Any:
    """The JSON value in ``path``; a damaged file is an ``InputError`` naming line and column.

    own: see ``read_own_file``. A missing file is a ``FileNotFoundError``.
    """
    try:
        content = read_own_file(path) if own else read_bounded(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return parse_json(content, path)


def parse_json(content: bytes, path: Path | str) -> Any:
    """The JSON value in the bytes of a file; ``InputError`` for what is none."""
    try:
        return _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"damaged: byte 0x{content[error.start]:02x} is not UTF-8",
                         where=f"{path}:{line}") from None
    except json.JSONDecodeError as error:
        words = "it is empty" if not content.strip() else \
            f"{error.msg} in column {error.colno}"
        raise InputError(f"not valid JSON: {words}", where=f"{path}:{error.lineno}") from None
    except (RecursionError, ValueError):  # nested too deep; a number of more than 4,300 digits
        raise InputError("not valid JSON: l3hpc did not write it",
                         where=str(path)) from None


def _no_number(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity: we write neither


_DECODER = json.JSONDecoder(parse_constant=_no_number)  # to make one takes as long as a small file


def read_bounded(path: Path | str, limit: int = MAX_JSON) -> bytes:
    """The bytes of a regular file that is no larger than a file of ours can be."""
    with open(path, "rb", opener=_at_once) as stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise InputError("not a regular file", where=str(path))
        if state.st_size > limit:
            raise InputError(f"has {state.st_size:,} bytes, more than any file that l3hpc writes",
                             where=str(path))
        return stream.read(state.st_size)  # not limit: read takes as much memory as it may need


def open_regular(path: Path | str, buffering: int = -1) -> IO[bytes]:
    """A regular file, open for reading; ``OSError`` for a pipe or device, which would hang."""
    stream: IO[bytes] = open(path, "rb", buffering, opener=_at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return stream


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def refuse_special(path: Path) -> os.stat_result:
    """The status of a regular file, or of one that a link leads to.

    Raises ``InputError`` for anything else: a pipe or device would hang whoever opens it.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError("no such file" if isinstance(error, FileNotFoundError) else
                         f"cannot be read: {(error.strerror or 'error').lower()}",
                         where=str(path)) from None
    except ValueError:  # a zero byte, or a character that no encoding has
        raise InputError(f"{str(path)!r} is not a file name") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for test, text in (
            (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"),
            (stat.S_ISSOCK, "a socket")) if test(status.st_mode)), "a device")
        raise InputError(f"is {kind}, not a file", where=str(path))
    return status


def read_own_file(path: Path | str) -> bytes:
    """The bytes of a file that the user of this process wrote; an ``InputError`` for any other.

    For what is executed: the open file is asked for its owner, so that nobody can put another one
    in its place in between. root is trusted, as everywhere.
    """
    path = Path(path)
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise InputError("not a regular file", where=str(path))
        if not _ours(state.st_uid, path.parent):
            raise InputError(f"belongs to {user_name(state.st_uid)}, not to you: it is not "
                             "executed", where=str(path))
        return stream.read()


def is_owned_by_user(folder: Path) -> bool:
    """Whether a folder belongs to the user of this process."""
    return _ours(os.stat(folder).st_uid, Path(folder))


def current_user() -> str:
    """The name of the user, as Slurm takes it too; the number of one who has no name here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container whose passwd lacks the user
        return str(os.getuid())


def user_name(uid: int) -> str:
    """The name of a user of this machine, or ``user 1234``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _ours(uid: int, folder: Path) -> bool:
    """Whether ``uid`` is ours. Some file systems show one owner for all: what they say of a new
    file of ours in ``folder`` decides."""
    if uid in (os.geteuid(), 0):
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return uid == os.fstat(probe.fileno()).st_uid
    except OSError:
        return False


def private_folder(folder: Path) -> Path:
    """``folder`` and the one around it (in the home folder), made for this user alone.

    Raises ``InputError`` where another user could put a file of theirs in its place: a link, a
    folder of somebody else, a home folder that others may write.
    """
    home = folder.parent.parent
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(home.stat().st_mode) & 0o022 and not home.stat().st_mode & stat.S_ISVTX:
        raise InputError("others may write into your home folder", where=str(home),
                         hint=f"chmod go-w {shlex.quote(str(home))}")
    for place, links, mask in ((folder.parent, 0, 0o755), (folder, os.O_NOFOLLOW, 0o700)):
        try:
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | links)
        except OSError as error:
            raise InputError(f"it has to be a folder of your own: {error.strerror}",
                             where=str(place)) from None
        try:
            found = os.fstat(handle)
            if not _ours(found.st_uid, place):
                raise InputError("it has to be a folder of your own; it belongs to another user",
                                 where=str(place))
            os.fchmod(handle, stat.S_IMODE(found.st_mode) & mask)
        finally:
            os.close(handle)
    return folder


def private_file(path: Path) -> Path:
    """``path`` as a file of this user alone, empty if it is new; links are not followed."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                         | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise InputError(f"it has to be a file of your own: {error.strerror}",
                         where=str(path)) from None
    try:
        found = os.fstat(handle)
        if found.st_nlink > 1 or not (
                stat.S_ISREG(found.st_mode) and _ours(found.st_uid, path.parent)):
            raise InputError("it has to be a file of your own, with this one name",
                             where=str(path))
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return path


def canonical_json(value: Any) -> str:
    """One line of JSON with sorted keys: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """32 hex digits (BLAKE2b, 128 bits) of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """32 hex digits (BLAKE2b, 128 bits) of a file's bytes."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes ``target`` by one rename at the end.

    If the block raises, the temporary folder is removed. If ``target`` appeared meanwhile (another
    process was first), the temporary folder is dropped: the first one stays.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():
                raise
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_task_folder(folder: Path) -> bool:
    """Whether a folder holds the finished output of one task of a step."""
    return (Path(folder) / RESULT).is_file()


def task_folders(artifact: Path) -> list[Path]:
    """The finished task folders (``0000``, ``0001``, …) of an artifact, in order.

    A task folder is finished when it holds ``result.json`` (it is written last).
    """
    folders = [path for path in Path(artifact).iterdir()
               if path.is_dir() and path.name.isdecimal() and is_task_folder(path)]
    return sorted(folders, key=lambda path: int(path.name))


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``, by name within each folder; hidden ones are left out, links are
    followed, and one that leads back is not."""
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(base)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(base, name) for name in sorted(names) if not name.startswith("."))
