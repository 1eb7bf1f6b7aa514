"""From a pipeline, the configuration and the command line to validated parameters and resources.

Later wins: the pipeline's file, the options (``--asr``), ``--set step.parameter=value``. Every
value remembers who said it, so that a refusal can name the place.

Inputs that no step of the plan makes: a student of an earlier run, folders of published files.

Runs are read from their records (``<workspace>/runs/<run>/run.json``) as they are; nothing asks
the scheduler here. Whether a job still lives is decided when the plan is submitted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from l3hpc import steps as kinds
from l3hpc.config import positions
from l3hpc.config.profile import ResourceSpec
from l3hpc.config.settings import ENVIRONMENT, Config
from l3hpc.errors import InputError, nearest, report_damage
from l3hpc.io.files import read_json
from l3hpc.io.values import check_mapping
from l3hpc.pipelines import model
from l3hpc.pipelines.definition import RESOURCES, Pipeline, Step
from l3hpc.pipelines.options import OPTIONS, PATH_OPTIONS
from l3hpc.workspace import artifacts, attempts, records
from l3hpc.workspace.layout import ArtifactFolder, Workspace
from l3hpc.workspace.local_jobs import LIVE, LocalJobs
from l3hpc.workspace.markers import RunState, StepState
from l3hpc.workspace.records import RunRecord, StepRecord

_PLACEHOLDER = re.compile(r"\{(paths\.[a-z0-9_]+)\}")


@dataclass(frozen=True)
class Wanted:
    """A step with everything that was said about it.

    said: parameter → who said it. resources: only what the command line said.
    """

    step: Step
    params: Mapping[str, Any]
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_person(self) -> frozenset[str]:
        """Parameters that were given on the command line."""
        return frozenset(name for name, who in self.said.items() if who.startswith("--"))


def wanted(
    pipeline: Pipeline, options: Mapping[str, Any], sets: Sequence[str],
) -> dict[str, Wanted]:
    """All steps of a pipeline with the options and ``--set`` values put over its file.

    Options whose value is None count as not given. Raises ``InputError`` for an option that this
    pipeline does not offer and for a ``--set`` that names nothing.
    """
    result = {name: Wanted(step, dict(step.params), said=dict(step.places))
              for name, step in pipeline.steps.items()}
    for option, value in options.items():
        if value is None:
            continue
        if option not in pipeline.options:
            offered = ", ".join(f"--{name}" for name in pipeline.options if name in OPTIONS)
            raise InputError(f"pipeline {pipeline.name!r} has no option --{option}",
                             allowed=f"it offers: {offered}" if offered else None,
                             hint=f"its options are listed in {pipeline.path}")
        for target in pipeline.options[option]:
            name, _, parameter = target.partition(".")
            result[name] = _said(result[name], parameter, value, f"--{option}")
    for text in sets:
        _set(result, text)
    return result


def split_set(text: str) -> tuple[str, str, str]:
    """``step.parameter=value`` in its three parts."""
    target, equals, value = text.partition("=")
    name, dot, parameter = target.strip().partition(".")
    if not equals or not dot or not name or not parameter:
        raise InputError(f"--set {text!r} is not step.parameter=value",
                         allowed="for example --set train.epochs=5 or --set classify.mem=40GB")
    return name, parameter, value


def dropped(steps: Mapping[str, Wanted]) -> dict[str, str]:
    """Steps that their ``unless:`` leaves out → the condition that holds (``fit.approx=none``)."""
    result: dict[str, str] = {}
    for name, item in steps.items():
        for target, value in item.step.unless.items():
            other, _, parameter = target.partition(".")
            if _effective(steps[other], parameter) == value:
                result[name] = f"{target}={value}"
    return result


def validate(item: Wanted, config: Config, prefix: str | None = None) -> BaseModel:
    """The step's typed parameters. A refusal names who said the value and what is allowed."""
    name = prefix or item.step.name
    values = {key: _filled(value, key, item, config) for key, value in item.params.items()}
    model = kinds.step(item.step.kind).params_type
    try:
        params = model.model_validate(values)
    except ValidationError as error:
        refusal = positions.explain(error, model, None, prefix=f"{name}.")
        key = str(error.errors(include_url=False)[0]["loc"][:1] or ("",))[2:-3]
        hint = None
        if error.errors(include_url=False)[0]["type"] == "missing":
            hint = f"--set {name}.{key}=…, or params: of {name} in {item.step.where()}"
        who = item.said.get(key, item.step.where())
        message = refusal.message.removeprefix(f"{name}.{key}: " if who.startswith("--set") else "")
        raise InputError(message, where=who,
                         allowed=refusal.allowed, hint=refusal.hint or hint) from None
    assert isinstance(params, BaseModel)
    return params


