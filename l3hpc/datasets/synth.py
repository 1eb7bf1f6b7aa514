"""A small synthetic city on disk, in the layout of the real data sets.

``audio/<sensor>/*.wav`` with ``audio/recordings.csv``: recordings whose loudness and content follow
the time of day, the weekday and the kind of place. ``sonyc_ust/``: tagged clips with annotations by
disagreeing annotators (see ``synth_ust``). Everything follows from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds, synth_ust
from l3hpc.datasets.render import Event, mix, render_all, write_csv, write_wav
from l3hpc.errors import InputError
from l3hpc.io.files import read_json, whole_folder, write_json

SUMMARY = "city.json"
VERSION = 1
TIMEZONE = "America/New_York"
FIRST_DAY = datetime(2017, 11, 20, tzinfo=ZoneInfo(TIMEZONE))

# Chance that a class is heard in a recording at its busiest hour, per kind of place.
PLACES: dict[str, dict[int, float]] = {
    "avenue": {1: 0.9, 3: 0.15, 5: 0.5, 6: 0.15, 7: 0.4},
    "building site": {1: 0.4, 2: 0.8, 3: 0.5, 4: 0.6, 5: 0.3, 7: 0.2},
    "park": {1: 0.2, 3: 0.1, 6: 0.4, 7: 0.7, 8: 0.5},
}


@dataclass(frozen=True)
class City:
    """What ``make_city`` makes; the defaults are the demo's city.

    sensors × recordings_per_sensor recordings of ``seconds`` s at ``rate`` Hz over ``days`` days
    from Monday 20 November 2017, and ``ust_clips`` tagged clips.
    """

    sensors: int = 3
    recordings_per_sensor: int = 20
    ust_clips: int = 60
    seconds: float = 10.0
    rate: int = 48000
    days: int = 10
    seed: int = 20180216

    def __post_init__(self) -> None:
        limits = {"sensors": (1, 1000), "recordings_per_sensor": (1, 100_000),
                  "ust_clips": (0, 99_999), "seconds": (1.0, 600.0), "rate": (8000, 192_000),
                  "days": (1, 366), "seed": (0, 2**63)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}", allowed=f"{low} to {high}")
        if self.recordings_per_sensor * self.seconds > self.days * 43200:
            raise InputError(
                f"{self.recordings_per_sensor} recordings of {self.seconds:g} s do not fit into "
                f"half of {self.days} days", hint="Ask for more days or fewer recordings.")
        if 0 < self.ust_clips < 10:
            raise InputError(f"ust_clips is {self.ust_clips}", allowed="0, or at least 10: "
                             "every split needs some")


def make_city(folder: Path | str, city: City | None = None, *,
              progress: Progress | None = None) -> dict[str, Any]:
    """Write the city into ``folder`` and return its summary (also in ``city.json``).

    The folder appears whole or not at all. If it holds the same city already, nothing is written
    (``reused`` is true in the summary). The same settings give the same bytes.

    Raises ``InputError`` if the folder holds anything else.
    """
    folder, city, progress = Path(folder), city or City(), progress or Progress()
    settings = {"version": VERSION, **asdict(city)}
    if (folder / SUMMARY).is_file():
        summary: dict[str, Any] = read_json(folder / SUMMARY)
        if summary.get("settings") == settings:
            return {**summary, "reused": True}
        raise InputError("holds a city with other settings", where=str(folder),
                         hint="Name another folder, or remove this one.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), hint="Name another folder.")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", where=str(folder), hint="Name another folder.")
    with whole_folder(folder) as target:
        recordings = _write_recordings(target / "audio", city, progress)
        clips = {}
        if city.ust_clips:
            clips = synth_ust.write_ust(
                target / "sonyc_ust", city.ust_clips, seconds=city.seconds, rate=city.rate,
                seed=city.seed, progress=progress)
        summary = {
            "settings": settings, "recordings": recordings, "clips": clips,
            "hours": round((recordings + sum(clips.values())) * city.seconds / 3600, 3),
            "bytes": sum(path.stat().st_size for path in target.rglob("*.wav")),
        }
        write_json(target / SUMMARY, summary)
    return {**summary, "reused": False}


def activity(coarse: int, moment: datetime) -> float:
    """How likely a class is at a local time, relative to its busiest hour, in [0, 1]."""
    hour, weekday = moment.hour + moment.minute / 60, moment.weekday() < 5

    def around(centre: float, width: float) -> float:
        distance = abs((hour - centre + 12) % 24 - 12)
        return math.exp(-(distance / width) ** 2)

    if coarse in (2, 4):  # building hours
        return (1.0 if weekday else 0.15) * (1.0 if 7 <= hour < 17 else 0.03)
    if coarse == 1:
        rush = max(around(8.5, 2.5), around(17.5, 3))
        return 0.15 + 0.85 * rush * (1.0 if weekday else 0.6)
    if coarse in (6, 7):
        return max(around(20, 3.5) * (0.7 if weekday else 1.0), 0.6 * around(13, 4))
    if coarse == 8:
        return max(around(7.5, 1.5), around(18.5, 2.5))
    return 0.15 + 0.85 * around(13.5, 5)


def loudness_floor(moment: datetime) -> float:
    """Level of the distant city at a local time: -62 dB at four at night, -44 dB at four by day."""
    hour = moment.hour + moment.minute / 60
    return -53 - 9 * math.cos(2 * math.pi * (hour - 4) / 24) - (moment.weekday() >= 5) * 3


def _write_recordings(folder: Path, city: City, progress: Progress) -> int:
    rows, jobs = [], []
    for sensor in range(city.sensors):
        rng = np.random.default_rng([city.seed, 1, sensor])
        name = f"sonycnode-b827eb{rng.integers(1 << 24):06x}"
        place = list(PLACES.values())[sensor % len(PLACES)]
        # one recording per equal slice of the days, somewhere inside it: all hours occur
        slices = (np.arange(city.recordings_per_sensor)
                  + rng.random(city.recordings_per_sensor)) / city.recordings_per_sensor
        last = 0
        for number, share in enumerate(slices):
            moment = FIRST_DAY + timedelta(seconds=int(share * city.days * 86400))
            stamp = max(int(moment.timestamp()), last + 1)
            last = stamp
            file = f"{name}/{name}_{stamp}.wav"
            rows.append([file, name, stamp])
            jobs.append(_recording(folder / file, place, moment, city, (sensor, number)))
    render_all(jobs, progress, "synthesising the city")
    write_csv(folder / "recordings.csv", ["file", "sensor", "timestamp"], rows)
    return len(rows)


def _recording(path: Path, place: dict[int, float], moment: datetime, city: City,
               key: tuple[int, int]) -> Callable[[], None]:
    def write() -> None:
        rng = np.random.default_rng([city.seed, 2, *key])
        local = moment.astimezone(ZoneInfo(TIMEZONE))
        events = []
        for coarse, chance in place.items():
            if rng.random() < chance * activity(coarse, local):
                fine = int(rng.choice([f for c, f in sounds.MAKERS if c == coarse]))
                events.append(Event(coarse, fine, rng.uniform(-42, -18), bool(rng.random() < 0.4)))
        samples = mix(rng, events, loudness_floor(local) + rng.normal(0, 1.5), city.seconds,
                      city.rate)
        write_wav(path, samples, city.rate)

    return write
