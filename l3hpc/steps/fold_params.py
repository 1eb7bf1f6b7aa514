"""What folds works on, for single and for several labels: its parameters, clips and embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from l3hpc.errors import InputError, L3hpcError, Lines, command_line, option, setting
from l3hpc.io.values import count_of
from l3hpc.steps.base import Params, absolute
from l3hpc.steps.params import LEAST, MAX_BATCH, MAX_SEED, MOST
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.datasets.labelled import LabelledDataset

PARTS = ("train", "valid", "test")
# Columns of predictions.csv before those of the scores, for one class and for several per clip.
CLASS_COLUMNS = ("file", "part", "class", "predicted")
LABEL_COLUMNS = ("file", "part", "labels")
TAGGERS = ("mil",)  # classifiers of clips with several labels (``fold_tags``)
TAG_RATES = (1e-3, 1e-2)  # learning rates that a search tries for them


class ClipDataParams(Params):
    """Where the clips, their labels and their folds are."""

    clips: Path | None = Field(None, description=(
        "Folder of UrbanSound8K or ESC-50: its table names the folds."))
    subset: Literal["all", "esc10"] = Field("all", description=(
        "esc10: only the clips of ESC-50 that belong to ESC-10."))
    table: Path | None = Field(None, description=(
        "Or a table (CSV) of clips with files and labels, as for embed."))
    audio: Path | None = Field(None, description=(
        "Folder of audio of the table's files (none: the table's folder)."))
    file_column: str | None = Field(None, description=(
        "Column of the table with the files (none: found by its name)."))
    label_column: str | None = Field(None, description=(
        "Column with the labels (none: found by its name); several columns of 0 and 1, separated "
        "by commas: clips with several labels."))
    label_separator: str | None = Field(None, description=(
        "What separates several labels in a cell; 'none': a cell is one label (none: ; or | if a "
        "cell contains one)."))
    fold_column: str | None = Field(None, description=(
        "Column with the folds, whole numbers (none: found by its name)."))
    split_column: str | None = Field(None, description=(
        "Column that says in place of folds which clips train, validate and test."))
    group_column: str | None = Field(None, description=(
        "Column of groups (recordings, sites, persons) that folds that are made keep together."))
    fold_count: int | None = Field(None, ge=2, le=1000, description=(
        "Make this number of folds, stratified by label (none: those of the table, otherwise 5)."))
    fold_seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the folds that are made.")
    data_name: str | None = Field(None, min_length=1, max_length=100, description=(
        "Name of the data set in results (none: that of the table, or of its folder)."))

    _absolute = field_validator("table", "audio")(absolute)


# Not in fingerprints: the clips with their folds and labels count (``LabelledDataset.digest``),
# wherever they come from.
CLIP_DATA = frozenset(ClipDataParams.model_fields)


class FoldsParams(ClipDataParams):
    """The clips, their features, the classifier, and how its parameters are selected."""

    model: Literal["mlp", "svm", "rf", "mil"] = Field("mlp", description=(
        "mlp: 512 and 128 ReLU units, softmax; svm: support vector machine; rf: random forest; "
        "mil, for clips with several labels and their default: tag classifier with AutoPool."))
    features: Literal["framewise", "stats"] = Field("framewise", description=(
        "framewise: every window is a sample, and the windows of a clip vote; stats: minimum, "
        "maximum, median, mean, variance, skewness and kurtosis over a clip's windows."))
    every: int = Field(1, ge=1, le=MOST, description=(
        "Use every n-th window; 10 with a hop of 0.1 s: windows that do not overlap."))
    vote: Literal["mean", "majority"] = Field("mean", description=(
        "How windows vote: mean of their scores (published), or one vote each."))
    search: bool = Field(True, description=(
        "Try the published grid (svm: C 0.1 to 1000; rf: 100, 500, 1000 trees; mlp: learning rate "
        "and weight decay 1e-5 to 1e-3), for mil learning rates 1e-3 and 1e-2; false: only the "
        "values below."))
    valid_fold: bool = Field(True, description=(
        "Validate on the fold before the test fold; false: on a fraction valid_ratio of the other "
        "clips."))
    valid_ratio: float = Field(0.15, gt=0, le=0.5, description=(
        "Fraction of the clips used for validation, stratified by class, with no source recording "
        "in both parts."))
    train_with_valid: bool = Field(True, description=(
        "After a search, fit the best model again on training and validation clips together."))
    learning_rate: float = Field(1e-4, ge=LEAST, le=1, description=(
        "mlp, mil: learning rate, without a search."))
    weight_decay: float = Field(1e-5, ge=0, le=MOST, description=(
        "mlp, mil: weight decay, without a search."))
    epochs: int = Field(150, ge=1, le=MOST, description="mlp, mil: maximum number of epochs.")
    patience: int = Field(20, ge=1, le=MOST, description=(
        "mlp, mil: epochs without a lower validation loss before training stops."))
    batch_size: int = Field(64, ge=1, le=MAX_BATCH, description=(
        "mlp: samples per batch; mil: clips, fewer if an epoch would have fewer than 16 batches."))
    C: float = Field(1.0, ge=LEAST, le=MOST, description="svm: C, without a search.")
    kernel: Literal["rbf", "linear", "poly", "sigmoid"] = Field("rbf", description="svm: kernel.")
    tol: float = Field(1e-5, ge=LEAST, le=1, description=(
        "svm: tolerance of the stopping criterion."))
    max_iterations: int = Field(-1, ge=-1, le=MOST, description=(
        "svm: maximum iterations; -1: no limit."))
    trees: int = Field(100, ge=1, le=1_000_000, description=(
        "rf: number of trees, without a search."))
    max_missing: float = Field(0.05, ge=0, le=1, description=(
        "Fraction of the clips that may have no embedding before the task fails."))
    partial: bool = Field(False, description=(
        "Score a data set with missing folds; results are labelled with the folds they cover."))
    seed: int = Field(20171021, ge=0, le=MAX_SEED, description=(
        "Seed of weights, batch order, trees and validation clips."))


def dataset(params: ClipDataParams) -> LabelledDataset:
    """The clips with their folds and classes.

    Parameters
    ----------
    params
        Parameters of the step.

    Raises
    ------
    InputError
        For neither or both of a folder and a table, and whatever their readers refuse.
    """
    if (params.clips is None) == (params.table is None):
        raise InputError("folds needs either a folder of UrbanSound8K or ESC-50, or a table of "
                         "clips", where=f"{setting('folds.clips')}, {setting('folds.table')}",
                         hint=f"Use {option('table', 'FILE')} (submit clips), or "
                              f"{setting('folds.clips', 'FOLDER')}")
    if params.clips is not None:
        from l3hpc.datasets.labelled import read_labelled

        return read_labelled(params.clips, params.subset)
    from l3hpc.datasets.clip_columns import ClipTable
    from l3hpc.datasets.clip_tables import read_table

    assert params.table is not None
    return read_table(ClipTable(
        params.table, params.audio, params.file_column, params.label_column,
        params.label_separator, params.fold_column, params.group_column, params.fold_count,
        params.fold_seed, params.data_name, params.split_column))


def planned_dataset(params: ClipDataParams, task: Task) -> LabelledDataset:
    """The clips of a task.

    Parameters
    ----------
    params
        Parameters of the step.
    task
        The task.

    Raises
    ------
    L3hpcError
        If the user's own table, or its files, have changed since the run was planned.
    """
    data = dataset(params)
    planned = task.shard.get("clips")
    if planned is not None and planned != data.digest():
        raise L3hpcError("the clips, their labels or their folds have changed since this run was "
                         "submitted", where=str(data.table),
                         allowed="the table and the files that were there then",
                         hint="Restore them and resume the run, or submit it again.")
    return data


def check_folds(params: ClipDataParams, data: LabelledDataset, *, partial: bool, least: int
                ) -> None:
    """Refuse folds that are missing or far smaller than the others, and too few folds.

    Parameters
    ----------
    params
        Parameters of the step.
    data
        Its clips.
    partial
        Whether small and missing folds are accepted.
    least
        Smallest number of folds.

    Raises
    ------
    InputError
        With the fold, and how to go on.
    """
    from l3hpc.datasets.clip_columns import folds_option
    from l3hpc.datasets.labelled import VALIDATE

    folds, small = data.folds, data.small_folds()
    accept, no_part = setting("folds.partial", "true"), setting("folds.valid_fold", "false")
    if small and not partial:
        count = sum(clip.fold == small[0] for clip in data.clips)
        lists = f"lists {count or 'no'} clip{'s' * (count != 1)} of fold {small[0]}: "
        # the right number of clips in a user's own table is not known
        if data.published is None:
            raise InputError(
                f"{lists}a fold has {len(data.clips) / len(folds):,.0f} on average",
                where=str(data.table), allowed="folds of about the same size",
                hint=f"Correct the table, or have other folds made: {folds_option('N')}. To "
                     f"score these folds as they are: {accept}")
        raise InputError(
            f"{lists}{data.part} of {data.kind}", where=str(data.table),
            allowed=f"clips of all {data.published[0]} folds",
            hint=f"Get what is missing. To score this part, labelled as such: {accept}")
    if data.has_split:
        if least == 3 and VALIDATE not in folds:
            raise InputError(
                "has no clips to validate on", where=str(data.table),
                allowed=f"clips of the part validate in the column '{params.split_column}'",
                hint=f"To take 15% of the training clips: {no_part}")
        return
    if len(folds) < least:
        raise InputError(f"has clips of {count_of(len(folds), 'fold')}",
                         where=str(params.clips or data.table),
                         allowed=f"{least} or more (valid_fold: {str(least == 3).lower()})",
                         hint="With two folds, take validation clips from the training fold: "
                              + no_part if len(folds) == 2 else None)


def check_embedded(params: ClipDataParams, data: LabelledDataset, files: Collection[str],
                   missing: Sequence[str], task: Task, max_missing: float) -> None:
    """Log clips without embeddings, and refuse too many of them.

    Parameters
    ----------
    params
        Parameters of the step.
    data
        Its clips.
    files, missing
        Those with and without embeddings.
    task
        The task, with the embeddings as an input.
    max_missing
        Fraction of the clips that may have no embedding, 0 to 1.

    Raises
    ------
    L3hpcError
        Where more are missing, or more than half of a fold, whose score would mean little.
    """
    embeddings = task.inputs["embed"]
    why = (f"Why they were skipped: skipped.csv in the folders of {embeddings}"
           if params.clips is None else
           f"What is missing: {command_line('data', 'check', params.clips)}")
    if missing:
        text = f"{len(missing)} of {len(data.clips)} clips have no embedding: {missing[0]}"
        text += " …" if len(missing) > 1 else ""
        if len(missing) > max_missing * len(data.clips):
            raise L3hpcError(text, where=str(embeddings),
                             allowed=f"at most {max_missing:.0%} ({setting('folds.max_missing')})",
                             hint=Lines(why, "Repair them and submit again, or allow more: "
                                             + setting("folds.max_missing", 0.5)))
        task.progress.note(f"{text}; they are neither trained on nor scored")
    present = set(files)
    # few clips of all may still be most clips of one fold
    there = Counter(clip.fold for clip in data.clips if clip.file in present)
    listed = Counter(clip.fold for clip in data.clips)
    lost = [fold for fold in data.folds if there[fold] < listed[fold] / 2]
    if lost:
        raise L3hpcError(
            f"{there[lost[0]]} of {listed[lost[0]]} clips of {data.fold_name(lost[0])} have an "
            "embedding", where=str(embeddings),
            allowed=f"at least half of the clips of every {'part' if data.has_split else 'fold'}",
            hint=f"{why}." if data.has_split else
                 f"{why}. To leave folds out, take their rows out of the table and "
                 + setting("folds.partial", "true"))


def score_columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns of scores: ``score:dog``.

    Parameters
    ----------
    classes
        Names of the classes.
    """
    # Without the prefix, a class called "file" would be a second column of that name.
    return [f"score:{name}" for name in classes]


