"""One task of one step inside a job, from a frozen config to a finished folder.

``run_task`` repeats exactly what ``config.json`` says. In a job, submitit calls it through
``TaskCall`` (a tiny picklable object: a path and an index), whose ``checkpoint`` decides at the
time limit or on preemption whether the task is requeued.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pydantic

import l3hpc.steps
from l3hpc.arrays.threads import limit_pools
from l3hpc.console import terminal
from l3hpc.console.progress import LogProgress, Progress, StateProgress, reporting
from l3hpc.errors import InputError, L3hpcError, setting
from l3hpc.io.files import RESULT, digest_file, read_json, write_json
from l3hpc.io.folders import atomic_folder
from l3hpc.io.owners import read_own_file
from l3hpc.ledger.journal.records import Journal
from l3hpc.models.tensorflow_log import quiet_first_import
from l3hpc.schedulers import packing, requeue_policy
from l3hpc.schedulers.local import requeue as local_requeue
from l3hpc.steps import AnyStep, Params
from l3hpc.steps.task import PREEMPTION, NoRecorder, Recorder, Task, refuse_exit
from l3hpc.worker import node_scratch, process, requeue
from l3hpc.workspace import artifacts, markers
from l3hpc.workspace.layout import ArtifactFolder, StepFolder
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.step_config import read_config

WAIT_S = 2.0
TEMPORARY = ".tmp"  # in the scratch folder of a task
# exit codes of a task that is requeued: submitit's, and the two of this package's scripts
_REQUEUE_CODES = (-1, 85, 255)


def _end_if_cancelled(config_path: Path) -> None:
    """End an attempt that Slurm has requeued although its run was cancelled a moment before."""
    if (os.environ.get("SLURM_RESTART_COUNT") or "0") != "0" \
            and requeue.is_cancelled(config_path.parent):
        print("the run was cancelled: this attempt computes nothing", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)


class TaskCall:
    """What submitit pickles for one task. Its name and fields are in the pickles of queued jobs.

    Parameters
    ----------
    config_path
        The frozen config.
    index
        Index of the task.
    """

    def __init__(self, config_path: str, index: int) -> None:
        self.config_path, self.index = config_path, index

    def __call__(self) -> dict[str, Any]:
        """Run the task.

        An error of this package ends the job with its message and its exit code; anything else
        keeps its traceback in the log.
        """
        terminal.install_safe_output(lossy=("stdout", "stderr"))
        # submitit ignores TERM. On Slurm a KILL follows it, so there is time for a checkpoint only.
        on_term = _stop if os.environ.get("L3HPC_LOCAL") else _save_checkpoint
        signal.signal(signal.SIGTERM, on_term)
        try:
            # the config decides which folders are written and removed, so it has to be ours
            read_own_file(Path(self.config_path))
            _end_if_cancelled(Path(self.config_path))
            return run_task(Path(self.config_path), self.index)
        except L3hpcError as error:
            for number, line in enumerate(error.lines()):
                print(("error: " if number == 0 else "       ") + line, file=sys.stderr)
            sys.stderr.flush()
            raise SystemExit(error.exit_code) from None

    def checkpoint(self) -> Any:
        """Save a checkpoint, and decide what submitit does at the time limit or on preemption.

        The script requeues the job, or on ``local`` the runner: here may be a container without
        Slurm's commands. It is called by a signal, perhaps within an import: what it needs is
        imported before.

        Returns
        -------
        DelayedSubmission or None
            What submitit is to requeue (only for scripts of early versions).

        Raises
        ------
        SystemExit
            With the exit code by which the script or the runner requeues the job.
        """
        _save_checkpoint()
        folder = Path(self.config_path).parent
        if os.environ.get("L3HPC_LOCAL"):
            packed = packing.of_this_process()
            decision = local_requeue.policy_decision(folder, self.index, requeue_policy.TIME,
                                                     packed.tasks if packed is not None else ())
            local_requeue.note_requeue(folder, self.index, requeue_policy.TIME, decision)
            raise SystemExit(local_requeue.REQUEUE)
        if os.environ.get("L3HPC_REQUEUES"):
            raise SystemExit(requeue.REQUEUE)
        # a script of an early version, without a requeue policy: submitit requeues
        if not StepFolder(folder).requeue_policy.exists():
            from submitit.core.utils import DelayedSubmission

            config = Path(self.config_path)
            markers.add_requeue(markers_folder(config, read_json(config)), self.index,
                                requeue_policy.TIME, time.time())
            return DelayedSubmission(self)
        # a script of an earlier version, which does not requeue by itself
        again = requeue.after_end(folder, self.index, requeue.REQUEUE, "")
        if requeue.requeue_now(folder, self.index, again):
            time.sleep(120)  # until Slurm ends this process
        return None  # submitit ends the task with an error


def _save_checkpoint(signum: int = 0, frame: FrameType | None = None) -> None:
    """Write a checkpoint now, if the step has one to write."""
    try:
        PREEMPTION.save()
    # Whatever it is (a full disk, an engine within a call), the checkpoint before this one stays,
    # and the job has to go back to the queue.
    except Exception as error:
        print("warning: could not write a checkpoint: "
              f"{error if isinstance(error, OSError) else repr(error)}", file=sys.stderr)


def _stop(signum: int, frame: FrameType | None) -> None:
    # the script forwards a signal that the whole process group has received
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def run_task(
    config_path: Path, index: int, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Run one task of a frozen step.

    A finished task returns at once. Two processes with the same task do not disturb each other: the
    second waits for the first, and takes over if the first one dies.

    Parameters
    ----------
    config_path
        A ``config.json``, in the folder of a step in a run or in an artifact.
    index
        Index of the task, from 0.
    progress
        Receives the progress; None: the log.

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    InputError
        If the config cannot be used, or has no such task. Every failure leaves an ``error.json``
        marker.
    """
    quiet_first_import()
    config = read_config(config_path)
    if l3hpc.steps.step(config["step"]).executes_config:
        config = read_config(config_path, own=True)
    artifact = Path(config["artifact"])
    if not 0 <= index < len(config["shards"]):
        raise InputError(f"step {config['name']!r} has no task {index}", where=str(config_path),
                         allowed=f"0 to {len(config['shards']) - 1}")
    marks = markers_folder(config_path, config)
    marks.mkdir(parents=True, exist_ok=True)
    shown = StateProgress(markers.path(marks, index, "progress.json"), progress or LogProgress())
    # otherwise status would show the error of the previous attempt
    markers.path(marks, index, "error.json").unlink(missing_ok=True)
    try:
        with _task_lease(artifact, index, config["run"], shown) as is_done:
            if is_done:
                shown.note(f"task {index} of {config['name']} is already done")
                return _result(artifact, index)
            return _compute(config, index, artifact, shown)
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in _REQUEUE_CODES):
            with contextlib.suppress(OSError):  # a full disk must not hide the error itself
                write_json(markers.path(marks, index, "error.json"), process.error_details(error))
        raise


