"""The requeue policy: how often a task may be requeued, and how much more it may then request.

``read`` finds the policy of a step, and ``decide`` applies it: what happened goes in, and a
decision comes out.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.config import capabilities
from l3hpc.config.units import format_memory, format_task_memory, format_time
from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import read_json
from l3hpc.io.values import check_mapping
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.states import StepState

if TYPE_CHECKING:
    from l3hpc.config.profile import ClusterProfile
    from l3hpc.pipelines.planned import PlannedStep

WARNING_S = capabilities.KNOWN[capabilities.SLURM].warning_s
SIGNAL_DELAY_S = WARNING_S - 60  # what is requested: Slurm may send a signal a minute early
HELPER_MB = 100
HELPER_KEYS = ("account", "partition", "qos", "constraint", "reservation", "wckey")
WARNED = 128 + signal.SIGUSR2  # exit code of a process ended by the warning before the limit
CAP = "the profile's cap"  # in the reason of a task that may not request more
MEMORY, TIME, NODE, PREEMPTED = "out of memory", "time limit", "node failure", "preempted"


class _File(TypedDict):
    memory: NotRequired[int]
    time: NotRequired[int]
    nodes: NotRequired[int]
    factor: NotRequired[float]
    mem_mb: NotRequired[int]
    time_min: NotRequired[float]
    mem_cap_mb: NotRequired[int | None]
    time_cap_min: NotRequired[int | None]
    continues: NotRequired[bool]
    helper: NotRequired[list[str]]
    helper_memory: NotRequired[list[str]]
    python: NotRequired[str]


@dataclass(frozen=True)
class Policy:
    """The content of ``heal.json`` in the folder of a step.

    Attributes
    ----------
    memory, time, nodes : int
        How often a task may be requeued because of memory, at its time limit, and because its node
        failed.
    factor : float
        How many times as much memory or time it requests after each requeue.
    mem_mb, time_min : int
        The first request of a job, MiB and minutes.
    mem_cap_mb, time_cap_min : int or None
        The limits of the site (None: unknown).
    continues : bool
        Whether the step resumes from its last checkpoint, so that its time limit stays the same
        (unless it is at most ``WARNING_S``).
    helper, helper_memory : tuple of str
        Options of sbatch for the helper job that changes a request; the latter are none on a site
        where jobs may not request memory.
    python : str
        The Python of the jobs.
    """

    memory: int = 3
    time: int = 3
    nodes: int = 2
    factor: float = 2.0
    mem_mb: int = 2048
    time_min: int = 60
    mem_cap_mb: int | None = None
    time_cap_min: int | None = None
    continues: bool = False
    helper: tuple[str, ...] = ()
    helper_memory: tuple[str, ...] = (f"--mem={HELPER_MB}M",)
    python: str = "python3"

    def to_json(self) -> dict[str, Any]:
        """Return the policy as JSON values."""
        return {"schema": 1, **vars(self), "helper": list(self.helper),
                "helper_memory": list(self.helper_memory)}


def of(profile: ClusterProfile, step: PlannedStep) -> Policy:
    """Return the policy of a planned step: the counts of the pipeline, and the limits of the
    profile.

    Parameters
    ----------
    profile
        The cluster profile.
    step
        The planned step.
    """
    overrides = profile.at(step.placement)
    helper = [f"--{name}={value}" for name in HELPER_KEYS
              if (value := getattr(overrides, name, None) or getattr(profile, name))]
    helper += profile.small_job_options(step.placement)
    return Policy(**step.requeue_limits.model_dump(), mem_mb=step.resources.mem_mb,
                  time_min=step.of_a_job.job_min, mem_cap_mb=_most_memory(profile),
                  time_cap_min=profile.limits.time, helper=tuple(helper), python=profile.python,
                  helper_memory={"mem": (f"--mem={HELPER_MB}M",), "none": (),
                                 "mem-per-cpu": (f"--mem-per-cpu={HELPER_MB}M",),
                                 }[profile.memory_request],
                  continues=step.continues)


def _most_memory(profile: ClusterProfile) -> int | None:
    limits = [profile.limits.mem] if profile.limits.mem else []
    if not profile.capabilities.remote:
        limits.append(profile.slot_mem_mb())
    return min(limits, default=None)


@dataclass(frozen=True)
class Decision:
    """What happens to a task.

    Attributes
    ----------
    again : bool
        Whether it is requeued.
    words : str
        The description that ``status`` shows.
    mem_mb, time_min : int or None
        What it then requests, MiB and minutes (None: as before).
    exclude : str or None
        A node to avoid.
    """

    again: bool
    words: str
    mem_mb: int | None = None
    time_min: int | None = None
    exclude: str | None = None


def read(folder: Path | StepFolder) -> Policy:
    """Read the policy of a step.

    A policy that is missing or damaged (by a power failure, say) is restored from the record of the
    run: the default counts, and the request of the step. Without a record nothing is requeued.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    """
    names = Policy.__dataclass_fields__
    step = StepFolder(folder)
    try:
        value = read_json(step.requeue_policy, own=True)  # it names a program that is run
        fields = check_mapping(_File, value, "policy")
        fields = {key: item for key, item in fields.items() if key in names}
        for key in ("helper", "helper_memory"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return Policy(**fields)
    except FileNotFoundError:
        return _from_record(step)
    except (OSError, InputError) as error:
        path = step.requeue_policy
        why = error.message if isinstance(error, InputError) else str(error.strerror)
        report_damage(InputError(why, where=getattr(error, "where", None) or str(path)))
        return _from_record(step)


def _from_record(folder: StepFolder) -> Policy:
    try:
        steps = read_json(folder.run.record)["steps"]
        [resources] = [step["resources"] for step in steps
                       if step["name"] == folder.name and step["state"] == StepState.SUBMITTED]
        return Policy(mem_mb=int(resources["mem_mb"]),
                      time_min=int(resources["time_min"]) * int(resources.get("pack", 1)))
    except (OSError, InputError, ValueError, TypeError, KeyError):
        return Policy(memory=0, time=0, nodes=0)


def granted_resources(policy: Policy, requeues: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return what a task requests now, after its requeues.

    Parameters
    ----------
    policy
        The policy of its step.
    requeues
        Its requeues, from the markers.

    Returns
    -------
    tuple of int
        MiB and minutes.
    """
    mem, time = policy.mem_mb, policy.time_min
    for entry in requeues:
        mem, time = entry.get("mem_mb") or mem, entry.get("time_min") or time
    return mem, time


