"""A small synthetic city on disk, in the layout of the real data sets.

``audio/<sensor>/*.wav`` with ``audio/recordings.csv``: recordings whose loudness and content follow
the time of day, the weekday and the kind of place. ``sonyc_ust/``: clips, taxonomy and annotations
as SONYC-UST has them: several volunteers tag each clip; they miss distant sounds, confuse fine
tags, give up with "X", raise false alarms, and some tag categories only (-1: not annotated).
``validate`` and ``test`` have the agreed annotator 0 as well, and the splits share no sensor.
Everything follows from one seed.
"""

from __future__ import annotations

import csv
import io
import math
import wave
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.datasets.sonyc_ust import Taxonomy, sonyc_ust
from l3hpc.errors import InputError
from l3hpc.io.files import atomic_folder, read_json, write_json, write_text

SENSORS = {"train": range(6), "validate": range(6, 8), "test": range(8, 10)}
SHARES = {"train": 0.6, "validate": 0.2, "test": 0.2}
VOLUNTEERS_PER_CLIP = 3
VOLUNTEERS = 40
FIRST_HOUR = datetime(2017, 11, 20)
METADATA = ["split", "sensor_id", "audio_filename", "annotator_id", "year", "week", "day", "hour",
            "borough", "block", "latitude", "longitude"]

Tags = dict[tuple[int, str], str]
"""What one annotator heard in a clip: (coarse, fine or X) → near, far or notsure."""
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
    """Write a synthetic city into a folder.
     The folder appears whole or not at all. If it holds the same city already, nothing is written.
    The same settings give the same bytes.

    Parameters
    ----------
    folder
        Where to write: a new or empty folder.
    city
        Its sensors, recordings and clips; None: the demo's.
    progress
        Shows what is being written.

    Returns
    -------
    dict
        The summary that is also in ``city.json``; ``reused`` is true where the city was there
        already.

    Raises
    ------
    InputError
        The folder holds anything else.
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
    with atomic_folder(folder) as target:
        recordings = _write_recordings(target / "audio", city, progress)
        clips = {}
        if city.ust_clips:
            clips = write_ust(
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


def write_ust(folder: Path, clips: int, *, seconds: float, rate: int, seed: int,
              progress: Progress) -> dict[str, int]:
    """Write ``annotations.csv`` (v2 columns), the taxonomy and ``audio/``; clips per split."""
    taxonomy = sonyc_ust()
    rows: list[list[Any]] = []
    jobs = []
    counts = split_sizes(clips)
    number = 0
    for split, count in counts.items():
        for place in range(count):
            rng = np.random.default_rng([seed, 3, number])
            sensor = SENSORS[split][place % len(SENSORS[split])]
            name = f"{sensor:02d}_{number:06d}.wav"
            events = clip_events(rng, place)
            jobs.append(_clip(folder / "audio" / name, events, seconds, rate, [seed, 4, number]))
            about = _metadata(rng, split, sensor, name)
            for annotator, tags, coarse_only in _opinions(rng, events, split):
                about[3] = annotator
                rows.append(about + tag_cells(taxonomy, tags, coarse_only))
            number += 1
    render_all(jobs, progress, "synthesising tagged clips")
    write_csv(folder / "annotations.csv", METADATA + tag_columns(taxonomy), rows)
    taxonomy.save(folder / "dcase-ust-taxonomy.yaml")
    return counts


def split_sizes(clips: int) -> dict[str, int]:
    """Clips per split: 60 % train, 20 % validate, the rest test."""
    train, validate = round(SHARES["train"] * clips), round(SHARES["validate"] * clips)
    return {"train": train, "validate": validate, "test": clips - train - validate}


def clip_events(rng: np.random.Generator, number: int) -> list[Event]:
    """One to three sounds of different categories; the first one goes round with ``number``."""
    categories = [number % 8 + 1]
    others = [c for c in range(1, 9) if c not in categories]
    extra = int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))
    categories += [int(c) for c in rng.choice(others, extra, replace=False)]
    events = []
    for coarse in categories:
        fine = int(rng.choice([f for c, f in sounds.MAKERS if c == coarse]))
        far = bool(rng.random() < 0.3)
        level = rng.uniform(-38, -32) if far else rng.uniform(-28, -20)
        uncertain = far and coarse not in (3, 8) and rng.random() < 0.4
        events.append(Event(coarse, fine, level, far, bool(uncertain)))
    return events


def agreed(events: list[Event]) -> Tags:
    """What everybody agrees on after listening together."""
    return {(event.coarse, "X" if event.uncertain else str(event.fine)):
            "far" if event.far else "near" for event in events}


def volunteer(rng: np.random.Generator, events: list[Event]) -> Tags:
    """One volunteer's opinion, with misses, confusions, uncertainty and false alarms."""
    tags: Tags = {}
    for event in events:
        fines = [f for c, f in sounds.MAKERS if c == event.coarse]
        heard = rng.random() < (0.75 if event.far else 0.95)
        chance = rng.random()
        fine = str(event.fine)
        if len(fines) > 1 and chance < (0.5 if event.uncertain else 0.12):
            fine = "X"
        elif len(fines) > 1 and chance > 0.92:
            fine = str(rng.choice([f for f in fines if f != event.fine]))
        place = str(rng.choice(["far" if event.far else "near", "near", "far", "notsure"],
                               p=[0.8, 0.05, 0.05, 0.1]))
        if heard:
            tags[event.coarse, fine] = place
    if rng.random() < 0.15:
        keys = list(sounds.MAKERS)
        coarse, alarm = keys[rng.integers(len(keys))]
        tags.setdefault((coarse, str(alarm)), "far")
    return tags


