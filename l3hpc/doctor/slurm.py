"""The batch system and the scripts: what Slurm offers, and whether it accepts what would be
submitted.

First Slurm, its queue and accounting, the partitions and the account of the profile; then the
scripts of the pipelines, which the scheduler checks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config import sources
from l3hpc.config.capabilities import SLURM
from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.config.settings import Config
from l3hpc.doctor.environment import Answer, Ask
from l3hpc.errors import InputError, L3hpcError, command_line, nearest
from l3hpc.findings import Finding, Severity, from_error
from l3hpc.io.owners import current_user
from l3hpc.io.values import count_of
from l3hpc.pipelines import definition
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers.base import Scheduler
from l3hpc.schedulers.scripts import render
from l3hpc.schedulers.slurm import partitions, queue
from l3hpc.schedulers.slurm.commands import ignored_variables, on_cluster
from l3hpc.schedulers.slurm.partitions import Partition
from l3hpc.steps import step as step_of_kind
from l3hpc.workspace.layout import Workspace

CLUSTER_HINT = "run this on a login node; sinfo must work there (module load slurm?)"


def slurm_lines(profile: ClusterProfile, ask: Ask) -> Iterator[Finding]:
    """Check the batch system.

    Parameters
    ----------
    profile
        The cluster profile.
    ask
        Runs a program.

    Yields
    ------
    Finding
        One per check, or only one if the profile does not need Slurm.
    """
    if profile.executor != SLURM:
        yield Finding("Slurm", "off", f"not needed for cluster {profile.name}")
        return
    # needs no controller, so it tells a missing Slurm from a silent one
    version = ask(["sbatch", "--version"])
    clusters = profile.slurm_clusters
    answer = ask(on_cluster(partitions.SINFO, clusters))
    if version.code != 0 or answer.code != 0:
        failed = version if version.code != 0 else answer
        # Slurm 24.11 does not say which cluster it does not know
        where = f" (clusters: {clusters})" if clusters and clusters not in failed.reason else ""
        yield Finding("Slurm", "red", f"does not respond: {failed.reason}{where}", CLUSTER_HINT)
        return
    known = partitions.parse_sinfo(answer.out)
    nodes = ask(on_cluster(["sinfo", "--noheader", "-o", "%D", "--responding",
                            "--states=idle,mix,alloc"], clusters))
    usable = sum(int(word) for word in nodes.out.split() if word.isdigit())
    total = count_of(len(known), "partition")
    yield Finding("Slurm", "green" if usable else "yellow",
                  f"{version.out.strip()}, {total}, {count_of(usable, 'node')} in use or free"
                  + (f" (--clusters={clusters})" if clusters else ""),
                  "" if usable else "no node is up: ask your administrators (sinfo -R shows why)")
    if words := ignored_variables(os.environ):
        yield Finding("environment", "yellow", words)
    yield from queue_lines(ask, clusters)
    yield accounting_line(ask, clusters)
    yield from partition_lines(profile, known)
    if profile.account or profile.qos:
        yield account_line(profile, ask)


def queue_lines(ask: Ask, clusters: str = "") -> Iterator[Finding]:
    """Check that squeue accepts the command of ``status`` and ``cancel``; yields nothing if it
    does.

    Parameters
    ----------
    ask
        Runs a program.
    clusters
        The value of ``--clusters``.
    """
    answer = ask(queue.squeue_command([current_user()], clusters))
    if answer.code != 0:
        yield Finding("queue", "red", f"squeue does not respond: {answer.reason}",
                      "status, resume and cancel need it; check the output of: squeue --me")


def accounting_line(ask: Ask, clusters: str = "") -> Finding:
    """Check that ``sacct`` accepts the command of ``status``. Nothing depends on it.

    Parameters
    ----------
    ask
        Runs a program.
    clusters
        The value of ``--clusters``.
    """
    answer = ask(queue.sacct_command(["1"], cluster=clusters))
    if answer.code == 0:
        return Finding("accounting", "green", "sacct answers")
    return Finding("accounting", "yellow", f"sacct does not respond ({answer.reason}): status "
                   "reads squeue and the jobs' own markers; run times and memory of old jobs are "
                   "unknown",
                   "nothing to do; your site may offer slurmdbd")


def partition_lines(
    profile: ClusterProfile, known: dict[str, Partition]
) -> Iterator[Finding]:
    """Check every partition that the profile names.

    Parameters
    ----------
    profile
        The cluster profile.
    known
        The partitions of the cluster.
    """
    wanted: dict[str, list[str]] = {}
    if profile.partition:
        wanted[profile.partition] = []
    for step, overrides in profile.steps.items():
        if name := overrides.partition or profile.partition:
            wanted.setdefault(name, []).append(step)
    if not wanted:
        yield Finding("partition", "green", "the site's default (the profile names none)")
    for names, steps in wanted.items():
        for name in names.split(","):
            yield partition_line(profile, name, steps, known)


def partition_line(profile: ClusterProfile, name: str, steps: list[str],
                   known: dict[str, Partition]) -> Finding:
    """Check one partition: whether its nodes have what the profile requests there.

    Parameters
    ----------
    profile
        The cluster profile.
    name
        Name of the partition.
    steps
        Kinds of steps that run there.
    known
        The partitions of the cluster.
    """
    check = f"partition {name}"
    if name not in known:
        return Finding(check, "red", "Slurm has no such partition",
                       f"clusters.{profile.name}.partition: {nearest(name, known)}")
    found = known[name]
    if not found.up:
        return Finding(check, "red", f"is down ({found.words})", "use another partition, or wait")
    problems = []
    for step in steps:
        asked = profile.at(step)
        wanted = Resources(asked.cpus or 0, asked.mem or 0, asked.gpus or 0, asked.time or 0,
                           asked.pack or 1)
        problems += [f"{step} {excess.requested}, {excess.available}"
                     for excess in partitions.excesses(found, step, step, profile, wanted)]
    if problems:
        return Finding(check, "red", f"{found.words}; {'; '.join(problems)}",
                       f"change clusters.{profile.name}.steps in cluster.yaml")
    return Finding(check, "green", found.words)


def account_line(profile: ClusterProfile, ask: Ask) -> Finding:
    """Check that this user may use the account and the quality of service of the profile.

    Parameters
    ----------
    profile
        The cluster profile.
    ask
        Runs a program.
    """
    wanted = " and ".join(f"{option} {value}" for option in ("account", "qos")
                          if (value := getattr(profile, option)))
    there = [f"cluster={clusters}"] if (clusters := profile.slurm_clusters) else []
    answer = ask(["sacctmgr", "--noheader", "--parsable2", "show", "associations",
                  f"user={current_user()}", *there, "format=account,qos"])
    if answer.code != 0:
        return Finding("account", "off", f"{wanted}: sacctmgr does not respond, so this was not "
                       "checked (the test submission below shows it)")
    pairs = [row.split("|") for row in answer.out.splitlines() if "|" in row]
    accounts = {pair[0] for pair in pairs}
    qualities = {name for pair in pairs for name in pair[1].split(",") if name}
    if not pairs:
        return Finding("account", "yellow",
                       f"{wanted}: you have no association in Slurm's database",
                       "if jobs are refused, ask your administrators for an account")
    if profile.account and profile.account not in accounts:
        return Finding("account", "red", f"you may not use account {profile.account}",
                       f"clusters.{profile.name}.account: {nearest(profile.account, accounts)}")
    if profile.qos and qualities and profile.qos not in qualities:
        return Finding("account", "red", f"you may not use qos {profile.qos}",
                       f"clusters.{profile.name}.qos: {nearest(profile.qos, qualities)}")
    return Finding("account", "green", wanted)


def check_names(asked: Sequence[str]) -> None:
    """Check the names of pipelines.

    Parameters
    ----------
    asked
        The names.

    Raises
    ------
    InputError
        For a name that no pipeline has.
    """
    known = sources.pipelines()
    for name in asked:
        if name not in known:
            raise InputError(f"there is no pipeline {name!r}", allowed=nearest(name, known))


def script_lines(config: Config, ask: Ask, asked: Sequence[str] = (), *,
                 slurm_responds: bool = True) -> Iterator[Finding]:
    """Check the scripts of the pipelines.

    Parameters
    ----------
    config
        The configuration.
    ask
        Runs a program.
    asked
        The pipelines that the user wants to submit. What is wrong with one of them is red. Without
        any, a pipeline that the cluster refuses is yellow (a cluster without GPUs need not train);
        it is red only if the cluster refuses all of them.
    slurm_responds
        False: the scripts are rendered, but Slurm, whose own finding is red, is not asked.

    Yields
    ------
    Finding
        One for all scripts, and one more for each pipeline whose scripts are not accepted.
    """
    chosen = {name: path for name, path in sources.pipelines().items()
              if not asked or name in asked}
    scripts: dict[str, dict[str, str]] = {}  # pipeline → step → text
    faults: list[Finding] = []
    for name, path in chosen.items():
        try:
            scripts[name] = dict(rendered(definition.load_pipeline_file(path), config))
        except L3hpcError as error:
            faults.append(from_error(f"pipeline {name}", error, f"correct {path}"))
    # pipelines share most of their steps, so most scripts are equal
    texts = {text for steps in scripts.values() for text in steps.values()}
    if not slurm_responds:
        yield Finding("scripts", "off",
                      f"{count_of(len(texts), 'script')} not checked: Slurm does not respond")
        yield from faults
        return
    refused: dict[str, str] = {}  # pipelines share most of their steps: each text is tried once
    for text in sorted(texts):
        answer = _checked(text, schedulers.of(config.profile, config.workspace), ask)
        if answer.code is None:
            yield Finding("scripts", "red", f"cannot be tested: {answer.reason}",
                          "run this on a machine that submits jobs")
            return
        if answer.code != 0:
            refused[text] = answer.reason.removeprefix("allocation failure: ")
    unusable = {name: {step: refused[text] for step, text in steps.items() if text in refused}
                for name, steps in scripts.items()}
    severity: Severity = "red" if asked or all(unusable.values()) else "yellow"
    faults += [Finding(f"pipeline {name}", severity, _reasons(steps),
                       f"affects only {command_line('submit', name)}: change "
                       f"clusters.{config.profile.name} in {config.file}, or the resources in "
                       f"jobs/; see them: {command_line('render', name)}")
               for name, steps in unusable.items() if steps]
    how = "bash can parse them" if not config.profile.capabilities.remote \
        else "sbatch --test-only accepts them"
    yield Finding("scripts", "green" if not faults else "yellow",
                  f"{len(texts) - len(refused)} of {len(texts)} scripts for "
                  f"{count_of(len(chosen), 'pipeline')}, {how}",
                  "see the lines below" if faults else "")
    yield from faults


def _checked(text: str, scheduler: Scheduler, ask: Ask) -> Answer:
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return ask(scheduler.check_command(Path(file.name)))


def _reasons(steps: Mapping[str, str]) -> str:
    """``train, classify: Invalid qos``: the steps by why they are refused."""
    by_reason: dict[str, list[str]] = {}
    for step, reason in steps.items():
        by_reason.setdefault(reason, []).append(step)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def rendered(pipeline: definition.Pipeline, config: Config) -> Iterator[tuple[str, str]]:
    """Render the scripts of a pipeline, as a run called ``doctor`` would have them; needs no data.

    Parameters
    ----------
    pipeline
        The pipeline.
    config
        The configuration.

    Yields
    ------
    tuple of str
        Step and script.
    """
    steps = []
    for step in pipeline.steps.values():
        wanted = config.profile.at(step.kind).over(step.resources.over(Resources()))
        steps.append(PlannedStep(
            name=step.name, kind=step.kind, params={}, needs=step.needs, inputs={},
            fingerprint="0" * 16,
            artifact=Workspace(config.workspace).artifact(step.kind, "0" * 16).path,
            shards=[{}], done=(), resources=config.profile.granted(
                step.name, step.like or step.kind, wanted), like=step.like,
            version=step_of_kind(step.kind).version))
    plan = Plan("doctor", "doctor", config.workspace, config.profile, tuple(steps))
    for planned in steps:
        yield planned.name, render(plan, planned)