def validated(step: AnyStep, params: Mapping[str, Any], where: str) -> Params:
    """Check the parameters of a step.

    Parameters
    ----------
    step
        The step.
    params
        Its parameters as JSON values.
    where
        Where they come from, for messages.

    Raises
    ------
    InputError
        For the first parameter that is not allowed.
    """
    try:
        typed: Params = step.parse(params)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        valid = ", ".join(step.params_type.model_fields)
        raise InputError(f"{setting(f'{step.name}.{name}')}: {first['msg']}", where=where,
                         allowed=f"parameters: {valid}") from None
    return typed


def run_step(
    step: AnyStep, params: Mapping[str, Any], inputs: Mapping[str, Path], output: Path, *,
    index: int = 0, tasks: int = 1, shard: Mapping[str, Any] | None = None, scratch: Path,
    node_scratch: Path | None = None, temporary: Path | None = None,
    labels: Mapping[str, Any] | None = None, progress: Progress, recorder: Recorder,
    where: str = "", partial: Collection[str] = (), run: str = "",
) -> dict[str, Any]:
    """Check inputs and parameters, run one task, and write its ``result.json``.

    Parameters
    ----------
    step
        The step.
    params
        Its parameters as JSON values.
    inputs
        Input → its folder.
    output
        Receives the files.
    index
        Index of the task.
    tasks
        Number of tasks of the step.
    shard
        What the task works on.
    scratch
        Keeps what has to survive a killed attempt; it is created.
    node_scratch
        Folder on the disk of the node, for files that can be made again; None: there is none.
    temporary
        Where commands make temporary files; None: the ``TMPDIR`` of the job, or a folder in
        ``scratch``.
    labels
        What only the ledger needs.
    progress, recorder
        Receive progress and results.
    where
        Where the parameters come from, for messages.
    partial
        Inputs that need not be complete.
    run
        Name of the run; empty for a step outside of a run.

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    InputError
        For an input that is not complete, or a parameter that is not allowed.
    """
    # whatever a step does first (opening inputs, starting TensorFlow) may take long
    progress.start("loading")
    for name, folder in inputs.items():
        if name not in partial:
            artifacts.check_input(name, folder)
    typed = validated(step, params, where)
    scratch.mkdir(parents=True, exist_ok=True)
    if temporary is None and not os.environ.get("TMPDIR"):
        temporary = scratch / TEMPORARY
    task = Task(output=output, scratch=scratch, inputs=dict(inputs), index=index,
                tasks=tasks, shard=shard or {}, labels=labels or {}, progress=progress,
                recorder=recorder, node_scratch=node_scratch, temporary=temporary)
    # before the step imports its libraries, which read the limits when they are loaded
    limit_pools(task.threads)
    begun, clock, cpu = time.time(), time.monotonic(), process.cpu_seconds()
    left_out = [name for name in partial if not artifacts.is_complete(inputs[name])]
    # a step may call code of its user (a HEAR module), which may exit
    with reporting(progress), refuse_exit(where or step.name):
        summary = step.run(typed, task)
    progress.finish()
    files = {str(path.relative_to(output)): path for path in sorted(output.rglob("*"))
             if path.is_file()}
    described = {name: {"bytes": path.stat().st_size, "blake2b": digest_file(path)}
                 for name, path in files.items()}
    elapsed = time.monotonic() - clock
    result = {
        "schema": 1, "step": step.name, "version": step.version, "index": index,
        "summary": summary,
        "files": described, "bytes": sum(path.stat().st_size for path in files.values()),
        # the clock may have been set meanwhile
        "started": round(begun, 3), "finished": round(begun + elapsed, 3),
        "elapsed_s": round(elapsed, 3),
        "cpu_s": round(process.cpu_seconds() - cpu, 3), "peak_memory_mb": process.peak_memory_mb(),
        "threads": task.threads, "seed": params.get("seed"), "environment": process.environment(),
        **({"run": run} if run else {}),
        **({"partial_inputs": left_out} if left_out else {}),
    }
    write_json(output / RESULT, result)
    return result


