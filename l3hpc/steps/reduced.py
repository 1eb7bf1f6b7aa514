"""Reduced precision in the steps that embed: the windows it needs, the network, what is said of it.

Ranges of int8 come from a few recordings of the whole listing, the same for every task of an array;
the deviation from float32 is measured on each task's own recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from l3hpc.steps.base import Task

if TYPE_CHECKING:
    from l3hpc.datasets.corpus import Recording
    from l3hpc.models.embedder import Embedder

RECORDINGS = 16
RANGE_WINDOWS = 48
CHECK_WINDOWS = 24


class Settings(Protocol):
    """The parameters that both steps have."""

    @property
    def hop(self) -> float: ...

    @property
    def center(self) -> bool: ...

    @property
    def min_seconds(self) -> float: ...

    @property
    def engine(self) -> str: ...

    @property
    def precision(self) -> str: ...


def check(params: Settings, step: str) -> None:
    """Refuse (``InputError``) an engine that does not compute in the precision."""
    if params.precision != "float32":
        from l3hpc.models import precision

        precision.check(params.precision, params.engine, step)


def packages(params: Settings) -> dict[str, str]:
    """Importable name of what the precision cannot do without → how to install it."""
    if params.precision == "float32":
        return {}
    from l3hpc.models import precision

    return precision.packages(params.precision)


def ranges_from(recordings: Sequence[Recording], params: Settings) -> dict[str, Any]:
    """What a frozen task has to name beyond its own recordings."""
    if params.precision != "int8":
        return {}
    from l3hpc.datasets.windows import spread

    return {"ranges_from": [one.as_json() for one in spread(recordings, RECORDINGS)]}


def network(weights: str, params: Settings, task: Task, folder: Path,
            geometry: Mapping[str, Any]) -> tuple[Embedder, dict[str, Any], dict[str, Any]]:
    """The network ready to embed, who it is, and what the result says of its precision.

    folder: of the recordings; geometry: as for ``weights.load``. Raises ``L3hpcError`` where no
    recording tells ranges, or the embeddings are too far off.
    """
    from l3hpc.models.weights import identity, load

    known = identity(weights, geometry=geometry)
    if params.precision == "float32":
        return load(weights, geometry=geometry, threads=task.threads,
                    engine=params.engine), known, {}
    known.update(precision=params.precision, label=f"{known['label']}, {params.precision}")
    embedder, said = _reduced(weights, params, task, folder, geometry, known["spec"]["rate"])
    return embedder, known, {"precision": said}


def _reduced(weights: str, params: Settings, task: Task, folder: Path,
             geometry: Mapping[str, Any], rate: int) -> tuple[Embedder, dict[str, Any]]:
    from l3hpc.datasets.corpus import Recording
    from l3hpc.datasets.windows import spread, windows_of
    from l3hpc.errors import L3hpcError
    from l3hpc.models import precision

    def windows(recordings: Sequence[Recording], count: int) -> Any:
        return windows_of(folder, recordings, rate, params.hop, params.center, count,
                          params.min_seconds)

    ranges = [Recording.from_json(values) for values in task.shard.get("ranges_from", [])]
    frames = windows(ranges, RANGE_WINDOWS)
    if ranges and not len(frames):
        raise L3hpcError(f"none of the {len(ranges)} recordings that int8 takes its ranges from "
                         "can be used", where=str(folder),
                         hint="leave the precision at float32, or repair: l3hpc data check FOLDER")
    embedder, exact = precision.load(weights, params.precision, frames, geometry=geometry,
                                     threads=task.threads, engine=params.engine)
    own = [Recording.from_json(values) for values in task.shard["recordings"]]
    found = precision.deviation(embedder, exact, windows(spread(own, RECORDINGS), CHECK_WINDOWS))
    for text in (precision.slow_here(params.precision),
                 f"{params.precision}: {found or 'every embedding is 0, nothing to compare'}"):
        if text:
            task.progress.note(text)
    if found:
        found.refuse(params.precision)
    return embedder, {"name": params.precision, "range_windows": len(frames),
                      **(found.as_json() if found else {"frames": 0})}


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``, int8 with cosine 0.9991 to float32`` (of the task that is furthest off); float32: ''."""
    found = [result["precision"] for result in results if result.get("precision")]
    cosines = [one["cosine"] for one in found if "cosine" in one]
    if not cosines:
        return ""
    return f", {found[0]['name']} with cosine {min(cosines):.4f} to float32"
