"""The tagged part of the synthetic city: clips, taxonomy and annotations as SONYC-UST has them.

Several volunteers tag each clip; they miss distant sounds, confuse fine tags, give up with "X",
raise false alarms, and some tag categories only (-1: not annotated). ``validate`` and ``test`` have
the agreed annotator 0 as well. The splits share no sensor.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.datasets.render import Event, mix, render_all, write_csv, write_wav
from l3hpc.datasets.taxonomy import Taxonomy, sonyc_ust

SENSORS = {"train": range(6), "validate": range(6, 8), "test": range(8, 10)}
SHARES = {"train": 0.6, "validate": 0.2, "test": 0.2}
VOLUNTEERS_PER_CLIP = 3
VOLUNTEERS = 40
FIRST_HOUR = datetime(2017, 11, 20)
METADATA = ["split", "sensor_id", "audio_filename", "annotator_id", "year", "week", "day", "hour",
            "borough", "block", "latitude", "longitude"]

Said = dict[tuple[int, str], str]
"""What one annotator says of a clip: (coarse, fine or X) → near, far or notsure."""


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
            for annotator, said, coarse_only in _opinions(rng, events, split):
                about[3] = annotator
                rows.append(about + tag_cells(taxonomy, said, coarse_only))
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


def agreed(events: list[Event]) -> Said:
    """What everybody agrees on after listening together."""
    return {(event.coarse, "X" if event.uncertain else str(event.fine)):
            "far" if event.far else "near" for event in events}


def volunteer(rng: np.random.Generator, events: list[Event]) -> Said:
    """One volunteer's opinion, with misses, confusions, uncertainty and false alarms."""
    said: Said = {}
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
            said[event.coarse, fine] = place
    if rng.random() < 0.15:
        keys = list(sounds.MAKERS)
        coarse, alarm = keys[rng.integers(len(keys))]
        said.setdefault((coarse, str(alarm)), "far")
    return said


def tag_columns(taxonomy: Taxonomy) -> list[str]:
    """The tag columns of annotations.csv: fine presence, fine proximity, coarse presence."""
    return ([f"{column}_presence" for column in taxonomy.fine_columns]
            + [f"{column}_proximity" for column in taxonomy.fine_columns]
            + [f"{column}_presence" for column in taxonomy.coarse_columns])


def tag_cells(taxonomy: Taxonomy, said: Said, coarse_only: bool = False) -> list[Any]:
    """One row's cells under ``tag_columns``; -1 where the annotator was not asked."""
    keys = [(tag.coarse, tag.fine) for tag in taxonomy.fine]
    if coarse_only:
        presence, proximity = [-1] * len(keys), ["-1"] * len(keys)
    else:
        presence = [int(key in said) for key in keys]
        proximity = [said.get(key, "-1") for key in keys]
    heard = {coarse for coarse, _ in said}
    return [*presence, *proximity, *(int(tag.id in heard) for tag in taxonomy.coarse)]


def _opinions(rng: np.random.Generator, events: list[Event],
              split: str) -> list[tuple[int, Said, bool]]:
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
