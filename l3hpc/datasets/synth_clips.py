"""Write synthetic tagged clips, with taxonomy and annotations as SONYC-UST has them.

Several volunteers tag each clip; they miss distant sounds, confuse fine tags, use "X" where they
are uncertain, raise false alarms, and some tag categories only (-1: not annotated). ``validate``
and ``test`` have the agreed annotator 0 as well, and the splits share no sensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.datasets.mixing import (
    SoundEvent,
    microphone,
    mix_clip,
    render_all,
    write_csv,
    write_wav,
)
from l3hpc.datasets.taxonomy import Taxonomy, sonyc_ust_taxonomy
from l3hpc.errors import InputError

SENSORS = {"train": range(6), "validate": range(6, 8), "test": range(8, 10)}
SHARES = {"train": 0.6, "validate": 0.2, "test": 0.2}
VOLUNTEERS_PER_CLIP = 3
VOLUNTEERS = 40
FIRST_HOUR = datetime(2017, 11, 20)
MIXED_PLACES = (3, 7, 1, 9, 5, 0, 4, 8, 6, 2)  # by sensor: those of validate and test in between
HOURS = 24 * 7 * 8  # that the clips cover
# Categories that occur together where tags are correlated, in both directions.
PARTNERS = {1: 5, 5: 1, 2: 4, 4: 2, 3: 8, 8: 3, 6: 7, 7: 6}
LEVEL_LIMITS = {"imbalance": (0.0, 3.0), "correlation": (0.0, 1.0), "noise": (-20.0, 30.0),
                "disagreement": (0.0, 3.0), "hours": (0.0, 1.0), "colour": (0.0, 20.0)}
METADATA = ["split", "sensor_id", "audio_filename", "annotator_id", "year", "week", "day", "hour",
            "borough", "block", "latitude", "longitude"]
# What one annotator heard in a clip: (coarse, fine or X) → near, far or notsure.
Tags = dict[tuple[int, str], str]


@dataclass(frozen=True)
class Difficulty:
    """What makes the tags of a synthetic city hard, or easy, to learn.

    Attributes
    ----------
    imbalance
        Exponent z ≥ 0 of Zipf's law: category c is chosen with a weight of c to the power of −z.
        0: all are equally frequent.
    correlation
        Probability, 0 to 1, that a category occurs with its partner (engine and alert signal,
        machinery and saw, other impact and dog, music and voice).
    noise
        Gain of the background noise in dB.
    disagreement
        Factor on the probabilities of the volunteers' mistakes; 0: they hear what is there.
    hours
        Fraction of the clips, 0 to 1, recorded at an hour when their first category is usual; the
        others at any hour. Above 0, the sensors of validate and test are placed among the others.
    colour
        dB by which sensors differ: standard deviation of the gain of each sensor's microphone, over
        frequency.

    Raises
    ------
    InputError
        A value is out of range.
    """

    imbalance: float = 0.0
    correlation: float = 0.0
    noise: float = 0.0
    disagreement: float = 1.0
    hours: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in LEVEL_LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}", allowed=f"a number from {low:g} to {high:g}")


DIFFICULTIES = {
    "easy": Difficulty(noise=-6.0, disagreement=0.3),
    "usual": Difficulty(),
    "hard": Difficulty(imbalance=1.0, correlation=0.5, noise=12.0, disagreement=1.5, hours=0.5,
                       colour=4.0),
}


def write_ust(folder: Path, clips: int, *, seconds: float, rate: int, seed: int,
              progress: Progress, difficulty: Difficulty | None = None) -> dict[str, int]:
    """Write ``annotations.csv`` (columns of version 2), the taxonomy and ``audio/``.

    Parameters
    ----------
    folder
        Where to write.
    clips
        Number of clips.
    seconds
        Length of a clip.
    rate
        Hz.
    seed
        Decides everything.
    progress
        Shows how many clips are done.
    difficulty
        How hard the tags are to learn; None: as usual.

    Returns
    -------
    dict
        Clips per split.
    """
    taxonomy, difficulty = sonyc_ust_taxonomy(), difficulty or Difficulty()
    rows: list[list[Any]] = []
    jobs = []
    counts = split_sizes(clips)
    number = 0
    for split, count in counts.items():
        for index in range(count):
            rng = np.random.default_rng([seed, 3, number])
            sensor = SENSORS[split][index % len(SENSORS[split])]
            name = f"{sensor:02d}_{number:06d}.wav"
            events = clip_events(rng, index, difficulty)
            jobs.append(_clip_job(folder / "audio" / name, events, seconds, rate,
                                  [seed, 4, number], difficulty, [seed, 5, sensor]))
            metadata = _clip_metadata(rng, split, sensor, name, events, difficulty.hours)
            for annotator, tags, coarse_only in _annotations(rng, events, split,
                                                             difficulty.disagreement):
                metadata[3] = annotator
                rows.append(metadata + tag_cells(taxonomy, tags, coarse_only))
            number += 1
    render_all(jobs, progress, "synthesising tagged clips", "clips")
    write_csv(folder / "annotations.csv", METADATA + tag_columns(taxonomy), rows)
    taxonomy.save(folder / "dcase-ust-taxonomy.yaml")
    return counts


def split_sizes(clips: int) -> dict[str, int]:
    """Clips per split: 60% train, 20% validate, the rest test.

    Parameters
    ----------
    clips
        Number of clips.

    Returns
    -------
    dict
        Split → clips.
    """
    train, validate = round(SHARES["train"] * clips), round(SHARES["validate"] * clips)
    return {"train": train, "validate": validate, "test": clips - train - validate}


def clip_events(rng: np.random.Generator, number: int,
                difficulty: Difficulty | None = None) -> list[SoundEvent]:
    """Draw the sounds of a clip: one to three of different categories, and their partners.

    Parameters
    ----------
    rng
        The generator.
    number
        Number of the clip, with which the first category rotates (the first eight where tags are
        imbalanced).
    difficulty
        How frequent the categories are, and how often they occur together; None: as usual.

    Returns
    -------
    list of SoundEvent
        The sounds.
    """
    difficulty = difficulty or Difficulty()
    weight = np.arange(1, 9) ** -difficulty.imbalance
    # In turn, so that every category occurs however few clips there are.
    categories = [number % 8 + 1]
    if difficulty.imbalance and number >= 8:
        categories = [int(rng.choice(8, p=weight / weight.sum())) + 1]
    others = [c for c in range(1, 9) if c not in categories]
    extra = int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))
    share = weight[np.array(others) - 1]
    # Without weights where they are equal: the generator then draws as it always has.
    categories += [int(c) for c in rng.choice(
        others, extra, replace=False, p=share / share.sum() if difficulty.imbalance else None)]
    if difficulty.correlation:
        partners = [PARTNERS[c] for c in categories if rng.random() < difficulty.correlation]
        categories += [c for c in dict.fromkeys(partners) if c not in categories]
    events = []
    for coarse in categories:
        fine = int(rng.choice([f for c, f in sounds.MAKERS if c == coarse]))
        far = bool(rng.random() < 0.3)
        level = rng.uniform(-38, -32) if far else rng.uniform(-28, -20)
        uncertain = far and coarse not in (3, 8) and rng.random() < 0.4
        events.append(SoundEvent(coarse, fine, level, far, bool(uncertain)))
    return events


def agreed_tags(events: list[SoundEvent]) -> Tags:
    """The tags that all annotators agree on after listening together.

    Parameters
    ----------
    events
        The sounds of a clip.

    Returns
    -------
    dict
        (coarse, fine or X) → proximity.
    """
    return {(event.coarse, "X" if event.uncertain else str(event.fine)):
            "far" if event.far else "near" for event in events}


def volunteer_tags(rng: np.random.Generator, events: list[SoundEvent],
                   disagreement: float = 1.0) -> Tags:
    """One volunteer's tags, with misses, confusions, uncertainty and false alarms.

    Parameters
    ----------
    rng
        The generator.
    events
        The sounds of a clip.
    disagreement
        Factor on the probabilities of all these mistakes, 0 to 3.

    Returns
    -------
    dict
        (coarse, fine or X) → proximity.
    """
    tags: Tags = {}
    for event in events:
        fines = [f for c, f in sounds.MAKERS if c == event.coarse]
        heard = rng.random() < 1 - disagreement * (0.25 if event.far else 0.05)
        draw = rng.random()
        fine = str(event.fine)
        if len(fines) > 1 and draw < disagreement * (0.5 if event.uncertain else 0.12):
            # as in SONYC-UST: of this category, but uncertain which
            fine = "X"
        elif len(fines) > 1 and draw > 1 - 0.08 * disagreement:
            fine = str(rng.choice([f for f in fines if f != event.fine]))
        proximity = str(rng.choice(["far" if event.far else "near", "near", "far", "notsure"],
                                   p=[1 - 0.2 * disagreement, 0.05 * disagreement,
                                      0.05 * disagreement, 0.1 * disagreement]))
        if heard:
            tags[event.coarse, fine] = proximity
    if rng.random() < 0.15 * disagreement:
        keys = list(sounds.MAKERS)
        coarse, alarm = keys[rng.integers(len(keys))]
        tags.setdefault((coarse, str(alarm)), "far")
    return tags


def tag_columns(taxonomy: Taxonomy) -> list[str]:
    """The tag columns of annotations.csv: fine presence, fine proximity, coarse presence.

    Parameters
    ----------
    taxonomy
        The tags.

    Returns
    -------
    list of str
        Names of columns.
    """
    return ([f"{column}_presence" for column in taxonomy.fine_columns]
            + [f"{column}_proximity" for column in taxonomy.fine_columns]
            + [f"{column}_presence" for column in taxonomy.coarse_columns])


def tag_cells(taxonomy: Taxonomy, tags: Tags, coarse_only: bool = False) -> list[Any]:
    """One row's cells under ``tag_columns``.

    Parameters
    ----------
    taxonomy
        The tags.
    tags
        What the annotator heard.
    coarse_only
        Whether only categories were annotated; fine cells are then -1.

    Returns
    -------
    list
        Numbers and texts.
    """
    keys = [(tag.coarse, tag.fine) for tag in taxonomy.fine]
    if coarse_only:
        presence, proximity = [-1] * len(keys), ["-1"] * len(keys)
    else:
        presence = [int(key in tags) for key in keys]
        proximity = [tags.get(key, "-1") for key in keys]
    heard = {coarse for coarse, _ in tags}
    return [*presence, *proximity, *(int(tag.id in heard) for tag in taxonomy.coarse)]


def _annotations(rng: np.random.Generator, events: list[SoundEvent], split: str,
                 disagreement: float) -> list[tuple[int, Tags, bool]]:
    """(annotator_id, tags, whether only categories) of every annotator of a clip."""
    annotations = []
    if split != "train":
        # As in SONYC-UST: a negative id is a member of the team, 0 the agreed ground truth.
        team = -1 - int(rng.integers(5))
        annotations += [(team, volunteer_tags(rng, events, disagreement), False),
                        (0, agreed_tags(events), False)]
    for annotator in rng.choice(VOLUNTEERS, VOLUNTEERS_PER_CLIP, replace=False):
        tags = volunteer_tags(rng, events, disagreement)
        annotations.append((int(annotator) + 1, tags, bool(rng.random() < 0.05)))
    return annotations


def _clip_metadata(rng: np.random.Generator, split: str, sensor: int, name: str,
                   events: list[SoundEvent], hours: float) -> list[Any]:
    moment = FIRST_HOUR + timedelta(hours=int(rng.integers(HOURS)))
    if hours and rng.random() < hours:
        # Rejection: hours are accepted as often as the first category is heard in them.
        while rng.random() >= activity(events[0].coarse, moment):
            moment = FIRST_HOUR + timedelta(hours=int(rng.integers(HOURS)))
    iso = moment.isocalendar()
    # In the usual city the sensors of test stand beyond all others, where a classifier that is
    # given places would extrapolate.
    place = MIXED_PLACES[sensor] if hours else sensor
    return [split, sensor, name, 0, iso.year, iso.week, moment.weekday(), moment.hour,
            (1, 3, 4)[sensor % 3], 500 + sensor, f"{40.65 + 0.01 * place:.5f}",
            f"{-74.00 + 0.01 * place:.5f}"]


def _clip_job(path: Path, events: list[SoundEvent], seconds: float, rate: int, key: list[int],
              difficulty: Difficulty, sensor_key: list[int]) -> Callable[[], None]:
    def write() -> None:
        rng = np.random.default_rng(key)
        floor = rng.uniform(-58, -48) + difficulty.noise
        gain = microphone(np.random.default_rng(sensor_key), difficulty.colour)
        write_wav(path, mix_clip(rng, events, floor, seconds, rate, gain), rate)

    return write


def activity(coarse: int, moment: datetime) -> float:
    """How likely a class is at a local time, relative to its busiest hour.

    Parameters
    ----------
    coarse
        Number of the class, 1 to 8.
    moment
        Local time.

    Returns
    -------
    float
        In [0, 1].
    """
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
