"""The configuration in effect: cluster.yaml, environment and command line, with every value's
origin.

The first of these counts: command line, cluster.yaml, environment variables of the published jobs,
default. Relative paths start at the folder of the user's cluster.yaml (or the working folder).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from l3hpc.config import positions, sources
from l3hpc.config.positions import Document, checked
from l3hpc.config.profile import ClusterProfile, Plain, Section
from l3hpc.config.validators import plain
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


def sheet_id(value: object) -> str:
    """Return the id of a Google Sheet.

    Parameters
    ----------
    value
        The id, or the whole address of the sheet.

    Raises
    ------
    InputError
        If it is neither.

    Examples
    --------
    >>> sheet_id("https://docs.google.com/spreadsheets/d/1AbC-d_e/edit#gid=0")
    '1AbC-d_e'
    """
    text = str(value).strip()
    match = re.search(r"/spreadsheets/d/([A-Za-z0-9_-]+)", text)
    text = match[1] if match else text
    if not re.fullmatch(r"[A-Za-z0-9_-]{5,200}", text):
        raise InputError(f"{text[:60]!r} is not the id of a Google Sheet",
                         allowed="letters, digits, - and _; or the sheet's whole https address")
    return text


SheetId = Annotated[str, BeforeValidator(checked(sheet_id))]


class PathSettings(Section):
    """``paths:`` as written. ``~`` and ``$VARIABLES`` are expanded later; None: not set.

    Attributes
    ----------
    workspace : str
        Folder of runs, artifacts and journals.
    audio, embeddings, sonyc_ust, us8k, esc50 : str or None
        Folders of data sets.
    weights : str or None
        Weight file of the teacher, or a name such as ``untrained``.
    """

    workspace: Plain = "workspace"
    audio: Plain | None = None
    embeddings: Plain | None = None
    sonyc_ust: Plain | None = None
    us8k: Plain | None = None
    esc50: Plain | None = None
    weights: Plain | None = None


class LedgerSettings(Section):
    """``ledger:`` as written: the results sheet, which only ``l3hpc ledger`` commands contact.

    Attributes
    ----------
    sheet_id : str or None
        Id of the Google Sheet.
    key_file : str or None
        Key file of a service account.
    """

    sheet_id: SheetId | None = None
    key_file: Plain | None = None


class ClusterFile(Section):
    """The whole of cluster.yaml.

    Attributes
    ----------
    cluster : str
        The default profile.
    paths : PathSettings
        ``paths:``.
    ledger : LedgerSettings
        ``ledger:``.
    clusters : dict
        Name → profile as written.
    """

    cluster: str = "local"
    paths: PathSettings = Field(default_factory=PathSettings)
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    clusters: dict[str, dict[str, Any] | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Paths:
    """Absolute paths; None: not set.

    Attributes
    ----------
    workspace : Path
        Folder of runs, artifacts and journals.
    audio, embeddings, sonyc_ust, us8k, esc50 : Path or None
        Folders of data sets.
    weights : str or None
        Weight file of the teacher, or a name such as ``untrained``.
    """

    workspace: Path
    audio: Path | None = None
    embeddings: Path | None = None
    sonyc_ust: Path | None = None
    us8k: Path | None = None
    esc50: Path | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Ledger:
    """Settings of the results sheet.

    Attributes
    ----------
    sheet_id : str or None
        Id of the Google Sheet.
    key_file : Path or None
        Key file of a service account.
    """

    sheet_id: str | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Config:
    """The values in effect.

    Attributes
    ----------
    file : Path
        The cluster.yaml.
    profile : ClusterProfile
        The cluster profile.
    paths : Paths
        The paths.
    ledger : Ledger
        The results sheet.
    clusters : tuple of str
        Names of all profiles.
    origins : mapping of str to str
        Dotted key → where its value comes from.
    """

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
        """Return where a value comes from.

        Parameters
        ----------
        key
            Its dotted key.

        Returns
        -------
        str
            ``cluster.yaml:12``, ``environment variable AUDIO_DIR``, ``--cluster`` or ``default``.
        """
        return self.origins.get(key, "default")

    def values(self) -> dict[str, Any]:
        """Return every value in effect by its dotted key, JSON-ready, in the order of the file."""
        rows: dict[str, Any] = {"cluster": self.profile.name}
        for section, content in (("paths", vars(self.paths)), ("ledger", vars(self.ledger))):
            for name, value in content.items():
                rows[f"{section}.{name}"] = str(value) if isinstance(value, Path) else value
        for name, value in self.profile.model_dump(mode="json").items():
            if name != "name":
                rows[f"clusters.{self.profile.name}.{name}"] = value
        return rows


def check_workspace(workspace: Path, origin: str) -> Path:
    """Check that a path can be that of a workspace, and may stand in scripts and log paths.

    sbatch cannot read a quote or a backslash in an ``#SBATCH`` line; Slurm replaces ``%j`` and the
    like in a log path, and submitit in every path below the workspace.

    Parameters
    ----------
    workspace
        The whole path: a folder above the workspace may have such a name, too.
    origin
        What set it, for the message.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    InputError
        If it cannot be used.
    """
    text, where = str(workspace), None if origin == "default" else origin
    # the workspace need not exist yet, but what exists above it must be a folder
    existing = next((folder for folder in (workspace, *workspace.parents)
                     if os.path.exists(folder)), workspace)
    another = "Choose another folder: --workspace, or paths.workspace in cluster.yaml."
    if os.path.isfile(existing):
        raise InputError(f"paths.workspace: {existing} is a file, not a folder", where=where,
                         hint=another)
    # nothing can be made there, and everything would be taken for what exists and is unreadable
    for folder in itertools.takewhile(lambda one: one != existing,
                                      (workspace, *workspace.parents)):
        if os.path.islink(folder):
            raise InputError(f"paths.workspace: {folder} is a link to {os.readlink(folder)}, which "
                             "does not exist or leads back to it", where=where, hint=another)
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
        raise InputError(f"paths.workspace: {text!r} contains {kind}, which sbatch does not accept",
                         where=where, hint=hint)
    return workspace


def load(
    path: str | Path | None = None, cluster: str | None = None, *,
    overrides: Mapping[str, tuple[str, str]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Load the configuration in effect.

    Parameters
    ----------
    path
        A cluster.yaml; None: that of the working folder, else the delivered one.
    cluster
        Name of a profile; None: ``cluster:`` of the file, else ``local``.
    overrides
        Dotted key (``paths.workspace``) → value, and the option that set it.
    environ
        Environment variables; None: those of this process.

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
                         hint="Remove --config to use ./cluster.yaml.")
    file = Path(path) if path is not None else sources.cluster_file()
    document = positions.load(file)
    content = positions.validated(ClusterFile, document)
    origins: dict[str, str] = {}
    settings = _settings(content, document, dict(overrides or {}),
                         os.environ if environ is None else environ, origins)
    delivered = file.resolve() == (sources.defaults_folder() / "cluster.yaml").resolve()
    # relative to the user's own file; the delivered one lies in the installation
    base = Path.cwd() if delivered else file.resolve().parent
    name = cluster or content.cluster
    if cluster:
        origins["cluster"] = "--cluster"
    elif document.has(("cluster",)):
        origins["cluster"] = document.where(("cluster",))
    profiles = _profiles(content, document, base)
    if name not in profiles:
        where = "--cluster" if cluster else document.where(("cluster",))
        raise InputError(f"there is no cluster {name!r}", where=where,
                         allowed=nearest(name, profiles),
                         hint=f"profiles are listed under clusters: in {file}")
    for keys in document.lines:
        if len(keys) >= 3 and keys[:2] == ("clusters", name):
            origins[".".join(str(key) for key in keys)] = document.where(keys)
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


def _profiles(content: ClusterFile, document: Document, base: Path) -> dict[str, ClusterProfile]:
    profiles = {"local": ClusterProfile(name="local")}
    for name, entry in content.clusters.items():
        keys = ("clusters", name)
        if "name" in (entry or {}):
            raise document.refuse((*keys, "name"), "the name of a profile is its key: remove name:")
        values = {**(entry or {}), "name": name}
        profile = positions.validated(ClusterProfile, document, keys, values)
        if profile.notify is not None:
            profile = profile.model_copy(update={"notify": profile.notify.below(base)})
        profiles[name] = profile
    return profiles


def _settings(content: ClusterFile, document: Document,
              overrides: dict[str, tuple[str, str]], environ: Mapping[str, str],
              origins: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for section in ("paths", "ledger"):
        for name, value in getattr(content, section):
            key, keys = f"{section}.{name}", (section, name)
            variable = ENVIRONMENT.get(key)
            if key in overrides:
                value, origins[key] = overrides[key]
            elif document.has(keys) and value is not None:
                origins[key] = document.where(keys)
            elif variable and environ.get(variable):
                value, origins[key] = environ[variable], f"environment variable {variable}"
                value = sheet_id(value) if key == "ledger.sheet_id" else value
            settings[key] = value
    return settings


def _optional(settings: Mapping[str, Any], key: str, base: Path,
              origins: Mapping[str, str]) -> Path | None:
    return None if settings[key] is None else _path(settings[key], base, key, origins)


def _weights(value: str | None, base: Path, origins: Mapping[str, str]) -> str | None:
    # untrained:SEED is a name, not a path, and hear:package.module has one after an @ at most
    if value is None or value.split(":")[0] == "untrained":
        return value
    if value.startswith("hear:"):
        module, at, path = value.partition("@")
        return f"{module}@{_path(path, base, 'paths.weights', origins)}" if at else module
    return str(_path(value, base, "paths.weights", origins))


def _path(value: str, base: Path, key: str, origins: Mapping[str, str]) -> Path:
    """An absolute path; those from the command line or environment are relative to the current
    folder.
    """
    where = origins.get(key, "default")
    text = os.path.expandvars(os.path.expanduser(value))
    try:
        plain(text)
    except InputError as error:
        raise InputError(f"{key}: {error.message}", where=where) from None
    if not text.strip():
        raise InputError(f"{key}: the path is empty", where=where)
    # expandvars leaves an unknown variable as it is: a folder named $HOME2 would be made
    if unknown := re.search(r"\$(\w+|\{[^}]*\})", text):
        raise InputError(f"{key}: the environment variable {unknown[0]} is not set", where=where)
    # what is typed in a shell is relative to the folder that it is typed in
    from_shell = where.startswith(("--", "environment"))
    return Path(os.path.normpath((Path.cwd() if from_shell else base) / text))
