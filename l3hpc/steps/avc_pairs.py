"""avc_pairs: videos (or generated scenes) → matching and non-matching pairs of picture and sound.

One task cuts the pairs of ``videos_per_task`` videos of one split; a killed task goes on with the
next file of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "avc_pairs"
VERSION = 1
TITLE = "pairs of a picture and a second of sound that match or do not"
INPUTS: dict[str, str] = {}
PLACES = frozenset({"videos", "metadata", "ontology", "max_failed"})


class Params(BaseParams):
    """What decides the pairs."""

    videos: str = Field("generated", description=(
        "Folder of videos, searched with its subfolders; or 'generated' / 'generated:SEED' for "
        "scenes of moving shapes with their sounds."))
    scenes: int = Field(240, ge=6, le=1_000_000, description="Generated scenes of ten seconds.")
    metadata: tuple[Path, ...] = Field((), description=(
        "Segment lists of AudioSet (CSV); only their videos are used."))
    ontology: Path | None = Field(None, description=(
        "AudioSet's ontology.json, for include and exclude."))
    include: tuple[str, ...] = Field((), description=(
        "Classes of AudioSet, by name, with all below them; none: all."))
    exclude: tuple[str, ...] = Field((), description=(
        "Classes whose videos are left out, with all below them."))
    rate: int = Field(48000, ge=1000, le=192000, description="Sample rate of the sound in Hz.")
    size: int = Field(224, ge=8, le=1024, description=(
        "Side of the pictures in pixels; 224 is the published one."))
    pairs_per_video: int = Field(16, ge=1, description=(
        "Pairs for each video, half of them matching."))
    augment: bool = Field(True, description=(
        "Training pairs: mirrored, other saturation, brightness and gain, at random, as "
        "published."))
    validation_share: float = Field(0.1, ge=0, lt=1, description="Share of videos to validate.")
    test_share: float = Field(0.1, ge=0, lt=1, description="Share of videos to test.")
    videos_per_task: int = Field(64, ge=2, description="Videos per array task.")
    pairs_per_file: int = Field(1024, ge=1, description="Most pairs of one HDF5 file.")
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "The largest share of a task's videos that may be unusable before the task fails."))
    seed: int = Field(20180216, ge=0, description="Seed of split, times, places and changes.")

    @field_validator("videos", mode="before")
    @classmethod
    def _absolute(cls, value: Any) -> str:
        name = str(value)
        return name if name.startswith("generated") else str(Path(name).expanduser().absolute())

    @field_validator("metadata", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, Path)) else value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse filters that cannot be applied, unknown classes, and too few videos."""
    from l3hpc.avc.scenes import scenes_seed

    own = params.get(NAME)
    if not isinstance(own, Params):
        return
    if (own.include or own.exclude) and own.ontology is None:
        raise InputError("include and exclude need the ontology", where="avc_pairs.ontology",
                         allowed="AudioSet's ontology.json")
    if own.ontology is not None and not own.metadata:
        raise InputError("an ontology says nothing without the lists of segments",
                         where="avc_pairs.metadata", allowed="CSV files of AudioSet")
    if scenes_seed(own.videos) is not None and own.metadata:
        raise InputError("generated scenes are not in AudioSet", where="avc_pairs.metadata",
                         allowed="a folder of videos, or no metadata")
    _splits(own)


def packages(params: BaseModel) -> dict[str, str]:
    """Importable name of what this needs beyond the core dependencies → how to install it."""
    return {}


def describe(params: Mapping[str, BaseModel]) -> str:
    """``3,072 train, 384 validate, 384 test pairs of 240 generated scenes, 224 pixels, 48000 Hz``.
    """
    from l3hpc.avc.scenes import scenes_seed

    own = params[NAME]
    assert isinstance(own, Params)
    parts = _splits(own)
    counts = ", ".join(f"{len(items) * own.pairs_per_video:,} {split}"
                       for split, items in parts.items())
    number = sum(map(len, parts.values()))
    source = ("generated scenes" if scenes_seed(own.videos) is not None
              else f"videos in {Path(own.videos).name}")
    chosen = "".join(f", {word} {' and '.join(names)}" for word, names in (
        ("with", own.include), ("without", own.exclude)) if names)
    return f"{counts} pairs of {number:,} {source}{chosen}, {own.size} pixels, {own.rate} Hz"


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """The videos of each split in groups of ``videos_per_task``."""
    from l3hpc.avc.audioset import groups

    assert isinstance(params, Params)
    return [{"split": split, "number": number, "videos": group}
            for split, items in _splits(params).items()
            for number, group in enumerate(groups(items, params.videos_per_task))]


def digests(params: BaseModel) -> dict[str, Any]:
    """The videos by their listing (names, sizes, times), the lists by their bytes."""
    from l3hpc.avc.scenes import scenes_seed
    from l3hpc.avc.videos import VideoFile, listing_digest

    assert isinstance(params, Params)
    seed = scenes_seed(params.videos)
    if seed is not None:
        return {"videos": f"generated:{seed}"}
    videos = [VideoFile.from_json(one) for items in _splits(params).values() for one in items]
    return {"videos": listing_digest(sorted(videos, key=lambda one: one.file)),
            "metadata": [digest_file(path) for path in params.metadata],
            "ontology": digest_file(params.ontology) if params.ontology else None}


def _splits(params: Params) -> dict[str, list[Any]]:
    """split → its videos, JSON-ready: a scene's number, or a ``VideoFile``."""
    from l3hpc.avc.audioset import chosen, split
    from l3hpc.avc.scenes import scenes_seed

    items: list[Any]
    if scenes_seed(params.videos) is not None:
        items = list(range(params.scenes))
    else:
        items = [video.as_json() for video in chosen(
            Path(params.videos), params.metadata, params.ontology, params.include,
            params.exclude)]
    return split(items, params.validation_share, params.test_share, params.seed)


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Write this task's batches (``<split>_<task>_000.h5``, …) and ``skipped.csv``."""
    from l3hpc.avc.batches import SPLITS
    from l3hpc.avc.making import Making
    from l3hpc.avc.scenes import Scene, scenes_seed
    from l3hpc.avc.videos import Source, VideoFile, open_video

    assert isinstance(params, Params)
    split, number = task.shard["split"], task.shard["number"]
    seed = scenes_seed(params.videos)
    if seed is not None:
        names = [f"{one:05d}" for one in task.shard["videos"]]

        def open_source(name: str) -> Source:
            return Scene(int(name), seed)
    else:
        from l3hpc.avc.ffmpeg import ffmpeg

        task.progress.note(f"videos are read by {ffmpeg()}")
        files = {one.file: one for one in map(VideoFile.from_json, task.shard["videos"])}
        names = list(files)

        def open_source(name: str) -> Source:
            return open_video(Path(params.videos), files[name])

    result = Making(
        names, open_source, f"{split}_{number:04d}", params.rate, params.size,
        params.pairs_per_video, [params.seed, 1 + SPLITS.index(split), number], task.scratch,
        augment=params.augment and split == "train", per_file=params.pairs_per_file,
        max_failed=params.max_failed, threads=task.threads, progress=task.progress,
    ).run(task.output)
    return {**result, "split": split, "rate": params.rate, "size": params.size,
            "source": f"generated:{seed}" if seed is not None else params.videos}


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``3,840 pairs of 240 videos, 2 skipped``."""
    pairs, videos, skipped = (sum(result.get(key, 0) for result in results)
                              for key in ("pairs", "videos", "skipped"))
    text = f"{pairs:,} pairs of {videos:,} videos"
    return f"{text}, {skipped:,} skipped" if skipped else text
