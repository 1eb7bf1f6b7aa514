"""train: the student learns φ(teacher) from the audio alone.

The science is in ``l3hpc.models.training`` and ``l3hpc.datasets.training_pairs``; this step finds
the pairs of audio and targets, names the files and records the ledger row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from l3hpc.errors import InputError
from l3hpc.steps.base import Task
from l3hpc.steps.training_loop import LoopParams, TrainingRow, loop_fields

NAME = "train"
VERSION = 2
TITLE = "the student network, trained on the reduced embeddings"
INPUTS = {"extract": "optional", "reduce": "optional"}
CONTINUES = True  # a checkpoint carries on what a time limit ends
PLACES = frozenset({"audio_dir", "tensorboard", "checkpoint_every", "checkpoint_batches"})

TAB = "embedding_approx_mse"
RATE = 1e-3  # chosen on real recordings: docs/recipe.md
PUBLISHED: dict[str, Any] = {
    "head": "relu", "epochs": 300, "epoch_size": 4096, "validation_epoch_size": 1024,
    "batch_size": 64, "validation_batch_size": 64, "bn_momentum": 0.99, "schedule": "plateau",
    "patience": 10, "min_delta": 1e-4, "plateau_patience": 5, "plateau_factor": 0.1}
PUBLISHED_RATE = {"pca": 1e-4, "umap": 1e-4, "none": 1e-5}


class Params(LoopParams):
    """The student's shape and how it is trained."""

    recipe: Literal["default", "published"] = Field("default", description=(
        "published: head, epochs, batches, learning rate, schedule and bn_momentum of the "
        "published jobs, wherever not stated."))
    asr: int = Field(8000, ge=1000, le=192000, description="The student's sample rate in Hz.")
    mels: int = Field(64, ge=1, description="Mel bands.")
    dft: int = Field(1024, ge=16, description="Length of the DFT in samples.")
    hop: int = Field(160, ge=1, description="Samples from one spectrum to the next.")
    fmax: float | None = Field(None, gt=0, description=(
        "Upper edge of the mel bands in Hz (none: half the sample rate)."))
    emb_dim: int = Field(128, ge=1, description="Length of the student's embedding.")
    filters: tuple[int, ...] | None = Field(None, description=(
        "Filters of the eight convolutions, where emb_dim is none of 512, 256, 128, 64."))
    head: Literal["linear", "relu"] = Field("linear", description=(
        "linear reaches the signed targets of a PCA; relu is the published head."))
    epochs: int = Field(30, ge=1, description="The most epochs.")
    epoch_size: int | None = Field(None, ge=1, description="Batches per epoch (none: all data).")
    validation_epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per validation (none: all data)."))
    batch_size: int = Field(64, ge=1, description="Windows per training batch.")
    validation_batch_size: int = Field(64, ge=1, description="Windows per validation batch.")
    learning_rate: float | None = Field(None, gt=0, le=1, description=(
        "Adam's first learning rate (none: 1e-3; published: 1e-4, without a reduction 1e-5)."))
    schedule: Literal["plateau", "cosine"] = Field("plateau", description=(
        "plateau: the rate falls when the validation loss stalls; cosine: half a cosine from the "
        "first rate to nothing over all epochs."))
    validation_share: float = Field(0.1, gt=0, lt=1, description=(
        "Share of rows for validation, by recording and day (folders train/ and validate/ win)."))
    timezone: str = Field("America/New_York", description="Time zone that tells the days apart.")
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the batch normalisations' moving statistics (none: 0.99, less where an epoch "
        "has fewer than 459 batches, so that each epoch is validated with its own statistics)."))
    seed: int = Field(20180216, ge=0, description="Seed of weights, order and split.")
    audio_dir: Path | None = Field(None, description=(
        "Folder of the audio (none: where extract found it)."))
    embedding_key: str | None = Field(None, description=(
        "Dataset of the targets, where published files hold several."))
    cache: Literal["float32", "float16"] = Field("float32", description=(
        "How log-mel spectra are kept on disk while training; float16 halves the space."))
    tensorboard: bool = Field(False, description="Also write TensorBoard event files.")

    @model_validator(mode="before")
    @classmethod
    def _published(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("recipe") == "published":
            return {**PUBLISHED, **values}
        return values

    def rate_for(self, approx: str) -> float:
        """The first learning rate for targets of this kind (``pca``, ``umap``, ``none``)."""
        if self.learning_rate is not None:
            return self.learning_rate
        return PUBLISHED_RATE[approx] if self.recipe == "published" else RATE


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a student that cannot be built, and one whose length is not that of its target."""
    from l3hpc.models.spec import check_student
    from l3hpc.steps import extract, fit
    from l3hpc.steps.sample import check_timezone

    own = params.get(NAME)
    if not isinstance(own, Params):
        return
    check_student(own.asr, own.mels, own.hop, own.dft, own.fmax, own.emb_dim, own.filters)
    check_timezone(own.timezone, "train.timezone")
    reduction, teacher = params.get("fit"), params.get("extract")
    if isinstance(reduction, fit.Params) and reduction.approx != "none":
        if reduction.emb_dim != own.emb_dim:
            raise InputError(
                f"the student has {own.emb_dim} dimensions but φ gives {reduction.emb_dim}.",
                where="train.emb_dim",
                allowed="Set both with --emb-dim, or fit.emb_dim and train.emb_dim to one number.")
    elif isinstance(teacher, extract.Params):
        dim = fit.teacher_dim(teacher.weights)
        if dim != own.emb_dim:
            raise InputError(
                f"with --approx none the student needs the teacher's {dim} dimensions, "
                f"not {own.emb_dim}.", allowed=f"Use --emb-dim {dim}, or --approx pca.")


def describe(params: Mapping[str, BaseModel]) -> str:
    """``student 128-d, 8000 Hz, 64 mels, hop 160, DFT 1024, 584,420 parameters``; and what a
    recipe by name comes to."""
    from l3hpc.models.spec import parameter_count
    from l3hpc.steps import fit

    own, reduction = params[NAME], params.get("fit")
    assert isinstance(own, Params)
    text = (f"student {own.emb_dim}-d, {own.asr} Hz, {own.mels} mels, hop {own.hop}, "
            f"DFT {own.dft}, {parameter_count(student_spec(own)):,} parameters")
    if own.recipe == "default":
        return text
    epoch = f"{own.epoch_size:,} batches" if own.epoch_size else "all data"
    text += f"; {own.recipe} recipe: {own.head} head, {own.epochs} epochs of {epoch}"
    if isinstance(reduction, fit.Params):
        return f"{text}, learning rate {own.rate_for(reduction.approx):g}"
    if "extract" in params:  # the student learns the teacher itself
        return f"{text}, learning rate {own.rate_for('none'):g}"
    return text


def student_spec(params: Params) -> Any:
    """The ``NetworkSpec`` of the student."""
    from l3hpc.models.spec import NetworkSpec, student_filters

    return NetworkSpec(
        rate=params.asr, n_mels=params.mels, hop=params.hop, n_dft=params.dft, fmax=params.fmax,
        filters=tuple(params.filters or student_filters(params.emb_dim)), head=params.head,
        emb_dim=params.emb_dim)


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Audio named by the parameters, by its listing."""
    from l3hpc.datasets.corpus import manifest_digest, scan

    assert isinstance(params, Params)
    return {"audio": manifest_digest(scan(params.audio_dir)) if params.audio_dir else None}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Train to the end and write the models, ``history.csv`` and ``student.json``.

    Everything on the way lies in scratch; a task that was killed goes on at its last checkpoint.
    """
    from l3hpc.datasets.training_pairs import find_pairs, prepare, split
    from l3hpc.io.files import digest
    from l3hpc.models import training
    from l3hpc.models.spec import parameter_count
    from l3hpc.models.training_engine import limit_threads
    from l3hpc.models.training_state import Schedule

    assert isinstance(params, Params)
    spec = student_spec(params)
    pairs = find_pairs(task.inputs.get("extract"), task.inputs.get("reduce"), params.audio_dir,
                       key=params.embedding_key, timezone=params.timezone)
    if pairs.dim != spec.dim:
        raise InputError(f"the targets have {pairs.dim} dimensions, the student {spec.dim}",
                         where=pairs.key, allowed=f"--emb-dim {pairs.dim}")
    rows = split(pairs, params.validation_share, params.seed)
    cache = prepare(pairs, spec.frontend, task.scratch / "cache", kind=params.cache,
                    threads=task.threads, progress=task.progress)
    limit_threads(task.threads)  # before anything asks TensorFlow for its devices
    row = _row(params, task, pairs, spec, rows)
    task.progress.note(f"{len(rows[0]):,} windows to train on, {len(rows[1]):,} to validate")
    row.record({})
    deciding = params.model_dump(mode="json", exclude=set(PLACES))
    trainer = training.Training(
        spec, cache, rows, task.scratch / "training",
        Schedule(params.epochs, params.patience, params.min_delta, params.plateau_patience,
                 params.plateau_factor, params.schedule),
        learning_rate=params.rate_for(pairs.approx), batch_size=params.batch_size,
        validation_batch_size=params.validation_batch_size, epoch_size=params.epoch_size,
        validation_epoch_size=params.validation_epoch_size, bn_momentum=params.bn_momentum,
        seed=params.seed,
        mixed_precision=params.mixed_precision, deterministic=params.deterministic,
        threads=task.threads, checkpoint_every=params.checkpoint_every,
        checkpoint_batches=params.checkpoint_batches,
        settings=digest([deciding, pairs.rows, pairs.key]),
        provenance={"teacher": pairs.teacher, "target": pairs.key},
        tensorboard=task.scratch / "training" / "tensorboard" if params.tensorboard else None,
        progress=task.progress, on_epoch=row.epoch, guard=task.preemption.on_signal)
    status = trainer.run()
    row.epoch(status, state="finished")
    result = {
        "epochs": status.epoch, "best_epoch": status.best_loss_epoch + 1,
        "best_validation_loss": status.best_loss, "best_validation_mae": status.best_mae,
        "best_train_loss": status.lowest("loss"),
        "best_train_mae": status.lowest("mean_absolute_error"),
        "stopped_early": status.stopped, "model": training.BEST_LOSS,
        "rows": pairs.rows, "train_rows": len(rows[0]), "validation_rows": len(rows[1]),
        "target": pairs.key, "approx": pairs.approx, "model_repr": spec.model_repr,
        "parameters": parameter_count(spec), "learning_rate": params.rate_for(pairs.approx),
        "bn_momentum": trainer.bn_momentum,
        "spec": spec.to_dict(), "replicas": trainer.engine.replicas,
        "precision": trainer.engine.precision,
    }
    _collect(task, result)
    return result


def _collect(task: Task, result: Mapping[str, Any]) -> None:
    """Move what is to be kept from scratch into the output."""
    import shutil

    from l3hpc.io.files import write_json
    from l3hpc.models import training

    folder = task.scratch / "training"
    for name in (training.BEST_LOSS, training.BEST_MAE, training.LATEST, training.HISTORY):
        shutil.copyfile(folder / name, task.output / name)
    if (folder / "tensorboard").is_dir():
        shutil.copytree(folder / "tensorboard", task.output / "tensorboard")
    write_json(task.output / "student.json", dict(result))


def _row(params: Params, task: Task, pairs: Any, spec: Any, rows: Any) -> TrainingRow:
    """The run's row in the ledger, in the fields of the published sheet."""
    from l3hpc.models.weights import caution

    target = str(task.inputs.get("reduce") or task.inputs.get("extract"))
    published = any(unit.split for unit in pairs.units)
    folder = str(pairs.audio)
    return TrainingRow(task, TAB, {
        "note": caution(pairs.teacher),
        "model_dir": str(task.labels.get("model_dir") or task.output),
        "train_data_dir": f"{folder}/train" if published else folder,
        "validation_data_dir": f"{folder}/validate" if published else folder,
        "reduced_emb_train_dir": f"{target}/train" if published else target,
        "reduced_emb_valid_dir": f"{target}/validate" if published else target,
        "approx_mode": "mse" if pairs.approx == "none" else pairs.approx,
        "emb_key": pairs.key, "model_repr": spec.model_repr, "student_emb_len": spec.dim,
        **loop_fields(params, task, rows, params.rate_for(pairs.approx)),
    }, measure="mae")


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``12 epochs, best validation loss 0.409 (epoch 11)``."""
    if not results:
        return ""
    result = results[0]
    return (f"{result.get('epochs')} epochs, best validation loss "
            f"{result.get('best_validation_loss', float('nan')):.4g} "
            f"(epoch {result.get('best_epoch')})")
