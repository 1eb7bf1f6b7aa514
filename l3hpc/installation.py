"""How to install an optional part of l3hpc: the command that works for this very installation.

l3hpc is in no package registry, so ``pip install 'l3hpc[umap]'`` would find nothing. pip notes
where a package came from (PEP 610, ``direct_url.json``): a clone, a wheel or a repository.
The command names that place, or the clone where nothing was noted.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

IN_THE_CLONE = "in the folder of the l3hpc clone"


def install_command(extra: str = "", *options: str) -> str:
    """The line to type that installs l3hpc again, with an extra.

    Parameters
    ----------
    extra
        A name of ``[options.extras_require]`` in setup.cfg, or nothing for l3hpc alone.
    options
        Further options of ``pip install``, such as ``--force-reinstall``.

    Returns
    -------
    str
        ``pip install '/home/me/l3hpc[umap]'`` and the like. Where the source is unknown or gone,
        ``pip install '.[umap]'`` and where to type it.
    """
    names = f"[{extra}]" if extra else ""
    origin = _origin()
    if not origin:
        return f"{_pip(*options, f'.{names}')} ({IN_THE_CLONE})"
    editable = ("--editable",) if origin.get("dir_info", {}).get("editable") else ()
    place = unquote(urlsplit(origin["url"]).path)
    if origin["url"].startswith("file:"):
        return _pip(*options, *editable, f"{place}{names}")
    version_control = origin.get("vcs_info", {})
    url = "+".join(filter(None, (version_control.get("vcs"), origin["url"])))
    revision = version_control.get("requested_revision")
    return _pip(*options, f"l3hpc{names} @ {url}{f'@{revision}' if revision else ''}")


def _pip(*words: str) -> str:
    """The command, quoted for pasting; always with quotes where the shell would expand brackets."""
    return shlex.join(("pip", "install", *words))


@functools.lru_cache(maxsize=1)
def _origin() -> dict[str, Any]:
    """What pip noted of where l3hpc came from; empty where it noted nothing or it is gone."""
    try:
        text = importlib.metadata.distribution("l3hpc").read_text("direct_url.json")
        found = json.loads(text or "{}")
        url = urlsplit(found["url"])
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        return {}
    except (AttributeError, KeyError, TypeError, ValueError, OSError):  # no note, or a damaged one
        return {}
    if url.scheme == "file" and not Path(unquote(url.path)).exists():
        return {}
    return dict(found)
