"""Plans: a pipeline with parameters becomes steps with fixed content, tasks and resources.

Everything that can be refused is refused here, before anything is written or submitted. A plan
touches nothing: it reads the pipeline, the configuration, listings of data and earlier records.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from l3hpc import steps
from l3hpc.config.resources import Resources
from l3hpc.config.settings import Config, check_workspace
from l3hpc.errors import InputError, nearest
from l3hpc.io.files import current_user, digest, read_json
from l3hpc.pipelines import definition, model, resolve
from l3hpc.pipelines.definition import Pipeline
from l3hpc.pipelines.model import InputOrigin, Plan, PlannedStep
from l3hpc.pipelines.resolve import Outside, Wanted
from l3hpc.steps import LEDGER_FOLDERS, Output
from l3hpc.workspace import artifacts
from l3hpc.workspace.layout import ArtifactFolder, Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Request:
    """What a person asks for besides the pipeline and the configuration.

    options: command-line option → value (None: not given). sets: ``step.parameter=value``.
    start: the first step to run (``--from``); what it needs then comes from outside. student: a
    run, a weight file or ``latest``. inputs: kind of step → folder or run that stands for it.
    """

    options: Mapping[str, Any] | None = None
    sets: Sequence[str] = ()
    name: str | None = None
    start: str | None = None
    student: str | None = None
    inputs: Mapping[str, str] | None = None

    def typed(self) -> dict[str, Any]:
        """The given options and more, for the record of the run."""
        said = {key: value for key, value in (self.options or {}).items() if value is not None}
        more = {"set": list(self.sets), "from": self.start, "student": self.student,
                "input": dict(self.inputs or {})}
        return {**said, **{key: value for key, value in more.items() if value}}


def build(
    pipeline: str | Pipeline, config: Config, request: Request | None = None, *,
    date: datetime.date | None = None, user: str | None = None,
) -> Plan:
    """The plan of a pipeline under a configuration.

    date: of the run's name (default: today). Raises ``InputError`` for everything impossible; the
    workspace is only read.
    """
    request = request or Request()
    found = definition.load(pipeline) if isinstance(pipeline, str) else pipeline
    check_name(request.name or found.name)
    planned, students = planned_steps(found, config, request)
    run = run_name(config.workspace, request.name or found.name,
                   [step.fingerprint for step in planned.values()],
                   date or datetime.date.today())
    steps = labelled(planned, config, found.name, run, user or current_user(), students)
    return Plan(run=run, pipeline=found.name, workspace=config.workspace, profile=config.profile,
                steps=steps, options=request.typed(), ledger=config.ledger)


def planned_steps(found: Pipeline, config: Config, request: Request
                  ) -> tuple[dict[str, PlannedStep], list[Outside]]:
    """The steps of a plan by name, and the students that come from outside; labels are missing."""
    check_workspace(config.workspace, config.origin("paths.workspace"))
    wanted = resolve.wanted(found, request.options or {}, request.sets)
    kept = _kept(found, wanted, request)
    params: dict[str, BaseModel] = {}
    for name, item in kept.items():
        earlier = {kept[other].step.kind: values for other, values in params.items()}
        params[name] = _params(item, earlier, config)
    sources = {name: _sources(kept[name], config, request) for name in kept}
    _check_used(kept, sources, config, request)
    students = [one for source in sources.values() for kind, one in source.items()
                if steps.step(kind).output is Output.STUDENT]
    for name, source in sources.items():
        for kind in [kind for kind, one in source.items() if one.file]:
            parameter = steps.step(kept[name].step.kind).inputs[kind].parameter
            path = str(source.pop(kind).path)
            if not parameter:
                raise InputError(f"{name} takes the output of {kind}, not a file", where=path)
            params[name] = type(params[name])(**{**_said(params[name]), parameter: path})
    _check(kept, params)
    _check_packages(kept, params, config)
    for name, item in kept.items():
        _check_embeddings(item, params[name], sources[name], kept)
    planned: dict[str, PlannedStep] = {}
    for name in kept:
        planned[name] = _planned(kept[name], params[name], sources[name], planned, config)
    return planned, students


def labelled(planned: Mapping[str, PlannedStep], config: Config, pipeline: str, run: str,
             user: str, students: Sequence[Outside]) -> tuple[PlannedStep, ...]:
    """The steps with what only the ledger needs: who, which run, which row."""
    labels = _labels(config, pipeline, run, user, students)
    return tuple(replace(step, labels={**labels, **_folders(step, planned, config, run),
                                       "step": step.name}) for step in planned.values())


def check_name(name: str) -> str:
    """A run's name as it may stand in folders and job names; ``InputError`` otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} cannot name a run", where="--name",
                         allowed="1 to 64 letters, digits, . _ - (not first)")
    return name


