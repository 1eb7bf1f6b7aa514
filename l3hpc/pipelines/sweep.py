"""Sweeps: one run over all combinations of some options, in which shared steps are computed once.

Every combination is planned separately; steps with the same fingerprint become one step of the
run. A step that differs between combinations is named after the values that make the difference:
``train-64-dpp``. It depends only on its own inputs, so no combination waits for the slowest one.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from l3hpc import steps as kinds
from l3hpc.config.settings import Config
from l3hpc.console.formatting import table_lines
from l3hpc.errors import InputError, named, nearest, option
from l3hpc.io.owners import current_user
from l3hpc.io.values import count_of
from l3hpc.pipelines import definition, resolve, run_outputs
from l3hpc.pipelines.definition import Pipeline
from l3hpc.pipelines.labels import with_labels
from l3hpc.pipelines.options import OPTIONS
from l3hpc.pipelines.plan import Request, check_name, planned_steps, run_name
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.pipelines.run_outputs import ExternalInput

MAX_COMBINATIONS = 1000
LONGEST_STEPS = 60  # characters of the steps of a combination in the preview
Combination = dict[str, str]  # option → value


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep.

    Attributes
    ----------
    plan : Plan
        All steps of all combinations, each once.
    combinations : list of (dict, dict)
        Option → value, and name in the pipeline → name in the plan of its steps.
    """

    plan: Plan
    combinations: list[tuple[Combination, dict[str, str]]]

    @property
    def shared(self) -> list[str]:
        """Names of the steps that more than one combination uses."""
        used = [set(steps.values()) for _, steps in self.combinations]
        return [step.name for step in self.plan.steps
                if sum(step.name in names for names in used) > 1]


def parse_grid(texts: Sequence[str], offered: Collection[str] = OPTIONS) -> dict[str, list[str]]:
    """The values of a grid.

    Parameters
    ----------
    texts
        ``OPTION=VALUE,VALUE`` each; an option of the pipeline or ``step.parameter``.
    offered
        The options that a message about an unknown one names.

    Returns
    -------
    dict
        Option → its values as typed, in the order given.

    Raises
    ------
    InputError
        For a text of another form, an option that is given twice, and what ``check_grid`` refuses.

    Examples
    --------
    >>> from l3hpc.pipelines.sweep import parse_grid
    >>> parse_grid(["emb-dim=64,128", "train.epochs=5"])
    {'emb-dim': ['64', '128'], 'train.epochs': ['5']}
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        name = name.removeprefix("--")
        listed = [value.strip() for value in values.split(",")]
        if not sign or not name or not all(listed):
            raise InputError(f"--grid {text!r} is not OPTION=VALUE,VALUE",
                             allowed="for example --grid emb-dim=64,128,256")
        if name in grid:
            raise InputError(f"--grid {name} is given twice")
        if name in OPTIONS and OPTIONS[name].kind == "numbers":
            raise InputError(f"--grid {name}: its values contain commas themselves",
                             hint=f"submit once for each --{name}, or use l3hpc.submit(grid=…)")
        grid[name] = listed
    return check_grid(grid, offered)


def check_grid(grid: Mapping[str, Sequence[str]], offered: Collection[str] = OPTIONS
               ) -> dict[str, list[str]]:
    """Check the options and values of a grid.

    Parameters
    ----------
    grid
        Option, or ``step.parameter`` → its values as typed. A value may contain commas.
    offered
        The options that a message about an unknown one names.

    Returns
    -------
    dict
        The grid.

    Raises
    ------
    InputError
        For an unknown option, one without values, and a value that is listed twice.
    """
    for name, values in grid.items():
        if not values:
            raise InputError(f"{option('grid', name)} has no values")
        if len(set(values)) < len(values):
            raise InputError(f"{option('grid', name)} lists the same value twice: "
                             + ", ".join(values))
        if name in OPTIONS and OPTIONS[name].kind == "each":
            raise InputError(f"{option('grid', name)}: it is a switch, without values",
                             hint=option(name))
        if "." not in name and name not in OPTIONS:
            raise InputError(f"{option('grid')}: unknown option {name!r}",
                             allowed=nearest(name, offered),
                             hint="or STEP.PARAMETER=VALUE,VALUE")
    return {name: list(values) for name, values in grid.items()}


def every_value(pipeline: str, config: Config, request: Request, option: str,
                grid: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The grid of a switch that runs every value that the data have (``--per-sensor``).

    Parameters
    ----------
    pipeline
        Name of the pipeline.
    config, request
        As for ``plan.build``.
    option
        The switch, without ``--``.
    grid
        The rest of the grid.

    Returns
    -------
    dict
        ``step.parameter`` → its values.

    Raises
    ------
    InputError
        Where the pipeline does not have the option, the run not the step, or the data no values;
        and where the parameter has a value already.
    """
    loaded = definition.load_pipeline(pipeline)
    found: dict[str, list[str]] = {}
    for target in resolve.targets_of(loaded, option):
        if target in grid or any(text.strip().startswith(f"{target}=") for text in request.sets):
            raise InputError(f"{named('--' + option)} and a value of {target} are both given")
        # Any combination will do: they differ in what follows from the data in the same way.
        planned, _ = planned_steps(loaded, config, _with_values(request, combinations(grid)[0]))
        name, _, parameter = target.partition(".")
        if name not in planned:
            raise InputError(f"{named('--' + option)} has no effect: this run has no step {name}",
                             hint=f"remove {named('--' + option)}")
        step = planned[name]
        upstream = {planned[need].kind: planned[need].shards for need in step.needs}
        upstream |= {kind: run_outputs.shards_of(
            config.workspace, Path(origin.path), origin.run, origin.step)
            for kind, origin in step.given.items()}
        found[target] = list(kinds.step(step.kind).choices(parameter, upstream))
    return found


