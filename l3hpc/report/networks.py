"""Which network the results of a run come from, even if an earlier run made its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.files import read_json
from l3hpc.steps import networks
from l3hpc.workspace.layout import ArtifactFolder


def network_of(artifacts: Iterable[Path]) -> Mapping[str, Any]:
    """Return the network that made the embeddings of a run: of its teacher, else of its student.

    Parameters
    ----------
    artifacts
        Artifact folders of its steps, in order.

    Returns
    -------
    Mapping
        As ``l3hpc.steps.networks.network_of``.
    """
    return next(filter(None, map(networks.network_of, _with_inputs(artifacts))), {})


def has_random_weights(artifacts: Iterable[Path]) -> bool:
    """Return whether results of a run come from a network with random weights.

    Parameters
    ----------
    artifacts
        Artifact folders of its steps.
    """
    return any(map(networks.has_random_weights, _with_inputs(artifacts)))


def _with_inputs(artifacts: Iterable[Path]) -> list[Path]:
    """The artifacts, then those of earlier runs that they read."""
    found = dict.fromkeys(map(Path, artifacts))
    for folder in list(found):
        try:
            content = read_json(ArtifactFolder(folder).config)
        except (FileNotFoundError, InputError):  # a damaged config is noted by what shows it
            continue
        inputs = content.get("inputs") if isinstance(content, dict) else None
        found |= {Path(path): None for path in (inputs or {}).values() if isinstance(path, str)}
    return list(found)
