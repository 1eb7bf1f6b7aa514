"""Similarity features of embeddings: what the rows of a DPP's kernel are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from l3hpc.arrays.rows import BLOCK_ROWS, as_rows
from l3hpc.errors import InputError, check_choice

NORMS = ("l2", "l1", "none")


class FeatureRows:
    """Similarity features b_i = q_i x_i / ‖x_i‖ of embeddings x_i, computed block by block.

    quality: (n,) finite and not negative, or None for 1 everywhere.
    norm: 'l2', 'l1' (the published pipeline's), or 'none' (x_i is taken as it is).
    An all-zero row stays zero. The features are float64.
    """

    def __init__(
        self, rows: Any, quality: np.ndarray | None = None, norm: str = "l2",
    ) -> None:
        check_choice("norm", norm, NORMS)
        self.rows = as_rows(rows)
        self.norm = norm
        self.quality = None if quality is None else np.asarray(quality, dtype=np.float64)
        if self.quality is not None:
            if self.quality.shape != (self.rows.shape[0],):
                raise InputError(
                    f"{self.quality.size} quality values for {self.rows.shape[0]} rows")
            if not (np.isfinite(self.quality).all() and (self.quality >= 0).all()):
                raise InputError("quality values must be finite and not negative")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.shape

    def chunks(self, size: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
        """All features in order, at most ``size`` rows at a time."""
        start = 0
        for chunk in self.rows.chunks(size):
            yield self.of(chunk, slice(start, start + len(chunk)))
            start += len(chunk)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The features of these rows."""
        return self.of(self.rows.take(indices), indices)

    def of(self, x: np.ndarray, which: slice | np.ndarray,
           dtype: np.dtype | None = None) -> np.ndarray:
        """The features of the rows ``which``, whose embeddings x are read already."""
        quality = None if self.quality is None else self.quality[which]
        return features(x, quality, self.norm, dtype)


def features(
    x: np.ndarray, quality: np.ndarray | None = None, norm: str = "l2",
    dtype: np.dtype | None = None,
) -> np.ndarray:
    """Similarity features q_i x_i / ‖x_i‖ of embeddings.

    Parameters
    ----------
    x
        (n, d) embeddings.
    quality
        (n,) values q_i; None: 1 everywhere.
    norm
        ``'l2'``, ``'l1'`` (the published pipeline's), or ``'none'`` (x_i is taken as it is).
    dtype
        Of the result; None: float64.

    Returns
    -------
    numpy.ndarray
        (n, d). A row of zeros stays zero.

    Raises
    ------
    InputError
        An unknown norm, or rows with NaN or infinite values.
    """
    check_choice("norm", norm, NORMS)
    kind = np.dtype(np.float64 if dtype is None else dtype)
    result = np.array(x, dtype=kind)
    if norm == "l2":
        lengths = np.sqrt(np.einsum("ij,ij->i", result, result))
    elif norm == "l1":
        lengths = np.abs(result).sum(axis=1)
    else:
        lengths = np.ones(len(result), kind)
    if kind != np.float64 and not ((lengths > 1e-12) & (lengths < 1e12)).all():
        return features(x, quality, norm).astype(kind)  # squares could vanish or overflow
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise InputError(f"row {row} of a block holds NaN or infinite values")
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    if quality is not None:
        scale *= np.asarray(quality, dtype=np.float64)
    result *= scale[:, None]
    return result
