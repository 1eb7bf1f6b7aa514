"""The scripts of a submission: which there are, in which order, and what their jobs run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts, step_arrays
from l3hpc.schedulers.requests import Call, JobRequest
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.run_record import Attempt


@dataclass
class JobScript:
    """A script to submit: of a step, of a part of its tasks, or an array of several steps.

    Attributes
    ----------
    step : PlannedStep
        The step, or the first one of the array.
    path : Path
        The script.
    text : str
        Its text.
    part : Part or None
        The tasks that it runs; None for an array of steps.
    steps : tuple of str
        Names of its steps.
    number, count : int
        Which of the scripts of the step it is, and how many there are.
    calls : tuple of Call
        What its jobs run, as from ``calls_of``, once its files were written.
    pickles : tuple of Path
        Those of the calls, until the script is submitted.
    ahead : JobRequest or None
        What the scheduler has begun to submit before its turn, until the outcome is known.
    attempts : dict of str to Attempt
        Step → what the record keeps of its job, once that is known.
    noted : bool
        Whether its job is on record.
    doubtful : bool
        Whether an attempt before its turn got no answer.
    """

    step: PlannedStep
    path: Path
    text: str
    part: scripts.Part | None
    steps: tuple[str, ...]
    number: int = 0
    count: int = 1
    calls: tuple[Call, ...] = ()
    pickles: tuple[Path, ...] = ()
    ahead: JobRequest | None = None
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    noted: bool = False
    doubtful: bool = False


def in_turn(
    plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, live: Collection[str],
    elsewhere: Mapping[str, Collection[int]],
) -> list[JobScript]:
    """Return the scripts in the order of their submission; an array of steps in the place of its
    first one.

    Parameters
    ----------
    plan
        The plan of the run.
    steps
        Its steps, each after those that it needs.
    texts
        Step → its scripts.
    live
        Names of the steps of which earlier jobs are live.
    elsewhere
        As from ``dependencies.computed_elsewhere``.
    """
    arrays = {array.names[0]: array
              for array in arrays_of(plan, steps, texts, {*texts, *live}, elsewhere)}
    with_first = {name for array in arrays.values() for name in array.names[1:]}
    found = []
    for step in steps:
        if step.name not in texts or step.name in with_first:
            continue
        if (array := arrays.get(step.name)) is not None:
            found.append(JobScript(array.steps[0], array.script, array.text, None,
                                   tuple(array.names)))
            continue
        folder, own = plan.step_folder(step.name), texts[step.name]
        found += [JobScript(step, folder.script(number), text, part, (step.name,), number, len(own))
                  for number, (part, text) in enumerate(own)]
    return found


def arrays_of(
    plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, waiting: Collection[str],
    elsewhere: Mapping[str, Collection[int]],
) -> list[step_arrays.JobArray]:
    """Group the steps of a sweep that are submitted together.

    A step whose tasks another run computes is submitted alone.

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
    elsewhere
        As from ``dependencies.computed_elsewhere``.
    """
    alone = [step for step in steps if not elsewhere.get(step.name)]
    return step_arrays.group_steps(plan, alone, texts, waiting)


def calls_of(plan: Plan, script: JobScript) -> tuple[Call, ...]:
    """Return what the jobs of a script run.

    Parameters
    ----------
    plan
        The plan of the run.
    script
        The script.
    """
    if script.part is None:
        return tuple(_call(plan.step_folder(name), (0,), index)
                     for index, name in enumerate(script.steps))
    folder = plan.step_folder(script.step.name)
    return tuple(_call(folder, tasks, index, packed=script.part.pack > 1)
                 for index, tasks in script.part.elements.items())


def _call(folder: StepFolder, tasks: tuple[int, ...], index: int, *, packed: bool = False) -> Call:
    """Tasks of the step frozen in ``folder``, as element ``index`` of the array runs them."""
    from l3hpc.worker.execute import TaskCall
    from l3hpc.worker.packed import PackedCall

    config = str(folder.config)
    work = PackedCall(config, tasks) if packed else TaskCall(config, tasks[0])
    return Call(work, folder.logs, tasks, index)
