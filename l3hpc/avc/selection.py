"""Which videos are used, and for what: train, validate or test. Whole videos, never single pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from l3hpc.avc.audioset import Ontology, read_segments, subset, video_id
from l3hpc.avc.videos import VideoFile, scan
from l3hpc.errors import InputError

Item = TypeVar("Item")
LEAST = 2  # videos of a split: one alone makes no non-matching pairs


def chosen(folder: Path, metadata: Sequence[Path] = (), ontology: Path | None = None,
           include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[VideoFile]:
    """The videos of a folder that AudioSet's lists put into a subset; all, without lists.

    Raises ``InputError`` where no video belongs to it, and what ``subset`` raises.
    """
    videos = scan(folder)
    if not metadata:
        return videos
    segments = [segment for path in metadata for segment in read_segments(path)]
    if ontology is not None:
        segments = subset(segments, Ontology.read(ontology), include, exclude)
    known = {segment.video for segment in segments}
    found = [video for video in videos if video_id(video.file, known)]
    if not found:
        raise InputError(
            f"none of {len(videos)} videos is among the {len(known)} of this subset",
            where=str(folder), allowed="files named by their YouTube id: <id>.mp4, <id>_30.mp4")
    return found


def split(items: Sequence[Item], validation_share: float, test_share: float, seed: int
          ) -> dict[str, list[Item]]:
    """``items`` in a random order, parted into train, validate and test.

    Every part gets at least two. Raises ``InputError`` for fewer than six.
    """
    if len(items) < 3 * LEAST:
        raise InputError(f"{len(items)} videos are too few", allowed=f"at least {3 * LEAST}: two "
                         "to train, two to validate, two to test")
    validate = max(LEAST, round(validation_share * len(items)))
    test = max(LEAST, round(test_share * len(items)))
    if validate + test > len(items) - LEAST:
        raise InputError(f"of {len(items)} videos, {validate} to validate and {test} to test leave "
                         "less than two to train", allowed="smaller validation_share, test_share")
    order = [items[number] for number in np.random.default_rng([seed, 0]).permutation(len(items))]
    return {"train": order[validate + test:], "validate": order[:validate],
            "test": order[validate:validate + test]}


def groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Runs of about ``size`` items, none of a single one (unless there is but one)."""
    count = max(1, min(-(-len(items) // size), len(items) // LEAST))
    edges = np.linspace(0, len(items), count + 1).round().astype(int)
    return [list(items[low:high]) for low, high in zip(edges[:-1], edges[1:], strict=True)]
