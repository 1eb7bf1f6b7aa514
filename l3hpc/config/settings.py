"""The effective configuration: cluster.yaml, environment and command line, each value's origin.

Order, first wins: command line, cluster.yaml, environment variables of the published jobs,
default. Relative paths count from the folder of the person's cluster.yaml (or the working folder).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from l3hpc.config import positions, sources
from l3hpc.config.positions import Document, checked
from l3hpc.config.profile import ClusterProfile, Plain, Section, plain
from l3hpc.errors import InputError, nearest

ENVIRONMENT = {
    "paths.workspace": "OUTPUT_DIR",
    "paths.audio": "AUDIO_DIR",
    "paths.embeddings": "EMBEDDING_DIR",
    "paths.weights": "L3_MODEL_PATH",
    "paths.sonyc_ust": "SONYC_UST_PATH",
    "paths.us8k": "US8K_PATH",
    "paths.esc50": "ESC50_PATH",
    "ledger.sheet_id": "GSHEET_ID",
}

_SUBSTITUTED = re.compile(r"%\d*[A-Za-z%]")


def sheet_id(value: Any) -> str:
    """A Google Sheet's id, also from its whole address."""
    text = str(value).strip()
    match = re.search(r"/spreadsheets/d/([A-Za-z0-9_-]+)", text)
    text = match[1] if match else text
    if not re.fullmatch(r"[A-Za-z0-9_-]{5,200}", text):
        raise InputError(f"{text[:60]!r} is not the id of a Google Sheet",
                         allowed="letters, digits, - and _; or the sheet's whole https address")
    return text


SheetId = Annotated[str, BeforeValidator(checked(sheet_id))]


class PathSettings(Section):
    """Where things are. ``~`` and ``$VARIABLES`` are filled in."""

    workspace: Plain = "workspace"
    audio: Plain | None = None
    embeddings: Plain | None = None
    sonyc_ust: Plain | None = None
    us8k: Plain | None = None
    esc50: Plain | None = None
    weights: Plain | None = None


class LedgerSettings(Section):
    """The results sheet. Only ``l3hpc ledger`` commands talk to it."""

    sheet_id: SheetId | None = None
    key_file: Plain | None = None


