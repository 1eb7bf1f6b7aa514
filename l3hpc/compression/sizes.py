"""Size of a compressed network: by the published formula, and as stored in five forms.

The published table (EdgeL3, Kumari et al. 2019) counts kernels *and* biases as if both were pruned,
multiplies by percentages instead of counting zeros, leaves normalisations out of what remains and
keeps them in the total that it is compared with. ``published_size`` reproduces that to the digit;
``measure_sizes`` counts what is stored. The second half writes the report of the step compare as
Markdown, with both side by side.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from l3hpc.compression import plans, pruning
from l3hpc.compression.pruning import kernels
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, openl3_spec, parameter_count

MIB = 1 << 20
GZIP_LEVEL = 6
# Titles of the storage forms in tables, by their field of `Sizes`.
FORMS = {"float32": "float32 (dense)", "float16": "float16 (dense)", "csr": "CSR",
         "bitmask": "bitmask + values", "gzip": "gzip"}
FORMULA = ("remaining = Σ (1 − qᵢ/100) · (kernelᵢ + biasᵢ); MB = 4 · remaining / 2²⁰; "
           "reduction = 1 − remaining / 4,688,066")


@dataclass(frozen=True)
class Published:
    """A row of the published table.

    Attributes
    ----------
    remaining
        Parameters that remain.
    mb
        Their size as float32, in units of 2**20 bytes.
    reduction
        By how many percent the network shrank.
    """

    remaining: float
    mb: float
    reduction: float


@dataclass(frozen=True)
class Sizes:
    """What a network really holds, and its bytes in each form of storage.

    Attributes
    ----------
    parameters
        Everything that is stored.
    kernel_weights
        Weights of all kernels.
    non_zero
        Those of them that are not zero.
    others
        Biases and normalisations, which are dense in every form.
    float32
        Bytes, dense.
    float16
        Bytes, dense.
    csr
        Bytes with each kernel as a sparse matrix (filter by input) of float32 values, column
        numbers and row starts.
    bitmask
        Bytes with one bit per kernel weight and the float32 values that are not zero.
    gzip
        Bytes of the dense float32 arrays, compressed.
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
        """The fields by name."""
        return asdict(self)


def published_size(plan: Sequence[float], spec: NetworkSpec | None = None,
                   whole: NetworkSpec | None = None) -> Published:
    """Size of a pruned network by the published formula.

    remaining = Σ (1 - qᵢ/100) (kernelᵢ + biasᵢ); MB = 4 · remaining / 2**20; reduction = 100 (1 -
    remaining / trainable parameters of the whole network with its last normalisation, which are
    4,688,066 for L3).

    Parameters
    ----------
    plan
        Percentage per convolution.
    spec
        The network; None: L3.
    whole
        The network before it was cut; None: ``spec``.

    Returns
    -------
    Published
        A row of the table.

    Raises
    ------
    InputError
        The plan has another length than the network has convolutions.

    Examples
    --------
    >>> round(published_size((0, 85, 85, 85, 75, 95, 98, 98)).reduction, 2)
    95.45
    """
    spec = spec or openl3_spec()
    shapes = [shapes for kind, shapes in spec.layers() if kind == "conv"]
    if len(plan) != len(shapes):
        raise InputError(f"a plan of {len(plan)} numbers for {len(shapes)} convolutions")
    counts = [int(np.prod(kernel)) + bias[0] for kernel, bias in shapes]
    # Percentages, not counted zeros, and biases as if pruned: otherwise the published figures would
    # not come out.
    remaining = sum((100 - percent) * count / 100
                    for percent, count in zip(plan, counts, strict=True))
    # The published total includes the last normalisation, which pruned networks do not have.
    before = parameter_count(replace(whole or spec, tail="student",
                                     emb_dim=(whole or spec).filters[-1]), trainable=True)
    return Published(remaining, 4 * remaining / MIB, 100 * (1 - remaining / before))


def measure_sizes(parameters: Parameters) -> Sizes:
    """Counts of a network, and its bytes in each form; every form holds all that is stored.

    Parameters
    ----------
    parameters
        The network.

    Returns
    -------
    Sizes
        Counts and bytes.
    """
    arrays = kernels(parameters)
    total = parameter_count(parameters.spec)
    weights = sum(kernel.size for kernel in arrays)
    non_zero = sum(int(np.count_nonzero(kernel)) for kernel in arrays)
    others = total - weights
    return Sizes(
        parameters=total, kernel_weights=weights, non_zero=non_zero, others=others,
        float32=4 * total, float16=2 * total,
        csr=4 * others + sum(map(csr_bytes, arrays)),
        bitmask=4 * others + sum(map(bitmask_bytes, arrays)),
        # mtime 0: the same network gives the same bytes at any time
        gzip=len(gzip.compress(_dense(parameters), GZIP_LEVEL, mtime=0)))


def csr_bytes(kernel: np.ndarray) -> int:
    """Bytes of a kernel as compressed sparse rows: one row per filter, float32 values.

    Column numbers take 2 bytes where the rows have at most 65,536 columns (all of L3 do), else 4;
    row starts take 4.

    Parameters
    ----------
    kernel
        (3, 3, in, out).

    Returns
    -------
    int
        Bytes.
    """
    columns = kernel.size // kernel.shape[3]
    number_bytes = 2 if columns <= 1 << 16 else 4
    return (4 + number_bytes) * int(np.count_nonzero(kernel)) + 4 * (kernel.shape[3] + 1)