def tested_name(record: Mapping[str, Any]) -> str:
    """``3`` for the result of fold 3, ``test`` for that of a split.

    Parameters
    ----------
    record
        The contents of ``fold.json``.
    """
    return "test" if record.get("split") else str(record["fold"])


def own_data(data: LabelledDataset, note: str | None) -> dict[str, str]:
    """Describe a user's own data set in a row of the ledger; the columns of the sheet are fixed.

    Parameters
    ----------
    data
        The clips. A published data set is not described, because the pipeline has its name.
    note
        What the note says besides.
    """
    if data.published is not None:
        return {}
    name = f"data: {data.kind}"
    return {"data": data.kind, "note": f"{name}; {note}" if note else name}


def grid(params: FoldsParams) -> tuple[dict[str, float], ...]:
    """The candidates: the published grid, or the given values alone."""
    from l3hpc.classification.models import GRIDS

    if params.model in TAGGERS:
        rates = TAG_RATES if params.search else (params.learning_rate,)
        return tuple({"learning_rate": rate, "weight_decay": params.weight_decay}
                     for rate in rates)
    if params.search:
        return GRIDS[params.model]
    return ({name: getattr(params, name) for name in GRIDS[params.model][0]},)


def common_row(params: FoldsParams, task: Task, embedded: Mapping[str, Any], part: str
               ) -> dict[str, Any]:
    """The fields of a fold's row that all classifiers have.

    Parameters
    ----------
    params, task
        Of the fold.
    embedded
        Attributes of the embeddings.
    part
        What the clips are of the published data set (empty: all).
    """
    from l3hpc.models.weights import random_weights_note

    labels = task.labels
    folder = Path(labels.get("output_dir") or task.output.parent)
    return {
        "note": noted(random_weights_note(embedded.get("teacher")), part), "state": "finished",
        "username": labels.get("username", ""),
        "model_id": str(labels.get("exp_id") or labels.get("run") or folder.name),
        "model_dir": str(folder / f"{task.index:04d}"),
        "git_commit": labels.get("git_commit", ""), "features_dir": str(task.inputs["embed"]),
        "fold_num": None if params.split_column else task.shard["fold"],
        "parameter_search": params.search,
        "parameter_search_valid_fold": params.valid_fold,
        "parameter_search_valid_ratio": None if params.valid_fold else params.valid_ratio,
        "model_type": params.model, "random_state": params.seed,
    }


def noted(note: str | None, part: str) -> str | None:
    """The note in the ledger, with the part of the data that was used."""
    return "; ".join(text for text in (note, f"only {part}" if part else "") if text) or None
