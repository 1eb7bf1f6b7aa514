"""Plans: a pipeline with parameters becomes steps with fixed content, tasks and resources.

Whatever can be refused is refused here, before anything is written or submitted. Planning only
reads: the pipeline, the configuration, listings of data and the records of earlier runs.

``build`` is the whole way: select the steps (``unless:``, ``--from``), validate parameters, find
external inputs, check, fix the content of every step, name the run, add what the ledger needs.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from l3hpc import steps
from l3hpc.config.resources import Resources
from l3hpc.config.settings import Config, check_workspace
from l3hpc.console.progress import doing
from l3hpc.errors import InputError, command_line, named, nearest, option, setting
from l3hpc.io.files import digest
from l3hpc.io.owners import current_user
from l3hpc.pipelines import definition, external_inputs, packages, resolve, run_outputs
from l3hpc.pipelines.definition import Pipeline, StepDefinition
from l3hpc.pipelines.labels import with_labels
from l3hpc.pipelines.planned import InputOrigin, Plan, PlannedStep, fingerprint_of_step
from l3hpc.pipelines.resolve import ResolvedStep
from l3hpc.pipelines.run_outputs import ExternalInput
from l3hpc.steps import Input, Output, Params
from l3hpc.workspace import artifacts
from l3hpc.workspace.layout import Workspace

_FIELDS = {"mem": "mem_mb", "time": "time_min"}  # of ``Resources``, where --set has other names
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Request:
    """What a user requests besides the pipeline and the configuration.

    Attributes
    ----------
    options : dict or None
        Command-line option without ``--`` → value; None counts as not given.
    sets : sequence of str
        ``step.parameter=value`` each.
    name : str or None
        Beginning of the run's name; None: the pipeline's name.
    start : str or None
        The first step to run (``--from``). Inputs from the steps before it become external.
    student : str or None
        A run, one of its steps (``RUN/STEP``), a weight file, or ``latest``.
    inputs : dict or None
        Kind of step → folder or run that is used in place of its output.
    teacher : bool
        Whether the teacher of the configuration takes the place of a student.
    """

    options: Mapping[str, Any] | None = None
    sets: Sequence[str] = ()
    name: str | None = None
    start: str | None = None
    student: str | None = None
    inputs: Mapping[str, str] | None = None
    teacher: bool = False

    def as_typed(self) -> dict[str, Any]:
        """What was given, for the record of the run."""
        given = {key: value for key, value in (self.options or {}).items() if value is not None}
        more = {"set": list(self.sets), "from": self.start, "student": self.student,
                "input": dict(self.inputs or {}), "teacher": self.teacher}
        return {**given, **{key: value for key, value in more.items() if value}}


def build(
    pipeline: str | Pipeline, config: Config, request: Request | None = None, *,
    date: datetime.date | None = None, user: str | None = None,
) -> Plan:
    """The plan of a pipeline under a configuration. The workspace is only read.

    Parameters
    ----------
    pipeline
        Its name, or the loaded pipeline.
    config
        Cluster, workspace and paths.
    request
        Options and inputs (None: none).
    date
        The date in the run's name (None: today).
    user
        The user name in the ledger (None: the current user).

    Raises
    ------
    InputError
        For everything that cannot work.
    """
    request = request or Request()
    loaded = definition.load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    check_name(request.name or loaded.name)
    planned, students = planned_steps(loaded, config, request)
    run = run_name(config.workspace, request.name or loaded.name,
                   [step.fingerprint for step in planned.values()],
                   date or datetime.date.today())
    labelled = with_labels(planned, config, loaded.name, run, user or current_user(), students)
    return Plan(run=run, pipeline=loaded.name, workspace=config.workspace, profile=config.profile,
                steps=labelled, options=request.as_typed(), ledger=config.ledger,
                config_file=config.file)


def planned_steps(pipeline: Pipeline, config: Config, request: Request
                  ) -> tuple[dict[str, PlannedStep], list[ExternalInput]]:
    """The steps of a plan without their labels, and the students that they take from outside.

    Parameters
    ----------
    pipeline, config, request
        As for ``build``.

    Returns
    -------
    dict
        Name → step, each after its needs.
    list
        The external inputs that are students.

    Raises
    ------
    InputError
        For everything that cannot work.
    """
    check_workspace(config.workspace, config.origin("paths.workspace"))
    if request.teacher and request.student is not None:
        raise InputError(f"{option('teacher')} and {option('student')} are both given",
                         hint=f"{option('teacher')} evaluates the teacher of cluster.yaml or of "
                              + option("weights"))
    resolved = resolve.resolve_steps(pipeline, request.options or {}, request.sets)
    kept = {name: resolve.with_files_of_runs(
                resolve.marked_as_bound(item) if request.teacher else item, config.workspace)
            for name, item in _selected(pipeline, resolved, request).items()}
    params = resolve.validate_all(kept, config, teacher=request.teacher)
    sources = {name: _external_inputs(kept[name], config, request) for name in kept}
    _check_all_used(kept, sources, config, request)
    students = [source for by_kind in sources.values() for kind, source in by_kind.items()
                if steps.step(kind).output is Output.STUDENT]
    _turn_files_into_parameters(kept, params, sources)
    _check_steps(kept, params, sources)
    for name, item in kept.items():
        packages.refuse_missing(
            name, steps.step(item.step.kind).packages(params[name]), config.profile)
    for name, item in kept.items():
        _check_embeddings(item, params[name], sources[name], kept)
    planned: dict[str, PlannedStep] = {}
    for name in kept:
        with doing(f"planning {name}"):  # lists recordings and digests files
            planned[name] = _planned(kept[name], params[name], sources[name], planned, config)
    return planned, students


def check_name(name: str) -> str:
    """A run's name, if it can be used in folders and job names.

    Raises
    ------
    InputError
        Otherwise, with the characters that are allowed.
    """
    if not _RUN_NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} is not a valid run name", where="--name",
                         allowed="1 to 64 letters, digits, '.', '_' or '-', starting with a letter "
                                 "or digit")
    return name


def run_name(workspace: Path, name: str, content: Sequence[str], date: datetime.date) -> str:
    """The name of a new run: ``<name>-<YYYYMMDD>-<4 hex digits>``.

    Parameters
    ----------
    workspace
        Where it must be new: ``-2``, ``-3``, … is appended to a name that exists.
    name
        How it begins.
    content
        Fingerprints of the steps, of which the digits are a digest.
    date
        The date.
    """
    base = f"{name}-{date:%Y%m%d}-{digest(list(content))[:4]}"
    candidates = chain([base], (f"{base}-{number}" for number in count(2)))
    return next(one for one in candidates if not Workspace(workspace).run(one).path.exists())


# which steps -----------------------------------------------------------------------------------


def _selected(pipeline: Pipeline, resolved: Mapping[str, ResolvedStep], request: Request
              ) -> dict[str, ResolvedStep]:
    """The steps that run, with ``unless:`` and ``--from`` applied to steps and needs."""
    skipped = resolve.skipped_steps(resolved)
    for name, condition in skipped.items():
        _check_effect(pipeline, resolved[name], skipped, condition)
    kept = {name: replace(item, step=item.step.with_needs({*resolved} - {*skipped}))
            for name, item in resolved.items() if name not in skipped}
    if request.start is None:
        return kept
    if request.start not in kept:
        raise InputError(f"there is no step {request.start!r} to start from", where="--from",
                         allowed=nearest(request.start, kept))
    running = {request.start}
    # Each step comes after its needs, so one pass finds all that depend on the first.
    for name, item in kept.items():
        if running & set(item.step.needs):
            running.add(name)
    result: dict[str, ResolvedStep] = {}
    for name, item in kept.items():
        if name in running:
            earlier = tuple(external_inputs.left_out(item.step, kept[need].step)
                            for need in item.step.needs if need not in running)
            result[name] = replace(item, step=replace(item.step.with_needs(running),
                                                      given=(*item.step.given, *earlier)))
    return result


def _check_effect(pipeline: Pipeline, item: ResolvedStep, skipped: Mapping[str, str],
                  condition: str) -> None:
    """Refuse options that only set parameters of skipped steps."""
    for key in item.from_command_line:
        origin = item.origins[key]
        targets = pipeline.options.get(origin.removeprefix("--"), (f"{item.step.name}.{key}",))
        # The option that skips the step is no mistake, although it sets a parameter of it.
        if not set(item.step.unless) & set(targets) and all(
                target.partition(".")[0] in skipped for target in targets):
            raise InputError(f"{named(origin)} has no effect: {condition} skips {item.step.name}",
                             hint=f"remove {named(origin)}")


# parameters and external inputs ----------------------------------------------------------------


def _external_inputs(item: ResolvedStep, config: Config, request: Request
                     ) -> dict[str, ExternalInput]:
    """External inputs of a step, by kind."""
    inputs = steps.step(item.step.kind).inputs
    named = dict(request.inputs or {})
    for kind in named:
        if not steps.is_known(kind):
            raise InputError(f"unknown step {kind!r}", where="--input",
                             allowed=nearest(kind, steps.names()))
    result: dict[str, ExternalInput] = {}
    cluster, folder = config.profile.name, config.paths.embeddings
    outputs = {kind: steps.step(kind).output for kind in item.step.given}
    # --embedding-dir stands for the last of several steps that make embeddings: with
    # --from train it is what the student learns, not the teacher's embeddings before reduction.
    last_embeddings = next((kind for kind in reversed(item.step.given)
                            if outputs[kind] is Output.EMBEDDINGS), None)
    for kind in item.step.given:
        wanted = inputs.get(kind, Input())  # a step that takes any output has no list of inputs
        parameter = wanted.parameter
        needed = wanted.required or kind == last_embeddings or parameter
        if kind in named:
            result[kind] = external_inputs.named_input(
                config.workspace, kind, named[kind], f"--input {kind}", cluster)
        elif item.params.get(parameter) is not None:
            continue
        elif outputs[kind] is Output.STUDENT:
            result[kind] = external_inputs.teacher_input(config.paths.weights) \
                if request.teacher else external_inputs.student_input(
                    config.workspace, kind, request.student or "latest", cluster)
        elif needed and outputs[kind] is Output.EMBEDDINGS and folder:
            result[kind] = external_inputs.named_input(
                config.workspace, kind, str(folder), config.origin("paths.embeddings"), cluster)
        elif needed:
            hint = option("input", f"{kind}=RUN or FOLDER")
            if parameter:
                hint = f"{setting(f'{item.step.name}.{parameter}', 'FILE')}, or {hint}"
            if outputs[kind] is Output.EMBEDDINGS:
                hint = f"{option('embedding-dir', 'FOLDER')}, or {hint}"
            raise InputError(
                f"{item.step.name} needs the output of {kind}, which this run does not make",
                where="--from" if request.start else item.step.where("given"), hint=hint)
    return result


def _turn_files_into_parameters(kept: Mapping[str, ResolvedStep], params: dict[str, Params],
                                sources: Mapping[str, dict[str, ExternalInput]]) -> None:
    """Move external inputs that are single files from ``sources`` into ``params``."""
    for name, by_kind in sources.items():
        for kind in [kind for kind, source in by_kind.items() if source.is_file]:
            known = steps.step(kept[name].step.kind)
            parameter, path = known.inputs[kind].parameter, str(by_kind.pop(kind).path)
            if not parameter:
                raise InputError(f"{name} takes the output of {kind}, not a file", where=path)
            given = {field: getattr(params[name], field)
                     for field in params[name].model_fields_set}
            params[name] = known.parse({**given, parameter: path})


# checks ----------------------------------------------------------------------------------------


def _check_all_used(kept: Mapping[str, ResolvedStep],
                    sources: Mapping[str, Mapping[str, ExternalInput]],
                    config: Config, request: Request) -> None:
    """Refuse inputs of the command line that no step of the plan takes."""
    used = {kind: steps.step(kind).output for by_kind in sources.values() for kind in by_kind}
    given = {f"--input {kind}": kind in used for kind in request.inputs or {}}
    if request.student is not None or request.teacher:
        given["--teacher" if request.teacher else "--student"] = any(
            output is Output.STUDENT and kind not in (request.inputs or {})
            for kind, output in used.items())
    if config.origin("paths.embeddings").startswith("--"):
        given["--embedding-dir"] = Output.EMBEDDINGS in used.values()
    for origin, is_used in given.items():
        if not is_used:
            kinds = sorted({kind for item in kept.values() for kind in item.step.given})
            raise InputError(
                f"{named(origin)} has no effect: no step of this run takes it as an external input",
                allowed=f"external inputs: {', '.join(kinds)}" if kinds else None,
                hint=f"remove {named(origin)}, or start at a later step: {option('from', 'STEP')}")


def _check_embeddings(item: ResolvedStep, params: Params, sources: Mapping[str, ExternalInput],
                      kept: Mapping[str, ResolvedStep]) -> None:
    """Let the step refuse folders without embeddings, and embeddings that it cannot use."""
    available = {*sources, *(kept[need].step.kind for need in item.step.needs)}
    for kind, source in sources.items():
        if steps.step(kind).output is Output.EMBEDDINGS:
            steps.step(item.step.kind).check_embeddings(
                params, kind, available, source.path,
                functools.partial(external_inputs.embedding_dim, source))


def _check_steps(kept: Mapping[str, ResolvedStep], params: Mapping[str, Params],
                 sources: Mapping[str, Mapping[str, ExternalInput]]) -> None:
    """Let every step refuse what cannot work; it may compare the parameters of all steps, and those
    with which an earlier run trained the student that this plan takes."""
    students = {kind: run_outputs.params_of(kind, source)
                for by_kind in sources.values() for kind, source in by_kind.items()
                if steps.step(kind).output is Output.STUDENT}
    known = {kind: value for kind, value in students.items() if value is not None}
    for name, item in kept.items():
        by_kind = known | {kept[other].step.kind: value for other, value in params.items()}
        # Of two steps of one kind, a step is checked against the one that it depends on.
        for other in (*_ancestors(name, kept), name):
            by_kind[kept[other].step.kind] = params[other]
        with resolve.located(item.step):
            steps.step(item.step.kind).check(params[name], by_kind)


def _ancestors(name: str, kept: Mapping[str, ResolvedStep]) -> list[str]:
    """Names of the steps on which a step depends, directly or not."""
    ancestors: list[str] = []
    pending = list(kept[name].step.needs)
    while pending:
        other = pending.pop()
        if other not in ancestors:
            ancestors.append(other)
            pending.extend(kept[other].step.needs)
    return ancestors


def _check_utf8(name: str, value: object) -> None:
    """Refuse what cannot be written into a step's config.json."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        excerpt = ascii(error.object[max(error.start - 40, 0):error.end + 20])
        raise InputError(f"{name}: a name is not UTF-8: …{excerpt}…",
                         hint="Rename the file or folder; `convmv` does it for whole folders."
                         ) from None


