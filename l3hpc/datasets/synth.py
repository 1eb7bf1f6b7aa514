"""Write a small synthetic city to disk, in the layout of the real data sets.

``audio/<sensor>/*.wav`` with ``audio/recordings.csv``: recordings whose loudness and content follow
the time of day, the weekday and the kind of site. ``sonyc_ust/``: tagged clips (``synth_clips``).
Everything follows from one seed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.console.formatting import file_size
from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.datasets.mixing import SoundEvent, mix_clip, render_all, write_csv, write_wav
from l3hpc.datasets.synth_clips import Difficulty, activity, write_ust
from l3hpc.errors import InputError
from l3hpc.io.files import read_json, write_json
from l3hpc.io.folders import atomic_folder, real_folder

SUMMARY = "city.json"
SAMPLE_BYTES = 2
VERSION = 1  # of what is generated: a city of another version is not reused
TIMEZONE = "America/New_York"
FIRST_DAY = datetime(2017, 11, 20, tzinfo=ZoneInfo(TIMEZONE))
# Probability that a class is audible in a recording at its busiest hour, by kind of site.
SITES: dict[str, dict[int, float]] = {
    "avenue": {1: 0.9, 3: 0.15, 5: 0.5, 6: 0.15, 7: 0.4},
    "building site": {1: 0.4, 2: 0.8, 3: 0.5, 4: 0.6, 5: 0.3, 7: 0.2},
    "park": {1: 0.2, 3: 0.1, 6: 0.4, 7: 0.7, 8: 0.5},
}


# Fields of City whose option of ``data synth`` has another name.
OPTIONS = {"recordings_per_sensor": "--recordings", "ust_clips": "--clips"}


@dataclass(frozen=True)
class City:
    """What ``make_city`` generates; the defaults are the demonstration's city.

    Attributes
    ----------
    sensors
        Number of sensors.
    recordings_per_sensor
        Recordings of each.
    ust_clips
        Tagged clips; 0 or at least 10.
    seconds
        Length of a recording or clip.
    rate
        Hz.
    days
        Days that the recordings cover, from Monday 20 November 2017.
    seed
        Decides everything.
    difficulty
        How hard the tags are to learn (its noise is in the recordings, too).

    Raises
    ------
    InputError
        A value is out of range.
    """

    sensors: int = 3
    recordings_per_sensor: int = 20
    ust_clips: int = 60
    seconds: float = 10.0
    rate: int = 48000
    days: int = 10
    seed: int = 20180216
    difficulty: Difficulty = Difficulty()

    def __post_init__(self) -> None:
        limits = {"sensors": (1, 1000), "recordings_per_sensor": (1, 100_000),
                  "ust_clips": (0, 99_999), "seconds": (1.0, 600.0), "rate": (8000, 192_000),
                  "days": (1, 366), "seed": (0, 2**63)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}", allowed=f"{low} to {high}",
                                 hint=f"Option of data synth: {OPTIONS.get(name, f'--{name}')}")
        if self.recordings_per_sensor * self.seconds > self.days * 43200:
            raise InputError(
                f"{self.recordings_per_sensor} recordings of {self.seconds:g} s do not fit into "
                f"half of {self.days} days", hint="Request more days or fewer recordings.")
        if 0 < self.ust_clips < 10:
            raise InputError(f"ust_clips is {self.ust_clips}", allowed="0, or at least 10: "
                             "every split needs some",
                             hint=f"Option of data synth: {OPTIONS['ust_clips']}")


def make_city(folder: Path | str, city: City | None = None, *,
              progress: Progress | None = None) -> dict[str, Any]:
    """Write a synthetic city into a folder.

    The folder appears only once it is complete. If it holds the same city already, nothing is
    written. The same settings give the same bytes.

    Parameters
    ----------
    folder
        Where to write: a new or empty folder.
    city
        Its sensors, recordings and clips; None: the demonstration's.
    progress
        Shows what is being written.

    Returns
    -------
    dict
        The summary that is also in ``city.json``; ``reused`` is true where the city existed
        already.

    Raises
    ------
    InputError
        The folder holds anything else or cannot be made, or the disk is too full.
    """
    folder, city, progress = Path(folder), city or City(), progress or Progress()
    settings = {"version": VERSION, **asdict(city)}
    # Cities that were made before there was a choice have no such entry, and are reused.
    if city.difficulty == Difficulty():
        del settings["difficulty"]
    if (folder / SUMMARY).is_file():
        summary: dict[str, Any] = read_json(folder / SUMMARY)
        # The demonstration is often repeated: an equal city is reused.
        if summary.get("settings") == settings:
            return {**summary, "reused": True}
        raise InputError("holds a city with other settings", where=str(folder),
                         hint="Name another folder, or remove this one.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), hint="Name another folder.")
    _refuse_full_disk(folder, city)
    with atomic_folder(folder) as target:
        recordings = _write_recordings(target / "audio", city, progress)
        clips = {}
        if city.ust_clips:
            clips = write_ust(
                target / "sonyc_ust", city.ust_clips, seconds=city.seconds, rate=city.rate,
                seed=city.seed, difficulty=city.difficulty, progress=progress)
        summary = {
            "settings": settings, "recordings": recordings, "clips": clips,
            "hours": round((recordings + sum(clips.values())) * city.seconds / 3600, 3),
            "bytes": sum(path.stat().st_size for path in target.rglob("*.wav")),
        }
        write_json(target / SUMMARY, summary)
    return {**summary, "reused": False}


def _refuse_full_disk(folder: Path, city: City) -> None:
    """Refuse a disk that has less room than the sounds need, before they are computed."""
    count = city.sensors * city.recordings_per_sensor + city.ust_clips
    needed = int(count * city.seconds * city.rate) * SAMPLE_BYTES
    real = real_folder(folder)
    free = shutil.disk_usage(next(one for one in (real, *real.parents) if one.is_dir())).free
    if needed > free:
        raise InputError(f"the city needs {file_size(needed)}, {file_size(free)} are free",
                         where=str(folder), hint="Name a folder on another disk, or request less.")


def loudness_floor(moment: datetime) -> float:
    """Level of the distant city at a local time: -62 dB at 4 a.m., -44 dB at 4 p.m.

    3 dB less at weekends.

    Parameters
    ----------
    moment
        Local time.

    Returns
    -------
    float
        dB re full scale (rms).
    """
    hour = moment.hour + moment.minute / 60
    return -53 - 9 * math.cos(2 * math.pi * (hour - 4) / 24) - (moment.weekday() >= 5) * 3


def _write_recordings(folder: Path, city: City, progress: Progress) -> int:
    rows, jobs = [], []
    for sensor in range(city.sensors):
        rng = np.random.default_rng([city.seed, 1, sensor])
        name = f"sonycnode-b827eb{rng.integers(1 << 24):06x}"
        site = list(SITES.values())[sensor % len(SITES)]
        # One recording at a random time in each of as many equal slices: all hours occur.
        slices = (np.arange(city.recordings_per_sensor)
                  + rng.random(city.recordings_per_sensor)) / city.recordings_per_sensor
        last = 0
        for number, share in enumerate(slices):
            moment = FIRST_DAY + timedelta(seconds=int(share * city.days * 86400))
            # Names contain the second: two recordings of a sensor must not share one.
            stamp = max(int(moment.timestamp()), last + 1)
            last = stamp
            file = f"{name}/{name}_{stamp}.wav"
            rows.append([file, name, stamp])
            jobs.append(_recording_job(folder / file, site, moment, city, (sensor, number)))
    render_all(jobs, progress, "synthesising the city", "recordings")
    write_csv(folder / "recordings.csv", ["file", "sensor", "timestamp"], rows)
    return len(rows)


def _recording_job(path: Path, site: dict[int, float], moment: datetime, city: City,
                   key: tuple[int, int]) -> Callable[[], None]:
    def write() -> None:
        rng = np.random.default_rng([city.seed, 2, *key])
        local = moment.astimezone(ZoneInfo(TIMEZONE))
        events = []
        for coarse, probability in site.items():
            if rng.random() < probability * activity(coarse, local):
                fine = int(rng.choice([f for c, f in sounds.MAKERS if c == coarse]))
                level = rng.uniform(-42, -18)
                events.append(SoundEvent(coarse, fine, level, bool(rng.random() < 0.4)))
        samples = mix_clip(rng, events, loudness_floor(local) + city.difficulty.noise
                           + rng.normal(0, 1.5), city.seconds, city.rate)
        write_wav(path, samples, city.rate)

    return write
