"""The limits of the partitions, as ``sinfo`` reports them, against what steps request.

sbatch accepts many jobs that can never run: with more time than the partition's MaxTime (unless the
site sets EnforcePartLimits), or more cores than any node has. They would stay pending for ever.
"""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.config.units import format_memory, format_time, memory_setting
from l3hpc.console.formatting import parse_slurm_time
from l3hpc.errors import ClusterError, InputError
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers.slurm.commands import call, on_cluster

SINFO_S = 20.0
# --all, because a profile may name a partition that Slurm hides
SINFO = ("sinfo", "--noheader", "--all", "-o", "%P|%a|%l|%m|%c|%G|%D")


@dataclass
class Partition:
    """What ``sinfo`` reports about one partition.

    Attributes
    ----------
    name : str
        Its name.
    up : bool
        Whether it is up.
    time_min : int or None
        The longest time limit in minutes; None: unlimited.
    mem_mb, cpus : int
        Of its largest node.
    gres : str
        Its generic resources, in Slurm's notation.
    nodes : int
        Number of its nodes.
    gpus : dict of str to int
        Type of GPU ('' for those without one) → their number on the node that has most of them.
    default : bool
        Whether jobs that name no partition go there.
    """

    name: str
    up: bool = False
    time_min: int | None = None
    mem_mb: int = 0
    cpus: int = 0
    gres: str = ""
    nodes: int = 0
    gpus: dict[str, int] = field(default_factory=dict)
    default: bool = False

    @property
    def gpu_types(self) -> list[str]:
        """The named types of GPU."""
        return sorted(kind for kind in self.gpus if kind)

    @property
    def words(self) -> str:
        """``3 nodes, up to 1 d, 4 cores, 62.5 GB, gpu:2``."""
        limit = "no time limit" if self.time_min is None else f"up to {format_time(self.time_min)}"
        return (f"{self.nodes} node{'s' if self.nodes != 1 else ''}, {limit}, {self.cpus} cores, "
                f"{format_memory(self.mem_mb)}" + (f", {self.gres}" if self.gres else ""))


class Amount(enum.Enum):
    """What a step can request too much of."""

    TIME = enum.auto()
    MEMORY = enum.auto()
    CORES = enum.auto()
    GPUS = enum.auto()


@dataclass(frozen=True)
class Excess:
    """A request that a partition cannot fulfil.

    Attributes
    ----------
    what : Amount
        What there is too little of.
    requested, available : str
        The request (``requests 2 d``) and what there is, for a message.
    hint : str
        What to do about it.
    """

    what: Amount
    requested: str
    available: str
    hint: str


