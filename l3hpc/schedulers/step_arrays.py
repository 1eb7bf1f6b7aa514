"""Steps of a sweep that are submitted together as one job array, with one task per step.

These are steps of one kind that request the same and depend on the same jobs, such as the trainings
of ``--grid train.learning_rate=…``. A step that depends on a parent of its own stays a job of its
own, so that no combination waits for the slowest of another. Task n of job A is the job ``A_n`` of
its step, whose script it runs unchanged; in records, status and dependencies it is a job like any
other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import templates
from l3hpc.schedulers.scripts import Texts, array_spec, directive

DEFAULT_ARRAY_LIMIT = 1000  # below MaxArraySize, unless a site has changed it
_PER_STEP = ("job-name", "output", "error", "array")  # directives that differ between steps


@dataclass(frozen=True)
class JobArray:
    """Steps of a sweep that are submitted as one job array.

    Attributes
    ----------
    steps : tuple of PlannedStep
        In the order of the array indices.
    script : Path
        Where its text is to be written.
    text : str
        The script.
    """

    steps: tuple[PlannedStep, ...]
    script: Path
    text: str

    @property
    def names(self) -> list[str]:
        """The names of the steps."""
        return [step.name for step in self.steps]


def supports_step_arrays(plan: Plan) -> bool:
    """Whether a plan can have such arrays: it is a sweep, and the scheduler accepts them.

    Parameters
    ----------
    plan
        The plan of the run.
    """
    return "grid" in plan.options and plan.profile.capabilities.step_arrays


def group_steps(plan: Plan, steps: Sequence[PlannedStep], texts: Texts, waiting: Collection[str]
         ) -> list[JobArray]:
    """Group the steps that are submitted as one job array.

    Parameters
    ----------
    plan
        The plan of the run.
    steps
        Its steps.
    texts
        Step → its scripts.
    waiting
        Names of the steps whose jobs have to be waited for.

    Returns
    -------
    list of JobArray
        Arrays of two steps or more; none if the plan does not support them.
    """
    if not supports_step_arrays(plan):
        return []
    groups: dict[tuple[object, ...], list[PlannedStep]] = {}
    for step in steps:
        # a step with several tasks is an array already, and Slurm has no arrays of arrays
        if step.tasks == 1 and step.name in texts:
            [(_, text)] = texts[step.name]
            shared = (step.kind, tuple(_header(text)), frozenset({*step.needs} & {*waiting}),
                      step.any_needs, step.waits_for)
            groups.setdefault(shared, []).append(step)
    most = plan.profile.limits.array or DEFAULT_ARRAY_LIMIT
    arrays = []
    for members in groups.values():
        for first in range(0, len(members), most):
            together = tuple(members[first:first + most])
            if len(together) > 1:
                arrays.append(JobArray(
                    together, plan.step_folder(together[0].name).array_script,
                    _script_text(plan, together, texts[together[0].name][0][1])))
    return arrays


def _header(text: str) -> list[str]:
    """The ``#SBATCH`` lines of a script, without those that differ between steps."""
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH"))
    return [line for line in lines
            if line.removeprefix("#SBATCH --").partition("=")[0] not in _PER_STEP]


def _script_text(plan: Plan, steps: Sequence[PlannedStep], first: str) -> str:
    from markupsafe import Markup

    # no logs of its own: each task writes to those of its step
    header = [
        directive("job-name", f"l3-{plan.run}-{steps[0].kind}"), *_header(first),
        directive("array", array_spec(range(len(steps)), plan.profile.array_parallelism)),
        directive("output", "/dev/null"), directive("error", "/dev/null")]
    return templates.render(["job-array.sbatch.j2"], {
        "directives": [Markup(line) for line in header],
        "folders": [str(plan.step_folder(step.name)) for step in steps]})[0]
