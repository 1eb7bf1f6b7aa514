"""The scripts of a submission: which there are, in which order, and what their jobs run.

``render`` makes all of them before anything is written or submitted, so that a value or a template
that cannot be used is refused while nothing has happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l3hpc.config import sources
from l3hpc.errors import ClusterError, InputError
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import last_job
from l3hpc.runs.dependencies import computed_elsewhere
from l3hpc.schedulers import scripts, step_arrays
from l3hpc.schedulers.requests import Call, JobRequest
from l3hpc.workspace import sharing
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


@dataclass(frozen=True)
class RunScripts:
    """All that a submission submits.

    Attributes
    ----------
    steps : tuple of PlannedStep
        The steps, each after those that it needs.
    texts : Texts
        Step → what each of its scripts runs, and its text; for the steps that have missing tasks.
    in_turn : tuple of JobScript
        The scripts in the order of their submission; an array of steps in the place of its first
        one.
    elsewhere : mapping
        As from ``dependencies.computed_elsewhere``.
    risks : tuple of Risk
        Files that decide what these jobs do, and that others can change.
    last : str or None
        The script of the job that follows a new run; None if none does.
    """

    steps: tuple[PlannedStep, ...]
    texts: scripts.Texts
    in_turn: tuple[JobScript, ...]
    elsewhere: Mapping[str, Collection[int]]
    risks: tuple[sharing.Risk, ...]
    last: str | None

    @property
    def arrays(self) -> list[tuple[str, ...]]:
        """The steps of a sweep that are submitted together, by name."""
        return [script.steps for script in self.in_turn if script.part is None]


def render(plan: Plan, steps: Sequence[PlannedStep] | None = None,
           live: Collection[str] = (), *, dry_run: bool = False) -> RunScripts:
    """Render the scripts of a run.

    Tasks that another run computes get a script of their own, so that the others need not wait for
    that run.

    Parameters
    ----------
    plan
        The plan of the run.
    steps
        Which of its steps are submitted, each after those that it needs; None: all.
    live
        Names of the steps of which earlier jobs are live.
    dry_run
        Whether nothing will be submitted, so that a scheduler that does not respond is no fault.

    Raises
    ------
    ClusterError
        If the scheduler does not say which tasks another run computes.
    InputError
        If the dependencies of the steps are circular, for a value that cannot stand in a script,
        and for a fault in a template.
    """
    chosen = in_order(plan.steps) if steps is None else [*steps]
    try:
        elsewhere = computed_elsewhere(plan)
    except ClusterError:
        if not dry_run:
            raise
        elsewhere = {}
    templates = sources.template_folders()
    texts = {step.name: [(part, scripts.render(plan, step, part, folders=templates))
                         for whole in scripts.parts(plan, step)
                         for part in whole.split(elsewhere.get(step.name, ()))]
             for step in chosen if step.missing}
    return RunScripts(
        tuple(chosen), texts, tuple(_in_turn(plan, chosen, texts, live, elsewhere)), elsewhere,
        tuple(sharing.find_file_risks(sources.own_files(plan.config_file))),
        last_job.script_text(plan) if steps is None and last_job.needs_job(plan) else None)


def in_order(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """Sort steps so that each comes after those that it needs.

    Parameters
    ----------
    steps
        The steps of a plan.

    Raises
    ------
    InputError
        If their dependencies are circular.
    """
    waiting, names = list(steps), set[str]()
    ordered: list[PlannedStep] = []
    while waiting:
        ready = [step for step in waiting if set(step.needs) <= names]
        if not ready:
            raise InputError("circular dependency between steps: "
                             + ", ".join(step.name for step in waiting))
        ordered += ready
        names |= {step.name for step in ready}
        waiting = [step for step in waiting if step.name not in names]
    return ordered


def _in_turn(
    plan: Plan, steps: Sequence[PlannedStep], texts: scripts.Texts, live: Collection[str],
    elsewhere: Mapping[str, Collection[int]],
) -> list[JobScript]:
    # a step whose tasks another run computes is submitted alone
    alone = [step for step in steps if not elsewhere.get(step.name)]
    arrays = {array.names[0]: array
              for array in step_arrays.group_steps(plan, alone, texts, {*texts, *live})}
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
    folder, array = plan.step_folder(script.step.name), scripts.is_array(script.step)
    return tuple(_call(folder, tasks, index if array else None, packed=script.part.pack > 1)
                 for index, tasks in script.part.elements.items())


def _call(folder: StepFolder, tasks: tuple[int, ...], index: int | None, *, packed: bool = False
          ) -> Call:
    """Tasks of the step frozen in ``folder``, as a job or element ``index`` of an array runs them.
    """
    from l3hpc.worker.execute import TaskCall
    from l3hpc.worker.packed import PackedCall

    config = str(folder.config)
    work = PackedCall(config, tasks) if packed else TaskCall(config, tasks[0])
    return Call(work, folder.logs, tasks, index)