def granted_to_job(policy: Policy, requeues: Iterable[Sequence[Mapping[str, Any]]]
                   ) -> tuple[int, int]:
    """Return what a job requests now, after the requeues of its tasks: the most that any got.

    Parameters
    ----------
    policy
        The policy of the step.
    requeues
        Of each of its tasks, from the markers.

    Returns
    -------
    tuple of int
        MiB and minutes.
    """
    granted = [granted_resources(policy, each) for each in requeues]
    return (max((mem for mem, _ in granted), default=policy.mem_mb),
            max((time for _, time in granted), default=policy.time_min))


def requeues_of(folder: Path | StepFolder, task: int, together: Collection[int] = ()
                ) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Return the requeues of a task, and those of each other task of its packed job.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    together
        Indices of all tasks of its packed job.
    """
    marks = markers.read(StepFolder(folder).markers, {task, *together})
    own = marks.pop(task, markers.TaskMarks())
    return own.requeues, [other.requeues for other in marks.values()]


def decide(policy: Policy, cause: str, requeues: Sequence[Mapping[str, Any]],
           node: str = "", others: Iterable[Sequence[Mapping[str, Any]]] = ()) -> Decision:
    """Decide what happens to a task.

    Parameters
    ----------
    policy
        The policy of its step.
    cause
        What happened: ``MEMORY``, ``TIME``, ``NODE`` or ``PREEMPTED``.
    requeues
        Its requeues so far, from the markers.
    node
        The node that failed, for ``NODE``.
    others
        The requeues of the other tasks of a packed job, which have changed its request too.
    """
    before = sum(entry.get("reason") == cause for entry in requeues)
    mem, time = granted_to_job(policy, [requeues, *others])
    # without a limit: preemption is the site's decision, and says nothing about the task
    if cause == PREEMPTED:
        return Decision(True, PREEMPTED)
    allowed = {MEMORY: policy.memory, TIME: policy.time, NODE: policy.nodes}[cause]
    if before >= allowed:
        return Decision(False, _give_up_reason(policy, cause, requeues, ""))
    if cause == MEMORY:
        return _escalate(policy, cause, requeues, mem, policy.mem_cap_mb)
    # within a very short limit even a step that continues is warned before it has done anything
    if cause == TIME and (not policy.continues or 60 * time <= WARNING_S):
        return _escalate(policy, cause, requeues, time, policy.time_cap_min)
    if cause == NODE:
        return Decision(True, NODE, exclude=node or None)
    return Decision(True, TIME)


def _escalate(policy: Policy, cause: str, requeues: Sequence[Mapping[str, Any]], now: int,
              cap: int | None) -> Decision:
    new = math.ceil(now * policy.factor)
    if not now:  # the task has all memory of its node
        return Decision(False, _give_up_reason(policy, cause, requeues, ""))
    if cap is not None:
        new = min(new, cap)
    # even without a longer limit it is worthwhile: every step continues with what is not done yet
    if new <= now and cause == TIME:
        return Decision(True, TIME)
    if new <= now:
        return Decision(False, _give_up_reason(policy, cause, requeues, f", {CAP}"))
    if cause == MEMORY:
        return Decision(True, f"{cause}: {format_memory(now)} → {format_memory(new)}", mem_mb=new)
    return Decision(True, f"{cause}: {format_time(now)} → {format_time(new)}", time_min=new)


def _give_up_reason(policy: Policy, cause: str, requeues: Sequence[Mapping[str, Any]],
                    why: str) -> str:
    """``out of memory (80 GB) after 2 requeues (20 GB → 40 GB → 80 GB, the profile's cap)``."""
    mem, time = granted_resources(policy, requeues)
    text = cause
    steps: list[str] = []
    if cause == MEMORY:
        text += f" ({format_task_memory(mem)})"
        steps = [format_task_memory(policy.mem_mb)] + [
            format_memory(entry["mem_mb"]) for entry in requeues if entry.get("mem_mb")]
    elif cause == TIME:
        text += f" ({format_time(time)})"
        steps = [format_time(policy.time_min)] + [
            format_time(entry["time_min"]) for entry in requeues if entry.get("time_min")]
    times = sum(entry.get("reason") == cause for entry in requeues)
    if times:
        counted = "1 requeue" if times == 1 else f"{times} requeues"
        trail = f" ({' → '.join(steps)}{why})" if len(steps) > 1 else ""
        return f"{text} after {counted}{trail}"
    return text + why
