"""Packing the small files of a run that has ended into one, and unpacking them again.

The archive appears by one rename, and only then the folders of logs and markers disappear, each by
one rename. So a command that is killed leaves every file in its folder or in the archive, and the
next one completes its work.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, command_line
from l3hpc.io.files import atomic_file
from l3hpc.io.owners import is_trusted_owner, user_name
from l3hpc.io.syncing import make_durable
from l3hpc.runs import status, submission_lock
from l3hpc.workspace import run_archive, sharing
from l3hpc.workspace.layout import RunFolder, Workspace
from l3hpc.workspace.run_archive import Packed

_REMOVED, _STAGED = ".packed", ".unpacked"  # suffixes of folders that are being removed or unpacked


@dataclass(frozen=True)
class Outcome:
    """What packing or unpacking did.

    Attributes
    ----------
    run : str
        Name of the run.
    files_before, bytes_before : int
        Number and size of the files in its folder, before.
    files_after, bytes_after : int, int or None
        The same afterwards; the size is None if nothing was done (``--dry-run``).
    moved : int
        Files that were put into the archive, or taken from it.
    archive : str
        Path of the archive.
    """

    run: str
    files_before: int
    bytes_before: int
    files_after: int
    bytes_after: int | None
    moved: int
    archive: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"schema": 1, **asdict(self)}


def pack(workspace: Path, run: str, *, dry_run: bool = False) -> Outcome:
    """Put the logs and markers of a run into one archive.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    dry_run
        Only say what would be done.

    Returns
    -------
    Outcome
        Files and bytes before and after.

    Raises
    ------
    InputError
        If the run is active or belongs to another user, a file is not a regular file, or the
        archive of an earlier packing is damaged.
    """
    folder = Workspace(workspace).run(run)
    if dry_run:
        _refuse_active(workspace, run)
        before = _count(folder)
        moved = len(list(_loose(folder)))
        return Outcome(run, *before, before[0] - moved + bool(moved and not folder.packed.exists()),
                       None, moved, str(folder.packed))
    before = _count(folder)
    with sharing.same_readers(folder.path), \
            submission_lock.acquire(workspace, run, "runs pack"):
        _refuse_active(workspace, run)
        _remove_leftovers(folder)
        loose = dict(_loose(folder))
        if loose:
            with run_archive.opened(folder) as before_it:
                files = _contents(before_it) | {name: (_about(path, name), _blocks(path))
                                                for name, path in loose.items()}
                mode = functools.reduce(operator.or_, (file.mode for file, _ in files.values()))
                with atomic_file(folder.packed, mode=mode & 0o666) as stream:
                    digests = run_archive.write(stream, files)
                    _verify(run_archive.Archive(stream, folder.packed), digests)
            _remove(folder, {name: file for name, (file, _) in files.items()})
    return Outcome(run, *before, *_count(folder), len(loose), str(folder.packed))


def unpack(workspace: Path, run: str, *, dry_run: bool = False) -> Outcome:
    """Take the logs and markers of a run out of its archive, and remove that.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    dry_run
        Only say what would be done.

    Returns
    -------
    Outcome
        Files and bytes before and after.

    Raises
    ------
    InputError
        If the run or its archive belongs to another user, or the archive is damaged; then nothing
        is written.
    """
    folder = Workspace(workspace).run(run)
    if dry_run:
        before = _count(folder)
        with run_archive.opened(folder) as archive:
            new = 0 if archive is None else sum(
                not os.path.lexists(os.path.join(folder, name)) for name in archive.files)
        return Outcome(run, *before, before[0] + new - folder.packed.exists(), None, new,
                       str(folder.packed))
    before = _count(folder)
    with sharing.same_readers(folder.path), submission_lock.acquire(workspace, run, "runs unpack"):
        moved = unpack_locked(folder)
    return Outcome(run, *before, *_count(folder), moved, str(folder.packed))


def unpack_locked(folder: RunFolder) -> int:
    """Unpack a run whose submission lock the caller holds.

    Parameters
    ----------
    folder
        Folder of the run.

    Returns
    -------
    int
        Number of files; 0 if the run was not packed.

    Raises
    ------
    InputError
        As ``unpack``.
    """
    if not folder.packed.exists():
        _remove_halves(folder)
        return 0
    # among the files are pickles and scripts, which are loaded only if they belong to this user
    owner = os.lstat(folder.packed).st_uid
    if not is_trusted_owner(owner, folder.path):
        raise InputError(f"belongs to {user_name(owner)}, not to you: it is not unpacked",
                         where=str(folder.packed))
    _remove_leftovers(folder)
    with run_archive.opened(folder) as archive:
        assert archive is not None
        files = list(archive.files.values())
        staged = _stage(folder, archive)  # all of it is read before anything gets its name
    for target, (place, names) in staged.items():
        make_durable([place, *(os.path.join(place, name) for name in names)])
        if not target.exists():
            place.rename(target)
        else:
            for name in names:  # somebody has used the folder since: what is there is newer
                if not os.path.lexists(os.path.join(target, name)):
                    os.rename(os.path.join(place, name), os.path.join(target, name))
            shutil.rmtree(place)
        make_durable([target.parent, target])
    folder.packed.unlink()
    return len(files)


def _stage(folder: RunFolder, archive: run_archive.Archive) -> dict[Path, tuple[Path, list[str]]]:
    """Unpack into folders beside those of the files: folder → the one beside it, and its files.

    If the archive is damaged, they are removed again.
    """
    staged: dict[Path, tuple[Path, list[str]]] = {}
    try:
        for path, file in archive.files.items():
            target = Path(os.path.join(folder, os.path.dirname(path)))
            if target not in staged:
                staged[target] = target.with_name(f".{target.name}{_STAGED}"), []
                staged[target][0].mkdir()
            place, names = staged[target]
            names.append(os.path.basename(path))
            _write(Path(os.path.join(place, names[-1])), file, archive.blocks(path))
    except BaseException:
        for place, _ in staged.values():
            shutil.rmtree(place, ignore_errors=True)
        raise
    return staged


def _refuse_active(workspace: Path, run: str) -> None:
    [found] = status.collect(workspace, [run])
    active = [f"{step.name} {step.state}" for step in found.steps if step.state.is_active]
    if active:
        raise InputError(f"{run} has not ended: {', '.join(active)}",
                         hint=f"Wait until it has ended ({command_line('status', run)}), or: "
                              f"{command_line('cancel', run)}")


def _folders(folder: RunFolder) -> Iterator[Path]:
    """The folders of logs and markers that exist."""
    if not folder.steps.is_dir():
        return
    for step in _entries(folder.steps):
        if step.is_dir(follow_symlinks=False):
            place = folder.step(step.name)
            yield from (each for each in (place.logs, place.markers)
                        if each.is_dir() and not each.is_symlink())


def _loose(folder: RunFolder) -> Iterator[tuple[str, Path]]:
    """Path in the folder of the run, and the path, of every file that is not in the archive."""
    for place in _folders(folder):
        for entry in _entries(place):
            if not entry.is_file(follow_symlinks=False):
                raise InputError("is not a regular file, so the run is not packed",
                                 where=entry.path)
            if "\ufffd" in os.fsencode(entry.name).decode(errors="replace"):
                raise InputError("has a name that is not UTF-8, so the run is not packed",
                                 where=entry.path, hint="Rename or remove it.")
            yield os.path.relpath(entry.path, folder), Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if another command has packed it since."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _about(path: Path, name: str) -> Packed:
    state = os.lstat(path)
    return Packed(name, state.st_size, state.st_mtime_ns, stat.S_IMODE(state.st_mode))


def _blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, read when it is needed."""
    with open(path, "rb") as stream:
        while block := stream.read(run_archive.BLOCK):
            yield block


