"""Parameters of the step classify, and the published recipes by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from l3hpc.errors import InputError, setting
from l3hpc.steps.base import Params, absolute
from l3hpc.steps.params import LEAST, MAX_BATCH, MAX_SEED, MOST

# What a recipe sets, unless it is set explicitly.
RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "published": {"level": "coarse", "model": "mil", "hidden_layers": 0, "learning_rate": 1e-5,
                  "epochs": 1500, "patience": 1500, "batch_size": 64},
    "dcase2020": {"hidden_layers": 1, "hidden_size": 128, "learning_rate": 1e-3, "batch_size": 64,
                  "epochs": 100, "patience": 20, "seed": 0, "autopool_constraint": False,
                  "metadata": True, "targets": "volunteers"},
}

# Options of the network that the published classifier has and this one was given later.
NETWORK: Final = ("autopool_constraint", "sensor_factor", "proximity_factor", "optimizer",
                  "cooccurrence_loss", "cooccurrence_loss_factor")


class ClassifyParams(Params):
    """The classifier, what it is given, and how it is trained."""

    added = frozenset({"recipe", "targets", "split_path", "metadata", "pca", "pca_components",
                       "oversample", "oversample_iters", "thresh_type", "seeds", "timestamp",
                       "phi", *NETWORK})

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
    recipe: Literal["default", "published", "dcase2020"] = Field("default", description=(
        "published: rate, epochs and batches of the published jobs; dcase2020: the baseline of "
        "DCASE 2020, task 5. Explicit settings override both."))
    phi: Path | None = Field(None, description=(
        "φ that reduces the embeddings before they are classified, for those of its teacher: a "
        "run that fitted it, or its file."))
    level: Literal["coarse", "fine", "both"] = Field("coarse", description=(
        "Tags to learn; 'both' trains two classifiers."))
    model: Literal["mil", "framewise"] = Field("mil", description=(
        "mil: one prediction per clip, with AutoPool; framewise: one per frame, averaged."))
    autopool_constraint: bool = Field(True, description=(
        "Keep the weights of AutoPool at 0 or above: between the mean and the maximum."))
    hidden_layers: int = Field(0, ge=0, le=8, description="Number of hidden layers.")
    hidden_size: int = Field(128, ge=1, le=65_536, description="Units of each hidden layer.")
    sensor_factor: bool = Field(False, description=(
        "Also learn which sensor recorded the clip; the prediction is a further input of the tag "
        "output."))
    proximity_factor: bool = Field(False, description=(
        "Also learn for each tag whether its source is near or far, by majority of the annotators; "
        "the predictions are further inputs of the tag output."))
    optimizer: Literal["adam", "lbfgs"] = Field("adam", description=(
        "adam: on batches; lbfgs: L-BFGS-B on all training clips, an epoch is an iteration."))
    learning_rate: float = Field(1e-3, ge=LEAST, le=1, description=(
        "Adam's learning rate; lbfgs has none."))
    l2: float = Field(1e-5, ge=0, le=MOST, description="L2 penalty on the weights.")
    cooccurrence_loss: bool = Field(False, description=(
        "Add to the loss of a batch cooccurrence_loss_factor · yᵀ L y: y are its summed "
        "predictions, L is the graph Laplacian of how often tags occur together in training."))
    cooccurrence_loss_factor: float = Field(1e-5, ge=LEAST, le=MOST, description=(
        "Factor of cooccurrence_loss."))
    batch_size: int | None = Field(None, ge=1, le=MAX_BATCH, description=(
        "Clips per batch, or frames with framewise (none: 64, or fewer if an epoch would have "
        "fewer than 16 batches)."))
    epochs: int = Field(100, ge=1, le=MOST, description="Maximum number of epochs.")
    patience: int = Field(20, ge=1, le=MOST, description=(
        "Early stopping: epochs without a lower validation loss."))
    standardize: bool = Field(True, description=(
        "Standardise the embeddings, with statistics of the training clips."))
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of weights and batch order.")
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
    pca_components: int | None = Field(None, ge=1, le=MOST, description=(
        "Principal components to keep (none: no PCA, or all with pca); implies pca."))
    oversample: Literal["none", "mlsmote", "lssmote"] = Field("none", description=(
        "Add synthetic training clips of rare tags (mlsmote) or rare sets of tags (lssmote)."))
    oversample_iters: int = Field(1, ge=1, le=100, description=(
        "How often oversampling is repeated, with the counts of what was made."))
    thresh_type: str = Field("mean", description=(
        "Imbalance ratio above which a tag is rare: the mean of all, or percentile_1 to "
        "percentile_99."))
    timestamp: bool = Field(False, description=(
        "Append the time at which the task started to Exp. ID, so that another classification with "
        "the same settings has a row of its own."))

    _absolute = field_validator("phi", "split_path")(absolute)

    @field_validator("thresh_type")
    @classmethod
    def _threshold(cls, value: str) -> str:
        if not re.fullmatch("mean|percentile_[1-9][0-9]?", value):
            raise ValueError("write mean, or percentile_1 to percentile_99")
        return value

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


def check_network(params: ClassifyParams, annotations: Path, taxonomy: Path) -> None:
    """Refuse options of the network that have no effect together, or nothing to learn from.

    Parameters
    ----------
    params
        Parameters of the step.
    annotations, taxonomy
        The files.

    Raises
    ------
    InputError
        For such options, with the parameter.
    """
    from l3hpc.datasets.taxonomy import Taxonomy
    from l3hpc.io.tables import read_rows, require_columns
    from l3hpc.tagging.clip_metadata import read_split

    # a value without effect is refused: the ledger would show it beside the result
    if params.model == "framewise" and not params.autopool_constraint:
        raise InputError("a framewise classifier has no AutoPool",
                         where="classify.autopool_constraint",
                         hint=f"Use {setting('classify.model', 'mil')}, or "
                              f"{setting('classify.autopool_constraint', 'true')}")
    if params.model == "framewise" and params.optimizer == "lbfgs" and not params.standardize:
        raise InputError("L-BFGS has no batches by which a framewise classifier normalises its "
                         "input", where="classify.standardize",
                         hint=f"Use {setting('classify.standardize', 'true')}")
    if not params.hidden_layers and params.hidden_size != params.value_if_left_out("hidden_size"):
        raise InputError("has no effect without hidden layers", where="classify.hidden_size",
                         hint=f"Add {setting('classify.hidden_layers', 1)}")
    default = params.value_if_left_out("cooccurrence_loss_factor")
    if params.cooccurrence_loss_factor != default and not params.cooccurrence_loss:
        raise InputError("has no effect without cooccurrence_loss",
                         where="classify.cooccurrence_loss_factor",
                         hint=f"Add {setting('classify.cooccurrence_loss', 'true')}")
    if (params.optimizer == "lbfgs"
            and params.learning_rate != params.value_if_left_out("learning_rate")):
        raise InputError("L-BFGS has no learning rate", where="classify.learning_rate",
                         hint="Leave learning_rate out, or use "
                              + setting("classify.optimizer", "adam"))
    # a synthetic clip is mixed of two, which may have two sensors and two distances
    for name in ("sensor_factor", "proximity_factor"):
        if getattr(params, name) and params.oversample != "none":
            raise InputError(f"synthetic clips have no {name.removesuffix('_factor')}",
                             where=f"classify.{name}", hint="Leave this or oversample out.")
    if not (params.sensor_factor or params.proximity_factor):
        return
    table = read_rows(annotations, "annotations")
    line, columns = next(table)
    if params.proximity_factor:
        require_columns(columns, [f"{column}_proximity"
                                  for column in Taxonomy.load(taxonomy).fine_columns],
                        f"{annotations}:{line}")
    if params.sensor_factor:
        require_columns(columns, ["sensor_id", "split"], f"{annotations}:{line}")
        sensor, split = columns.index("sensor_id"), columns.index("split")
        split_of = read_split(params.split_path) if params.split_path else None
        trained = {row[sensor] for _, row in table
                   if (row[split] if split_of is None else split_of.get(row[sensor])) == "train"}
        if len(trained) < 2:
            raise InputError("all clips to train on are of one sensor: there is nothing to learn",
                             where="classify.sensor_factor", hint="Leave sensor_factor out.")
