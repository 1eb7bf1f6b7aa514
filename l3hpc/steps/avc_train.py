"""avc_train: an L3 network that learns whether image and sound match.

Its audio branch can be used as a teacher. The science is in ``l3hpc.avc``; the step names the files
and records the ledger row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from l3hpc.errors import InputError, setting
from l3hpc.io.files import digest_file
from l3hpc.io.values import count_of
from l3hpc.steps.avc import AvcPairs, AvcPairsParams
from l3hpc.steps.base import Input, PlanParams, ReportItem, Results, RunFile, Step
from l3hpc.steps.networks import AVC_OF_RUN
from l3hpc.steps.params import LEAST, MAX_BATCH, MAX_SEED, MOST
from l3hpc.steps.task import Task
from l3hpc.steps.training import LoopParams, TrainingRow, loop_fields, loop_options, schedule_of

if TYPE_CHECKING:
    from l3hpc.avc.batches import Batches
    from l3hpc.avc.distillation import TaughtData
    from l3hpc.models.spec import NetworkSpec

TAB: Final = "embedding"
DISTILLATION_TAB: Final = "distillation"
PUBLISHED = (64, 64, 128, 128, 256, 256, 512, 512)
# Allowed although two of its mel bands contain no frequency bin, which is otherwise refused.
PUBLISHED_FRONT = (48000, 256, 242, 2048, None)
AUDIO, TEACHER, VISION = "audio.h5", "teacher.h5", "vision.h5"


class AvcTrainParams(LoopParams):
    """Shapes of the audio and the vision network, and how they are trained."""

    added = frozenset({"teacher", "temperature", "soft_weight"})

    asr: int = Field(48000, ge=1000, le=192000, description="Audio sampling rate in Hz.")
    mels: int = Field(256, ge=1, le=MOST, description="Number of mel bands.")
    dft: int = Field(2048, ge=16, le=MOST, description="Length of the DFT in samples.")
    hop: int = Field(242, ge=1, le=MOST, description="Hop of the spectrogram in samples.")
    fmax: float | None = Field(None, gt=0, le=MOST, description=(
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
    teacher: Path | None = Field(None, description=(
        "Whole network of an earlier avc_train (avc_best_valid_loss.h5), from whose soft labels "
        "this one learns (none: from the labels alone)."))
    temperature: float = Field(2.0, ge=1, le=100, description=(
        "With a teacher: temperature of both softmax outputs."))
    soft_weight: float = Field(0.9, gt=0, le=1, description=(
        "With a teacher: weight of its soft labels, λ; that of the labels is 1 − λ."))
    epochs: int = Field(30, ge=1, le=MOST, description="Maximum number of epochs; published: 300.")
    epoch_size: int | None = Field(None, ge=1, le=MOST, description=(
        "Batches per epoch (none: all pairs); published: 4096."))
    validation_epoch_size: int | None = Field(None, ge=1, le=MOST, description=(
        "Batches per validation (none: all pairs); published: 1024."))
    batch_size: int = Field(64, ge=1, le=MAX_BATCH, description="Pairs per training batch.")
    validation_batch_size: int = Field(64, ge=1, le=MAX_BATCH, description=(
        "Pairs per validation batch."))
    learning_rate: float = Field(1e-4, ge=LEAST, le=1, description="Adam's initial learning rate.")
    schedule: Literal["plateau", "cosine"] = Field("plateau", description=(
        "plateau: reduce the rate when the validation loss stalls; cosine: half a cosine from the "
        "initial rate to zero over all epochs."))
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the batch normalisation statistics (none: as in train)."))
    seed: int = Field(20180216, ge=0, le=MAX_SEED, description="Seed of weights and batch order.")


class AvcTrain(Step[AvcTrainParams]):
    """An L3 network that learns whether image and sound match."""

    name = "avc_train"
    version = 1
    title = "an L3 network, trained on audio-visual correspondence"
    params_type = AvcTrainParams
    inputs = {"avc_pairs": Input()}
    not_in_fingerprint = frozenset({
        "audio_weights", "vision_weights", "teacher", "checkpoint_every", "checkpoint_batches"})
    run_files = {"teacher": AVC_OF_RUN, "audio_weights": RunFile(("avc_train",), (AUDIO,)),
                 "vision_weights": RunFile(("avc_train",), (VISION,))}
    continues = True
    tab = TAB
    further_tabs = (DISTILLATION_TAB,)
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
                             (params.vision_weights, "vision_weights"),
                             (params.teacher, "teacher")):
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
        _check_teacher(params, pairs)

    def describe(self, params: AvcTrainParams, plan: PlanParams) -> str:
        """``audio 512-d, 48000 Hz, 256 mels, 4,691,908 parameters; 30 epochs of all pairs``."""
        from l3hpc.models.spec import parameter_count

        spec = audio_spec(params)
        start = f" from {params.audio_weights.name}" if params.audio_weights else ""
        frozen = "; vision network frozen" if params.freeze_vision else ""
        epoch = (count_of(params.epoch_size, "batch", "batches") if params.epoch_size
                 else "all pairs")
        return (f"audio {spec.dim}-d, {spec.rate} Hz, {spec.n_mels} mels, "
                f"{parameter_count(spec):,} parameters{start}{frozen}; "
                f"{count_of(params.epochs, 'epoch')} of {epoch}"
                f"{f'; soft labels of {params.teacher.name}' if params.teacher else ''}")

    def digests(self, params: AvcTrainParams) -> dict[str, Any]:
        """The weights to start from, and the teacher, by their bytes."""
        found = {name: digest_file(path) if path else None
                 for name, path in (("audio_weights", params.audio_weights),
                                    ("vision_weights", params.vision_weights))}
        # Left out without one, so that the fingerprints of earlier versions hold.
        return found | ({"teacher": digest_file(params.teacher)} if params.teacher else {})

    def run(self, params: AvcTrainParams, task: Task) -> dict[str, Any]:
        """Train, test on separate videos, and write the networks.

        Intermediate files are in scratch; a killed task resumes from its last checkpoint.
        """
        from l3hpc.avc import training
        from l3hpc.avc.batches import AvcData, Batches
        from l3hpc.avc.distillation import Distillation, teach
        from l3hpc.avc.network import load_avc
        from l3hpc.avc.training import evaluate
        from l3hpc.avc.vision import VisionSpec
        from l3hpc.io.files import digest
        from l3hpc.models.training.tensorflow_engine import limit_threads
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
        data: AvcData | TaughtData = AvcData(both, spec.frontend)
        distillation = None
        if params.teacher is not None:
            distillation = Distillation(params.temperature, params.soft_weight)
            data = teach(AvcData(both, spec.frontend), params.teacher, distillation, task.scratch,
                         params.validation_batch_size, task.progress)
        trainer = training.AvcTraining(
            spec, data, rows, task.scratch / "training", schedule_of(params),
            **loop_options(params, task, row), learning_rate=params.learning_rate,
            settings=digest([deciding, self.digests(params),
                             [str(path.name) for path in both.files],
                             both.rows, folder.resolve().name]),
            provenance={"taught by": "audio-visual correspondence", "pairs": folder.resolve().name},
            start=training.InitialNetworks(VisionSpec(both.size, vision_filters(params)), audio,
                                           params.vision_weights, params.freeze_vision),
            distillation=distillation)
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
            **({"distillation": {"teacher": str(params.teacher),
                                 "temperature": params.temperature,
                                 "soft_weight": params.soft_weight}} if params.teacher else {}),
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
                f"{count_of(epochs or 0, 'epoch')}")

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


def _check_teacher(params: AvcTrainParams, pairs: AvcPairsParams | None) -> None:
    """Refuse a teacher that cannot see the pairs, and settings of a teacher without one."""
    from l3hpc.avc.distillation import describe_avc

    if params.teacher is None:
        for name in ("temperature", "soft_weight"):
            if getattr(params, name) != type(params).model_fields[name].default:
                raise InputError(f"{name} is set, but there is no teacher",
                                 where=f"avc_train.{name}",
                                 allowed=f"with {setting('avc_train.teacher')}")
        return
    audio, vision = describe_avc(params.teacher)
    if pairs is not None and (pairs.size != vision.size or pairs.rate < audio.rate):
        raise InputError(
            f"{params.teacher.name} was trained on images of {vision.size} pixels and sound of "
            f"{audio.rate} Hz, not of {pairs.size} pixels and {pairs.rate} Hz",
            where="avc_train.teacher",
            allowed=f"{setting('avc_pairs.size')}={vision.size} and "
                    f"{setting('avc_pairs.rate')} from {audio.rate}")


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
    fields: dict[str, Any]
    if params.teacher is None:
        tab: Literal["embedding", "distillation"] = TAB
        fields = {"samp_rate": spec.rate // 1000, "num_mels": spec.n_mels,
                  "num_hops": math.ceil(spec.rate / spec.hop), "num_dft": spec.n_dft}
    else:
        tab = DISTILLATION_TAB
        fields = {"student": " ".join(map(str, spec.filters)), "teacher": str(params.teacher),
                  "loss_type": "soft labels", "temperature": params.temperature,
                  "lambda": params.soft_weight}
    return TrainingRow(task, tab, {
        "model_id": spec.model_repr, "model_dir": str(labels.get("model_dir") or task.output),
        "git_commit": labels.get("git_commit", ""),
        "train_data_dir": folder, "validation_data_dir": folder,
        "continue_model_dir": str(params.audio_weights or ""), "model_type": "cnn_L3",
        **fields, **loop_fields(params, task, rows, params.learning_rate),
    }, measure="acc")
