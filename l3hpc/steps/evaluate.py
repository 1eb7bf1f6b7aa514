"""evaluate: precision and recall of predicted tags, thresholds, calibration, and the ledger rows.

Several classifiers of one run differ in their seed: each is evaluated, and so is their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from l3hpc.errors import InputError, setting
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Input, Params, PlanParams, ReportItem, Results, Step
from l3hpc.steps.classify import label_files
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    import numpy as np

    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.tagging.annotations import Annotations

TAB: Final = "sonyc_ust"
APPROXIMATION_TAB: Final = "emb_approx_sonyc_ust"
LEVELS = ("coarse", "fine")
SPLITS = ("validate", "test")


class EvaluateParams(Params):
    """The predictions and the ground truth."""

    added: ClassVar[frozenset[str]] = frozenset({"bound"})

    predictions: Path | None = Field(None, description=(
        "Any CSV of predictions (none: those of classify)."))
    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    split: Literal["validate", "test", "both"] = Field("validate", description=(
        "Split whose metrics go into the ledger, or 'both', a row each; both are evaluated if "
        "there are predictions."))
    bootstrap: int = Field(1000, ge=0, le=100000, description=(
        "Bootstrap resamples of the clips for confidence intervals; 0: no intervals."))
    bound: bool = Field(False, description=(
        "The predictions are those of the teacher: mark the row as the bound of its students. Set "
        "by --teacher."))


class Evaluate(Step[EvaluateParams]):
    """Precision and recall of urban sound tags, and the row of the ledger."""

    name = "evaluate"
    version = 3
    title = "precision and recall per tag, and the ledger row"
    params_type = EvaluateParams
    inputs = {"classify": Input(required=False, parameter="predictions")}
    not_in_fingerprint = frozenset({"sonyc_ust", "annotations", "taxonomy", "predictions"})
    tab = TAB
    further_tabs = (APPROXIMATION_TAB,)
    report_items = frozenset({ReportItem.SCORES})
    kept_files = ("evaluation.json", "curves.json", "thresholds.json")
    bound_parameter = "bound"

    def check(self, params: EvaluateParams, plan: PlanParams) -> None:
        """Refuse missing annotations, taxonomy or predictions."""
        label_files(params, self.name)
        if params.predictions is not None and not params.predictions.is_file():
            raise InputError(f"no such file {params.predictions}", where="evaluate.predictions")
        if params.predictions is not None and params.split == "both":
            raise InputError("a file of predictions is of one split", where="evaluate.split",
                             allowed="validate, test")

    def digests(self, params: EvaluateParams) -> dict[str, Any]:
        """Annotations, taxonomy and named predictions by their bytes."""
        self.check(params, {})
        annotations, taxonomy = label_files(params, self.name)
        return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy),
                "predictions": digest_file(params.predictions) if params.predictions else None}

    def run(self, params: EvaluateParams, task: Task) -> dict[str, Any]:
        """Write the files of the evaluation and record the rows of the ledger.

        ``evaluation.json`` has the published shape at its top, {fine, coarse}, for ``split``, and
        below ``validate`` and ``test`` the same with confidence intervals, calibration, detections
        and scores by sensor for every split that was predicted. ``curves.json`` has the
        precision-recall curves, ``thresholds.json`` the thresholds chosen on validate.
        """
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.io.files import write_json
        from l3hpc.models.weights import random_weights_note
        from l3hpc.tagging import detection, evaluation
        from l3hpc.tagging.annotations import Annotations

        annotation_file, taxonomy_file = label_files(params, self.name)
        taxonomy = Taxonomy.load(taxonomy_file)
        annotations = Annotations.load(annotation_file, taxonomy)
        found = classifiers(params, task.inputs.get("classify"), taxonomy)
        task.progress.start("evaluating", total=sum(len(one.files) for one in found),
                            unit="files")
        judged = [_judge(one, params, task, annotations, taxonomy) for one in found]
        numbers = judged[0].numbers if len(judged) == 1 else _mean(judged)
        wanted = SPLITS if params.split == "both" else (params.split,)
        for split in wanted:
            if split not in numbers:
                raise InputError(f"nothing was predicted for split '{split}'",
                                 where="evaluate.split", allowed=", ".join(numbers))
        # the published file has the levels of one split at its top, where its readers look
        published = evaluation.published(numbers[wanted[0]])
        each = {} if len(judged) == 1 else {"seeds": {
            str(one.classifier.seed): one.numbers for one in judged}}
        write_json(task.output / "evaluation.json",
                   {**published, "split": wanted[0], **numbers, **each})
        # curves of several classifiers have no mean: each has other thresholds
        write_json(task.output / "curves.json", judged[0].curves)
        write_json(task.output / "thresholds.json", {
            "split": "validate", "rule": detection.RULE,
            "classifiers": [one.thresholds_as_json() for one in judged]})
        for one in judged:
            for split in wanted:
                for row in _rows(task, params, one, split, several=len(judged) > 1):
                    task.recorder.record(TAB, row)
                    if reduced := _approximation(one.classifier.settings):
                        task.recorder.record(APPROXIMATION_TAB, {**row, **reduced})
        settings = judged[0].classifier.settings
        if settings.get("network") and not _approximation(settings) \
                and not _bound(settings, params):
            task.progress.note(f"no row in {APPROXIMATION_TAB}: "
                               f"{settings['network'].get('label')} does not record which φ it "
                               "learnt")
        result: dict[str, Any] = {
            "split": wanted[0],
            "metrics": {split: evaluation.published(one) for split, one in numbers.items()},
            "warnings": {split: one["warnings"] for split, one in numbers.items()
                         if one["warnings"]}}
        note = random_weights_note(settings.get("network"))
        if note:
            result["note"] = note
        if len(judged) > 1:
            result["seeds"] = [one.classifier.seed for one in judged]
            result["spread"] = {split: {level: one[level]["spread"] for level in LEVELS
                                        if level in one} for split, one in numbers.items()}
        return result

    def summary(self, results: Results) -> str:
        """``coarse micro-AUPRC 0.797 ± 0.004 (validate, 5 seeds)``."""
        if not results:
            return ""
        result = results[0]
        split, seeds = result.get("split", "validate"), result.get("seeds", ())
        spread = result.get("spread", {}).get(split, {})
        scores = [f"{level} micro-AUPRC {values['micro_auprc']:.3f}"
                  + (f" ± {spread[level]['micro_auprc']:.3f}" if level in spread else "")
                  for level, values in result.get("metrics", {}).get(split, {}).items()]
        return f"{', '.join(scores)} ({split}{f', {len(seeds)} seeds' if seeds else ''})"


@dataclass(frozen=True)
class Classifier:
    """A classifier whose predictions are evaluated.

    Attributes
    ----------
    settings : dict
        Settings of the step classify; empty for other predictions.
    files : list of (str, list of str, Path)
        Split, levels and file of its predictions.
    seed : int
        Its seed.
    folder : str
        Its folder in the artifact of classify; empty for other predictions.
    """

    settings: Mapping[str, Any]
    files: Sequence[tuple[str, list[str], Path]]
    seed: int = 0
    folder: str = ""


@dataclass(frozen=True)
class Judged:
    """What came out for one classifier: content of the files, and what the mean is made of.

    Attributes
    ----------
    numbers, curves : dict
        Split → what ``evaluation.json`` and ``curves.json`` hold of it.
    thresholds : dict
        Level → column → threshold chosen on validate, None where there was nothing to choose by.
    tags : dict
        (split, level) → probabilities and truth, a ``detection.Tags``.
    drawn : dict
        (split, level) → scores of the resampled clips.
    """

    classifier: Classifier
    numbers: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, Any]]
    thresholds: dict[str, dict[str, float | None]]
    tags: dict[tuple[str, str], Any]
    drawn: dict[tuple[str, str], np.ndarray]

    def thresholds_as_json(self) -> dict[str, Any]:
        """The thresholds as in ``thresholds.json``."""
        from l3hpc.tagging.detection import HALF

        own = {"seed": self.classifier.seed, "folder": self.classifier.folder} \
            if self.classifier.folder else {}
        return {**own, **{level: {column: HALF if value is None else value
                                  for column, value in columns.items()}
                          for level, columns in self.thresholds.items()},
                "not_chosen": [column for columns in self.thresholds.values()
                               for column, value in columns.items() if value is None]}


def classifiers(params: EvaluateParams, classified: Path | None, taxonomy: Taxonomy
                ) -> list[Classifier]:
    """The classifiers whose predictions are evaluated, in the order of their tasks.

    Parameters
    ----------
    params
        Parameters of the step.
    classified
        The artifact of classify; None where the parameters name a file of predictions.
    taxonomy
        The tags.

    Raises
    ------
    InputError
        Where there are no predictions, or the file of them cannot be read.
    """
    from l3hpc.io.files import read_json, task_folders

    if params.predictions is not None:
        from l3hpc.tagging import predictions

        levels = list(predictions.read(params.predictions, taxonomy).scored_levels)
        return [Classifier({}, [(params.split, levels, params.predictions)])]
    if classified is None:
        raise InputError("no predictions to evaluate", where="evaluate.predictions",
                         hint=f"Use {setting('evaluate.predictions', 'FILE')}")
    found: list[Classifier] = []
    for folder in task_folders(classified) or [classified / "0000"]:
        files = predicted_files(folder)
        if not files:
            folder, files = classified, predicted_files(classified)
        if not files:
            raise InputError("contains no predictions", where=str(classified),
                             allowed="predictions_<level>_<split>.csv that the step classify "
                                     "writes")
        metadata = folder / "hyper_params.json"
        settings = read_json(metadata) if metadata.is_file() else {}
        found.append(Classifier(settings, files, settings.get("seed", len(found)),
                                "" if folder == classified else folder.name))
    return found


def predicted_files(folder: Path) -> list[tuple[str, list[str], Path]]:
    """Split, levels and file of the predictions in a folder of the step classify.

    Parameters
    ----------
    folder
        The output of one of its tasks.
    """
    found = []
    for split in SPLITS:
        both = all((folder / f"predictions_{level}_{split}.csv").is_file() for level in LEVELS)
        for level in LEVELS:
            path = folder / f"predictions_{level}_{split}.csv"
            if path.is_file():
                # A fine classifier also predicts the categories, a coarse one no fine tags.
                levels = [level] if both or level == "coarse" else list(LEVELS)
                found.append((split, levels, path))
    return found


def split_as_trained(annotations: Annotations, settings: Mapping[str, Any]) -> Annotations:
    """Annotations with the splits by sensor of a classifier, if it was trained with them.

    Parameters
    ----------
    annotations
        As they are in the file.
    settings
        Settings of the step classify.
    """
    splits = settings.get("sensor_splits")
    return annotations.with_split(splits) if splits else annotations


def _judge(classifier: Classifier, params: EvaluateParams, task: Task, annotations: Annotations,
           taxonomy: Taxonomy) -> Judged:
    """Evaluate the predictions of one classifier."""
    from l3hpc.tagging import detection, evaluation

    found = Judged(classifier, {}, {}, {}, {}, {})
    annotations = split_as_trained(annotations, classifier.settings)
    # validate comes first: its thresholds are used on test.
    for split, levels, path in classifier.files:
        matched = evaluation.match(path, annotations, taxonomy, split)
        result = evaluation.numbers(matched)
        if params.bootstrap:
            drawn = evaluation.resample(matched, params.bootstrap)
            evaluation.add_confidence(result, matched, drawn)
            found.drawn.update({(split, level): drawn[level] for level in levels
                                if level in drawn})
        for warning in result["warnings"]:
            task.progress.note(f"{path.name}: {warning}")
        for level in (one for one in levels if one in result):
            mine = found.numbers.setdefault(split, {})
            lines = found.curves.setdefault(split, {})
            mine["files"] = lines["files"] = result["files"]
            mine["warnings"] = result["warnings"]
            lines[level] = result[level]
            tags = found.tags[split, level] = detection.tags_of(matched, level)
            if split == "validate":
                found.thresholds[level] = detection.choose_thresholds(tags)
            mine[level] = {
                **{name: value for name, value in result[level].items() if name != "curves"},
                "calibration": detection.calibration([tags]),
                "sensors": detection.by_sensor(matched, level)}
            if level in found.thresholds:
                mine[level]["detection"] = detection.detections(tags, found.thresholds[level])
        task.progress.advance(1)
    for level, columns in found.thresholds.items():
        unknown = [column for column, value in columns.items() if value is None]
        if unknown:
            task.progress.note(f"{len(unknown)} {level} tags have no positive clip in validate to "
                               f"choose a threshold on: 0.5 is kept ({', '.join(unknown[:3])}"
                               f"{', …' if len(unknown) > 3 else ''})")
    return found


def _mean(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """The numbers of every split as means over classifiers."""
    from l3hpc.tagging import detection, seeds

    first = judged[0].numbers
    found: dict[str, dict[str, Any]] = {}
    for split in first:
        found[split] = {name: first[split][name] for name in ("files", "warnings")}
        for level in (one for one in LEVELS if one in first[split]):
            own = [one.numbers[split][level] for one in judged]
            found[split][level] = {
                **seeds.mean_level(own, [one.drawn[split, level] for one in judged
                                         if one.drawn]),
                "calibration": detection.calibration([one.tags[split, level] for one in judged]),
                **{name: seeds.mean_of([one[name] for one in own])
                   for name in ("sensors", "detection") if name in own[0]}}
    return found


def _model_type(settings: Mapping[str, Any], params: EvaluateParams) -> str:
    """The network of the embeddings; that of a teacher ends with ``(teacher, PCA 128-d)``."""
    label = str((settings.get("network") or {}).get("label", ""))
    reduction = settings.get("reduction")
    # At the end, because tables cut long texts at their beginning.
    if reduction:
        return f"{label} (teacher, {reduction['approx'].upper()} {reduction['dim']}-d)"
    return f"{label} (teacher)" if params.bound else label


def _bound(settings: Mapping[str, Any], params: EvaluateParams) -> dict[str, Any]:
    """What a student's row and that of its bound have in common, for views.

    ``bound_of``: digest of the φ, or of the teacher, whose embeddings the row judges. ``target``:
    digest of the φ or teacher that the student of the row learnt.
    """
    from l3hpc.datasets.embedding_file import TEACHER_KEY

    network = settings.get("network") or {}
    reduction, target = settings.get("reduction"), network.get("target") or {}
    if reduction or params.bound:
        return {"bound_of": reduction["digest"] if reduction else network.get("digest")}
    learnt = target.get("reduction")
    if learnt:
        return {"target": learnt["digest"]}
    # Without a record of φ, only the teacher's own embedding is known for certain.
    return {"target": target["teacher"]} if target.get("key") == TEACHER_KEY else {}


def _approximation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that only ``emb_approx_sonyc_ust`` has, from the φ that reduced the embeddings
    or that the student learnt; empty where there is none, or where it is not known.
    """
    import time

    found = settings.get("reduction") or (
        (settings.get("network") or {}).get("target") or {}).get("reduction")
    if not found or found["approx"] == "none":
        return {}
    params, sampled = found["params"], found["sampled"]
    # As published: a dash where a setting belongs to another kind of φ or is not known.
    names = ("n_neighbors", "min_dist", "metric", "kernel")
    return {
        "date": time.strftime("%m/%d/%Y %H:%M:%S"), "model_type": found["approx"].upper(),
        "emb_dim": found["dim"], **{name: params.get(name, "-") for name in names},
        "upstream_data": sampled.get("audio") or "-",
        "sampling_type": sampled.get("method") or "-",
        "timescale": sampled.get("timescale") or "-", "n_training_points": found["rows"],
        "aggregation_type": sampled.get("sensor") or "combined"}