def bitmask_bytes(kernel: np.ndarray) -> int:
    """Bytes of a kernel as one bit per weight, padded to whole bytes, and its float32 non-zeros.

    Parameters
    ----------
    kernel
        (3, 3, in, out).

    Returns
    -------
    int
        Bytes.
    """
    return -(-kernel.size // 8) + 4 * int(np.count_nonzero(kernel))


def layer_counts(parameters: Parameters) -> list[dict[str, Any]]:
    """Weights of each convolution's kernel, and how many are not zero.

    Parameters
    ----------
    parameters
        The network.

    Returns
    -------
    list of dict
        ``weights`` and ``non_zero`` of each convolution, in order.
    """
    return [{"weights": kernel.size, "non_zero": int(np.count_nonzero(kernel))}
            for kernel in kernels(parameters)]


def _dense(parameters: Parameters) -> bytes:
    return b"".join(np.ascontiguousarray(array, "<f4").tobytes()
                    for arrays in parameters.layers for array in arrays)


# report -------------------------------------------------------------------------------------------

def published_rows(teacher: Parameters, on_plan: Callable[[str], None] = lambda plan: None
                   ) -> list[dict[str, Any]]:
    """The eleven published plans: their formula on L3, and a teacher pruned by them.

    Parameters
    ----------
    teacher
        The network to prune.
    on_plan
        Called with the name of each plan that is done.

    Returns
    -------
    list of dict
        ``plan``, ``percent``, ``published`` (the formula on L3), ``own`` (the formula on the
        teacher) and ``sizes`` (what is really left of it). The last two are None for a teacher with
        another number of convolutions than eight.
    """
    rows = []
    for name, percent in plans.PUBLISHED.items():
        row: dict[str, Any] = {"plan": name, "percent": list(percent),
                               "published": asdict(published_size(percent)),
                               "own": None, "sizes": None}
        if len(teacher.spec.filters) == len(percent):
            row["own"] = asdict(published_size(percent, teacher.spec))
            row["sizes"] = measure_sizes(pruning.prune(teacher, percent)).as_json()
        rows.append(row)
        on_plan(name)
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The report of the step compare as Markdown.

    Parameters
    ----------
    report
        As the step writes it into ``report.json``.

    Returns
    -------
    str
        The whole page.
    """
    parts = ["# Compression", f"Teacher: {report['teacher']['label']}"]
    if report.get("note"):
        parts.append(f"**{report['note']}**")
    parts += ["## The networks of this run", networks_table(report["networks"])]
    if report["left_out"]:
        parts.append("\n".join(f"* {line}" for line in report["left_out"]))
    if report.get("sensitivity"):
        parts += ["## One layer at a time", f"Measured by: {report['sensitivity']['words']}.",
                  sensitivity_table(report["sensitivity"])]
    parts += ["## The published plans", f"By the published formula: {FORMULA}. It counts biases as "
              "if they were pruned, and percentages instead of zeros; the columns from “non-zero” "
              "on are counted on the teacher of this run.",
              published_table(report["published"])]
    return "\n\n".join(parts) + "\n"


def published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The published table with true counts and bytes beside it.

    Parameters
    ----------
    rows
        From ``published_rows``.

    Returns
    -------
    str
        A Markdown table.
    """
    titles = ["plan", "percent per convolution", "parameters", "MB", "reduction %",
              "non-zero", *(f"{title}, bytes" for title in FORMS.values())]
    return markdown_table(titles, ([
        row["plan"], " ".join(f"{value:g}" for value in row["percent"]),
        f"{row['published']['remaining']:,.0f}", f"{row['published']['mb']:.3f}",
        f"{row['published']['reduction']:.2f}", *_bytes(row["sizes"])] for row in rows))


def networks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The networks of a run: how they were made, how large they are and how close to the teacher.

    Parameters
    ----------
    rows
        Entries of ``networks`` in ``report.json``.

    Returns
    -------
    str
        A Markdown table.
    """
    titles = ["network", "plan", "convolutions", "values", "parameters", "non-zero",
              *(f"{title}, bytes" for title in FORMS.values()), "MSE", "cosine", "accuracy"]
    return markdown_table(titles, ([
        row["made_by"], row["plan"], str(row["convolutions"]), str(row["dim"]),
        f"{row['sizes']['parameters']:,}", *_bytes(row["sizes"]),
        _number(row.get("mse")), _number(row.get("cosine")), _number(row.get("accuracy"))]
        for row in rows))


def sensitivity_table(curve: Mapping[str, Any]) -> str:
    """The sensitivity scan: layers down, sparsities across.

    Parameters
    ----------
    curve
        ``sensitivity`` in ``report.json``.

    Returns
    -------
    str
        A Markdown table of accuracy or cosine, and a line for the unpruned network.
    """
    measure = "accuracy" if curve["judge"] == "correspondence" else "cosine"
    sparsities = sorted({row["sparsity"] for row in curve["points"]})
    layers = sorted({(row["layer"], row["name"]) for row in curve["points"]})
    values = {(row["layer"], row["sparsity"]): row[measure] for row in curve["points"]}
    return markdown_table([measure, *(f"{value:g}%" for value in sparsities)], [
        [name, *(_number(values.get((layer, value))) for value in sparsities)]
        for layer, name in layers]) + (
            f"\n\nUnpruned: {measure} {_number(curve['unpruned'].get(measure))}.")


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Parameters
    ----------
    titles
        Of the columns.
    rows
        Cells, as many per row as there are titles.

    Returns
    -------
    str
        Lines separated by line ends, without one at the end.
    """
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _bytes(sizes: Mapping[str, int] | None) -> list[str]:
    if sizes is None:
        return ["–"] * (1 + len(FORMS))
    return [f"{sizes['non_zero']:,}", *(f"{sizes[form]:,}" for form in FORMS)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