def _said(item: Wanted, parameter: str, value: Any, who: str) -> Wanted:
    return replace(item, params={**item.params, parameter: value},
                   said={**item.said, parameter: who})


def _set(steps: dict[str, Wanted], text: str) -> None:
    name, parameter, value = split_set(text)
    who = f"--set {name}.{parameter}"
    if name not in steps:
        raise InputError(f"--set: there is no step {name!r} in this pipeline",
                         allowed=nearest(name, steps))
    item = steps[name]
    model: type[BaseModel] = kinds.step(item.step.kind).params_type
    if parameter in model.model_fields:
        steps[name] = _said(item, parameter, read_value(model, parameter, value), who)
    elif parameter in RESOURCES:
        try:
            said = ResourceSpec.model_validate({parameter: value})
        except ValidationError as error:
            refusal = positions.explain(error, ResourceSpec, None, prefix=f"{name}.")
            message = refusal.message.removeprefix(f"{name}.{parameter}: ")
            raise InputError(message, where=who, allowed=refusal.allowed) from None
        update = said.model_dump(exclude_none=True)
        steps[name] = replace(item, resources=item.resources.model_copy(update=update))
    else:
        valid = [*model.model_fields, *RESOURCES]
        raise InputError(f"--set: {name} has no parameter {parameter!r}",
                         allowed=nearest(parameter, valid))


def read_value(model: type[BaseModel], parameter: str, text: str) -> Any:
    """``text`` as it is where the parameter takes it so, else as a YAML value (``null``, lists),
    else as a list written with commas only."""
    kind: Any = model.model_fields[parameter].annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    value = positions.loads(text, Path("--set")).data if text.strip() else text
    candidates = [text, value]
    if value is None and text.strip():
        candidates = [None]
    elif "," in text and isinstance(value, str):
        candidates.append(positions.loads(f"[{text}]", Path("--set")).data)
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    return text


def _effective(item: Wanted, parameter: str) -> Any:
    if parameter in item.params:
        return item.params[parameter]
    return kinds.step(item.step.kind).params_type.model_fields[parameter].default


def _filled(value: Any, key: str, item: Wanted, config: Config) -> Any:
    """``{paths.audio}`` and the like replaced by what the configuration has."""
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name = match[1].split(".")[1]
        if not hasattr(config.paths, name):
            raise InputError(f"{item.step.name}.{key}: there is no {match[1]!r}",
                             where=item.said.get(key),
                             allowed=nearest(match[1], PATH_OPTIONS))
        found = getattr(config.paths, name)
        if found is None:
            option, variable = PATH_OPTIONS[match[1]], ENVIRONMENT[match[1]]
            demo = (", or --weights untrained (random weights, for demonstration only)"
                    if name == "weights" else "")
            raise InputError(
                f"{item.step.name} needs {key}: {match[1]} is not set",
                where=item.said.get(key),
                hint=f"use {option} PATH{demo}, or set {match[1]} in cluster.yaml (or {variable})")
        return str(found)

    return _PLACEHOLDER.sub(fill, value)


@dataclass(frozen=True)
class Outside:
    """Where an input lies, what identifies it, and the jobs that still have to make it.

    file: the input is one file (a student's weights) and goes into the parameter ``student``.
    """

    path: Path
    fingerprint: str
    shards: list[dict[str, Any]] = field(default_factory=list)
    waits_for: tuple[str, ...] = ()
    run: str | None = None
    file: bool = False


