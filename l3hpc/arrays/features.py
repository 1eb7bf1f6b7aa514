"""Similarity features of embeddings: the rows from which the kernel of a DPP is built.

``FeatureRows`` computes them block by block, ``features`` for one block in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from l3hpc.arrays.rows import RowSource, as_rows
from l3hpc.errors import InputError, check_choice

NORMS = ("l2", "l1", "none")
SAFE_NORMS = (1e-12, 1e12)  # range in which squares neither vanish nor overflow in float32


class FeatureRows:
    """Similarity features b_i = q_i x_i / ‖x_i‖ of embeddings x_i, computed block by block.

    The features are float64; a row of zeros stays zero.

    Parameters
    ----------
    rows
        (n, d) embeddings.
    quality
        (n,) finite values q_i >= 0; None for 1 everywhere.
    norm
        ``'l2'``, ``'l1'`` (as in the published pipeline), or ``'none'`` (x_i is not scaled).

    Raises
    ------
    InputError
        An unknown norm, or quality values of another number, negative or not finite.

    Examples
    --------
    >>> FeatureRows(np.array([[3.0, 4.0]]), np.array([10.0])).take(np.array([0]))
    array([[6., 8.]])
    """

    def __init__(
        self, rows: RowSource, quality: np.ndarray | None = None, norm: str = "l2",
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
        """(rows, columns)."""
        return self.rows.shape

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yield all features in order, at most ``size`` rows at a time."""
        start = 0
        for chunk in self.rows.chunks() if size is None else self.rows.chunks(size):
            yield self.of(chunk, slice(start, start + len(chunk)))
            start += len(chunk)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the features (m, d) of the rows with these numbers (m,)."""
        return self.of(self.rows.take(indices), indices)

    def of(self, x: np.ndarray, which: slice | np.ndarray,
           dtype: np.dtype | None = None) -> np.ndarray:
        """Return the features of the rows ``which`` from their embeddings ``x`` (m, d)."""
        quality = None if self.quality is None else self.quality[which]
        return features(x, quality, self.norm, dtype)


def features(
    x: np.ndarray, quality: np.ndarray | None = None, norm: str = "l2",
    dtype: np.dtype | None = None,
) -> np.ndarray:
    """Compute similarity features q_i x_i / ‖x_i‖ of embeddings.

    Parameters
    ----------
    x
        (n, d) embeddings.
    quality
        (n,) values q_i; None for 1 everywhere.
    norm
        ``'l2'``, ``'l1'`` (as in the published pipeline), or ``'none'`` (x_i is not scaled).
    dtype
        Type of the result; None for float64.

    Returns
    -------
    numpy.ndarray
        (n, d). A row of zeros stays zero.

    Raises
    ------
    InputError
        An unknown norm, or rows with NaN or infinite values.

    References
    ----------
    A. Kulesza and B. Taskar, "Determinantal point processes for machine learning", Foundations and
    Trends in Machine Learning 5, 2012, section 3.1.
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
    # Such rows are rare, so a block that has one is computed in double precision and rounded.
    if kind != np.float64 and not (
            (lengths > SAFE_NORMS[0]) & (lengths < SAFE_NORMS[1])).all():
        return features(x, quality, norm).astype(kind)
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise InputError(f"row {row} of a block contains NaN or infinite values")
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    if quality is not None:
        scale *= np.asarray(quality, dtype=np.float64)
    result *= scale[:, None]
    return result
