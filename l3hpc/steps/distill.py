"""distill: a compressed network learns the teacher's embedding of the same audio (EdgeL3's "kd").

Mean squared error, mean absolute error as a metric; zeros stay zero. A network that gives fewer
values than the teacher learns φ(teacher), the output of reduce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.steps import retraining
from l3hpc.steps.base import Task

NAME = "distill"
VERSION = 1
TITLE = "compressed networks, trained on the teacher's embeddings"
INPUTS = {"extract": "optional", "reduce": "optional", "prune": "required"}
CONTINUES = True  # a checkpoint carries on what a time limit ends
TAB = retraining.TAB
PLACES = retraining.PLACES | {"audio_dir"}
TOLD = "distill.json"


class Params(retraining.RetrainParams):
    """How the network is trained, and on what."""

    validation_share: float = Field(0.1, gt=0, lt=1, description=(
        "Share of rows for validation, by recording and day (folders train/ and validate/ win)."))
    timezone: str = Field("America/New_York", description="Time zone that tells the days apart.")
    audio_dir: Path | None = Field(None, description=(
        "Folder of the audio (none: where extract found it)."))
    embedding_key: str | None = Field(None, description=(
        "Dataset of the targets, where published files hold several."))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a network whose length is not that of its target."""
    from l3hpc.steps import extract, fit, prune
    from l3hpc.steps.sample import check_timezone

    own, cut = params.get(NAME), params.get("prune")
    if not isinstance(own, Params):
        return
    check_timezone(own.timezone, "distill.timezone")
    if not isinstance(cut, prune.Params):
        return
    dim = prune.spec_after(cut).dim
    reduction, teacher = params.get("fit"), params.get("extract")
    target = None
    if isinstance(reduction, fit.Params) and reduction.approx != "none":
        target = reduction.emb_dim
    elif isinstance(teacher, extract.Params):
        target = fit.teacher_dim(teacher.weights)
    if target not in (None, dim):
        raise InputError(
            f"the compressed network gives {dim} values, its target {target}", where="distill",
            hint=f"let it learn φ(teacher): --approx pca --emb-dim {dim}")


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task per network of prune."""
    from l3hpc.steps.prune import parts

    return parts(upstream)


def digests(params: BaseModel) -> dict[str, Any]:
    """Audio named by the parameters, by its listing."""
    from l3hpc.datasets.corpus import manifest_digest, scan

    assert isinstance(params, Params)
    return {"audio": manifest_digest(scan(params.audio_dir)) if params.audio_dir else None}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Train to the end; write the models, ``history.csv`` and ``distill.json``.

    A task that was killed goes on at its last checkpoint, with the same bits.
    """
    from l3hpc.compression.retraining import MaskedTraining
    from l3hpc.datasets.training_pairs import find_pairs, prepare, split
    from l3hpc.io.files import digest, digest_file, write_json
    from l3hpc.models import training
    from l3hpc.models.training_engine import limit_threads
    from l3hpc.models.weights import load_parameters
    from l3hpc.steps.prune import network_file

    assert isinstance(params, Params)
    network, told = retraining.start(params, task)
    pairs = find_pairs(task.inputs.get("extract"), task.inputs.get("reduce"), params.audio_dir,
                       key=params.embedding_key, timezone=params.timezone)
    if pairs.dim != network.spec.dim:
        raise InputError(f"the targets have {pairs.dim} dimensions, the network "
                         f"{network.spec.dim}", where=pairs.key,
                         hint="reduce them first: --approx pca --emb-dim "
                              f"{network.spec.dim}")
    rows = split(pairs, params.validation_share, params.seed)
    cache = prepare(pairs, network.spec.frontend, task.scratch / "cache", threads=task.threads,
                    progress=task.progress)
    limit_threads(task.threads)
    told.setdefault("teacher", pairs.teacher)
    row = retraining.row(params, task, network, told, step=NAME, rows=rows, data=pairs.audio)
    row.record({})
    deciding = params.model_dump(mode="json", exclude=set(PLACES))
    first = digest_file(network_file(task.inputs["prune"], task.shard.get("part")))
    folder = task.scratch / "training"
    trainer = MaskedTraining(
        network.spec, cache, rows, folder, params.schedule(), **params.options(),
        threads=task.threads, settings=digest([deciding, pairs.rows, pairs.key, first]),
        provenance={**told, "target": pairs.key, "made_by": NAME}, progress=task.progress,
        first=network, on_epoch=row.epoch, guard=task.preemption.on_signal)
    status = trainer.run()
    row.epoch(status, state="finished")
    retraining.keep(folder, task.output, {name: name for name in (
        training.BEST_LOSS, training.BEST_MAE, training.LATEST, training.HISTORY)})
    best, _ = load_parameters(task.output / training.BEST_LOSS)
    result = {
        "plan": told.get("plan"), "epochs": status.epoch,
        "best_epoch": status.best_loss_epoch + 1, "best_validation_loss": status.best_loss,
        "best_validation_mae": status.best_mae, "stopped_early": status.stopped,
        "model": training.BEST_LOSS, "train_rows": len(rows[0]), "validation_rows": len(rows[1]),
        "target": pairs.key, "approx": pairs.approx, "spec": network.spec.to_dict(),
        "learning_rate": params.learning_rate, **retraining.counts(network, best)}
    write_json(task.output / TOLD, result)
    return result


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``95.45: validation loss 0.0312 (epoch 11 of 12)``."""
    return "; ".join(f"{one.get('plan')}: validation loss {one['best_validation_loss']:.4g} "
                     f"(epoch {one['best_epoch']} of {one['epochs']})" for one in results)
