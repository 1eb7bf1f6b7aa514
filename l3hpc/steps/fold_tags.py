"""folds and score for clips with several labels: a tag classifier per test fold, and its AUPRC."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.errors import InputError, L3hpcError
from l3hpc.steps.fold_params import (
    LABEL_COLUMNS,
    PARTS,
    FoldsParams,
    check_embedded,
    common_row,
    grid,
    noted,
    own_data,
    planned_dataset,
    score_columns,
    tested_name,
)
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.tagging.classifier import Classifier

TAB: Final = "clip_tags"
METRICS = ("micro_auprc", "mean_average_precision", "micro_f1")
CLASSES = "class_average_precision"


def run_fold(params: FoldsParams, task: Task) -> dict[str, Any]:
    """Train a tag classifier for one test fold, and write what the step folds writes.

    The candidate with the highest micro-AUPRC on the validation clips is selected, each with its
    epoch of the lowest validation loss. It is not trained again on the validation clips, which
    decide when training stops.

    Parameters
    ----------
    params
        Parameters of the step.
    task
        The fold, and the embeddings.

    Returns
    -------
    dict
        The result of the task.
    """
    from l3hpc.classification.folds import split
    from l3hpc.datasets.clips import artifact_attributes, load_clips
    from l3hpc.io.files import write_json
    from l3hpc.models.training.tensorflow_engine import limit_threads
    from l3hpc.tagging.evaluation import clip_scores

    data = planned_dataset(params, task)
    parts = split(np.array([clip.fold for clip in data.clips]),
                  np.array([clip.label for clip in data.clips]),
                  [clip.source for clip in data.clips], task.shard["fold"],
                  ratio=None if params.valid_fold else params.valid_ratio, seed=params.seed)
    listed = {part: [data.clips[row].file for row in getattr(parts, part)] for part in PARTS}
    limit_threads(task.threads)
    task.progress.start("reading embeddings")
    # In the order of the parts, so that each of them is one slice of the file.
    clips = load_clips(task.inputs["embed"], [name for part in PARTS for name in listed[part]],
                       functools.partial(task.roomy, "embeddings.bin"), every=params.every,
                       longest=True)
    check_embedded(params, data, clips.files, clips.missing, task, params.max_missing)
    present = set(clips.files)
    files = {part: [name for name in listed[part] if name in present] for part in PARTS}
    assert isinstance(clips.x, RowFile)
    x, start = {}, 0
    for part in PARTS:
        x[part] = clips.x.part(start, start + len(files[part]))
        start += len(files[part])
    labels = {clip.file: clip.labels for clip in data.clips}
    truth = {part: _targets([labels[name] for name in files[part]], len(data.classes))
             for part in PARTS}
    trials, chosen, classifier = _best(params, data.classes, x, truth, task,
                                       data.fold_name(task.shard["fold"]))
    probability = {part: classifier.predict(x[part]) for part in PARTS}
    numbers = {part: clip_scores(truth[part], probability[part], data.classes) for part in PARTS}
    embedded = artifact_attributes(task.inputs["embed"])
    best = classifier.history[classifier.best_epoch - 1]
    losses = {"train": best["loss"], "valid": best["val_loss"]}
    write_json(task.output / "fold.json", {
        **params.model_dump(mode="json"), "fold": task.shard["fold"], "data": data.kind,
        "part": data.part, "folds": data.tested_folds, "split": data.has_split,
        "several": True, "classes": list(data.classes), "chosen": chosen, "trials": trials,
        "best_epochs": classifier.best_epoch,
        "scores": numbers, "losses": losses, "missing": clips.missing, "files": files,
        "embeddings": str(task.inputs["embed"]), "network": embedded.get("teacher") or {}})
    _write_predictions(task.output / "predictions.csv", files, truth, probability, data.classes)
    row = {**common_row(params, task, embedded, data.part), **chosen,
           "train_batch_size": classifier.config.batch_size, "patience": params.patience,
           "num_epochs": classifier.best_epoch,
           **{f"{part}_loss": loss for part, loss in losses.items()},
           **{f"{part}_{name}": numbers[part][name] for part in PARTS
              for name in METRICS if part == "test" or name != "micro_f1"},
           f"test_{CLASSES}": json.dumps({
               name: value if value is None else round(value, 6)
               for name, value in numbers["test"][CLASSES].items()})}
    task.recorder.record(TAB, {**row, **own_data(data, row["note"])})
    return {"fold": task.shard["fold"], "split": data.has_split, "model": params.model,
            "part": data.part, "metric": "micro-AUPRC", "chosen": chosen,
            **{part: numbers[part]["micro_auprc"] for part in PARTS},
            **({"note": row["note"]} if row["note"] else {}),
            "clips": len(clips.files), "missing": len(clips.missing)}


def _targets(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """1 where a clip has the tag, (clips, classes)."""
    targets = np.zeros((len(labels), classes), np.float32)
    for row, own in zip(targets, labels, strict=True):
        row[list(own)] = 1
    return targets


def _best(params: FoldsParams, classes: Sequence[str], x: Mapping[str, RowFile],
          truth: Mapping[str, np.ndarray], task: Task, doing: str
          ) -> tuple[list[dict[str, Any]], dict[str, float], Classifier]:
    """All candidates with their scores, the selected parameters, and their classifier."""
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.tagging.classifier import ClassifierConfig, batch_for
    from l3hpc.tagging.evaluation import clip_scores
    from l3hpc.tagging.training import train

    # Numbers in place of names, which may have signs that a file of tags cannot hold.
    numbers = range(1, len(classes) + 1)
    taxonomy = Taxonomy({number: f"class {number}" for number in numbers},
                        {number: {1: f"class {number}"} for number in numbers})
    candidates, trials = grid(params), []
    task.progress.start(doing, total=len(candidates), unit="fits")
    best: tuple[tuple[float, float], dict[str, float], Classifier] | None = None
    diverged: L3hpcError | None = None
    for candidate in candidates:
        config = ClassifierConfig(
            learning_rate=candidate["learning_rate"], l2=candidate["weight_decay"],
            batch_size=min(params.batch_size, batch_for(len(x["train"]))), epochs=params.epochs,
            patience=params.patience, seed=params.seed)
        try:
            classifier = train(config, taxonomy, x["train"], truth["train"], x["valid"],
                               truth["valid"])
        except InputError:
            raise
        except L3hpcError as error:
            diverged = error
            trials.append({**candidate, "valid_micro_auprc": None, "valid_loss": None, "epochs": 0})
            task.progress.note(f"learning rate {candidate['learning_rate']:g}: {error.message}")
            continue
        score = clip_scores(truth["valid"], classifier.predict(x["valid"]), classes)["micro_auprc"]
        loss = classifier.history[classifier.best_epoch - 1]["val_loss"]
        trials.append({**candidate, "valid_micro_auprc": score, "valid_loss": loss,
                       "epochs": classifier.best_epoch})
        if best is None or (-score, loss) < best[0]:
            best = (-score, loss), dict(candidate), classifier
        task.progress.advance(1, micro_auprc=score)
    if best is None:
        assert diverged is not None
        raise diverged
    return trials, best[1], best[2]


def _write_predictions(path: Path, files: Mapping[str, Sequence[str]],
                       truth: Mapping[str, np.ndarray], probability: Mapping[str, np.ndarray],
                       classes: Sequence[str]) -> None:
    """Of the validation and test clips: file, part, labels, probability of each class."""
    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*LABEL_COLUMNS, *score_columns(classes)])
    for part in ("valid", "test"):
        for name, own, values in zip(files[part], truth[part], probability[part], strict=True):
            labels = ";".join(classes[tag] for tag in np.flatnonzero(own).tolist())
            # Nine digits are exact: the scores can be computed again from the file.
            writer.writerow([name, part, labels, *(f"{value:.9g}" for value in values)])
    write_text(path, stream.getvalue())


def combined(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scores over all folds.

    Parameters
    ----------
    records
        The contents of ``fold.json``.

    Returns
    -------
    dict
        Each of ``METRICS`` with its mean and interval, ``class_average_precision`` (the mean over
        the folds that have the class) and ``folds``.
    """
    from l3hpc.classification.scores import CONFIDENCE, METHOD, over_folds
    from l3hpc.models.weights import random_weights_note

    first, tested = records[0], [one["scores"]["test"] for one in records]
    # a fold without clips of a class says nothing about it, and is no 0
    each = {name: [one[CLASSES][name] for one in tested if one[CLASSES][name] is not None]
            for name in first["classes"]}
    return {
        "data": first["data"], "part": first["part"], "model": first["model"],
        "confidence": CONFIDENCE,
        "method": "none: a single test part" if first.get("split") else METHOD,
        **{metric: over_folds([one[metric] for one in tested]) for metric in METRICS},
        CLASSES: {name: float(np.mean(own)) if own else None for name, own in each.items()},
        "folds": {tested_name(one): {
            **{metric: test[metric] for metric in METRICS}, "clips": test["clips"],
            "valid_micro_auprc": one["scores"]["valid"]["micro_auprc"], "chosen": one["chosen"],
        } for one, test in zip(records, tested, strict=True)},
        "missing": first["missing"], "network": first["network"].get("label"),
        "note": noted(random_weights_note(first["network"]), first["part"]),
    }
