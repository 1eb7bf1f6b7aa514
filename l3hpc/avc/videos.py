"""Read images and sound of video files by ffmpeg, and list the videos of a folder.

ffmpeg runs as a process of its own, without a shell or standard input, on files only (a playlist
cannot reach the network), and with a time limit. Anything with the methods of ``VideoSource`` can
be cut into pairs: a ``Video``, or a scene of ``l3hpc.avc.scenes``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.decoding import find_ffmpeg
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.io.files import digest, refuse_unreadable

TIMEOUT_S = 120
MIN_SOUND_SHARE = 0.9  # of a second of sound that must exist; the rest is padded with silence
BACK_S = 1.0  # for the last image of a stream that ends before the file does
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".flv",
            ".3gp", ".ts", ".wmv")
SOUNDS = (".flac", ".wav", ".ogg", ".opus", ".m4a", ".mp3")
ONE_SECOND = 1.0


class VideoError(L3hpcError):
    """One video cannot be used; others may be usable."""


@dataclass(frozen=True)
class VideoProbe:
    """What a file holds.

    Attributes
    ----------
    seconds
        Its length.
    image
        Whether it has a video stream.
    sound
        Whether it has an audio stream.
    """

    seconds: float
    image: bool
    sound: bool


# ffmpeg -------------------------------------------------------------------------------------------

def ffmpeg_program() -> str:
    """The ffmpeg program.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    L3hpcError
        It is not installed; the message says how to install it.
    """
    found = find_ffmpeg()
    if found is None:
        raise L3hpcError("ffmpeg is not installed, and videos cannot be read without it",
                         hint=f"Install it: apt-get install ffmpeg, conda install ffmpeg, or "
                              f"{install_command('video')}")
    return found


def probe_video(path: Path) -> VideoProbe:
    """Length and streams of a file, by ffprobe, or by ffmpeg's messages where that is missing.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    VideoProbe
        What it holds.

    Raises
    ------
    VideoError
        The file cannot be read.
    """
    program = shutil.which("ffprobe")
    if program:
        done = _run([program, "-v", "error", "-of", "json", "-show_entries",
                     "format=duration:stream=codec_type,duration:stream_disposition=attached_pic",
                     *_source(path)], path)
        return _probed(json.loads(done.stdout), path)
    command = [ffmpeg_program(), "-hide_banner", "-nostdin", *_source(path)]
    done = _run(command, path, checked=False)  # "fails", since no output was requested
    return _read_banner(done.stderr.decode(errors="replace"), path)


def decode_image(path: Path, time: float, size: int, scaled: int, place: tuple[float, float]
                   ) -> np.ndarray:
    """Decode one frame and cut a square out of it.

    Parameters
    ----------
    path
        The file.
    time
        Seconds.
    size
        Pixels, width and height of the square.
    scaled
        Pixels to which the frame's short side is scaled first (256 as published).
    place
        Where the square is cut out: shares (across, down) of the remaining width and height, each
        in [0, 1].

    Returns
    -------
    numpy.ndarray
        (size, size, 3) uint8.

    Raises
    ------
    VideoError
        No frame can be read, or not in time.
    """
    across, down = place
    # Sizes are rounded up, as published; commas inside expressions are escaped.
    longer = [f"ceil({scaled}*{side}/min(iw\\,ih))" for side in ("iw", "ih")]
    filters = (f"scale={longer[0]}:{longer[1]}:flags=bicubic,format=rgb24,"
               f"crop={size}:{size}:trunc({across:.6f}*(iw-ow)):trunc({down:.6f}*(ih-oh)):exact=1")
    # The image may end before the sound does: then the one a second before is taken.
    for moment in (time, max(time - BACK_S, 0.0)):
        data = _decode(path, moment, ["-map", "0:v:0", "-frames:v", "1", "-vf", filters,
                                      "-f", "rawvideo", "-pix_fmt", "rgb24"])
        if len(data) == 3 * size * size:
            return np.frombuffer(data, np.uint8).reshape(size, size, 3)
    raise VideoError(f"has no image at {time:.2f} s", where=str(path))


def decode_sound(path: Path, start: float, rate: int) -> np.ndarray:
    """Decode one second of sound, with all channels averaged.

    Parameters
    ----------
    path
        The file.
    start
        Seconds.
    rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (rate,) int16.

    Raises
    ------
    VideoError
        Less than nine tenths of the second exist, or they cannot be read in time.
    """
    # A margin: cut at exactly one second, the resampled sound could be a few samples short.
    data = _decode(path, start, ["-map", "0:a:0", "-t", "1.1", "-ac", "1", "-ar", str(rate),
                                 "-f", "s16le"])
    samples = np.frombuffer(data[:2 * (len(data) // 2)], "<i2")[:rate].astype(np.int16)
    if len(samples) < MIN_SOUND_SHARE * rate:
        raise VideoError(f"has only {len(samples) / rate:.2f} s of sound at {start:.2f} s",
                         where=str(path))
    return np.pad(samples, (0, rate - len(samples)))


def _source(path: Path) -> list[str]:
    # "file:", so that no name can be taken for an option, a pattern or another protocol.
    return ["-protocol_whitelist", "file", "-i", f"file:{Path(path).absolute()}"]


def _decode(path: Path, start: float, output: list[str]) -> bytes:
    # -ss before the input seeks by the index; after it, everything before would be decoded.
    return _run([ffmpeg_program(), "-v", "error", "-nostdin", "-threads", "1",
                 "-ss", f"{start:.6f}", *_source(path), *output, "pipe:1"], path).stdout


def _run(command: list[str], path: Path, checked: bool = True
         ) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"ffmpeg needed more than {TIMEOUT_S} s", where=str(path)) from None
    if checked and done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1].replace(f"file:{Path(path).absolute()}: ", "") if lines else "no reason"
        raise VideoError(f"cannot be decoded: {reason:.200}", where=str(path))
    return done


def _probed(output: dict[str, Any], path: Path) -> VideoProbe:
    """The output of ffprobe as a ``VideoProbe``."""
    kinds: dict[str, dict[str, Any]] = {}
    for stream in output.get("streams", []):
        kind = stream.get("codec_type")
        if kind == "video" and stream.get("disposition", {}).get("attached_pic"):
            continue  # cover art of a song
        kinds.setdefault(kind, stream)
    lengths = [stream["duration"] for kind, stream in kinds.items()
               if kind in ("video", "audio") and "duration" in stream]
    lengths = lengths or [output.get("format", {}).get("duration", "N/A")]
    try:
        # Pairs need both, so the shorter of sound and images counts, not the file's own length.
        seconds = min(float(length) for length in lengths)
    except ValueError:
        raise VideoError("does not state its duration", where=str(path)) from None
    return VideoProbe(seconds, "video" in kinds, "audio" in kinds)


def _read_banner(text: str, path: Path) -> VideoProbe:
    """The messages of ffmpeg as a ``VideoProbe``."""
    length = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", text)
    if not length:
        lines = text.strip().splitlines()
        raise VideoError(f"does not state its duration: {lines[-1] if lines else '':.200}",
                         where=str(path))
    streams = [line for line in text.splitlines() if re.match(r"\s*Stream #", line)]
    seconds = 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3])
    return VideoProbe(seconds,
                      any("Video:" in line and "(attached pic)" not in line for line in streams),
                      any("Audio:" in line for line in streams))


# folders of videos --------------------------------------------------------------------------------

class VideoSource(Protocol):
    """What pairs are cut from: a video, or a scene."""

    @property
    def name(self) -> str:
        """Unique among the sources."""

    @property
    def seconds(self) -> float:
        """How long image and sound both last."""

    def image(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """One frame; parameters as in ``decode_image``.

        Parameters
        ----------
        time
            Seconds.
        size
            Pixels.
        scaled
            Pixels.
        place
            Shares (across, down).

        Returns
        -------
        numpy.ndarray
            (size, size, 3) uint8.

        Raises
        ------
        VideoError
            The frame cannot be read.
        """

    def sound(self, start: float, rate: int) -> np.ndarray:
        """One second of sound; parameters as in ``decode_sound``.

        Parameters
        ----------
        start
            Seconds.
        rate
            Hz.

        Returns
        -------
        numpy.ndarray
            (rate,) int16.

        Raises
        ------
        VideoError
            The sound cannot be read.
        """


@dataclass(frozen=True)
class VideoFile:
    """One video of a folder.

    Attributes
    ----------
    file
        Path relative to the folder.
    sound
        Path of its sound, relative to the folder; may be ``file`` itself.
    size
        Bytes of the video.
    mtime_ns
        Time of its last change.
    """

    file: str
    sound: str
    size: int
    mtime_ns: int

    def as_json(self) -> list[Any]:
        """The fields in order, which ``from_json`` reads."""
        return [self.file, self.sound, self.size, self.mtime_ns]

    @classmethod
    def from_json(cls, values: Iterable[Any]) -> VideoFile:
        """The video that ``as_json`` described.

        Parameters
        ----------
        values
            The fields in order.

        Returns
        -------
        VideoFile
            The video.
        """
        return cls(*values)


@dataclass(frozen=True)
class Video:
    """A usable video, made by ``open_video``.

    Attributes
    ----------
    name
        Path relative to the folder.
    seconds
        How long image and sound both last.
    path
        The video.
    sound_path
        Its sound.
    """

    name: str
    seconds: float
    path: Path
    sound_path: Path

    def image(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """One frame; see ``decode_image``."""
        return decode_image(self.path, time, size, scaled, place)

    def sound(self, start: float, rate: int) -> np.ndarray:
        """One second of sound; see ``decode_sound``."""
        return decode_sound(self.sound_path, start, rate)


def scan_videos(folder: Path | str) -> list[VideoFile]:
    """List the videos of a folder and its subfolders; hidden files and folders are ignored.

    A video's sound is its own, unless there is a sound file of the same name beside it, or in a
    folder ``audio`` beside its folder ``video`` (as AudioSet's downloaders arrange them).

    Parameters
    ----------
    folder
        The videos.

    Returns
    -------
    list of VideoFile
        Sorted by name.

    Raises
    ------
    InputError
        The folder does not exist or holds no videos.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of videos", where=str(folder),
                         hint="Name a folder of videos, or 'generated'")
    files = dict(_walk(folder))
    videos = []
    for name, status in sorted(files.items()):
        path = Path(name)
        if path.suffix.lower() not in SUFFIXES:
            continue
        parts = ["audio" if part == "video" else part for part in path.parts]
        beside = [path.with_suffix(suffix) for suffix in SOUNDS]
        beside += [Path(*parts).with_suffix(suffix) for suffix in SOUNDS]
        sound = next((path.as_posix() for path in beside if path.as_posix() in files), name)
        videos.append(VideoFile(name, sound, status.st_size, status.st_mtime_ns))
    if not videos:
        raise InputError("holds no videos", where=str(folder),
                         allowed=f"videos are {', '.join(SUFFIXES)}")
    return videos


def listing_digest(files: Iterable[VideoFile]) -> str:
    """A digest that changes when a video, its size or its time of change does.

    Parameters
    ----------
    files
        The videos.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    return digest([file.as_json() for file in files])


def open_video(folder: Path, file: VideoFile) -> Video:
    """Open a video that has images and at least a second of sound.

    Parameters
    ----------
    folder
        The folder.
    file
        One of its videos.

    Returns
    -------
    Video
        Ready to read.

    Raises
    ------
    VideoError
        It is missing, or lacks images, sound or length.
    """
    path, sound = Path(folder) / file.file, Path(folder) / file.sound
    if not path.is_file():
        raise VideoError("no longer exists", where=str(path))
    probed = probe_video(path)
    seconds, has_sound = probed.seconds, probed.sound
    if sound != path:
        probed_sound = probe_video(sound)
        seconds, has_sound = min(seconds, probed_sound.seconds), probed_sound.sound
    for usable, what in ((probed.image, "no images"), (has_sound, "no sound"),
                         (seconds >= ONE_SECOND, f"only {seconds:.2f} s")):
        if not usable:
            raise VideoError(f"has {what}", where=str(path))
    return Video(file.file, seconds, path, sound)


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, folders, files in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(parent) / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat()
