"""Mix synthetic sounds to recordings and clips of a city, and write its files."""

from __future__ import annotations

import csv
import io
import wave
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.io.files import write_text

MICROPHONE_HZ = (62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0)


@dataclass(frozen=True)
class SoundEvent:
    """One sound in a clip.

    Attributes
    ----------
    coarse
        Number of its category.
    fine
        Number of its fine tag.
    level
        dB re full scale (rms).
    far
        Whether it is far away.
    uncertain
        Whether its fine tag cannot be recognised.
    """

    coarse: int
    fine: int
    level: float
    far: bool = False
    uncertain: bool = field(default=False, compare=False)


def microphone(rng: np.random.Generator, colour: float) -> np.ndarray | None:
    """The gain of one sensor's microphone.

    Parameters
    ----------
    rng
        The sensor's generator.
    colour
        Standard deviation in dB.

    Returns
    -------
    ndarray of float64, shape (nodes,), or None
        dB at the frequencies ``MICROPHONE_HZ``; None where all sensors are alike.
    """
    return rng.normal(0, colour, len(MICROPHONE_HZ)) if colour else None


def mix_clip(rng: np.random.Generator, events: Iterable[SoundEvent], floor: float, seconds: float,
             rate: int, gain: np.ndarray | None = None) -> np.ndarray:
    """Mix a clip; loud mixes are limited softly.

    Parameters
    ----------
    rng
        The generator.
    events
        Its sounds.
    floor
        Level of the distant city in dB re full scale (rms).
    seconds
        Its length.
    rate
        Hz.
    gain
        Of the microphone, dB at ``MICROPHONE_HZ``; None: flat.

    Returns
    -------
    numpy.ndarray
        (round(seconds * rate),) int16.
    """
    n = round(seconds * rate)
    clip = 10 ** (floor / 20) * sounds.background(rng, n, rate)
    for event in events:
        sound = sounds.MAKERS[event.coarse, event.fine](rng, n, rate)
        if event.far:
            sound = sounds.far(sound, rate)
        clip += np.float32(10 ** (event.level / 20)) * sound
    if gain is not None:
        # Octaves are equally wide to the ear: the gain is interpolated over log frequency.
        octave = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / rate), MICROPHONE_HZ[0]))
        decibel = np.interp(octave, np.log2(MICROPHONE_HZ), gain)
        clip = np.fft.irfft(np.fft.rfft(clip) * 10 ** (decibel / 20), n).astype(np.float32)
    return np.round(32767 * np.tanh(clip)).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write mono samples as WAV; the folder is made if it does not exist.

    Parameters
    ----------
    path
        The file.
    samples
        (n,) int16.
    rate
        Hz.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table at once, with ``\\n`` as line end.

    Parameters
    ----------
    path
        The file.
    header
        Names of the columns.
    rows
        Cells.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def render_all(jobs: list[Callable[[], None]], progress: Progress, phase: str, unit: str) -> None:
    """Run independent rendering jobs on the available cores.

    Threads are enough: FFTs and table look-ups release the GIL.

    Parameters
    ----------
    jobs
        Functions that write one file each.
    progress
        Shows how many are done.
    phase
        What the progress is called.
    unit
        What the files are, in the plural.
    """
    progress.start(phase, total=len(jobs), unit=unit)
    with ThreadPoolExecutor(min(4, allocated_cores())) as pool:
        for _ in pool.map(lambda job: job(), jobs):
            progress.advance()
    progress.finish()
