"""Small videos made by ffmpeg; tests are skipped if it is not installed."""

import subprocess

import pytest

from l3hpc.avc import videos as program
from l3hpc.errors import L3hpcError


def has_ffmpeg():
    try:
        return bool(program.ffmpeg_program())
    except L3hpcError:
        return False


needs_ffmpeg = pytest.mark.skipif(not has_ffmpeg(), reason="no ffmpeg: pip install '.[video]'")


def encode(*arguments):
    """Run ffmpeg with these arguments (the last is the file to write)."""
    subprocess.run([program.ffmpeg_program(), "-v", "error", "-y", *map(str, arguments)],
                   check=True,
                   stdin=subprocess.DEVNULL, timeout=240)


def make_video(path, colour="red", pitch=440, seconds=3, size="96x64", sound=True):
    """A still colour with a sine of ``pitch`` Hz on both channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = ["-f", "lavfi", "-i", f"color={colour}:s={size}:r=10:d={seconds}"]
    if sound:
        source += ["-f", "lavfi", "-i", f"sine=f={pitch}:r=22050:d={seconds}", "-ac", "2"]
    encode(*source, path)
    return path
