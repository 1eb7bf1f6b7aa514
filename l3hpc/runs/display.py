"""How runs are displayed: the table of ``l3hpc status``, and the progress of a local run.

A local run has one bar per step on a terminal, and plain lines in a log. The bars add up the
progress files of the running tasks of a step, so they also move within a long task.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from l3hpc.console import formatting, terminal
from l3hpc.console.formatting import age, clock, describe_progress
from l3hpc.errors import command_line, shell_path
from l3hpc.io.values import one_line
from l3hpc.runs.status import CombinationStatus, RunStatus
from l3hpc.runs.step_status import StepStatus
from l3hpc.runs.submission_lock import Unsubmitted
from l3hpc.workspace import artifacts, markers
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState, RunState, StepState

COLUMNS = ("step", "job", "state", "tasks", "elapsed", "detail")
MAX_ERROR_LINES = 6
REDRAW_S = 0.5
LINE_S = 10.0


def run_text(run: RunStatus, most: int | None = None) -> str:
    """Format the status of a run: its heading, one line per step, the last lines of errors, what
    to do next, and a result per combination of a sweep.

    Parameters
    ----------
    run
        The status.
    most
        Number of combinations to show; None for all.
    """
    lines = [one_line(f"{run.run}   {run.cluster}   {heading(run)}")]
    order = _in_groups(run)
    steps = [step for _, group in order for step in group]
    headings = {id(group[0]): title for title, group in order if title and group}
    rows = [(step.name, step.job or "–", step.state, f"{step.done:,}/{step.tasks:,}",
             clock(step.elapsed_s), step.detail) for step in steps]
    head, *body = formatting.table_lines(
        [COLUMNS, *rows], right=[COLUMNS.index("tasks"), COLUMNS.index("elapsed")])
    if steps:  # of a finished sweep without shared steps only the combinations are shown
        lines.append(head)
    indent = " " * head.rindex(COLUMNS[-1])  # further lines on a step stand below its detail
    for step, line in zip(steps, body, strict=True):
        if id(step) in headings:
            lines.append(f"  {one_line(headings[id(step)])}")
        lines += [line, *_more(step, indent)]
    lines += [f"  note: {one_line(note)}" for note in run.notes]
    lines += [f"  damaged: {one_line(file)}" for file in run.damaged]
    if run.next:
        lines.append(f"  next: {run.next}")
    if run.then:
        lines.append(f"  then: {run.then}   (after removing the cause)")
    lines += _combination_lines(run, most)
    return "\n".join(lines)


def unsubmitted_text(run: Unsubmitted) -> str:
    """Format a run of which nothing was submitted, and what to do next.

    Parameters
    ----------
    run
        The run.
    """
    if run.empty:
        return "\n".join([
            one_line(f"{run.run}   empty folder, made {age(run.started)}"),
            "  note: made by hand, or its submission was killed at once",
            one_line(f"  next: {run.next} removes it")])
    return "\n".join([
        one_line(f"{run.run}   not submitted, started {age(run.started)}"),
        "  note: the submitting process was killed before it had submitted a job",
        one_line(f"  next: submit it again; {run.next} removes its folder")])


def _combination_lines(run: RunStatus, most: int | None = None) -> list[str]:
    """Lay out the combinations of a sweep: their values, their states and their results.

    Parameters
    ----------
    run
        The status of the sweep.
    most
        Number of combinations to show; None for all.

    Returns
    -------
    list of str
        The number of combinations that are done, a header, and a line for each; nothing if the
        run is no sweep.
    """
    if not run.combinations:
        return []
    done = sum(each.state.is_done for each in run.combinations)
    shown = run.combinations[:most]
    options = list(shown[0].values)
    rows = [(*options, "state", "result")]
    rows += [(*(str(each.values[name]) for name in options), str(each.state), each.result or "–")
             for each in shown]
    lines = [f"  {done} of {len(run.combinations)} combinations done",
             *formatting.table_lines(rows)]
    if len(shown) < len(run.combinations):
        lines.append(f"  and {len(run.combinations) - len(shown)} more: "
                     f"{command_line('status', run.run)}")
    return lines


def _in_groups(run: RunStatus) -> list[tuple[str, list[StepStatus]]]:
    """(heading, steps): of a sweep first the shared steps, then each combination that is not done.
    """
    if not run.combinations:
        return [("", run.steps)]
    by_name = {step.name: step for step in run.steps}
    counts = Counter(name for each in run.combinations for name in set(each.steps.values()))
    groups = [("", [step for step in run.steps if counts[step.name] > 1])]
    for each in run.combinations:
        own = [by_name[name] for name in each.steps.values() if counts[name] == 1]
        if any(not step.state.is_done for step in own):
            groups.append((_values(each), own))
    return groups


def _values(combination: CombinationStatus) -> str:
    return ", ".join(f"{name}={value}" for name, value in combination.values.items())


def heading(run: RunStatus) -> str:
    """Format the state of a run and its age: ``started 3 h ago``, ``failed, started yesterday`` …

    Parameters
    ----------
    run
        The status.
    """
    started = f"started {age(run.created)}"
    return started if run.state is RunState.RUNNING else f"{run.state_in_words}, {started}"


def _more(step: StepStatus, indent: str) -> list[str]:
    """The path of the log of a failed step, and the last lines of its error."""
    if step.state not in (StepState.FAILED, StepState.LOST):
        return []
    lines = [f"{indent}{one_line(line.strip())}" for line in step.last_words[:MAX_ERROR_LINES]
             if line.strip()]
    if step.log:
        lines.append(f"{indent}log {shell_path(step.log)}")
    return lines


class PlainDisplay:
    """A line when a step starts or ends, and one every ten seconds while it is running.

    Parameters
    ----------
    workspace
        The workspace folder.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._stage: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._last = time.monotonic()
        self._redrawn = 0.0

    def __call__(self, record: RunRecord, jobs: dict[str, LocalJob]) -> None:
        now = time.monotonic()
        if now - self._redrawn < REDRAW_S and any(job.state.is_active for job in jobs.values()):
            return
        self._redrawn = now
        is_due = now - self._last >= LINE_S
        for step in record.steps:
            counts = _counts(jobs, step)
            stage = _stage(counts)
            if stage in ("running", "done", "failed", "cancelled"):
                self._started.setdefault(step.name, now)
            if stage != self._stage.get(step.name, "waiting"):
                self._stage[step.name] = stage
                self._print(self._line(record, step, stage, counts))
            elif stage == "running" and is_due:
                self._print(self._line(record, step, "", counts))
        if is_due:
            self._last = now

    def close(self) -> None:
        """Do nothing."""

    def _line(self, record: RunRecord, step: StepRecord, stage: str,
              counts: Counter[JobState]) -> str:
        elapsed = clock(time.monotonic() - self._started.get(step.name, time.monotonic()))
        if stage == "running":
            number = sum(counts.values())
            return f"{step.name}: started" + (f" ({number} tasks)" if number > 1 else "")
        if stage == "done":
            summary = artifacts.detail(Path(step.artifact))
            how = f"done in {elapsed}" if counts else "done before"
            return f"{step.name}: {how}" + (f", {summary}" if summary else "")
        if stage == "failed":
            return f"{step.name}: failed: {_error_line(self._workspace, record, step)}"
        if stage:
            return f"{step.name}: {stage}"
        fraction, text = _advance(self._workspace, record, step)
        # the fraction of a single task is that of its phase, not of the step
        percent = f"{fraction:.0%}" if step.tasks > 1 or not text else ""
        if fraction == 1 and step.tasks == 1 and not text:  # with its result, the job ends
            percent = "ending"
        return f"{step.name} after {elapsed}: " + ", ".join(filter(None, (percent, text)))

    def _print(self, text: str) -> None:
        print(one_line(text), file=sys.stderr, flush=True)


