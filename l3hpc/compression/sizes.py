"""How large a compressed network is: by the published formula, and as stored in five forms.

The published table (EdgeL3, Kumari et al. 2019) counts kernels *and* biases as if both were pruned,
multiplies by percentages instead of counting zeros, leaves normalisations out of what remains and
keeps them in what it is compared with. ``published`` reproduces that to the digit; everything else
here counts what is stored. ``markdown`` puts both side by side, with the networks of a run.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from l3hpc.compression import pruning
from l3hpc.compression.pruning import kernels, places
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, openl3_spec, parameter_count

MIB = 1 << 20
GZIP_LEVEL = 6
FORMS = {"float32": "float32 (dense)", "float16": "float16 (dense)", "csr": "CSR",
         "bitmask": "bitmask + values", "gzip": "gzip"}
FORMULA = ("remaining = Σ (1 − qᵢ/100) · (kernelᵢ + biasᵢ); MB = 4 · remaining / 2²⁰; "
           "reduction = 1 − remaining / 4,688,066")


@dataclass(frozen=True)
class Published:
    """A row of the published table: parameters that remain, float32 MB (2**20 bytes), and by how
    many percent the network shrank."""

    remaining: float
    mb: float
    reduction: float


@dataclass(frozen=True)
class Sizes:
    """What is really in a network.

    parameters: everything stored. kernel_weights, non_zero: of the kernels, and how many of them
    are not zero. others: biases and normalisations, dense in every form. Bytes: ``float32`` and
    ``float16`` dense; ``csr``: each kernel as a sparse matrix (filter by input) of float32 values,
    column numbers and row starts; ``bitmask``: one bit per weight and the float32 values that are
    not zero; ``gzip``: the dense float32 arrays, compressed.
    """

    parameters: int
    kernel_weights: int
    non_zero: int
    others: int
    float32: int
    float16: int
    csr: int
    bitmask: int
    gzip: int

    def as_json(self) -> dict[str, int]:
        """The numbers by name."""
        return asdict(self)


def published(plan: Sequence[float], spec: NetworkSpec | None = None,
              whole: NetworkSpec | None = None) -> Published:
    """A row of the published table for percent per convolution.

    remaining = Σ (1 - qᵢ/100) (kernelᵢ + biasᵢ); MB = 4 · remaining / 2**20; reduction = 100 (1 -
    remaining / trainable parameters of the whole network with its last normalisation; 4,688,066 for
    L3). spec: of the network (None: L3); whole: of the network before it was cut (None: spec).
    """
    spec = spec or openl3_spec()
    shapes = [shapes for kind, shapes in spec.layers() if kind == "conv"]
    if len(plan) != len(shapes):
        raise InputError(f"a plan of {len(plan)} numbers for {len(shapes)} convolutions")
    counts = [int(np.prod(kernel)) + bias[0] for kernel, bias in shapes]
    remaining = sum((100 - percent) * count / 100
                    for percent, count in zip(plan, counts, strict=True))
    before = parameter_count(replace(whole or spec, tail="student",
                                     emb_dim=(whole or spec).filters[-1]), trainable=True)
    return Published(remaining, 4 * remaining / MIB, 100 * (1 - remaining / before))


def weigh(parameters: Parameters) -> Sizes:
    """Counts and bytes of a network; bytes of each form hold everything that is stored."""
    own = kernels(parameters)
    total = parameter_count(parameters.spec)
    weights = sum(kernel.size for kernel in own)
    non_zero = sum(int(np.count_nonzero(kernel)) for kernel in own)
    others = total - weights
    return Sizes(
        parameters=total, kernel_weights=weights, non_zero=non_zero, others=others,
        float32=4 * total, float16=2 * total,
        csr=4 * others + sum(map(csr_bytes, own)),
        bitmask=4 * others + sum(map(bitmask_bytes, own)),
        gzip=len(gzip.compress(_dense(parameters), GZIP_LEVEL, mtime=0)))


def csr_bytes(kernel: np.ndarray) -> int:
    """A kernel (3, 3, in, out) as compressed sparse rows: one row per filter, float32 values.

    Column numbers take 2 bytes where the rows have at most 65,536 columns (all of L3 do), else 4;
    row starts take 4.
    """
    columns = kernel.size // kernel.shape[3]
    wide = 2 if columns <= 1 << 16 else 4
    return (4 + wide) * int(np.count_nonzero(kernel)) + 4 * (kernel.shape[3] + 1)


def bitmask_bytes(kernel: np.ndarray) -> int:
    """A kernel as one bit per weight, filled up to whole bytes, and its float32 non-zeros."""
    return -(-kernel.size // 8) + 4 * int(np.count_nonzero(kernel))


def per_layer(parameters: Parameters) -> list[dict[str, Any]]:
    """For each convolution: weights of its kernel, and how many are not zero."""
    return [{"weights": kernel.size, "non_zero": int(np.count_nonzero(kernel))}
            for kernel in (parameters.layers[index][0] for index in places(parameters))]


def _dense(parameters: Parameters) -> bytes:
    return b"".join(np.ascontiguousarray(array, "<f4").tobytes()
                    for arrays in parameters.layers for array in arrays)


def published_rows(teacher: Parameters, on_plan: Callable[[str], None] = lambda plan: None
                   ) -> list[dict[str, Any]]:
    """The eleven published plans: their formula on L3, and this teacher pruned by them.

    ``own`` is the formula on this teacher and ``sizes`` what is really left of it; both are None
    for a teacher that has not eight convolutions.
    """
    rows = []
    for name, percent in pruning.PUBLISHED.items():
        row: dict[str, Any] = {"plan": name, "percent": list(percent),
                               "published": asdict(published(percent)),
                               "own": None, "sizes": None}
        if len(teacher.spec.filters) == len(percent):
            row["own"] = asdict(published(percent, teacher.spec))
            row["sizes"] = weigh(pruning.prune(teacher, percent)).as_json()
        rows.append(row)
        on_plan(name)
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report for people. Keys as the step compare writes them into ``report.json``."""
    parts = ["# Compression", f"Teacher: {report['teacher']['label']}"]
    if report.get("note"):
        parts.append(f"**{report['note']}**")
    parts += ["## The networks of this run", networks_table(report["networks"])]
    if report["left_out"]:
        parts.append("\n".join(f"* {line}" for line in report["left_out"]))
    if report.get("sensitivity"):
        parts += ["## One layer at a time", f"Judged by: {report['sensitivity']['words']}.",
                  sensitivity_table(report["sensitivity"])]
    parts += ["## The published plans", f"By the published formula: {FORMULA}. It counts biases as "
              "if they were pruned and percentages in place of zeros; the columns from "
              "“non-zero” on are counted, on the teacher of this run.",
              published_table(report["published"])]
    return "\n\n".join(parts) + "\n"


