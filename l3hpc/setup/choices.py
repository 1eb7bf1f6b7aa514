"""Makes a profile of what a site has: where each kind of step runs, and what it requests.

No step is known by name here: the requests of the pipelines are compared with the partitions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from l3hpc.config import sources
from l3hpc.config.capabilities import LOCAL
from l3hpc.config.profile import ClusterProfile, word
from l3hpc.config.resources import Resources
from l3hpc.config.units import format_time
from l3hpc.errors import ClusterError, InputError, command_line, nearest
from l3hpc.pipelines import definition
from l3hpc.schedulers.slurm.partitions import Amount, Excess, Partition, excesses
from l3hpc.schedulers.slurm.site import Site

Refusal = Callable[[tuple[str, ...]], str]  # options of sbatch → why it refuses them, or ''
YEAR_MIN = 525_600  # no job requests more, so a longer limit need not be written
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


def packed_demands() -> dict[str, Resources]:
    """Kind of step → the longest request of a pipeline that packs several of its tasks into a job
    (``pack: 8``)."""
    longest: dict[str, Resources] = {}
    for path in sources.pipelines().values():
        for step in definition.load_pipeline_file(path).steps.values():
            one = step.resources.over(Resources())
            if one.pack > 1 and (step.kind not in longest
                                 or one.job_min > longest[step.kind].job_min):
                longest[step.kind] = one
    return longest


def choose(site: Site, refusal: Refusal, *, name: str | None = None,
           partition: str | None = None, account: str | None = None) -> Choice:
    """A profile with which this site takes the delivered and own pipelines.

    Parameters
    ----------
    site : Site
        What Slurm said.
    refusal : callable
        Options of sbatch → why it refuses a job with them, '' where it takes it.
    name : str or None
        The profile's name. Default: that of the cluster.
    partition, account : str or None
        What the person wants. Default: the site's default partition, and the person's default
        account.

    Raises
    ------
    InputError
        There is no such partition or account, or a profile cannot have such a name.
    ClusterError
        No partition has a name that a profile can hold.
    """
    _check_options(name=name, partition=partition, account=account)
    site = _usable(site)
    if account and site.accounts and account not in site.accounts:
        raise InputError(f"you may not use account {account!r}",
                         allowed=nearest(account, site.accounts), where="--account")
    if partition and partition not in site.partitions:
        raise InputError(f"there is no partition {partition!r}",
                         allowed=nearest(partition, site.partitions), where="--partition")
    account = account or next(iter(site.accounts), "")
    called, renamed = (name, []) if name else _name(site.cluster)
    base: tuple[str, ...] = (f"--account={account}",) if account else ()
    refusal = functools.cache(refusal)
    main, memory, notes = _main(site, refusal, base, partition)
    base += MEMORY[memory]
    gpu = _gpus(site, refusal, base, main)
    others = [one for one in site.partitions.values() if one.up and one is not main]
    places = {main.name: main}
    choice = Choice(
        called, account, main.name, gpu.request, gpu.kind, memory,
        notes=[*renamed, *site.notes, *notes, *gpu.notes])
    packed = packed_demands()
    for kind, wanted in demands().items():
        requests = (wanted, packed[kind]) if kind in packed else (wanted,)
        if wanted.gpus and gpu.partitions:  # all of them take a job with a GPU
            place = _in_order(gpu.partitions, main, kind, requests, choice)[0]
        else:
            place = next((one for one in _in_order((main, *others), main, kind, requests, choice)
                          if one is main or not refusal((*base, f"--partition={one.name}"))), main)
        places[place.name] = place
        _settle(choice, kind, requests, place, main)
    choice.limits.update(_limits(site, list(places.values()), memory))
    return choice


def _check_options(**given: str | None) -> None:
    """Refuse what the person gave and a profile cannot hold."""
    for option, value in given.items():
        if value is None:
            continue
        try:
            word(value)
        except InputError as error:
            raise InputError(error.message, where=f"--{option}", allowed=error.allowed) from None
    if given["name"] == LOCAL:
        raise InputError("'local' is the profile whose jobs run on this machine, without Slurm",
                         where="--name", allowed="any other name",
                         hint=command_line("init", "--local")
                         + " writes a profile for this machine")


def _usable(site: Site) -> Site:
    """The site without accounts and partitions whose names a profile cannot hold, and a note of
    each."""
    accounts = tuple(filter(_holds, site.accounts))
    partitions = {name: one for name, one in site.partitions.items() if _holds(name)}
    left_out = [*(f"account {name!r}" for name in site.accounts if name not in accounts),
                *(f"partition {name!r}" for name in site.partitions if name not in partitions)]
    if not partitions:
        raise ClusterError(f"a profile cannot hold the name of {' or '.join(left_out)}",
                           hint=command_line("init", "--local")
                           + " writes a profile for this machine")
    return replace(site, accounts=accounts, partitions=partitions, notes=(*site.notes, *(
        f"{one} is left out: a profile cannot hold the name" for one in left_out)))


def _holds(name: str) -> bool:
    try:
        word(name)
    except InputError:
        return False
    return True


def _main(site: Site, refusal: Refusal, base: tuple[str, ...], wanted: str | None
          ) -> tuple[Partition, str, list[str]]:
    """The partition of most jobs, how memory is requested there, and notes."""
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
    """Partitions with GPUs that accept jobs of this user, and how a GPU is requested there."""
    having = sorted((one for one in site.partitions.values() if one.gpus and one.up),
                    key=lambda one: (one is not main, -sum(one.gpus.values()) * one.nodes,
                                     one.name))
    said: tuple[str, ...] = ()
    for first in having:
        for kind in ("", *filter(_holds, first.gpu_types)):
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


def _in_order(candidates: tuple[Partition, ...], main: Partition, kind: str,
              requests: tuple[Resources, ...], choice: Choice) -> list[Partition]:
    """Partitions for a kind of step, the best first: the main one, unless another has what that one
    lacks."""
    return sorted(candidates, key=lambda one: (
        len(_excesses(one, kind, requests, choice)), one is not main,
        bool(one.gpus) and not requests[0].gpus, -one.nodes, one.name))


def _excesses(place: Partition, kind: str, requests: tuple[Resources, ...], choice: Choice
              ) -> list[Excess]:
    profile = choice.profile()
    return [one for each in requests for one in excesses(place, kind, kind, profile, each)]


def _settle(choice: Choice, kind: str, requests: tuple[Resources, ...], place: Partition,
            main: Partition) -> None:
    """What the profile says of a kind of step that does not fit as the pipelines have it."""
    wanted, *packed = requests
    own: dict[str, str | int] = {}
    reasons = []
    if place is not main:
        own["partition"] = place.name
        if not _excesses(place, kind, requests, choice):
            over = _excesses(main, kind, requests, choice)
            reasons += [f"{one.requested}; {one.available}" for one in over[:1]]
    capped: dict[Amount, tuple[str, str | int]] = {
        Amount.GPUS: ("gpus", max(place.gpus.values(), default=0))}
    nothing = []
    if place.time_min:
        capped[Amount.TIME] = ("time", _time(place.time_min))
    elif place.time_min == 0:
        nothing.append("a time limit under 1 min")
    if place.mem_mb:
        capped[Amount.MEMORY] = ("mem", f"{place.mem_mb}MB")
    elif choice.memory_request != "none":
        nothing.append("no memory")
    if place.cpus:
        capped[Amount.CORES] = ("cpus", place.cpus)
    else:
        nothing.append("no cores")
    if nothing:
        note = f"partition {place.name} has {' and '.join(nothing)}: no job can run there"
        choice.notes[:] = dict.fromkeys([*choice.notes, note])
    for one in excesses(place, kind, kind, choice.profile(), wanted):
        if one.what not in capped:
            continue
        key, value = capped[one.what]
        own[key] = value
        reasons.append(f"{one.requested}; {one.available}")
    # a note, no setting: pack in the profile would also pack the other pipelines' tasks
    for each in packed:
        if place.time_min and each.job_min > place.time_min:
            fits = max(place.time_min // each.time_min, 1)
            choice.notes.append(f"{kind} requests {each.time_text} in a pipeline of yours; "
                                f"partition {place.name} allows {format_time(place.time_min)}: "
                                f"write pack: {fits} there")
    if own:
        choice.steps[kind] = own
        choice.reasons[kind] = "; ".join(reasons)


def _limits(site: Site, places: list[Partition], memory: str) -> dict[str, str | int]:
    """Of the partitions that are used; an array never fills the person's queue."""
    limits: dict[str, str | int] = {}
    times = [one.time_min for one in places]
    longest = max((time for time in times if time is not None), default=0)
    if 0 < longest <= YEAR_MIN and None not in times:
        limits["time"] = _time(longest)
    most = max(one.mem_mb for one in places)
    if memory != "none" and most:  # with none, Slurm may say 1 MB: it does not know the nodes
        limits["mem"] = f"{most}MB"
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


def _name(cluster: str) -> tuple[str, list[str]]:
    """A profile's name after the cluster's, and a note where it is another."""
    text = re.sub(r"[^\w.-]", "-", cluster).strip("-.")
    # Slurm prints (null) for a setting without a value; a profile `local` would not use Slurm
    name = text if text and text != LOCAL and cluster != "(null)" else "slurm"
    return name, [] if name == cluster else [
        f"Slurm calls this cluster {cluster!r}, which cannot be the name of its profile: "
        f"it is called {name}"]