def parse_sinfo(text: str) -> dict[str, Partition]:
    """Parse the output of ``SINFO``.

    Parameters
    ----------
    text
        The output; the lines of one partition are merged.

    Returns
    -------
    dict of str to Partition
        By name, without partitions whose amounts are not numbers.
    """
    found: dict[str, Partition] = {}
    unclear = set()
    for entry in text.splitlines():
        parts = entry.strip().split("|")
        if len(parts) != 7:
            continue
        name = parts[0].rstrip("*")
        limit = parse_slurm_time(parts[2])  # None for "infinite"
        # a plus sign: nodes of the partition differ, and this is the smallest
        amounts = [parts[index].rstrip("+") for index in (3, 4, 6)]
        if not all(re.fullmatch(r"\d{1,15}", amount) for amount in amounts):
            unclear.add(name)
            continue
        memory, cpus, nodes = map(int, amounts)
        # a partition has a line for each kind of its nodes
        here = found.setdefault(name, Partition(
            name, time_min=None if limit is None else int(limit // 60)))
        here.up, here.default = here.up or parts[1] == "up", parts[0].endswith("*")
        here.mem_mb, here.cpus = max(here.mem_mb, memory), max(here.cpus, cpus)
        here.nodes += nodes
        if parts[5] not in ("(null)", "") and parts[5] not in here.gres:
            here.gres = f"{here.gres},{parts[5]}".strip(",")
        for kind, count in _gpus(parts[5]).items():
            here.gpus[kind] = max(here.gpus.get(kind, 0), count)
    return {name: one for name, one in found.items() if name not in unclear}


def _gpus(gres: str) -> dict[str, int]:
    """Parse ``gpu:a100:2(S:0-1),shard:8`` into a100: 2."""
    # in parentheses: the sockets or indices of the devices, which may contain commas
    counts: dict[str, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = entry.split(":")
        if name == "gpu" and rest and rest[-1].isdigit():
            kind = rest[0] if len(rest) > 1 else ""
            counts[kind] = counts.get(kind, 0) + int(rest[-1])
    return counts


def excesses(found: Partition, step: str, kind: str, profile: ClusterProfile,
             wanted: Resources) -> list[Excess]:
    """Find what a step requests and no node of a partition can provide.

    Parameters
    ----------
    found
        The partition.
    step, kind
        Name and kind of the step.
    profile
        The cluster profile.
    wanted
        What one task requests; 0 for what it does not request.
    """
    over, label = [], f"partition {found.name}"
    if found.time_min is not None and wanted.job_min > found.time_min:
        over.append(Excess(Amount.TIME, f"requests {wanted.time_text}",
                           f"{label} allows {format_time(found.time_min)}",
                           f"{wanted.within_time(step, found.time_min)}, or name a partition that "
                           "allows more in cluster.yaml (sinfo lists them)"))
    if wanted.mem_mb > found.mem_mb and profile.memory_request != "none":
        over.append(Excess(Amount.MEMORY, f"requests {format_memory(wanted.mem_mb)} of memory",
                           f"the largest node of {label} has {format_memory(found.mem_mb)}",
                           f"--set {step}.mem={memory_setting(found.mem_mb)}, or name another "
                           "partition"))
    if wanted.cpus > found.cpus:
        over.append(Excess(Amount.CORES, f"requests {wanted.cpus} cores",
                           f"the largest node of {label} has {found.cpus}",
                           f"--set {step}.cpus={found.cpus}, or name another partition"))
    # sinfo does not say of which GPUs the shards are: sbatch decides about them
    if wanted.gpus and profile.gpu_request_of(kind) not in ("none", "shard"):
        over += _gpu_excess(found, step, profile.at(kind).gpu_type or profile.gpu_type,
                            wanted.gpus)
    return over


def _gpu_excess(found: Partition, step: str, kind: str | None, count: int) -> list[Excess]:
    label = f"partition {found.name}"
    if not found.gpus:
        return [Excess(Amount.GPUS, "requests a GPU", f"{label} has none",
                       f"--set {step}.gpus=0, or name another partition")]
    if kind and kind not in found.gpus:
        types = ", ".join(found.gpu_types)
        return [Excess(Amount.GPUS, f"requests a GPU of type {kind}",
                       f"{label} has {types}" if types else f"{label} has GPUs without a type",
                       "Set gpu_type: in the profile (cluster.yaml) to one of these." if types
                       else "Remove gpu_type: from the profile (cluster.yaml).")]
    most = found.gpus[kind] if kind else sum(found.gpus.values())
    if count > most:
        return [Excess(Amount.GPUS, f"requests {count} GPUs" + (f" of type {kind}" if kind else ""),
                       f"no node of {label} has more than {most}",
                       f"--set {step}.gpus={most}, or name another partition")]
    return []


class LimitCheck:
    """Queries ``sinfo`` in the background; ``check`` then checks a plan.

    Parameters
    ----------
    profile
        The cluster profile.
    """

    def __init__(self, profile: ClusterProfile) -> None:
        self._profile = profile
        self._answer = Future[str]()
        # a daemon thread: a plan that is refused meanwhile does not wait for Slurm
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            self._answer.set_result(
                call(on_cluster(SINFO, self._profile.slurm_clusters), timeout_s=SINFO_S))
        except BaseException as error:  # raised by check
            self._answer.set_exception(error)

    def check(self, plan: Plan) -> str:
        """Check that every step of a plan has a partition that can run it.

        Parameters
        ----------
        plan
            The plan.

        Returns
        -------
        str
            Why nothing could be checked; '' if it was.

        Raises
        ------
        InputError
            For a step that none of its partitions can run.
        """
        try:
            partitions = parse_sinfo(self._answer.result())
        except ClusterError as error:
            return f"the limits of the partitions were not checked: {error.message}"
        if not partitions:
            return "the limits of the partitions were not checked: sinfo lists no partition"
        for step in plan.steps:
            if step.missing:
                _refuse(step, self._profile, partitions)
        return ""


def _refuse(step: PlannedStep, profile: ClusterProfile,
            partitions: Mapping[str, Partition]) -> None:
    """Of several partitions Slurm takes one that fits, so a step is refused only if none does. For
    partitions that sinfo does not list, sbatch decides.
    """
    over = profile.at(step.placement)
    named = [name for name in (over.partition or profile.partition or "").split(",") if name]
    mine = [partitions[name] for name in named if name in partitions] if named else \
        [one for one in partitions.values() if one.default]
    # sinfo does not show a hidden partition, or it was named wrongly: sbatch decides
    if not mine or len(mine) < len(named):
        return
    found = [excesses(one, step.name, step.placement, profile, step.of_a_job) for one in mine]
    if any(one.what is Amount.TIME for each in found for one in each) \
            and _ignores_time_limit(over.qos or profile.qos):
        found = [[one for one in each if one.what is not Amount.TIME] for each in found]
    if all(found):
        first = found[0][0]
        raise InputError(f"{step.name} {first.requested}; {first.available}", hint=first.hint)


def _ignores_time_limit(qos: str | None) -> bool:
    """Whether the QOS lifts the partition's time limit, or this cannot be ruled out: without one in
    the profile Slurm takes that of the user or of the partition.
    """
    try:
        flags = call(["sacctmgr", "--noheader", "--parsable2", "show", "qos",
                      *([qos] if qos else ()), "format=flags"], timeout_s=SINFO_S)
    except ClusterError:
        return bool(qos)
    return "PartitionTimeLimit" in flags
