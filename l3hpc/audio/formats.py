"""The suffixes of recordings, the same for every command, the errors for unusable ones, and whether
one has changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from l3hpc.errors import L3hpcError

LIBSNDFILE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
FFMPEG = (".m4a", ".aac", ".mp4", ".webm")  # decoded by ffmpeg
SOUND_SUFFIXES = LIBSNDFILE + FFMPEG
VIDEO_SUFFIXES = (".mp4", ".webm")
HDF5_SUFFIXES = (".h5", ".hdf5")
LISTED = 6  # most kinds of ignored files that a message lists
REASONS = ("unreadable", "empty", "silent", "too short")
SPOTS, SPOT_BYTES = 16, 4096  # of a recording, for its digest


def is_sound(path: Path | str) -> bool:
    """Whether ``path`` has the suffix of a sound file."""
    return os.path.splitext(path)[1].lower() in SOUND_SUFFIXES


def is_hdf5(path: Path | str) -> bool:
    """Whether ``path`` has the suffix of an HDF5 file, whose rows are separate recordings."""
    return os.path.splitext(path)[1].lower() in HDF5_SUFFIXES


def needs_ffmpeg(path: Path | str) -> bool:
    """Whether ffmpeg is needed to read ``path``, by its suffix."""
    return os.path.splitext(path)[1].lower() in FFMPEG


def without_videos(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Separate videos whose sound is also there as a file of its own.

    Data sets of videos often have the extracted sound beside each video. Using both would count
    every recording twice.

    Parameters
    ----------
    paths
        Sound files and videos.

    Returns
    -------
    recordings, duplicates : list of Path
        The files to use, and the videos with a sound file of the same name beside them.
    """
    paths = list(paths)
    sounds = {path.with_suffix("") for path in paths
              if path.suffix.lower() not in VIDEO_SUFFIXES}
    duplicates = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES
                  and path.with_suffix("") in sounds]
    ignored = set(duplicates)
    return [path for path in paths if path not in ignored], duplicates


def describe_ignored(paths: Iterable[Path | str]) -> str:
    """Describe files that are not recordings; empty if there are none.

    Examples
    --------
    >>> describe_ignored(["a.caf", "b.caf", "c.txt"])
    '3 other files: 2 .caf, 1 .txt'
    >>> describe_ignored(["a.caf"]), describe_ignored(["a", "b"])
    ('1 .caf file', '2 files without a suffix')
    """
    kinds = Counter(os.path.splitext(path)[1].lower() or "without a suffix" for path in paths)
    if not kinds:
        return ""
    if len(kinds) == 1:
        (kind, count), = kinds.items()
        files = f"file{'s' * (count != 1)}"
        return f"{count:,} {kind} {files}" if kind.startswith(".") else f"{count:,} {files} {kind}"
    common = kinds.most_common()
    parts = [f"{count:,} {kind}" for kind, count in common[:LISTED]]
    rest = sum(count for _, count in common[LISTED:])
    if rest:
        parts.append(f"{rest:,} of other kinds")
    total = sum(kinds.values())
    return f"{total:,} other file{'s' * (total != 1)}: {', '.join(parts)}"


class AudioError(L3hpcError):
    """One recording cannot be used.

    Parameters
    ----------
    message, where, allowed, hint
        As for ``L3hpcError``.
    reason : {'unreadable', 'empty', 'silent', 'too short'}
        The kind of problem, also an attribute.
    """

    def __init__(self, message: str, *, reason: str = "unreadable", where: str | None = None,
                 allowed: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, allowed=allowed, hint=hint)
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; valid: {', '.join(REASONS)}")
        self.reason = reason


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Check that a recording is the same file before and after the block that reads it.

    A recorder may still be writing it, or a copy of it be under way. What is read then is a part of
    it, or half of each of two recordings, and no decoder reports that.

    Parameters
    ----------
    path
        The recording.

    Raises
    ------
    AudioError
        It has changed, or was removed (``reason`` is ``'unreadable'``).
    """
    before = _state(path)
    try:
        yield
    except AudioError:  # what was refused may only be its half
        _refuse_changed(path, before)
        raise
    _refuse_changed(path, before)


def _refuse_changed(path: Path, before: os.stat_result | None) -> None:
    if before is None:  # for the decoder to refuse
        return
    after = _state(path)
    if after is None:
        raise AudioError("was removed while it was read", where=str(path))
    if after.st_size != before.st_size:
        raise AudioError(f"changed while it was read, from {before.st_size:,} to "
                         f"{after.st_size:,} bytes", where=str(path),
                         hint="Is it still being recorded or copied?")
    if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
        raise AudioError("changed while it was read", where=str(path),
                         hint="Is it still being recorded or copied?")


def _state(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


class FileState(NamedTuple):
    """What a recording was when it was read, to notice later that another has taken its place.

    Attributes
    ----------
    size
        Bytes.
    mtime_ns
        Time of the last change.
    digest
        Of bytes all over the file, 64 bits with a sign; None where it was not computed.
    """

    size: int
    mtime_ns: int
    digest: int | None = None

    @classmethod
    def of(cls, path: Path, *, with_digest: bool = True) -> FileState | None:
        """The state of a file.

        Parameters
        ----------
        path
            The file.
        with_digest
            Whether to read it: 64 kB, wherever in the file.

        Returns
        -------
        FileState or None
            None where it cannot be read.
        """
        if (found := _state(path)) is None:
            return None
        try:
            digest = _digest_spots(path, found.st_size) if with_digest else None
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, digest)

    def fits(self, path: Path) -> bool:
        """Whether a file is still the same.

        One that has only got another time, because it was copied or restored, is: its bytes count.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        bool
            True, too, where there is no such file any more.
        """
        now = FileState.of(path, with_digest=False)
        if now is None or now == (self.size, self.mtime_ns, None):
            return True
        return (now.size == self.size and self.digest is not None
                and FileState.of(path) == (now.size, now.mtime_ns, self.digest))


def _digest_spots(path: Path, size: int) -> int:
    """A digest of pieces spread evenly over a file: hashing all of it would take as long as half of
    its decoding."""
    state = hashlib.blake2b(digest_size=8)
    with open(path, "rb", buffering=0) as file:
        if size <= SPOTS * SPOT_BYTES:
            state.update(file.read(size))
        else:
            for spot in range(SPOTS):
                state.update(os.pread(file.fileno(), SPOT_BYTES,
                                      spot * (size - SPOT_BYTES) // (SPOTS - 1)))
    return int.from_bytes(state.digest(), "little", signed=True)
