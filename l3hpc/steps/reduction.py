"""fit and reduce: from a sample of the teacher's embeddings to the student's targets.

``fit`` fits φ, the reduction, to the sample, or to the part of it that one sensor has. ``reduce``
applies φ to every row of the teacher's embeddings, one task per task of extract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from l3hpc.errors import InputError, command_line, nearest, option, setting
from l3hpc.installation import install_command
from l3hpc.io.values import count_of
from l3hpc.steps.base import (
    Input,
    Output,
    Params,
    PlanParams,
    ReportItem,
    Results,
    Shard,
    Step,
    Upstream,
)
from l3hpc.steps.extract import Extract
from l3hpc.steps.params import LEAST, MAX_DRAW_SEED, MAX_SEED, MOST
from l3hpc.steps.sample import Sample
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.datasets.embeddings import EmbeddingSource
    from l3hpc.reduction.phi import Phi

UNTRAINED_DIM = 512
ROWS_NAMED = 8  # of each published file, spread evenly, in the fingerprint of the input


NO_TSNE = ("t-SNE only places the rows that it is fitted to and has no transform for others, which "
           "reduce needs. Use pca, pca with kernel rbf, or umap.")


class FitParams(Params):
    """Kind and size of the reduction."""

    added = frozenset({"kernel", "gamma", "degree", "coef0", "landmarks", "sensor"})

    approx: Literal["pca", "umap", "none"] = Field("pca", description=(
        "pca, umap (needs the extra 'umap'), or none: the student learns the teacher's own "
        "embeddings."))
    emb_dim: int = Field(128, ge=1, le=MOST, description=(
        "Output dimensions of φ, which are the student's embedding size."))
    kernel: Literal["linear", "poly", "rbf"] = Field("linear", description=(
        "PCA: linear, or kernel PCA with the kernel (gamma·xᵀy + coef0)^degree or "
        "exp(−gamma·|x − y|²) of standardised rows."))
    gamma: float | None = Field(None, ge=LEAST, le=MOST, description=(
        "Kernels poly and rbf (none: 1 / dimensions of the teacher, as published)."))
    degree: int = Field(3, ge=1, le=10, description="Kernel poly: exponent.")
    coef0: float = Field(1.0, ge=0, le=MOST, description="Kernel poly: constant that is added.")
    landmarks: int = Field(5000, ge=2, le=20_000, description=(
        "Kernels poly and rbf: of more rows than this, as many are drawn, and the others enter by "
        "their kernel with these (Nyström). That takes about 60·landmarks² bytes, 1.5 GB for "
        "5000 landmarks; the exact fit of as many rows takes 0.5 GB."))
    mode: Literal["float64", "float32"] = Field("float64", description=(
        "Arithmetic of the linear PCA: float64, or float32 with eigenvalues to about 1e-5."))
    n_neighbors: int = Field(15, ge=2, le=MOST, description="UMAP: number of neighbours.")
    min_dist: float = Field(0.3, ge=0, lt=1, description=(
        "UMAP: minimum distance between two points."))
    metric: str = Field("euclidean", description="UMAP: metric of the embedding space.")
    seed: int = Field(20180216, ge=0, le=MAX_DRAW_SEED, description=(
        "Seed of UMAP (at most 2^32 - 1) and of the landmarks."))
    sensor: str | None = Field(None, description=(
        "Fit φ to the rows of this sensor alone (none: of all)."))
    chunk: int = Field(2048, ge=1, le=MOST, description="Rows read at a time.")

    @field_validator("approx", mode="before")
    @classmethod
    def _available(cls, value: Any) -> Any:
        if value == "tsne":
            raise ValueError(NO_TSNE)
        return value

    @field_validator("seed")
    @classmethod
    def _fits_umap(cls, value: int, info: ValidationInfo) -> int:
        if value > MAX_SEED and info.data.get("approx") == "umap":
            raise ValueError("UMAP takes seeds of at most 2^32 - 1")
        return value

    @property
    def is_kernel_pca(self) -> bool:
        """Whether the reduction is a PCA with a kernel that is not linear."""
        return self.approx == "pca" and self.kernel != "linear"


class Fit(Step[FitParams]):
    """φ, fitted to the sample."""

    name = "fit"
    version = 2  # 2: signs of components no longer depend on rounding
    title = "the reduction φ, learnt on the sample"
    params_type = FitParams
    inputs = {"sample": Input()}
    report_items = frozenset({ReportItem.VARIANCE})
    kept_files = ("phi.h5",)
    not_in_fingerprint = frozenset({"chunk"})

    def check(self, params: FitParams, plan: PlanParams) -> None:
        """Refuse more dimensions than there are, and settings that the reduction does not use."""
        _check_kernel(params)
        if params.approx == "none":
            return
        teacher, subset = Extract().params_in(plan), Sample().params_in(plan)
        if teacher is not None:
            dim = teacher_dim(teacher.weights)
            # A kernel PCA has as many directions as rows.
            if params.emb_dim > dim and not params.is_kernel_pca:
                raise InputError(
                    f"{option('emb-dim', params.emb_dim)} is more than the teacher's {dim} "
                    "dimensions.",
                    allowed=f"Use at most {option('emb-dim', dim)}.")
        if subset is None:
            return
        if subset.samples < params.emb_dim:
            raise InputError(
                f"{option('samples', subset.samples)} is fewer than the {params.emb_dim} "
                "dimensions to keep.",
                allowed=f"Use at least {option('samples', params.emb_dim)}, or a smaller "
                        f"{option('emb-dim')}.")
        if params.approx == "umap" and subset.samples <= params.n_neighbors:
            raise InputError(
                f"{option('samples', subset.samples)} is too few for {params.n_neighbors} "
                "neighbours.", allowed=f"Use more than {params.n_neighbors} samples, or a smaller "
                                       f"{setting('fit.n_neighbors')}.")

    def shards(self, params: FitParams, upstream: Upstream) -> list[Shard]:
        """One task, with the tasks of sample that have the rows of its sensor."""
        if params.sensor is None:
            return [{}]
        sensors = self.choices("sensor", upstream)
        if params.sensor not in sensors:
            raise InputError(f"there is no sensor {params.sensor!r}", where="fit.sensor",
                             allowed=nearest(params.sensor, sensors))
        tasks = [number for number, shard in enumerate(upstream["sample"])
                 if shard["sensor"] == params.sensor]
        share = sum(upstream["sample"][number]["samples"] for number in tasks)
        needed = max(params.emb_dim, params.n_neighbors + 1 if params.approx == "umap" else 0)
        if share < needed:
            raise InputError(
                f"{share:,} rows are sampled of each sensor, and {needed:,} are needed",
                where=option("samples"), allowed=f"at least {needed * len(sensors):,} for "
                f"{len(sensors)} sensors, or a smaller {option('emb-dim')}")
        return [{"sensor": params.sensor, "tasks": tasks}]

    def choices(self, parameter: str, upstream: Upstream) -> Sequence[str]:
        """The sensors of the sample, in alphabetical order."""
        sensors = [shard.get("sensor") for shard in upstream.get("sample") or []]
        if not sensors or None in sensors:
            raise InputError("the embeddings are published files, which do not say which sensor "
                             "they are from", where="fit.sensor",
                             hint="Start at extract, or sample the files of each sensor in a run "
                                  "of its own.")
        return sorted(str(sensor) for sensor in sensors)

    def packages(self, params: FitParams) -> dict[str, str]:
        """Importable name of what this needs beyond the core dependencies → how to install it."""
        return {"umap": install_command("umap")} if params.approx == "umap" else {}

    def describe(self, params: FitParams, plan: PlanParams) -> str:
        """``pca: 512 → 128``."""
        from l3hpc.reduction.header import method_name

        if params.approx == "none":
            return "none: the student learns the teacher's embedding itself"
        teacher = Extract().params_in(plan)
        source = f"{teacher_dim(teacher.weights)} → " if teacher else "to "
        name = method_name(params.approx, params.kernel)
        return f"{name}: {source}{params.emb_dim}" + (
            f", sensor {params.sensor}" if params.sensor is not None else "")

    def run(self, params: FitParams, task: Task) -> dict[str, Any]:
        """Fit φ and write ``phi.h5``; a linear PCA takes one pass over the sample."""
        from l3hpc.datasets.embeddings import open_source
        from l3hpc.reduction.phi import save_phi

        source = open_source(task.inputs["sample"], tasks=task.shard.get("tasks"))
        source.refuse_empty()
        rows = source.rows
        if params.approx != "none":
            if source.dim < params.emb_dim and not params.is_kernel_pca:
                raise InputError(
                    f"{option('emb-dim', params.emb_dim)} is more than the {source.dim} dimensions "
                    "of the rows", where=str(source.path), allowed=f"at most {source.dim}")
            if rows < params.emb_dim:
                raise InputError(
                    f"the sample has {count_of(rows, 'row')}, fewer than the "
                    f"{params.emb_dim} dimensions to keep",
                    where=str(source.path),
                    hint=f"Submit again with {option('emb-dim', rows)} or less, with more "
                         f"recordings, or with more {option('samples')}.")
        phi = _fit(params, source, rows, task)
        if phi.explained == 0:
            raise InputError(f"all {count_of(rows, 'row')} of the sample are equal: there is no "
                             "variance to keep", where=str(source.path),
                             hint="Look at the recordings: "
                                  + command_line("data", "check", "FOLDER", "--listen"))
        phi.sampled = {**_sampled(source), "sensor": params.sensor}
        save_phi(task.output / "phi.h5", phi)
        return {"approx": params.approx, "rows": rows,
                "in_dim": phi.in_dim, "out_dim": phi.out_dim,
                "explained_variance": phi.explained if params.approx == "pca" else None,
                "explained_variance_ratio": [
                    float(value) for value in phi.arrays.get("explained_variance_ratio", ())],
                "key": phi.key, "digest": phi.digest, "phi": "phi.h5",
                **({"kernel": params.kernel, "landmarks": len(phi.arrays["landmarks"])}
                   if params.is_kernel_pca else {})}

    def summary(self, results: Results) -> str:
        """``91.3% of variance in 128 dimensions``."""
        if not results:
            return ""
        result = results[0]
        if result.get("explained_variance") is not None:
            # a kernel has a variance of its own, often larger, which says nothing about the rows
            variance = "the kernel's variance" if "kernel" in result else "variance"
            text = (f"{100 * result['explained_variance']:.1f}% of {variance} in "
                    f"{result['out_dim']} dimensions")
            if result.get("landmarks", result["rows"]) < result["rows"]:
                text += (f", by {count_of(result['landmarks'], 'landmark')} of "
                     f"{count_of(result['rows'], 'row')}")
            return text
        return f"{result.get('approx')}: {result.get('in_dim')} → {result.get('out_dim')}"


def _check_kernel(params: FitParams) -> None:
    """Refuse settings of a kernel that the reduction does not have."""
    if params.kernel != "linear" and params.approx != "pca":
        raise InputError(f"{option('approx', params.approx)} has no kernel, but kernel is "
                         f"{params.kernel}.", where="fit.kernel",
                         allowed=f"Use {option('approx', 'pca')}, or leave out the kernel.")
    used = {"gamma", "landmarks"} if params.is_kernel_pca else set()
    if params.kernel == "poly":
        used |= {"degree", "coef0"}
    for name in sorted({"gamma", "landmarks", "degree", "coef0"} - used):
        if getattr(params, name) != type(params).model_fields[name].default:
            raise InputError(f"{name} is set, but the kernel {params.kernel} does not use it.",
                             where=f"fit.{name}",
                             allowed=f"degree and coef0: {option('kernel', 'poly')}; gamma and "
                                     "landmarks: poly or rbf.")
    if params.is_kernel_pca and params.mode != "float64":
        raise InputError("kernel PCA is computed in float64 only.", where="fit.mode",
                         allowed=f"float64, or {option('kernel', 'linear')}")
    if params.is_kernel_pca and params.landmarks < params.emb_dim:
        raise InputError(f"{params.landmarks} landmarks cannot give {params.emb_dim} dimensions.",
                         where="fit.landmarks", allowed=f"at least {params.emb_dim}")


def teacher_dim(weights: str) -> int:
    """Length of a teacher's embedding.

    Parameters
    ----------
    weights
        A weight file, or ``untrained…``.

    Raises
    ------
    InputError
        For a file that is not a network.
    """
    if weights == "untrained" or weights.startswith("untrained:"):
        return UNTRAINED_DIM
    from l3hpc.teachers.find import describe

    return describe(weights).dim


def teacher_window(weights: str, stated: float | None) -> float:
    """Length of a teacher's window in seconds.

    Parameters
    ----------
    weights
        As for ``teacher_dim``.
    stated
        The parameter ``window`` of extract.

    Raises
    ------
    InputError
        For a file that is not a network.
    """
    if weights == "untrained" or weights.startswith("untrained:"):
        return 1.0
    from l3hpc.teachers.base import Options
    from l3hpc.teachers.find import describe

    return describe(weights, Options(window_s=stated)).window_s


def _fit(params: FitParams, source: EmbeddingSource, rows: int, task: Task) -> Phi:
    """φ of the requested kind."""
    from l3hpc.reduction.phi import Phi

    teacher, fingerprint = _teacher(source), _fingerprint(source, params.sensor)
    if params.approx == "none":
        return Phi.identity(source.dim, fingerprint=fingerprint, teacher=teacher)
    task.progress.start(f"fitting {params.approx}", total=rows, unit="rows")
    if params.is_kernel_pca:
        from l3hpc.arrays.rows import ChunkRows
        from l3hpc.reduction.kernel_fit import fit_kernel

        kernel_fit = fit_kernel(
            ChunkRows(lambda: source.chunks(params.chunk), (rows, source.dim)), params.emb_dim,
            "poly" if params.kernel == "poly" else "rbf", gamma=params.gamma,
            degree=params.degree, coef0=params.coef0, landmarks=params.landmarks,
            seed=params.seed, on_rows=task.progress.advance, threads=task.threads)
        return Phi.from_kernel_pca(kernel_fit, fingerprint=fingerprint, teacher=teacher)
    if params.approx == "pca":
        from l3hpc.reduction.linear_fit import fit_linear

        linear_fit = fit_linear(source.chunks(params.chunk), params.emb_dim, params.mode,
                                on_rows=task.progress.advance, threads=task.threads)
        return Phi.from_pca(linear_fit, fingerprint=fingerprint, teacher=teacher)
    import numpy as np

    from l3hpc.reduction.umap import StandardizedUMAP

    umap = StandardizedUMAP(params.emb_dim, n_neighbors=params.n_neighbors,
                            min_dist=params.min_dist, metric=params.metric, seed=params.seed)
    umap.fit(np.concatenate(list(source.chunks(params.chunk))))
    task.progress.advance(rows)
    return Phi.from_umap(umap, fingerprint=fingerprint, teacher=teacher)


def _teacher(source: EmbeddingSource) -> Mapping[str, Any]:
    """The teacher, which must be the same in all files; empty where they name none."""
    teachers = [part.attributes().get("teacher") or {} for part in source.parts]
    for part, teacher in zip(source.parts, teachers, strict=True):
        if teacher != teachers[0]:
            raise InputError(
                f"has another teacher than {source.parts[0].path.name}", where=str(part.path),
                hint="Use one teacher for all embeddings.")
    return teachers[0]


def _sampled(source: EmbeddingSource) -> dict[str, Any]:
    """How the rows were selected, as far as the files say; published files say nothing."""
    attributes = source.parts[0].attributes()
    settings = attributes.get("sampling")
    known = {name: settings.get(name) for name in ("method", "timescale")} \
        if isinstance(settings, dict) else {}
    return {**known, "audio": attributes.get("audio")}


def _fingerprint(source: EmbeddingSource, sensor: str | None) -> str:
    """Identifies the rows: an artifact by its folder, other files by names, sizes and some rows."""
    # The folder of an artifact is named after the fingerprint of its content.
    import numpy as np

    from l3hpc.io.files import digest

    sizes = [part.rows for part in source.parts]
    if source.kind == "artifact":
        return digest([source.path.resolve().name, sizes,
                       *([] if sensor is None else [sensor])])
    base = source.path if source.path.is_dir() else source.path.parent
    some = [np.unique(np.linspace(0, max(size - 1, 0), min(size, ROWS_NAMED)).astype(int))
            for size in sizes]
    return digest([[part.path.relative_to(base).as_posix(), part.rows,
                    str(part.take(rows).tolist())]
                   for part, rows in zip(source.parts, some, strict=True)])


class ReduceParams(Params):
    """How φ is applied."""

    chunk: int = Field(2048, ge=1, le=MOST, description="Rows read, reduced and written at a time.")


class Reduce(Step[ReduceParams]):
    """φ, applied to every row."""

    name = "reduce"
    version = 1
    title = "φ applied to every embedding"
    params_type = ReduceParams
    inputs = {"extract": Input(), "fit": Input()}
    output = Output.EMBEDDINGS
    not_in_fingerprint = frozenset({"chunk"})

    def shards(self, params: ReduceParams, upstream: Upstream) -> list[Shard]:
        """One task per task of extract; one for a folder of published files."""
        parts = upstream.get("extract") or []
        return [{"part": number} for number in range(len(parts))] or [{"part": None}]

    def run(self, params: ReduceParams, task: Task) -> dict[str, Any]:
        """Write ``reduced.h5``, or, for published folders, files of the same names and subfolders.

        Rows stay in order. Rows of another length or teacher than those of the fit are refused.
        """
        from l3hpc.datasets.embeddings import open_source
        from l3hpc.reduction.phi import load_phi, reduce_part

        phi = load_phi(phi_file(task.inputs["fit"]))
        number = task.shard.get("part")
        source = open_source(task.inputs["extract"], tasks=None if number is None else [number])
        parts = source.parts
        # One task of several may have no rows.
        if number is None:
            source.refuse_empty()
        for note in phi.unchecked(_teacher(source)):
            task.progress.note(note)
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

    def summary(self, results: Results) -> str:
        """``29,480,960 rows``."""
        return count_of(sum(result.get('rows', 0) for result in results), "row")


def phi_file(folder: Path) -> Path:
    """The file of φ.

    Parameters
    ----------
    folder
        An artifact of fit, a folder that contains ``phi.h5``, or the file itself.

    Raises
    ------
    InputError
        Where there is none.
    """
    folder = Path(folder)
    candidates = [folder] if folder.is_file() else [
        folder / "0000" / "phi.h5", folder / "phi.h5"]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError("contains no phi.h5", where=str(folder), hint="The step fit writes it.")
