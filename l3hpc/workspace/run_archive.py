"""The archive of a packed run: ``packed.zip`` in its folder holds its logs and markers.

A run of a thousand tasks leaves five thousand small files. ``l3hpc runs pack`` puts them into one,
from which ``markers`` and ``runs.logs`` read what they do not find in the folders; only
``runs.pack`` writes it. It is a zip file, because a single file can be read from it. Its first
entry keeps what zip does not: the exact times, by which an early version's markers tell when they
were written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from typing_extensions import TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import open_regular, parse_json
from l3hpc.io.values import check_mapping
from l3hpc.workspace.layout import RunFolder, StepFolder

INDEX = "index.json"
SCHEMA = 1
_FILE = re.compile(r"steps/([^/\0]+)/(logs|markers)/([^/\0]+)")
_MAX_NAME = 255  # bytes, in all usual file systems
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_INDEX = 2**28
_NS = 10**9
BLOCK = 2**20  # bytes that are read at once
BIG = 2**30  # bytes; zip needs other headers from 2 GiB
_MAX_S = 2**33  # seconds since 1970, in the year 2242


class _Index(TypedDict):
    """The first entry: file → time of change (seconds and ns since 1970) and permissions."""

    schema: int
    files: dict[str, list[int]]


@dataclass(frozen=True)
class Packed:
    """One file of an archive.

    Attributes
    ----------
    name : str
        Its path in the folder of the run.
    bytes : int
        Its size.
    changed_ns : int
        When it was changed, ns since 1970.
    mode : int
        Its permissions.
    """

    name: str
    bytes: int
    changed_ns: int
    mode: int


class Archive:
    """An open archive.

    Parameters
    ----------
    stream
        The file.
    path
        Its path, for messages.

    Raises
    ------
    InputError
        If it is not an archive of a run: another format, other names than those of logs and
        markers, or a damaged index.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise InputError(f"is not a zip file, or damaged: {error}", where=str(path)) from None
        infos = {info.filename: info for info in self._zip.infolist()}
        if len(infos) != len(self._zip.infolist()):
            raise InputError("has two files of one name", where=str(path))
        for name, info in infos.items():
            # what is written outside of the folders of steps, or is not a file, is not from us
            match = _FILE.fullmatch(name)
            if name != INDEX and (match is None or any(
                    each in (".", "..") or len(os.fsencode(each)) > _MAX_NAME
                    for each in (match[1], match[3]))):
                raise InputError(f"contains {name!r}, which is not a log or marker of a step",
                                 where=str(path))
            if info.flag_bits & 1 or info.compress_type not in _METHODS:
                raise InputError(f"{name!r} is encrypted, or compressed in another way",
                                 where=str(path))
        value = parse_json(self.read(INDEX, MAX_INDEX), path)
        try:
            index = check_mapping(_Index, value, "index")
        except InputError as error:
            raise InputError(error.message, where=str(path)) from None
        if index["schema"] != SCHEMA:
            raise InputError(f"its format is {index['schema']}; this version of l3hpc reads "
                             f"format {SCHEMA}", where=str(path))
        if index["files"].keys() != infos.keys() - {INDEX} or not all(
                map(_is_entry, index["files"].values())):
            raise InputError("its index does not list the files that it contains", where=str(path))
        self.files = {name: Packed(name, infos[name].file_size, seconds * _NS + ns, mode & 0o777)
                      for name, (seconds, ns, mode) in index["files"].items()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read one file in blocks, because a log may be larger than memory.

        Parameters
        ----------
        name
            Its path in the folder of the run.

        Yields
        ------
        bytes
            Up to a MiB.

        Raises
        ------
        InputError
            If there is no such file, or it is damaged.
        """
        where = f"{self._path}: {name}"
        if name not in self._zip.NameToInfo:
            raise InputError("is not in the archive", where=where)
        with contextlib.ExitStack() as closing:
            stream = None
            while True:
                # not around ``yield``: an error of the caller is none of the archive
                try:
                    stream = stream or closing.enter_context(self._zip.open(name))
                    block = stream.read(BLOCK)
                except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError,
                        NotImplementedError) as error:
                    raise InputError(f"is damaged: {error}", where=where) from None
                if not block:
                    return
                yield block

    def read(self, name: str, limit: int) -> bytes:
        """Read one small file.

        Parameters
        ----------
        name
            Its path in the folder of the run.
        limit
            Largest number of bytes.

        Raises
        ------
        InputError
            If there is no such file, it is longer, or it is damaged.
        """
        content = bytearray()
        for block in self.blocks(name):
            content += block
            if len(content) > limit:
                raise InputError(f"is larger than {limit:,} bytes", where=f"{self._path}: {name}")
        return bytes(content)

    def digest(self, name: str) -> bytes:
        """Return what ``write`` returned for one file, from what the archive has of it.

        Raises
        ------
        InputError
            As ``blocks``.
        """
        state = hashlib.blake2b()
        for block in self.blocks(name):
            state.update(block)
        return state.digest()


def _is_entry(entry: list[int]) -> bool:
    """Whether it is a time and permissions; another time could not be given to a file."""
    return len(entry) == 3 and abs(entry[0]) < _MAX_S and 0 <= entry[1] < _NS


@contextmanager
def opened(run: RunFolder) -> Iterator[Archive | None]:
    """Open the archive of a run.

    Parameters
    ----------
    run
        Folder of the run.

    Yields
    ------
    Archive or None
        None if the run is not packed.

    Raises
    ------
    InputError
        If the archive is damaged.
    """
    try:
        stream = open_regular(run.packed)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(run.packed)) from None
    with stream:
        yield Archive(stream, run.packed)


def read_all(folder: Path, limit: int, wanted: Callable[[str], bool]
             ) -> list[tuple[str, Packed, bytes]] | None:
    """Read the files that a packed run has of one folder of logs or markers.

    Parameters
    ----------
    folder
        ``logs`` or ``markers`` of a step, which need not exist.
    limit
        Largest number of bytes of a file.
    wanted
        Whether a file of this name is read.

    Returns
    -------
    list of (str, Packed, bytes), or None
        Names in that folder, and the files; None if the run is not packed. What is damaged is noted
        as damage.
    """
    found: list[tuple[str, Packed, bytes]] = []
    run = StepFolder(os.path.dirname(folder)).run
    prefix = f"{os.path.relpath(folder, run)}/"
    try:
        with opened(run) as archive:
            if archive is None:
                return None
            for path, file in archive.files.items():
                if not path.startswith(prefix) or not wanted(path.removeprefix(prefix)):
                    continue
                try:
                    content = archive.read(path, limit)
                except InputError as error:
                    report_damage(error)
                    continue
                found.append((path.removeprefix(prefix), file, content))
    except InputError as error:
        report_damage(error)
    return found


def read_blocks(path: Path) -> Iterator[bytes] | None:
    """Read a log or marker from the archive of its run, in blocks.

    Parameters
    ----------
    path
        Where the file was.

    Returns
    -------
    iterator of bytes, or None
        None if the run is not packed, or its archive does not have the file.

    Raises
    ------
    InputError
        If it is damaged; also while it is read.
    """
    with contextlib.ExitStack() as closing:
        archive, name = closing.enter_context(_holding(path))
        # kept open: the run may be unpacked, and the archive removed, before it is read
        return None if archive is None else _blocks_of(archive, name, closing.pop_all())


def _blocks_of(archive: Archive, name: str, closing: contextlib.ExitStack) -> Iterator[bytes]:
    with closing:
        yield from archive.blocks(name)


def file_size(path: Path) -> int | None:
    """Return the size of a log or marker in the archive of its run, without reading it.

    Parameters
    ----------
    path
        Where the file was.

    Returns
    -------
    int or None
        Bytes; None as from ``read_blocks``.

    Raises
    ------
    InputError
        If the archive is damaged.
    """
    with _holding(path) as (archive, name):
        return None if archive is None else archive.files[name].bytes


@contextmanager
def _holding(path: Path) -> Iterator[tuple[Archive | None, str]]:
    """The archive that has a file (None: none has it), and the name of the file in it."""
    run = StepFolder(os.path.dirname(os.path.dirname(path))).run
    name = os.path.relpath(path, run)
    with opened(run) as archive:
        yield archive if archive is not None and name in archive.files else None, name


def write(stream: IO[bytes], files: Mapping[str, tuple[Packed, Iterable[bytes]]]
          ) -> dict[str, bytes]:
    """Write an archive.

    Parameters
    ----------
    stream
        Receives it.
    files
        Path in the folder of the run → the file and its content in blocks, which are read once.

    Returns
    -------
    dict of str to bytes
        Path → digest of what was written.
    """
    # a JSON number is exact up to 2^53
    index = {"schema": SCHEMA, "files": {name: [*divmod(file.changed_ns, _NS), file.mode]
                                         for name, (file, _) in files.items()}}
    digests = {}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(INDEX), json.dumps(index), zipfile.ZIP_DEFLATED)
        for name, (file, content) in files.items():
            info, state = zipfile.ZipInfo(name), hashlib.blake2b()
            info.compress_type = zipfile.ZIP_DEFLATED
            # its header is written first, and cannot grow when more comes than was announced
            with archive.open(info, "w", force_zip64=file.bytes > BIG) as target:
                for block in content:
                    target.write(block)
                    state.update(block)
            digests[name] = state.digest()
    return digests
