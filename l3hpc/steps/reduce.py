"""reduce: φ applied to every row of the teacher's embeddings, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "reduce"
VERSION = 1
TITLE = "φ applied to every embedding"
INPUTS = {"extract": "required", "fit": "required"}
PLACES = frozenset({"chunk"})


class Params(BaseParams):
    """How φ is applied."""

    chunk: int = Field(2048, ge=1, description="Rows that are read, reduced and written at once.")


def check(params: Mapping[str, BaseModel]) -> None:
    """Nothing to compare: φ itself refuses rows of another dimension or teacher."""


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task per extract task; one for all files of a folder from elsewhere."""
    parts = upstream.get("extract") or []
    return [{"part": number} for number in range(len(parts))] or [{"part": None}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Nothing outside the parameters and inputs decides the result."""
    return {}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Write ``reduced.h5``, or, for published folders, files of the same names and subfolders.

    Rows keep their order. φ refuses rows of another dimension or teacher.
    """
    from l3hpc.datasets.embeddings import open_source
    from l3hpc.reduction.apply import reduce_part
    from l3hpc.reduction.store import load_phi

    assert isinstance(params, Params)
    phi = load_phi(phi_file(task.inputs["fit"]))
    number = task.shard.get("part")
    source = open_source(task.inputs["extract"], tasks=None if number is None else [number])
    parts = source.parts
    if number is None:  # one task of several may well have no row
        source.refuse_empty()
    task.progress.start("reducing", total=sum(part.rows for part in parts), unit="rows")
    written = []
    single = number is not None or (source.kind == "artifact" and len(parts) == 1)
    for part in parts:
        if single:
            target = task.output / "reduced.h5"
        else:
            base = source.path if source.path.is_dir() else source.path.parent
            target = (task.output / part.path.relative_to(base)).with_suffix(".h5")
        reduce_part(part, phi, target, chunk=params.chunk, progress=task.progress,
                    threads=task.threads)
        written.append(target.relative_to(task.output).as_posix())
    return {"rows": sum(part.rows for part in parts), "key": phi.key, "out_dim": phi.out_dim,
            "approx": phi.approx, "phi": phi.digest, "files": written}


def phi_file(folder: Path) -> Path:
    """``phi.h5`` of a fit artifact, or of a folder that holds one (or the file itself)."""
    folder = Path(folder)
    candidates = [folder] if folder.is_file() else [
        folder / "0000" / "phi.h5", folder / "phi.h5"]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError("holds no phi.h5", where=str(folder), hint="The step fit writes one.")


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``29,480,960 rows``."""
    return f"{sum(result.get('rows', 0) for result in results):,} rows"
