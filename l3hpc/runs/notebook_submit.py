"""``l3hpc.submit`` in a notebook, or with ``dry_run`` the plan of what it would run.

The arguments become the texts that the command line takes.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from l3hpc import schedulers
from l3hpc.errors import InputError, as_arguments, command_line
from l3hpc.pipelines import preview, sweep
from l3hpc.pipelines.from_options import plan_from_options
from l3hpc.pipelines.planned import Plan
from l3hpc.pipelines.sweep import Sweep
from l3hpc.runs import job_scripts
from l3hpc.runs import submit as submission
from l3hpc.runs.notebook import Run
from l3hpc.runs.notebook_place import naming

if TYPE_CHECKING:
    import pandas

    from l3hpc.schedulers.base import Scheduler

EXAMPLES = {"sets": '{"train.epochs": 5}', "grid": '{"emb_dim": [64, 128]}',
            "inputs": '{"fit": "RUN"}'}


@dataclass(frozen=True, repr=False)
class PlannedRun:
    """What a submission would run; displayed as ``l3hpc submit --dry-run`` prints it.

    Attributes
    ----------
    plan : Plan
        The steps with their parameters, resources and what is already done.
    sweep : Sweep or None
        Its combinations; None without a grid.
    note : str
        What could not be checked; empty if nothing.
    """

    plan: Plan
    sweep: Sweep | None = None
    note: str = ""

    def frame(self) -> pandas.DataFrame:
        """Return the steps.

        Returns
        -------
        pandas.DataFrame
            One row per step, indexed by its name: ``kind``, ``tasks`` and ``missing`` (numbers of
            all tasks and of those to run), ``cpus``, ``mem_mb``, ``gpus`` and ``time_min`` (the
            request of one task), ``pack`` (how many tasks a job runs, one after another),
            ``jobs`` (how many jobs or array elements the missing tasks need) and ``artifact`` (its
            folder).
        """
        import pandas

        names = [step.name for step in self.plan.steps]
        rows = [(step.kind, len(step.shards), len(step.missing), step.resources.cpus,
                 step.resources.mem_mb, step.resources.gpus, step.resources.time_min,
                 step.of_a_job.pack, step.jobs, str(step.artifact)) for step in self.plan.steps]
        return pandas.DataFrame(
            rows, index=pandas.Index(names, name="step"),
            columns=["kind", "tasks", "missing", "cpus", "mem_mb", "gpus", "time_min", "pack",
                     "jobs", "artifact"])

    def to_json(self) -> dict[str, Any]:
        """Return the plan as ``l3hpc submit --dry-run --json`` prints it."""
        return {**preview.as_json(self.plan), "submitted": False, "jobs": {}}

    def __repr__(self) -> str:
        parts = [preview.as_text(self.plan)]
        if self.sweep is not None:
            parts.append(sweep.table(self.sweep))
        if self.note:
            parts.append(f"note: {self.note}")
        return "\n\n".join([*parts, "nothing was submitted (dry_run=True)"])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


@overload
def submit(
    pipeline: str, *, sets: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None, inputs: Mapping[str, Any] | None = None,
    yes: bool = False, dry_run: Literal[False] = False, **options: Any,
) -> Run: ...


@overload
def submit(
    pipeline: str, *, sets: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None, inputs: Mapping[str, Any] | None = None,
    yes: bool = False, dry_run: Literal[True], **options: Any,
) -> PlannedRun: ...


def submit(
    pipeline: str, *, sets: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None, inputs: Mapping[str, Any] | None = None,
    yes: bool = False, dry_run: bool = False, **options: Any,
) -> Run | PlannedRun:
    """Submit a pipeline, as ``l3hpc submit`` does, and return at once.

    Parameters
    ----------
    pipeline
        Name of a pipeline ('upstream', 'downstream', 'all', …) of ``jobs/``.
    sets
        ``{"train.epochs": 300}``: parameters and resources of steps (``--set``).
    grid
        ``{"emb_dim": [64, 128]}``: all combinations in one run (``--grid``). The values of an
        option are a list, also of lists: ``{"filters": [[4] * 8, [8] * 8]}``.
    inputs
        ``{"fit": "upstream-20261120-1a2b"}``: a run or folder in place of a step (``--input``).
    yes
        Submit even if the run may be expensive.
    dry_run
        Submit nothing; return what would run.
    **options
        Options of ``l3hpc submit`` with ``_`` in place of ``-``: ``approx="pca"``, ``mels=64``,
        ``workspace=…``, ``cluster=…``; ``start=`` for ``--from``.

    Returns
    -------
    Run or PlannedRun
        On the cluster 'local', the jobs of the run go on in the background and do not depend on
        this process. With ``dry_run``, the plan, which a notebook displays.

    Raises
    ------
    InputError
        For an option or value that is not allowed; nothing is submitted.
    ClusterError
        If the cluster refuses the jobs.
    """
    if not isinstance(pipeline, str | os.PathLike):
        raise InputError(f"a pipeline is given by its name, not by {pipeline!r}",
                         hint=f"{command_line('submit', '--help')} lists the pipelines.")
    with naming(options.get("workspace"), options.get("config_file")), as_arguments():
        return _submit(pipeline, sets, grid, inputs, yes, dry_run, options)


def _submit(
    pipeline: str | os.PathLike[str], sets: Mapping[str, Any] | None,
    grid: Mapping[str, Sequence[Any]] | None, inputs: Mapping[str, Any] | None, yes: bool,
    dry_run: bool, options: Mapping[str, Any],
) -> Run | PlannedRun:
    values = {**options, "sets": set_texts(sets), "inputs": input_texts(inputs),
              "grid": grid_texts(grid)}
    asked: list[Scheduler] = []  # while the plan is made
    plan, swept = plan_from_options(os.fspath(pipeline), values, lambda config: asked.append(
        schedulers.prepared(config.profile, config.workspace)))
    [scheduler] = asked
    rendered = job_scripts.render(plan, dry_run=dry_run)
    if dry_run:
        return PlannedRun(plan, swept, scheduler.validate(plan))
    if not yes and preview.needs_confirmation(plan):
        cost = preview.maximum_cost(plan).as_text()
        raise InputError(f"this may cost {cost}; nothing was submitted",
                         hint="To submit it all the same: yes=True")
    record = submission.submit(plan, detach=True, scheduler=scheduler, rendered=rendered)
    return Run(plan.workspace, record.run)


def set_texts(sets: Mapping[str, object] | None) -> list[str]:
    """Convert parameters of steps to the texts of ``--set``.

    Parameters
    ----------
    sets
        ``{"train.epochs": 5}``.

    Examples
    --------
    >>> set_texts({"train.epochs": 5, "train.filters": [4, 8]})
    ['train.epochs=5', 'train.filters=4,8']
    """
    return [f"{name}={_text(value)}" for name, value in _mapping("sets", sets).items()]


def input_texts(inputs: Mapping[str, object] | None) -> list[str]:
    """Convert inputs to the texts of ``--input``.

    Parameters
    ----------
    inputs
        ``{"fit": "upstream-20261120-1a2b"}``.
    """
    return [f"{step}={source}" for step, source in _mapping("inputs", inputs).items()]


def grid_texts(grid: Mapping[str, Iterable[object]] | None) -> dict[str, list[str]]:
    """Convert the options of a sweep to those of ``--grid``.

    Parameters
    ----------
    grid
        Option, or ``step.parameter`` → its values; a value may be a list itself.

    Raises
    ------
    InputError
        If the values of an option are not a list.

    Examples
    --------
    >>> grid_texts({"emb_dim": [64, 128], "filters": [[4, 8], [8, 16]]})
    {'emb-dim': ['64', '128'], 'filters': ['4,8', '8,16']}
    """
    texts = {}
    for name, values in _mapping("grid", grid).items():
        # a string is iterable too, and would be split into letters
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise InputError(f"grid: the values of {name!r} are not a list but {values!r}",
                             allowed=f'for example grid={{"{name}": [{values!r}]}}')
        option = name if "." in name else name.replace("_", "-")
        texts[option] = [_text(value) for value in values]
    return texts


def _mapping(name: str, value: Mapping[str, object] | None) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} is not a mapping of names to values but {value!r}",
                         allowed=f"for example {name}={EXAMPLES[name]}")
    return value


def _text(value: object) -> str:
    """A value as ``--set`` and ``--grid`` take it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return "none" if value is None else str(value)
