"""The batch system: reachable or not, accounting or not, the profile's partitions and account."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from dataclasses import dataclass

from l3hpc.errors import nearest
from l3hpc.workflow import queue
from l3hpc.workflow.doctor.line import Ask, Line
from l3hpc.workflow.profile import ClusterProfile
from l3hpc.workflow.units import format_memory, format_time, parse_time

CLUSTER_HINT = "run this on a login node; sinfo must work there (module load slurm?)"


@dataclass
class Partition:
    """What ``sinfo`` says of one partition. Time in minutes (None: no limit), memory in MiB."""

    name: str
    up: bool
    time_min: int | None
    mem_mb: int
    cpus: int
    gres: str
    nodes: int


def slurm_lines(profile: ClusterProfile, ask: Ask) -> Iterator[Line]:
    """All checks of the batch system, or one line that says that there is none to check."""
    if profile.executor == "local":
        yield Line("Slurm", "off", f"not needed for cluster {profile.name}")
        return
    version = ask(["sbatch", "--version"])
    answer = ask(["sinfo", "--noheader", "-o", "%P|%a|%l|%m|%c|%G|%D"])
    if version.code != 0 or answer.code != 0:
        failed = version if version.code != 0 else answer
        yield Line("Slurm", "red", f"does not answer: {failed.reason}", CLUSTER_HINT)
        return
    partitions = read_partitions(answer.out)
    nodes = ask(["sinfo", "--noheader", "-o", "%D", "--responding", "--states=idle,mix,alloc"])
    usable = sum(int(word) for word in nodes.out.split() if word.isdigit())
    total = f"{len(partitions)} partition{'s' if len(partitions) != 1 else ''}"
    yield Line("Slurm", "green" if usable else "yellow",
               f"{version.out.strip()}, {total}, {usable} nodes in use or free",
               "" if usable else "no node is up: ask your administrators (sinfo -R says why)")
    yield from queue_lines(ask)
    yield accounting_line(ask)
    yield from partition_lines(profile, partitions)
    if profile.account or profile.qos:
        yield account_line(profile, ask)


def read_partitions(text: str) -> dict[str, Partition]:
    """``sinfo`` lines by partition; lines of one partition are merged (largest node counts)."""
    found: dict[str, Partition] = {}
    for entry in text.splitlines():
        parts = entry.strip().split("|")
        if len(parts) != 7:
            continue
        name = parts[0].rstrip("*")
        limit = None if parts[2] in ("infinite", "n/a", "UNLIMITED") else parse_time(parts[2])
        memory, cpus, nodes = (int(parts[index].rstrip("+") or 0) for index in (3, 4, 6))
        here = found.setdefault(name, Partition(name, False, limit, 0, 0, "", 0))
        here.up = here.up or parts[1] == "up"
        here.mem_mb, here.cpus = max(here.mem_mb, memory), max(here.cpus, cpus)
        here.nodes += nodes
        if parts[5] not in ("(null)", "") and parts[5] not in here.gres:
            here.gres = f"{here.gres},{parts[5]}".strip(",")
    return found


def queue_lines(ask: Ask) -> Iterator[Line]:
    """A red line where squeue does not take what ``status`` and ``cancel`` ask it."""
    answer = ask(queue.squeue_command([getpass.getuser()]))
    if answer.code != 0:
        yield Line("queue", "red", f"squeue does not answer: {answer.reason}",
                   "status, resume and cancel need it; see what the command says: squeue --me")


def accounting_line(ask: Ask) -> Line:
    """Whether ``sacct`` answers what ``status`` asks it. Nothing depends on it."""
    answer = ask(queue.sacct_command(["1"]))
    if answer.code == 0:
        return Line("accounting", "green", "sacct answers")
    return Line("accounting", "yellow", f"sacct does not answer ({answer.reason}): status reads "
                "squeue and the jobs' own markers; run times and memory of old jobs are unknown",
                "nothing to do; your site may offer slurmdbd")


def partition_lines(
    profile: ClusterProfile, partitions: dict[str, Partition]
) -> Iterator[Line]:
    """Every partition that the profile names, and whether its nodes have what is asked there."""
    wanted: dict[str, list[str]] = {}
    if profile.partition:
        wanted[profile.partition] = []
    for step, overrides in profile.steps.items():
        if name := overrides.partition or profile.partition:
            wanted.setdefault(name, []).append(step)
    if not wanted:
        yield Line("partition", "green", "the site's default (the profile names none)")
    for names, steps in wanted.items():
        for name in names.split(","):
            yield partition_line(profile, name, steps, partitions)


def partition_line(profile: ClusterProfile, name: str, steps: list[str],
                   partitions: dict[str, Partition]) -> Line:
    """One partition against the profile."""
    check = f"partition {name}"
    if name not in partitions:
        return Line(check, "red", "Slurm knows no such partition",
                    f"clusters.{profile.name}.partition: {nearest(name, partitions)}")
    found = partitions[name]
    limit = "no time limit" if found.time_min is None else f"up to {format_time(found.time_min)}"
    words = (f"{found.nodes} node{'s' if found.nodes != 1 else ''}, {limit}, {found.cpus} cores, "
             f"{format_memory(found.mem_mb)}" + (f", {found.gres}" if found.gres else ""))
    if not found.up:
        return Line(check, "red", f"is down ({words})", "name another partition, or wait")
    problems = []
    for step in steps:
        asked = profile.at(step)
        if asked.time and found.time_min is not None and asked.time > found.time_min:
            problems.append(f"{step} asks for {format_time(asked.time)}")
        if asked.mem and asked.mem > found.mem_mb:
            problems.append(f"{step} asks for {format_memory(asked.mem)}")
        if asked.cpus and asked.cpus > found.cpus:
            problems.append(f"{step} asks for {asked.cpus} cores")
        kind = asked.gpu_type or profile.gpu_type
        if asked.gpus and profile.gpu_request != "none":
            if "gpu" not in found.gres:
                problems.append(f"{step} asks for a GPU and there is none")
            elif kind and f"gpu:{kind}" not in found.gres:
                problems.append(f"{step} asks for a GPU of type {kind}")
    if problems:
        return Line(check, "red", f"{words}; {'; '.join(problems)}",
                    f"change clusters.{profile.name}.steps in cluster.yaml")
    return Line(check, "green", words)


def account_line(profile: ClusterProfile, ask: Ask) -> Line:
    """Whether this user may use the profile's account and quality of service."""
    wanted = " and ".join(f"{option} {value}" for option in ("account", "qos")
                          if (value := getattr(profile, option)))
    answer = ask(["sacctmgr", "--noheader", "--parsable2", "show", "associations",
                  f"user={getpass.getuser()}", "format=account,qos"])
    if answer.code != 0:
        return Line("account", "off", f"{wanted}: sacctmgr does not answer, so this was not looked "
                    "up (the test submission below tells)")
    pairs = [row.split("|") for row in answer.out.splitlines() if "|" in row]
    accounts = {pair[0] for pair in pairs}
    qualities = {name for pair in pairs for name in pair[1].split(",") if name}
    if not pairs:
        return Line("account", "yellow", f"{wanted}: you have no association in Slurm's database",
                    "if jobs are refused, ask your administrators for an account")
    if profile.account and profile.account not in accounts:
        return Line("account", "red", f"you may not use account {profile.account}",
                    f"clusters.{profile.name}.account: {nearest(profile.account, accounts)}")
    if profile.qos and qualities and profile.qos not in qualities:
        return Line("account", "red", f"you may not use qos {profile.qos}",
                    f"clusters.{profile.name}.qos: {nearest(profile.qos, qualities)}")
    return Line("account", "green", wanted)