def run_name(workspace: Path, name: str, content: Sequence[str], date: datetime.date) -> str:
    """``<name>-<YYYYMMDD>-<4 hex of the plan's content>``, with -2, -3 … where that is taken."""
    base = f"{name}-{date:%Y%m%d}-{digest(list(content))[:4]}"
    taken, number = base, 1
    while Workspace(workspace).run(taken).path.exists():
        number += 1
        taken = f"{base}-{number}"
    return taken


def _kept(pipeline: Pipeline, wanted: Mapping[str, Wanted], request: Request) -> dict[str, Wanted]:
    """The steps that run, with ``unless:`` and ``--from`` applied to steps and needs."""
    out = resolve.dropped(wanted)
    for name, why in out.items():
        conditions = set(wanted[name].step.unless)
        for key in wanted[name].by_person:
            option = wanted[name].said[key]
            targets = pipeline.options.get(option.removeprefix("--"), (f"{name}.{key}",))
            if not conditions & set(targets) and all(
                    target.partition(".")[0] in out for target in targets):
                raise InputError(f"{option} has no effect: {why} leaves {name} out",
                                 hint=f"remove {option}")
    left = {name: item for name, item in wanted.items() if name not in out}
    kept = {name: replace(item, step=replace(
        item.step, needs=tuple(need for need in item.step.needs if need in left)))
        for name, item in left.items()}
    if request.start is None:
        return kept
    if request.start not in kept:
        raise InputError(f"there is no step {request.start!r} to start from", where="--from",
                         allowed=nearest(request.start, kept))
    after = {request.start}
    for name, item in kept.items():  # in an order that respects the needs
        if after & set(item.step.needs):
            after.add(name)
    result: dict[str, Wanted] = {}
    for name, item in kept.items():
        if name in after:
            gone = tuple(kept[need].step.kind for need in item.step.needs if need not in after)
            needs = tuple(need for need in item.step.needs if need in after)
            result[name] = replace(item, step=replace(item.step, needs=needs,
                                                      given=(*item.step.given, *gone)))
    return result


def _params(item: Wanted, earlier: Mapping[str, BaseModel], config: Config) -> BaseModel:
    """Validated parameters, with what follows from the earlier steps where nobody stated it."""
    more = steps.step(item.step.kind).implied(item.params, earlier, config.paths.audio)
    return resolve.validate(replace(item, params={**item.params, **more}), config)


def _sources(item: Wanted, config: Config, request: Request) -> dict[str, Outside]:
    """Inputs of a step that come from outside the plan, by kind."""
    inputs = steps.step(item.step.kind).inputs
    named = dict(request.inputs or {})
    for kind in named:
        if not steps.is_known(kind):
            raise InputError(f"unknown step {kind!r}", where="--input",
                             allowed=nearest(kind, steps.names()))
    result: dict[str, Outside] = {}
    cluster, folder = config.profile.name, config.paths.embeddings
    makes = {kind: steps.step(kind).output for kind in item.step.given}
    closest = next((kind for kind in reversed(item.step.given)
                    if makes[kind] is Output.EMBEDDINGS), None)
    for kind in item.step.given:
        parameter = inputs[kind].parameter
        must = inputs[kind].required or kind == closest or parameter
        if kind in named:
            result[kind] = resolve.given(
                config.workspace, kind, named[kind], f"--input {kind}", cluster)
        elif item.params.get(parameter) is not None:
            continue
        elif makes[kind] is Output.STUDENT:
            result[kind] = resolve.student(
                config.workspace, kind, request.student or "latest", cluster)
        elif must and makes[kind] is Output.EMBEDDINGS and folder:
            result[kind] = resolve.given(config.workspace, kind, str(folder),
                                         config.origin("paths.embeddings"), cluster)
        elif must:
            hint = f"--input {kind}=RUN or FOLDER"
            if parameter:
                hint = f"--set {item.step.name}.{parameter}=FILE, or {hint}"
            if makes[kind] is Output.EMBEDDINGS:
                hint = f"--embedding-dir FOLDER, or {hint}"
            raise InputError(
                f"{item.step.name} needs the output of {kind}, which this run does not make",
                where="--from" if request.start else item.step.where("given"), hint=hint)
    return result


