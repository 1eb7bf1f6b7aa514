"""Pictures and sound out of video files, by ffmpeg as a process of its own.

No shell, no standard input, files only (a playlist cannot reach the network), and a time limit.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.decoding import find_ffmpeg
from l3hpc.errors import L3hpcError
from l3hpc.installation import install_command

TIMEOUT_S = 120
LEAST_SHARE = 0.9  # of a second of sound that must come; the rest is silence
BACK_S = 1.0  # to look for the last picture of a stream that ends before the file does


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
