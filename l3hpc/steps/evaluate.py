"""evaluate: how good predictions of urban sound tags are, and the row that the ledger gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.files import digest_file
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task
from l3hpc.steps.classify import label_files

NAME = "evaluate"
VERSION = 1
TITLE = "precision and recall per tag, and the ledger row"
INPUTS = {"classify": "optional"}
PLACES = frozenset({"sonyc_ust", "annotations", "taxonomy", "predictions"})


class Params(BaseParams):
    """Which predictions against which ground truth."""

    predictions: Path | None = Field(None, description=(
        "A predictions CSV from anywhere (none: those that classify made)."))
    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, in place of naming annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    split: Literal["validate", "test"] = Field("validate", description=(
        "The split whose numbers go into the ledger; both are evaluated where predicted."))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse missing annotations, and predictions from nowhere."""
    own = params.get(NAME)
    if not isinstance(own, Params):
        return
    label_files(own, NAME)
    if own.predictions is not None and not own.predictions.is_file():
        raise InputError(f"no such file {own.predictions}", where="evaluate.predictions")


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Annotations, taxonomy and named predictions by their bytes."""
    assert isinstance(params, Params)
    check({NAME: params})
    annotations, taxonomy = label_files(params, NAME)
    return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy),
            "predictions": digest_file(params.predictions) if params.predictions else None}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Write ``evaluation.json``, ``curves.json`` and record the ledger row."""
    raise NotImplementedError


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``coarse micro-AUPRC 0.797 (validate)``."""
    if not results:
        return ""
    result = results[0]
    split = result.get("split", "validate")
    scores = result.get("metrics", {}).get(split, {})
    return ", ".join(f"{level} micro-AUPRC {values['micro_auprc']:.3f}"
                     for level, values in scores.items()) + f" ({split})"