def published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The published table with true counts and bytes beside it."""
    titles = ["plan", "percent per convolution", "parameters", "MB", "reduction %",
              "non-zero", *(f"{title}, bytes" for title in FORMS.values())]
    return grid(titles, ([
        row["plan"], " ".join(f"{value:g}" for value in row["percent"]),
        f"{row['published']['remaining']:,.0f}", f"{row['published']['mb']:.3f}",
        f"{row['published']['reduction']:.2f}", *_bytes(row["sizes"])] for row in rows))


def networks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The networks of a run: how they were made, how large and how close to the teacher."""
    titles = ["network", "plan", "convolutions", "values", "parameters", "non-zero",
              *(f"{title}, bytes" for title in FORMS.values()), "MSE", "cosine", "accuracy"]
    return grid(titles, ([
        row["made_by"], row["plan"], str(row["convolutions"]), str(row["dim"]),
        f"{row['sizes']['parameters']:,}", *_bytes(row["sizes"]),
        _number(row.get("mse")), _number(row.get("cosine")), _number(row.get("accuracy"))]
        for row in rows))


def sensitivity_table(curve: Mapping[str, Any]) -> str:
    """Layers down, sparsities across; of the judge's numbers the one that counts."""
    measure = "accuracy" if curve["judge"] == "correspondence" else "cosine"
    sparsities = sorted({row["sparsity"] for row in curve["points"]})
    layers = sorted({(row["layer"], row["name"]) for row in curve["points"]})
    found = {(row["layer"], row["sparsity"]): row[measure] for row in curve["points"]}
    return grid([measure, *(f"{value:g} %" for value in sparsities)], [
        [name, *(_number(found.get((layer, value))) for value in sparsities)]
        for layer, name in layers]) + (
            f"\n\nUnpruned: {measure} {_number(curve['unpruned'].get(measure))}.")


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _bytes(sizes: Mapping[str, int] | None) -> list[str]:
    if sizes is None:
        return ["–"] * (1 + len(FORMS))
    return [f"{sizes['non_zero']:,}", *(f"{sizes[form]:,}" for form in FORMS)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
