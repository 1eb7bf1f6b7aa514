"""From what a site has to a profile: where each kind of step runs, and how it asks.

No step is known by name here: what the pipelines ask for is compared with what the partitions have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from l3hpc.config import sources
from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError, nearest
from l3hpc.pipelines import definition
from l3hpc.schedulers.slurm.partitions import Amount, Partition, excesses
from l3hpc.schedulers.slurm.site import Site

Refusal = Callable[[tuple[str, ...]], str]  # options of sbatch → why it refuses them, or ''
MEMORY = {"mem": ("--mem=50M",), "mem-per-cpu": ("--mem-per-cpu=50M",), "none": ()}


@dataclass(frozen=True)
class Choice:
    """A profile for a site.

    Attributes
    ----------
    name : str
        The profile's name.
    account, partition, gpu_type : str
        '' where the profile names none.
    gpu_request, memory_request : str
        Values of the profile keys of these names.
    limits : dict
        ``time``, ``mem``, ``array``, as in the file.
    steps : dict
        Kind of step → settings that differ from the pipelines'.
    reasons : dict
        Kind of step → why, for a comment.
    notes : list of str
        What a person should look at.
    """

    name: str
    account: str = ""
    partition: str = ""
    gpu_request: str = "none"
    gpu_type: str = ""
    memory_request: str = "mem"
    limits: dict[str, str | int] = field(default_factory=dict)
    steps: dict[str, dict[str, str | int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def profile(self) -> ClusterProfile:
        """As ``l3hpc`` reads it from the file."""
        given = {key: value for key in ("account", "partition", "gpu_type")
                 if (value := getattr(self, key))}
        return ClusterProfile.model_validate({
            "name": self.name, **given, "gpu_request": self.gpu_request,
            "memory_request": self.memory_request, "limits": self.limits, "steps": self.steps})


def demands() -> dict[str, Resources]:
    """Kind of step → the most that any pipeline asks for one of its tasks."""
    most: dict[str, Resources] = {}
    for path in sources.pipelines().values():
        for step in definition.load_pipeline_file(path).steps.values():
            one = step.resources.over(Resources())
            other = most.get(step.kind, one)
            most[step.kind] = Resources(
                max(one.cpus, other.cpus), max(one.mem_mb, other.mem_mb),
                max(one.gpus, other.gpus), max(one.time_min, other.time_min))
    return most


def choose(site: Site, refusal: Refusal, *, name: str = "", partition: str = "",
           account: str = "") -> Choice:
    """A profile with which this site takes the delivered and own pipelines.

    Parameters
    ----------
    site : Site
        What Slurm said.
    refusal : callable
        Options of sbatch → why it refuses a job with them, '' where it takes it.
    name : str
        The profile's name. Default: that of the cluster.
    partition, account : str
        What the person wants. Default: the site's default partition, and the person's default
        account.

    Raises
    ------
    InputError
        There is no such partition or account.
    """
    if account and site.accounts and account not in site.accounts:
        raise InputError(f"you may not use account {account!r}",
                         allowed=nearest(account, site.accounts), where="--account")
    if partition and partition not in site.partitions:
        raise InputError(f"there is no partition {partition!r}",
                         allowed=nearest(partition, site.partitions), where="--partition")
    account = account or next(iter(site.accounts), "")
    base: tuple[str, ...] = (f"--account={account}",) if account else ()
    refusal = functools.cache(refusal)
    main, memory, notes = _main(site, refusal, base, partition)
    base += MEMORY[memory]
    gpu = _gpus(site, refusal, base, main)
    others = [one for one in site.partitions.values() if one.up and one is not main]
    places = {main.name: main}
    choice = Choice(
        name or _name(site.cluster), account, main.name, gpu.request, gpu.kind, memory,
        notes=[*site.notes, *notes, *gpu.notes])
    for kind, wanted in demands().items():
        if wanted.gpus and gpu.partitions:  # all of them take a job with a GPU
            place = _in_order(gpu.partitions, main, kind, wanted, choice)[0]
        else:
            place = next((one for one in _in_order((main, *others), main, kind, wanted, choice)
                          if one is main or not refusal((*base, f"--partition={one.name}"))), main)
        places[place.name] = place
        _settle(choice, kind, wanted, place, main)
    choice.limits.update(_limits(site, list(places.values()), memory))
    return choice


def _main(site: Site, refusal: Refusal, base: tuple[str, ...], wanted: str
          ) -> tuple[Partition, str, list[str]]:
    """The partition of most jobs, how memory is asked for there, and notes."""
    parts = [site.partitions[wanted]] if wanted else sorted(
        (one for one in site.partitions.values() if one.up),
        key=lambda one: (not one.default, -one.nodes, one.name)) or list(site.partitions.values())
    said = ""
    for one in parts:
        for memory, options in MEMORY.items():
            answer = refusal((*base, f"--partition={one.name}", *options))
            if not answer:
                return one, memory, []
            said = said or answer
    return parts[0], "mem", [f"sbatch refuses even a job of one minute in partition "
                             f"{parts[0].name}: {said}"]


@dataclass(frozen=True)
class _Gpus:
    partitions: tuple[Partition, ...] = ()
    request: str = "none"
    kind: str = ""
    notes: tuple[str, ...] = ()


def _gpus(site: Site, refusal: Refusal, base: tuple[str, ...], main: Partition) -> _Gpus:
    """Partitions with GPUs that take this person's jobs, and how a GPU is asked for there."""
    having = sorted((one for one in site.partitions.values() if one.gpus and one.up),
                    key=lambda one: (one is not main, -sum(one.gpus.values()) * one.nodes,
                                     one.name))
    said: tuple[str, ...] = ()
    for first in having:
        for kind in ("", *first.gpu_types):
            for request, option in (("gres", f"--gres=gpu:{kind}:1".replace("::", ":")),
                                    ("gpus-per-node", f"--gpus-per-node={kind}:1"
                                     .replace("=:", "="))):
                answer = refusal((*base, f"--partition={first.name}", option))
                if not answer:
                    # of the others only those with that type, where one has to be named
                    same = tuple(one for one in having if one is not first
                                 and (not kind or kind in one.gpus)
                                 and not refusal((*base, f"--partition={one.name}", option)))
                    return _Gpus((first, *same), request, kind)
                said = said or (f"there are GPUs in partition {first.name}, but sbatch refuses a "
                                f"job with one: {answer}",)
    return _Gpus(notes=said)


