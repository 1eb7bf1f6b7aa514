"""avc_pairs: videos cut into pairs of an image and one second of sound, for ``avc_train``.

``avc_pairs`` cuts videos (or generated scenes) into matching and non-matching pairs. One task does
so for ``videos_per_task`` videos of one split; a killed task resumes with the next file of batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.io.values import count_of
from l3hpc.steps.base import Params, PlanParams, Results, Shard, Step, Upstream, absolute
from l3hpc.steps.params import MAX_DRAW_SEED, MOST
from l3hpc.steps.task import Task


class AvcPairsParams(Params):
    """The videos, and how pairs are cut from them."""

    videos: str = Field("generated", description=(
        "Folder of videos, searched recursively; or 'generated' / 'generated:SEED' for scenes of "
        "moving shapes with their sounds."))
    scenes: int = Field(240, ge=6, le=1_000_000, description=(
        "Number of ten-second scenes to generate."))
    metadata: tuple[Path, ...] = Field((), description=(
        "AudioSet segment lists (CSV); only videos in these lists are used."))
    ontology: Path | None = Field(None, description=(
        "AudioSet's ontology.json, for include and exclude."))
    include: tuple[str, ...] = Field((), description=(
        "AudioSet classes to use, by name, with their subclasses (none: all)."))
    exclude: tuple[str, ...] = Field((), description=(
        "AudioSet classes to leave out, with their subclasses."))
    rate: int = Field(48000, ge=1000, le=192000, description="Sample rate of the sound in Hz.")
    size: int = Field(224, ge=8, le=1024, description=(
        "Side length of the images in pixels; published: 224."))
    pairs_per_video: int = Field(16, ge=1, le=MOST, description=(
        "Pairs per video, half of them matching."))
    augment: bool = Field(True, description=(
        "Augment the training pairs as published: random mirroring, saturation, brightness and "
        "gain."))
    validation_share: float = Field(0.1, ge=0, lt=1, description=(
        "Fraction of the videos used for validation; at least two."))
    test_share: float = Field(0.1, ge=0, lt=1, description=(
        "Fraction of the videos used for testing; at least two."))
    videos_per_task: int = Field(64, ge=2, le=MOST, description="Videos per array task.")
    pairs_per_file: int = Field(1024, ge=1, le=MOST, description=(
        "Maximum number of pairs per HDF5 file."))
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "Fraction of a task's videos that may be unusable before the task fails."))
    seed: int = Field(20180216, ge=0, le=MAX_DRAW_SEED, description=(
        "Seed of split, times, crops and augmentation."))

    @field_validator("videos", mode="before")
    @classmethod
    def _absolute(cls, value: Any) -> str:
        name = str(value)
        return name if name.startswith("generated") else str(absolute(Path(name)))

    @field_validator("metadata", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, Path)) else value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class AvcPairs(Step[AvcPairsParams]):
    """Matching and non-matching pairs of an image and one second of sound."""

    name = "avc_pairs"
    version = 1
    title = "matching and non-matching pairs of an image and one second of sound"
    params_type = AvcPairsParams
    not_in_fingerprint = frozenset({"videos", "metadata", "ontology", "max_failed"})

    def check(self, params: AvcPairsParams, plan: PlanParams) -> None:
        """Refuse class filters without an ontology, unknown classes, and too few videos."""
        from l3hpc.avc.scenes import scenes_seed

        if (params.include or params.exclude) and params.ontology is None:
            raise InputError("include and exclude need the ontology", where="avc_pairs.ontology",
                             allowed="AudioSet's ontology.json")
        if params.ontology is not None and not params.metadata:
            raise InputError("an ontology needs the segment lists, which are not set",
                             where="avc_pairs.metadata", allowed="CSV files of AudioSet")
        if scenes_seed(params.videos) is not None and params.metadata:
            raise InputError("metadata cannot be used with generated scenes",
                             where="avc_pairs.metadata",
                             allowed="a folder of videos, or no metadata")
        _splits(params)

    def describe(self, params: AvcPairsParams, plan: PlanParams) -> str:
        """``3,072 train, 384 validate pairs of 240 generated scenes, 224 pixels, 48000 Hz``."""
        from l3hpc.avc.scenes import scenes_seed

        parts = _splits(params)
        counts = ", ".join(f"{len(items) * params.pairs_per_video:,} {split}"
                           for split, items in parts.items())
        number = sum(map(len, parts.values()))
        source = ("generated scenes" if scenes_seed(params.videos) is not None
                  else f"videos in {Path(params.videos).name}")
        chosen = "".join(f", {word} {' and '.join(names)}" for word, names in (
            ("with", params.include), ("without", params.exclude)) if names)
        return (f"{counts} pairs of {number:,} {source}{chosen}, {params.size} pixels, "
                f"{params.rate} Hz")

    def shards(self, params: AvcPairsParams, upstream: Upstream) -> list[Shard]:
        """The videos of each split in groups of ``videos_per_task``."""
        from l3hpc.avc.audioset import group_items

        return [{"split": split, "number": number, "videos": group}
                for split, items in _splits(params).items()
                for number, group in enumerate(group_items(items, params.videos_per_task))]

    def digests(self, params: AvcPairsParams) -> dict[str, Any]:
        """The videos by their listing (names, sizes, times), metadata by their bytes."""
        from l3hpc.avc.scenes import scenes_seed
        from l3hpc.avc.videos import VideoFile, listing_digest

        seed = scenes_seed(params.videos)
        if seed is not None:
            return {"videos": f"generated:{seed}"}
        videos = [VideoFile.from_json(one) for items in _splits(params).values() for one in items]
        return {"videos": listing_digest(sorted(videos, key=lambda one: one.file)),
                "metadata": [digest_file(path) for path in params.metadata],
                "ontology": digest_file(params.ontology) if params.ontology else None}

    def run(self, params: AvcPairsParams, task: Task) -> dict[str, Any]:
        """Write this task's batches (``<split>_<task>_000.h5``, …) and ``skipped.csv``."""
        from l3hpc.avc.batches import SPLITS
        from l3hpc.avc.pairs import PairMaker
        from l3hpc.avc.scenes import Scene, scenes_seed
        from l3hpc.avc.videos import VideoFile, VideoSource, open_video

        split, number = task.shard["split"], task.shard["number"]
        seed = scenes_seed(params.videos)
        if seed is not None:
            names = [f"{one:05d}" for one in task.shard["videos"]]

            def open_source(name: str) -> VideoSource:
                return Scene(int(name), seed)
        else:
            from l3hpc.avc.videos import ffmpeg_program

            task.progress.note(f"videos are decoded by {ffmpeg_program()}")
            files = {one.file: one for one in map(VideoFile.from_json, task.shard["videos"])}
            names = list(files)

            def open_source(name: str) -> VideoSource:
                return open_video(Path(params.videos), files[name])

        result = PairMaker(
            names, open_source, f"{split}_{number:04d}", params.rate, params.size,
            params.pairs_per_video, [params.seed, 1 + SPLITS.index(split), number], task.scratch,
            augment=params.augment and split == "train", per_file=params.pairs_per_file,
            max_failed=params.max_failed, threads=task.threads, progress=task.progress,
        ).run(task.output)
        return {**result, "split": split, "rate": params.rate, "size": params.size,
                "source": f"generated:{seed}" if seed is not None else params.videos}

    def summary(self, results: Results) -> str:
        """``3,840 pairs of 240 videos, 2 skipped``."""
        pairs, videos, skipped = (sum(result.get(key, 0) for result in results)
                                  for key in ("pairs", "videos", "skipped"))
        text = f"{count_of(pairs, 'pair')} of {count_of(videos, 'video')}"
        return f"{text}, {skipped:,} skipped" if skipped else text


def _splits(params: AvcPairsParams) -> dict[str, list[Any]]:
    """split → its videos, JSON-ready: a scene's number, or a ``VideoFile``."""
    from l3hpc.avc.audioset import select_videos, split_items
    from l3hpc.avc.scenes import scenes_seed

    items: list[Any]
    if scenes_seed(params.videos) is not None:
        items = list(range(params.scenes))
    else:
        items = [video.as_json() for video in select_videos(
            Path(params.videos), params.metadata, params.ontology, params.include,
            params.exclude)]
    return split_items(items, params.validation_share, params.test_share, params.seed)
