"""``l3hpc config check``: whether the configuration, the pipelines and the templates would work."""

from __future__ import annotations

import os
from pathlib import Path

from l3hpc import steps as kinds
from l3hpc.config import sources
from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.config.settings import Config, check_workspace
from l3hpc.doctor.storage import nearest_folder
from l3hpc.errors import InputError, L3hpcError, Lines, nearest, shell_path
from l3hpc.findings import Finding
from l3hpc.pipelines import definition
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts
from l3hpc.workspace import sharing
from l3hpc.workspace.layout import Workspace


def check(config: Config) -> list[Finding]:
    """Check everything that needs neither a scheduler, nor data files, nor the network.

    Parameters
    ----------
    config
        The configuration.
    """
    profiles = ", ".join(config.clusters)
    findings = [Finding("cluster.yaml", "green", f"{config.file}: profiles {profiles}")]
    findings += _paths(config)
    for name, path in sorted(sources.pipelines().items()):
        findings.append(_pipeline(name, path, config.profile))
    findings += _templates(config)
    return findings


def _paths(config: Config) -> list[Finding]:
    found = [_writable(config.workspace, config.origin("paths.workspace"))]
    for name in ("audio", "embeddings", "sonyc_ust", "us8k", "esc50"):
        path = getattr(config.paths, name)
        if path is not None:
            found.append(_exists(f"paths.{name}", path, path.is_dir(), "folder", config))
    weights = config.paths.weights
    if weights is not None and weights.split(":")[0] not in ("untrained", "hear"):
        found.append(_exists("paths.weights", Path(weights), Path(weights).exists(), "file",
                             config))
    if config.ledger.key_file is not None:
        found.append(_exists("ledger.key_file", config.ledger.key_file,
                             config.ledger.key_file.is_file(), "file", config))
    return found


def _exists(key: str, path: Path, ok: bool, kind: str, config: Config) -> Finding:
    if ok:
        return Finding(key, "green", str(path))
    return Finding(key, "red", str(path),
                   f"there is no such {kind}; it was set by {config.origin(key)}")


def _writable(workspace: Path, origin: str) -> Finding:
    try:
        check_workspace(workspace, origin)
    except InputError as error:
        return Finding("paths.workspace", "red", str(workspace), Lines(*error.lines()))
    for folder in map(nearest_folder, sharing.written_folders(workspace)):
        if not os.access(folder, os.W_OK | os.X_OK):
            return Finding("paths.workspace", "red", str(workspace),
                           f"cannot write to {folder}; the workspace was set by {origin}")
    return Finding("paths.workspace", "green", str(workspace))


def _pipeline(name: str, path: Path, profile: ClusterProfile) -> Finding:
    try:
        pipeline = definition.load_pipeline_file(path)
    except L3hpcError as error:
        return Finding(f"pipeline {name}", "red", str(path), Lines(*error.lines()))
    chain = " → ".join(pipeline.steps)
    short: dict[str, list[str]] = {}
    for step in pipeline.steps.values():
        of_step = profile.at(step.kind).over(step.resources.over(Resources()))
        if text := of_step.warned_at_once(profile.capabilities.warning_s):
            short.setdefault(text, []).append(step.name)
    if short:
        words = "; ".join(f"{', '.join(names)}: {text}" for text, names in short.items())
        return Finding(f"pipeline {name}", "yellow", f"{chain}; {words}",
                       f"change it in {shell_path(path)}, or for this cluster in cluster.yaml")
    return Finding(f"pipeline {name}", "green", chain)


def _templates(config: Config) -> list[Finding]:
    found = []
    steps = tuple(PlannedStep(
        name=kind, kind=kind, params={}, needs=(), inputs={}, fingerprint="0" * 16,
        artifact=Workspace(config.workspace).artifact(kind, "0" * 16).path, shards=[{}], done=(),
        resources=config.profile.at(kind).over(Resources())) for kind in kinds.names())
    # a plan without data: rendering needs only names and resources
    plan = Plan("check", "check", config.workspace, config.profile, steps)
    failed = []
    for step in steps:
        try:
            scripts.render(plan, step)
        except L3hpcError as error:
            failed.append(Finding(f"template {step.kind}", "red", str(error),
                                  "correct the template"))
    found += failed or [Finding("templates", "green",
                                ", ".join(map(str, sources.template_folders())))]
    known = {f"{kind}.sbatch.j2"
             for kind in (*kinds.names(), "base", "ledger-sync", "job-array")}
    names = {name for path in sources.pipelines().values() for name in _step_names(path)}
    known |= {f"{name}.sbatch.j2" for name in names}
    for folder in sources.template_folders():
        for path in sorted(folder.glob("*.sbatch.j2")):
            if path.name not in known:
                found.append(Finding(f"template {path.name}", "red",
                                     f"{path} belongs to no step", nearest(path.name, known)))
    return found


def _step_names(path: Path) -> list[str]:
    try:
        return list(definition.load_pipeline_file(path).steps)
    except L3hpcError:
        return []

