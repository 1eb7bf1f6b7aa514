"""Write synthetic tagged clips, with taxonomy and annotations as SONYC-UST has them.

Several volunteers tag each clip; they miss distant sounds, confuse fine tags, use "X" where they
are uncertain, raise false alarms, and some tag categories only (-1: not annotated). ``validate``
and ``test`` have the agreed annotator 0 as well, and the splits share no sensor.

The last part, which recordings of the synthetic city use too, mixes sounds and writes files.
"""

from __future__ import annotations

import csv
import io
import wave
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.console.progress import Progress
from l3hpc.datasets import sounds
from l3hpc.datasets.taxonomy import Taxonomy, sonyc_ust_taxonomy
from l3hpc.io.files import write_text

SENSORS = {"train": range(6), "validate": range(6, 8), "test": range(8, 10)}
SHARES = {"train": 0.6, "validate": 0.2, "test": 0.2}
VOLUNTEERS_PER_CLIP = 3
VOLUNTEERS = 40
FIRST_HOUR = datetime(2017, 11, 20)
METADATA = ["split", "sensor_id", "audio_filename", "annotator_id", "year", "week", "day", "hour",
            "borough", "block", "latitude", "longitude"]
# What one annotator heard in a clip: (coarse, fine or X) → near, far or notsure.
Tags = dict[tuple[int, str], str]


def write_ust(folder: Path, clips: int, *, seconds: float, rate: int, seed: int,
              progress: Progress) -> dict[str, int]:
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

    Returns
    -------
    dict
        Clips per split.
    """
    taxonomy = sonyc_ust_taxonomy()
    rows: list[list[Any]] = []
    jobs = []
    counts = split_sizes(clips)
    number = 0
    for split, count in counts.items():
        for index in range(count):
            rng = np.random.default_rng([seed, 3, number])
            sensor = SENSORS[split][index % len(SENSORS[split])]
            name = f"{sensor:02d}_{number:06d}.wav"
            events = clip_events(rng, index)
            jobs.append(_clip_job(folder / "audio" / name, events, seconds, rate,
                                  [seed, 4, number]))
            metadata = _clip_metadata(rng, split, sensor, name)
            for annotator, tags, coarse_only in _annotations(rng, events, split):
                metadata[3] = annotator
                rows.append(metadata + tag_cells(taxonomy, tags, coarse_only))
            number += 1
    render_all(jobs, progress, "synthesising tagged clips")
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


def clip_events(rng: np.random.Generator, number: int) -> list[SoundEvent]:
    """Draw one to three sounds of different categories for a clip.

    Parameters
    ----------
    rng
        The generator.
    number
        Number of the clip, with which the first category rotates.

    Returns
    -------
    list of SoundEvent
        The sounds.
    """
    # In turn, so that every category occurs however few clips there are.
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


def volunteer_tags(rng: np.random.Generator, events: list[SoundEvent]) -> Tags:
    """One volunteer's tags, with misses, confusions, uncertainty and false alarms.

    Parameters
    ----------
    rng
        The generator.
    events
        The sounds of a clip.

    Returns
    -------
    dict
        (coarse, fine or X) → proximity.
    """
    tags: Tags = {}
    for event in events:
        fines = [f for c, f in sounds.MAKERS if c == event.coarse]
        heard = rng.random() < (0.75 if event.far else 0.95)
        draw = rng.random()
        fine = str(event.fine)
        if len(fines) > 1 and draw < (0.5 if event.uncertain else 0.12):
            fine = "X"
        elif len(fines) > 1 and draw > 0.92:
            fine = str(rng.choice([f for f in fines if f != event.fine]))
        proximity = str(rng.choice(["far" if event.far else "near", "near", "far", "notsure"],
                                   p=[0.8, 0.05, 0.05, 0.1]))
        if heard:
            tags[event.coarse, fine] = proximity
    if rng.random() < 0.15:
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


def _annotations(rng: np.random.Generator, events: list[SoundEvent],
                 split: str) -> list[tuple[int, Tags, bool]]:
    """(annotator_id, tags, whether only categories) of every annotator of a clip."""
    annotations = []
    if split != "train":
        # As in SONYC-UST: a negative id is a member of the team, 0 the agreed ground truth.
        annotations += [(-1 - int(rng.integers(5)), volunteer_tags(rng, events), False),
                        (0, agreed_tags(events), False)]
    for annotator in rng.choice(VOLUNTEERS, VOLUNTEERS_PER_CLIP, replace=False):
        tags = volunteer_tags(rng, events)
        annotations.append((int(annotator) + 1, tags, bool(rng.random() < 0.05)))
    return annotations


def _clip_metadata(rng: np.random.Generator, split: str, sensor: int, name: str) -> list[Any]:
    moment = FIRST_HOUR + timedelta(hours=int(rng.integers(24 * 7 * 8)))
    iso = moment.isocalendar()
    return [split, sensor, name, 0, iso.year, iso.week, moment.weekday(), moment.hour,
            (1, 3, 4)[sensor % 3], 500 + sensor, f"{40.65 + 0.01 * sensor:.5f}",
            f"{-74.00 + 0.01 * sensor:.5f}"]


def _clip_job(path: Path, events: list[SoundEvent], seconds: float, rate: int,
          key: list[int]) -> Callable[[], None]:
    def write() -> None:
        rng = np.random.default_rng(key)
        write_wav(path, mix_clip(rng, events, rng.uniform(-58, -48), seconds, rate), rate)

    return write


# mixing and writing -------------------------------------------------------------------------------

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


def mix_clip(rng: np.random.Generator, events: Iterable[SoundEvent], floor: float, seconds: float,
             rate: int) -> np.ndarray:
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


def render_all(jobs: list[Callable[[], None]], progress: Progress, phase: str) -> None:
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
    """
    progress.start(phase, total=len(jobs), unit="clips")
    with ThreadPoolExecutor(min(4, allocated_cores())) as pool:
        for _ in pool.map(lambda job: job(), jobs):
            progress.advance()
    progress.finish()
