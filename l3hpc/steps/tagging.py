"""classify and evaluate: urban sound tagging on the student's embeddings.

``classify`` trains a tag classifier on the embeddings, keeps the best epoch on the validation
split, and writes predictions. ``evaluate`` scores predictions and records a row of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Input, Params, PlanParams, ReportItem, Results, Step, Task

TAB: Final = "sonyc_ust"
LEVELS = ("coarse", "fine")


class ClassifyParams(Params):
    """The classifier and how it is trained."""

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    level: Literal["coarse", "fine", "both"] = Field("coarse", description=(
        "Tags to learn; 'both' trains two classifiers."))
    model: Literal["mil", "framewise"] = Field("mil", description=(
        "mil: one prediction per clip, with AutoPool; framewise: one per frame, averaged."))
    hidden_layers: int = Field(0, ge=0, le=8, description="Number of hidden layers.")
    hidden_size: int = Field(128, ge=1, description="Units of each hidden layer.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate.")
    l2: float = Field(1e-5, ge=0, description="L2 penalty on the weights.")
    batch_size: int | None = Field(None, ge=1, description=(
        "Clips per batch, or frames with framewise (none: 64, or fewer if an epoch would have "
        "fewer than 16 batches)."))
    epochs: int = Field(100, ge=1, description="Maximum number of epochs.")
    patience: int = Field(20, ge=1, description=(
        "Early stopping: epochs without a lower validation loss."))
    standardize: bool = Field(True, description=(
        "Standardise the embeddings, with statistics of the training clips."))
    seed: int = Field(0, ge=0, description="Seed of weights and batch order.")


class Classify(Step[ClassifyParams]):
    """A classifier of urban sound tags on the embeddings."""

    name = "classify"
    version = 2
    title = "a tag classifier on the student's embeddings"
    params_type = ClassifyParams
    inputs = {"embed": Input()}
    not_in_fingerprint = frozenset({"sonyc_ust", "annotations", "taxonomy"})
    ledger_folder = "output_dir"
    kept_files = ("predictions*.csv", "*.h5", "history*.csv")

    def check(self, params: ClassifyParams, plan: PlanParams) -> None:
        """Refuse missing annotations or taxonomy."""
        label_files(params, self.name)

    def digests(self, params: ClassifyParams) -> dict[str, Any]:
        """Annotations and taxonomy by their bytes."""
        annotations, taxonomy = label_files(params, self.name)
        return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy)}

    def run(self, params: ClassifyParams, task: Task) -> dict[str, Any]:
        """Train, then write models, histories and the predictions for validate and test.

        Predictions cover the clips with agreed annotations, which can be scored. Such a clip
        without an embedding gets 0 for every tag, and is logged and counted.
        """
        from l3hpc.datasets.clips import artifact_attributes, load_clips
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.io.files import write_json
        from l3hpc.models.training.engine import limit_threads
        from l3hpc.tagging.annotations import Annotations

        annotation_file, taxonomy_file = label_files(params, self.name)
        taxonomy = Taxonomy.load(taxonomy_file)
        annotations = Annotations.load(annotation_file, taxonomy)
        splits = {split: annotations.files(split) for split in annotations.splits()}
        for split in ("train", "validate"):
            if not splits.get(split):
                raise InputError(f"no clips of split '{split}'", where=str(annotation_file))
        limit_threads(task.threads)
        task.progress.start("reading embeddings")
        clips = load_clips(task.inputs["embed"],
                           [name for files in splits.values() for name in files],
                           task.scratch / "embeddings.bin")
        if clips.missing:
            task.progress.note(f"{len(clips.missing)} annotated clips have no embedding, "
                               f"for example {clips.missing[0]}")
        if clips.longest > clips.x.shape[1]:
            task.progress.note(f"clips have up to {clips.longest} windows and are shortened to "
                               f"the {clips.x.shape[1]} of the shortest")
        place = {name: row for row, name in enumerate(clips.files)}
        rows = {split: [place[name] for name in files if name in place]
                for split, files in splits.items()}
        levels = ("coarse", "fine") if params.level == "both" else (params.level,)
        result = {level: _one_level(level, params, task, clips, rows, annotations, taxonomy)
                  for level in levels}
        metadata = {
            **params.model_dump(mode="json"), "annotations": str(annotation_file),
            "batch_size": _batch_size(params, clips, rows),
            "taxonomy": str(taxonomy_file), "embeddings": str(task.inputs["embed"]),
            "network": artifact_attributes(task.inputs["embed"]).get("teacher") or {},
            "frames": clips.x.shape[1], "missing": clips.missing, "levels": result,
        }
        write_json(task.output / "hyper_params.json", metadata)
        return {"model": params.model, "levels": result, "clips": len(clips.files),
                "missing": len(clips.missing), "dim": clips.x.shape[2], "frames": clips.x.shape[1]}

    def summary(self, results: Results) -> str:
        """``mil, coarse: best epoch 31 of 51``."""
        if not results:
            return ""
        result = results[0]
        levels = [f"{level}: best epoch {one.get('best_epoch')} of {one.get('epochs')}"
                  for level, one in result.get("levels", {}).items()]
        return f"{result.get('model')}, {'; '.join(levels)}"


def label_files(params: Any, step: str) -> tuple[Path, Path]:
    """Paths of annotations and taxonomy, given or found in ``sonyc_ust``.

    Parameters
    ----------
    params
        Parameters of the step.
    step
        Its name, for the message.

    Returns
    -------
    annotations, taxonomy : Path
        The files.

    Raises
    ------
    InputError
        Where one is missing.
    """
    files: dict[str, Path | None] = {
        "annotations": params.annotations, "taxonomy": params.taxonomy}
    if params.sonyc_ust is not None and None in files.values():
        from l3hpc.datasets.sonyc_ust import locate_sonyc_ust

        paths = locate_sonyc_ust(params.sonyc_ust)
        files = {name: path or Path(getattr(paths, name)) for name, path in files.items()}
    for name, path in files.items():
        if path is None:
            raise InputError(
                f"needs {name}", where=f"{step}.{name}",
                hint=f"Use --sonyc-ust FOLDER, or --set {step}.{name}=FILE")
        if not path.is_file():
            raise InputError(f"no such file {path}", where=f"{step}.{name}")
    assert files["annotations"] is not None and files["taxonomy"] is not None
    return files["annotations"], files["taxonomy"]


def _one_level(level: str, params: ClassifyParams, task: Task, clips: Any,
               rows: Mapping[str, Sequence[int]], annotations: Any, taxonomy: Any) -> dict:
    """Train the classifier of one level and write its files; returns a part of the result."""
    import csv

    from l3hpc.tagging.classifier import ClassifierConfig, train

    names = ("model", "hidden_layers", "hidden_size", "learning_rate", "l2", "epochs", "patience",
             "standardize", "seed")
    config = ClassifierConfig(level=level, batch_size=_batch_size(params, clips, rows),
                              **{name: getattr(params, name) for name in names})
    # Clips are in the order of the splits, so that each split is one slice of the file.
    data = {split: (clips.x.part(found[0], found[-1] + 1) if found else clips.x.part(0, 0),
                    annotations.targets([clips.files[row] for row in found], level))
            for split, found in rows.items()}
    task.progress.start(f"training {level}", total=params.epochs, unit="epochs")

    def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
        task.progress.advance(1, epoch=epoch, **values)

    classifier = train(config, taxonomy, *data["train"], *data["validate"], on_epoch=on_epoch)
    classifier.save(task.output / f"classifier_{level}.h5")
    with open(task.output / f"history_{level}.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("epoch", "loss", "val_loss"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(classifier.history)
    written = []
    for split in ("validate", "test"):
        written += _predict(classifier, level, split, task, clips, annotations, taxonomy)
    return {"best_epoch": classifier.best_epoch, "epochs": len(classifier.history),
            "val_loss": min(row["val_loss"] for row in classifier.history),
            "predictions": written}


def _batch_size(params: ClassifyParams, clips: Any, rows: Mapping[str, Sequence[int]]) -> int:
    """The batch size that is given, otherwise by the number of training samples."""
    from l3hpc.tagging.classifier import batch_for

    frames = clips.x.shape[1] if params.model == "framewise" else 1
    return params.batch_size or batch_for(len(rows["train"]) * frames)


def _predict(classifier: Any, level: str, split: str, task: Task, clips: Any, annotations: Any,
             taxonomy: Any) -> list[str]:
    """Write predictions for the clips of a split with agreed annotations, if there are any."""
    import numpy as np

    from l3hpc.tagging import predictions
    from l3hpc.tagging.classifier import POOLINGS

    try:
        agreed = annotations.ground_truth(split)[0]
    except InputError as error:
        task.progress.note(f"no predictions for {split}: {error.message}")
        return []
    place = {name: row for row, name in enumerate(clips.files)}
    files = [name for name in agreed if name in place]
    if len(files) < len(agreed):
        task.progress.note(f"{len(agreed) - len(files)} of {len(agreed)} agreed {split} clips have "
                           "no embedding: " + ("they are predicted as 0" if files else
                                               "nothing to predict from"))
    if not files:
        return []
    rows = np.array([place[name] for name in files], int)
    written = []
    for pooling in ("mean",) if classifier.config.model == "mil" else POOLINGS:
        more = "" if pooling == "mean" else f"_{pooling}"
        name = f"predictions_{level}_{split}{more}.csv"
        found = predictions.complete(classifier.predictions(files, clips.x, pooling, rows), agreed)
        predictions.write(task.output / name, found, taxonomy)
        written.append(name)
    return written


class EvaluateParams(Params):
    """The predictions and the ground truth."""

    predictions: Path | None = Field(None, description=(
        "Any CSV of predictions (none: those of classify)."))
    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    split: Literal["validate", "test"] = Field("validate", description=(
        "Split whose metrics go into the ledger; both are evaluated if there are predictions."))
    bootstrap: int = Field(1000, ge=0, le=100000, description=(
        "Bootstrap resamples of the clips for confidence intervals; 0: no intervals."))


class Evaluate(Step[EvaluateParams]):
    """Precision and recall of urban sound tags, and the row of the ledger."""

    name = "evaluate"
    version = 3
    title = "precision and recall per tag, and the ledger row"
    params_type = EvaluateParams
    inputs = {"classify": Input(required=False, parameter="predictions")}
    not_in_fingerprint = frozenset({"sonyc_ust", "annotations", "taxonomy", "predictions"})
    tab = TAB
    report_items = frozenset({ReportItem.SCORES})
    kept_files = ("evaluation.json", "curves.json")

    def check(self, params: EvaluateParams, plan: PlanParams) -> None:
        """Refuse missing annotations, taxonomy or predictions."""
        label_files(params, self.name)
        if params.predictions is not None and not params.predictions.is_file():
            raise InputError(f"no such file {params.predictions}", where="evaluate.predictions")

    def digests(self, params: EvaluateParams) -> dict[str, Any]:
        """Annotations, taxonomy and named predictions by their bytes."""
        self.check(params, {})
        annotations, taxonomy = label_files(params, self.name)
        return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy),
                "predictions": digest_file(params.predictions) if params.predictions else None}

    def run(self, params: EvaluateParams, task: Task) -> dict[str, Any]:
        """Write ``evaluation.json``, ``curves.json`` and record the ledger row.

        ``evaluation.json`` has the published shape at its top, {fine, coarse}, for ``split``, and
        below ``validate`` and ``test`` the same with confidence intervals for every split that was
        predicted.
        """
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.io.files import write_json
        from l3hpc.tagging import evaluation
        from l3hpc.tagging.annotations import Annotations

        annotation_file, taxonomy_file = label_files(params, self.name)
        taxonomy = Taxonomy.load(taxonomy_file)
        annotations = Annotations.load(annotation_file, taxonomy)
        found = _predictions(params, task.inputs.get("classify"), taxonomy)
        task.progress.start("evaluating", total=len(found), unit="files")
        numbers: dict[str, dict[str, Any]] = {}
        curves: dict[str, dict[str, Any]] = {}
        for split, levels, path in found:
            result = evaluation.evaluate(path, annotations, taxonomy, split,
                                         bootstrap=params.bootstrap)
            for warning in result["warnings"]:
                task.progress.note(f"{path.name}: {warning}")
            for level in (one for one in levels if one in result):
                mine, lines = numbers.setdefault(split, {}), curves.setdefault(split, {})
                mine["files"] = lines["files"] = result["files"]
                mine["warnings"] = result["warnings"]
                lines[level] = result[level]
                mine[level] = {name: value for name, value in result[level].items()
                               if name != "curves"}
            task.progress.advance(1)
        if params.split not in numbers:
            raise InputError(f"nothing was predicted for split '{params.split}'",
                             where="evaluate.split", allowed=", ".join(numbers))
        published = evaluation.published(numbers[params.split])
        write_json(task.output / "evaluation.json",
                   {**published, "split": params.split, **numbers})
        write_json(task.output / "curves.json", curves)
        settings = _settings(task.inputs.get("classify"))
        for level in published:
            if level in (settings.get("levels") or list(published)[:1]):
                task.recorder.record(TAB, _row(task, settings, params, level, published[level],
                                               annotation_file, taxonomy_file))
        return {"split": params.split,
                "metrics": {split: evaluation.published(one) for split, one in numbers.items()},
                "warnings": {split: one["warnings"] for split, one in numbers.items()
                             if one["warnings"]}}

    def summary(self, results: Results) -> str:
        """``coarse micro-AUPRC 0.797 (validate)``."""
        if not results:
            return ""
        result = results[0]
        split = result.get("split", "validate")
        scores = result.get("metrics", {}).get(split, {})
        return ", ".join(f"{level} micro-AUPRC {values['micro_auprc']:.3f}"
                         for level, values in scores.items()) + f" ({split})"


def _predictions(params: EvaluateParams, classified: Path | None, taxonomy: Any
                 ) -> list[tuple[str, list[str], Path]]:
    """Split, levels and file of all predictions to score."""
    if params.predictions is not None:
        from l3hpc.tagging import predictions

        read = predictions.read(params.predictions, taxonomy)
        # A coarse classifier writes zeros for the fine tags.
        coarse_only = read.coarse.any() and not read.fine.any()
        levels = [level for level in LEVELS
                  if level in read.levels and not (level == "fine" and coarse_only)]
        return [(params.split, levels, params.predictions)]
    if classified is None:
        raise InputError("no predictions to evaluate", where="evaluate.predictions",
                         hint="Use --set evaluate.predictions=FILE")
    found = []
    for folder in (classified / "0000", classified):
        for split in ("validate", "test"):
            both = all((folder / f"predictions_{level}_{split}.csv").is_file() for level in LEVELS)
            for level in LEVELS:
                path = folder / f"predictions_{level}_{split}.csv"
                if path.is_file():
                    # A fine classifier also predicts the categories, a coarse one no fine tags.
                    levels = [level] if both or level == "coarse" else list(LEVELS)
                    found.append((split, levels, path))
        if found:
            return found
    raise InputError("contains no predictions", where=str(classified),
                     allowed="predictions_<level>_<split>.csv that the step classify writes")


def _settings(classified: Path | None) -> dict[str, Any]:
    """Settings of the step classify; empty for other predictions."""
    from l3hpc.io.files import read_json

    for folder in (classified / "0000", classified) if classified is not None else ():
        if (folder / "hyper_params.json").is_file():
            value = read_json(folder / "hyper_params.json")
            assert isinstance(value, dict)
            return value
    return {}


def _row(task: Task, settings: Mapping[str, Any], params: EvaluateParams, level: str,
         scores: Mapping[str, Any], annotation_file: Path, taxonomy_file: Path) -> dict[str, Any]:
    """The row of the run in the ledger, with the columns of the published sheet.

    Options of the published classifier that do not exist here get their equivalent value (no
    oversampling, no co-occurrence loss, …). Two levels of one run are two rows.
    """
    import json

    from l3hpc.models.weights import random_weights_note

    labels, network = task.labels, settings.get("network") or {}
    experiment = str(labels.get("exp_id") or labels.get("run") or task.output.parent.name)
    if len(settings.get("levels", ())) > 1:
        experiment += f"-{level}"
    return {
        "note": random_weights_note(network), "state": "finished",
        "username": labels.get("username", ""), "model_type": network.get("label", ""),
        "upstream_data": labels.get("upstream_data", labels.get("model_dir", "")),
        "git_commit": labels.get("git_commit", ""), "annotation_path": str(annotation_file),
        "taxonomy_path": str(taxonomy_file),
        "emb_dir": str(settings.get("embeddings") or params.predictions or ""),
        "output_dir": str(labels.get("output_dir") or task.output), "exp_id": experiment,
        "hidden_layer_size": settings.get("hidden_size"),
        "num_hidden_layers": settings.get("hidden_layers"),
        "learning_rate": settings.get("learning_rate"), "l2_reg": settings.get("l2"),
        "batch_size": settings.get("batch_size"), "num_epochs": settings.get("epochs"),
        "patience": settings.get("patience"), "sensor_factor": False, "proximity_factor": False,
        "no_standardize": not settings.get("standardize", True), "cooccurrence_loss": False,
        "cooccurrence_loss_factor": 0, "pca": False, "pca_components": 0, "label_mode": level,
        "oversample": "", "oversample_iters": 0,
        "thresh_type": "mean", "target_mode": settings.get("model", ""), "no_timestamp": True,
        "split_path": "", "optimizer": "adam",
        "micro_auprc": scores["micro_auprc"], "micro_f1": scores["micro_f1"],
        "macro_auprc": scores["macro_auprc"],
        "class_auprc": json.dumps({name: round(value, 6) for name, value in
                                   scores["class_auprc"].items()}),
    }
