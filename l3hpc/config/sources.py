"""Where cluster.yaml, pipelines and templates come from: the user's own first, then ours.

A working folder may have its own ``cluster.yaml``, ``jobs/`` and ``templates/``. Everything else
comes from the package: ``l3hpc/defaults/`` in an installed wheel, or the source tree beside it.
"""

from __future__ import annotations

from pathlib import Path

from l3hpc.errors import InputError, nearest
from l3hpc.installation import install_command

_PACKAGE = Path(__file__).resolve().parent.parent


def defaults_folder() -> Path:
    """Return the folder of the delivered cluster.yaml, jobs/ and templates/.

    Raises
    ------
    InputError
        If the installation does not have them.
    """
    for folder in (_PACKAGE / "defaults", _PACKAGE.parent):
        if (folder / "templates" / "base.sbatch.j2").is_file():
            return folder
    raise InputError(
        "this installation does not contain the pipelines and templates",
        where=str(_PACKAGE),
        hint=f"Reinstall l3hpc: {install_command('', '--force-reinstall')}",
    )


def cluster_file(folder: Path | None = None) -> Path:
    """Return the ``cluster.yaml`` of a working folder, else the delivered one.

    Parameters
    ----------
    folder
        The working folder; None: the current one.
    """
    own = (folder or Path.cwd()) / "cluster.yaml"
    return own if own.is_file() else defaults_folder() / "cluster.yaml"


def template_folders() -> list[Path]:
    """Return the folders in which templates are looked up, in this order."""
    own = Path.cwd() / "templates"
    delivered = defaults_folder() / "templates"
    return [own, delivered] if own.is_dir() and own != delivered else [delivered]


def pipelines(folder: Path | None = None) -> dict[str, Path]:
    """Find all pipelines.

    Parameters
    ----------
    folder
        The working folder; None: the current one.

    Returns
    -------
    dict of str to Path
        Name → file; a file of the working folder takes precedence over a delivered one.
    """
    found: dict[str, Path] = {}
    for jobs in (defaults_folder() / "jobs", (folder or Path.cwd()) / "jobs"):
        # the user's own come second and replace delivered ones of the same name
        found.update({path.stem: path for path in sorted(jobs.glob("*.yaml"))})
    return found


def pipeline_file(name: str, folder: Path | None = None) -> Path:
    """Find the file of a pipeline.

    Parameters
    ----------
    name
        Its name.
    folder
        The working folder; None: the current one.

    Raises
    ------
    InputError
        If there is no such pipeline; lists the valid names.
    """
    found = pipelines(folder)
    if name not in found:
        raise InputError(f"there is no pipeline {name!r}", allowed=nearest(name, found),
                         hint=f"A pipeline of your own belongs in jobs/{name}.yaml."
                         if name.isidentifier() else None)
    return found[name]


def own_files(config_file: Path | None = None) -> list[Path]:
    """Find the files that decide what jobs do and that are not delivered with l3hpc.

    Parameters
    ----------
    config_file
        The cluster.yaml in use; None: that of the current folder.

    Returns
    -------
    list of Path
        cluster.yaml, pipelines and templates; those below the current folder relative to it.
    """
    here = Path.cwd()
    found = [config_file or cluster_file()]
    for folder, pattern in (("jobs", "*.yaml"), ("templates", "*.j2")):
        found += sorted((here / folder).glob(pattern))
    delivered = defaults_folder()
    return [path.relative_to(here) if path.is_relative_to(here) else path
            for path in map(Path.absolute, found) if not path.is_relative_to(delivered)]
