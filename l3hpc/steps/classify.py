"""classify: a tag classifier on the student's embeddings of SONYC-UST.

It keeps the best epoch on the validation split, and writes predictions, which ``evaluate`` scores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import InputError, option, setting
from l3hpc.io.files import digest_file
from l3hpc.io.values import count_of
from l3hpc.steps.base import Input, PlanParams, Results, RunFile, Shard, Step, Upstream
from l3hpc.steps.classify_params import NETWORK, ClassifyParams, check_network
from l3hpc.steps.embed import Embed
from l3hpc.steps.extract import network_identity
from l3hpc.steps.reduction import phi_file
from l3hpc.steps.task import Task
from l3hpc.steps.train import Train

if TYPE_CHECKING:
    import numpy as np

    from l3hpc.datasets.clips import Clips
    from l3hpc.reduction.header import PhiDescription
    from l3hpc.reduction.phi import Phi
    from l3hpc.tagging.annotations import Annotations
    from l3hpc.tagging.balancing import Mixes
    from l3hpc.tagging.classifier import Classifier, Matrix


class Classify(Step[ClassifyParams]):
    """A classifier of urban sound tags on the embeddings."""

    name = "classify"
    version = 2
    title = "a tag classifier on the student's embeddings"
    params_type = ClassifyParams
    inputs = {"embed": Input()}
    not_in_fingerprint = frozenset({"sonyc_ust", "annotations", "taxonomy", "phi", "split_path"})
    ledger_folder = "output_dir"
    kept_files = ("predictions*.csv", "*.h5", "history*.csv")
    run_files = {"phi": RunFile(("fit",), ("phi.h5",))}

    def check(self, params: ClassifyParams, plan: PlanParams) -> None:
        """Refuse missing files, what does not fit together, and options without effect."""
        from l3hpc.tagging.clip_metadata import check_split, read_metadata

        annotations, taxonomy = label_files(params, self.name)
        check_network(params, annotations, taxonomy)
        if params.split_path is not None:
            check_split(params.split_path, annotations)
        if params.metadata:
            read_metadata(annotations, [])  # refuses a bad cell of any row
        if params.pca_components is not None and not params.pca:
            raise InputError("has no effect with pca: false", where="classify.pca_components",
                             hint="Leave one of the two out.")
        for name in ("oversample_iters", "thresh_type"):
            if params.oversample == "none" and getattr(params, name) != \
                    params.value_if_left_out(name):
                raise InputError("has no effect without oversample", where=f"classify.{name}",
                                 hint=f"Add {option('oversample', 'mlsmote')} or lssmote.")
        student, embed = Train().params_in(plan), Embed().params_in(plan)
        if params.phi is not None:
            _check_components(params, _description(params.phi).out_dim)
        elif student is not None:
            _check_components(params, student.emb_dim)
        elif params.pca_components is not None and embed is not None and embed.student is not None:
            _check_components(params, network_identity(embed.student, embed)["dim"])
        if params.phi is None or embed is None:
            return
        if embed.student is None:
            raise InputError("φ reduces the embeddings of its teacher, not those of a student",
                             where="classify.phi",
                             hint=f"Use --teacher, or leave out {option('phi')}.")
        network = network_identity(embed.student, embed)
        with _other_teacher():
            _description(params.phi).check(network["dim"], network, where=option("phi", params.phi))

    def check_embeddings(self, params: ClassifyParams, source: str, available: Collection[str],
                         folder: Path, length: Callable[[str | None], int | None]) -> None:
        """Refuse embeddings that φ does not reduce: of another length or another teacher; and more
        components than dimensions."""
        from l3hpc.datasets.clips import artifact_attributes

        dim = length(None)
        if params.phi is not None and dim is not None:
            with _other_teacher():
                _description(params.phi).check(
                    dim, artifact_attributes(folder).get("teacher"), where=str(folder))
        elif params.phi is None:
            _check_components(params, dim)

    def describe(self, params: ClassifyParams, plan: PlanParams) -> str:
        """``through pca: 512 → 128; dcase2020 recipe: 1 hidden layer of 128, learning rate 0.001,
        100 epochs; metadata: place and time; 5 seeds``: what differs from the default."""
        parts = []
        if params.phi is not None:
            phi = _description(params.phi)
            parts.append(f"through {phi.method}: {phi.in_dim} → {phi.out_dim}")
        if params.recipe != "default":
            layers = f"{count_of(params.hidden_layers, 'hidden layer')}"
            size = f" of {params.hidden_size}" if params.hidden_layers else ""
            parts.append(f"{params.recipe} recipe: {layers}{size}, learning rate "
                         f"{params.learning_rate:g}, {count_of(params.epochs, 'epoch')}"
                         + (f", patience {params.patience:,}"
                            if params.patience != params.value_if_left_out("patience") else ""))
        if params.split_path is not None:
            parts.append(f"split by sensor ({params.split_path.name})")
        parts += [text for is_set, text in (
            (params.targets == "volunteers", "trained on volunteers' labels"),
            (params.metadata, "metadata: place and time"),
            (params.pca, "PCA" + (f" of {params.pca_components} components"
                                  if params.pca_components else "")),
            (params.oversample != "none", _oversampling(params)),
            (params.sensor_factor, "output for the sensor"),
            (params.proximity_factor, "outputs for the proximity"),
            (params.cooccurrence_loss, "loss of co-occurrence"),
            (params.optimizer == "lbfgs", "L-BFGS"),
            (params.seeds > 1, f"{params.seeds} seeds")) if is_set]
        return "; ".join(parts)

    def shards(self, params: ClassifyParams, upstream: Upstream) -> list[Shard]:
        """A task for every seed."""
        if params.seeds == 1:
            return [{}]
        return [{"seed": params.seed + number} for number in range(params.seeds)]

    def digests(self, params: ClassifyParams) -> dict[str, Any]:
        """Annotations, taxonomy and the split by sensor by their bytes, φ by its own digest."""
        annotations, taxonomy = label_files(params, self.name)
        found = {"annotations": digest_file(annotations), "taxonomy": digest_file(taxonomy)}
        # No entry for what is not given, so that the fingerprints of earlier versions hold.
        if params.phi is not None:
            found["phi"] = _description(params.phi).digest
        if params.split_path is not None:
            found["split_path"] = digest_file(params.split_path)
        return found

    def run(self, params: ClassifyParams, task: Task) -> dict[str, Any]:
        """Train, then write models, histories and the predictions for validate and test.

        Predictions cover the clips with agreed annotations, which can be scored. Such a clip
        without an embedding gets 0 for every tag, and is logged and counted.
        """
        import time

        from l3hpc.datasets.clips import artifact_attributes
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.io.files import write_json
        from l3hpc.models.training.tensorflow_engine import limit_threads
        from l3hpc.reduction.phi import load_phi
        from l3hpc.tagging.annotations import Annotations
        from l3hpc.tagging.clip_metadata import read_metadata, read_split

        started = time.strftime("%Y%m%d%H%M%S")
        params = params.model_copy(update={"seed": task.shard.get("seed", params.seed)})
        annotation_file, taxonomy_file = label_files(params, self.name)
        taxonomy = Taxonomy.load(taxonomy_file)
        annotations = Annotations.load(annotation_file, taxonomy,
                                       proximity=params.proximity_factor)
        split_of = read_split(params.split_path) if params.split_path else {}
        if split_of:
            annotations = annotations.with_split(split_of, str(params.split_path))
        network = artifact_attributes(task.inputs["embed"]).get("teacher") or {}
        phi = None if params.phi is None else load_phi(phi_file(params.phi))
        if phi is not None:
            with _other_teacher():
                phi.check(teacher=network or None, where=str(task.inputs["embed"]))
            for note in phi.unchecked(network):
                task.progress.note(note)
        splits = _clips_by_split(params, annotations, annotation_file)
        limit_threads(task.threads)
        clips = _read_embeddings(task, [name for files in splits.values() for name in files], phi)
        values = None
        if params.metadata:
            values, notes = read_metadata(annotation_file, clips.files)
            for note in notes:
                task.progress.note(note)
        # clips without an embedding are in no split
        place = {name: row for row, name in enumerate(clips.files)}
        rows = {split: [place[name] for name in files if name in place]
                for split, files in splits.items()}
        levels = ("coarse", "fine") if params.level == "both" else (params.level,)
        result = {level: _one_level(level, params, task, clips, values, rows, annotations, taxonomy)
                  for level in levels}
        dim = clips.x.shape[2]
        metadata = {
            **params.all_values(), "annotations": str(annotation_file),
            "batch_size": _batch_size(params, clips, rows),
            "pca_components": (params.pca_components or dim) if params.pca else None,
            "taxonomy": str(taxonomy_file), "embeddings": str(task.inputs["embed"]),
            "network": network,
            "reduction": None if phi is None else phi.description.provenance(),
            "frames": clips.x.shape[1], "missing": clips.missing, "levels": result,
            "started": started, "sensor_splits": split_of,
        }
        write_json(task.output / "hyper_params.json", metadata)
        seed = {"seed": params.seed} if params.seeds > 1 else {}
        return {"model": params.model, "levels": result, "clips": len(clips.files),
                "missing": len(clips.missing), "dim": dim, "frames": clips.x.shape[1], **seed}

    def summary(self, results: Results) -> str:
        """``mil, coarse: best epoch 31 of 51``, or ``best epochs 31, 28 (2 seeds)``."""
        if not results:
            return ""
        texts = []
        for level, one in results[0].get("levels", {}).items():
            text = f"{level}: best epoch {one.get('best_epoch')} of {one.get('epochs')}"
            if len(results) > 1:
                best = [str(result.get("levels", {}).get(level, {}).get("best_epoch"))
                        for result in results]
                text = f"{level}: best epochs {', '.join(best)} ({count_of(len(results), 'seed')})"
            if "synthetic" in one:
                text += f", {count_of(one['synthetic'], 'synthetic clip')}"
            texts.append(text)
        return f"{results[0].get('model')}, {'; '.join(texts)}"


def _clips_by_split(params: ClassifyParams, annotations: Annotations, annotation_file: Path
                    ) -> dict[str, list[str]]:
    """The annotated clips of each split, of those who count as ``targets``."""
    splits = {split: annotations.files(split) for split in annotations.splits()}
    if params.targets == "volunteers":
        for split, who in (("train", "volunteers"), ("validate", "agreed")):
            splits[split] = annotations.annotated_by(splits.get(split, ()), who)
    for split in ("train", "validate"):
        if not splits.get(split):
            raise InputError(f"no clips of split '{split}'" + _by_whom(params, split),
                             where=str(annotation_file))
    return splits


def _read_embeddings(task: Task, names: Sequence[str], phi: Phi | None) -> Clips:
    """The embeddings of clips, reduced by φ; notes which are missing or shortened."""
    from l3hpc.datasets.clips import load_clips

    task.progress.start("reading embeddings")
    clips = load_clips(task.inputs["embed"], names, functools.partial(task.roomy, "embeddings.bin"),
                       transform=None if phi is None else phi.transform)
    if clips.missing:
        silent = count_of(len(clips.missing), "annotated clip has", "annotated clips have")
        task.progress.note(f"{silent} no embedding, for example {clips.missing[0]}")
    if clips.longest > clips.x.shape[1]:
        task.progress.note(f"clips have up to {clips.longest} windows and are shortened to "
                           f"the {clips.x.shape[1]} of the shortest")
    return clips


def _oversampling(params: ClassifyParams) -> str:
    """``mlsmote, 3 iterations, rare above percentile_75``: what differs from the default."""
    return ", ".join((params.oversample,
                      *([f"{params.oversample_iters} iterations"]
                        if params.oversample_iters > 1 else []),
                      *([f"rare above {params.thresh_type}"]
                        if params.thresh_type != "mean" else [])))


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
                      f"another φ ({option('phi', 'RUN')}).")
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
                hint=f"Use {option('sonyc-ust', 'FOLDER')}, or {setting(f'{step}.{name}', 'FILE')}")
        if not path.is_file():
            raise InputError(f"no such file {path}", where=f"{step}.{name}")
    assert files["annotations"] is not None and files["taxonomy"] is not None
    return files["annotations"], files["taxonomy"]


def _check_components(params: ClassifyParams, dim: int | None) -> None:
    """Refuse more components than the embeddings have dimensions, where these are known."""
    if dim is not None and params.pca_components is not None and params.pca_components > dim:
        raise InputError(f"the embeddings have {dim} dimensions.",
                         where=option("pca-components", params.pca_components),
                         allowed=f"Use at most {dim}.")


def _by_whom(params: ClassifyParams, split: str) -> str:
    if params.targets == "agreed":
        return ""
    who = "annotations of volunteers" if split == "train" else "agreed annotations"
    return f" with {who} (targets: volunteers)"


def _one_level(level: str, params: ClassifyParams, task: Task, clips: Clips,
               values: np.ndarray | None, rows: Mapping[str, Sequence[int]], annotations: Any,
               taxonomy: Any) -> dict:
    """Train the classifier of one level and write its files; returns a part of the result."""
    import csv

    import numpy as np

    from l3hpc.tagging.classifier import ClassifierConfig
    from l3hpc.tagging.training import train

    names = ("model", "hidden_layers", "hidden_size", "learning_rate", "l2", "epochs", "patience",
             "standardize", "seed", "pca", "pca_components")
    config = ClassifierConfig(level=level, batch_size=_batch_size(params, clips, rows),
                              **{name: getattr(params, name) for name in (*names, *NETWORK)})
    # Clips are in the order of the splits, so that each split is one slice of the file.
    parts = {split: slice(found[0], found[-1] + 1) if found else slice(0, 0)
             for split, found in rows.items()}
    targets = {split: annotations.targets(
        [clips.files[row] for row in found], level,
        volunteers=split == "train" and params.targets == "volunteers")
        for split, found in rows.items()}
    mixes = None
    if params.oversample != "none" and rows["train"]:
        mixes = _oversample(level, params, task, clips, parts["train"], targets["train"], taxonomy)
        targets["train"] = np.concatenate([targets["train"], mixes.targets(targets["train"])])
    x = {split: _inputs(clips, values, part, mixes if split == "train" else None)
         for split, part in parts.items()}
    task.progress.start(f"training {level}", total=params.epochs, unit="epochs")

    def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
        task.progress.advance(1, epoch=epoch, **values)

    files = [clips.files[row] for row in rows["train"]]
    classifier = train(
        config, taxonomy, x["train"], targets["train"], x["validate"], targets["validate"],
        sensors=annotations.all_sensors,
        sensor=annotations.sensor_numbers(files) if params.sensor_factor else None,
        proximity=annotations.proximities(files, level) if params.proximity_factor else None,
        on_epoch=on_epoch)
    classifier.save(task.output / f"classifier_{level}.h5")
    with open(task.output / f"history_{level}.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("epoch", "loss", "val_loss"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(classifier.history)
    written = []
    everything = _inputs(clips, values, slice(0, len(clips.files)))
    for split in ("validate", "test"):
        written += _predict(classifier, level, split, task, clips.files, everything, annotations,
                            taxonomy)
    return {"best_epoch": classifier.best_epoch, "epochs": len(classifier.history),
            "val_loss": min(row["val_loss"] for row in classifier.history),
            "predictions": written, **({} if mixes is None else {"synthetic": len(mixes)})}


def _inputs(clips: Clips, values: np.ndarray | None, part: slice, mixes: Mixes | None = None
            ) -> Matrix:
    """What the classifier is given for a part of the clips."""
    from l3hpc.arrays.row_file import RowFile
    from l3hpc.tagging.clip_inputs import ClipInputs

    x = clips.x.part(part.start, part.stop) if isinstance(clips.x, RowFile) else clips.x[part]
    if values is None and mixes is None:
        return x
    return ClipInputs(x, None if values is None else values[part], mixes)


def _oversample(level: str, params: ClassifyParams, task: Task, clips: Clips, part: slice,
                y: np.ndarray, taxonomy: Any) -> Mixes:
    """Synthetic training clips, by the mean embedding of each clip."""
    import numpy as np

    from l3hpc.tagging import balancing

    # Of fine tags, X is not predicted: it says that others are unknown.
    tags = ([(place, tag.column) for place, tag in enumerate(taxonomy.coarse)]
            if level == "coarse" else
            [(place, taxonomy.fine[place].column) for place in taxonomy.complete_fine])
    means = np.concatenate([clips.x[first:min(first + 256, part.stop)].mean(axis=1)
                            for first in range(part.start, part.stop, 256)])
    names = [name for _, name in tags]
    found = balancing.oversample(
        params.oversample, means, y[:, [place for place, _ in tags]], threshold=params.thresh_type,
        iterations=params.oversample_iters, seed=params.seed, names=names)
    task.progress.note(f"{level}: {balancing.describe(found, names)}")
    for note in found.notes:
        task.progress.note(f"{level}: {note}")
    return found


def _batch_size(params: ClassifyParams, clips: Clips, rows: Mapping[str, Sequence[int]]) -> int:
    """The batch size that is given, otherwise by the number of training samples."""
    from l3hpc.tagging.classifier import batch_for

    frames = clips.x.shape[1] if params.model == "framewise" else 1
    return params.batch_size or batch_for(len(rows["train"]) * frames)


def _predict(classifier: Classifier, level: str, split: str, task: Task, present: Sequence[str],
             x: Matrix, annotations: Any, taxonomy: Any) -> list[str]:
    """Write predictions for the clips of a split with agreed annotations, if there are any."""
    import numpy as np

    from l3hpc.tagging import predictions
    from l3hpc.tagging.classifier import POOLINGS

    try:
        agreed = annotations.ground_truth(split)[0]
    except InputError as error:
        task.progress.note(f"no predictions for {split}: {error.message}")
        return []
    place = {name: row for row, name in enumerate(present)}
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
        # clips without an embedding count too: leaving them out would change what is compared
        found = predictions.complete(classifier.predictions(files, x, pooling, rows), agreed)
        predictions.write(task.output / name, found, taxonomy)
        written.append(name)
    return written