def _check_used(kept: Mapping[str, Wanted], sources: Mapping[str, Mapping[str, Outside]],
                config: Config, request: Request) -> None:
    """Refuse inputs given on the command line that no step of the plan takes from outside."""
    used = {kind: steps.step(kind).output for source in sources.values() for kind in source}
    given = {f"--input {kind}": kind in used for kind in request.inputs or {}}
    if request.student is not None:
        given["--student"] = any(output is Output.STUDENT and kind not in (request.inputs or {})
                                 for kind, output in used.items())
    if config.origin("paths.embeddings").startswith("--"):
        given["--embedding-dir"] = Output.EMBEDDINGS in used.values()
    for option, is_used in given.items():
        if not is_used:
            outside_inputs = sorted({kind for item in kept.values() for kind in item.step.given})
            raise InputError(
                f"{option} has no effect: no step of this run takes that from outside",
                allowed=f"from outside come: {', '.join(outside_inputs)}" if outside_inputs
                else None, hint=f"remove {option}, or start later: --from STEP")


def _check_embeddings(item: Wanted, params: BaseModel, sources: Mapping[str, Outside],
                      kept: Mapping[str, Wanted]) -> None:
    """Let the step refuse folders without embeddings, and embeddings that it cannot use."""
    available = {*sources, *(kept[need].step.kind for need in item.step.needs)}
    for kind, source in sources.items():
        if steps.step(kind).output is Output.EMBEDDINGS:
            steps.step(item.step.kind).check_embeddings(
                params, kind, available, source.path,
                functools.partial(resolve.embedding_dim, source))


def _check(kept: Mapping[str, Wanted], params: Mapping[str, BaseModel]) -> None:
    """Every step's own refusals, which may compare the parameters of all steps."""
    for name, item in kept.items():
        by_kind = {kept[other].step.kind: value for other, value in params.items()}
        for other in (*_ancestors(name, kept), name):
            by_kind[kept[other].step.kind] = params[other]
        steps.step(item.step.kind).check(params[name], by_kind)


def _check_packages(
    kept: Mapping[str, Wanted], params: Mapping[str, BaseModel], config: Config,
) -> None:
    """Refuse a step whose package is missing, where the Python of its job is this one."""
    if config.profile.capabilities.remote or config.profile.python != sys.executable:
        return
    for name, item in kept.items():
        for package, install in steps.step(item.step.kind).packages(params[name]).items():
            if importlib.util.find_spec(package) is None:
                raise InputError(f"{name} needs the package {package!r}, which is not installed",
                                 hint=install)


def _ancestors(name: str, kept: Mapping[str, Wanted]) -> list[str]:
    found: list[str] = []
    waiting = list(kept[name].step.needs)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.append(other)
            waiting.extend(kept[other].step.needs)
    return found


