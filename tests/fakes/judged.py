"""Finished evaluations in a workspace, without anything that was run: predictions are drawn."""

import csv
import json

import numpy as np

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
from l3hpc.io.files import write_json
from l3hpc.steps.fold_params import score_columns
from l3hpc.tagging import predictions
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState


def sonyc_ust(folder, clips=60, seed=0):
    """A data set without audio: ``clips`` agreed clips in validate, and as many in test."""
    taxonomy, rng = sonyc_ust_taxonomy(), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    taxonomy.save(folder / "dcase-ust-taxonomy.yaml")
    columns = taxonomy.fine_columns + taxonomy.coarse_columns
    with open(folder / "annotations.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "sensor_id", "audio_filename", "annotator_id",
                         *(f"{column}_presence" for column in columns)])
        for split in ("validate", "test"):
            for clip in range(clips):
                fine = (rng.random(len(taxonomy.fine)) < 0.12).astype(int)
                coarse = [int(any(fine[place] for place, one in enumerate(taxonomy.fine)
                                  if one.coarse == tag.id)) for tag in taxonomy.coarse]
                writer.writerow([split, clip % 3, f"{split}-{clip:03}.wav", 0, *fine, *coarse])
    return folder


def predict(path, data, split, skill, seed):
    """Write coarse predictions: the truth times ``skill``, and noise. data: the folder, or its
    annotations."""
    from l3hpc.tagging.annotations import Annotations

    taxonomy, rng = sonyc_ust_taxonomy(), np.random.default_rng(seed)
    if not isinstance(data, Annotations):
        data = Annotations.load(data / "annotations.csv", taxonomy)
    files, _, truth = data.ground_truth(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions.write(path, predictions.from_coarse(
        files, skill * truth + (1 - skill) * rng.random(truth.shape), taxonomy), taxonomy)
    return path


def record(workspace, run, steps, created=0.0):
    """Write the record of a run: name → (kind, artifact, params, inputs, tasks)."""
    entries = []
    for name, (kind, artifact, params, inputs, tasks) in steps.items():
        entries.append(StepRecord(name, kind, str(artifact), tasks, [], StepState.REUSED))
        write_json(Workspace(workspace).run(run).step(name).config, {
            "params": params, "inputs": inputs, "fingerprint": artifact.name, "shards": [{}],
            "labels": {}})
        for task in range(tasks):
            folder = artifact / f"{task:04}"
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "result.json", {"summary": {}})
    folder = Workspace(workspace).run(run).record.parent
    folder.mkdir(parents=True, exist_ok=True)
    records.write(workspace, RunRecord(
        run=run, pipeline="downstream", cluster="local", created=created, user="ada", host="here",
        command=["l3hpc", "submit", "downstream"], options={}, state=RunState.SUBMITTED,
        steps=entries))


def downstream(workspace, run, data, skills, created=0.0, name="evaluate"):
    """A finished run of downstream, with a classifier for each skill."""
    classified = workspace / "artifacts/classify" / f"{run}-{name}"
    for task, skill in enumerate(skills):
        folder = classified / f"{task:04}"
        for split in ("validate", "test"):
            predict(folder / f"predictions_coarse_{split}.csv", data, split, skill, task)
        write_json(folder / "hyper_params.json", {"seed": task, "levels": {"coarse": {}}})
        write_json(folder / "result.json", {"summary": {}})
    step = ("evaluate", workspace / "artifacts/evaluate" / f"{run}-{name}",
            {"sonyc_ust": str(data)}, {"classify": str(classified)}, 1)
    record(workspace, run, {name: step}, created)
    return step


def folds(workspace, run, truth, answers, created=0.0, several=False):
    """A finished run of esc50 with two folds: file → class, file → answer (with several labels:
    file → labels, file → probabilities)."""
    artifact = workspace / "artifacts/folds" / run
    classes = sorted({one for own in truth.values() for one in (own if several else [own])})
    for fold in (1, 2):
        folder = artifact / f"{fold - 1:04}"
        folder.mkdir(parents=True)
        (folder / "fold.json").write_text(json.dumps(
            {"fold": fold, "folds": [1, 2], "classes": classes, "several": several}))
        with open(folder / "predictions.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "part", *(["labels"] if several else ["class", "predicted"]),
                             *score_columns(classes)])
            for number, name in enumerate(sorted(truth)):
                part = "test" if number % 2 + 1 == fold else "valid"
                writer.writerow([name, part, ";".join(truth[name]), *answers[name]] if several else
                                [name, part, truth[name], answers[name], *[0.5] * len(classes)])
    record(workspace, run, {"folds": ("folds", artifact, {}, {}, 2)}, created)