def tag_columns(taxonomy: Taxonomy) -> list[str]:
    """The tag columns of annotations.csv: fine presence, fine proximity, coarse presence."""
    return ([f"{column}_presence" for column in taxonomy.fine_columns]
            + [f"{column}_proximity" for column in taxonomy.fine_columns]
            + [f"{column}_presence" for column in taxonomy.coarse_columns])


def tag_cells(taxonomy: Taxonomy, tags: Tags, coarse_only: bool = False) -> list[Any]:
    """One row's cells under ``tag_columns``; -1 where the annotator was not asked."""
    keys = [(tag.coarse, tag.fine) for tag in taxonomy.fine]
    if coarse_only:
        presence, proximity = [-1] * len(keys), ["-1"] * len(keys)
    else:
        presence = [int(key in tags) for key in keys]
        proximity = [tags.get(key, "-1") for key in keys]
    heard = {coarse for coarse, _ in tags}
    return [*presence, *proximity, *(int(tag.id in heard) for tag in taxonomy.coarse)]


def _opinions(rng: np.random.Generator, events: list[Event],
              split: str) -> list[tuple[int, Tags, bool]]:
    opinions = []
    if split != "train":
        opinions += [(-1 - int(rng.integers(5)), volunteer(rng, events), False),
                     (0, agreed(events), False)]
    for annotator in rng.choice(VOLUNTEERS, VOLUNTEERS_PER_CLIP, replace=False):
        opinions.append((int(annotator) + 1, volunteer(rng, events), bool(rng.random() < 0.05)))
    return opinions


def _metadata(rng: np.random.Generator, split: str, sensor: int, name: str) -> list[Any]:
    moment = FIRST_HOUR + timedelta(hours=int(rng.integers(24 * 7 * 8)))
    iso = moment.isocalendar()
    return [split, sensor, name, 0, iso.year, iso.week, moment.weekday(), moment.hour,
            (1, 3, 4)[sensor % 3], 500 + sensor, f"{40.65 + 0.01 * sensor:.5f}",
            f"{-74.00 + 0.01 * sensor:.5f}"]


def _clip(path: Path, events: list[Event], seconds: float, rate: int,
          key: list[int]) -> Callable[[], None]:
    def write() -> None:
        rng = np.random.default_rng(key)
        write_wav(path, mix(rng, events, rng.uniform(-58, -48), seconds, rate), rate)

    return write


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
