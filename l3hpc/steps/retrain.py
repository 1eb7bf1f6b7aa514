"""distill and finetune: compressed networks are re-trained, and pruned weights stay zero.

``distill``: a network learns the teacher's embedding of the same audio (EdgeL3's "kd"), by mean
squared error, with the mean absolute error as a metric. One that gives fewer values than the
teacher learns φ(teacher), the output of reduce.

``finetune``: a network learns audio-visual correspondence again (EdgeL3's "ft"), by categorical
cross-entropy, with the accuracy as a metric. The vision branch is frozen: its output for every
image is computed once, and training reads that.

Both record rows of the ledger tab ``prunedembedding``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from l3hpc.errors import InputError, option
from l3hpc.io.values import count_of
from l3hpc.steps import prune
from l3hpc.steps.base import Input, PlanParams, Results, Shard, Step, Upstream
from l3hpc.steps.extract import Extract
from l3hpc.steps.networks import AVC_OF_RUN, PAIRS_OF_RUN, label_of
from l3hpc.steps.params import LEAST, MAX_SEED
from l3hpc.steps.prune import Prune, network_file, parts, spec_after
from l3hpc.steps.reduction import Fit, teacher_dim
from l3hpc.steps.sample import check_timezone
from l3hpc.steps.task import Task
from l3hpc.steps.training import EpochParams, TrainingRow, loop_fields, loop_options, schedule_of

TAB: Final = "prunedembedding"
METADATA = {"distill": "distill.json", "finetune": "finetune.json"}
BEST_ACC = "model_best_valid_acc.h5"
RATE = 1e-4
FINETUNE_SPLITS = ("train", "validate")
PUBLISHED: dict[str, Any] = {
    "epochs": 300, "epoch_size": 4096, "validation_epoch_size": 1024, "batch_size": 64,
    "validation_batch_size": 64, "learning_rate": 1e-5, "bn_momentum": 0.99, "patience": 10,
    "min_delta": 1e-4, "plateau_patience": 5, "plateau_factor": 0.1}
NOT_IN_FINGERPRINT = frozenset({"checkpoint_every", "checkpoint_batches"})


class RetrainParams(EpochParams):
    """How long and how fast a network is re-trained."""

    published = PUBLISHED

    recipe: Literal["default", "published"] = Field("default", description=(
        "published: epochs, batches, learning rate (1e-5) and momentum of the published jobs, "
        "unless set explicitly."))
    learning_rate: float = Field(RATE, ge=LEAST, le=1, description="Adam's initial learning rate.")
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the batch normalisation statistics (none: 0.99, or less for short epochs)."))
    seed: int = Field(20180216, ge=0, le=MAX_SEED, description="Seed of batch order and split.")


def _described(plan: PlanParams, learns: str, params: RetrainParams, data: str) -> str:
    """One line for the preview of a plan: network, target, epochs, learning rate."""
    pruned = Prune().params_in(plan)
    dim = f"{spec_after(pruned).dim}-d, " if pruned is not None else ""
    epoch = (count_of(params.epoch_size, "batch", "batches") if params.epoch_size
             else f"all {data}")
    recipe = "published recipe: " if params.recipe == "published" else ""
    return (f"{dim}{learns}; {recipe}{count_of(params.epochs, 'epoch')} of {epoch}, "
            f"learning rate {params.learning_rate:g}")


def _start(params: RetrainParams, task: Task) -> tuple[Any, dict[str, Any]]:
    """The compressed network of this task, and the metadata of its file."""
    from l3hpc.models.weight_files import open_network
    from l3hpc.models.weights import load_parameters

    path = network_file(task.inputs["prune"], task.shard.get("part"))
    network, info = load_parameters(path)
    with open_network(path) as stored:
        metadata = dict(stored.provenance)
    task.progress.note(f"re-training {info.label}, plan {metadata.get('plan', 'unknown')}")
    return network, metadata


def _counts(before: Any, after: Any) -> dict[str, Any]:
    """Non-zero weights before and after; an error where a pruned weight is no longer zero."""
    import numpy as np

    from l3hpc.compression.pruning import kernels, nonzero_masks
    from l3hpc.errors import L3hpcError

    if any(np.any(kernel[~mask]) for mask, kernel in zip(nonzero_masks(before), kernels(after),
                                                         strict=True)):
        raise L3hpcError("a pruned weight is no longer zero after re-training",
                         hint="This is a bug; please report it.")
    return {"non_zero": sum(int(np.count_nonzero(one)) for one in kernels(after)),
            "non_zero_before": sum(int(np.count_nonzero(one)) for one in kernels(before))}


def _row(params: RetrainParams, task: Task, network: Any, metadata: Mapping[str, Any], *,
         step: str, data: Path, rows: tuple[Any, Any]) -> TrainingRow:
    """The task's row of the ledger, with the columns of the published sheet.

    ``data`` is the folder of the training data, ``rows`` the row numbers of training and
    validation. Cells of the accuracy, which distillation does not have, stay empty.
    """
    from l3hpc.compression.pruning import zero_percent
    from l3hpc.models.weights import random_weights_note

    labels, sparsity = task.labels, zero_percent(network)
    folder = str(labels.get("model_dir") or task.output.parent)
    return TrainingRow(task, TAB, {
        "note": random_weights_note(metadata.get("teacher")),
        "model_id": f"{step}-{metadata.get('plan', 'own')}",
        "model_dir": f"{folder}/{task.index:04d}", "git_commit": labels.get("git_commit", ""),
        "train_data_dir": str(data), "validation_data_dir": str(data),
        "continue_model_dir": str(task.inputs["prune"]), "model_type": network.spec.model_repr,
        "include_layers": str(len(network.spec.filters)),
        "num_filters": ", ".join(map(str, network.spec.filters)),
        "sparsity": ", ".join(f"{value:.2f}" for value in sparsity),
        "pruning": any(sparsity), "finetune": step == "finetune",
        "knowledge_distilled": step == "distill",
        **loop_fields(params, task, rows, params.learning_rate),
    }, measure="acc" if step == "finetune" else None)


def _keep(folder: Path, output: Path, names: Mapping[str, str]) -> None:
    """Copy files of the training folder into the output, under their names there."""
    import shutil

    for name, target in names.items():
        shutil.copyfile(folder / name, output / target)


class DistillParams(RetrainParams):
    """How a compressed network is trained on embeddings."""

    validation_share: float = Field(0.1, gt=0, lt=1, description=(
        "Fraction of the rows used for validation, split by recording and day (train/ and "
        "validate/ folders take precedence)."))
    timezone: str = Field("America/New_York", description="Time zone in which days are counted.")
    audio_dir: Path | None = Field(None, description=(
        "Folder of the audio (none: where extract found it)."))
    embedding_key: str | None = Field(None, description=(
        "HDF5 dataset of the targets, if published files contain several."))


class Distill(Step[DistillParams]):
    """A compressed network learns the teacher's embedding of the same audio (EdgeL3's "kd")."""

    name = "distill"
    version = 1
    title = "compressed networks, trained on the teacher's embeddings"
    params_type = DistillParams
    inputs = {"extract": Input(required=False), "reduce": Input(required=False), "prune": Input()}
    not_in_fingerprint = NOT_IN_FINGERPRINT | {"audio_dir"}
    continues = True
    tab = TAB
    ledger_folder = "model_dir"

    def check(self, params: DistillParams, plan: PlanParams) -> None:
        """Refuse a network whose embedding differs in size from its target."""
        check_timezone(params.timezone, "distill.timezone")
        pruned = Prune().params_in(plan)
        if pruned is None:
            return
        dim = spec_after(pruned).dim
        reduction, teacher = Fit().params_in(plan), Extract().params_in(plan)
        target = None
        if reduction is not None and reduction.approx != "none":
            target = reduction.emb_dim
        elif teacher is not None:
            target = teacher_dim(teacher.weights)
        if target not in (None, dim):
            raise InputError(
                f"the compressed network gives {dim} values, its target {target}", where="distill",
                hint="use φ(teacher) as the target: "
                     f"{option('approx', 'pca')} {option('emb-dim', dim)}")

    def describe(self, params: DistillParams, plan: PlanParams) -> str:
        """``512-d, learns the teacher's embeddings; 30 epochs of all data, learning rate 0.0001``.
        """
        reduction = Fit().params_in(plan)
        target = "the teacher's embeddings"
        if reduction is not None and reduction.approx != "none":
            target = f"{reduction.approx.upper()} of {target}"
        return _described(plan, f"learns {target}", params, "data")

    def shards(self, params: DistillParams, upstream: Upstream) -> list[Shard]:
        """One task per network of prune."""
        return parts(upstream)

    def digests(self, params: DistillParams) -> dict[str, Any]:
        """The audio, if given, by its listing."""
        from l3hpc.datasets.corpus import manifest_digest, scan_recordings

        return {"audio": None if params.audio_dir is None
                else manifest_digest(scan_recordings(params.audio_dir))}

    def run(self, params: DistillParams, task: Task) -> dict[str, Any]:
        """Train; write the models, ``history.csv`` and ``distill.json``.

        A killed task resumes from its last checkpoint, with identical results.
        """
        from l3hpc.compression.retraining import MaskedTraining
        from l3hpc.datasets.pair_cache import cache_bytes, prepare_cache
        from l3hpc.datasets.training_pairs import find_pairs, split_pairs
        from l3hpc.io.files import digest, digest_file, write_json
        from l3hpc.models.training import loop as training
        from l3hpc.models.training.tensorflow_engine import limit_threads
        from l3hpc.models.weights import load_parameters

        network, metadata = _start(params, task)
        pairs = find_pairs(task.inputs.get("extract"), task.inputs.get("reduce"), params.audio_dir,
                           key=params.embedding_key, timezone=params.timezone)
        if pairs.dim != network.spec.dim:
            raise InputError(f"the targets have {pairs.dim} dimensions, the network "
                             f"{network.spec.dim}", where=pairs.key,
                             hint=f"reduce them first: {option('approx', 'pca')} "
                                  + option("emb-dim", network.spec.dim))
        rows = split_pairs(pairs, params.validation_share, params.seed)
        cache = prepare_cache(pairs, network.spec.frontend,
                              task.roomy("cache", cache_bytes(pairs, network.spec.frontend)),
                              threads=task.threads, progress=task.progress)
        limit_threads(task.threads)
        metadata.setdefault("teacher", pairs.teacher)
        row = _row(params, task, network, metadata, step=self.name, rows=rows, data=pairs.audio)
        row.record({})
        # a checkpoint of another start, or of other data, is not continued
        deciding = params.model_dump(mode="json", exclude=set(self.not_in_fingerprint))
        first = digest_file(network_file(task.inputs["prune"], task.shard.get("part")))
        folder = task.scratch / "training"
        trainer = MaskedTraining(
            network.spec, cache, rows, folder, schedule_of(params),
            **loop_options(params, task, row), learning_rate=params.learning_rate,
            settings=digest([deciding, pairs.rows, pairs.key, first]),
            provenance={**metadata, "target": pairs.key, "reduction": pairs.reduction or None,
                        "made_by": self.name},
            first=network)
        status = trainer.run()
        row.epoch(status, state="finished")
        _keep(folder, task.output, {name: name for name in (
            training.BEST_LOSS, training.BEST_MAE, training.LATEST, training.HISTORY)})
        best, _ = load_parameters(task.output / training.BEST_LOSS)
        result = {
            "plan": metadata.get("plan"), "epochs": status.epoch,
            "best_epoch": status.best_loss_epoch + 1, "best_validation_loss": status.best_loss,
            "best_validation_mae": status.best_mae, "stopped_early": status.stopped,
            "model": training.BEST_LOSS, "train_rows": len(rows[0]),
            "validation_rows": len(rows[1]),
            "target": pairs.key, "approx": pairs.approx, "spec": network.spec.to_dict(),
            "learning_rate": params.learning_rate, **_counts(network, best),
            **label_of(metadata.get("teacher"))}
        write_json(task.output / METADATA[self.name], result)
        return result

    def summary(self, results: Results) -> str:
        """``95.45: validation loss 0.0312 (epoch 11 of 12)``."""
        return "; ".join(f"{one.get('plan')}: validation loss {one['best_validation_loss']:.4g} "
                         f"(epoch {one['best_epoch']} of {one['epochs']})" for one in results)


class FinetuneParams(RetrainParams):
    """How a compressed network is trained, with which vision branch, on which pairs."""

    avc: Path | None = Field(None, description=(
        "Correspondence network (avc_best_valid_loss.h5 of avc_train), for its vision branch and "
        "fusion head."))
    scenes: Path | None = Field(None, description=(
        "Folder of pairs with train and validate files, such as the artifact of avc_pairs."))


class Finetune(Step[FinetuneParams]):
    """Compressed networks learn audio-visual correspondence again (EdgeL3's "ft")."""

    name = "finetune"
    version = 1
    title = "compressed networks, trained on audio-visual correspondence"
    params_type = FinetuneParams
    inputs = {"prune": Input()}
    not_in_fingerprint = NOT_IN_FINGERPRINT | {"avc", "scenes"}
    run_files = {"avc": AVC_OF_RUN, "scenes": PAIRS_OF_RUN}
    continues = True
    tab = TAB
    ledger_folder = "model_dir"

    def check(self, params: FinetuneParams, plan: PlanParams) -> None:
        """Refuse a missing correspondence network, and one with another kind of audio branch."""
        avc, _ = _complete(params)
        pruned = Prune().params_in(plan)
        if pruned is not None:
            prune.check_branch(spec_after(pruned), avc)

    def describe(self, params: FinetuneParams, plan: PlanParams) -> str:
        """``512-d, learns correspondence with the vision branch of avc_best_valid_loss.h5; 30
        epochs of all pairs, learning rate 0.0001``.
        """
        avc, _ = _complete(params)
        return _described(plan, f"learns correspondence with the vision branch of {avc.name}",
                          params, "pairs")

    def shards(self, params: FinetuneParams, upstream: Upstream) -> list[Shard]:
        """One task per network of prune."""
        return parts(upstream)

    def digests(self, params: FinetuneParams) -> dict[str, Any]:
        """The correspondence network by its bytes, the batches by their listing."""
        return prune.scene_digests(params.avc, params.scenes)

    def run(self, params: FinetuneParams, task: Task) -> dict[str, Any]:
        """Train; write the models, ``history.csv`` and ``finetune.json``.

        A killed task resumes from its last checkpoint, with identical results.
        """
        import numpy as np

        from l3hpc.avc.batches import Batches
        from l3hpc.avc.network import load_avc
        from l3hpc.compression.correspondence import (
            embed_images,
            fusion_head,
            with_final_norm,
            without_final_norm,
        )
        from l3hpc.compression.retraining import CorrespondenceTraining
        from l3hpc.io.files import digest, digest_file, write_json
        from l3hpc.models.training import loop as training
        from l3hpc.models.training.tensorflow_engine import limit_threads
        from l3hpc.models.weights import load_parameters, save

        avc, scenes = _complete(params)
        network, metadata = _start(params, task)
        prune.check_branch(network.spec, avc)
        limit_threads(task.threads)
        whole = load_avc(avc)
        inside = with_final_norm(network, whole.parameters())
        head, fresh = fusion_head(whole, inside, params.seed)
        splits = [Batches.find(scenes, split) for split in FINETUNE_SPLITS]
        batches = Batches([*splits[0].files, *splits[1].files])
        rows = (np.arange(splits[0].rows), np.arange(splits[0].rows, batches.rows))
        known = digest_file(avc)
        seen = embed_images(whole, batches, np.arange(batches.rows), network.spec.frontend,
                            task.scratch / "seen", settings=known, progress=task.progress)
        row = _row(params, task, network, metadata, step=self.name, rows=rows, data=scenes)
        row.record({})
        deciding = params.model_dump(mode="json", exclude=set(self.not_in_fingerprint))
        first = digest_file(network_file(task.inputs["prune"], task.shard.get("part")))
        folder = task.scratch / "training"
        trainer = CorrespondenceTraining(
            inside.spec, seen, rows, folder, schedule_of(params),
            **loop_options(params, task, row), learning_rate=params.learning_rate,
            settings=digest([deciding, batches.rows, first, known]),
            provenance={**metadata, "target": "audio-visual correspondence", "reduction": None,
                        "made_by": self.name},
            first=inside, head=head)
        status = trainer.run()
        row.epoch(status, state="finished")
        for name, target in ((training.BEST_LOSS, training.BEST_LOSS),
                             (training.BEST_MAE, BEST_ACC), (training.LATEST, training.LATEST)):
            trained, _ = load_parameters(folder / name)
            save(without_final_norm(trained, network.spec), task.output / target,
                 trainer.provenance)
        _write_history(task.output / training.HISTORY, status)
        best, _ = load_parameters(task.output / BEST_ACC)
        result = {
            "plan": metadata.get("plan"), "epochs": status.epoch,
            "best_epoch": status.best_mae_epoch + 1,
            "best_validation_accuracy": 1 - status.best_mae,
            "best_validation_loss": status.best_loss,
            "stopped_early": status.stopped, "model": BEST_ACC, "fresh_head": fresh,
            "train_pairs": len(rows[0]), "validation_pairs": len(rows[1]),
            "spec": network.spec.to_dict(), "learning_rate": params.learning_rate,
            **_counts(network, best),
            **label_of(metadata.get("teacher"))}
        write_json(task.output / METADATA[self.name], result)
        return result

    def summary(self, results: Results) -> str:
        """``95.45: correspondence 0.781 (epoch 4 of 9)``."""
        return "; ".join(f"{one.get('plan')}: correspondence {one['best_validation_accuracy']:.3f} "
                         f"(epoch {one['best_epoch']} of {one['epochs']})" for one in results)


def _complete(own: FinetuneParams) -> tuple[Path, Path]:
    """The correspondence network and the folder of pairs; an error where one is missing."""
    if own.avc is None or own.scenes is None:
        if own.avc is not None or own.scenes is not None:
            prune.check_scenes(own.avc, own.scenes, "finetune", FINETUNE_SPLITS)
        raise InputError("finetune needs a correspondence network and pairs", where="finetune.avc",
                         hint=f"{option('avc', 'FILE')} {option('scenes', 'FOLDER')}")
    prune.check_scenes(own.avc, own.scenes, "finetune", FINETUNE_SPLITS)
    return own.avc, own.scenes


def _write_history(path: Path, status: Any) -> None:
    """``history.csv`` with accuracies, in the columns of the correspondence training."""
    import csv
    import io

    from l3hpc.avc.training import COLUMNS, history_row
    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history_row(row) for row in status.history)
    write_text(path, stream.getvalue())
