"""classify: a classifier of urban sound tags on the embeddings, chosen on validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.files import digest_file
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "classify"
VERSION = 1
TITLE = "a tag classifier on the student's embeddings"
INPUTS = {"embed": "required"}
PLACES = frozenset({"sonyc_ust", "annotations", "taxonomy"})


class Params(BaseParams):
    """The classifier and how it is trained."""

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, in place of naming annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    level: Literal["coarse", "fine", "both"] = Field("coarse", description=(
        "Tags to learn; both trains two classifiers."))
    model: Literal["mil", "framewise"] = Field("mil", description=(
        "mil: one answer per clip through AutoPool; framewise: one per frame, then averaged."))
    hidden_layers: int = Field(0, ge=0, le=8, description="Hidden layers.")
    hidden_size: int = Field(128, ge=1, description="Units of each hidden layer.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate.")
    l2: float = Field(1e-5, ge=0, description="L2 penalty of the weights.")
    batch_size: int = Field(64, ge=1, description="Clips per batch.")
    epochs: int = Field(100, ge=1, description="The most epochs.")
    patience: int = Field(20, ge=1, description="Epochs without a better validation loss.")
    standardize: bool = Field(True, description="Standardise the embeddings on the training clips.")
    seed: int = Field(0, ge=0, description="Seed of weights and order.")


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse when neither the SONYC-UST folder nor annotations and taxonomy are named."""
    own = params.get(NAME)
    if isinstance(own, Params):
        label_files(own, NAME)


def label_files(params: Any, step: str) -> tuple[Path, Path]:
    """Paths of annotations and taxonomy: named, or found in ``sonyc_ust``.

    Raises ``InputError`` when one is missing.
    """
    found: dict[str, Path | None] = {
        "annotations": params.annotations, "taxonomy": params.taxonomy}
    if params.sonyc_ust is not None and None in found.values():
        from l3hpc.datasets.sonyc_ust import locate

        paths = locate(params.sonyc_ust)
        found = {name: path or Path(getattr(paths, name)) for name, path in found.items()}
    for name, path in found.items():
        if path is None:
            raise InputError(
                f"needs {name}", where=f"{step}.{name}",
                hint=f"Name it: --sonyc-ust FOLDER, or --set {step}.{name}=FILE")
        if not path.is_file():
            raise InputError(f"no such file {path}", where=f"{step}.{name}")
    assert found["annotations"] is not None and found["taxonomy"] is not None
    return found["annotations"], found["taxonomy"]


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Annotations and taxonomy by their bytes."""
    annotations, taxonomy = label_files(params, NAME)
    return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy)}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Train, then write models, histories and the predictions for validate and test."""
    raise NotImplementedError


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``mil, coarse: best epoch 31 of 51``."""
    if not results:
        return ""
    result = results[0]
    levels = [f"{level}: best epoch {one.get('best_epoch')} of {one.get('epochs')}"
              for level, one in result.get("levels", {}).items()]
    return f"{result.get('model')}, {'; '.join(levels)}"