def _rows(task: Task, params: EvaluateParams, one: Judged, split: str, *, several: bool
          ) -> Iterator[dict[str, Any]]:
    """The rows of one classifier, of each level that it was trained for. several: it is one of
    several seeds.
    """
    from l3hpc.tagging import evaluation

    classifier, scores = one.classifier, evaluation.published(one.numbers[split])
    trained = classifier.settings.get("levels") or list(scores)[:1]
    for level in [level for level in scores if level in trained]:
        row = _row(task, classifier.settings, params, level, scores[level])
        # exp_id is part of the key: without these, rows would replace each other
        if several:
            row["exp_id"] += f"-seed{classifier.seed}"
        if params.split == "both":
            row["split"] = split
            row["exp_id"] += "-test" if split == "test" else ""
        yield row


def _row(task: Task, settings: Mapping[str, Any], params: EvaluateParams, level: str,
         scores: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the run in the ledger, with the columns of the published sheet.

    Predictions from elsewhere, and runs of earlier versions, get the values that options have
    without effect (no oversampling, no loss of co-occurrence, …). Two levels of one run are two
    rows.
    """
    import json

    from l3hpc.models.weights import random_weights_note

    annotation_file, taxonomy_file = label_files(params, Evaluate.name)
    labels, network = task.labels, settings.get("network") or {}
    cooccurrence = settings.get("cooccurrence_loss", False)
    optimizer = settings.get("optimizer", "adam")
    experiment = str(labels.get("exp_id") or labels.get("run") or task.output.parent.name)
    if settings.get("timestamp"):
        experiment += f"-{settings.get('started', '')}"
    oversample = settings.get("oversample", "none")
    if len(settings.get("levels", ())) > 1:
        experiment += f"-{level}"
    return {
        "note": random_weights_note(network), "state": "finished",
        **_bound(settings, params),
        "username": labels.get("username", ""), "model_type": _model_type(settings, params),
        "upstream_data": labels.get("upstream_data", labels.get("model_dir", "")),
        "git_commit": labels.get("git_commit", ""), "annotation_path": str(annotation_file),
        "taxonomy_path": str(taxonomy_file),
        "emb_dir": str(settings.get("embeddings") or params.predictions or ""),
        "output_dir": str(labels.get("output_dir") or task.output), "exp_id": experiment,
        "hidden_layer_size": settings.get("hidden_size"),
        "num_hidden_layers": settings.get("hidden_layers"),
        "learning_rate": None if optimizer == "lbfgs" else settings.get("learning_rate"),
        "l2_reg": settings.get("l2"),
        "batch_size": settings.get("batch_size"), "num_epochs": settings.get("epochs"),
        "patience": settings.get("patience"), "sensor_factor": settings.get("sensor_factor", False),
        "proximity_factor": settings.get("proximity_factor", False),
        "no_standardize": not settings.get("standardize", True), "cooccurrence_loss": cooccurrence,
        "cooccurrence_loss_factor": settings["cooccurrence_loss_factor"] if cooccurrence else 0,
        "pca": settings.get("pca", False),
        "pca_components": settings.get("pca_components") or 0, "label_mode": level,
        "oversample": "" if oversample == "none" else oversample,
        "oversample_iters": 0 if oversample == "none" else settings.get("oversample_iters", 1),
        "thresh_type": settings.get("thresh_type", "mean"),
        "target_mode": settings.get("model", ""),
        "no_timestamp": not settings.get("timestamp", False),
        "split_path": settings.get("split_path") or "",
        "optimizer": optimizer,
        "micro_auprc": scores["micro_auprc"], "micro_f1": scores["micro_f1"],
        "macro_auprc": scores["macro_auprc"],
        "class_auprc": json.dumps({name: round(value, 6) for name, value in
                                   scores["class_auprc"].items()}),
    }
