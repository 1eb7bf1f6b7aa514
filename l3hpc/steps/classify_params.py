"""Parameters of the step classify, and the published recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from l3hpc.steps.base import Params, absolute

# What a recipe sets, unless it is set explicitly.
RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "published": {"level": "coarse", "model": "mil", "hidden_layers": 0, "learning_rate": 1e-5,
                  "epochs": 1500, "patience": 1500, "batch_size": 64},
    "dcase2020": {"hidden_layers": 1, "hidden_size": 128, "learning_rate": 1e-3, "batch_size": 64,
                  "epochs": 100, "patience": 20, "seed": 0, "metadata": True,
                  "targets": "volunteers"},
}


class ClassifyParams(Params):
    """The classifier, what it is given, and how it is trained."""

    added = frozenset({"recipe", "targets", "split_path", "metadata", "pca", "pca_components",
                       "oversample", "oversample_iters", "thresh_type", "seeds", "timestamp",
                       "phi"})

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    recipe: Literal["default", "published", "dcase2020"] = Field("default", description=(
        "published: rate, epochs and batches of the published jobs; dcase2020: the baseline of "
        "DCASE 2020, task 5. Both set defaults: what is set explicitly counts."))
    phi: Path | None = Field(None, description=(
        "φ that reduces the embeddings before they are classified, for those of its teacher: a "
        "run that fitted it, or its file."))
    level: Literal["coarse", "fine", "both"] = Field("coarse", description=(
        "Tags to learn; 'both' trains two classifiers."))
    model: Literal["mil", "framewise"] = Field("mil", description=(
        "mil: one prediction per clip, with AutoPool; framewise: one per frame, averaged."))
    hidden_layers: int = Field(0, ge=0, le=8, description="Number of hidden layers.")
    hidden_size: int = Field(128, ge=1, description="Units of each hidden layer.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate.")
    l2: float = Field(1e-5, ge=0, description="L2 penalty on the weights.")
    batch_size: int | None = Field(None, ge=1, description=(
        "Clips per batch, or frames with framewise (none: 64, or fewer if an epoch would have "
        "fewer than 16 batches)."))
    epochs: int = Field(100, ge=1, description="Maximum number of epochs.")
    patience: int = Field(20, ge=1, description=(
        "Early stopping: epochs without a lower validation loss."))
    standardize: bool = Field(True, description=(
        "Standardise the embeddings, with statistics of the training clips."))
    seed: int = Field(0, ge=0, description="Seed of weights and batch order.")
    seeds: int = Field(1, ge=1, le=100, description=(
        "Classifiers to train, a task each, with the seeds seed, seed + 1, …; evaluate gives mean "
        "and spread."))
    targets: Literal["agreed", "volunteers"] = Field("agreed", description=(
        "agreed: agreed annotations where there are any, otherwise any annotator. volunteers: "
        "train on tags that any volunteer heard, validate on agreed annotations only."))
    split_path: Path | None = Field(None, description=(
        "CSV with sensor_id and split (train, validate, test): split by sensor, in place of the "
        "table's own split."))
    metadata: bool = Field(False, description=(
        "Also give the classifier latitude, longitude, week, day and hour of the recording "
        "(annotations v2)."))
    pca: bool = Field(False, description=(
        "Give the classifier the principal components of the embeddings, each scaled to variance "
        "1."))
    pca_components: int | None = Field(None, ge=1, description=(
        "Components of pca (none: as many as dimensions); implies pca."))
    oversample: Literal["none", "mlsmote", "lssmote"] = Field("none", description=(
        "Add synthetic training clips of rare tags (mlsmote) or rare sets of tags (lssmote)."))
    oversample_iters: int = Field(1, ge=1, le=100, description=(
        "How often oversampling is repeated, with the counts of what was made."))
    thresh_type: str = Field("mean", pattern="^(mean|percentile_[1-9][0-9]?)$", description=(
        "Imbalance ratio above which a tag is rare: the mean of all, or percentile_1 to "
        "percentile_99."))
    timestamp: bool = Field(False, description=(
        "Append the time at which the task started to Exp. ID, so that another classification with "
        "the same settings has a row of its own."))

    _absolute = field_validator("phi", "split_path")(absolute)

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if values.get("pca_components") is not None:
            values = {"pca": True, **values}
        recipe = values.get("recipe")
        return {**RECIPES.get(recipe if isinstance(recipe, str) else "", {}), **values}

    def value_if_left_out(self, name: str) -> Any:
        """The value of the recipe, or the default."""
        return RECIPES[self.recipe].get(name, super().value_if_left_out(name))
