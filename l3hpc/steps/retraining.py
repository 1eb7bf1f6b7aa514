"""What the steps distill and finetune share: how a compressed network is trained again, the files
that are kept, and the row of the ledger tab ``prunedembedding``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from l3hpc.steps.base import Task
from l3hpc.steps.training_loop import LoopParams, TrainingRow, loop_fields

TAB = "prunedembedding"
RATE = 1e-4
PUBLISHED: dict[str, Any] = {
    "epochs": 300, "epoch_size": 4096, "validation_epoch_size": 1024, "batch_size": 64,
    "validation_batch_size": 64, "learning_rate": 1e-5, "bn_momentum": 0.99, "patience": 10,
    "min_delta": 1e-4, "plateau_patience": 5, "plateau_factor": 0.1}
PLACES = frozenset({"checkpoint_every", "checkpoint_batches"})
OPTIONS = ("learning_rate", "batch_size", "validation_batch_size", "epoch_size",
           "validation_epoch_size", "bn_momentum", "seed", "mixed_precision", "deterministic",
           "checkpoint_every", "checkpoint_batches")


class RetrainParams(LoopParams):
    """How long and how fast; zeros of the network stay zero throughout."""

    recipe: Literal["default", "published"] = Field("default", description=(
        "published: epochs, batches, learning rate (1e-5) and momentum of the published jobs, "
        "wherever not stated."))
    epochs: int = Field(30, ge=1, description="The most epochs.")
    epoch_size: int | None = Field(None, ge=1, description="Batches per epoch (none: all data).")
    validation_epoch_size: int | None = Field(None, ge=1, description=(
        "Batches per validation (none: all data)."))
    batch_size: int = Field(64, ge=1, description="Examples per training batch.")
    validation_batch_size: int = Field(64, ge=1, description="Examples per validation batch.")
    learning_rate: float = Field(RATE, gt=0, le=1, description="Adam's first learning rate.")
    bn_momentum: float | None = Field(None, gt=0, lt=1, description=(
        "Momentum of the normalisations' moving statistics (none: 0.99, less for short epochs)."))
    seed: int = Field(20180216, ge=0, description="Seed of order and split.")

    @model_validator(mode="before")
    @classmethod
    def _published(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("recipe") == "published":
            return {**PUBLISHED, **values}
        return values

    def schedule(self) -> Any:
        """The ``Schedule`` of the training."""
        from l3hpc.models.training_state import Schedule

        return Schedule(self.epochs, self.patience, self.min_delta, self.plateau_patience,
                        self.plateau_factor)

    def options(self) -> dict[str, Any]:
        """The fields that ``Training`` takes under the same name."""
        return {name: getattr(self, name) for name in OPTIONS}


def start(params: RetrainParams, task: Task) -> tuple[Any, dict[str, Any]]:
    """The compressed network of this task, and what is to be told of where it comes from."""
    from l3hpc.models.weight_files import open_network
    from l3hpc.models.weights import load_parameters
    from l3hpc.steps.prune import network_file

    path = network_file(task.inputs["prune"], task.shard.get("part"))
    network, info = load_parameters(path)
    with open_network(path) as stored:
        told = dict(stored.provenance)
    task.progress.note(f"re-training {info.label}, plan {told.get('plan', 'of its own')}")
    return network, told


def counts(before: Any, after: Any) -> dict[str, Any]:
    """Non-zero weights before and after, and whether any zero came back: it must not."""
    import numpy as np

    from l3hpc.compression.pruning import kernels, masks_of
    from l3hpc.errors import L3hpcError

    if any(np.any(kernel[~mask]) for mask, kernel in zip(masks_of(before), kernels(after),
                                                         strict=True)):
        raise L3hpcError("a pruned weight is no longer zero after re-training",
                         hint="this must not happen: please report it")
    return {"non_zero": sum(int(np.count_nonzero(one)) for one in kernels(after)),
            "non_zero_before": sum(int(np.count_nonzero(one)) for one in kernels(before))}


def row(params: RetrainParams, task: Task, network: Any, told: Mapping[str, Any], *,
        step: str, data: Path, rows: tuple[Any, Any]) -> TrainingRow:
    """The task's row of ``prunedembedding``, in the fields of the published sheet. Distillation has
    no accuracy: those cells stay empty. data: folder of the training data; rows: row numbers of
    training and validation."""
    from l3hpc.compression.pruning import achieved
    from l3hpc.models.weights import caution

    labels, sparsity = task.labels, achieved(network)
    folder = str(labels.get("model_dir") or task.output.parent)
    return TrainingRow(task, TAB, {
        "note": caution(told.get("teacher")), "model_id": f"{step}-{told.get('plan', 'own')}",
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


def keep(folder: Path, output: Path, names: Mapping[str, str]) -> None:
    """Copy files of the training folder into the output, under their names there."""
    import shutil

    for name, target in names.items():
        shutil.copyfile(folder / name, output / target)