def _write(path: Path, file: Packed, content: Iterable[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.writelines(content)
        stream.flush()
        os.fchmod(handle, file.mode)
        os.utime(handle, ns=(file.changed_ns, file.changed_ns))


def _contents(archive: run_archive.Archive | None) -> dict[str, tuple[Packed, Iterator[bytes]]]:
    return {} if archive is None else {
        name: (file, archive.blocks(name)) for name, file in archive.files.items()}


def _verify(archive: run_archive.Archive, digests: Mapping[str, bytes]) -> None:
    """Refuse an archive that does not contain what was written into it."""
    for name, digest in digests.items():
        if archive.digest(name) != digest:
            raise InputError("the archive does not contain what was written into it", where=name)


def _remove(folder: RunFolder, packed: Mapping[str, Packed]) -> None:
    """Remove the folders whose files are in the archive. One in which somebody has written in the
    meantime stays.
    """
    for place in list(_folders(folder)):
        there = {os.path.relpath(entry.path, folder): entry.stat(follow_symlinks=False)
                 for entry in os.scandir(place)}
        if all(name in packed and (state.st_size, state.st_mtime_ns) == (
                packed[name].bytes, packed[name].changed_ns)
                for name, state in there.items()):
            removed = place.with_name(f".{place.name}{_REMOVED}")
            place.rename(removed)
            shutil.rmtree(removed)


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove what a killed command left on its way: its content is in the archive, or still in its
    folder.
    """
    _remove_halves(folder)
    for step in os.scandir(folder.steps) if folder.steps.is_dir() else ():
        if step.is_dir(follow_symlinks=False):
            place = folder.step(step.name)
            for each in (place.logs, place.markers):
                for end in (_REMOVED, _STAGED):
                    shutil.rmtree(each.with_name(f".{each.name}{end}"), ignore_errors=True)


def _remove_halves(folder: RunFolder) -> None:
    """Remove archives that were never completed."""
    for half in folder.path.glob(f".{folder.packed.name}.*.tmp"):
        half.unlink()


def _count(folder: RunFolder) -> tuple[int, int]:
    """Number and size of all files in the folder of a run (without lock: that is a file, too)."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            # removed by another command, which packs or resumes the run
            with contextlib.suppress(FileNotFoundError):
                sizes.append(os.lstat(os.path.join(place, name)).st_size)
    return len(sizes), sum(sizes)
