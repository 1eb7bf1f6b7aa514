"""Steps of a sweep that go to Slurm as one job array, each of its tasks one step.

Together go the steps of one kind that ask for the same and wait for the same jobs: the trainings of
``--grid train.learning_rate=…``, say. A step that waits for a parent of its own stays a job of its
own, so that no combination waits for the slowest of another. Task n of job A is the job ``A_n`` of
its step, whose script it runs as it is; in records, status and dependencies it is a job like any.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.pipelines.model import Plan, PlannedStep
from l3hpc.schedulers import scripts

MOST = 1000  # MaxArraySize unless a site says otherwise
_OWN = ("job-name", "output", "error", "array")


@dataclass(frozen=True)
class JobArray:
    """steps: in the order of the array's indices. script: where its text is to be written."""

    steps: tuple[PlannedStep, ...]
    script: Path
    text: str

    @property
    def names(self) -> list[str]:
        """Names of the steps."""
        return [step.name for step in self.steps]


def apply(plan: Plan) -> bool:
    """Whether a plan can have any: a sweep, where the scheduler takes them."""
    return "grid" in plan.options and plan.profile.capabilities.step_arrays


def find(plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, waiting: Collection[str]
         ) -> list[JobArray]:
    """What of ``steps`` goes together; nothing where these do not ``apply``.

    texts: step → its scripts. waiting: names of the steps whose jobs have to be waited for.
    """
    if not apply(plan):
        return []
    groups: dict[tuple, list[PlannedStep]] = {}
    for step in steps:
        if step.tasks == 1 and step.name in texts:
            [(_, text)] = texts[step.name]
            alike = (step.kind, tuple(_header(text)), frozenset({*step.needs} & {*waiting}),
                     step.waits_for)
            groups.setdefault(alike, []).append(step)
    most = plan.profile.limits.array or MOST
    found = []
    for members in groups.values():
        for first in range(0, len(members), most):
            together = tuple(members[first:first + most])
            if len(together) > 1:
                found.append(JobArray(
                    together, plan.step_folder(together[0].name).array_script,
                    _text(plan, together, texts[together[0].name][0][1])))
    return found


def _header(text: str) -> list[str]:
    """The script's ``#SBATCH`` lines, without those that name the step."""
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH"))
    return [line for line in lines
            if line.removeprefix("#SBATCH --").partition("=")[0] not in _OWN]


def _text(plan: Plan, steps: Sequence[PlannedStep], first: str) -> str:
    from markupsafe import Markup

    header = [
        scripts.directive("job-name", f"l3-{plan.run}-{steps[0].kind}"), *_header(first),
        scripts.directive("array", scripts.array_spec(range(len(steps)),
                                                    plan.profile.array_parallelism)),
        scripts.directive("output", "/dev/null"), scripts.directive("error", "/dev/null")]
    return scripts.text_of("job-array.sbatch.j2", {
        "directives": [Markup(line) for line in header],
        "folders": [str(plan.step_folder(step.name)) for step in steps]})