def _planned(item: Wanted, params: BaseModel, sources: Mapping[str, Outside],
             planned: Mapping[str, PlannedStep], config: Config) -> PlannedStep:
    step = item.step
    known = steps.step(step.kind)
    ready = {planned[need].kind: planned[need] for need in step.needs}
    values = params.model_dump(mode="json")
    upstream = {kind: other.shards for kind, other in ready.items()}
    upstream.update({kind: source.shards for kind, source in sources.items()})
    shards = known.shards(params, upstream)
    if not shards:
        raise InputError(f"{step.name} has nothing to do: no input was found",
                         where=step.name, hint="check the folder with l3hpc data check FOLDER")
    profile = config.profile
    marks = {kind: other.fingerprint for kind, other in ready.items()}
    marks.update({kind: source.fingerprint for kind, source in sources.items()})
    paths = {kind: str(other.artifact) for kind, other in ready.items()}
    paths.update({kind: str(source.path) for kind, source in sources.items()})
    for key, value in {**values, **paths, "shards": shards}.items():
        _check_utf8(f"{step.name}.{key}", value)
    mark = model.fingerprint_of_step(known, values, marks, known.digests(params), shards)
    artifact = Workspace(config.workspace).artifact(step.kind, mark).path
    pipeline_says = step.resources.over(Resources())
    resources = item.resources.over(profile.at(step.kind).over(pipeline_says))
    resources = profile.granted(step.name, resources)
    return PlannedStep(
        name=step.name, kind=step.kind, params=values, needs=step.needs, inputs=paths,
        fingerprint=mark, artifact=artifact, shards=shards,
        done=tuple(sorted(index for index in artifacts.finished(artifact)
                          if index < len(shards))),
        resources=resources,
        waits_for=tuple(job for source in sources.values() for job in source.waits_for),
        version=known.version, healing=step.heal, continues=known.continues,
        given={kind: InputOrigin(source.run, str(source.path))
               for kind, source in sources.items()},
    )


def _check_utf8(name: str, value: Any) -> None:
    """Refuse what cannot be written into a step's config.json."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        shown = ascii(error.object[max(error.start - 40, 0):error.end + 20])
        raise InputError(f"{name}: a name is not UTF-8: …{shown}…",
                         hint="Rename the file or folder; `convmv` does it for whole folders."
                         ) from None


def _said(params: BaseModel) -> dict[str, Any]:
    return {name: getattr(params, name) for name in params.model_fields_set}


def _labels(config: Config, pipeline: str, run: str, user: str,
            students: Sequence[Outside]) -> dict[str, Any]:
    """What only the ledger needs. model_dir is the folder of the student that is used."""
    places = Workspace(config.workspace)
    labels = {"username": user, "run": run, "pipeline": pipeline, "exp_id": run,
              "cluster": config.profile.name,
              **{label: str(places.run(run).artifact(kind))
                 for label, kind in LEDGER_FOLDERS.items()}}
    if students:
        one = students[0]
        labels["model_dir"] = str(one.path)
        if one.run:
            labels["student_run"] = one.run
            labels["model_dir"] = _key_of(
                one.path, places.run(one.run).artifact(LEDGER_FOLDERS["model_dir"]))
    return labels


def _key_of(artifact: Path, planned: Path) -> str:
    """The Model Dir under which the run that computed ``artifact`` recorded its row.

    ``planned`` where nothing was computed yet: a reused student keeps the row that it has.
    """
    config = ArtifactFolder(artifact).config
    if config.is_file() and artifacts.finished(Path(artifact)):
        recorded = read_json(config)
        if isinstance(recorded, dict) and isinstance(recorded.get("labels"), dict):
            return str(recorded["labels"].get("model_dir") or planned)
    return str(planned)


def _folders(step: PlannedStep, planned: Mapping[str, PlannedStep], config: Config,
             run: str) -> dict[str, str]:
    """model_dir and output_dir of the steps of this run that train a network or classifiers: of the
    step itself, or of those that it builds on."""
    found: dict[str, str] = {}
    names = [step.name]
    for name in names:
        one = planned[name]
        key = steps.step(one.kind).ledger_folder
        if key and key not in found:
            folder = Workspace(config.workspace).run(run).artifact(name)
            reused = key == "model_dir" and not one.missing
            found[key] = _key_of(one.artifact, folder) if reused else str(folder)
        names += [need for need in one.needs if need not in names]
    return found
