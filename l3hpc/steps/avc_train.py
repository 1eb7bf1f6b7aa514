"""avc_train: an L3 network learns whether picture and sound belong together; its audio half is a
teacher.

The science is in ``l3hpc.avc``; this step names the files and records the ledger row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Task
from l3hpc.steps.training_loop import LoopParams, TrainingRow, loop_fields

if TYPE_CHECKING:
    from l3hpc.avc.batches import Batches
    from l3hpc.models.spec import NetworkSpec

NAME = "avc_train"
VERSION = 1
TITLE = "an L3 network, taught by audio-visual correspondence"
INPUTS = {"avc_pairs": "required"}
CONTINUES = True  # a checkpoint carries on what a time limit ends
PLACES = frozenset({"audio_weights", "vision_weights", "checkpoint_every", "checkpoint_batches"})

TAB = "embedding"
PUBLISHED = (64, 64, 128, 128, 256, 256, 512, 512)
PUBLISHED_FRONT = (48000, 256, 242, 2048, None)  # two of its mel bands hear nothing
AUDIO, TEACHER, VISION = "audio.h5", "teacher.h5", "vision.h5"


class Params(LoopParams):
    """The two networks' shapes and how they are trained."""

    asr: int = Field(48000, ge=1000, le=192000, description="The audio network's rate in Hz.")
    mels: int = Field(256, ge=1, description="Mel bands.")
    dft: int = Field(2048, ge=16, description="Length of the DFT in samples.")
    hop: int = Field(242, ge=1, description="Samples from one spectrum to the next.")
    fmax: float | None = Field(None, gt=0, description=(
        "Upper edge of the mel bands in Hz (none: half the sample rate)."))
    filters: tuple[int, ...] = Field(PUBLISHED, description=(
        "Filters of the audio network's eight convolutions; the last is its embedding's length."))
    vision_filters: tuple[int, ...] = Field(PUBLISHED, description=(
        "Filters of the vision network's eight convolutions."))
    audio_weights: Path | None = Field(None, description=(
        "An audio network to start from (its geometry and filters then hold)."))
    vision_weights: Path | None = Field(None, description=(
        "A vision network to start from: vision.h5, or openl3's image weights (its filters then "
        "hold)."))
    freeze_vision: bool = Field(False, description="The vision network stays as it is.")
    epochs: int = Field(30, ge=1, description="The most epochs; published: 300.")
    epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per epoch (none: all pairs); published: 4096."))
    validation_epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per validation (none: all pairs); published: 1024."))
    batch_size: int = Field(64, ge=1, description="Pairs per training batch.")
    validation_batch_size: int = Field(64, ge=1, description="Pairs per validation batch.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Adam's first learning rate.")
    schedule: Literal["plateau", "cosine"] = Field("plateau", description=(
        "plateau: the rate falls when the validation loss stalls; cosine: half a cosine from the "
        "first rate to nothing over all epochs."))
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the normalisations' moving statistics (none: as in train)."))
    seed: int = Field(20180216, ge=0, description="Seed of weights and order.")


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse networks that cannot be built, and weights that are not of such networks."""
    from l3hpc.avc.vision import VisionSpec
    from l3hpc.models.spec import check_student
    from l3hpc.steps import avc_pairs

    own, pairs = params.get(NAME), params.get("avc_pairs")
    if not isinstance(own, Params):
        return
    front = (own.asr, own.mels, own.hop, own.dft, own.fmax)
    if own.audio_weights is None and front != PUBLISHED_FRONT:
        check_student(own.asr, own.mels, own.hop, own.dft, own.fmax, own.filters[-1], own.filters)
    for path, option in ((own.audio_weights, "audio_weights"),
                         (own.vision_weights, "vision_weights")):
        if path is not None and not path.is_file():
            raise InputError(f"no weight file {path}", where=f"{NAME}.{option}")
    spec = audio_spec(own)
    size = pairs.size if isinstance(pairs, avc_pairs.Params) else 224
    VisionSpec(size, vision_filters(own))
    if own.freeze_vision and own.vision_weights is None:
        raise InputError("a vision network that was never trained stays as it is",
                         where=f"{NAME}.freeze_vision", allowed="with vision_weights")
    if isinstance(pairs, avc_pairs.Params) and pairs.rate < spec.rate:
        raise InputError(f"sound of {pairs.rate} Hz is cut for a network of {spec.rate} Hz",
                         where="avc_pairs.rate", allowed=f"at least {spec.rate}")


def packages(params: BaseModel) -> dict[str, str]:
    """Importable name of what this needs beyond the core dependencies → how to install it."""
    return {}


def audio_spec(params: Params) -> NetworkSpec:
    """The audio network: that of ``audio_weights``, or what the parameters say."""
    from l3hpc.models.spec import NetworkSpec
    from l3hpc.models.weights import describe as describe_weights

    if params.audio_weights is not None:
        return describe_weights(params.audio_weights).spec
    return NetworkSpec(params.asr, params.mels, params.hop, params.dft, params.fmax,
                       params.filters)


def vision_filters(params: Params) -> tuple[int, ...]:
    """The vision network's: those of ``vision_weights``, or what the parameters say."""
    from l3hpc.avc.vision import load_vision

    if params.vision_weights is not None:
        return load_vision(params.vision_weights)[0].filters
    return params.vision_filters


