"""The frozen settings of a step, ``config.json``: in the folder of its run, and in its artifact.

Those of all steps are also in ``settings.json`` of the run, together with their requeue policies.
It is written before the first job is submitted, and the folder of a step just before its own jobs;
so a submission that was killed, or lost files in a power failure, can be resumed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import create_file, json_bytes, open_regular, read_json, write_json
from l3hpc.io.values import check_mapping
from l3hpc.workspace.layout import ArtifactFolder, RunFolder, StepFolder, Workspace
from l3hpc.workspace.origin import BY_HAND
from l3hpc.workspace.run_record import StepRecord


class Frozen(TypedDict):
    """What ``config.json`` holds.

    Attributes
    ----------
    name, step : str
        Name in the pipeline, and which step it is.
    params : dict
        Parameters as JSON values.
    inputs : dict
        Input → its folder.
    artifact : str
        Folder of the artifact.
    shards : list of dict
        What each task works on.
    run : str
        Name of the run.
    labels : dict
        What only the ledger needs.
    fingerprint : str
        16 hex digits.
    partial_inputs : list of str
        Inputs that need not be complete.
    """

    name: str
    step: str
    params: dict[str, Any]
    inputs: dict[str, str]
    artifact: str
    shards: list[dict[str, Any]]
    run: NotRequired[str]
    labels: NotRequired[dict[str, Any]]
    fingerprint: NotRequired[str]
    partial_inputs: NotRequired[list[str]]


class _Reused(TypedDict):
    """The part of ``config.json`` that another submission of the step needs."""

    params: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str
    shards: list[dict[str, Any]]
    labels: NotRequired[dict[str, Any]]


class _Step(TypedDict):
    """What ``settings.json`` holds of one step."""

    config: dict[str, Any]
    policy: dict[str, Any]


def write_all(run: RunFolder, steps: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Write the settings and requeue policies of all steps of a new run into one file.

    Parameters
    ----------
    run
        The folder of the run.
    steps
        Step → its settings and its policy.
    """
    create_file(run.settings, json_bytes({
        name: _Step(config=config, policy=policy) for name, (config, policy) in steps.items()}))


def write_folder(folder: StepFolder, config: dict[str, Any], policy: dict[str, Any]) -> None:
    """Make the folder of a step of a new run, with its settings and its requeue policy.

    Parameters
    ----------
    folder
        The folder, which does not exist.
    config, policy
        The settings and the policy.
    """
    os.mkdir(folder)
    # the settings last: where they are, the policy is, too
    create_file(folder.requeue_policy, json_bytes(policy))
    create_file(folder.config, json_bytes(config))


def read(workspace: Path, run: str, entry: StepRecord, command: Sequence[str]) -> dict[str, Any]:
    """Read the frozen settings of one step of a run.

    Settings that are missing or damaged are restored from those of the run, or of the artifact.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    entry
        The step in its record.
    command
        The command line of the submission, for the message.

    Returns
    -------
    dict
        What ``config.json`` holds.

    Raises
    ------
    InputError
        If they cannot be restored either; says what to type.
    """
    folder = Workspace(workspace).run(run)
    path = folder.step(entry.name).config
    try:
        return _whole(path)
    except (OSError, InputError) as error:
        if isinstance(error, InputError):
            report_damage(InputError(error.message, where=error.where or str(path)))
        with contextlib.suppress(OSError, InputError):
            return _restored(folder, entry.name)
        with contextlib.suppress(OSError, InputError):
            artifact = ArtifactFolder(entry.artifact)
            kept = _whole(artifact.config)
            if kept["fingerprint"] == artifact.fingerprint:
                found = {**kept, "run": run, "name": entry.name}
                write_json(path, found)
                return found
    state = "empty or damaged" if path.exists() else "missing"
    raise InputError(f"the frozen settings of step {entry.name} are {state}", where=str(path),
                     hint="Submit the pipeline again; finished steps are reused: "
                          + shlex.join(["l3hpc", *command[1:]])) from None


def read_config(path: Path, *, own: bool = False) -> dict[str, Any]:
    """Read a frozen config.

    Parameters
    ----------
    path
        A ``config.json``.
    own
        Refuse one that another user wrote.

    Returns
    -------
    dict
        The fields of ``Frozen``; ``run`` and ``labels`` are always there.

    Raises
    ------
    InputError
        If it cannot be read, or is of another form.
    """
    try:
        config = read_json(path, own=own)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    try:
        check_mapping(Frozen, config, "config")
    except InputError as error:
        raise InputError(f"is not the frozen config of a step: {error.message}", where=str(path),
                         hint="Give the config.json in steps/<step> of a run, or of an artifact."
                         ) from None
    return {"run": BY_HAND, "labels": {}, **config}


def of_run(run: RunFolder, step: str) -> dict[str, Any]:
    """Read what ``config.json`` of a step holds from the settings of its run, which are there
    before the folder of the step is.

    Parameters
    ----------
    run
        The folder of the run.
    step
        Name of the step.

    Raises
    ------
    InputError, OSError
        The run has none, as those of earlier versions, or they are damaged.
    """
    config: dict[str, Any] = _kept(run, step)["config"]
    return config


def _kept(run: RunFolder, step: str) -> dict[str, Any]:
    settings = read_json(run.settings)
    return check_mapping(_Step, settings.get(step) if isinstance(settings, dict) else settings,
                         f"settings of {step}")


def _restored(run: RunFolder, step: str) -> dict[str, Any]:
    """Write the settings of a step into its folder, and its policy if that is not whole either."""
    kept = _kept(run, step)
    folder = run.step(step)
    try:
        read_json(folder.requeue_policy)  # perhaps of a later submission
    except (OSError, InputError):
        write_json(folder.requeue_policy, kept["policy"])
    write_json(folder.config, kept["config"])
    return _whole(folder.config)


def remove_damaged(artifact: Path) -> None:
    """Remove an artifact's config.json that a power failure emptied or truncated.

    The next run then leaves its own there.

    Parameters
    ----------
    artifact
        Folder of the artifact.
    """
    path = ArtifactFolder(artifact).config
    with contextlib.suppress(OSError), open_regular(path) as stream:
        begun = stream.read(1) == b"{"
        stream.seek(max(os.fstat(stream.fileno()).st_size - 2, 0))
        # only the ends: a config of a large corpus is long, and a truncated write loses its end
        if not begun or stream.read(2) != b"}\n":
            path.unlink()


def _whole(path: Path) -> dict[str, Any]:
    value = check_mapping(_Reused, read_json(path), "config")
    return {**value, "labels": value.get("labels", {}), "version": value.get("version")}
