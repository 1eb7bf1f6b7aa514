"""One task of one step at work, inside a job or by hand: from a frozen config to a finished folder.

``run_task`` repeats exactly what ``config.json`` says. Inside a job submitit calls it through
``TaskCall`` (a tiny picklable object: a path and a number), whose ``checkpoint`` lets submitit send
the task back to the queue at the time limit or on preemption.

A step run by hand: typed parameters and inputs from a person, files into a folder of choice.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
from typing_extensions import NotRequired, TypedDict

import l3hpc.steps
from l3hpc._version import __version__
from l3hpc.arrays.threads import limit_pools
from l3hpc.console import terminal
from l3hpc.console.progress import LogProgress, Progress, StateProgress, default_progress
from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.io.files import (
    RESULT,
    atomic_folder,
    digest_file,
    is_task_folder,
    read_json,
    read_own_file,
    write_json,
)
from l3hpc.io.values import check_mapping
from l3hpc.ledger.journal.records import Journal
from l3hpc.models.tensorflow_log import quiet_first_import
from l3hpc.steps import AnyStep, Params
from l3hpc.steps.base import PREEMPTION, NoRecorder, Recorder, Task
from l3hpc.workspace import artifacts, markers
from l3hpc.workspace.layout import ArtifactFolder, StepFolder
from l3hpc.workspace.lease import Lease

PACKAGES = ("numpy", "scipy", "h5py", "tensorflow", "tensorflow-cpu", "keras", "scikit-learn",
            "soundfile", "soxr", "umap-learn", "ncnn", "openvino")
WAIT_S = 2.0
TAIL_LINES = 12


class Frozen(TypedDict):
    """What ``config.json`` holds."""

    name: str
    step: str
    params: dict[str, Any]
    inputs: dict[str, str]
    artifact: str
    shards: list[dict[str, Any]]
    run: NotRequired[str]
    labels: NotRequired[dict[str, Any]]
    fingerprint: NotRequired[str]


class TaskCall:
    """What submitit pickles for one task: nothing but where its config is and which task it is."""

    def __init__(self, config_path: str, index: int) -> None:
        self.config_path, self.index = config_path, index

    def __call__(self) -> dict[str, Any]:
        """Run the task. An error that a person can act on ends the job with its short message and
        its exit code; anything else keeps its traceback in the log."""
        terminal.install_safe_output()
        if os.environ.get("L3HPC_LOCAL"):  # submitit ignores TERM, which Slurm backs with a KILL
            signal.signal(signal.SIGTERM, _stop)
        else:  # preemption or scancel: KILL follows after a while
            signal.signal(signal.SIGTERM, _keep)
        try:
            read_own_file(Path(self.config_path))  # it says which folders are written and removed
            return run_task(Path(self.config_path), self.index)
        except L3hpcError as error:
            for number, line in enumerate(str(error).splitlines()):
                print(("error: " if number == 0 else "       ") + line, file=sys.stderr)
            sys.stderr.flush()
            raise SystemExit(error.exit_code) from None

    def checkpoint(self) -> Any:
        """submitit asks before it sends the task back to the queue. The script does that, or on
        this machine the runner: here is perhaps a container without Slurm's commands."""
        _keep()
        folder = Path(self.config_path).parent
        if os.environ.get("L3HPC_LOCAL"):
            from l3hpc.schedulers.local import runner
            from l3hpc.schedulers.requeue_policy import TIME

            found = runner.policy_decision(folder, self.index, TIME)
            runner.note_requeue(folder, self.index, TIME, found)
            raise SystemExit(runner.REQUEUE)
        from l3hpc.schedulers import requeue_policy
        from l3hpc.worker import requeue

        if os.environ.get("L3HPC_REQUEUES"):
            raise SystemExit(requeue.REQUEUE)
        # a script without a requeue policy: submitit asks Slurm
        if not StepFolder(folder).requeue_policy.exists():
            from submitit.core.utils import DelayedSubmission

            config = Path(self.config_path)
            markers.add_requeue(markers_folder(config, read_json(config)), self.index,
                                requeue_policy.TIME, time.time())
            return DelayedSubmission(self)
        decision = requeue.after_end(folder, self.index, requeue.REQUEUE, "")
        if requeue.act(folder, self.index, decision):  # under a script of a version before
            time.sleep(120)  # Slurm ends this process and puts the job back
        return None  # submitit ends the task: its error says that it was not put back


