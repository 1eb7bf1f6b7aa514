"""Which files are recordings: one list of suffixes for every command; what makes one unusable."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from l3hpc.errors import L3hpcError

LIBSNDFILE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
FFMPEG = (".m4a", ".aac", ".mp4", ".webm")  # decoded by ffmpeg
SOUND_SUFFIXES = LIBSNDFILE + FFMPEG
VIDEO_SUFFIXES = (".mp4", ".webm")
HDF5_SUFFIXES = (".h5", ".hdf5")
NAMED = 6  # kinds of files ignored that a message lists
REASONS = ("unreadable", "empty", "silent", "too short")


def is_sound(path: Path | str) -> bool:
    """Whether ``path`` is named as a sound file."""
    return os.path.splitext(path)[1].lower() in SOUND_SUFFIXES


def is_hdf5(path: Path | str) -> bool:
    """Whether ``path`` is named as an HDF5 file (its rows are separate recordings)."""
    return os.path.splitext(path)[1].lower() in HDF5_SUFFIXES


def needs_ffmpeg(path: Path | str) -> bool:
    """Whether ffmpeg is needed to read ``path``, by its name."""
    return os.path.splitext(path)[1].lower() in FFMPEG


def without_videos(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Sound files without the videos beside which the same sound lies as a file of its own.

    Returns both parts. A data set of videos often has the extracted sound beside each: taking both
    would count every recording twice.
    """
    paths = list(paths)
    sounds = {path.with_suffix("") for path in paths
              if path.suffix.lower() not in VIDEO_SUFFIXES}
    doubled = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES
               and path.with_suffix("") in sounds]
    left_out = set(doubled)
    return [path for path in paths if path not in left_out], doubled


def describe_ignored(paths: Iterable[Path | str]) -> str:
    """``3 other files: 2 .caf, 1 .txt`` for files that are no recordings; '' for none."""
    kinds = Counter(os.path.splitext(path)[1].lower() or "without an ending" for path in paths)
    if not kinds:
        return ""
    common = kinds.most_common()
    words = [f"{count:,} {kind}" for kind, count in common[:NAMED]]
    rest = sum(count for _, count in common[NAMED:])
    if rest:
        words.append(f"{rest:,} of other kinds")
    total = sum(kinds.values())
    return f"{total:,} other file{'s' * (total != 1)}: {', '.join(words)}"


class AudioError(L3hpcError):
    """One recording cannot be used.

    ``reason`` is one of ``'unreadable'``, ``'empty'``, ``'silent'``, ``'too short'``.
    """

    def __init__(self, message: str, *, reason: str = "unreadable", where: str | None = None,
                 allowed: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, allowed=allowed, hint=hint)
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; valid: {', '.join(REASONS)}")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        state = {"where": self.where, "allowed": self.allowed, "hint": self.hint,
                 "reason": self.reason}
        return (type(self), (self.message,), state)
