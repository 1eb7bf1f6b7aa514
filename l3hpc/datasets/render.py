"""Turns lists of sound events into WAV files and tables: the hands of the synthetic city."""

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

from l3hpc.arrays.cores import allocated_cores
from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.io.files import write_text


@dataclass(frozen=True)
class Event:
    """One sound in a clip: its class, level (dB re full scale, rms) and whether it is far away."""

    coarse: int
    fine: int
    level: float
    far: bool = False
    uncertain: bool = field(default=False, compare=False)


def mix(rng: np.random.Generator, events: Iterable[Event], floor: float, seconds: float,
        rate: int) -> np.ndarray:
    """A clip as int16, shape (round(seconds * rate),).

    floor: level of the distant city in dB re full scale (rms). Loud mixes are limited softly.
    """
    n = round(seconds * rate)
    clip = 10 ** (floor / 20) * sounds.background(rng, n, rate)
    for event in events:
        sound = sounds.MAKERS[event.coarse, event.fine](rng, n, rate)
        if event.far:
            sound = sounds.far(sound, rate)
        clip += np.float32(10 ** (event.level / 20)) * sound
    return np.round(32767 * np.tanh(clip)).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write mono int16 samples as WAV (the folder is made if need be)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table in one go, with plain line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def render_all(jobs: list[Callable[[], None]], progress: Progress, phase: str) -> None:
    """Run independent rendering jobs on the cores at hand (FFTs and table reads free the GIL)."""
    progress.start(phase, total=len(jobs), unit="clips")
    with ThreadPoolExecutor(min(4, allocated_cores())) as pool:
        for _ in pool.map(lambda job: job(), jobs):
            progress.advance()
    progress.finish()
