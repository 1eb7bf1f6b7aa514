"""What the report of a run shows, as plain data: no file formats and no layout.

What its steps computed is in ``results``. ``None`` means unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l3hpc.report.ledger_rows import FoldTable, LedgerRow
    from l3hpc.report.results import (
        Comparison,
        Correspondence,
        Epoch,
        Network,
        Scores,
        Variance,
    )
    from l3hpc.runs.usage import StepUsage

@dataclass(frozen=True)
class StepFacts:
    """One step of the chain.

    Attributes
    ----------
    name, needs
        Name of the step in the run, and the names of the steps whose output it uses.
    state
        As ``l3hpc status`` shows it: ``done``, ``reused``, ``running``, ``failed`` …
    tasks, tasks_done
        Number of tasks, and of those that have finished.
    seconds
        Time of all tasks together.
    detail
        One line about the state or the result.
    fingerprint
        Fingerprint of the artifact.
    kind
        Kind of step where its name differs from that; empty where it does not.
    """

    name: str
    needs: tuple[str, ...] = ()
    state: str = "done"
    tasks: int = 1
    tasks_done: int = 1
    seconds: float | None = None
    detail: str = ""
    fingerprint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Changed:
    """A parameter whose value is not the default.

    Attributes
    ----------
    step, name
        The step and its parameter.
    value, default
        As JSON; ``default`` is empty for a parameter that has none.
    """

    step: str
    name: str
    value: str
    default: str = ""


@dataclass(frozen=True)
class Problem:
    """A step that failed, or cannot run.

    Attributes
    ----------
    step, state, detail
        Name, state and cause.
    lines
        The last lines of its error.
    """

    step: str
    state: str
    detail: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepFiles:
    """What ran in the jobs of a step.

    Attributes
    ----------
    step
        Name of the step.
    command
        The command that repeats the step by hand.
    script
        Text of its script; empty for a step that ran nothing in this run.
    log, log_file
        The end of the log of its first failed or running task, and where the file is.
    """

    step: str
    command: str
    script: str = ""
    log: str = ""
    log_file: str = ""


@dataclass(frozen=True)
class Span:
    """A part of the time of a task.

    Attributes
    ----------
    kind
        ``waiting`` (for earlier steps), ``queued``, ``turn`` (until the tasks before it in the same
        job have ended), ``running``, ``requeued`` (an attempt that
        ended with a requeue, with its time in the queue), ``failed`` (that ended with an error) or
        ``earlier`` (the time of an earlier submission, until the next one).
    start, end
        Unix seconds.
    note
        Why it was requeued, or failed.
    """

    kind: str
    start: float
    end: float
    note: str = ""


@dataclass(frozen=True)
class TaskTimes:
    """The time of a task: its index, the id of its latest job, and its parts in order."""

    task: int
    job: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class StepTimes:
    """When the tasks of a step waited and ran.

    Attributes
    ----------
    step
        Name of the step.
    tasks
        Its tasks, at most ``timeline.MOST_TASKS`` of them.
    left_out
        How many more there are.
    use
        What it used of what it requested; None before a task has finished.
    """

    step: str
    tasks: tuple[TaskTimes, ...]
    left_out: int = 0
    use: StepUsage | None = None


@dataclass(frozen=True)
class Link:
    """Another run that this one has to do with.

    Attributes
    ----------
    run, why
        Its name, and what it has to do with this one.
    address
        Of its report, relative to the page; empty if it has none.
    """

    run: str
    why: str
    address: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything on the page; parts that a run does not have are empty.

    Attributes
    ----------
    run, title, created
        Name of the run, heading of the page, and when the run was submitted.
    teacher, teacher_trained
        Label of the teacher (of a run without one, of the student that made its embeddings), and
        whether the weights behind all results were trained.
    is_student
        Whether ``teacher`` is a student.
    epochs_of
        Step and file of ``epochs``, where the run has no training of a network of its own.
    epochs, variance, scores, correspondence, networks
        The results, each described at its class.
    model_file, model_bytes
        Name and size of the student's file.
    steps
        The chain in order.
    state, next_command, then_command
        State of the run, the command that helps if it did not finish, and the one after that.
    headline
        Name, value and explanation of the most important metric, where no other part has it.
    remarks
        What could not be determined, why the run was refused, and files that are damaged.
    sweep
        The combinations of a sweep side by side; the results are those of the best one.
    problems, timeline, files, changed, links
        The steps that failed, when the jobs waited and ran, what ran in them, the parameters that
        are not the defaults, and other runs; each described at its class.
    ledger, folds
        Rows of the results tables; the folds of a cross-validation also together.
    provenance
        Pairs of name and value that identify how the results came about.
    notes
        Sentences about parts that are missing from the report, and why.
    """

    run: str
    title: str = "Results"
    created: str = ""
    teacher: str = ""
    teacher_trained: bool = True
    is_student: bool = False
    epochs: tuple[Epoch, ...] = ()
    epochs_of: str = ""
    variance: Variance | None = None
    scores: tuple[Scores, ...] = ()
    correspondence: Correspondence | None = None
    networks: tuple[Network, ...] = ()
    model_file: str = ""
    model_bytes: int | None = None
    steps: tuple[StepFacts, ...] = ()
    state: str = ""
    next_command: str = ""
    then_command: str = ""
    headline: tuple[str, float, str] | None = None
    remarks: tuple[str, ...] = ()
    sweep: Comparison | None = None
    problems: tuple[Problem, ...] = ()
    timeline: tuple[StepTimes, ...] = ()
    files: tuple[StepFiles, ...] = ()
    changed: tuple[Changed, ...] = ()
    links: tuple[Link, ...] = ()
    ledger: tuple[LedgerRow, ...] = ()
    folds: tuple[FoldTable, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def score(self, level: str = "coarse", split: str = "validate") -> Scores | None:
        """Return the scores of one level and split; None if the run has none."""
        for scores in self.scores:
            if (scores.level, scores.split) == (level, split):
                return scores
        return None
