"""The pip command that installs an optional part of l3hpc into this installation.

l3hpc is in no package registry, so ``pip install 'l3hpc[umap]'`` would find nothing. pip records
where it installed a package from (PEP 610, ``direct_url.json``): a clone, a wheel or a repository.
The command names that source, or the clone if none was recorded.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import TypedDict, cast
from urllib.parse import unquote, urlsplit

IN_THE_CLONE = "in the folder of the l3hpc clone"


class _DirInfo(TypedDict, total=False):
    editable: bool


class _VcsInfo(TypedDict, total=False):
    vcs: str
    requested_revision: str


class _DirectUrl(TypedDict, total=False):
    """The fields of ``direct_url.json`` that are used here."""

    url: str
    dir_info: _DirInfo
    vcs_info: _VcsInfo


def install_command(extra: str = "", *options: str) -> str:
    """Return the command that installs l3hpc again, with an extra.

    Parameters
    ----------
    extra
        A name in ``[options.extras_require]`` of setup.cfg; empty for l3hpc alone.
    *options
        Further options of ``pip install``, such as ``--force-reinstall``.

    Returns
    -------
    str
        For example ``pip install '/home/me/l3hpc[umap]'``. If the source is unknown or was
        removed: ``pip install '.[umap]'`` and the folder to run it in.
    """
    names = f"[{extra}]" if extra else ""
    origin = _origin()
    if not origin:
        return f"{_pip(*options, f'.{names}')} ({IN_THE_CLONE})"
    editable = ("--editable",) if origin.get("dir_info", {}).get("editable") else ()
    if origin["url"].startswith("file:"):
        path = unquote(urlsplit(origin["url"]).path)
        return _pip(*options, *editable, f"{path}{names}")
    version_control = origin.get("vcs_info", {})
    url = "+".join(filter(None, (version_control.get("vcs"), origin["url"])))
    revision = version_control.get("requested_revision")
    return _pip(*options, f"l3hpc{names} @ {url}{f'@{revision}' if revision else ''}")


def _pip(*words: str) -> str:
    """The pip command, quoted for a shell (zsh would expand the brackets of an extra)."""
    return shlex.join(("pip", "install", *words))


@functools.lru_cache(maxsize=1)
def _origin() -> _DirectUrl:
    """The source of this installation as pip recorded it; empty if unknown or removed."""
    try:
        text = importlib.metadata.distribution("l3hpc").read_text("direct_url.json")
        origin = json.loads(text or "{}")
        url = urlsplit(origin["url"])
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        return {}
    # A missing or damaged record must not hide the error that this command is the hint of.
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return {}
    if url.scheme == "file" and not Path(unquote(url.path)).exists():
        return {}
    return cast("_DirectUrl", dict(origin))