# content and resources -------------------------------------------------------------------------


def _planned(item: ResolvedStep, params: Params, sources: Mapping[str, ExternalInput],
             planned: Mapping[str, PlannedStep], config: Config) -> PlannedStep:
    """A step with its tasks, fingerprint, finished tasks and resources."""
    step = item.step
    known = steps.step(step.kind)
    providers: dict[str, PlannedStep | ExternalInput] = {
        **{need if known.takes_any else planned[need].kind: planned[need] for need in step.needs},
        **sources}
    with resolve.located(step):
        shards = known.shards(params, {kind: one.shards for kind, one in providers.items()})
    if not shards:
        raise InputError(f"{step.name} has nothing to do: no input was found",
                         where=step.name,
                         hint="check the folder with " + command_line("data", "check", "FOLDER"))
    values = params.model_dump(mode="json")
    paths = {kind: str(one.artifact if isinstance(one, PlannedStep) else one.path)
             for kind, one in providers.items()}
    for key, value in {**values, **paths, "shards": shards}.items():
        _check_utf8(f"{step.name}.{key}", value)
    fingerprint, artifact = _identified(
        step, values, {kind: one.fingerprint for kind, one in providers.items()},
        known.digests(params), shards, planned, config)
    done = tuple(sorted(index for index in artifacts.finished(artifact) if index < len(shards)))
    # The profile overrides the pipeline's file, and the command line overrides both.
    of_profile = config.profile.at(step.kind).over(step.resources.over(Resources()))
    resources = item.resources.over(of_profile).packed(len(shards))
    new = PlannedStep(
        name=step.name, kind=step.kind, params=values, needs=step.needs, inputs=paths,
        fingerprint=fingerprint, artifact=artifact, shards=shards, done=done,
        resources=config.profile.granted(step.name, step.like or step.kind, resources),
        waits_for=tuple(job for source in sources.values() for job in source.waits_for),
        version=known.version, requeue_limits=step.heal, continues=known.continues,
        given={kind: InputOrigin(source.run, str(source.path), source.step)
               for kind, source in sources.items()},
        any_needs=step.any_needs, partial_inputs=step.any_needs, like=step.like,
    )
    if new.missing:
        asked = {_FIELDS.get(name, name): value
                 for name, value in item.resources.model_dump(exclude_none=True).items()}
        new = replace(new, not_granted=tuple(new.resources.not_granted(
            asked, len(new.missing), config.profile.name)))
        if config.profile.requests_gpus(step.like or step.kind):
            with resolve.located(step):
                known.check_gpus(params, new.resources.gpus)
    return new


def _identified(step: StepDefinition, values: Mapping[str, Any], inputs: Mapping[str, str],
                digests: Mapping[str, Any], shards: Sequence[Mapping[str, Any]],
                planned: Mapping[str, PlannedStep], config: Config) -> tuple[str, Path]:
    """The fingerprint of a step and the folder of its artifact; ``inputs``: kind → fingerprint."""
    known, workspace = steps.step(step.kind), Workspace(config.workspace)
    fingerprint = fingerprint_of_step(known, values, inputs, digests, shards)
    artifact = workspace.artifact(step.kind, fingerprint).path
    if step.any_needs and artifacts.used_partial_input(artifact):
        # What was made of a part of an input must not be taken for what is made of all of it.
        parts = {need: f"{planned[need].fingerprint} tasks {planned[need].done}"
                 for need in step.any_needs}
        fingerprint = fingerprint_of_step(known, values, {**inputs, **parts}, digests, shards)
        artifact = workspace.artifact(step.kind, fingerprint).path
    return fingerprint, artifact
