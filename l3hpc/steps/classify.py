"""classify: a tag classifier on the student's embeddings of SONYC-UST.

It keeps the best epoch on the validation split, and writes predictions, which ``evaluate`` scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from l3hpc.errors import InputError
from l3hpc.io.files import digest_file
from l3hpc.steps.base import Input, Params, PlanParams, Results, Step, Task, absolute
from l3hpc.steps.embed import Embed
from l3hpc.steps.extract import network_identity
from l3hpc.steps.reduction import phi_file

if TYPE_CHECKING:
    from l3hpc.reduction.header import PhiDescription


class ClassifyParams(Params):
    """The classifier and how it is trained."""

    added: ClassVar[frozenset[str]] = frozenset({"phi"})

    sonyc_ust: Path | None = Field(None, description=(
        "Folder of SONYC-UST, instead of annotations and taxonomy."))
    annotations: Path | None = Field(None, description="annotations.csv of SONYC-UST (v1 or v2).")
    taxonomy: Path | None = Field(None, description="dcase-ust-taxonomy.yaml.")
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

    _absolute = field_validator("phi")(absolute)


class Classify(Step[ClassifyParams]):
    """A classifier of urban sound tags on the embeddings."""

    name = "classify"
    version = 2
    title = "a tag classifier on the student's embeddings"
    params_type = ClassifyParams
    inputs = {"embed": Input()}
    not_in_fingerprint = frozenset({"sonyc_ust", "annotations", "taxonomy", "phi"})
    ledger_folder = "output_dir"
    kept_files = ("predictions*.csv", "*.h5", "history*.csv")
    run_files = {"phi": ("fit", "phi.h5")}

    def check(self, params: ClassifyParams, plan: PlanParams) -> None:
        """Refuse missing annotations or taxonomy, and φ of another teacher than that of embed."""
        label_files(params, self.name)
        embed = Embed().params_in(plan)
        if params.phi is None or embed is None:
            return
        if embed.student is None:
            raise InputError("φ reduces the embeddings of its teacher, not those of a student",
                             where="classify.phi", hint="Use --teacher, or leave out --phi.")
        network = network_identity(embed.student, embed)
        with _other_teacher():
            _description(params.phi).check(network["dim"], network, where=f"--phi {params.phi}")

    def check_embeddings(self, params: ClassifyParams, source: str, available: Collection[str],
                         folder: Path, length: Callable[[str | None], int | None]) -> None:
        """Refuse embeddings that φ does not reduce: of another length or another teacher."""
        from l3hpc.datasets.clips import artifact_attributes

        dim = length(None)
        if params.phi is not None and dim is not None:
            with _other_teacher():
                _description(params.phi).check(
                    dim, artifact_attributes(folder).get("teacher"), where=str(folder))

    def describe(self, params: ClassifyParams, plan: PlanParams) -> str:
        """``through pca: 512 → 128``; empty without φ."""
        if params.phi is None:
            return ""
        phi = _description(params.phi)
        return f"through {phi.approx}: {phi.in_dim} → {phi.out_dim}"

    def digests(self, params: ClassifyParams) -> dict[str, Any]:
        """Annotations and taxonomy by their bytes, φ by its own digest."""
        annotations, taxonomy = label_files(params, self.name)
        # Without φ there is no entry, so that the fingerprints of earlier versions hold.
        phi = {} if params.phi is None else {"phi": _description(params.phi).digest}
        return {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy), **phi}

    def run(self, params: ClassifyParams, task: Task) -> dict[str, Any]:
        """Train, then write models, histories and the predictions for validate and test.

        Predictions cover the clips with agreed annotations, which can be scored. Such a clip
        without an embedding gets 0 for every tag, and is logged and counted.
        """
        from l3hpc.datasets.clips import artifact_attributes, load_clips
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.io.files import write_json
        from l3hpc.models.training.engine import limit_threads
        from l3hpc.reduction.phi import load_phi
        from l3hpc.tagging.annotations import Annotations

        annotation_file, taxonomy_file = label_files(params, self.name)
        taxonomy = Taxonomy.load(taxonomy_file)
        annotations = Annotations.load(annotation_file, taxonomy)
        network = artifact_attributes(task.inputs["embed"]).get("teacher") or {}
        phi = None if params.phi is None else load_phi(phi_file(params.phi))
        if phi is not None:
            with _other_teacher():
                phi.check(teacher=network or None, where=str(task.inputs["embed"]))
        splits = {split: annotations.files(split) for split in annotations.splits()}
        for split in ("train", "validate"):
            if not splits.get(split):
                raise InputError(f"no clips of split '{split}'", where=str(annotation_file))
        limit_threads(task.threads)
        task.progress.start("reading embeddings")
        clips = load_clips(task.inputs["embed"],
                           [name for files in splits.values() for name in files],
                           task.scratch / "embeddings.bin",
                           transform=None if phi is None else phi.transform)
        if clips.missing:
            task.progress.note(f"{len(clips.missing)} annotated clips have no embedding, "
                               f"for example {clips.missing[0]}")
        if clips.longest > clips.x.shape[1]:
            task.progress.note(f"clips have up to {clips.longest} windows and are shortened to "
                               f"the {clips.x.shape[1]} of the shortest")
        place = {name: row for row, name in enumerate(clips.files)}
        rows = {split: [place[name] for name in files if name in place]
                for split, files in splits.items()}
        levels = ("coarse", "fine") if params.level == "both" else (params.level,)
        result = {level: _one_level(level, params, task, clips, rows, annotations, taxonomy)
                  for level in levels}
        metadata = {
            **params.all_values(), "annotations": str(annotation_file),
            "batch_size": _batch_size(params, clips, rows),
            "taxonomy": str(taxonomy_file), "embeddings": str(task.inputs["embed"]),
            "network": network,
            "reduction": None if phi is None else phi.description.provenance(),
            "frames": clips.x.shape[1], "missing": clips.missing, "levels": result,
        }
        write_json(task.output / "hyper_params.json", metadata)
        return {"model": params.model, "levels": result, "clips": len(clips.files),
                "missing": len(clips.missing), "dim": clips.x.shape[2], "frames": clips.x.shape[1]}

    def summary(self, results: Results) -> str:
        """``mil, coarse: best epoch 31 of 51``."""
        if not results:
            return ""
        result = results[0]
        levels = [f"{level}: best epoch {one.get('best_epoch')} of {one.get('epochs')}"
                  for level, one in result.get("levels", {}).items()]
        return f"{result.get('model')}, {'; '.join(levels)}"


def _description(path: Path) -> PhiDescription:
    """The header of φ in a file, or in the folder that contains it."""
    from l3hpc.reduction.header import describe_phi

    return describe_phi(phi_file(path))


@contextmanager
def _other_teacher() -> Iterator[None]:
    """Let an error about φ and its embeddings say what to do here."""
    try:
        yield
    except InputError as error:
        error.hint = ("Name the teacher on whose embeddings φ was fitted (--weights PATH), or "
                      "another φ (--phi RUN).")
        raise


def label_files(params: Any, step: str) -> tuple[Path, Path]:
    """Paths of annotations and taxonomy, given or found in ``sonyc_ust``.

    Parameters
    ----------
    params
        Parameters of the step.
    step
        Its name, for the message.

    Returns
    -------
    annotations, taxonomy : Path
        The files.

    Raises
    ------
    InputError
        Where one is missing.
    """
    files: dict[str, Path | None] = {
        "annotations": params.annotations, "taxonomy": params.taxonomy}
    if params.sonyc_ust is not None and None in files.values():
        from l3hpc.datasets.sonyc_ust import locate_sonyc_ust

        paths = locate_sonyc_ust(params.sonyc_ust)
        files = {name: path or Path(getattr(paths, name)) for name, path in files.items()}
    for name, path in files.items():
        if path is None:
            raise InputError(
                f"needs {name}", where=f"{step}.{name}",
                hint=f"Use --sonyc-ust FOLDER, or --set {step}.{name}=FILE")
        if not path.is_file():
            raise InputError(f"no such file {path}", where=f"{step}.{name}")
    assert files["annotations"] is not None and files["taxonomy"] is not None
    return files["annotations"], files["taxonomy"]


def _one_level(level: str, params: ClassifyParams, task: Task, clips: Any,
               rows: Mapping[str, Sequence[int]], annotations: Any, taxonomy: Any) -> dict:
    """Train the classifier of one level and write its files; returns a part of the result."""
    import csv

    from l3hpc.tagging.classifier import ClassifierConfig
    from l3hpc.tagging.training import train

    names = ("model", "hidden_layers", "hidden_size", "learning_rate", "l2", "epochs", "patience",
             "standardize", "seed")
    config = ClassifierConfig(level=level, batch_size=_batch_size(params, clips, rows),
                              **{name: getattr(params, name) for name in names})
    # Clips are in the order of the splits, so that each split is one slice of the file.
    data = {split: (clips.x.part(found[0], found[-1] + 1) if found else clips.x.part(0, 0),
                    annotations.targets([clips.files[row] for row in found], level))
            for split, found in rows.items()}
    task.progress.start(f"training {level}", total=params.epochs, unit="epochs")

    def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
        task.progress.advance(1, epoch=epoch, **values)

    classifier = train(config, taxonomy, *data["train"], *data["validate"], on_epoch=on_epoch)
    classifier.save(task.output / f"classifier_{level}.h5")
    with open(task.output / f"history_{level}.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("epoch", "loss", "val_loss"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(classifier.history)
    written = []
    for split in ("validate", "test"):
        written += _predict(classifier, level, split, task, clips, annotations, taxonomy)
    return {"best_epoch": classifier.best_epoch, "epochs": len(classifier.history),
            "val_loss": min(row["val_loss"] for row in classifier.history),
            "predictions": written}


def _batch_size(params: ClassifyParams, clips: Any, rows: Mapping[str, Sequence[int]]) -> int:
    """The batch size that is given, otherwise by the number of training samples."""
    from l3hpc.tagging.classifier import batch_for

    frames = clips.x.shape[1] if params.model == "framewise" else 1
    return params.batch_size or batch_for(len(rows["train"]) * frames)


def _predict(classifier: Any, level: str, split: str, task: Task, clips: Any, annotations: Any,
             taxonomy: Any) -> list[str]:
    """Write predictions for the clips of a split with agreed annotations, if there are any."""
    import numpy as np

    from l3hpc.tagging import predictions
    from l3hpc.tagging.classifier import POOLINGS

    try:
        agreed = annotations.ground_truth(split)[0]
    except InputError as error:
        task.progress.note(f"no predictions for {split}: {error.message}")
        return []
    place = {name: row for row, name in enumerate(clips.files)}
    files = [name for name in agreed if name in place]
    if len(files) < len(agreed):
        task.progress.note(f"{len(agreed) - len(files)} of {len(agreed)} agreed {split} clips have "
                           "no embedding: " + ("they are predicted as 0" if files else
                                               "nothing to predict from"))
    if not files:
        return []
    rows = np.array([place[name] for name in files], int)
    written = []
    for pooling in ("mean",) if classifier.config.model == "mil" else POOLINGS:
        more = "" if pooling == "mean" else f"_{pooling}"
        name = f"predictions_{level}_{split}{more}.csv"
        found = predictions.complete(classifier.predictions(files, clips.x, pooling, rows), agreed)
        predictions.write(task.output / name, found, taxonomy)
        written.append(name)
    return written