class ClusterFile(Section):
    """The whole of cluster.yaml."""

    cluster: str = "local"
    paths: PathSettings = Field(default_factory=PathSettings)
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    clusters: dict[str, dict[str, Any] | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Paths:
    """Absolute paths (``weights`` may also be a name such as ``untrained``); None: not set."""

    workspace: Path
    audio: Path | None = None
    embeddings: Path | None = None
    sonyc_ust: Path | None = None
    us8k: Path | None = None
    esc50: Path | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Ledger:
    """Settings of the results sheet."""

    sheet_id: str | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Config:
    """The values in effect. ``origin(key)`` tells where each of them comes from."""

    file: Path
    profile: ClusterProfile
    paths: Paths
    ledger: Ledger
    clusters: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> Path:
        """The folder that holds runs/, artifacts/ and the ledger's journals."""
        return self.paths.workspace

    def origin(self, key: str) -> str:
        """``cluster.yaml:12``, ``environment variable AUDIO_DIR``, ``--cluster`` or ``default``."""
        return self.origins.get(key, "default")

    def values(self) -> dict[str, Any]:
        """Every effective value by its dotted key, JSON-ready, in the file's order."""
        rows: dict[str, Any] = {"cluster": self.profile.name}
        for section, content in (("paths", vars(self.paths)), ("ledger", vars(self.ledger))):
            for name, value in content.items():
                rows[f"{section}.{name}"] = str(value) if isinstance(value, Path) else value
        for name, value in self.profile.model_dump(mode="json").items():
            if name != "name":
                rows[f"clusters.{self.profile.name}.{name}"] = value
        return rows


def check_workspace(workspace: Path, origin: str) -> Path:
    """The workspace, where its name may stand in scripts and log paths; ``InputError`` elsewhere.

    sbatch cannot read a quote or a backslash in an ``#SBATCH`` line; ``%j`` and the like in a log
    path are replaced by Slurm, and by submitit in every path below the workspace.

    Parameters
    ----------
    workspace : Path
        The whole path: a folder above it may have such a name, too.
    origin : str
        What set it, for the message.
    """
    text, where = str(workspace), None if origin == "default" else origin
    existing = next((folder for folder in (workspace, *workspace.parents)
                     if os.path.exists(folder)), workspace)
    if os.path.isfile(existing):
        raise InputError(f"paths.workspace: {existing} is a file, not a folder", where=where,
                         hint="Choose another folder: --workspace, or paths.workspace in "
                              "cluster.yaml.")
    hint = "Name another folder, or reach this one by a symbolic link with a plain name."
    try:
        plain(text)
    except InputError as error:
        raise InputError(f"paths.workspace: {error.message}", where=where, hint=hint) from None
    if pattern := _SUBSTITUTED.search(text):
        raise InputError(f"paths.workspace: {text!r} contains {pattern[0]!r}, which Slurm or "
                         "submitit would replace in file names", where=where, hint=hint)
    if found := re.search(r"['\"\\]", text):
        kind = "a backslash" if found[0] == "\\" else "a quote"
        raise InputError(f"paths.workspace: {text!r} contains {kind}, which sbatch does not take",
                         where=where, hint=hint)
    return workspace


def load(
    path: str | Path | None = None, cluster: str | None = None, *,
    overrides: Mapping[str, tuple[str, str]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in effect.

    Parameters
    ----------
    path : str or Path, optional
        A cluster.yaml (default: that of the working folder, else the delivered one).
    cluster : str, optional
        A profile's name (default: ``cluster:`` of the file, else ``local``).
    overrides : mapping, optional
        Dotted key (``paths.workspace``) → (value, the option that set it).
    environ : mapping, optional
        Environment variables (default: this process's).

    Returns
    -------
    Config
        Absolute paths, the profile, and the origin of every value.

    Raises
    ------
    InputError
        With file and line, for everything that is wrong in the file.
    """
    if path is not None and not Path(path).is_file():
        raise InputError("there is no such file", where=str(path),
                         hint="remove --config to use ./cluster.yaml")
    file = Path(path) if path is not None else sources.cluster_file()
    document = positions.load(file)
    content = positions.validated(ClusterFile, document)
    origins: dict[str, str] = {}
    settings = _settings(content, document, dict(overrides or {}),
                         os.environ if environ is None else environ, origins)
    delivered = file.resolve() == (sources.defaults_folder() / "cluster.yaml").resolve()
    base = Path.cwd() if delivered else file.resolve().parent
    name = cluster or content.cluster
    if cluster:
        origins["cluster"] = "--cluster"
    elif document.has(("cluster",)):
        origins["cluster"] = document.where(("cluster",))
    profiles = _profiles(content, document)
    if name not in profiles:
        where = "--cluster" if cluster else document.where(("cluster",))
        raise InputError(f"there is no cluster {name!r}", where=where,
                         allowed=nearest(name, profiles),
                         hint=f"profiles are listed under clusters: in {file}")
    for place in document.lines:
        if len(place) >= 3 and place[:2] == ("clusters", name):
            origins[".".join(str(part) for part in place)] = document.where(place)
    return Config(
        file=file, profile=profiles[name], clusters=tuple(sorted(profiles)), origins=origins,
        paths=Paths(
            workspace=_path(settings["paths.workspace"], base, "paths.workspace", origins),
            audio=_optional(settings, "paths.audio", base, origins),
            embeddings=_optional(settings, "paths.embeddings", base, origins),
            sonyc_ust=_optional(settings, "paths.sonyc_ust", base, origins),
            us8k=_optional(settings, "paths.us8k", base, origins),
            esc50=_optional(settings, "paths.esc50", base, origins),
            weights=_weights(settings["paths.weights"], base, origins),
        ),
        ledger=Ledger(
            sheet_id=settings["ledger.sheet_id"],
            key_file=_optional(settings, "ledger.key_file", base, origins),
        ),
    )


def _profiles(content: ClusterFile, document: Document) -> dict[str, ClusterProfile]:
    profiles = {"local": ClusterProfile(name="local")}
    for name, entry in content.clusters.items():
        place = ("clusters", name)
        if "name" in (entry or {}):
            raise document.refuse((*place, "name"), "a profile's name is its key; remove name:")
        content_of = {**(entry or {}), "name": name}
        profiles[name] = positions.validated(ClusterProfile, document, place, content_of)
    return profiles


def _settings(content: ClusterFile, document: Document,
              overrides: dict[str, tuple[str, str]], environ: Mapping[str, str],
              origins: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for section in ("paths", "ledger"):
        for name, value in getattr(content, section):
            key, place = f"{section}.{name}", (section, name)
            variable = ENVIRONMENT.get(key)
            if key in overrides:
                value, origins[key] = overrides[key]
            elif document.has(place) and value is not None:
                origins[key] = document.where(place)
            elif variable and environ.get(variable):
                value, origins[key] = environ[variable], f"environment variable {variable}"
                value = sheet_id(value) if key == "ledger.sheet_id" else value
            settings[key] = value
    return settings


def _optional(settings: Mapping[str, Any], key: str, base: Path,
              origins: Mapping[str, str]) -> Path | None:
    return None if settings[key] is None else _path(settings[key], base, key, origins)


def _weights(value: str | None, base: Path, origins: Mapping[str, str]) -> str | None:
    if value is None or value.split(":")[0] == "untrained":
        return value
    return str(_path(value, base, "paths.weights", origins))


def _path(value: str, base: Path, key: str, origins: Mapping[str, str]) -> Path:
    """An absolute path; those from the command line or environment count from here."""
    where = origins.get(key, "default")
    text = os.path.expandvars(os.path.expanduser(value))
    try:
        plain(text)
    except InputError as error:
        raise InputError(f"{key}: {error.message}", where=where) from None
    if not text.strip():
        raise InputError(f"{key}: the path is empty", where=where)
    if unknown := re.search(r"\$(\w+|\{[^}]*\})", text):
        raise InputError(f"{key}: the environment variable {unknown[0]} is not set", where=where)
    here = where.startswith(("--", "environment"))
    return Path(os.path.normpath((Path.cwd() if here else base) / text))
