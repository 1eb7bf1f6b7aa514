"""A folder of videos: which there are, where their sound lies, and what can be taken from each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.avc import ffmpeg
from l3hpc.avc.ffmpeg import VideoError
from l3hpc.errors import InputError
from l3hpc.io.files import digest

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".flv",
            ".3gp", ".ts", ".wmv")
SOUNDS = (".flac", ".wav", ".ogg", ".opus", ".m4a", ".mp3")
SECOND = 1.0


class Source(Protocol):
    """What pairs are cut from: a video, or a scene."""

    @property
    def name(self) -> str:
        """Names it among the others."""

    @property
    def seconds(self) -> float:
        """How long picture and sound both last."""

    def picture(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """The frame at ``time``, see ``l3hpc.avc.ffmpeg.picture``."""

    def sound(self, start: float, rate: int) -> np.ndarray:
        """One second from ``start``, see ``l3hpc.avc.ffmpeg.sound``."""


@dataclass(frozen=True)
class VideoFile:
    """One video of a folder.

    file, sound: paths relative to the folder (``sound`` may be ``file`` itself). size, mtime_ns: of
    the video.
    """

    file: str
    sound: str
    size: int
    mtime_ns: int

    def as_json(self) -> list[Any]:
        """The fields in order, ready for a JSON list (see ``from_json``)."""
        return [self.file, self.sound, self.size, self.mtime_ns]

    @classmethod
    def from_json(cls, values: Iterable[Any]) -> VideoFile:
        """The inverse of ``as_json``."""
        return cls(*values)


@dataclass(frozen=True)
class Video:
    """A usable video: a ``Source``. Made by ``open_video``."""

    name: str
    seconds: float
    path: Path
    sound_path: Path

    def picture(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """(size, size, 3) uint8."""
        return ffmpeg.picture(self.path, time, size, scaled, place)

    def sound(self, start: float, rate: int) -> np.ndarray:
        """(rate,) int16."""
        return ffmpeg.sound(self.sound_path, start, rate)


def scan(folder: Path | str) -> list[VideoFile]:
    """All videos below ``folder``, sorted by name; hidden files and folders are ignored.

    A video's sound is its own, unless a sound file of the same name lies beside it, or in a folder
    ``audio`` beside its folder ``video`` (as AudioSet's downloaders lay them out).

    Raises ``InputError`` when the folder does not exist or holds no videos.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of videos", where=str(folder),
                         hint="Name a folder of videos, or 'generated'")
    files = dict(_walk(folder))
    found = []
    for name, status in sorted(files.items()):
        path = Path(name)
        if path.suffix.lower() not in SUFFIXES:
            continue
        parts = ["audio" if part == "video" else part for part in path.parts]
        beside = [path.with_suffix(suffix) for suffix in SOUNDS]
        beside += [Path(*parts).with_suffix(suffix) for suffix in SOUNDS]
        sound = next((one.as_posix() for one in beside if one.as_posix() in files), name)
        found.append(VideoFile(name, sound, status.st_size, status.st_mtime_ns))
    if not found:
        raise InputError("holds no videos", where=str(folder),
                         allowed=f"videos are {', '.join(SUFFIXES)}")
    return found


def listing_digest(files: Iterable[VideoFile]) -> str:
    """32 hex digits that change when a file, its size or its time of writing does."""
    return digest([one.as_json() for one in files])


def open_video(folder: Path, file: VideoFile) -> Video:
    """The video, if it has pictures and at least a second of sound; else ``VideoError``."""
    path, sound = Path(folder) / file.file, Path(folder) / file.sound
    if not path.is_file():
        raise VideoError("is no longer there", where=str(path))
    found = ffmpeg.probe(path)
    seconds, heard = found.seconds, found.sound
    if sound != path:
        beside = ffmpeg.probe(sound)
        seconds, heard = min(seconds, beside.seconds), beside.sound
    for there, what in ((found.picture, "no pictures"), (heard, "no sound"),
                        (seconds >= SECOND, f"only {seconds:.2f} s")):
        if not there:
            raise VideoError(f"has {what}", where=str(path))
    return Video(file.file, seconds, path, sound)


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for place, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in files:
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat()
