"""fit: φ, the map from the teacher's embedding to the student's target, learnt on the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "fit"
VERSION = 2  # 2: signs of components no longer hang on rounding
TITLE = "the reduction φ, learnt on the sample"
INPUTS = {"sample": "required"}
PLACES: frozenset[str] = frozenset({"chunk"})

UNTRAINED_DIM = 512
ROWS_NAMED = 8  # of each published file, spread evenly, in the fingerprint of the input


class Params(BaseParams):
    """Kind and size of the reduction."""

    approx: Literal["pca", "umap", "none"] = Field("pca", description=(
        "pca, umap (needs the extra 'umap'), or none: the student learns the teacher itself."))
    emb_dim: int = Field(128, ge=1, description="Dimensions that φ keeps: the student's length.")
    mode: Literal["float64", "float32"] = Field("float64", description=(
        "Arithmetic of the PCA: float64, or float32 with eigenvalues to about 1e-5."))
    n_neighbors: int = Field(15, ge=2, description="UMAP: neighbours of each point.")
    min_dist: float = Field(0.3, ge=0, lt=1, description="UMAP: smallest distance of two points.")
    metric: str = Field("euclidean", description="UMAP: metric of the embedding space.")
    seed: int = Field(20180216, ge=0, description="Seed (UMAP).")
    chunk: int = Field(2048, ge=1, description="Rows that are read at once.")


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse more dimensions than the teacher has, and fewer samples than dimensions."""
    from l3hpc.steps import extract, sample

    own = params.get(NAME)
    if not isinstance(own, Params) or own.approx == "none":
        return
    teacher = params.get("extract")
    if isinstance(teacher, extract.Params):
        dim = teacher_dim(teacher.weights)
        if own.emb_dim > dim:
            raise InputError(
                f"--emb-dim {own.emb_dim} is more than the teacher's {dim} dimensions.",
                allowed=f"Use at most --emb-dim {dim}.")
    subset = params.get("sample")
    if isinstance(subset, sample.Params) and subset.samples < own.emb_dim:
        raise InputError(
            f"--samples {subset.samples} is fewer than the {own.emb_dim} dimensions to keep.",
            allowed=f"Use at least --samples {own.emb_dim}, or a smaller --emb-dim.")
    if own.approx == "umap" and isinstance(subset, sample.Params) \
            and subset.samples <= own.n_neighbors:
        raise InputError(
            f"--samples {subset.samples} gives no point {own.n_neighbors} neighbours.",
            allowed=f"Use more than {own.n_neighbors} samples, or a smaller fit.n_neighbors.")


def packages(params: BaseModel) -> dict[str, str]:
    """Importable name of what this needs beyond the core dependencies → how to install it."""
    wanted = isinstance(params, Params) and params.approx == "umap"
    return {"umap": install_command("umap")} if wanted else {}


def teacher_dim(weights: str) -> int:
    """Length of a teacher's embedding, from its file alone."""
    if weights == "untrained" or weights.startswith("untrained:"):
        return UNTRAINED_DIM
    from l3hpc.models.weights import embedding_dim

    return embedding_dim(weights)


