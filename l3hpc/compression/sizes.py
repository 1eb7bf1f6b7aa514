"""How large a compressed network is: by the published formula, and truly, in five forms.

The published table (EdgeL3, Kumari et al. 2019) counts kernels *and* biases as if both were pruned,
multiplies by percentages instead of counting zeros, leaves normalisations out of what remains and
keeps them in what it is compared with. ``published`` reproduces that to the digit; everything else
here counts what is there.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from l3hpc.compression.pruning import kernels, places
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, openl3_spec, parameter_count

MIB = 1 << 20
GZIP_LEVEL = 6


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