def _keep(signum: int = 0, frame: Any = None) -> None:
    """Write a checkpoint of this moment, where the step has one to write."""
    try:
        PREEMPTION.save()
    except OSError as error:  # a full disk: the checkpoint before this one stays
        print(f"warning: no checkpoint could be written now: {error}", file=sys.stderr)


def _stop(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_IGN)  # the script forwards what the group got already
    raise SystemExit(128 + signum)


def run_task(
    config_path: Path, index: int, *, progress: Progress | None = None,
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Run task ``index`` of the step frozen in ``config_path`` and return its ``result.json``.

    A finished task returns at once. Two processes at the same task do not disturb each other: the
    second waits for the first, and takes over when the first one died.

    Parameters
    ----------
    config_path : Path
        A ``config.json``, in the step's folder of a run or in an artifact.
    index : int
        From 0.
    progress, recorder : optional
        Where progress and results go (default: the log, and the journal of the artifact's
        workspace).

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    InputError
        The config cannot be used, or has no such task. Every failure leaves an ``error.json``
        marker.
    """
    quiet_first_import()
    config = read_config(config_path)
    artifact = Path(config["artifact"])
    if not 0 <= index < len(config["shards"]):
        raise InputError(f"step {config['name']!r} has no task {index}", where=str(config_path),
                         allowed=f"0 to {len(config['shards']) - 1}")
    marks = markers_folder(config_path, config)
    marks.mkdir(parents=True, exist_ok=True)
    shown = StateProgress(markers.path(marks, index, "progress.json"), progress or LogProgress())
    markers.path(marks, index, "error.json").unlink(missing_ok=True)
    try:
        with _claimed(artifact, index, config["run"], shown) as already:
            if already:
                shown.note(f"task {index} of {config['name']} is done already")
                return _result(artifact, index)
            return _compute(config, index, artifact, shown, recorder or _journal(config))
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (-1, 85, 255)):  # a requeue
            with contextlib.suppress(OSError):  # a full disk must not hide the error itself
                write_json(markers.path(marks, index, "error.json"), _error_details(error))
        raise


def read_config(path: Path) -> dict[str, Any]:
    """The frozen config in ``path``; an ``InputError`` when it is none."""
    try:
        config = read_json(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    try:
        check_mapping(Frozen, config, "config")
    except InputError as error:
        raise InputError(f"not a frozen step config: {error.message}", where=str(path),
                         hint="Name a config.json in steps/<step> of a run, or of an artifact."
                         ) from None
    return {"run": "by hand", "labels": {}, **config}


def validated(step: AnyStep, params: Mapping[str, Any], where: str) -> Params:
    """The step's typed parameters; the first problem as an ``InputError``."""
    try:
        typed: Params = step.parse(params)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        valid = ", ".join(step.params_type.model_fields)
        raise InputError(f"{step.name}.{name}: {first['msg']}", where=where,
                         allowed=f"parameters: {valid}") from None
    return typed


def run_step(
    step: AnyStep, params: Mapping[str, Any], inputs: Mapping[str, Path], output: Path, *,
    index: int = 0, shard: Mapping[str, Any] | None = None, scratch: Path,
    labels: Mapping[str, Any] | None = None, progress: Progress, recorder: Recorder,
    where: str = "",
) -> dict[str, Any]:
    """Check inputs and parameters, run one task into ``output`` and write its ``result.json``."""
    for name, folder in inputs.items():
        artifacts.check_input(name, folder)
    typed = validated(step, params, where)
    scratch.mkdir(parents=True, exist_ok=True)
    task = Task(output=output, scratch=scratch, inputs=dict(inputs), index=index,
                shard=shard or {}, labels=labels or {}, progress=progress, recorder=recorder)
    limit_pools(task.threads)
    begun, clock, cpu = time.time(), time.monotonic(), _cpu_seconds()
    summary = step.run(typed, task)
    progress.finish()
    files = {str(path.relative_to(output)): path for path in sorted(output.rglob("*"))
             if path.is_file()}
    result = {
        "schema": 1, "step": step.name, "version": step.version, "index": index,
        "summary": summary,
        "files": {name: {"bytes": path.stat().st_size, "blake2b": digest_file(path)}
                  for name, path in files.items()},
        "bytes": sum(path.stat().st_size for path in files.values()),
        "started": round(begun, 3), "finished": round(time.time(), 3),
        "elapsed_s": round(time.monotonic() - clock, 3), "cpu_s": round(_cpu_seconds() - cpu, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": task.threads, "seed": params.get("seed"), "environment": environment(),
    }
    write_json(output / RESULT, result)
    return result


def environment() -> dict[str, Any]:
    """Where and with what a task ran: host, job, Python and package versions."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID"),
            "array_job": os.environ.get("SLURM_ARRAY_JOB_ID"),
            "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"), "l3hpc": __version__,
            "python": platform.python_version(), "packages": versions}


def markers_folder(config_path: Path, config: Mapping[str, Any]) -> Path:
    """The markers of the run that the config belongs to, or the artifact's own for a copy of it."""
    step = StepFolder.of_config(config_path)
    return step.markers if step else ArtifactFolder(config["artifact"]).markers


def _compute(
    config: dict[str, Any], index: int, artifact: Path, progress: Progress, recorder: Recorder
) -> dict[str, Any]:
    step = l3hpc.steps.step(config["step"])
    wanted = config.get("version")
    if wanted not in (None, step.version):
        raise InputError(
            f"step {config['step']!r} is now version {step.version}, the config was frozen for "
            f"version {wanted}", hint="Submit the pipeline again; the artifact gets a new name.")
    target = artifacts.task_folder(artifact, index)
    scratch = artifacts.own_scratch(artifact, index)
    for left in artifact.glob(f".{target.name}.*.tmp"):  # of a killed attempt: the claim is ours
        shutil.rmtree(left, ignore_errors=True)
    if target.is_dir():  # without result.json: someone removed it to have the task computed again
        shutil.rmtree(target)
    with atomic_folder(target) as output:
        result = run_step(
            step, config["params"], {name: Path(path) for name, path in config["inputs"].items()},
            output, index=index, shard=config["shards"][index], scratch=scratch,
            labels=config["labels"], progress=progress, recorder=recorder, where=config["name"])
    shutil.rmtree(scratch, ignore_errors=True)
    artifacts.leave_summary(artifact, len(config["shards"]),
                            functools.partial(l3hpc.steps.summary_text, step))
    return result


@contextlib.contextmanager
def _claimed(artifact: Path, index: int, run: str, progress: Progress) -> Iterator[bool]:
    """Hold the claim on a task; yields True when the task turned out to be done already."""
    artifact.mkdir(parents=True, exist_ok=True)
    if artifacts.is_done(artifact, index):
        yield True
        return
    owner = Lease(artifacts.scratch_folder(artifact, index), label=run)
    announced = False
    while not owner.acquire():
        holder = owner.holder() or {}
        if not announced and holder:
            progress.note(f"task {index} is being computed by {holder.get('label')} on "
                          f"{holder.get('host')}: waiting for it")
            announced = True
        time.sleep(WAIT_S if announced else 0.05)
        if artifacts.is_done(artifact, index):
            yield True
            return
    try:
        yield artifacts.is_done(artifact, index)
    finally:
        owner.release(forget=artifacts.is_done(artifact, index))


def _result(artifact: Path, index: int) -> dict[str, Any]:
    value = read_json(ArtifactFolder(artifact).result(index))
    assert isinstance(value, dict)
    return value


def _journal(config: Mapping[str, Any]) -> Recorder:
    """The ledger's journal in the workspace that the artifact belongs to."""
    workspace = ArtifactFolder(config["artifact"]).workspace
    if workspace is None:
        return NoRecorder()
    return Journal(workspace.journal, labels=config["labels"], run=config["run"])


def _error_details(error: BaseException) -> dict[str, Any]:
    """What ``error.json`` keeps of an error."""
    details: dict[str, Any] = {
        "type": type(error).__name__, "message": str(error), "where": None, "hint": None,
        "time": time.time(),
    }
    if isinstance(error, L3hpcError):
        details.update(message=error.message, where=error.where, hint=error.hint,
                       allowed=error.allowed, exit_code=error.exit_code, tail=[])
    else:
        lines = "".join(traceback.format_exception(error)).splitlines()
        details["tail"] = lines[-TAIL_LINES:]
    if isinstance(error, SystemExit | KeyboardInterrupt):
        details["message"] = f"stopped ({error!r})"
    return details


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who)
                     for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def run(
    step: str, settings: Mapping[str, str], inputs: Mapping[str, Path], output: Path, *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run one step into ``output`` (files and result.json, flat) and return its result.

    A step that would make several tasks is refused. An input may be an artifact, a folder of
    published files, or the output of another step run by hand. The folder appears whole or not at
    all.
    """
    known = l3hpc.steps.step(step)
    for name in inputs:
        if name not in known.inputs:
            raise InputError(f"{step} has no input {name!r}",
                             allowed=nearest(name, known.inputs) if known.inputs else
                             "it takes none")
    for name, need in known.inputs.items():
        if need.required and name not in inputs:
            raise InputError(f"{step} needs the output of {name}", hint=f"--input {name}=FOLDER")
    typed = validated(known, parameters(known, settings), f"--set of {step}")
    output = Path(output).absolute()
    if output.exists() and any(output.iterdir()):
        if not overwrite:
            raise InputError(f"{output} is not empty",
                             hint="Use another folder, or --overwrite.")
        if not is_task_folder(output):
            raise InputError(f"{output} is not the output of a step: it is not removed",
                             hint="Name another folder.")
    known.check(typed, {step: typed})
    shards = known.shards(typed, {name: _shards(folder) for name, folder in inputs.items()})
    if len(shards) != 1:
        raise InputError(f"{step} makes {len(shards)} tasks of this; by hand it runs one",
                         hint="Submit it as a pipeline with l3hpc submit, or give it less.")
    progress = default_progress()
    replaced = None
    if output.exists():
        replaced = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.replaced")
        output.rename(replaced)
    try:
        with atomic_folder(output) as folder, tempfile.TemporaryDirectory() as scratch:
            folders = {name: _as_artifact(path, Path(scratch) / "inputs" / name)
                       for name, path in inputs.items()}
            result = run_step(
                known, typed.model_dump(mode="json"),
                folders, folder, shard=shards[0], scratch=Path(scratch) / "scratch",
                progress=progress, recorder=NoRecorder(), where=step)
    except BaseException:
        if replaced is not None and not output.exists():
            replaced.rename(output)
        raise
    if replaced is not None:
        shutil.rmtree(replaced)
    return result


def parameters(step: AnyStep, settings: Mapping[str, str]) -> dict[str, Any]:
    """Texts as values, read as ``--set`` of a pipeline reads them."""
    values: dict[str, Any] = {}
    # Only `l3hpc run` reads parameters from text: a job starts without the planner.
    from l3hpc.pipelines.resolve import parse_value

    for name, text in settings.items():
        if name not in step.params_type.model_fields:
            raise InputError(f"{step.name} has no parameter {name!r}",
                             allowed=nearest(name, step.params_type.model_fields))
        values[name] = parse_value(step.params_type, name, text)
    return values


def _as_artifact(path: Path, stand_in: Path) -> Path:
    """``path``; or, where it is the flat output of a step run by hand, an artifact of that task."""
    path = Path(path).absolute()
    if not is_task_folder(path):
        return path
    stand_in.mkdir(parents=True)
    ArtifactFolder(stand_in).task(0).symlink_to(path)
    return stand_in


def _shards(folder: Path) -> list[dict[str, Any]]:
    """The frozen shards of an artifact used as input ([] for published files)."""
    path = ArtifactFolder(folder).config
    if not path.is_file():
        return []
    value = read_config(path)["shards"]
    assert isinstance(value, list)
    return value
