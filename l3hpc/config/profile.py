"""A cluster profile: where and how jobs run. The typed form of one entry under ``clusters:``.

First the sections of an entry, then ``ClusterProfile`` itself; ``validators`` checks single values.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from l3hpc.arrays.threads import allocated_cores
from l3hpc.config.capabilities import LOCAL, SLURM, Capabilities
from l3hpc.config.capabilities import of as capabilities_of
from l3hpc.config.positions import checked
from l3hpc.config.resources import Resources
from l3hpc.config.units import (
    format_memory,
    format_time,
    memory_setting,
    parse_memory,
    parse_task_memory,
    parse_time,
)
from l3hpc.config.validators import (
    cluster_names,
    executor_name,
    job_folder,
    launcher,
    pack_size,
    plain,
    program,
    sbatch_options,
    steps_known,
    variables,
    word,
)
from l3hpc.errors import InputError

MAX_ARRAY = 4_000_001  # MaxArraySize of Slurm is at most this
Memory = Annotated[int, BeforeValidator(checked(parse_memory))]
TaskMemory = Annotated[int, BeforeValidator(checked(parse_task_memory))]
Minutes = Annotated[int, BeforeValidator(checked(parse_time))]
Pack = Annotated[int, BeforeValidator(checked(pack_size))]
Word = Annotated[str, BeforeValidator(checked(word))]
Plain = Annotated[str, BeforeValidator(checked(plain))]
# Options of sbatch that decide whether a site accepts a job, who pays for it, and when it runs. The
# others are about the work of a step: a small job with its licences would only wait longer.
SMALL_JOB_OPTIONS = ("comment", "mcs-label", "nice", "priority")
SbatchOptions = Annotated[tuple[str, ...], BeforeValidator(checked(sbatch_options))]
GpuRequest = Literal["gres", "gpus-per-node", "shard", "none"]


class Section(BaseModel):
    """A part of a file: unknown keys are refused, and a key without a value counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, value: object) -> object:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value


class ResourceSpec(Section):
    """Resources of a task, as far as they are given.

    Attributes
    ----------
    cpus, gpus : int or None
        Cores and GPUs.
    mem : int or None
        MiB; written ``16GB``. 0: all memory of the node.
    time : int or None
        Minutes; written ``4h``.
    pack : int or None
        How many tasks of an array one job runs, one after another.
    """

    cpus: int | None = Field(default=None, ge=1, le=4096)
    mem: TaskMemory | None = None
    gpus: int | None = Field(default=None, ge=0, le=1024)
    time: Minutes | None = None
    pack: Pack | None = None

    def over(self, base: Resources) -> Resources:
        """Replace the values that are given here.

        Parameters
        ----------
        base
            The other values.
        """
        return Resources(
            cpus=base.cpus if self.cpus is None else self.cpus,
            mem_mb=base.mem_mb if self.mem is None else self.mem,
            gpus=base.gpus if self.gpus is None else self.gpus,
            time_min=base.time_min if self.time is None else self.time,
            pack=base.pack if self.pack is None else self.pack,
        )


class RequeueLimits(Section):
    """How often a task is requeued (``heal:`` in a pipeline).

    Attributes
    ----------
    memory, time, nodes : int
        How often because of memory, at its time limit, and because its node failed.
    factor : float
        How many times as much it then requests, up to the limits of the profile.
    """

    memory: int = Field(default=3, ge=0, le=20)
    time: int = Field(default=3, ge=0, le=1000)
    nodes: int = Field(default=2, ge=0, le=20)
    factor: float = Field(default=2.0, gt=1, le=10)


class StepOverrides(ResourceSpec):
    """Settings of a profile for one kind of step: resources, and where it runs.

    Attributes
    ----------
    partition, qos, constraint, reservation, gpu_type : str or None
        As in ``ClusterProfile``.
    gpu_request : str or None
        As in ``ClusterProfile``.
    exclusive : bool or None
        As in ``ClusterProfile``.
    extra : tuple of str
        Added to those of ``ClusterProfile``; one of the same name replaces it.
    """

    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    gpu_type: Word | None = None
    gpu_request: GpuRequest | None = None
    exclusive: bool | None = None
    extra: SbatchOptions = ()


_NO_OVERRIDES = StepOverrides()


class Limits(Section):
    """What the site allows.

    Attributes
    ----------
    time, mem : int or None
        Per job: minutes and MiB.
    array : int or None
        The largest array index + 1.
    """

    time: Minutes | None = None
    mem: Memory | None = None
    array: int | None = Field(default=None, ge=1, le=MAX_ARRAY)


