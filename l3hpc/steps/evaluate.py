"""evaluate: precision and recall of predicted tags, and the row of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Input, Params, PlanParams, ReportItem, Results, Step, Task
from l3hpc.steps.classify import label_files

TAB: Final = "sonyc_ust"
LEVELS = ("coarse", "fine")


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