class BarDisplay:
    """Bars drawn by rich on standard error.

    Parameters
    ----------
    workspace
        The workspace folder.
    """

    def __init__(self, workspace: Path) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._workspace = workspace
        self._bars = RichProgress(
            TextColumn("{task.description:<10}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=terminal.console(), expand=False)
        self._tasks: dict[str, Any] = {}
        self._redrawn = 0.0
        terminal.start_bars(self._bars)

    def __call__(self, record: RunRecord, jobs: dict[str, LocalJob]) -> None:
        now = time.monotonic()
        if now - self._redrawn < REDRAW_S and any(job.state.is_active for job in jobs.values()):
            return
        self._redrawn = now
        for step in record.steps:
            if step.name not in self._tasks:
                self._tasks[step.name] = self._bars.add_task(
                    one_line(step.name), total=1.0, start=False, text="waiting")
            task, counts = self._tasks[step.name], _counts(jobs, step)
            stage = _stage(counts)
            if stage == "running":
                self._bars.start_task(task)
                fraction, text = _advance(self._workspace, record, step)
                self._bars.update(task, completed=fraction, text=one_line(text))
            elif stage == "done":
                summary = artifacts.detail(Path(step.artifact))
                reused = "" if counts else "done before"
                self._bars.update(task, completed=1.0, text=one_line(summary or reused))
                self._bars.stop_task(task)
            elif stage != "waiting":
                error = _error_line(self._workspace, record, step) if stage == "failed" else ""
                self._bars.update(task, text=one_line(f"{stage} {error}".rstrip()))
                self._bars.stop_task(task)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bars.stop()


def create_display(workspace: Path) -> PlainDisplay | BarDisplay:
    """Create the display of a local run: bars if standard error is a terminal, else plain lines.

    Parameters
    ----------
    workspace
        The workspace folder.
    """
    return BarDisplay(workspace) if sys.stderr.isatty() else PlainDisplay(workspace)


def _counts(jobs: dict[str, LocalJob], step: StepRecord) -> Counter[JobState]:
    """The number of tasks of a step in each state."""
    own = [job for job in jobs.values() if job.step == step.name]
    # a task that was resumed counts once
    latest = {task: job.state for job in own for task in job.tasks or [job.task]}
    if any(job.tasks and job.state.is_terminal for job in own):
        # a packed job fails because of one task, and the others are done
        done = artifacts.finished(step.artifact)
        latest |= dict.fromkeys(latest.keys() & done, JobState.COMPLETED)
    return Counter(latest.values())


def _stage(counts: Counter[JobState]) -> str:
    """``waiting``, ``running``, ``done``, ``failed``, ``cancelled`` or ``blocked``."""
    # no job was needed: everything existed before
    if not counts:
        return "done"
    # between two tasks of an array, none is running
    if counts[JobState.RUNNING] or (counts[JobState.PENDING] and counts[JobState.COMPLETED]):
        return "running"
    if counts[JobState.PENDING]:
        return "waiting"
    for state, stage in ((JobState.FAILED, "failed"), (JobState.TIMEOUT, "failed"),
                         (JobState.OUT_OF_MEMORY, "failed"), (JobState.CANCELLED, "cancelled"),
                         (JobState.BLOCKED, "blocked")):
        if counts[state]:
            return stage
    return "done"


def _advance(workspace: Path, record: RunRecord, step: StepRecord) -> tuple[float, str]:
    """The fraction of a step that is done, and a description of its first running task."""
    finished = artifacts.finished(Path(step.artifact))
    marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers,
                         set(range(step.tasks)) - finished)
    partial, text = 0.0, ""
    for index, mark in sorted(marks.items()):
        if index in finished or mark.exit_code is not None:
            continue
        if mark.progress is None:
            text = text or ("starting" if mark.begin else "")
            continue
        done, total = mark.progress.get("done") or 0, mark.progress.get("total")
        partial += min(done / total, 1.0) if total else 0.0
        text = text or describe_progress(mark.progress)
    if step.tasks > 1:
        text = f"{len(finished)}/{step.tasks} tasks" + (f", {text}" if text else "")
    return min((len(finished) + partial) / max(step.tasks, 1), 1.0), text


def _error_line(workspace: Path, record: RunRecord, step: StepRecord) -> str:
    """The message of the error of a failed step, or where to find it."""
    marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers)
    for _, mark in sorted(marks.items()):
        if mark.error:
            return str(mark.error.get("message") or mark.error.get("type")).splitlines()[0]
    return f"see {command_line('logs', record.run, step.name)}"
