"""The plan that options ask for, typed after ``l3hpc submit`` or given in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from l3hpc.config import settings
from l3hpc.errors import InputError, nearest, option
from l3hpc.pipelines import external_inputs, offered, plan, sweep
from l3hpc.pipelines.definition import load_pipeline
from l3hpc.pipelines.options import OPTIONS, PATH_OPTIONS
from l3hpc.pipelines.planned import Plan
from l3hpc.pipelines.sweep import Sweep

# keyword of a notebook → path in cluster.yaml, option
_PATHS = {name.removeprefix("--").replace("-", "_"): (key, name)
          for key, name in PATH_OPTIONS.items()}
_OTHERS = ("embedding_valid_dir", "start", "inputs", "student", "teacher", "sets", "grid",
           "name", "cluster", "config_file")


def plan_from_options(
    pipeline: str, values: Mapping[str, Any],
    on_config: Callable[[settings.Config], object] | None = None,
) -> tuple[Plan, Sweep | None]:
    """The plan that these options ask for. The workspace is only read.

    Parameters
    ----------
    pipeline
        Name of a pipeline.
    values
        Option → value. The names are those of the command line with ``_`` in place of ``-``
        (``emb_dim``, ``audio_dir``), and ``start`` for ``--from``, ``config_file`` for
        ``--config``. ``sets``, ``inputs`` and ``grid`` are lists of strings such as
        ``"train.epochs=5"``; ``grid`` may also be a mapping of options to lists of strings, whose
        values may contain commas. None counts as not given.
    on_config
        Called with the settings as soon as they are read. Planning takes longer.

    Returns
    -------
    Plan
        The plan.
    Sweep or None
        Its combinations; None without ``grid`` or ``per_sensor``.

    Raises
    ------
    InputError
        For an unknown option, a value that it does not allow, and whatever the planner refuses.
    """
    known = {name.replace("-", "_"): name for name in OPTIONS}
    for name in values:
        if name not in known and name not in _PATHS and name not in _OTHERS:
            _refuse(pipeline, name, {**known, **{key: name for key, (_, name) in _PATHS.items()}})
    given = {name: value for name, value in values.items() if value is not None}
    if "embedding_valid_dir" in given:
        given["embedding_dir"] = _embedding_folder(given.get("embedding_dir"),
                                                   given["embedding_valid_dir"])
    config = settings.load(given.get("config_file"), given.get("cluster"), overrides={
        key: (str(given[name]), typed) for name, (key, typed) in _PATHS.items() if name in given})
    if "weights" in given:
        config = external_inputs.with_named_teacher(config, str(given["weights"]))
    if on_config is not None:
        on_config(config)
    # what there is one of each for is read from the inputs, which only the other options name
    each = [name for name in known.values() if OPTIONS[name].kind == "each"]
    request = plan.Request(
        options={typed: OPTIONS[typed].value(given[name]) if name in given else None
                 for name, typed in known.items() if typed not in each},
        sets=given.get("sets", ()), name=given.get("name"), start=given.get("start"),
        student=given.get("student"), teacher=bool(given.get("teacher")),
        inputs=dict(_input(text) for text in given.get("inputs", ())))
    grid = given.get("grid") or {}
    names = [name for name in load_pipeline(pipeline).options if name in OPTIONS]
    grid = sweep.check_grid(grid, names) if isinstance(grid, Mapping) \
        else sweep.parse_grid(grid, names)
    for typed in each:
        name = typed.replace("-", "_")
        if name in given and OPTIONS[typed].value(given[name]):
            grid |= sweep.every_value(pipeline, config, request, typed, grid)
    if not grid:
        return plan.build(pipeline, config, request), None
    swept = sweep.build(pipeline, config, request, grid)
    return swept.plan, swept


def _refuse(pipeline: str, name: str, options: Mapping[str, str]) -> NoReturn:
    """Refuse a keyword that is no option, with those of the pipeline."""
    wanted = load_pipeline(pipeline)
    names = [each for each in (*options, *_OTHERS) if each == "config_file" or offered.is_offered(
        wanted, options.get(each) or f"--{each.replace('_', '-')}")]
    of_steps = [f'sets={{"{target}": …}}' for target in offered.settable(wanted)
                if target.partition(".")[2].replace("-", "_") == name]
    raise InputError(f"unknown option {name!r} of pipeline {pipeline!r}",
                     allowed=nearest(name, names),
                     hint=f"Set the parameter: {' or '.join(of_steps)}" if of_steps else None)


def _input(text: str) -> tuple[str, str]:
    """Step, and run or folder, of an ``--input`` argument."""
    kind, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError(f"--input {text!r} is not STEP=PATH",
                         allowed="for example --input fit=upstream-20261120-1a2b")
    return kind, value


def _embedding_folder(train: str | None, valid: str) -> str:
    """The folder that contains both ``train/`` and ``validate/``."""
    first, second = Path(train or ""), Path(valid)
    same = train and first.resolve().parent == second.resolve().parent
    if not same or (first.resolve().name, second.resolve().name) != ("train", "validate"):
        raise InputError(
            f"{option('embedding-dir', train)} and {option('embedding-valid-dir', valid)} are not "
            "in the same folder",
            allowed="…/train and …/validate in one folder",
            hint="make a folder with links to both: mkdir both && ln -s …/A both/train && "
                 f"ln -s …/B both/validate, then {option('embedding-dir', 'both')}")
    return str(first.resolve().parent)
