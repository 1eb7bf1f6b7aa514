"""The table that ``l3hpc status`` prints for one run: plain text, one line per step."""

from __future__ import annotations

import os

from l3hpc.workflow.status import RunStatus, StepStatus
from l3hpc.workflow.words import age, clock

HEAD = ("step", "job", "state", "tasks", "elapsed", "detail")
WORDS_SHOWN = 3


def run_text(run: RunStatus) -> str:
    """The run's heading, one line per step, the last words of what failed, the next command."""
    lines = [f"{run.run}   {run.cluster}   {heading(run)}"]
    rows = [(step.name, step.job or "–", step.state, f"{step.done:,}/{step.tasks:,}",
             clock(step.elapsed_s), step.detail) for step in run.steps]
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD) - 1)]
    right = {3, 4}
    for number, row in enumerate([HEAD, *rows]):
        cells = [value.rjust(widths[column]) if column in right else value.ljust(widths[column])
                 for column, value in enumerate(row[:-1])]
        indent = "  " + "  ".join(cells) + "  "
        lines.append((indent + row[-1]).rstrip())
        if number:
            lines += _more(run.steps[number - 1], " " * len(indent))
    lines += [f"  note: {note}" for note in run.notes]
    if run.next:
        lines.append(f"  next: {run.next}")
    return "\n".join(lines)


def heading(run: RunStatus) -> str:
    """``started 3 h ago``, ``failed, started yesterday`` …"""
    started = f"started {age(run.created)}"
    return started if run.state == "running" else f"{run.state}, {started}"


def _more(step: StepStatus, indent: str) -> list[str]:
    """Where the log of a failed step is, and its last words."""
    if step.state not in ("failed", "lost"):
        return []
    lines = [f"{indent}{words}" for line in step.last_words[:WORDS_SHOWN]
             for words in [line.strip()] if words]
    if step.log:
        lines.append(f"{indent}log {os.path.relpath(step.log)}")
    return lines
