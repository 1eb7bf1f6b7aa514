"""What the partitions of a cluster give, as ``sinfo`` tells it, against what steps ask for.

sbatch takes many jobs that can never run: more time than the partition's MaxTime (unless the site
sets EnforcePartLimits), more cores than a node has. They would wait for ever.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.config.units import format_memory, format_time
from l3hpc.console.formatting import parse_slurm_time
from l3hpc.errors import ClusterError, InputError
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers.slurm.commands import call, on_cluster

SINFO_S = 20.0
COMMAND = ("sinfo", "--noheader", "--all", "-o", "%P|%a|%l|%m|%c|%G|%D")


@dataclass
class Partition:
    """What ``sinfo`` says of one partition.

    Attributes
    ----------
    time_min : int or None
        The longest time limit in minutes; None: unlimited.
    mem_mb, cpus : int
        Of its largest node.
    gpus : dict of str to int
        GPUs of a type ('' for those without one) on the node that has most of them.
    default : bool
        Whether jobs go there that name no partition.
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
    """What a step can ask too much of."""

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
    asked, has : str
        The request (``asks for 2 d``), and what there is, for a message.
    hint : str
        What to do about it.
    """

    what: Amount
    asked: str
    has: str
    hint: str


def read(text: str) -> dict[str, Partition]:
    """The answer of ``COMMAND`` by partition; the lines of one partition are merged. One that has
    amounts without a number is left out."""
    found: dict[str, Partition] = {}
    unclear = set()
    for entry in text.splitlines():
        parts = entry.strip().split("|")
        if len(parts) != 7:
            continue
        name = parts[0].rstrip("*")
        limit = parse_slurm_time(parts[2])  # None for "infinite"
        amounts = [parts[index].rstrip("+") for index in (3, 4, 6)]
        if not all(re.fullmatch(r"\d{1,15}", amount) for amount in amounts):
            unclear.add(name)
            continue
        memory, cpus, nodes = map(int, amounts)
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
    """``gpu:a100:2(S:0-1),shard:8`` → a100: 2."""
    counts: dict[str, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = entry.split(":")
        if name == "gpu" and rest and rest[-1].isdigit():
            kind = rest[0] if len(rest) > 1 else ""
            counts[kind] = counts.get(kind, 0) + int(rest[-1])
    return counts


def excesses(found: Partition, step: str, kind: str, profile: ClusterProfile,
             wanted: Resources) -> list[Excess]:
    """What a task of ``step`` asks for and no node of this partition can give (0: not asked)."""
    over, place = [], f"partition {found.name}"
    if found.time_min is not None and wanted.time_min > found.time_min:
        over.append(Excess(Amount.TIME, f"asks for {format_time(wanted.time_min)}",
                           f"{place} allows {format_time(found.time_min)}",
                           f"--set {step}.time={found.time_min}m, or name a partition that allows "
                           "more in cluster.yaml (sinfo lists them)"))
    if wanted.mem_mb > found.mem_mb and profile.memory_request != "none":
        over.append(Excess(Amount.MEMORY, f"asks for {format_memory(wanted.mem_mb)} of memory",
                           f"the largest node of {place} has {format_memory(found.mem_mb)}",
                           f"--set {step}.mem={found.mem_mb}MB, or name another partition"))
    if wanted.cpus > found.cpus:
        over.append(Excess(Amount.CORES, f"asks for {wanted.cpus} cores",
                           f"the largest node of {place} has {found.cpus}",
                           f"--set {step}.cpus={found.cpus}, or name another partition"))
    if wanted.gpus and profile.gpu_request != "none":
        over += _gpu_excess(found, step, profile.at(kind).gpu_type or profile.gpu_type,
                            wanted.gpus)
    return over


def _gpu_excess(found: Partition, step: str, kind: str | None, count: int) -> list[Excess]:
    place = f"partition {found.name}"
    if not found.gpus:
        return [Excess(Amount.GPUS, "asks for a GPU", f"{place} has none",
                       f"--set {step}.gpus=0, or name another partition")]
    if kind and kind not in found.gpus:
        types = ", ".join(found.gpu_types)
        return [Excess(Amount.GPUS, f"asks for a GPU of type {kind}",
                       f"{place} has {types}" if types else f"{place} has GPUs without a type",
                       "Set gpu_type: of the profile in cluster.yaml to one of these." if types
                       else "Remove gpu_type: from the profile in cluster.yaml.")]
    most = found.gpus[kind] if kind else sum(found.gpus.values())
    if count > most:
        return [Excess(Amount.GPUS, f"asks for {count} GPUs" + (f" of type {kind}" if kind else ""),
                       f"no node of {place} has more than {most}",
                       f"--set {step}.gpus={most}, or name another partition")]
    return []


class Check:
    """Asks ``sinfo`` while the caller goes on; ``refuse`` then judges a plan."""

    def __init__(self, profile: ClusterProfile) -> None:
        self._profile = profile
        pool = ThreadPoolExecutor(1)
        self._answer: Future[str] = pool.submit(
            call, on_cluster(COMMAND, profile.slurm_clusters), timeout_s=SINFO_S)
        pool.shutdown(wait=False)

    def refuse(self, plan: Plan) -> str:
        """Raise ``InputError`` for a step that no partition of its own can run.

        Returns
        -------
        str
            Why nothing could be checked; '' where it was.
        """
        try:
            partitions = read(self._answer.result())
        except ClusterError as error:
            return f"the limits of the partitions were not checked: {error.message}"
        if not partitions:
            return "the limits of the partitions were not checked: sinfo lists none"
        for step in plan.steps:
            if step.missing:
                _refuse(step, self._profile, partitions)
        return ""


def _refuse(step: PlannedStep, profile: ClusterProfile,
            partitions: Mapping[str, Partition]) -> None:
    """Of several partitions Slurm takes one that fits, so a step is refused where none does. Of
    partitions that sinfo does not show, sbatch decides."""
    over = profile.at(step.kind)
    named = [name for name in (over.partition or profile.partition or "").split(",") if name]
    mine = [partitions[name] for name in named if name in partitions] if named else \
        [one for one in partitions.values() if one.default]
    if not mine or len(mine) < len(named):
        return
    found = [excesses(one, step.name, step.kind, profile, step.resources) for one in mine]
    if any(one.what is Amount.TIME for each in found for one in each) \
            and _time_is_free(over.qos or profile.qos):
        found = [[one for one in each if one.what is not Amount.TIME] for each in found]
    if all(found):
        first = found[0][0]
        raise InputError(f"{step.name} {first.asked}; {first.has}", hint=first.hint)


def _time_is_free(qos: str | None) -> bool:
    """Whether the QOS lifts the partition's time limit, or nobody can say that it does not. Without
    one in the profile Slurm takes the person's or the partition's, which may be any."""
    try:
        flags = call(["sacctmgr", "--noheader", "--parsable2", "show", "qos",
                      *([qos] if qos else ()), "format=flags"], timeout_s=SINFO_S)
    except ClusterError:
        return bool(qos)
    return "PartitionTimeLimit" in flags
