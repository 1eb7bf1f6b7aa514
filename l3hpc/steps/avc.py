"""avc_pairs and avc_train: train your own teacher by audio-visual correspondence.

``avc_pairs`` cuts videos (or generated scenes) into matching and non-matching pairs of an image and
one second of sound. One task does so for ``videos_per_task`` videos of one split; a killed task
resumes with the next file of batches. On these pairs ``avc_train`` trains an L3 network to tell
whether image and sound match; its audio branch can be used as a teacher.

The science is in ``l3hpc.avc``; the steps name the files and record the ledger row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import (
    Input,
    Params,
    PlanParams,
    ReportItem,
    Results,
    Shard,
    Step,
    Task,
    Upstream,
)
from l3hpc.steps.train import LoopParams, TrainingRow, loop_fields

if TYPE_CHECKING:
    from l3hpc.avc.batches import Batches
    from l3hpc.models.spec import NetworkSpec


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
    pairs_per_video: int = Field(16, ge=1, description=(
        "Pairs per video, half of them matching."))
    augment: bool = Field(True, description=(
        "Augment the training pairs as published: random mirroring, saturation, brightness and "
        "gain."))
    validation_share: float = Field(0.1, ge=0, lt=1, description=(
        "Fraction of the videos used for validation."))
    test_share: float = Field(0.1, ge=0, lt=1, description=(
        "Fraction of the videos used for testing."))
    videos_per_task: int = Field(64, ge=2, description="Videos per array task.")
    pairs_per_file: int = Field(1024, ge=1, description="Maximum number of pairs per HDF5 file.")
    max_failed: float = Field(0.05, ge=0, le=1, description=(
        "Fraction of a task's videos that may be unusable before the task fails."))
    seed: int = Field(20180216, ge=0, description="Seed of split, times, crops and augmentation.")

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
        text = f"{pairs:,} pairs of {videos:,} videos"
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


TAB: Final = "embedding"
PUBLISHED = (64, 64, 128, 128, 256, 256, 512, 512)
# Allowed although two of its mel bands contain no frequency bin, which is otherwise refused.
PUBLISHED_FRONT = (48000, 256, 242, 2048, None)
AUDIO, TEACHER, VISION = "audio.h5", "teacher.h5", "vision.h5"


class AvcTrainParams(LoopParams):
    """Shapes of the audio and the vision network, and how they are trained."""

    asr: int = Field(48000, ge=1000, le=192000, description="Audio sampling rate in Hz.")
    mels: int = Field(256, ge=1, description="Number of mel bands.")
    dft: int = Field(2048, ge=16, description="Length of the DFT in samples.")
    hop: int = Field(242, ge=1, description="Hop of the spectrogram in samples.")
    fmax: float | None = Field(None, gt=0, description=(
        "Upper edge of the mel bands in Hz (none: half the sample rate)."))
    filters: tuple[int, ...] = Field(PUBLISHED, description=(
        "Filters of the audio network's eight convolutions; the last is the embedding size."))
    vision_filters: tuple[int, ...] = Field(PUBLISHED, description=(
        "Filters of the vision network's eight convolutions."))
    audio_weights: Path | None = Field(None, description=(
        "Audio network to start from, whose geometry and filters are then used."))
    vision_weights: Path | None = Field(None, description=(
        "Vision network to start from, whose filters are then used: vision.h5 or openl3's image "
        "weights."))
    freeze_vision: bool = Field(False, description="Do not train the vision network.")
    epochs: int = Field(30, ge=1, description="Maximum number of epochs; published: 300.")
    epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per epoch (none: all pairs); published: 4096."))
    validation_epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per validation (none: all pairs); published: 1024."))
    batch_size: int = Field(64, ge=1, description="Pairs per training batch.")
    validation_batch_size: int = Field(64, ge=1, description="Pairs per validation batch.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Adam's initial learning rate.")
    schedule: Literal["plateau", "cosine"] = Field("plateau", description=(
        "plateau: reduce the rate when the validation loss stalls; cosine: half a cosine from the "
        "initial rate to zero over all epochs."))
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the batch normalisation statistics (none: as in train)."))
    seed: int = Field(20180216, ge=0, description="Seed of weights and batch order.")


class AvcTrain(Step[AvcTrainParams]):
    """An L3 network that learns whether image and sound match."""

    name = "avc_train"
    version = 1
    title = "an L3 network, trained on audio-visual correspondence"
    params_type = AvcTrainParams
    inputs = {"avc_pairs": Input()}
    not_in_fingerprint = frozenset({
        "audio_weights", "vision_weights", "checkpoint_every", "checkpoint_batches"})
    continues = True
    tab = TAB
    ledger_folder = "model_dir"
    report_items = frozenset({ReportItem.TRAINING, ReportItem.CORRESPONDENCE})
    kept_files = ("history.csv", "teacher.h5", "evaluation.json")

    def check(self, params: AvcTrainParams, plan: PlanParams) -> None:
        """Refuse networks that cannot be built, and weights that are not of such networks."""
        from l3hpc.avc.vision import VisionSpec
        from l3hpc.models.spec import check_student

        pairs = AvcPairs().params_in(plan)
        front = (params.asr, params.mels, params.hop, params.dft, params.fmax)
        if params.audio_weights is None and front != PUBLISHED_FRONT:
            check_student(params.asr, params.mels, params.hop, params.dft, params.fmax,
                          params.filters[-1], params.filters)
        for path, option in ((params.audio_weights, "audio_weights"),
                             (params.vision_weights, "vision_weights")):
            if path is not None and not path.is_file():
                raise InputError(f"no weight file {path}", where=f"{self.name}.{option}")
        spec = audio_spec(params)
        size = pairs.size if pairs is not None else 224
        VisionSpec(size, vision_filters(params))
        if params.freeze_vision and params.vision_weights is None:
            raise InputError("freeze_vision would keep the random weights of the vision network",
                             where=f"{self.name}.freeze_vision", allowed="with vision_weights")
        if pairs is not None and pairs.rate < spec.rate:
            raise InputError(f"pairs of {pairs.rate} Hz for a network of {spec.rate} Hz",
                             where="avc_pairs.rate", allowed=f"at least {spec.rate}")

    def describe(self, params: AvcTrainParams, plan: PlanParams) -> str:
        """``audio 512-d, 48000 Hz, 256 mels, 4,691,908 parameters; 30 epochs of all pairs``."""
        from l3hpc.models.spec import parameter_count

        spec = audio_spec(params)
        start = f" from {params.audio_weights.name}" if params.audio_weights else ""
        frozen = "; vision network frozen" if params.freeze_vision else ""
        epoch = f"{params.epoch_size:,} batches" if params.epoch_size else "all pairs"
        return (f"audio {spec.dim}-d, {spec.rate} Hz, {spec.n_mels} mels, "
                f"{parameter_count(spec):,} parameters{start}{frozen}; "
                f"{params.epochs} epochs of {epoch}")

    def digests(self, params: AvcTrainParams) -> dict[str, Any]:
        """The weights to start from, by their bytes."""
        return {name: digest_file(path) if path else None
                for name, path in (("audio_weights", params.audio_weights),
                                   ("vision_weights", params.vision_weights))}

    def run(self, params: AvcTrainParams, task: Task) -> dict[str, Any]:
        """Train, test on separate videos, and write the networks.

        Intermediate files are in scratch; a killed task resumes from its last checkpoint.
        """
        from l3hpc.avc import training
        from l3hpc.avc.batches import AvcData, Batches
        from l3hpc.avc.network import load_avc
        from l3hpc.avc.training import evaluate
        from l3hpc.avc.vision import VisionSpec
        from l3hpc.io.files import digest
        from l3hpc.models.training.engine import limit_threads
        from l3hpc.models.training.state import Schedule
        from l3hpc.models.weights import load_parameters

        folder = task.inputs["avc_pairs"]
        train, validate, test = (Batches.find(folder, split)
                                 for split in ("train", "validate", "test"))
        both, rows = join(train, validate)
        # Once TensorFlow has listed its devices, its number of threads is fixed.
        limit_threads(task.threads)
        audio = load_parameters(params.audio_weights)[0] if params.audio_weights else None
        spec = audio_spec(params)
        row = _row(params, task, spec, rows)
        task.progress.note(f"{train.rows:,} pairs to train on, {validate.rows:,} to validate, "
                           f"{test.rows:,} to test")
        row.record({})
        deciding = params.model_dump(mode="json", exclude=set(self.not_in_fingerprint))
        trainer = training.AvcTraining(
            spec, AvcData(both, spec.frontend), rows, task.scratch / "training",
            Schedule(params.epochs, params.patience, params.min_delta, params.plateau_patience,
                     params.plateau_factor, params.schedule),
            learning_rate=params.learning_rate, batch_size=params.batch_size,
            validation_batch_size=params.validation_batch_size, epoch_size=params.epoch_size,
            validation_epoch_size=params.validation_epoch_size, bn_momentum=params.bn_momentum,
            seed=params.seed, mixed_precision=params.mixed_precision,
            deterministic=params.deterministic, threads=task.threads,
            checkpoint_every=params.checkpoint_every, checkpoint_batches=params.checkpoint_batches,
            settings=digest([deciding, self.digests(params),
                             [str(path.name) for path in both.files],
                             both.rows, folder.resolve().name]),
            provenance={"taught by": "audio-visual correspondence", "pairs": folder.resolve().name},
            progress=task.progress, on_epoch=row.epoch, guard=task.preemption.on_signal,
            start=training.InitialNetworks(VisionSpec(both.size, vision_filters(params)), audio,
                                 params.vision_weights, params.freeze_vision))
        status = trainer.run()
        both.close()
        best = load_avc(trainer.folder / training.BEST_LOSS)
        tested = evaluate(best, AvcData(test, spec.frontend), params.validation_batch_size,
                          task.progress)
        test.close()
        row.epoch(status, state="finished")
        result = {
            "epochs": status.epoch, "best_epoch": status.best_loss_epoch + 1,
            "best_validation_loss": status.best_loss,
            "best_validation_accuracy": 1 - status.best_mae,
            "test": tested.as_json(), "stopped_early": status.stopped, "model": TEACHER,
            "pairs": {"train": train.rows, "validate": validate.rows, "test": test.rows},
            "spec": spec.to_dict(), "vision": best.vision_spec.to_dict(),
            "replicas": trainer.engine.replicas, "precision": trainer.engine.precision,
        }
        _collect(task, best, result)
        return result

    def summary(self, results: Results) -> str:
        """``81.0% of 400 unseen pairs right (95% interval 76.8 to 84.7%), 12 epochs``."""
        if not results or "test" not in results[0]:
            return ""
        result = results[0]
        tested = result["test"]
        low, high = tested["interval"]
        epochs = result.get("epochs")
        return (f"{100 * tested['accuracy']:.1f}% of {tested['pairs']:,} unseen pairs right "
                f"(95% interval {100 * low:.1f} to {100 * high:.1f}%), "
                f"{epochs} epoch{'s' * (epochs != 1)}")

    def networks(self, params: Mapping[str, Any], results: Results
                 ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The audio branch."""
        spec = results[0].get("spec") if results else None
        return [("taught by correspondence", spec)] if spec else []