class Slots(Section):
    """What ``local`` may use at once.

    Attributes
    ----------
    cpus, mem : int or None
        Cores and MiB; None: all of this machine.
    """

    cpus: int | None = Field(default=None, ge=1, le=4096)
    mem: Memory | None = None


class LedgerSync(Section):
    """How the results sheet is synchronised.

    Attributes
    ----------
    by : str
        ``hand``, ``watch``, ``cron``, or ``job``: a job after each run, in a partition with
        internet access.
    account, partition, qos, constraint : str or None
        Of that job; None: those of the profile.
    time, mem : int
        Of that job, minutes and MiB.
    """

    by: Literal["hand", "watch", "cron", "job"] = "hand"
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: Minutes = 30
    mem: Memory = 2048


NotifyEvent = Literal["done", "failed", "requeued"]
ALL_EVENTS: tuple[NotifyEvent, ...] = ("done", "failed", "requeued")


def addresses(value: Any) -> tuple[SecretStr, ...]:
    """Check addresses for notifications. They are secrets: no message shows one."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, (str, SecretStr)) for item in items):
        raise InputError("this is not an address or a list of addresses")
    found = [item.get_secret_value() if isinstance(item, SecretStr) else item for item in items]
    if not all(item.isprintable() and item for item in found):
        raise InputError("an address is not one line of text", hint="put it in quotes")
    return tuple(SecretStr(item) for item in found)


class Notify(Section):
    """Messages about runs: to which addresses of Apprise, and about what."""

    urls: Annotated[tuple[SecretStr, ...], BeforeValidator(checked(addresses))]
    on: tuple[NotifyEvent, ...] = ALL_EVENTS

    def below(self, base: Path) -> Notify:
        """Return these settings with every ``./FILE`` as an absolute path.

        Parameters
        ----------
        base
            The folder of cluster.yaml, which other paths start from as well.
        """
        urls = (url.get_secret_value() for url in self.urls)
        return self.model_copy(update={"urls": tuple(SecretStr(
            os.path.normpath(base / url) if url.startswith("./") else url) for url in urls)})


def notify_settings(value: object) -> object:
    """``notify: ADDRESS`` and ``notify: [ADDRESS, …]`` as ``{urls: …}``."""
    return value if isinstance(value, (dict, Notify)) else {"urls": addresses(value)}


class ClusterProfile(Section):
    """One entry of ``clusters:``. cluster.yaml and docs/cluster.md describe its fields."""

    name: Word = "local"
    executor: Annotated[str, BeforeValidator(checked(executor_name))] = SLURM
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    wckey: Word | None = None
    exclude: Word | None = None
    gpu_request: GpuRequest = "gres"
    gpu_type: Word | None = None
    memory_request: Literal["mem", "mem-per-cpu", "none"] = "mem"
    exclusive: bool = False
    extra: SbatchOptions = ()
    setup: tuple[Plain, ...] = ()
    container: Annotated[tuple[str, ...], BeforeValidator(checked(launcher))] = ()
    python: Annotated[str, BeforeValidator(checked(program))] = ""
    env: Annotated[dict[str, str], BeforeValidator(checked(variables))] = Field(
        default_factory=dict)
    scratch: Annotated[str, BeforeValidator(checked(job_folder))] = ""
    mail_user: Word | None = None
    mail_type: Word = "END,FAIL"
    srun: bool = True
    kill_on_invalid_dep: bool = True
    array_parallelism: int | None = Field(default=None, ge=1, le=MAX_ARRAY)
    clusters: Annotated[tuple[str, ...], BeforeValidator(checked(cluster_names))] = ()
    limits: Limits = Field(default_factory=Limits)
    steps: Annotated[dict[str, StepOverrides], BeforeValidator(checked(steps_known))] = Field(
        default_factory=dict)
    slots: Slots = Field(default_factory=Slots)
    shared_group: bool = False
    report: bool = True
    ledger_sync: LedgerSync = Field(default_factory=LedgerSync)
    notify: Annotated[Notify | None, BeforeValidator(checked(notify_settings))] = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: object) -> object:
        if isinstance(value, dict):
            value = dict(value)
            if value.get("name") == "local":
                value.setdefault("executor", LOCAL)
            if value.get("executor") == LOCAL:
                value.setdefault("gpu_request", "none")
            # the Python of this process does not exist inside a container
            value.setdefault("python", "python3" if value.get("container") else sys.executable)
        return value

    @property
    def capabilities(self) -> Capabilities:
        """What the scheduler of its jobs can do."""
        return capabilities_of(self.executor)

    @property
    def umask(self) -> str:
        """The umask of its jobs: the group may read only with ``shared_group``."""
        return "027" if self.shared_group else "077"

    @property
    def slurm_clusters(self) -> str:
        """The value of ``--clusters``: of the profile, else of the variable that sbatch reads; ''
        for the default of Slurm's commands.
        """
        if not self.capabilities.clusters:
            return ""
        # what sbatch itself would do: a job must be looked for where it was submitted
        return ",".join(self.clusters) or os.environ.get("SBATCH_CLUSTERS", "") \
            or os.environ.get("SLURM_CLUSTERS", "")

    def at(self, kind: str) -> StepOverrides:
        """Return the settings for one kind of step (empty if it has none).

        Parameters
        ----------
        kind
            Kind of step.
        """
        return self.steps.get(kind, _NO_OVERRIDES)

    def gpu_request_of(self, kind: str) -> GpuRequest:
        """Return how a kind of step requests GPUs.

        Parameters
        ----------
        kind
            Kind of step.
        """
        return self.at(kind).gpu_request or self.gpu_request

    def requests_gpus(self, kind: str) -> bool:
        """Whether the tasks of a kind of step have the GPUs that they request, and no others.

        Parameters
        ----------
        kind
            Kind of step.
        """
        # With gpu_request none, and on this machine, the site decides whether a task has one.
        return self.capabilities.remote and self.gpu_request_of(kind) != "none"

    def is_exclusive(self, kind: str) -> bool:
        """Whether a kind of step has its node to itself.

        Parameters
        ----------
        kind
            Kind of step.
        """
        own = self.at(kind).exclusive
        return self.exclusive if own is None else own

    def extra_options(self, kind: str) -> list[str]:
        """Return the further sbatch options of a kind of step, as ``--name`` or ``--name=value``.

        Parameters
        ----------
        kind
            Kind of step.
        """
        # by name, so that the step's value of an option replaces the profile's
        by_name = {item.partition("=")[0]: item for item in (*self.extra, *self.at(kind).extra)}
        return list(by_name.values())

    def small_job_options(self, kind: str = "") -> list[str]:
        """Return those of the ``extra_options`` that the small jobs beside a step have too.

        Parameters
        ----------
        kind
            Kind of step; empty for a job of the whole run.
        """
        # sbatch accepts abbreviations of names
        return [option for option in self.extra_options(kind)
                if any(name.startswith(option.removeprefix("--").partition("=")[0])
                       for name in SMALL_JOB_OPTIONS)]

    def slot_cpus(self) -> int:
        """Return the number of cores that ``local`` may use at once."""
        return self.slots.cpus or allocated_cores()

    def slot_mem_mb(self) -> int:
        """Return the MiB that ``local`` may use at once."""
        return self.slots.mem or machine_memory_mb()

    def granted(self, step: str, kind: str, wanted: Resources) -> Resources:
        """Return what a task is given of what it requests.

        On ``local`` it is no more than the machine has. No GPU is requested if the profile has
        none for this kind of step.

        Parameters
        ----------
        step
            Name of the step, for messages.
        kind
            Its kind.
        wanted
            The request.

        Raises
        ------
        InputError
            If the request exceeds the limits of the site.
        """
        if self.gpu_request_of(kind) == "none":
            wanted = replace(wanted, gpus=0)
        # a request above the machine would wait for ever in the local queue
        if not self.capabilities.remote:
            # memory 0 stands for all memory of a node, which here is that of the slots
            wanted = replace(wanted, cpus=min(wanted.cpus, self.slot_cpus()), mem_mb=min(
                wanted.mem_mb or self.slot_mem_mb(), self.slot_mem_mb()))
        if self.limits.mem is not None and wanted.mem_mb > self.limits.mem:
            raise InputError(
                f"{step} requests {format_memory(wanted.mem_mb)} of memory; "
                f"{self.name} allows {format_memory(self.limits.mem)}",
                hint=f"--set {step}.mem={memory_setting(self.limits.mem)}, or raise limits.mem in "
                     "cluster.yaml")
        if self.limits.time is not None and wanted.job_min > self.limits.time:
            raise InputError(
                f"{step} requests {wanted.time_text}; "
                f"{self.name} allows {format_time(self.limits.time)}",
                hint=f"{wanted.within_time(step, self.limits.time)}, or raise limits.time in "
                     "cluster.yaml")
        return wanted


def machine_memory_mb() -> int:
    """Return the memory of this machine in MiB, or that of the control group of this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # inside a job or a container the control group is smaller than the machine (v2, then v1)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        # version 2 writes "max" where there is no limit
        if text.isdigit():
            total = min(total, int(text))
    return max(total // 2**20, 1)
