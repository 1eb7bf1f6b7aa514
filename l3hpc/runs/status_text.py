"""The table that ``l3hpc status`` prints for one run: plain text, one line per step."""

from __future__ import annotations

import os
from collections import Counter

from l3hpc.console import table
from l3hpc.console.formatting import age, clock
from l3hpc.io.text import one_line
from l3hpc.runs.status import RunStatus, StepStatus
from l3hpc.workspace.states import RunState, StepState

HEAD = ("step", "job", "state", "tasks", "elapsed", "detail")
WORDS_SHOWN = 3


def run_text(run: RunStatus) -> str:
    """The run's heading, one line per step, the last words of what failed, the next command."""
    lines = [one_line(f"{run.run}   {run.cluster}   {heading(run)}")]
    order = _in_groups(run)
    steps = [step for _, group in order for step in group]
    headings = {id(group[0]): title for title, group in order if title and group}
    rows = [(step.name, step.job or "–", step.state, f"{step.done:,}/{step.tasks:,}",
             clock(step.elapsed_s), step.detail) for step in steps]
    head, *body = table.lines([HEAD, *rows], right=[HEAD.index("tasks"), HEAD.index("elapsed")])
    lines.append(head)
    indent = " " * head.rindex(HEAD[-1])  # more on a step stands below its detail
    for step, line in zip(steps, body, strict=True):
        if id(step) in headings:
            lines.append(f"  {one_line(headings[id(step)])}")
        lines += [line, *_more(step, indent)]
    lines += _finished(run)
    lines += [f"  note: {one_line(note)}" for note in run.notes]
    lines += [f"  damaged: {one_line(one)}" for one in run.damaged]
    if run.next:
        lines.append(f"  next: {run.next}")
    return "\n".join(lines)


def _in_groups(run: RunStatus) -> list[tuple[str, list[StepStatus]]]:
    """(heading, steps): of a sweep what is shared first, then every combination not yet done."""
    if not run.combinations:
        return [("", run.steps)]
    by_name = {step.name: step for step in run.steps}
    counts = Counter(name for each in run.combinations for name in set(each["steps"].values()))
    groups = [("", [step for step in run.steps if counts[step.name] > 1])]
    for each in run.combinations:
        own = [by_name[name] for name in each["steps"].values() if counts[name] == 1]
        if any(not step.state.is_done for step in own):
            groups.append((_values(each), own))
    return groups


def _finished(run: RunStatus) -> list[str]:
    """One line for the combinations that are done."""
    states = {step.name: step.state for step in run.steps}
    done = [each for each in run.combinations
            if all(states[name].is_done for name in each["steps"].values())]
    if not run.combinations:
        return []
    shown = "; ".join(_values(each) for each in done[:4]) + ("; …" if len(done) > 4 else "")
    return [f"  {len(done)} of {len(run.combinations)} combinations done"
            + (f": {one_line(shown)}" if shown else "")]


def _values(combination: dict[str, dict[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in combination["values"].items())


def heading(run: RunStatus) -> str:
    """``started 3 h ago``, ``failed, started yesterday`` …"""
    started = f"started {age(run.created)}"
    return started if run.state is RunState.RUNNING else f"{run.state}, {started}"


def _more(step: StepStatus, indent: str) -> list[str]:
    """Where the log of a failed step is, and its last words."""
    if step.state not in (StepState.FAILED, StepState.LOST):
        return []
    lines = [f"{indent}{one_line(words)}" for line in step.last_words[:WORDS_SHOWN]
             for words in [line.strip()] if words]
    if step.log:
        lines.append(f"{indent}log {one_line(os.path.relpath(step.log))}")
    return lines