def audio_spec(params: AvcTrainParams) -> NetworkSpec:
    """Spec of the audio network: that of ``audio_weights``, otherwise from the parameters."""
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weights import describe_weights

    if params.audio_weights is not None:
        return describe_weights(params.audio_weights).spec
    return NetworkSpec(params.asr, params.mels, params.hop, params.dft, params.fmax,
                       params.filters)


def vision_filters(params: AvcTrainParams) -> tuple[int, ...]:
    """Filters of the vision network: those of ``vision_weights``, otherwise the parameter's."""
    from l3hpc.avc.vision import load_vision

    if params.vision_weights is not None:
        return load_vision(params.vision_weights)[0].filters
    return params.vision_filters


def join(train: Batches, validate: Batches) -> tuple[Batches, tuple[Any, Any]]:
    """Both splits as one list.

    Returns
    -------
    both : Batches
        Training, then validation.
    rows : (ndarray, ndarray)
        Row numbers of training and of validation.
    """
    import numpy as np

    from l3hpc.avc.batches import Batches

    both = Batches([*train.files, *validate.files])
    return both, (np.arange(train.rows), np.arange(train.rows, both.rows))


def _collect(task: Task, best: Any, result: Mapping[str, Any]) -> None:
    """Copy the networks and records to keep from scratch into the output."""
    import shutil
    from dataclasses import replace

    from l3hpc.avc import training
    from l3hpc.io.files import write_json
    from l3hpc.models.parameters import Parameters
    from l3hpc.models.weights import save

    folder = task.scratch / "training"
    for name in (training.BEST_LOSS, training.BEST_ACCURACY, training.LATEST, training.HISTORY):
        shutil.copyfile(folder / name, task.output / name)
    metadata = {"taught by": "audio-visual correspondence", "epoch": result["best_epoch"] - 1,
            "test_accuracy": result["test"]["accuracy"]}
    best.save_audio(task.output / AUDIO, metadata)
    best.save_vision(task.output / VISION, metadata)
    audio = best.parameters()
    # As in openl3, the embedding is the output of the eighth convolution before its activation.
    if audio.spec.tail == "student":
        audio = Parameters(replace(audio.spec, tail="embedding"), audio.layers[:-1])
    save(audio, task.output / TEACHER, metadata)
    write_json(task.output / "evaluation.json", {"test": result["test"]})


def _row(params: AvcTrainParams, task: Task, spec: NetworkSpec, rows: Any) -> TrainingRow:
    """The row of the run in the ledger, with the columns of the published sheet."""
    labels, folder = task.labels, str(task.inputs["avc_pairs"])
    return TrainingRow(task, TAB, {
        "model_id": spec.model_repr, "model_dir": str(labels.get("model_dir") or task.output),
        "git_commit": labels.get("git_commit", ""),
        "train_data_dir": folder, "validation_data_dir": folder,
        "continue_model_dir": str(params.audio_weights or ""), "model_type": "cnn_L3",
        "samp_rate": spec.rate // 1000, "num_mels": spec.n_mels,
        "num_hops": math.ceil(spec.rate / spec.hop), "num_dft": spec.n_dft,
        **loop_fields(params, task, rows, params.learning_rate),
    }, measure="acc")
