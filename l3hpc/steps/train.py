"""train: the student learns φ(teacher) from the audio alone.

The science is in ``l3hpc.models.training`` and ``l3hpc.datasets.training_pairs``; this step finds
the pairs of audio and targets, names the files and records the ledger row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from l3hpc.errors import InputError, option, setting
from l3hpc.io.values import count_of
from l3hpc.steps.base import Input, Output, PlanParams, ReportItem, Results, Step
from l3hpc.steps.extract import Extract
from l3hpc.steps.networks import check_gpus, label_of
from l3hpc.steps.params import LEAST, MAX_SEED, MOST
from l3hpc.steps.reduction import Fit, teacher_dim, teacher_window
from l3hpc.steps.sample import check_timezone
from l3hpc.steps.task import Task
from l3hpc.steps.training import EpochParams, TrainingRow, loop_fields, loop_options, schedule_of

if TYPE_CHECKING:
    from l3hpc.datasets.training_pairs import TrainingPairs
    from l3hpc.models.spec import NetworkSpec

TAB: Final = "embedding_approx_mse"
RATE = 1e-3  # selected on real recordings: docs/recipe.md
PUBLISHED: dict[str, Any] = {
    "head": "relu", "epochs": 300, "epoch_size": 4096, "validation_epoch_size": 1024,
    "batch_size": 64, "validation_batch_size": 64, "bn_momentum": 0.99, "schedule": "plateau",
    "patience": 10, "min_delta": 1e-4, "plateau_patience": 5, "plateau_factor": 0.1}
PUBLISHED_RATE = {"pca": 1e-4, "umap": 1e-4, "none": 1e-5}


class TrainParams(EpochParams):
    """The student's shape and how it is trained."""

    published = PUBLISHED
    added = frozenset({"window", "engine", "precision"})

    recipe: Literal["default", "published"] = Field("default", description=(
        "published: head, epochs, batches, learning rate, schedule and bn_momentum of the "
        "published jobs, unless set explicitly."))
    asr: int = Field(8000, ge=1000, le=192000, description="Audio sampling rate in Hz.")
    mels: int = Field(64, ge=1, le=MOST, description="Number of mel bands.")
    dft: int = Field(1024, ge=16, le=MOST, description="Length of the DFT in samples.")
    hop: int = Field(160, ge=1, le=MOST, description="Hop of the spectrogram in samples.")
    fmax: float | None = Field(None, gt=0, le=MOST, description=(
        "Upper edge of the mel bands in Hz (none: half the sample rate)."))
    window: float | None = Field(None, gt=0, le=60, description=(
        "Length of the student's window in seconds (none: that of the teacher). Both have the same "
        "centre."))
    emb_dim: int = Field(128, ge=1, le=MOST, description="Size of the student's embedding.")
    # excluded: a plan holds the filters that follow, which give one network one fingerprint
    width: float | None = Field(None, gt=0, le=1, exclude=True, description=(
        "Width of the student: L3's filters (64 64 128 128 256 256) are multiplied by it, and the "
        "last two convolutions have emb_dim filters (none: 0.5 up to 256 dimensions, 1 up to "
        "512)."))
    filters: tuple[int, ...] | None = Field(None, validate_default=True, description=(
        "Filters of the eight convolutions, in place of a width (none: from the width)."))
    head: Literal["linear", "relu"] = Field("linear", description=(
        "Last activation: linear can reach the negative values of a PCA; relu is the published "
        "one."))
    learning_rate: float | None = Field(None, ge=LEAST, le=1, description=(
        "Adam's initial learning rate (none: 1e-3; published: 1e-4, or 1e-5 without a reduction)."))
    schedule: Literal["plateau", "cosine"] = Field("plateau", description=(
        "plateau: reduce the rate when the validation loss stalls; cosine: half a cosine from the "
        "initial rate to zero over all epochs."))
    validation_share: float = Field(0.1, gt=0, lt=1, description=(
        "Fraction of the rows used for validation, split by recording and day (train/ and "
        "validate/ folders take precedence)."))
    timezone: str = Field("America/New_York", description="Time zone in which days are counted.")
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the batch normalisation statistics (none: 0.99, or less if an epoch has fewer "
        "than 459 batches, so that each epoch is validated with its own statistics)."))
    seed: int = Field(20180216, ge=0, le=MAX_SEED, description=(
        "Seed of weights, batch order and split."))
    audio_dir: Path | None = Field(None, description=(
        "Folder of the audio (none: where extract found it)."))
    embedding_key: str | None = Field(None, description=(
        "HDF5 dataset of the targets, if published files contain several."))
    cache: Literal["float32", "float16"] = Field("float32", description=(
        "Type of the log-mel spectra cached on disk during training; float16 halves the space."))
    tensorboard: bool = Field(False, description="Also write TensorBoard event files.")
    engine: Literal["tensorflow", "torch"] = Field("tensorflow", description=(
        "Library that trains; torch: PyTorch, on one GPU or the CPU."))
    precision: Literal["float32", "tf32", "bfloat16"] = Field("float32", description=(
        "Precision of the convolutions with the engine torch (TensorFlow: mixed_precision); tf32 "
        "needs a GPU."))

    @field_validator("filters")
    @classmethod
    def _scale(cls, filters: tuple[int, ...] | None, info: ValidationInfo
               ) -> tuple[int, ...] | None:
        from l3hpc.models.spec import student_filters

        width, emb_dim = info.data.get("width"), info.data.get("emb_dim")
        if width is None or emb_dim is None:  # emb_dim is None if it is invalid, which is refused
            return filters
        if filters is not None:
            raise ValueError("give either width or filters, not both")
        filters = student_filters(emb_dim, width)
        # stating the usual width must not make another artifact
        usual = emb_dim <= 512 and filters == student_filters(emb_dim)
        return None if usual else filters

    def rate_for(self, approx: str) -> float:
        """The initial learning rate for targets of this kind (``pca``, ``umap``, ``none``)."""
        if self.learning_rate is not None:
            return self.learning_rate
        return PUBLISHED_RATE[approx] if self.recipe == "published" else RATE