def _in_order(candidates: tuple[Partition, ...], main: Partition, kind: str, wanted: Resources,
              choice: Choice) -> list[Partition]:
    """Partitions for a kind of step, the best first: the main one, unless another has what that one
    lacks."""
    profile = choice.profile()
    return sorted(candidates, key=lambda one: (
        len(excesses(one, kind, kind, profile, wanted)), one is not main,
        bool(one.gpus) and not wanted.gpus, -one.nodes, one.name))


def _settle(choice: Choice, kind: str, wanted: Resources, place: Partition, main: Partition
            ) -> None:
    """What the profile says of a kind of step that does not fit as the pipelines have it."""
    own: dict[str, str | int] = {}
    reasons = []
    if place is not main:
        own["partition"] = place.name
        if not excesses(place, kind, kind, choice.profile(), wanted):
            over = excesses(main, kind, kind, choice.profile(), wanted)
            reasons += [f"{one.requested}; {one.available}" for one in over[:1]]
    capped: dict[Amount, tuple[str, str | int]] = {
        Amount.TIME: ("time", _time(place.time_min or 0)),
        Amount.MEMORY: ("mem", f"{place.mem_mb}MB"),
        Amount.CORES: ("cpus", place.cpus),
        Amount.GPUS: ("gpus", max(place.gpus.values(), default=0))}
    for one in excesses(place, kind, kind, choice.profile(), wanted):
        key, value = capped[one.what]
        own[key] = value
        reasons.append(f"{one.requested}; {one.available}")
    if own:
        choice.steps[kind] = own
        choice.reasons[kind] = "; ".join(reasons)


def _limits(site: Site, places: list[Partition], memory: str) -> dict[str, str | int]:
    """Of the partitions that are used; an array never fills the person's queue."""
    limits: dict[str, str | int] = {}
    times = [one.time_min for one in places]
    longest = max((time for time in times if time is not None), default=0)
    if longest and None not in times:
        limits["time"] = _time(longest)
    if memory != "none":  # elsewhere Slurm may not know what its nodes have: it then says 1 MB
        limits["mem"] = f"{max(one.mem_mb for one in places)}MB"
    array = [number for number in (site.max_array, site.max_submit and max(site.max_submit // 2, 1))
             if number]
    if array:
        limits["array"] = min(array)
    return limits


def _time(minutes: int) -> str:
    """As a person writes it in the file: ``7d``, ``36h``, ``90m``."""
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes and minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def _name(cluster: str) -> str:
    """The cluster's name as a profile's; ``local`` would be another kind of profile."""
    text = re.sub(r"[^\w.-]", "-", cluster).strip("-.")
    return text if text and text != "local" else "slurm"