def describe(params: Mapping[str, BaseModel]) -> str:
    """``audio 512-d, 48000 Hz, 256 mels, 4,691,908 parameters; 30 epochs of all pairs``."""
    from l3hpc.models.spec import parameter_count

    own = params[NAME]
    assert isinstance(own, Params)
    spec = audio_spec(own)
    start = f" from {own.audio_weights.name}" if own.audio_weights else ""
    frozen = "; vision network frozen" if own.freeze_vision else ""
    epoch = f"{own.epoch_size:,} batches" if own.epoch_size else "all pairs"
    return (f"audio {spec.dim}-d, {spec.rate} Hz, {spec.n_mels} mels, "
            f"{parameter_count(spec):,} parameters{start}{frozen}; {own.epochs} epochs of {epoch}")


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """The weights to start from, by their bytes."""
    assert isinstance(params, Params)
    return {name: digest_file(path) if path else None
            for name, path in (("audio_weights", params.audio_weights),
                               ("vision_weights", params.vision_weights))}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Train to the end, test on videos of its own, and write the networks.

    Everything on the way lies in scratch; a task that was killed goes on at its last checkpoint.
    """
    from l3hpc.avc import training
    from l3hpc.avc.batches import AvcData, Batches
    from l3hpc.avc.network import load_avc
    from l3hpc.avc.training import evaluate
    from l3hpc.avc.vision import VisionSpec
    from l3hpc.io.files import digest
    from l3hpc.models.training_engine import limit_threads
    from l3hpc.models.training_state import Schedule
    from l3hpc.models.weights import load_parameters

    assert isinstance(params, Params)
    folder = task.inputs["avc_pairs"]
    train, validate, test = (Batches.find(folder, split)
                             for split in ("train", "validate", "test"))
    both, rows = join(train, validate)
    limit_threads(task.threads)  # before anything asks TensorFlow for its devices
    audio = load_parameters(params.audio_weights)[0] if params.audio_weights else None
    spec = audio_spec(params)
    row = _row(params, task, spec, rows)
    task.progress.note(f"{train.rows:,} pairs to train on, {validate.rows:,} to validate, "
                       f"{test.rows:,} to test")
    row.record({})
    deciding = params.model_dump(mode="json", exclude=set(PLACES))
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
        settings=digest([deciding, digests(params), [str(path.name) for path in both.files],
                         both.rows, folder.resolve().name]),
        provenance={"taught by": "audio-visual correspondence", "pairs": folder.resolve().name},
        progress=task.progress, on_epoch=row.epoch, guard=task.preemption.on_signal,
        start=training.Start(VisionSpec(both.size, vision_filters(params)), audio,
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


def join(train: Batches, validate: Batches) -> tuple[Batches, tuple[Any, Any]]:
    """Both splits as one list, and the row numbers of each."""
    import numpy as np

    from l3hpc.avc.batches import Batches

    both = Batches([*train.files, *validate.files])
    return both, (np.arange(train.rows), np.arange(train.rows, both.rows))


def _collect(task: Task, best: Any, result: Mapping[str, Any]) -> None:
    """The networks and records that are kept, out of scratch into the output."""
    import shutil
    from dataclasses import replace

    from l3hpc.avc import training
    from l3hpc.io.files import write_json
    from l3hpc.models.parameters import Parameters
    from l3hpc.models.weights import save

    folder = task.scratch / "training"
    for name in (training.BEST_LOSS, training.BEST_ACCURACY, training.LATEST, training.HISTORY):
        shutil.copyfile(folder / name, task.output / name)
    told = {"taught by": "audio-visual correspondence", "epoch": result["best_epoch"] - 1,
            "test_accuracy": result["test"]["accuracy"]}
    best.save_audio(task.output / AUDIO, told)
    best.save_vision(task.output / VISION, told)
    audio = best.parameters()
    if audio.spec.tail == "student":  # openl3's embedding: the eighth convolution's own values
        audio = Parameters(replace(audio.spec, tail="embedding"), audio.layers[:-1])
    save(audio, task.output / TEACHER, told)
    write_json(task.output / "evaluation.json", {"test": result["test"]})


def _row(params: Params, task: Task, spec: NetworkSpec, rows: Any) -> TrainingRow:
    """The run's row in the ledger, in the fields of the published sheet."""
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


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``81.0 % of 400 unseen pairs right (76.8 to 84.7 %), 12 epochs``."""
    if not results or "test" not in results[0]:
        return ""
    result = results[0]
    tested = result["test"]
    low, high = tested["interval"]
    return (f"{100 * tested['accuracy']:.1f} % of {tested['pairs']:,} unseen pairs right "
            f"({100 * low:.1f} to {100 * high:.1f} %), {result.get('epochs')} epochs")