class Train(Step[TrainParams]):
    """A student that learns the teacher's (reduced) embeddings."""

    name = "train"
    version = 2
    title = "the student network, trained on the reduced embeddings"
    params_type = TrainParams
    inputs = {"extract": Input(required=False), "reduce": Input(required=False)}
    not_in_fingerprint = frozenset({
        "audio_dir", "tensorboard", "checkpoint_every", "checkpoint_batches"})
    output = Output.STUDENT
    continues = True
    tab = TAB
    ledger_folder = "model_dir"
    report_items = frozenset({ReportItem.TRAINING})
    kept_files = ("history.csv", "*.h5", "*.keras", "config.json")

    def implied(self, stated: Mapping[str, Any], earlier: PlanParams,
                audio: Path | None) -> dict[str, Any]:
        """The folder of audio, and without a reduction the length of the teacher's embedding."""
        values: dict[str, Any] = {}
        teacher = Extract().params_in(earlier)
        if teacher is None and audio is not None and "audio_dir" not in stated:
            values["audio_dir"] = str(audio)
        if teacher is not None and Fit().params_in(earlier) is None and "emb_dim" not in stated:
            values["emb_dim"] = teacher_dim(teacher.weights)
        return values

    def check(self, params: TrainParams, plan: PlanParams) -> None:
        """Refuse a student that cannot be built, or whose embedding differs in size from its
        target."""
        from l3hpc.models.spec import check_student

        reduction, teacher = Fit().params_in(plan), Extract().params_in(plan)
        check_student(params.asr, params.mels, params.hop, params.dft, params.fmax, params.emb_dim,
                      params.filters, _planned_window(params, plan))
        check_timezone(params.timezone, "train.timezone")
        _check_engine(params)
        if reduction is not None and reduction.approx != "none":
            if reduction.emb_dim != params.emb_dim:
                raise InputError(
                    f"the student has {params.emb_dim} dimensions but φ gives {reduction.emb_dim}.",
                    where="train.emb_dim",
                    allowed=f"Set both with {option('emb-dim')}, or {setting('fit.emb_dim')} and "
                            f"{setting('train.emb_dim')} to one number.")
        elif teacher is not None:
            dim = teacher_dim(teacher.weights)
            if dim != params.emb_dim:
                raise InputError(
                    f"with {option('approx', 'none')} the student needs the teacher's {dim} "
                    f"dimensions, not {params.emb_dim}.",
                    allowed=f"Use {option('emb-dim', dim)}, or {option('approx', 'pca')}.")

    def check_gpus(self, params: TrainParams, gpus: int) -> str:
        """Refuse tf32 without a GPU; note GPUs that PyTorch does not use."""
        check_gpus(params.precision, gpus, self.name)
        if params.engine == "torch" and gpus > 1:
            return f"PyTorch trains on one GPU; {gpus - 1} of {gpus} would be idle " \
                   f"({setting('train.gpus')})"
        return ""

    def check_embeddings(self, params: TrainParams, source: str, available: Collection[str],
                         folder: Path, length: Callable[[str | None], int | None]) -> None:
        """Refuse a target that a student of this length cannot learn, or that has no audio."""
        target = "reduce" if "reduce" in available else "extract"
        key = params.embedding_key if source == target else None
        dim = length(key)
        if source == target and dim not in (None, params.emb_dim):
            raise InputError(
                f"the embeddings in {folder} have {dim} dimensions, "
                f"the student {params.emb_dim}", where=option("emb-dim"),
                hint=f"use {option('emb-dim', dim)} to learn them as they are, or --from sample to "
                     "reduce them")
        if dim is not None and params.audio_dir is not None:
            from l3hpc.datasets.embeddings import open_source, refuse_missing_audio

            embeddings = open_source(folder, key=key)
            if embeddings.kind == "published":
                refuse_missing_audio(embeddings, params.audio_dir)

    def packages(self, params: TrainParams) -> dict[str, str]:
        """PyTorch, for the engine torch."""
        from l3hpc.models.precision import required_packages

        return required_packages("float32", params.engine)

    def describe(self, params: TrainParams, plan: PlanParams) -> str:
        """``student 128-d, 8000 Hz, 64 mels, hop 160, DFT 1024, 584,420 parameters``, and the
        settings of a recipe."""
        from l3hpc.models.spec import parameter_count

        reduction, window_s = Fit().params_in(plan), 1.0
        # a teacher that cannot be read is refused by check
        with contextlib.suppress(InputError):
            window_s = _planned_window(params, plan)
        text = (f"student {params.emb_dim}-d, {params.asr} Hz, {params.mels} mels, "
                f"hop {params.hop}, DFT {params.dft}, "
                + ("" if window_s == 1 else f"windows of {window_s:g} s, ")
                + f"{parameter_count(spec_of(params, window_s)):,} parameters"
                + (f", trained by PyTorch in {params.precision}" if params.engine == "torch"
                   else ""))
        if params.recipe == "default":
            return text
        epoch = count_of(params.epoch_size, "batch", "batches") if params.epoch_size else "all data"
        text += f"; {params.recipe} recipe: {params.head} head, "
        text += f"{count_of(params.epochs, 'epoch')} of {epoch}"
        if reduction is not None:
            return f"{text}, learning rate {params.rate_for(reduction.approx):g}"
        if Extract().params_in(plan) is not None:  # the target is the teacher's own embedding
            return f"{text}, learning rate {params.rate_for('none'):g}"
        return text

    def digests(self, params: TrainParams) -> dict[str, Any]:
        """The audio, if given, by its listing."""
        from l3hpc.datasets.corpus import manifest_digest, scan_recordings

        return {"audio": None if params.audio_dir is None
                else manifest_digest(scan_recordings(params.audio_dir))}

    def run(self, params: TrainParams, task: Task) -> dict[str, Any]:
        """Train, and write the models, ``history.csv`` and ``student.json``.

        Intermediate files are in scratch; a killed task resumes from its last checkpoint.
        """
        from l3hpc.datasets.pair_cache import cache_bytes, prepare_cache
        from l3hpc.datasets.training_pairs import find_pairs, split_pairs
        from l3hpc.io.files import digest
        from l3hpc.models.spec import parameter_count
        from l3hpc.models.training import loop as training

        pairs = find_pairs(task.inputs.get("extract"), task.inputs.get("reduce"), params.audio_dir,
                           key=params.embedding_key, timezone=params.timezone)
        spec = spec_of(params, params.window or pairs.window_s)
        if pairs.dim != spec.dim:
            raise InputError(f"the targets have {pairs.dim} dimensions, the student {spec.dim}",
                             where=pairs.key, allowed=option("emb-dim", pairs.dim))
        rows = split_pairs(pairs, params.validation_share, params.seed)
        folder = task.roomy("cache", cache_bytes(pairs, spec.frontend, params.cache))
        cache = prepare_cache(pairs, spec.frontend, folder, kind=params.cache,
                              threads=task.threads, progress=task.progress)
        row = _row(params, task, pairs, spec, rows)
        task.progress.note(f"{count_of(len(rows[0]), 'window')} to train on, "
                           f"{len(rows[1]):,} to validate")
        row.record({})
        # Without the engine: either continues a checkpoint of the other.
        deciding = params.model_dump(mode="json", exclude={*self.not_in_fingerprint, "engine"})
        trainer = training.Training(
            spec, cache, rows, task.scratch / "training", schedule_of(params),
            **loop_options(params, task, row), learning_rate=params.rate_for(pairs.approx),
            engine_name=params.engine, precision=params.precision,
            settings=digest([deciding, pairs.rows, pairs.key]),
            provenance={"teacher": pairs.teacher, "target": pairs.key,
                        **({"reduction": pairs.reduction} if pairs.reduction else {})},
            tensorboard=task.scratch / "training" / "tensorboard" if params.tensorboard else None)
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
            **({"engine": params.engine} if params.engine != "tensorflow" else {}),
            **label_of(pairs.teacher),
        }
        _collect(task, result)
        return result

    def summary(self, results: Results) -> str:
        """``12 epochs, best validation loss 0.409 (epoch 11)``."""
        if not results:
            return ""
        result = results[0]
        epochs = result.get("epochs")
        return (f"{count_of(epochs or 0, 'epoch')}, best validation loss "
                f"{result.get('best_validation_loss', float('nan')):.4g} "
                f"(epoch {result.get('best_epoch')})")

    def networks(self, params: Mapping[str, Any], results: Results
                 ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The student, which follows from the parameters alone."""
        from l3hpc.models.spec import student_spec

        if not params:
            return []
        return [("student", student_spec(
            params["asr"], params["mels"], params["hop"], params["dft"], params["fmax"],
            params["emb_dim"], params["filters"], params["head"],
            _window(params, results)).to_dict())]


def _planned_window(params: TrainParams, plan: PlanParams) -> float:
    """Seconds of the student's window, if the plan says; else one second."""
    teacher = Extract().params_in(plan)
    if params.window or teacher is None:
        return params.window or 1.0
    return teacher_window(teacher.weights, teacher.window)


def _check_engine(params: TrainParams) -> None:
    """Refuse a precision that the engine does not have, or has by another name."""
    if params.engine == "tensorflow" and params.precision != "float32":
        raise InputError(f"the engine tensorflow does not train in {params.precision}",
                         where="train.precision", allowed="float32",
                         hint=f"set {setting('train.engine')} to torch, or "
                              f"{setting('train.mixed_precision')} to true")
    if params.engine == "torch" and params.mixed_precision:
        raise InputError("mixed_precision is a setting of the engine tensorflow",
                         where="train.mixed_precision",
                         hint=f"for the engine torch, set {setting('train.precision')} to bfloat16")


def _gpus(params: TrainParams, task: Task) -> int:
    """How many GPUs will train."""
    if params.engine == "torch":
        from l3hpc.models.training import torch_engine

        return torch_engine.device_count()
    from l3hpc.models.training import tensorflow_engine

    # Once TensorFlow has listed its devices, its number of threads is fixed.
    tensorflow_engine.limit_threads(task.threads)
    return tensorflow_engine.device_count()


def _window(params: Mapping[str, Any], results: Results) -> float:
    """Seconds of the student's window: as set, or as it turned out."""
    spec = results[0].get("spec") if results else None
    return params.get("window") or (spec or {}).get("window_s") or 1.0


def spec_of(params: TrainParams, window_s: float) -> NetworkSpec:
    """The ``NetworkSpec`` of the student.

    Parameters
    ----------
    params
        Its parameters.
    window_s
        Length of its window in seconds.
    """
    from l3hpc.models.spec import NetworkSpec, student_filters

    return NetworkSpec(
        rate=params.asr, n_mels=params.mels, hop=params.hop, n_dft=params.dft, fmax=params.fmax,
        filters=tuple(params.filters or student_filters(params.emb_dim)), head=params.head,
        emb_dim=params.emb_dim, window_s=window_s)


def _collect(task: Task, result: Mapping[str, Any]) -> None:
    """Copy the files to keep from scratch into the output."""
    import shutil

    from l3hpc.io.files import write_json
    from l3hpc.models.training import loop as training

    folder = task.scratch / "training"
    for name in (training.BEST_LOSS, training.BEST_MAE, training.LATEST, training.HISTORY):
        shutil.copyfile(folder / name, task.output / name)
    if (folder / "tensorboard").is_dir():
        shutil.copytree(folder / "tensorboard", task.output / "tensorboard")
    write_json(task.output / "student.json", dict(result))


def _row(params: TrainParams, task: Task, pairs: TrainingPairs, spec: NetworkSpec,
         rows: tuple[Sized, Sized]) -> TrainingRow:
    """The row of the run in the ledger, with the columns of the published sheet."""
    from l3hpc.models.weights import random_weights_note

    target = str(task.inputs.get("reduce") or task.inputs.get("extract"))
    published = any(unit.split for unit in pairs.units)
    folder = str(pairs.audio)
    return TrainingRow(task, TAB, {
        "note": random_weights_note(pairs.teacher),
        "model_dir": str(task.labels.get("model_dir") or task.output),
        "train_data_dir": f"{folder}/train" if published else folder,
        "validation_data_dir": f"{folder}/validate" if published else folder,
        "reduced_emb_train_dir": f"{target}/train" if published else target,
        "reduced_emb_valid_dir": f"{target}/validate" if published else target,
        "approx_mode": "mse" if pairs.approx == "none" else pairs.approx,
        "emb_key": pairs.key, "model_repr": spec.model_repr, "student_emb_len": spec.dim,
        **loop_fields(params, task, rows, params.rate_for(pairs.approx), gpus=_gpus(params, task)),
    }, measure="mae")
