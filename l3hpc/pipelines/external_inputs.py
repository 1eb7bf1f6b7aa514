"""Inputs that no step of the plan makes: a student or artifact of an earlier run, published files.

``run_outputs`` finds what an earlier run has made; here are the other forms that an input may have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from l3hpc import steps
from l3hpc.config.settings import Config
from l3hpc.errors import InputError, command_line, named, option
from l3hpc.pipelines.definition import StepDefinition
from l3hpc.pipelines.planned import fingerprint_of_folder
from l3hpc.pipelines.run_outputs import (
    ExternalInput,
    begins_a_run,
    file_in_folder,
    has_only_others,
    names_a_run,
    newest,
    only,
    outputs_of,
    read_config,
    read_records,
    run_file,
    run_output,
)
from l3hpc.steps.base import Output
from l3hpc.steps.networks import NETWORK_OF_RUN
from l3hpc.workspace import artifacts, records
from l3hpc.workspace.layout import Workspace


def left_out(step: StepDefinition, parent: StepDefinition) -> str:
    """The input that comes from outside where ``--from`` leaves out a step that another one needs.

    Parameters
    ----------
    step
        The step that runs.
    parent
        The one that it needs.

    Raises
    ------
    InputError
        Where no earlier run can be searched for it.
    """
    # Earlier runs are searched by kind, and all steps that a pipeline defines itself share a few.
    if steps.step(parent.kind).takes_any or (
            steps.step(step.kind).takes_any and parent.kind != parent.name):
        raise InputError(f"{step.name} reads the output of {parent.name}, which cannot come from "
                         "outside the run", where="--from",
                         hint=f"Submit without {option('from')}: finished steps are not computed "
                              "again.")
    return parent.kind


def student_input(workspace: Path, kind: str, value: str, cluster: str | None,
                  origin: str = "--student") -> ExternalInput:
    """The trained student, or the teacher, that ``--student`` names.

    Parameters
    ----------
    workspace
        The workspace whose runs are searched.
    kind
        The step that trains students.
    value
        A run, one of its steps (``RUN/STEP``) or tasks (``RUN/STEP/TASK``), a weight file or
        another name of a teacher, ``latest`` or ``latest/STEP``.
    cluster
        The profile of the new plan: only its jobs can wait for a run that is still active there.
        None: the student has to be finished.
    origin
        The option that names it, for messages.

    Raises
    ------
    InputError
        Where there is no such student, with the runs that have one; and for a run that has trained
        several, with their names.
    """
    runs, damaged = read_records(workspace)
    if value == records.LATEST:
        for record in runs:
            outputs = outputs_of(workspace, record, (kind,), cluster)
            if outputs:
                return only(record, (kind,), outputs, f"{origin} latest")
        raise InputError(
            f"no run in {workspace} has trained a student", where=f"{origin} latest",
            allowed=f"(skipped: {damaged[0].where}: {damaged[0].message})" if damaged else None,
            hint=f"train one with {command_line('submit', 'upstream')}, or name a weight file: "
                 + named(f"{origin} FILE"))
    value = newest(value, workspace, (kind, *NETWORK_OF_RUN.kinds), runs, cluster, origin)
    from l3hpc.teachers.find import absolute, has_random_weights

    if has_random_weights(value):
        raise InputError("random weights cannot be a student", where=f"{origin} {value}",
                         allowed="a run, a weight file, a HEAR module (hear:package.module) or "
                                 "'latest'",
                         hint="Evaluate a random teacher: "
                         f"{option('teacher')} {option('weights', value)}"
                         if origin == "--student" else None)
    network = absolute(value)
    if names_a_run(value, runs) or network is None:
        if has_only_others(value, runs, kind, NETWORK_OF_RUN.kinds):
            return ExternalInput(Path(run_file(workspace, NETWORK_OF_RUN, value, origin)), "",
                                 is_file=True)
        return run_output(workspace, value, (kind,), runs, cluster, origin)
    found = file_in_folder(Path(network), NETWORK_OF_RUN) if Path(network).is_dir() else None
    return ExternalInput(found or Path(network), "", is_file=True)


def named_network(workspace: Path, name: str, origin: str) -> Path | None:
    """The network that a finished run has made; None where this is the name of no run.

    Parameters
    ----------
    workspace, origin
        As for ``student_input``.
    name
        A run, ``RUN/STEP``, ``RUN/STEP/TASK``, ``latest`` (of the runs that have trained a
        student) or ``latest/STEP``.

    Raises
    ------
    InputError
        As for ``run_outputs.run_file``.
    """
    if name == records.LATEST:
        kind = next(kind for kind in steps.names() if steps.step(kind).output is Output.STUDENT)
        return student_input(workspace, kind, name, None, origin).path
    found = run_file(workspace, NETWORK_OF_RUN, name, origin)
    return None if found == name else Path(found)


def with_named_teacher(config: Config, value: str) -> Config:
    """The configuration with the network that a run has made as the teacher.

    Parameters
    ----------
    config
        The configuration, with ``value`` as a path.
    value
        Of ``--weights``: as for ``named_network``, or any other name of a teacher.

    Raises
    ------
    InputError
        As for ``run_outputs.run_file``.
    """
    found = run_file(config.workspace, NETWORK_OF_RUN, value, "--weights")
    if found == value:
        return config
    return replace(config, paths=replace(config.paths, weights=found))


def teacher_input(weights: str | None) -> ExternalInput:
    """The teacher of the configuration, which ``--teacher`` evaluates in place of a student.

    Parameters
    ----------
    weights
        ``paths.weights`` of the configuration.

    Raises
    ------
    InputError
        Where it is not set.
    """
    if weights is None:
        raise InputError("no teacher is named: paths.weights is not set", where="--teacher",
                         hint=f"use {option('weights', 'PATH')}, or set paths.weights in "
                              "cluster.yaml (or L3_MODEL_PATH)")
    return ExternalInput(Path(weights), "", is_file=True)


def named_input(workspace: Path, kind: str, value: str, origin: str, cluster: str
                ) -> ExternalInput:
    """An input named on the command line or in the configuration.

    Parameters
    ----------
    workspace, kind, cluster
        As for ``student_input``.
    value
        A run that made it, one of its steps (``RUN/STEP``), ``latest``, ``latest/STEP``, or a
        folder.
    origin
        The option or line that names it, for messages.

    Raises
    ------
    InputError
        Where there is neither, for an empty folder, and for a run that has several.
    """
    runs, _ = read_records(workspace)
    path = Path(value)
    if not path.is_dir():
        path = Path(value := newest(value, workspace, (kind,), runs, cluster, origin))
    is_step = not path.is_dir() and any(value.startswith(f"{record.run}/") for record in runs)
    if names_a_run(value, runs) or is_step or not path.is_dir() and begins_a_run(value, runs):
        return run_output(workspace, value, (kind,), runs, cluster, origin)
    if not path.is_dir():
        raise InputError(f"{value!r} is neither a folder nor a run", where=origin)
    path = path.resolve()
    if Workspace(workspace).is_artifact(path):
        config = read_config(path, workspace)
        return ExternalInput(path, path.name, config.get("shards", []),
                             params=config.get("params"))
    return ExternalInput(path, fingerprint_of_folder(path))


def embedding_dim(source: ExternalInput, key: str | None = None) -> int | None:
    """Length of an embedding in a folder of existing embeddings.

    Parameters
    ----------
    source
        The folder.
    key
        HDF5 dataset, where the files contain several (None: the only one).

    Returns
    -------
    int or None
        None while jobs are still writing them.

    Raises
    ------
    InputError
        For a folder without embeddings.
    """
    if source.waits_for or (source.shards
                            and len(artifacts.finished(source.path)) < len(source.shards)):
        return None
    from l3hpc.datasets.embeddings import open_source

    return open_source(source.path, key=key).dim
