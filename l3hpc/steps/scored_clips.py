"""Predictions clip by clip, from the artifacts of evaluate and folds, and a comparison of two.

``read`` reads the predictions of a step, ``read_predictions`` those in a file, and
``compare`` sets two of them side by side: tags of SONYC-UST with their annotations, tags of a
table of clips, or one class per clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.io.tables import read_cells
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.tagging.metrics import Events
    from l3hpc.tagging.paired import Difference

SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Question:
    """What is compared; only for SONYC-UST.

    Attributes
    ----------
    split, level : str
        'validate' or 'test'; 'coarse' or 'fine'.
    labels : tuple of Path, or None
        Annotations and taxonomy with which both are scored, in place of those of the run.
    """

    split: str = "validate"
    level: str = "coarse"
    labels: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class ScoredClips:
    """What a model answered about clips.

    Attributes
    ----------
    name : str
        As the user named it.
    kind : str
        'tags' or 'classes'.
    clips : list of str
        The clips, sorted.
    labels : list of str
        Names of the categories, tags or classes.
    events : list of list of Events
        With tags: for each classifier, those of every category.
    truth : list of str
        With classes: the class of each clip.
    right : ndarray of bool, shape (clips,)
        With classes: whether it was predicted.
    files : tuple of Path, or None
        Of SONYC-UST: annotations and taxonomy.
    warnings : list of str
        What is missing or suspicious in its predictions.
    random_weights : bool
        Whether the embeddings are of a random-weight teacher.
    """

    name: str
    kind: str
    clips: list[str]
    labels: list[str]
    events: list[Sequence[Events]] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    right: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    files: tuple[Path, Path] | None = None
    warnings: list[str] = field(default_factory=list)
    random_weights: bool = False


@dataclass(frozen=True)
class Compared:
    """Two evaluations of the same clips, compared.

    Attributes
    ----------
    first, second : ScoredClips
        The two.
    samples : int
        Number of resamplings.
    confidence : float
        Fraction of the resamplings within an interval.
    differences : list of Difference
        One per metric.
    only_first, only_second : int
        With classes: clips on which only one of them is right.
    mcnemar : float or None
        With classes: McNemar's exact p-value.
    notes : list of str
        Warnings about the predictions, and where too few clips stand behind a p-value.
    """

    first: ScoredClips
    second: ScoredClips
    samples: int
    confidence: float
    differences: list[Difference]
    only_first: int = 0
    only_second: int = 0
    mcnemar: float | None = None
    notes: list[str] = field(default_factory=list)


def compare(first: ScoredClips, second: ScoredClips, samples: int) -> Compared:
    """Compare two evaluations of the same clips by resampling the clips.

    Parameters
    ----------
    first, second
        The two.
    samples
        Number of resamplings.

    Raises
    ------
    InputError
        Where they are not about the same clips with the same truth.
    """
    from l3hpc.tagging import paired

    both = f"{first.name}, {second.name}"
    if first.kind != second.kind:
        raise InputError(f"{first.name} has {first.kind}, {second.name} has {second.kind}",
                         allowed="two evaluations of the same kind")
    for what, one, other in zip(("annotations", "taxonomies"), first.files or (),
                                second.files or (), strict=False):
        # by contents, because everybody has a copy of their own
        if digest_file(one) != digest_file(other):
            raise InputError(f"they are scored with different {what}: {one} and {other}",
                             where=both, hint="To score both with the same: --sonyc-ust FOLDER")
    _same_clips(first, second)
    if first.labels != second.labels:
        raise InputError("they have different classes", where=both)
    changed = [clip for clip, one, other in zip(first.clips, first.truth, second.truth, strict=True)
               if one != other] if first.truth else []
    if changed:
        raise InputError(f"the labels of {count_of(len(changed), 'clip')} differ: "
                         + _some(changed), where=both)
    notes = [f"{one.name}: {warning}" for one in (first, second) for warning in one.warnings]
    if first.kind == "classes":
        only_first = int((first.right & ~second.right).sum())
        only_second = int((second.right & ~first.right).sum())
        notes += paired.small_basis(len(first.clips), only_first + only_second)
        return Compared(first, second, samples, paired.CONFIDENCE,
                        [paired.compare_accuracy(first.right, second.right, samples)],
                        only_first, only_second, paired.mcnemar(first.right, second.right), notes)
    positives = {name: one.positives
                 for name, one in zip(first.labels, first.events[0], strict=True)}
    notes += paired.small_basis(len(first.clips), positives=positives)
    return Compared(first, second, samples, paired.CONFIDENCE, paired.compare_tags(
        first.events, second.events, first.labels, samples), notes=notes)


def _same_clips(first: ScoredClips, second: ScoredClips) -> None:
    only = [sorted(set(one.clips) - set(other.clips))
            for one, other in ((first, second), (second, first))]
    problems = [f"{len(names)} are only in {one.name} ({_some(names)})"
                for names, one in zip(only, (first, second), strict=True) if names]
    if problems:
        common = len(set(first.clips) & set(second.clips))
        raise InputError(f"they have {common} clips in common; {', '.join(problems)}",
                         where=f"{first.name}, {second.name}",
                         allowed="two evaluations of the same clips")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


# reading -----------------------------------------------------------------------------------------


def read(kind: str, name: str, config: Mapping[str, Any], artifact: Path,
         question: Question) -> ScoredClips:
    """What a finished step says about clips.

    Parameters
    ----------
    kind
        Kind of the step, one of ``READERS``.
    name
        As the user named it.
    config
        Its frozen settings: ``params`` and ``inputs``.
    artifact
        Its output.
    question
        What is compared.

    Raises
    ------
    InputError
        Where files are missing or damaged, and for a level or split that was not predicted.
    """
    return READERS[kind](name, config, artifact, question)


def read_predictions(name: str, question: Question) -> ScoredClips:
    """What a file of predictions says about the clips of SONYC-UST.

    Parameters
    ----------
    name
        The file.
    question
        What is compared; ``labels`` is needed.

    Raises
    ------
    InputError
        Where the labels are not given, and as for ``read``.
    """
    if question.labels is None:
        raise InputError("predictions can only be scored with annotations", where=name,
                         hint="Use --sonyc-ust FOLDER")
    return _tags(name, [(Path(name), {})], question.labels, question)


def _evaluated(name: str, config: Mapping[str, Any], artifact: Path, question: Question
               ) -> ScoredClips:
    """The tags of SONYC-UST that evaluate scored."""
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.steps.classify import label_files
    from l3hpc.steps.evaluate import Evaluate, classifiers

    params = Evaluate().parse(config["params"])
    labels = question.labels or label_files(params, Evaluate.name)
    classified = config.get("inputs", {}).get("classify")
    found = classifiers(params, Path(classified) if classified else None, Taxonomy.load(labels[1]))
    files = [(path, one.settings) for one in found for split, levels, path in one.files
             if split == question.split and question.level in levels]
    if not files:
        had = sorted({f"{split}, {level}" for one in found for split, levels, _ in one.files
                      for level in levels})
        raise InputError(f"{name} has no predictions of the {question.level} tags of "
                         f"'{question.split}'", allowed="; ".join(had))
    return _tags(name, files, labels, question)


def _tags(name: str, files: Sequence[tuple[Path, Mapping[str, Any]]], labels: tuple[Path, Path],
          question: Question) -> ScoredClips:
    """The tags in files of predictions, each with the settings of its classifier."""
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.steps.evaluate import split_as_trained
    from l3hpc.tagging.annotations import Annotations
    from l3hpc.tagging.evaluation import match

    taxonomy = Taxonomy.load(labels[1])
    annotations = Annotations.load(labels[0], taxonomy)
    matched = [match(path, split_as_trained(annotations, settings), taxonomy, question.split)
               for path, settings in files]
    for (path, _), one in zip(files, matched, strict=True):
        levels = one.predictions.scored_levels
        if question.level not in levels:
            problem = f"the {question.level} tags are all 0: they were not predicted" \
                if question.level in one.levels else f"has no columns of the {question.level} tags"
            raise InputError(problem, where=str(path), allowed=f"--level {' or '.join(levels)}")
    # Classifiers that differ in their seed mostly have the same ones.
    warnings = list(dict.fromkeys(warning for one in matched
                                  for warning in one.predictions.warnings))
    return ScoredClips(name, "tags", matched[0].files, matched[0].names,
                       [one.events(question.level) for one in matched], files=labels,
                       warnings=warnings)


def _folds(name: str, config: Mapping[str, Any], artifact: Path, question: Question) -> ScoredClips:
    """The test clips of all folds: one class each, or several tags."""
    from l3hpc.io.files import task_folders
    from l3hpc.steps.fold_params import CLASS_COLUMNS, LABEL_COLUMNS
    from l3hpc.steps.folds import read_folds
    from l3hpc.tagging.metrics import CategoryEvents

    record = read_folds(artifact)[0]
    classes, several = list(record["classes"]), bool(record.get("several"))
    told = LABEL_COLUMNS if several else CLASS_COLUMNS
    rows: dict[str, list[str]] = {}
    for folder in task_folders(artifact):
        path = folder / "predictions.csv"
        for line, row in _predicted(path, told, classes):
            if row[1] == "test" and rows.setdefault(row[0], row) is not row:
                raise InputError(f"'{row[0]}' is tested twice", where=f"{path}:{line}")
    clips = sorted(rows)
    if not clips:
        raise InputError("contains no predictions of test clips", where=str(artifact))
    truth = [rows[clip][2] for clip in clips]
    if not several:
        right = np.array([rows[clip][3] for clip in clips]) == np.array(truth)
        return ScoredClips(name, "classes", clips, classes, truth=truth, right=right)
    present = np.array([[one in own.split(";") for one in classes] for own in truth])
    values = np.array([[float(value) for value in rows[clip][len(told):]] for clip in clips])
    return ScoredClips(name, "tags", clips, classes,
                       [[CategoryEvents(present[:, [tag]], values[:, [tag]])
                         for tag in range(len(classes))]], truth)


def _predicted(path: Path, told: Sequence[str], classes: Sequence[str]
               ) -> Iterator[tuple[int, list[str]]]:
    """Lines of a file of predictions, their cells in the order of ``told`` and the classes."""
    from l3hpc.steps.fold_params import score_columns

    # By position: in older files a class may have the name of another column.
    headers = [[*told, *score_columns(classes)], [*told, *classes]]
    lines = read_cells(path, "predictions")
    line, columns = next(lines, (1, []))
    if columns not in headers:
        raise InputError("has other columns than folds writes", where=f"{path}:{line}",
                         allowed=", ".join(headers[0][:len(told) + 2]) + ", …")
    for line, row in lines:
        if len(row) != len(columns):
            raise InputError(f"{count_of(len(row), 'cell')}, the header has {len(columns)}",
                             where=f"{path}:{line}")
        yield line, row


READERS: Mapping[str, Callable[[str, Mapping[str, Any], Path, Question], ScoredClips]] = {
    "evaluate": _evaluated, "folds": _folds}