def student(workspace: Path, kind: str, word: str, cluster: str) -> Outside:
    """The trained student that ``--student`` names: a run, a weight file, or ``latest``.

    kind: the step that trains students. cluster: the profile of the new plan; only its jobs can
    wait for a run that still works there.

    Raises ``InputError`` with the runs that have one.
    """
    known, broken = _known(workspace)
    if word == "latest":
        for record in known:
            found = _usable(workspace, record, kind, cluster)
            if found is not None:
                return found
        raise InputError(
            f"no run in {workspace} has trained a student", where="--student latest",
            allowed=f"(skipped: {broken[0].where}: {broken[0].message})" if broken else None,
            hint="train one with l3hpc submit upstream, or name a weight file: --student FILE")
    if any(record.run == word for record in known) or not Path(word).is_file():
        return of_run(workspace, word, kind, known, cluster)
    path = Path(word).resolve()
    return Outside(path, "", run=None, file=True)


def _known(workspace: Path) -> tuple[list[RunRecord], list[InputError]]:
    """All records, and what is wrong with those that cannot be read, which is said too."""
    broken: list[InputError] = []
    known = records.read_all(workspace, broken)
    for error in broken:
        report_damage(error)
    return known, broken


def given(workspace: Path, kind: str, word: str, where: str, cluster: str) -> Outside:
    """An input named on the command line: a folder, or a run that made it."""
    known, _ = _known(workspace)
    if any(record.run == word for record in known):
        return of_run(workspace, word, kind, known, cluster)
    path = Path(word)
    if not path.is_dir():
        raise InputError(f"{word!r} is neither a folder nor a run", where=where)
    path = path.resolve()
    if Workspace(workspace).is_artifact(path):
        return Outside(path, path.name, _shards(ArtifactFolder(path).config))
    return Outside(path, model.fingerprint_of_folder(path))


def embedding_dim(source: Outside, key: str | None = None) -> int | None:
    """Length of an embedding in a folder of ready embeddings; None while jobs still make it.

    key: the name of the matrix, where the files hold several. ``InputError`` for no embeddings.
    """
    if source.waits_for or (source.shards
                            and len(artifacts.finished(source.path)) < len(source.shards)):
        return None
    from l3hpc.datasets.embeddings import open_source

    return open_source(source.path, key=key).dim


def of_run(workspace: Path, run: str, kind: str, known: list[RunRecord],
           cluster: str) -> Outside:
    """The output of the step ``kind`` of one run; ``InputError`` if it has and will have none."""
    usable = [record.run for record in known if _usable(workspace, record, kind, cluster)]
    for record in known:
        if record.run == run:
            found = _usable(workspace, record, kind, cluster)
            if found is None:
                raise InputError(f"the run {run!r} has no finished {kind}, and no job on {cluster} "
                                 "that makes it",
                                 allowed=f"these have one: {', '.join(usable)}" if usable else None)
            return found
    raise InputError(f"{run!r} is neither a run nor a file",
                     allowed=nearest(run, usable) if usable else None,
                     hint="list the runs with l3hpc status")


def _usable(workspace: Path, record: RunRecord, kind: str, cluster: str) -> Outside | None:
    for step in record.steps:
        if step.kind == kind:
            artifact = Path(step.artifact)
            if _finished(step):
                waits: tuple[str, ...] = ()
            elif step.job and record.cluster == cluster and _lives(workspace, record, step):
                waits = tuple(attempts.open_jobs(step, artifacts.finished(artifact)))
            else:
                continue
            frozen = Workspace(workspace).run(record.run).step(step.name).config
            shards = _shards(ArtifactFolder(artifact).config, frozen)
            return Outside(artifact, artifact.name, shards, waits, record.run)
    return None


def _lives(workspace: Path, record: RunRecord, step: StepRecord) -> bool:
    """Whether the record says that a job is at work on the step (a scheduler is not asked)."""
    if (record.state, step.state) != (RunState.SUBMITTED, StepState.SUBMITTED):
        return False
    if not record.capabilities.runner:
        return True
    jobs = LocalJobs(workspace, record.run)
    return jobs.runner() is not None and any(
        job.state in LIVE for job in jobs.jobs.values() if job.job == step.job)


def _finished(step: StepRecord) -> bool:
    return len(artifacts.finished(Path(step.artifact))) >= step.tasks


def _shards(*frozen: Path) -> list[dict[str, Any]]:
    for path in frozen:
        if path.is_file():
            try:
                return list(check_mapping(_Shards, read_json(path), "config").get("shards", []))
            except InputError as error:
                report_damage(InputError(error.message, where=error.where or str(path)))
    return []


class _Shards(TypedDict):
    shards: NotRequired[list[dict[str, Any]]]