def describe(params: Mapping[str, BaseModel]) -> str:
    """``pca: 512 → 128``."""
    from l3hpc.steps import extract

    own = params[NAME]
    assert isinstance(own, Params)
    if own.approx == "none":
        return "none: the student learns the teacher's embedding itself"
    teacher = params.get("extract")
    source = f"{teacher_dim(teacher.weights)} → " if isinstance(teacher, extract.Params) else "to "
    return f"{own.approx}: {source}{own.emb_dim}"


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task: φ is one map for all sensors."""
    return [{}]


def digests(params: BaseModel) -> dict[str, Any]:
    """Nothing outside the parameters and inputs decides φ."""
    return {}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Learn φ in one pass over the sample and write ``phi.h5``."""
    from l3hpc.datasets.embeddings import open_source
    from l3hpc.reduction.store import save_phi

    assert isinstance(params, Params)
    source = open_source(task.inputs["sample"])
    source.refuse_empty()
    rows = source.rows
    if params.approx != "none":
        if source.dim < params.emb_dim:
            raise InputError(
                f"--emb-dim {params.emb_dim} is more than the {source.dim} dimensions of the rows",
                where=str(source.path), allowed=f"at most {source.dim}")
        if rows < params.emb_dim:
            raise InputError(
                f"{rows} rows are fewer than the {params.emb_dim} dimensions to keep",
                where=str(source.path), hint="Sample more rows, or use a smaller --emb-dim.")
    phi = _learn(params, source, rows, task)
    save_phi(task.output / "phi.h5", phi)
    return {"approx": params.approx, "rows": rows, "in_dim": phi.in_dim, "out_dim": phi.out_dim,
            "explained_variance": phi.explained if params.approx == "pca" else None,
            "explained_variance_ratio": [
                float(value) for value in phi.arrays.get("explained_variance_ratio", ())],
            "key": phi.key, "digest": phi.digest, "phi": "phi.h5"}


def _learn(params: Params, source: Any, rows: int, task: Task) -> Any:
    """φ of the kind that is asked for."""
    from l3hpc.reduction.store import Phi

    teacher, fingerprint = _teacher(source), _fingerprint(source)
    if params.approx == "none":
        return Phi.identity(source.dim, fingerprint=fingerprint, teacher=teacher)
    task.progress.start(f"fitting {params.approx}", total=rows, unit="rows")
    if params.approx == "pca":
        from l3hpc.reduction.pca import StreamingPCA

        pca = StreamingPCA(params.emb_dim, mode=params.mode)
        pca.fit(source.chunks(params.chunk), on_rows=task.progress.advance, threads=task.threads)
        return Phi.from_pca(pca, fingerprint=fingerprint, teacher=teacher)
    import numpy as np

    from l3hpc.reduction.umap import StandardizedUMAP

    umap = StandardizedUMAP(params.emb_dim, n_neighbors=params.n_neighbors,
                            min_dist=params.min_dist, metric=params.metric, seed=params.seed)
    umap.fit(np.concatenate(list(source.chunks(params.chunk))))
    task.progress.advance(rows)
    return Phi.from_umap(umap, fingerprint=fingerprint, teacher=teacher)


def _teacher(source: Any) -> Mapping[str, Any]:
    """The one teacher of all parts; empty where the files name none."""
    teachers = [part.attributes().get("teacher") or {} for part in source.parts]
    for part, teacher in zip(source.parts, teachers, strict=True):
        if teacher != teachers[0]:
            raise InputError(
                f"is of another teacher than {source.parts[0].path.name}", where=str(part.path),
                hint="Use one teacher for all embeddings.")
    return teachers[0]


def _fingerprint(source: Any) -> str:
    """Names the rows: an artifact by its folder, other files by names, sizes and some rows.

    An artifact's folder is named by the fingerprint of everything that decides its content.
    """
    import numpy as np

    from l3hpc.io.files import digest

    sizes = [part.rows for part in source.parts]
    if source.kind == "artifact":
        return digest([source.path.resolve().name, sizes])
    base = source.path if source.path.is_dir() else source.path.parent
    some = [np.unique(np.linspace(0, max(size - 1, 0), min(size, ROWS_NAMED)).astype(int))
            for size in sizes]
    return digest([[part.path.relative_to(base).as_posix(), part.rows,
                    str(part.take(rows).tolist())]
                   for part, rows in zip(source.parts, some, strict=True)])


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``91.3 % of variance in 128 dimensions``."""
    if not results:
        return ""
    result = results[0]
    if result.get("explained_variance") is not None:
        return (f"{100 * result['explained_variance']:.1f} % of variance in "
                f"{result['out_dim']} dimensions")
    return f"{result.get('approx')}: {result.get('in_dim')} → {result.get('out_dim')}"
