"""Pictures and sound out of video files, by ffmpeg as a process of its own.

No shell, no standard input, files only (a playlist cannot reach the network), and a time limit.

A folder of videos: which there are, where their sound lies, and what can be taken from each.

Generated audio-visual scenes: a coloured shape moves about and makes its own kind of sound.

A scene is a video that nobody has to decode: any frame and any second of it follow from the seed
and its number alone. Six kinds of shapes sound like six things, so that a network that only learns
"this shape, this sound" tells matching pairs from others in eleven cases of twelve: a non-matching
pair is of the same kind one time in six.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.decoding import find_ffmpeg
from l3hpc.datasets import sounds
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.io.files import digest

TIMEOUT_S = 120
LEAST_SHARE = 0.9  # of a second of sound that must come; the rest is silence
BACK_S = 1.0  # to look for the last picture of a stream that ends before the file does
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".flv",
            ".3gp", ".ts", ".wmv")
SOUNDS = (".flac", ".wav", ".ogg", ".opus", ".m4a", ".mp3")
SECOND = 1.0
DEFAULT_SEED = 20180216
SECONDS = 10.0
ASPECT = 4 / 3  # width by height of the whole frame
CEILING = 11 / 12  # accuracy of who knows every kind and nothing else
_NAME = re.compile(r"generated(?::(\d{1,9}))?")

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


class VideoError(L3hpcError):
    """One video that cannot be used: the others can."""


@dataclass(frozen=True)
class Probe:
    """What a file holds. seconds: its length. picture, sound: whether it has such a stream."""

    seconds: float
    picture: bool
    sound: bool


def ffmpeg() -> str:
    """The ffmpeg program; ``L3hpcError`` that says how to install it where there is none."""
    found = find_ffmpeg()
    if found is None:
        raise L3hpcError("ffmpeg is not installed; videos cannot be read without it",
                         hint=f"Install it: apt-get install ffmpeg, conda install ffmpeg, or "
                              f"{install_command('video')}")
    return found


def probe(path: Path) -> Probe:
    """Length and streams of a file, by ffprobe, or by what ffmpeg says where that is missing.

    Raises ``VideoError`` for a file that neither understands.
    """
    program = shutil.which("ffprobe")
    if program:
        done = _run([program, "-v", "error", "-of", "json", "-show_entries",
                     "format=duration:stream=codec_type,duration:stream_disposition=attached_pic",
                     *_source(path)], path)
        return _probed(json.loads(done.stdout), path)
    command = [ffmpeg(), "-hide_banner", "-nostdin", *_source(path)]
    done = _run(command, path, checked=False)  # it "fails": no output was asked for
    return _read_banner(done.stderr.decode(errors="replace"), path)


def picture(path: Path, time: float, size: int, scaled: int, place: tuple[float, float]
            ) -> np.ndarray:
    """The frame at ``time`` s as (size, size, 3) uint8.

    scaled: pixels that its short side is scaled to (256 as published) before a square of ``size``
    is cut out at ``place``: shares (across, down) of the room there is, each in [0, 1].

    Raises ``VideoError`` where no frame can be read, or not in time.
    """
    across, down = place
    # sizes are rounded up, as published; commas inside expressions are escaped
    longer = [f"ceil({scaled}*{side}/min(iw\\,ih))" for side in ("iw", "ih")]
    filters = (f"scale={longer[0]}:{longer[1]}:flags=bicubic,format=rgb24,"
               f"crop={size}:{size}:trunc({across:.6f}*(iw-ow)):trunc({down:.6f}*(ih-oh)):exact=1")
    for moment in (time, max(time - BACK_S, 0.0)):
        data = _decode(path, moment, ["-map", "0:v:0", "-frames:v", "1", "-vf", filters,
                                      "-f", "rawvideo", "-pix_fmt", "rgb24"])
        if len(data) == 3 * size * size:
            return np.frombuffer(data, np.uint8).reshape(size, size, 3)
    raise VideoError(f"gives no picture at {time:.2f} s", where=str(path))


def sound(path: Path, start: float, rate: int) -> np.ndarray:
    """One second from ``start`` s: (rate,) int16, all channels averaged.

    Raises ``VideoError`` where less than nine tenths of it are there, or not in time.
    """
    data = _decode(path, start, ["-map", "0:a:0", "-t", "1.1", "-ac", "1", "-ar", str(rate),
                                 "-f", "s16le"])
    samples = np.frombuffer(data[:2 * (len(data) // 2)], "<i2")[:rate].astype(np.int16)
    if len(samples) < LEAST_SHARE * rate:
        raise VideoError(f"gives only {len(samples) / rate:.2f} s of sound at {start:.2f} s",
                         where=str(path))
    return np.pad(samples, (0, rate - len(samples)))


def _source(path: Path) -> list[str]:
    # "file:" so that no name reads as an option, a pattern or another protocol
    return ["-protocol_whitelist", "file", "-i", f"file:{Path(path).absolute()}"]


def _decode(path: Path, start: float, output: list[str]) -> bytes:
    return _run([ffmpeg(), "-v", "error", "-nostdin", "-threads", "1", "-ss", f"{start:.6f}",
                 *_source(path), *output, "pipe:1"], path).stdout


def _run(command: list[str], path: Path, checked: bool = True
         ) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"took ffmpeg more than {TIMEOUT_S} s", where=str(path)) from None
    if checked and done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1].replace(f"file:{Path(path).absolute()}: ", "") if lines else "no reason"
        raise VideoError(f"cannot be decoded: {reason:.200}", where=str(path))
    return done


def _probed(found: dict[str, Any], path: Path) -> Probe:
    kinds: dict[str, dict[str, Any]] = {}
    for stream in found.get("streams", []):
        kind = stream.get("codec_type")
        if kind == "video" and stream.get("disposition", {}).get("attached_pic"):
            continue  # the cover of a song
        kinds.setdefault(kind, stream)
    lengths = [stream["duration"] for kind, stream in kinds.items()
               if kind in ("video", "audio") and "duration" in stream]
    lengths = lengths or [found.get("format", {}).get("duration", "N/A")]
    try:
        seconds = min(float(length) for length in lengths)
    except ValueError:
        raise VideoError("does not say how long it is", where=str(path)) from None
    return Probe(seconds, "video" in kinds, "audio" in kinds)


def _read_banner(text: str, path: Path) -> Probe:
    length = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", text)
    if not length:
        lines = text.strip().splitlines()
        raise VideoError(f"does not state its duration: {lines[-1] if lines else '':.200}",
                         where=str(path))
    streams = [line for line in text.splitlines() if re.match(r"\s*Stream #", line)]
    seconds = 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3])
    return Probe(seconds,
                 any("Video:" in line and "(attached pic)" not in line for line in streams),
                 any("Audio:" in line for line in streams))


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
        return picture(self.path, time, size, scaled, place)

    def sound(self, start: float, rate: int) -> np.ndarray:
        """(rate,) int16."""
        return sound(self.sound_path, start, rate)


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
    found = probe(path)
    seconds, heard = found.seconds, found.sound
    if sound != path:
        beside = probe(sound)
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


@dataclass(frozen=True)
class Kind:
    """A shape, its colour (red, green, blue in [0, 1]) and its sound.

    inside: where (x, y), in radii from the centre, lies in the shape.
    """

    name: str
    colour: tuple[float, float, float]
    inside: Shape
    sound: Callable[[np.random.Generator, int, int], np.ndarray]


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95))


KINDS = (
    Kind("engine", (0.85, 0.15, 0.15), lambda x, y: x * x + y * y < 1,
         lambda rng, n, rate: sounds.engine(rng, n, rate, "medium")),
    Kind("jackhammer", (0.95, 0.75, 0.10), lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
         lambda rng, n, rate: sounds.machinery_impact(rng, n, rate, "jackhammer")),
    Kind("car alarm", (0.15, 0.25, 0.90), lambda x, y: (y < 0.8) & (abs(x) < 0.55 * (y + 1)),
         lambda rng, n, rate: sounds.alert(rng, n, rate, "car-alarm")),
    Kind("saw", (0.15, 0.75, 0.25), _cross,
         lambda rng, n, rate: sounds.powered_saw(rng, n, rate, "small")),
    Kind("ice cream truck", (0.90, 0.30, 0.80), lambda x, y: abs(x * x + y * y - 0.7) < 0.3,
         lambda rng, n, rate: sounds.music(rng, n, rate, "ice-cream")),
    Kind("beeper", (0.10, 0.80, 0.85), lambda x, y: abs(x) + abs(y) < 1.1,
         lambda rng, n, rate: sounds.alert(rng, n, rate, "reverse-beeper")),
)


class Scene:
    """Scene ``number`` of a seed: a ``Source`` of ten seconds.

    Kinds take turns with the numbers. Size, path, speed, shade, background and the sound's own
    parameters are drawn for each scene.
    """

    seconds = SECONDS

    def __init__(self, number: int, seed: int = DEFAULT_SEED) -> None:
        self.number, self.seed = number, seed
        self.kind = KINDS[number % len(KINDS)]
        self.name = f"scene-{number:05d}"
        rng = np.random.default_rng([seed, 1, number])
        self._radius = rng.uniform(0.18, 0.3)  # in heights of the frame
        self._rates = rng.uniform(0.05, 0.25, 2)  # turns per second, across and down
        self._phases = rng.uniform(0, 2 * math.pi, 2)
        self._colour = np.clip(np.array(self.kind.colour) + rng.normal(0, 0.05, 3), 0, 1)
        self._ground = rng.uniform(0.25, 0.6) + rng.normal(0, 0.03, 3)
        self._tilt = rng.uniform(-0.2, 0.2, 2)
        self._sounds: dict[int, np.ndarray] = {}
        self._lock = Lock()

    def picture(self, time: float, size: int, scaled: int, place: tuple[float, float]
                ) -> np.ndarray:
        """(size, size, 3) uint8 out of a frame of 4:3 with a height of ``scaled`` pixels."""
        width = math.ceil(scaled * ASPECT)
        left, top = (math.floor(share * room) for share, room in
                     zip(place, (width - size, scaled - size), strict=True))
        y, x = np.mgrid[top:top + size, left:left + size] / scaled  # in heights of the frame
        across, down = 0.5 + 0.5 * np.sin(2 * np.pi * self._rates * time + self._phases)
        margin = 0.8 * self._radius
        centre = (margin + across * (ASPECT - 2 * margin), margin + down * (1 - 2 * margin))
        there = self.kind.inside((x - centre[0]) / self._radius, (y - centre[1]) / self._radius)
        light = self._tilt[0] * (x / ASPECT - 0.5) + self._tilt[1] * (y - 0.5)
        frame = np.where(there[..., None], self._colour, self._ground + light[..., None])
        grain = np.random.default_rng([self.seed, 2, self.number, round(time * 1000)])
        frame = frame + grain.normal(0, 0.02, frame.shape)
        return np.round(255 * np.clip(frame, 0, 1)).astype(np.uint8)

    def sound(self, start: float, rate: int) -> np.ndarray:
        """(rate,) int16."""
        whole = self.track(rate)
        first = min(round(start * rate), len(whole) - rate)
        return whole[first:first + rate]

    def track(self, rate: int) -> np.ndarray:
        """The sound of the whole scene, (10 * rate,) int16, over a quiet background."""
        with self._lock:
            if rate not in self._sounds:
                rng = np.random.default_rng([self.seed, 3, self.number])
                n = round(self.seconds * rate)
                clip = 10 ** (rng.uniform(-24, -16) / 20) * self.kind.sound(rng, n, rate)
                clip = clip + 10 ** (rng.uniform(-52, -44) / 20) * sounds.background(rng, n, rate)
                self._sounds[rate] = np.round(32767 * np.tanh(clip)).astype(np.int16)
            return self._sounds[rate]


def scenes_seed(name: str) -> int | None:
    """The seed in ``generated[:SEED]``, or None if ``name`` is a folder."""
    match = _NAME.fullmatch(name)
    if match is None:
        if name.startswith("generated:"):
            raise InputError(f"no seed in {name!r}", allowed="generated or generated:SEED")
        return None
    return int(match[1]) if match[1] else DEFAULT_SEED
