"""Two evaluations, named by runs or files of predictions, compared clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from l3hpc.errors import InputError, command_line
from l3hpc.report.networks import has_random_weights
from l3hpc.steps import scored_clips
from l3hpc.steps.scored_clips import READERS, Compared, Question, ScoredClips
from l3hpc.workspace import artifacts, records, step_config
from l3hpc.workspace.run_record import RunRecord, StepRecord


def compare(names: Sequence[str], find_workspace: Callable[[], Path], *, split: str | None,
            level: str | None, labels: tuple[Path, Path] | None, samples: int) -> Compared:
    """Compare two evaluations.

    Parameters
    ----------
    names
        Two of: a run (its name, the beginning of it, or ``latest``), ``RUN/STEP`` where it has
        several evaluations, or a CSV file of predictions of SONYC-UST.
    find_workspace
        Returns the workspace folder; called where a run is named.
    split, level
        What is compared of SONYC-UST (None: validate, coarse).
    labels
        Annotations and taxonomy with which both are scored (None: those of the runs).
    samples
        Number of resamplings.

    Returns
    -------
    Compared
        The differences.

    Raises
    ------
    InputError
        Where a name is neither, an evaluation has not finished, or the two cannot be compared.
    """
    question = Question(split or "validate", level or "coarse", labels)
    found: dict[str, ScoredClips] = {}
    for name in names:
        if not Path(name).is_file():
            found[name] = of_run(find_workspace(), name, question)
    for name in names:
        if Path(name).is_file():
            # beside a run, a file is scored with the annotations of the run
            used = labels or next((one.files for one in found.values() if one.files), None)
            found[name] = scored_clips.read_predictions(
                name, Question(question.split, question.level, used))
    first, second = (found[name] for name in names)
    given = [option for option, value in (("--split", split), ("--level", level),
                                          ("--sonyc-ust", labels)) if value is not None]
    if given and not (first.files and second.files):
        raise InputError("only evaluations on SONYC-UST have splits, levels and annotations",
                         where=", ".join(given), hint=command_line("compare", *names))
    compared = scored_clips.compare(first, second, samples)
    if all(one.low == one.high == 0 for one in compared.differences):
        # likely where a run has reused what another one computed
        compared.notes.insert(0, "both give the same answers: they may be one evaluation, which "
                                 "the later run has reused")
    return compared


def of_run(workspace: Path, name: str, question: Question) -> ScoredClips:
    """Read the evaluation of a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    name
        The run, or ``RUN/STEP``.
    question
        What is compared.

    Raises
    ------
    InputError
        Where there is no such run, it has no finished evaluation, or several.
    """
    text, _, step = name.partition("/")
    if not step and text.endswith(".csv"):
        raise InputError("no such file", where=name)
    run = records.find(workspace, text)
    record = records.read(workspace, run)
    entry = _entry(record, step)
    if len(artifacts.finished(entry.artifact)) < entry.tasks:
        raise InputError(f"{entry.name} of {run} has not finished",
                         hint=f"To see its state: {command_line('status', run)}")
    config = step_config.read(workspace, run, entry, record.command)
    found = scored_clips.read(entry.kind, f"{run}/{step}" if step else run, config,
                              Path(entry.artifact), question)
    return replace(found, random_weights=has_random_weights(
        Path(one.artifact) for one in record.steps))


def _entry(record: RunRecord, step: str) -> StepRecord:
    """The step of a run whose evaluation is compared."""
    known = {entry.name: entry for entry in record.steps if entry.kind in READERS}
    if step:
        if step not in known:
            raise InputError(f"the run {record.run!r} has no evaluation {step!r}",
                             allowed=", ".join(known) or "a run of downstream, esc50, us8k, clips")
        return known[step]
    if not known:
        raise InputError(f"the run {record.run!r} has no step that scores clips",
                         allowed="a run with one of the steps " + ", ".join(READERS))
    if len({entry.artifact for entry in known.values()}) > 1:
        raise InputError(f"the run {record.run!r} has several evaluations: name one of them",
                         allowed=", ".join(f"{record.run}/{name}" for name in known),
                         hint=f"Their results: {command_line('status', record.run)}")
    return next(iter(known.values()))
