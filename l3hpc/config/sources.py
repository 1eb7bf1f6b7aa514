"""Where cluster.yaml, pipelines and templates come from: the user's own first, then ours.

A working folder may hold its own ``cluster.yaml``, ``jobs/`` and ``templates/``. What it lacks
comes from the package: ``l3hpc/defaults/`` in an installed wheel, or the source tree beside it.
"""

from __future__ import annotations

from pathlib import Path

from l3hpc.errors import InputError, nearest
from l3hpc.installation import install_command

_PACKAGE = Path(__file__).resolve().parent.parent


def defaults_folder() -> Path:
    """The folder that holds the delivered cluster.yaml, jobs/ and templates/."""
    for folder in (_PACKAGE / "defaults", _PACKAGE.parent):
        if (folder / "templates" / "base.sbatch.j2").is_file():
            return folder
    raise InputError(
        "the delivered pipelines and templates are missing from this installation",
        where=str(_PACKAGE),
        hint=f"install l3hpc again: {install_command('', '--force-reinstall')}",
    )


def cluster_file(folder: Path | None = None) -> Path:
    """``cluster.yaml`` of the working folder, else the delivered one."""
    own = (folder or Path.cwd()) / "cluster.yaml"
    return own if own.is_file() else defaults_folder() / "cluster.yaml"


def template_folders(folder: Path | None = None) -> list[Path]:
    """The folders in which templates are looked up, in this order."""
    own = (folder or Path.cwd()) / "templates"
    delivered = defaults_folder() / "templates"
    return [own, delivered] if own.is_dir() and own != delivered else [delivered]


def pipelines(folder: Path | None = None) -> dict[str, Path]:
    """Pipeline name → its file, the working folder's before the delivered ones."""
    found: dict[str, Path] = {}
    for place in (defaults_folder() / "jobs", (folder or Path.cwd()) / "jobs"):
        found.update({path.stem: path for path in sorted(place.glob("*.yaml"))})
    return found


def pipeline_file(name: str, folder: Path | None = None) -> Path:
    """The file of the pipeline ``name``; an ``InputError`` with the valid names otherwise."""
    found = pipelines(folder)
    if name not in found:
        raise InputError(f"there is no pipeline {name!r}", allowed=nearest(name, found),
                         hint=f"your own goes in jobs/{name}.yaml" if name.isidentifier()
                         else None)
    return found[name]