def combinations(grid: Mapping[str, Sequence[str]]) -> list[Combination]:
    """All combinations of a grid, the last option changing fastest.

    Parameters
    ----------
    grid
        Option → values.

    Raises
    ------
    InputError
        For more than 1,000 combinations.

    Examples
    --------
    >>> from l3hpc.pipelines.sweep import combinations
    >>> combinations({"mels": ["64", "128"], "approx": ["pca"]})
    [{'mels': '64', 'approx': 'pca'}, {'mels': '128', 'approx': 'pca'}]
    """
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MAX_COMBINATIONS:
        raise InputError(f"{option('grid')} makes {count:,} combinations",
                         allowed=f"at most {MAX_COMBINATIONS:,}")
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def build(pipeline: str | Pipeline, config: Config, request: Request,
          grid: Mapping[str, Sequence[str]], *, date: datetime.date | None = None,
          user: str | None = None) -> Sweep:
    """The plan of all combinations.

    Parameters
    ----------
    pipeline, config, request, date, user
        As for ``plan.build``.
    grid
        Option → values (``parse_grid``).

    Raises
    ------
    InputError
        Where any of the combinations cannot work, with its values.
    """
    loaded = definition.load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    check_name(request.name or loaded.name)
    for name in grid:
        if (request.options or {}).get(name) is not None:
            raise InputError(f"{option(name)} and {option('grid', name)} are both given")
    every: list[tuple[Combination, dict[str, PlannedStep]]] = []
    students: list[ExternalInput] = []
    for chosen in combinations(grid):
        try:
            steps, students = planned_steps(loaded, config, _with_values(request, chosen))
        except InputError as error:
            error.message = f"{_label(chosen)}: {error.message}"
            raise
        every.append((chosen, steps))
    names = _names(every)
    # steps of the same fingerprint have the same name: all combinations share one
    merged: dict[str, PlannedStep] = {}
    named = []
    for chosen, steps in every:
        new_name = {base: names[base, step.fingerprint] for base, step in steps.items()}
        for base, step in steps.items():
            merged.setdefault(new_name[base], replace(
                step, name=new_name[base], needs=tuple(new_name[need] for need in step.needs),
                any_needs=tuple(new_name[need] for need in step.any_needs)))
        named.append((chosen, new_name))
    run = run_name(config.workspace, request.name or loaded.name,
                   [step.fingerprint for step in merged.values()], date or datetime.date.today())
    labelled = with_labels(merged, config, loaded.name, run, user or current_user(), students)
    options = {**request.as_typed(), "grid": {name: list(values) for name, values in grid.items()},
               "combinations": [{"values": chosen, "steps": new_name}
                                for chosen, new_name in named]}
    return Sweep(Plan(run=run, pipeline=loaded.name, workspace=config.workspace,
                      profile=config.profile, steps=labelled, options=options,
                      ledger=config.ledger, config_file=config.file), named)


