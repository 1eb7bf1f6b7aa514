"""folds and score: cross-validated classification of clips (with several labels: ``fold_tags``).

``folds`` fits a classifier for every test fold, one task each, with its parameters selected on a
validation fold. It stores the clips of each part, the validation accuracy of every candidate, the
selected parameters and the predictions, but no fitted classifier (the same task fits it again).
``score`` combines the folds: mean accuracy with its interval, accuracy per class, confusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from l3hpc.errors import InputError, command_line, option, setting
from l3hpc.io.values import count_of
from l3hpc.steps.base import Input, LedgerTab, Params, PlanParams, Results, Shard, Step, Upstream
from l3hpc.steps.embed import Embed
from l3hpc.steps.fold_params import (
    CLASS_COLUMNS,
    CLIP_DATA,
    PARTS,
    TAGGERS,
    ClipDataParams,
    FoldsParams,
    check_embedded,
    check_folds,
    common_row,
    dataset,
    grid,
    noted,
    own_data,
    planned_dataset,
    score_columns,
    tested_name,
)
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.classification.folds import FoldResult
    from l3hpc.datasets.labelled import LabelledDataset

TAB: Final = "classifier"
PUBLISHED_HOP = 0.1  # s, assumed for embeddings whose files have none
# kind of classifier → parameters that its row of the ledger shows besides the selected ones
GIVEN = {"mlp": ("learning_rate", "weight_decay", "batch_size", "epochs"),
         "svm": ("C", "tol", "max_iterations"), "rf": ()}


class Folds(Step[FoldsParams]):
    """A classifier of clips for every test fold, its parameters chosen on a validation fold."""

    name = "folds"
    version = 1
    title = "a clip classifier and its predictions for every test fold"
    params_type = FoldsParams
    inputs = {"embed": Input()}
    not_in_fingerprint = CLIP_DATA | {"max_missing", "partial"}
    tab = TAB
    further_tabs = ("clip_tags",)
    ledger_folder = "output_dir"

    def implied(self, stated: Mapping[str, Any], earlier: PlanParams,
                audio: Path | None) -> dict[str, Any]:
        """The classifier, if the table has clips with several labels."""
        given = {name: stated[name] for name in CLIP_DATA & set(stated)}
        if "model" in stated or given.get("table") is None or given.get("clips") is not None:
            return {}
        try:
            params = ClipDataParams.model_validate(given)
        except ValidationError:  # refused with its origin when the step is validated
            return {}
        return {"model": TAGGERS[0]} if dataset(params).several else {}

    def ledger_tab(self, params: FoldsParams) -> LedgerTab:
        """``clip_tags`` for clips with several labels, which have no accuracy."""
        return "clip_tags" if params.model in TAGGERS else TAB

    def check(self, params: FoldsParams, plan: PlanParams) -> None:
        """Refuse a part of a data set, too few folds, and clips that are not embedded."""
        data = dataset(params)
        check_folds(params, data, partial=params.partial, least=3 if params.valid_fold else 2)
        if data.several != (params.model in TAGGERS):
            raise InputError(
                f"{params.model} does not learn clips with "
                f"{'several labels' if data.several else 'one label each'}",
                where=str(data.table),
                allowed=f"{setting('folds.model')}: {', '.join(_learners(data))}",
                hint=f"Use {option('learner', _learners(data)[0], sets='model')}" + (
                    f". If a cell is one label: {option('label-separator', 'none')}"
                    if data.several else ""))
        # Only few recordings can fail to be divided; dividing many takes seconds.
        if not params.valid_fold and len({clip.source for clip in data.clips}) <= 100:
            _check_divided(params, data)
        embed = Embed().params_in(plan)
        if params.subset == "all" and embed is not None and embed.subset != "all":
            raise InputError("only the clips of a subset are embedded",
                             where="folds.subset",
                             hint=f"{option('subset', embed.subset)} sets both")

    def describe(self, params: FoldsParams, plan: PlanParams) -> str:
        """``mlp on framewise features, 9 candidates, validated on the fold before``."""
        found = dataset(params)
        tried = f"{count_of(len(grid(params)), 'candidate')}"
        where = "the part validate" if found.has_split else "the fold before"
        if not params.valid_fold:
            where = f"{params.valid_ratio:.0%} of the others"
        part = f" ({found.part})" if found.part else ""
        columns = f" ({found.columns})" if found.columns else ""
        return (f"{found.kind}{part}: {count_of(len(found.clips), 'clip')}, "
                f"{count_of(len(found.classes), 'class', 'classes')}"
                f"{columns}; {params.model} on "
                f"{'windows' if found.several else f'{params.features} features'}, {tried}, "
                f"validated on {where}")

    def shards(self, params: FoldsParams, upstream: Upstream) -> list[Shard]:
        """One task per test fold, a single one for a split."""
        data = dataset(params)
        # A person may edit a table of their own while the job waits (``planned_dataset``).
        more = {} if data.published else {"clips": data.digest()}
        return [{"fold": fold, **more} for fold in data.tested_folds]

    def digests(self, params: FoldsParams) -> dict[str, Any]:
        """The clips with their folds and classes."""
        return {"clips": dataset(params).digest()}

    def run(self, params: FoldsParams, task: Task) -> dict[str, Any]:
        """Choose, fit and predict for one test fold: ``fold.json`` and ``predictions.csv``."""
        if params.model in TAGGERS:
            from l3hpc.steps import fold_tags

            return fold_tags.run_fold(params, task)
        import numpy as np

        from l3hpc.classification import folds, models
        from l3hpc.datasets.clips import artifact_attributes
        from l3hpc.io.files import write_json

        data = planned_dataset(params, task)
        task.progress.start("reading embeddings")
        found = folds.load_features(task.inputs["embed"], [clip.file for clip in data.clips],
                                    params.features, params.every)
        check_embedded(params, data, found.files, found.missing, task, params.max_missing)
        known = {clip.file: clip for clip in data.clips}
        clips = [known[name] for name in found.files]
        label = np.array([clip.label for clip in clips])
        parts = folds.split(np.array([clip.fold for clip in clips]), label,
                            [clip.source for clip in clips], task.shard["fold"],
                            ratio=None if params.valid_fold else params.valid_ratio,
                            seed=params.seed)
        setting = models.FitSettings(
            params.model, len(data.classes), threads=task.threads,
            **{name: getattr(params, name) for name in (
                "seed", "epochs", "patience", "batch_size", "tol", "max_iterations", "kernel")})
        candidates, refit = grid(params), params.search and params.train_with_valid
        task.progress.start(data.fold_name(task.shard["fold"]), total=len(candidates) + refit,
                            unit="fits")

        def on_fit(number: int, tried: Mapping[str, float]) -> None:
            task.progress.advance(int(number > 0), **tried)

        outcome = folds.run_fold(found, label, parts, setting, candidates, refit=refit,
                                 how=params.vote, on_fit=on_fit)
        task.progress.advance(1)
        numbers = _numbers(outcome, label, data)
        files = {part: [found.files[clip] for clip in outcome.clips[part]] for part in PARTS}
        embedded = artifact_attributes(task.inputs["embed"])
        record = {**params.model_dump(mode="json"), "fold": task.shard["fold"], "data": data.kind,
                  "part": data.part, "folds": data.tested_folds, "split": data.has_split,
                  "classes": list(data.classes), "chosen": outcome.chosen, "trials": outcome.trials,
                  "best_epochs": outcome.epochs, "scores": numbers, "losses": outcome.losses,
                  "missing": found.missing, "files": files,
                  "embeddings": str(task.inputs["embed"]), "network": embedded.get("teacher") or {}}
        write_json(task.output / "fold.json", record)
        _write_predictions(task.output / "predictions.csv", outcome, files, label, data)
        row = _row(params, task, outcome, numbers, embedded, record["part"])
        # the columns by class are those of the published sheet, which does not name the classes
        task.recorder.record(TAB, {**row, **own_data(data, row["note"]),
                                   "classes": list(data.classes)})
        return {"fold": task.shard["fold"], "split": data.has_split, "model": params.model,
                "part": record["part"], "chosen": outcome.chosen,
                **{part: numbers[part]["accuracy"] for part in PARTS},
                **({"note": row["note"]} if row["note"] else {}),
                "clips": len(found.files), "missing": len(found.missing)}

    def summary(self, results: Results) -> str:
        """``mlp, 5 folds: accuracy 0.842 on average``."""
        if not results:
            return ""
        mean = sum(result["test"] for result in results) / len(results)
        missing = results[0].get("missing")
        part = results[0].get("part")
        metric = results[0].get("metric", "accuracy")
        if results[0].get("split"):
            text = f"{results[0]['model']}: {metric} {mean:.3f} on the test clips"
        else:
            text = (f"{results[0]['model']}, {count_of(len(results), 'fold')}"
                    f"{f' ({part})' if part else ''}: {metric} {mean:.3f} on average")
        return f"{text}, {count_of(missing, 'clip')} missing" if missing else text


def _check_divided(params: FoldsParams, data: LabelledDataset) -> None:
    """Refuse clips of which a fraction cannot be taken to validate on."""
    import numpy as np

    from l3hpc.classification.folds import split

    folds, labels = (np.array([getattr(clip, name) for clip in data.clips])
                     for name in ("fold", "label"))
    for fold in data.tested_folds:
        try:
            split(folds, labels, [clip.source for clip in data.clips], fold,
                  ratio=params.valid_ratio, seed=params.seed)
        except InputError as error:
            raise InputError(f"{data.fold_name(fold)}: {error.message}",
                             where=str(params.clips or data.table),
                             allowed=error.allowed) from None


def _learners(data: LabelledDataset) -> Sequence[str]:
    """The classifiers that can learn a data set."""
    return TAGGERS if data.several else tuple(GIVEN)


def _numbers(outcome: FoldResult, label: Any, data: LabelledDataset) -> dict[str, dict[str, Any]]:
    """Accuracies and confusion of the clips that trained, validated and were tested."""
    from l3hpc.classification.scores import accuracies, confusion

    return {part: accuracies(confusion(
        label[outcome.clips[part]], outcome.scores[part].argmax(axis=1), len(data.classes)),
        data.classes) for part in PARTS}


def _write_predictions(path: Path, outcome: FoldResult, files: Mapping[str, Sequence[str]],
                       label: Any, data: LabelledDataset) -> None:
    """Of the validation and test clips: file, part, class, prediction, score of each class."""
    import csv
    import io

    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CLASS_COLUMNS, *score_columns(data.classes)])
    for part in ("valid", "test"):
        for name, clip, values in zip(files[part], outcome.clips[part], outcome.scores[part],
                                      strict=True):
            writer.writerow([name, part, data.classes[label[clip]], data.classes[values.argmax()],
                             *(f"{value:.6g}" for value in values)])
    write_text(path, stream.getvalue())


def _row(params: FoldsParams, task: Task, outcome: FoldResult,
         numbers: Mapping[str, Mapping[str, Any]], embedded: Mapping[str, Any], part: str
         ) -> dict[str, Any]:
    """The fold's row in the ledger, in the fields of the published sheet; what another kind of
    classifier would need stays empty. embedded: attributes of the embeddings; part: what the
    clips are of the published data set (empty: all)."""
    chosen = {name: getattr(params, name) for name in GIVEN[params.model]} | outcome.chosen
    # the scores of an SVM of several classes are votes of pairs, whose margins are no loss: they
    # only decide between equally accurate candidates
    losses = {} if params.model == "svm" else outcome.losses
    row = {
        **common_row(params, task, embedded, part),
        "parameter_search_train_with_valid": params.search and params.train_with_valid,
        "feature_mode": params.features,
        "non_overlap": float(embedded.get("hop", PUBLISHED_HOP)) * params.every >= 1 - 1e-9,
        **{name: chosen.get(name) for name in (
            "learning_rate", "weight_decay", "C", "tol", "max_iterations")},
        "train_batch_size": chosen.get("batch_size"), "num_epochs": chosen.get("epochs"),
        "train_loss": losses.get("train"), "valid_loss": losses.get("valid"),
    }
    for part in PARTS:
        row[f"{part}_acc"] = numbers[part]["accuracy"]
        row[f"{part}_avg_class_acc"] = numbers[part]["average_class_accuracy"]
        row[f"{part}_class_acc"] = ", ".join(
            "nan" if value is None else f"{value:.6g}"
            for value in numbers[part]["class_accuracy"].values())
    return row


class ScoreParams(Params):
    """There are no parameters."""


class Score(Step[ScoreParams]):
    """Scores over all folds: mean accuracy with its interval, accuracy per class, confusion."""

    name = "score"
    version = 1
    title = "accuracy over the folds"
    params_type = ScoreParams
    inputs = {"folds": Input()}

    def run(self, params: ScoreParams, task: Task) -> dict[str, Any]:
        """Write ``scores.json`` and ``confusion.csv``."""
        import numpy as np

        from l3hpc.classification.scores import (
            CLIPS_METHOD,
            CONFIDENCE,
            accuracies,
            accuracy_over_folds,
            over_clips,
            over_folds,
        )
        from l3hpc.io.files import write_json
        from l3hpc.models.weights import random_weights_note

        records = read_folds(task.inputs["folds"])
        if records[0].get("several"):
            return _score_tags(records, task)
        names, part = records[0]["classes"], records[0].get("part", "")
        tested = [one["scores"]["test"] for one in records]
        matrix = np.sum([one["confusion"] for one in tested], axis=0)
        together = accuracies(matrix, names)
        split = bool(records[0].get("split"))
        accuracy, method = (over_clips(together["accuracy"], together["clips"]), CLIPS_METHOD) \
            if split else accuracy_over_folds([one["accuracy"] for one in tested],
                                              together["clips"])
        result = {
            "data": records[0]["data"], "part": part, "model": records[0]["model"],
            "features": records[0]["features"],
            "confidence": CONFIDENCE, "method": method, "accuracy": accuracy,
            "average_class_accuracy": over_folds(
                [one["average_class_accuracy"] for one in tested]),
            "pooled": {name: value for name, value in together.items() if name != "confusion"},
            "folds": {tested_name(one): {
                "accuracy": test["accuracy"], "clips": test["clips"],
                "average_class_accuracy": test["average_class_accuracy"],
                "valid_accuracy": one["scores"]["valid"]["accuracy"], "chosen": one["chosen"],
            } for one, test in zip(records, tested, strict=True)},
            "missing": records[0]["missing"], "network": records[0]["network"].get("label"),
            "note": noted(random_weights_note(records[0]["network"]), part),
        }
        write_json(task.output / "scores.json", result)
        _write_confusion(task.output / "confusion.csv", names, matrix)
        return {"data": result["data"], "part": part, "model": result["model"],
                **({"note": result["note"]} if result["note"] else {}),
                "accuracy": result["accuracy"], "missing": len(result["missing"])}

    def summary(self, results: Results) -> str:
        """``ESC-50, mlp: accuracy 0.842 (95% interval 0.801 to 0.883)``."""
        if not results:
            return ""
        metric = "accuracy" if "accuracy" in results[0] else "micro_auprc"
        found, part = results[0][metric], results[0].get("part")
        shown = metric.replace("_auprc", "-AUPRC")
        text = (f"{results[0]['data']}{f' ({part})' if part else ''}, {results[0]['model']}: "
                f"{shown} {found['mean']:.3f}")
        low_high = found.get("interval")
        if not low_high:
            return text
        return f"{text} (95% interval {low_high[0]:.3f} to {low_high[1]:.3f})"


def _score_tags(records: Sequence[Mapping[str, Any]], task: Task) -> dict[str, Any]:
    """Write ``scores.json`` for clips with several labels."""
    from l3hpc.io.files import write_json
    from l3hpc.steps import fold_tags

    result = fold_tags.combined(records)
    write_json(task.output / "scores.json", result)
    return {**{name: result[name] for name in ("data", "part", "model", "micro_auprc",
                                               "mean_average_precision")},
            **({"note": result["note"]} if result["note"] else {}),
            "missing": len(result["missing"])}


def read_folds(folder: Path) -> list[dict[str, Any]]:
    """The results of the step folds, sorted by test fold.

    Parameters
    ----------
    folder
        An artifact of folds.

    Raises
    ------
    InputError
        For a missing or repeated fold, and folds with different classes.
    """
    from l3hpc.io.files import read_json, task_folders

    records: list[dict[str, Any]] = []
    for place in task_folders(folder):
        if (place / "fold.json").is_file():
            records.append(read_json(place / "fold.json"))
    if not records:
        raise InputError("contains no scores of folds", where=str(folder),
                         allowed="the output of the step folds")
    if any(one["classes"] != records[0]["classes"] for one in records):
        raise InputError("the folds have different classes", where=str(folder))
    done = Counter(int(one["fold"]) for one in records)
    wanted = records[0].get("folds") or list(done)  # older files do not tell
    wrong = [fold for fold in wanted if done[fold] != 1]
    if wrong:
        raise InputError(f"contains {done[wrong[0]]} results of fold {wrong[0]}, and results of "
                         f"{len(done)} of {len(wanted)} folds", where=str(folder),
                         allowed="one result for each fold",
                         hint=f"Finish folds first: {command_line('resume', 'RUN')}")
    return sorted(records, key=lambda one: int(one["fold"]))


def _write_confusion(path: Path, names: Sequence[str], matrix: Any) -> None:
    """A row per true class, a column per predicted one."""
    import csv
    import io

    from l3hpc.io.files import write_text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    corner = next(name for name in ("class", "true class", "class of the clip")
                  if name not in names)  # readers by column take the last of two equal names
    writer.writerow([corner, *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    write_text(path, stream.getvalue())
