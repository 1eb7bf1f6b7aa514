"""What a Slurm site offers the current user: partitions, accounts, QOS, limits, GPUs.

``l3hpc init`` puts it into cluster.yaml. What Slurm does not report (which of ``--mem`` and
``--mem-per-cpu`` a site takes, whether an account may use a partition) is tried with ``sbatch
--test-only``, which submits nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from l3hpc.console.formatting import parse_slurm_time
from l3hpc.errors import ClusterError, command_line
from l3hpc.io.owners import current_user
from l3hpc.schedulers.slurm import partitions
from l3hpc.schedulers.slurm.commands import CONFIG_S, call
from l3hpc.schedulers.slurm.partitions import Partition

# without --all: a partition that Slurm hides from this person is none for them
SINFO = tuple(word for word in partitions.SINFO if word != "--all")


class NoPartitionError(ClusterError):
    """Slurm answers, and there is no partition to send a job to."""


@dataclass(frozen=True)
class Quality:
    """A quality of service. Limits are None where it has none of its own."""

    name: str
    time_min: int | None = None
    max_submit: int | None = None
    lifts_time: bool = False  # its limit counts instead of the partition's


@dataclass(frozen=True)
class Site:
    """What Slurm said.

    Attributes
    ----------
    cluster, version : str
        Slurm's name of the cluster, and ``slurm 23.11.4``.
    partitions : dict of str to Partition
        Those that this person sees; where the account or the default QOS has a shorter time limit,
        that is theirs.
    accounts : tuple of str
        Those that this person may charge, the default one first.
    qualities : tuple of Quality
        Those that this person may name.
    default_qos : str
        What a job gets that names none; '' where Slurm does not say.
    max_array : int or None
        MaxArraySize.
    max_submit : int or None
        How many jobs this person may have in the queue.
    other_clusters : tuple of str
        Clusters of the same accounting database.
    notes : tuple of str
        What could not be asked.
    """

    cluster: str
    version: str
    partitions: dict[str, Partition]
    accounts: tuple[str, ...] = ()
    qualities: tuple[Quality, ...] = ()
    default_qos: str = ""
    max_array: int | None = None
    max_submit: int | None = None
    other_clusters: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def ask(account: str = "") -> Site:
    """Ask Slurm's commands on this machine.

    Parameters
    ----------
    account : str
        Whose limits count. Default: those of the person's default account.

    Raises
    ------
    ClusterError
        sinfo or scontrol does not answer, or there is no partition (``NoPartitionError``). Without
        an accounting database there is only a note.
    """
    listed = call(SINFO, timeout_s=CONFIG_S)
    found = partitions.parse_sinfo(listed)
    if not found:
        raise NoPartitionError(
            f"sinfo lists no partition whose limits can be read; it says {listed.strip()[:100]!r}"
            if listed.strip() else "Slurm answers, but sinfo lists no partition that you may use",
            hint="Ask your site which partition you may use, or write a profile for this machine: "
                 + command_line("init", "--local"))
    settings = _settings(call(["scontrol", "show", "config"], timeout_s=CONFIG_S))
    site = Site(cluster=settings.get("ClusterName", "slurm"), partitions=found,
                version=f"slurm {settings['SLURM_VERSION']}" if "SLURM_VERSION" in settings
                else call(["sbatch", "--version"], timeout_s=CONFIG_S).strip(),
                max_array=_number(settings.get("MaxArraySize", "")))
    try:
        return _with_accounting(site, account)
    except ClusterError as error:
        return replace(site, notes=(f"accounts and QOS are unknown ({error.message})",))


def refusal(options: tuple[str, ...]) -> str:
    """Why sbatch would refuse a job of one minute with these options; '' where it takes it."""
    try:
        call(["sbatch", "--test-only", "--time=1", "--job-name=l3-init", "--output=/dev/null",
              *options, "--wrap=true"], timeout_s=CONFIG_S)
    except ClusterError as error:
        return error.message
    return ""


def _settings(text: str) -> dict[str, str]:
    return {found[1]: found[2].strip()
            for found in re.finditer(r"^(\w+)\s*=[ \t]*(.*)$", text, re.MULTILINE)}


def _with_accounting(site: Site, account: str) -> Site:
    """The site with what the accounting database knows of this person."""
    person = current_user()
    mine = list(_rows("associations", f"user={person}", f"cluster={site.cluster}",
                      "format=account,qos,defaultqos,maxsubmitjobs,maxwall"))
    default = [row[0] for row in _rows("user", person, "format=defaultaccount")]
    known = [Quality(name, _minutes(wall), _number(most), "PartitionTimeLimit" in flags)
             for name, wall, most, flags in _rows(
                 "qos", "format=name,maxwall,maxsubmitjobsperuser,flags")]
    accounts = dict.fromkeys(sorted((row[0] for row in mine), key=lambda name: (
        name not in default, name)))
    usable = {name for row in mine for name in row[1].split(",") if name}
    charged = [row for row in mine if row[0] in ([account] if account else default)] or mine
    default_qos = next((row[2] for row in charged if row[2]), "")
    quality = next((one for one in known if one.name == default_qos), Quality(default_qos))
    most = [_number(row[3]) for row in charged] + [quality.max_submit]
    longest = [_minutes(row[4]) for row in charged]
    others = tuple(row[0] for row in _rows("clusters", "format=cluster")
                   if row[0] != site.cluster)
    return replace(
        site, accounts=tuple(accounts), default_qos=default_qos, other_clusters=others,
        qualities=tuple(one for one in known if one.name in usable),
        max_submit=_least(most),
        partitions={name: replace(one, time_min=_least([
            None if quality.lifts_time and quality.time_min else one.time_min, quality.time_min,
            *longest])) for name, one in site.partitions.items()},
        notes=() if mine else (f"Slurm's accounting database has no account for {person}",))


def _rows(entity: str, *options: str) -> Iterator[list[str]]:
    """Rows of ``sacctmgr show ENTITY``, as many cells as ``format=`` names."""
    width = options[-1].count(",") + 1
    for line in call(["sacctmgr", "--noheader", "--parsable2", "show", entity, *options],
                     timeout_s=CONFIG_S).splitlines():
        cells = line.strip().split("|")
        if len(cells) == width and cells[0]:
            yield cells


def _least(limits: Iterable[int | None]) -> int | None:
    """The smallest of the limits that are set; None where none is."""
    return min((limit for limit in limits if limit is not None), default=None)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _minutes(text: str) -> int | None:
    seconds = parse_slurm_time(text)
    return None if seconds is None else int(seconds // 60)
