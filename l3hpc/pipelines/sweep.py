"""Sweeps: one run over all combinations of some options, with what they share computed once.

Every combination is planned by itself; steps of the same content (fingerprint) are one step of the
run. A step that differs gets the values that make it differ into its name: ``train-64-dpp``. It
waits for its own parents only, so no combination waits for the slowest. (``job_arrays``: which of
them go to Slurm together.)
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from l3hpc.config.settings import Config
from l3hpc.console.formatting import table_lines
from l3hpc.errors import InputError, nearest
from l3hpc.io.files import current_user
from l3hpc.pipelines import definition
from l3hpc.pipelines.definition import Pipeline
from l3hpc.pipelines.model import Plan, PlannedStep
from l3hpc.pipelines.options import OPTIONS
from l3hpc.pipelines.plan import Request, check_name, labelled, planned_steps, run_name
from l3hpc.pipelines.resolve import Outside

MOST = 1000
Combination = dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep. combinations: step name by base step, for every combination."""

    plan: Plan
    combinations: list[tuple[Combination, dict[str, str]]]

    @property
    def shared(self) -> list[str]:
        """Names of the steps that several combinations use."""
        used = [set(steps.values()) for _, steps in self.combinations]
        return [step.name for step in self.plan.steps
                if sum(step.name in names for names in used) > 1]


def parse(texts: Sequence[str]) -> dict[str, list[str]]:
    """``emb-dim=64,128`` … as option → values, in the order given."""
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
        if len(set(listed)) < len(listed):
            raise InputError(f"--grid {text!r} names a value twice")
        if "." not in name and name not in OPTIONS:
            raise InputError(f"--grid: unknown option {name!r}", allowed=nearest(name, OPTIONS),
                             hint="or STEP.PARAMETER=VALUE,VALUE")
        if name in OPTIONS and OPTIONS[name].kind == "numbers":
            raise InputError(f"--grid {name}: its values contain commas themselves",
                             hint=f"submit once for each --{name}")
        grid[name] = listed
    return grid


def combinations(grid: Mapping[str, Sequence[str]]) -> list[Combination]:
    """All of them, the last option changing fastest. More than 1,000 are refused."""
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MOST:
        raise InputError(f"--grid makes {count:,} combinations", allowed=f"at most {MOST:,}")
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def build(pipeline: str | Pipeline, config: Config, request: Request,
          grid: Mapping[str, Sequence[str]], *, date: datetime.date | None = None,
          user: str | None = None) -> Sweep:
    """The plan of all combinations. Raises ``InputError`` where any of them is impossible."""
    found = definition.load(pipeline) if isinstance(pipeline, str) else pipeline
    check_name(request.name or found.name)
    for name in grid:
        if (request.options or {}).get(name) is not None:
            raise InputError(f"--{name} and --grid {name} are both given")
    every: list[tuple[Combination, dict[str, PlannedStep]]] = []
    students: list[Outside] = []
    for chosen in combinations(grid):
        try:
            steps, students = planned_steps(found, config, _request(request, chosen))
        except InputError as error:
            error.message = f"{_words(chosen)}: {error.message}"
            raise
        every.append((chosen, steps))
    names = _names(every)
    merged: dict[str, PlannedStep] = {}
    used = []
    for chosen, steps in every:
        own = {base: names[base, step.fingerprint] for base, step in steps.items()}
        for base, step in steps.items():
            merged.setdefault(own[base], replace(
                step, name=own[base], needs=tuple(own[need] for need in step.needs)))
        used.append((chosen, own))
    run = run_name(config.workspace, request.name or found.name,
                   [step.fingerprint for step in merged.values()], date or datetime.date.today())
    tagged = labelled(merged, config, found.name, run, user or current_user(), students)
    options = {**request.typed(), "grid": {name: list(values) for name, values in grid.items()},
               "combinations": [{"values": chosen, "steps": own} for chosen, own in used]}
    return Sweep(Plan(run=run, pipeline=found.name, workspace=config.workspace,
                      profile=config.profile, steps=tagged, options=options,
                      ledger=config.ledger), used)


def table(sweep: Sweep) -> str:
    """The combinations as a table, with the state of their own steps."""
    by_name = {step.name: step for step in sweep.plan.steps}
    shared = set(sweep.shared)
    options = list(sweep.combinations[0][0])
    rows = [(*options, "own steps", "state")]
    for chosen, steps in sweep.combinations:
        own = [name for name in steps.values() if name not in shared]
        left = sum(bool(by_name[name].missing) for name in own)
        state = "done before" if not left else f"{left} of {len(own)} to run"
        rows.append((*(chosen[name] for name in options), " ".join(own) or "–", state))
    words = f"{len(sweep.combinations)} combinations"
    if shared:
        words += f"; shared: {' '.join(sweep.shared)}"
    return "\n".join([*table_lines(rows), f"  {words}"])


def _request(request: Request, chosen: Combination) -> Request:
    options = dict(request.options or {})
    sets = list(request.sets)
    for name, value in chosen.items():
        if "." in name:
            sets.append(f"{name}={value}")
        else:
            options[name] = _typed(name, value)
    return replace(request, options=options, sets=tuple(sets))


def _typed(name: str, value: str) -> Any:
    option = OPTIONS[name]
    kinds = {"int": int, "float": float}
    try:
        typed = kinds.get(option.kind, str)(value)
    except ValueError:
        raise InputError(f"--grid {name}: {value!r} is not a number") from None
    if option.choices and value not in option.choices:
        raise InputError(f"--grid {name}: {value!r} is not one of its values",
                         allowed=", ".join(option.choices))
    return typed


def _words(chosen: Combination) -> str:
    return ", ".join(f"{name}={value}" for name, value in chosen.items())


def _names(every: Sequence[tuple[Combination, Mapping[str, PlannedStep]]]
           ) -> dict[tuple[str, str], str]:
    """(base step, fingerprint) → name: the base's own, or with the values that set it apart."""
    names: dict[tuple[str, str], str] = {}
    for base in {base: None for _, steps in every for base in steps}:
        groups: dict[str, list[Combination]] = {}
        for chosen, steps in every:
            if base in steps:
                groups.setdefault(steps[base].fingerprint, []).append(chosen)
        taken: set[str] = set()
        for mark, members in groups.items():
            name = base
            if len(groups) > 1:
                deciding = [option for option in members[0]
                            if len({chosen[option] for chosen in members}) == 1]
                parts = [re.sub(r"[^A-Za-z0-9_]+", "_", members[0][option]) for option in deciding]
                name = "-".join([base, *parts])[:60]
                if name in taken or name == base:
                    name = f"{name[:50]}-{mark[:6]}"
            taken.add(name)
            names[base, mark] = name
    return names