def table(sweep: Sweep) -> str:
    """The combinations as a table, with the state of the steps that only they use.

    Parameters
    ----------
    sweep
        The sweep.

    Returns
    -------
    str
        Lines for the preview.
    """
    by_name = {step.name: step for step in sweep.plan.steps}
    shared = set(sweep.shared)
    options = list(sweep.combinations[0][0])
    rows = [(*options, "own steps", "state")]
    for chosen, steps in sweep.combinations:
        own = [name for name in steps.values() if name not in shared]
        to_run = sum(bool(by_name[name].missing) for name in own)
        state = "done before" if not to_run else f"{to_run} of {len(own)} to run"
        rows.append((*(chosen[name] for name in options), _shortened(own), state))
    summary = count_of(len(sweep.combinations), "combination")
    if shared:
        summary += f"; shared: {' '.join(sweep.shared)}"
    return "\n".join([*table_lines(rows), f"  {summary}"])


def _shortened(names: Sequence[str]) -> str:
    """``fit-a reduce-a train-a``; of many only the first and the last, which others follow."""
    text = " ".join(names)
    if len(text) > LONGEST_STEPS and len(names) > 2:
        text = f"{names[0]} … {names[-1]}"
    return text or "–"


def _with_values(request: Request, chosen: Combination) -> Request:
    """The request of one combination."""
    options = dict(request.options or {})
    sets = list(request.sets)
    for name, value in chosen.items():
        if "." in name:
            sets.append(f"{name}={value}")
        else:
            options[name] = _typed(name, value)
    return replace(request, options=options, sets=tuple(sets))


def _typed(name: str, value: str) -> object:
    """A value of the grid in the type of its option."""
    known = OPTIONS[name]
    if known.kind == "numbers":
        return known.value(value)
    if known.kind == "flag":
        if value not in ("true", "false"):
            raise InputError(f"{option('grid', name)}: {value!r} is not an allowed value",
                             allowed="true, false")
        return value == "true"
    types: dict[str, type[int] | type[float]] = {"int": int, "float": float}
    try:
        typed = types.get(known.kind, str)(value)
    except ValueError:
        raise InputError(f"{option('grid', name)}: {value!r} is not a number") from None
    known.refuse_unavailable(value)
    if known.choices and value not in known.choices:
        raise InputError(f"{option('grid', name)}: {value!r} is not an allowed value",
                         allowed=nearest(value, known.choices))
    return typed


def _label(chosen: Combination) -> str:
    """``emb-dim=64, sampling=dpp``."""
    return ", ".join(f"{name}={value}" for name, value in chosen.items())


def _names(every: Sequence[tuple[Combination, Mapping[str, PlannedStep]]]
           ) -> dict[tuple[str, str], str]:
    """(name in the pipeline, fingerprint) → name in the run.

    The name in the pipeline, with the values that make the difference where combinations differ.
    """
    names: dict[tuple[str, str], str] = {}
    for base in {base: None for _, steps in every for base in steps}:
        groups: dict[str, list[Combination]] = {}
        for chosen, steps in every:
            if base in steps:
                groups.setdefault(steps[base].fingerprint, []).append(chosen)
        taken: set[str] = set()
        for fingerprint, members in groups.items():
            name = base
            if len(groups) > 1:
                common = [option for option in members[0]
                          if len({chosen[option] for chosen in members}) == 1]
                parts = [re.sub(r"[^A-Za-z0-9_]+", "_", members[0][option]) for option in common]
                # A name is at most 64 characters and is part of paths and job names.
                name = "-".join([base, *parts])[:60]
                if name in taken or name == base:
                    name = f"{name[:50]}-{fingerprint[:6]}"
            taken.add(name)
            names[base, fingerprint] = name
    return names
