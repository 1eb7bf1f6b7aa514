"""reduce: φ applied to every row of the teacher's embeddings, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "reduce"
VERSION = 1
TITLE = "φ applied to every embedding"
INPUTS = {"extract": "required", "fit": "required"}
PLACES = frozenset({"chunk"})


class Params(BaseParams):
    """How φ is applied."""

    chunk: int = Field(8192, ge=1, description="Rows that are read, reduced and written at once.")


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
    """Write ``reduced.h5`` (or files of the same names as a published folder's)."""
    raise NotImplementedError


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``29,480,960 rows``."""
    return f"{sum(result.get('rows', 0) for result in results):,} rows"
