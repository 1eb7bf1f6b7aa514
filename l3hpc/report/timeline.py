"""The timeline of a run: when each task waited and ran, and what it used; collected, then drawn.

The times come from our own records (submissions, markers, results), so no accounting is needed.
Between a submission and a requeue, they do not tell when the attempt began: that time is drawn as
one part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from l3hpc.config.units import format_memory
from l3hpc.report.data import Span, StepTimes, TaskTimes
from l3hpc.runs import usage
from l3hpc.web.html import element
from l3hpc.web.svg import WIDE, Scale, clock, cut, drawing, text, time_ticks
from l3hpc.workspace import artifacts, attempts, markers, origin
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.markers import TaskMarks
from l3hpc.workspace.run_record import RunRecord, StepRecord

MOST_STEPS, MOST_TASKS = 60, 24  # of a sweep, and of an array
KINDS = {"waiting": "waits for earlier steps", "queued": "in the queue",
         "turn": "waits for the tasks before it in its job", "running": "running",
         "requeued": "ended and requeued", "failed": "failed", "earlier": "earlier submission"}
BAR, LANE = 16, 3  # heights of the bar of one task, and of one of many, pixels


def collect(workspace: Path, record: RunRecord, running: Mapping[str, bool]
            ) -> tuple[StepTimes, ...]:
    """Find out when the tasks of a run waited and ran.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    running
        Step → whether it is still waiting or running.

    Returns
    -------
    tuple of StepTimes
        The steps that were submitted in this run, at most ``MOST_STEPS``.
    """
    uses = {use.name: use for use in usage.collect(workspace, record.run, accounting=False)}
    ready: dict[str, float] = {}
    found: list[StepTimes] = []
    for step in record.steps:
        every = artifacts.results(Path(step.artifact))
        # also of steps without jobs of this run: what needs their results could not start earlier
        ready[step.name] = time.time() if running.get(step.name) else max(
            (result["finished"] for result in every), default=0.0)
        results = {result["index"]: result for result in every
                   if "index" in result and origin.is_own(result, record.run, step)}
        jobs = attempts.latest(step)
        if not jobs or len(found) >= MOST_STEPS:
            continue
        marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers)
        could_start = max((ready.get(need, 0.0) for need in step.needs), default=0.0)
        together = attempts.packed(step)
        shown = sorted(jobs)[:MOST_TASKS]
        found.append(StepTimes(step.name, tuple(
            TaskTimes(index, jobs[index], tuple(_spans(
                step, index, jobs[index], marks.get(index, TaskMarks()), results.get(index),
                could_start, running.get(step.name, False),
                [marks[other].of(jobs[index]) for other in together.get(index, ())
                 if other in marks])))
            for index in shown), len(jobs) - len(shown), uses.get(step.name)))
    return tuple(found)


def _spans(step: StepRecord, index: int, job: str, marks: TaskMarks,
           result: Mapping[str, Any] | None, could_start: float, running: bool,
           together: Sequence[TaskMarks]) -> list[Span]:
    """The parts of the time of one task. running: whether the step has not ended. together: the
    markers of the tasks of its packed job.
    """
    submitted = [attempt for attempt in step.attempts if index in attempt.tasks]
    spans = [Span("earlier", one.time, following.time, "resumed later")
             for one, following in zip(submitted, submitted[1:], strict=False)]
    at = submitted[-1].time
    for requeue in marks.requeues:
        when = float(requeue.get("time", at))
        if when > at:
            spans.append(Span("requeued", at, when,
                              str(requeue.get("words") or requeue.get("reason") or "")))
            at = when
    current = marks.of(job)
    began = current.started if current.started is not None else (
        float(result["started"]) if result is not None and result["started"] >= at else None)
    now = time.time()
    end_of_wait = began if began is not None else (now if running else at)
    # a requeued task waits in the queue alone: its parents are done
    if not marks.requeues and min(could_start, end_of_wait) > at:
        spans.append(Span("waiting", at, min(could_start, end_of_wait)))
        at = spans[-1].end
    # a packed job leaves the queue once, with the first of its tasks
    job_began = min((mark.started for mark in together
                     if mark.started is not None and mark.started >= at), default=end_of_wait)
    if min(job_began, end_of_wait) > at:
        spans.append(Span("queued", at, min(job_began, end_of_wait)))
    if end_of_wait > job_began:
        spans.append(Span("turn", job_began, end_of_wait))
    if began is not None:
        ended = current.exited or (float(result["finished"]) if result is not None
                                   else now if running else began)
        failed = bool(current.exit_code) and result is None
        spans.append(Span("failed" if failed else "running", began, max(ended, began),
                          f"exit code {current.exit_code}" if failed else ""))
    return spans


# --- the figure -----------------------------------------------------------------------------------

def figure(steps: Sequence[StepTimes], width: int) -> Markup | None:
    """Draw a row for each step, with a bar for each task.

    Parameters
    ----------
    steps
        What ``collect`` found.
    width
        In pixels. In a narrow figure, the name of a step is above its bars.

    Returns
    -------
    Markup or None
        An SVG element; None if nothing has a time.
    """
    spans = [span for step in steps for task in step.tasks for span in task.spans]
    if not spans:
        return None
    is_wide = width >= WIDE
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    left, right = (170, width - 212) if is_wide else (6, width - 10)
    # a job may end in the second in which it began, and no scale has a length of 0
    scale = Scale(start, max(end, start + 1), left, right)
    bars: list[Markup] = []
    top = 8.0
    for step in steps:
        # bars of many tasks get thinner, down to what can still be seen
        lane = max(BAR / len(step.tasks), LANE) if step.tasks else BAR
        height = max(lane * len(step.tasks), BAR)
        size = f" ×{len(step.tasks) + step.left_out}" if len(step.tasks) > 1 else ""
        use = use_text(step)
        if is_wide:
            bars.append(text(left - 12, top + height / 2 + 4, cut(step.step, 22) + size, "end",
                             "name"))
            bars.append(text(right + 12, top + height / 2 + 4, use))
        else:
            bars.append(text(left, top + 10, cut(step.step, 20) + size, class_="name"))
            bars.append(text(right, top + 10, use, "end"))
            top += 16
        bars.append(element("rect", x=float(left), y=top, width=float(right - left),
                            height=height, class_="lane"))
        for place, task in enumerate(step.tasks):
            bars += [_bar(step.step, task, span, scale, top + place * lane,
                          max(lane - (1 if lane > LANE else 0.5), 1.5)) for span in task.spans]
        top += height + (10 if is_wide else 12)
    axis = top + 2
    marks: list[Markup] = []
    for seconds, label in time_ticks(end - start, 8 if is_wide else 4):
        pixel = scale(start + seconds)
        marks.append(element("line", x1=pixel, x2=pixel, y1=4, y2=axis, class_="grid"))
        marks.append(text(pixel, axis + 15, label, "middle" if left < pixel < right - 14 else
                          "start" if pixel <= left else "end"))
    description = "; ".join(f"{step.step}: {_in_words(step)}" for step in steps)
    return drawing(width, int(axis + 24), "Timeline of the jobs", description, *marks, *bars)


def _bar(step: str, task: TaskTimes, span: Span, scale: Scale, top: float, height: float) -> Markup:
    left = scale(span.start)
    words = f"{step}, task {task.task}, job {task.job}: {KINDS[span.kind]} {_clock(span)}"
    return element(
        "rect", element("title", f"{words}, {span.note}" if span.note else words),
        x=left, y=top, width=max(scale(span.end) - left, 1.0), height=float(height),
        class_=f"t-{span.kind}")


def _clock(span: Span) -> str:
    return clock(span.end - span.start)


def use_text(step: StepTimes) -> str:
    """Return cores and memory that a step used of what it requested: ``1.8/4 cores, 1.4/16 GB``.

    Memory is that of the largest task.
    """
    use = step.use
    if use is None:
        return ""
    return (f"{use.cpus_used:.1f}/{use.cpus} cores, "
            f"{format_memory(round(use.mem_used_mb))} of {format_memory(use.mem_granted_mb)}")


def _in_words(step: StepTimes) -> str:
    sums: dict[str, float] = {}
    for task in step.tasks:
        for span in task.spans:
            sums[span.kind] = sums.get(span.kind, 0.0) + span.end - span.start
    # a sum may be longer than the run, whose tasks wait and run at the same time
    tasks = f" in all ({len(step.tasks)} tasks)" if len(step.tasks) > 1 else ""
    return ", ".join(f"{KINDS[kind]} {clock(seconds)}{tasks}" for kind, seconds in sums.items())


def rows(steps: Sequence[StepTimes]) -> list[tuple[object, ...]]:
    """Return the figure as rows of a table: step, task, job, what, from, time, note."""
    return [(step.step, task.task, task.job, KINDS[span.kind],
             f"{datetime.fromtimestamp(span.start):%d %b %H:%M:%S}", _clock(span), span.note)
            for step in steps for task in step.tasks for span in task.spans]