def markers_folder(config_path: Path, config: Mapping[str, Any]) -> Path:
    """Return the folder for the markers of a task: in the run, or in the artifact for a copy.

    Parameters
    ----------
    config_path, config
        The frozen config, and its content.
    """
    step = StepFolder.of_config(config_path)
    return step.markers if step else ArtifactFolder(config["artifact"]).markers


def _compute(config: dict[str, Any], index: int, artifact: Path, progress: Progress
             ) -> dict[str, Any]:
    step = l3hpc.steps.step(config["step"])
    frozen_version = config.get("version")
    if frozen_version not in (None, step.version):
        raise InputError(
            f"step {config['step']!r} is now version {step.version}, but its config was frozen for "
            f"version {frozen_version}",
            hint="Submit the pipeline again: the new version has an artifact of its own.")
    target = artifacts.task_folder(artifact, index)
    scratch = artifacts.own_scratch(artifact, index)
    # left by a killed attempt: nobody else writes there while we hold the lease
    for leftover in artifact.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    # without result.json: somebody removed that file to have the task computed again
    if target.is_dir():
        shutil.rmtree(target)
    inputs = {name: Path(path) for name, path in config["inputs"].items()}
    recorder = _journal(config)

    def compute(output: Path, on_node: Path | None = None) -> dict[str, Any]:
        temporary = on_node
        # TMPDIR of the job may be on the node's disk that cannot be used, or is full
        if temporary is None and node_scratch.is_set():
            temporary = scratch / TEMPORARY
        return run_step(
            step, config["params"], inputs, output, index=index, tasks=len(config["shards"]),
            shard=config["shards"][index], scratch=scratch, node_scratch=on_node,
            temporary=temporary, partial=config.get("partial_inputs", ()),
            labels=config["labels"], progress=progress,
            recorder=recorder, where=config["name"], run=config["run"])

    with atomic_folder(target, or_existing=True) as output:
        result = None
        with node_scratch.task_folder(f"{config['name']}-{index}", progress.note) as on_node:
            if on_node is not None:
                result = node_scratch.compute_on_node(compute, on_node, output, scratch, progress)
        if result is None:
            result = compute(output)
    # only now, with the result in place: a task killed before that continues from here
    shutil.rmtree(scratch, ignore_errors=True)
    artifacts.leave_summary(artifact, len(config["shards"]),
                            functools.partial(l3hpc.steps.summary_text, step))
    return result


@contextlib.contextmanager
def _task_lease(artifact: Path, index: int, run: str, progress: Progress) -> Iterator[bool]:
    """Hold the lease on a task; yields True if the task turns out to be done already."""
    artifact.mkdir(parents=True, exist_ok=True)
    if artifacts.is_done(artifact, index):
        yield True
        return
    lease = Lease(artifacts.scratch_folder(artifact, index), label=run)
    announced = False
    while not lease.acquire():
        holder = lease.holder() or {}
        if not announced and holder:
            progress.note(f"task {index} is being computed by {holder.get('label')} on "
                          f"{holder.get('host')}: waiting for it")
            announced = True
        time.sleep(WAIT_S if announced else 0.05)
        if artifacts.is_done(artifact, index):
            yield True
            return
    try:
        # asked again: the last holder may have finished it just before
        yield artifacts.is_done(artifact, index)
    finally:
        lease.release(forget=artifacts.is_done(artifact, index))


def _result(artifact: Path, index: int) -> dict[str, Any]:
    value = read_json(ArtifactFolder(artifact).result(index))
    assert isinstance(value, dict)
    return value


def _journal(config: Mapping[str, Any]) -> Recorder:
    """The ledger's journal of the workspace that the artifact belongs to."""
    workspace = ArtifactFolder(config["artifact"]).workspace
    if workspace is None:
        return NoRecorder()
    return Journal(workspace.journal, labels=config["labels"], run=config["run"])
