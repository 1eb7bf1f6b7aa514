"""finetune: compressed networks learn audio-visual correspondence again (EdgeL3's "ft").

The vision branch is frozen: every picture is seen once, training reads what it saw. Categorical
cross-entropy and accuracy; zeros stay zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.steps import judging, retraining
from l3hpc.steps.base import Task

NAME = "finetune"
VERSION = 1
TITLE = "compressed networks, trained on audio-visual correspondence"
INPUTS = {"prune": "required"}
CONTINUES = True
TAB = retraining.TAB
PLACES = retraining.PLACES | {"avc", "scenes"}
TOLD, BEST_ACC = "finetune.json", "model_best_valid_acc.h5"


class Params(retraining.RetrainParams):
    """How the network is trained, with which vision branch, on which pairs."""

    avc: Path | None = Field(None, description=(
        "Correspondence network (a whole one of avc_train): its vision branch and fusion head."))
    scenes: Path | None = Field(None, description=(
        "Folder of audio-visual batches, with train and validate files."))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a missing correspondence network, and one whose audio branch ends otherwise."""
    from l3hpc.steps import prune

    own, cut = params.get(NAME), params.get("prune")
    if not isinstance(own, Params):
        return
    _complete(own)
    assert own.avc is not None
    if isinstance(cut, prune.Params):
        judging.check_branch(prune.spec_after(cut), own.avc)


def _complete(own: Params) -> None:
    if own.avc is None and own.scenes is None:
        raise InputError("finetune needs a correspondence network and pairs", where="finetune.avc",
                         hint="--avc avc.h5 --scenes FOLDER")
    judging.check_scenes(own.avc, own.scenes, NAME)


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task per network of prune."""
    from l3hpc.steps.prune import parts

    return parts(upstream)


def digests(params: BaseModel) -> dict[str, Any]:
    """The correspondence network by its bytes, the batches by their listing."""
    assert isinstance(params, Params)
    return judging.scene_digests(params.avc, params.scenes)


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Train to the end; write the models, ``history.csv`` and ``finetune.json``.

    A task that was killed goes on at its last checkpoint, with the same bits.
    """
    import numpy as np

    from l3hpc.avc.batches import Batches
    from l3hpc.avc.network import load_avc
    from l3hpc.compression.correspondence import dressed, head_for, look, undressed
    from l3hpc.compression.retraining import CorrespondenceTraining
    from l3hpc.io.files import digest, digest_file, write_json
    from l3hpc.models import training
    from l3hpc.models.training_engine import limit_threads
    from l3hpc.models.weights import load_parameters, save
    from l3hpc.steps.prune import network_file

    assert isinstance(params, Params)
    _complete(params)
    assert params.avc is not None and params.scenes is not None
    network, told = retraining.start(params, task)
    judging.check_branch(network.spec, params.avc)
    limit_threads(task.threads)
    whole = load_avc(params.avc)
    inside = dressed(network, whole.parameters())
    head, fresh = head_for(whole, inside, params.seed)
    parts = [Batches.find(params.scenes, split) for split in ("train", "validate")]
    batches = Batches([*parts[0].files, *parts[1].files])
    rows = (np.arange(parts[0].rows), np.arange(parts[0].rows, batches.rows))
    known = digest_file(params.avc)
    seen = look(whole, batches, np.arange(batches.rows), network.spec.frontend,
                task.scratch / "seen", settings=known, progress=task.progress)
    row = retraining.row(params, task, network, told, step=NAME, rows=rows, data=params.scenes)
    row.record({})
    deciding = params.model_dump(mode="json", exclude=set(PLACES))
    first = digest_file(network_file(task.inputs["prune"], task.shard.get("part")))
    folder = task.scratch / "training"
    trainer = CorrespondenceTraining(
        inside.spec, seen, rows, folder, params.schedule(), **params.options(),
        threads=task.threads, settings=digest([deciding, batches.rows, first, known]),
        provenance={**told, "target": "audio-visual correspondence", "made_by": NAME},
        progress=task.progress,
        first=inside, head=head, on_epoch=row.epoch, guard=task.preemption.on_signal)
    status = trainer.run()
    row.epoch(status, state="finished")
    for name, target in ((training.BEST_LOSS, training.BEST_LOSS),
                         (training.BEST_MAE, BEST_ACC), (training.LATEST, training.LATEST)):
        trained, _ = load_parameters(folder / name)
        save(undressed(trained, network.spec), task.output / target, trainer.provenance)
    _write_history(task.output / training.HISTORY, status)
    best, _ = load_parameters(task.output / BEST_ACC)
    result = {
        "plan": told.get("plan"), "epochs": status.epoch, "best_epoch": status.best_mae_epoch + 1,
        "best_validation_accuracy": 1 - status.best_mae, "best_validation_loss": status.best_loss,
        "stopped_early": status.stopped, "model": BEST_ACC, "fresh_head": fresh,
        "train_pairs": len(rows[0]), "validation_pairs": len(rows[1]),
        "spec": network.spec.to_dict(), "learning_rate": params.learning_rate,
        **retraining.counts(network, best)}
    write_json(task.output / TOLD, result)
    return result


def _write_history(path: Path, status: Any) -> None:
    """``history.csv`` with accuracies, in the columns of the correspondence training."""
    import csv
    import io

    from l3hpc.avc.training import COLUMNS, told
    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(told(row) for row in status.history)
    write_text(path, stream.getvalue())


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``95.45: correspondence 0.781 (epoch 4 of 9)``."""
    return "; ".join(f"{one.get('plan')}: correspondence {one['best_validation_accuracy']:.3f} "
                     f"(epoch {one['best_epoch']} of {one['epochs']})" for one in results)
