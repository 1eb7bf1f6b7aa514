"""sensitivity: one convolution pruned at a time, and what the embedding loses by it.

One task per layer and sparsity, or several points in a task with ``points_per_task``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from l3hpc.steps import judging
from l3hpc.steps.base import Task

NAME = "sensitivity"
VERSION = 1
TITLE = "what pruning one convolution at a time costs"
INPUTS: dict[str, str] = {}
PLACES = judging.PLACES
FILE = "sensitivity.json"


class Params(judging.JudgeParams):
    """Which network is pruned by how much, and what judges it."""

    sparsities: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        (70.0, 80.0, 85.0, 90.0, 95.0), min_length=1, description=(
            "Percent of a layer's weights that go; the published scan's are the default."))
    points_per_task: int = Field(1, ge=1, description=(
        "Points (layer and sparsity) per array task; 1: one task each."))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse a judge that cannot judge."""
    own = params.get(NAME)
    if isinstance(own, Params):
        judging.check(own, NAME)


def describe(params: Mapping[str, BaseModel]) -> str:
    """``8 layers × 5 sparsities, judged by …``."""
    from l3hpc.models.weights import describe as describe_weights

    own = params[NAME]
    assert isinstance(own, Params)
    layers = len(describe_weights(own.weights).spec.filters)
    return (f"{layers} layers × {len(own.sparsities)} sparsities, judged by "
            f"{judging.WORDS[own.kind]}")


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """Layer by layer, ``points_per_task`` points in a task."""
    from l3hpc.compression.fidelity import points
    from l3hpc.models.weights import describe as describe_weights

    assert isinstance(params, Params)
    every = points(len(describe_weights(params.weights).spec.filters), params.sparsities)
    size = params.points_per_task
    return [{"points": [[one.layer, one.sparsity] for one in every[first:first + size]]}
            for first in range(0, len(every), size)]


def digests(params: BaseModel) -> dict[str, Any]:
    """Files by their bytes, folders by their listings."""
    assert isinstance(params, Params)
    return judging.digests(params)


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Judge this task's points; write them into ``sensitivity.json``."""
    from l3hpc.compression.fidelity import Point, scan
    from l3hpc.io.files import write_json
    from l3hpc.models.weights import caution, identity, load_parameters

    assert isinstance(params, Params)
    teacher, _ = load_parameters(params.weights)
    known = identity(params.weights)
    points = [Point(int(layer), float(sparsity)) for layer, sparsity in task.shard["points"]]
    judge = judging.judge(params, teacher, task)
    task.progress.start("pruning one layer at a time", total=len(points) + 1, unit="networks")
    whole = judge(teacher)
    task.progress.advance(1)
    rows = []
    for row in scan(teacher, points, judge):
        rows.append(row)
        task.progress.advance(1, layer=row["name"], sparsity=row["sparsity"])
    told = {"judge": params.kind, "words": judging.WORDS[params.kind], "teacher": known,
            "note": caution(known), "unpruned": whole, "points": rows}
    write_json(task.output / FILE, told)
    return {"judge": params.kind, "points": rows, "unpruned": whole}


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``40 points; most sensitive: conv_4 at 95 % (cosine 0.7312)``."""
    rows = [row for result in results for row in result.get("points", [])]
    if not rows:
        return ""
    measure = "accuracy" if "accuracy" in rows[0] else "cosine"
    worst = min(rows, key=lambda row: row[measure])
    return (f"{len(rows)} points; most sensitive: {worst['name']} at {worst['sparsity']:g} % "
            f"({measure} {worst[measure]:.4f})")
