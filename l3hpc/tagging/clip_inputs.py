"""What a classifier is given for a clip: its embeddings, and when and where it was recorded.

``ClipInputs`` reads both as one array, and mixes synthetic clips (``balancing``) when it reads
them. ``InputScaling`` is the standardisation and the whitened PCA between it and the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from l3hpc.arrays.row_file import RowFile
from l3hpc.errors import InputError
from l3hpc.tagging.balancing import Mixes
from l3hpc.tagging.clip_metadata import PLACE

# Of embeddings that are read at once. What is computed from a block is freed with it, but glibc
# keeps freed memory in pieces of up to 32 MB: with blocks of that size a task was 160 MB larger.
BLOCK_BYTES = 4 << 20
NO_VARIANCE = 1e-7  # share of the largest variance, below which a direction is rounding error


class ClipInputs:
    """Embeddings of clips with their metadata, read in blocks like a ``RowFile``.

    Parameters
    ----------
    embeddings
        float32, shape (clips, frames, dim), in memory or on disk.
    metadata
        Values that are appended to every frame of a clip, shape (clips, values) (None: nothing).
    mixes
        Synthetic clips, which follow the others (None: none).

    Attributes
    ----------
    shape : tuple of int
        (clips, frames, dim), with the synthetic clips and the values; (frames, dim) after
        ``reshape``.

    Raises
    ------
    InputError
        The number of rows of ``metadata`` is not that of the clips.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.clip_inputs import ClipInputs
    >>> inputs = ClipInputs(np.zeros((4, 3, 2), np.float32), np.ones((4, 5)))
    >>> inputs.shape, inputs[:2].shape
    ((4, 3, 7), (2, 3, 7))
    """

    def __init__(self, embeddings: np.ndarray | RowFile, metadata: np.ndarray | None = None,
                 mixes: Mixes | None = None) -> None:
        if metadata is not None and len(metadata) != len(embeddings):
            raise InputError(f"{len(embeddings)} clips, metadata of {len(metadata)}")
        self.embeddings, self.mixes = embeddings, mixes
        self.metadata = None if metadata is None else np.asarray(metadata, np.float32)
        self._frames = 1  # rows of the array that is read per clip
        values = 0 if metadata is None else metadata.shape[1]
        made = 0 if mixes is None else len(mixes)
        clips, frames, dim = embeddings.shape
        self.shape: tuple[int, ...] = (clips + made, frames, dim + values)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        clip, frame = np.divmod(rows, self._frames)
        real = len(self.embeddings) // self._frames
        is_made = clip >= real
        if self.mixes is None or not is_made.any():
            return self._real(clip, frame)
        made = clip[is_made] - real
        first = clip.copy()
        first[is_made] = self.mixes.seed[made]
        block = self._real(first, frame)
        share = self.mixes.alpha[made].reshape(-1, *[1] * (block.ndim - 1))
        other = self._real(self.mixes.neighbour[made], frame[is_made])
        block[is_made] = share * block[is_made] + (1 - share) * other
        return block

    def reshape(self, *shape: int) -> ClipInputs:
        """The frames of all clips as rows; nothing is read.

        Parameters
        ----------
        *shape
            -1 and the length of a frame: the one shape that is possible.
        """
        if len(self.shape) != 3 or shape != (-1, self.shape[2]):
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        view = object.__new__(ClipInputs)
        view.mixes, view.metadata, view._frames = self.mixes, self.metadata, self.shape[1]
        view.embeddings = self.embeddings.reshape(-1, self.embeddings.shape[2])
        view.shape = (self.shape[0] * self.shape[1], self.shape[2])
        return view

    def _real(self, clip: np.ndarray, frame: np.ndarray) -> np.ndarray:
        block = self.embeddings[clip * self._frames + frame]
        if self.metadata is None:
            return block
        values = self.metadata[clip]
        if block.ndim == 3:
            values = np.broadcast_to(values[:, None], (*block.shape[:2], values.shape[1]))
        return np.concatenate([block, values], axis=-1)


@dataclass(frozen=True)
class InputScaling:
    """Standardisation of the inputs, and a whitened PCA of the embeddings.

    Attributes
    ----------
    mean, scale : ndarray of float32, shape (inputs,)
        What is subtracted, and by what is divided.
    projection : ndarray of float32, shape (dim, components), or None
        Is applied to the first ``dim`` standardised inputs, the embedding; the others follow.
    """

    mean: np.ndarray
    scale: np.ndarray
    projection: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Values per frame that the network is given."""
        if self.projection is None:
            return len(self.mean)
        return len(self.mean) - self.projection.shape[0] + self.projection.shape[1]

    def __call__(self, x: Any) -> Any:
        """The inputs of the network, of a NumPy array or a tensor (…, inputs)."""
        x = (x - self.mean) / self.scale
        if self.projection is None:
            return x
        dim = self.projection.shape[0]
        return ops.concatenate([ops.matmul(x[..., :dim], self.projection), x[..., dim:]], axis=-1)

    def on_device(self) -> InputScaling:
        """The same with tensors, for use in a ``tf.function``.

        TensorFlow would otherwise make constants of the arrays, and replace the division by a
        multiplication with the reciprocal, which rounds differently.
        """
        to_tensor = ops.convert_to_tensor
        return InputScaling(to_tensor(self.mean), to_tensor(self.scale),
                            None if self.projection is None else to_tensor(self.projection))


def fit_scaling(x: np.ndarray | RowFile | ClipInputs, *, standardize: bool, pca: bool = False,
                components: int | None = None) -> InputScaling:
    """Statistics of the training clips, without the synthetic ones.

    Latitude and longitude are always standardised: in degrees, all places would look alike. The
    one-hot values are left as they are.

    Parameters
    ----------
    x
        Training clips, shape (clips, frames, inputs).
    standardize
        Scale every dimension of the embeddings to mean 0 and variance 1.
    pca
        Project the embeddings on their principal components, each scaled to variance 1.
    components
        How many, from 1 to the dimensions (None: all).

    Returns
    -------
    InputScaling
        The statistics.

    Raises
    ------
    InputError
        For more components than dimensions, or than frames.
    """
    embeddings = x.embeddings if isinstance(x, ClipInputs) else x
    dim, projection = embeddings.shape[-1], None
    mean, scale = np.zeros(dim, np.float32), np.ones(dim, np.float32)
    if pca:
        mean, scale, projection = _whitening(embeddings, standardize, components)
    elif standardize:
        mean, scale = standardizer(embeddings)
    values = x.metadata if isinstance(x, ClipInputs) else None
    if values is not None:
        place = values[:, :PLACE].astype(np.float64)
        spread = place.std(axis=0)
        # One sensor alone has one place: rounding would be divided by rounding.
        spread[spread < 1e-9 * (1 + np.abs(place.mean(axis=0)))] = 1
        others = values.shape[1] - PLACE
        mean = np.concatenate([mean, place.mean(axis=0), np.zeros(others)]).astype(np.float32)
        scale = np.concatenate([scale, spread, np.ones(others)]).astype(np.float32)
    return InputScaling(mean, scale, projection)


def rows_at_once(x: np.ndarray | RowFile | ClipInputs) -> int:
    """How many rows (clips or frames) of embeddings are read at once.

    Parameters
    ----------
    x
        Embeddings, shape (rows, …).

    Returns
    -------
    int
        As many as ``BLOCK_BYTES`` hold as float32, at least 1.
    """
    return max(1, BLOCK_BYTES // max(1, 4 * math.prod(x.shape[1:])))


def _whitening(x: np.ndarray | RowFile, standardize: bool, components: int | None
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and whitened projection of all frames, read once."""
    from l3hpc.reduction.linear_fit import fit_linear

    frames = x.reshape(-1, x.shape[-1])
    most = min(frames.shape)
    if components is not None and components > most:
        raise InputError(f"{components} components of {frames.shape[0]} frames with "
                         f"{frames.shape[1]} dimensions", where="pca_components",
                         allowed=f"at most {most}")
    size = rows_at_once(frames)
    fit = fit_linear((frames[first:first + size] for first in range(0, len(frames), size)),
                     components, standardize=standardize)
    variance = fit.explained_variance
    # A direction without variance gives 0, as a constant dimension does: divided by its deviation,
    # rounding error would weigh as much as the first component.
    is_kept = variance > NO_VARIANCE * variance[0]
    whitening = np.where(is_kept, 1 / np.sqrt(np.where(is_kept, variance, 1)), 0)
    return (fit.mean.astype(np.float32), fit.scale.astype(np.float32),
            (fit.components * whitening[:, None]).T.astype(np.float32))


def standardizer(x: np.ndarray | RowFile) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all frames.

    Parameters
    ----------
    x
        Embeddings, shape (clips, frames, dim).

    Returns
    -------
    mean, scale : ndarray of float32, shape (dim,)
        The scale of a constant dimension is 1.
    """
    flat = x.reshape(-1, x.shape[-1])
    # Sums of squares about the first frame: about 0 they would lose digits where means are large.
    shift = flat[0].astype(np.float64)
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    size = rows_at_once(flat)
    for first in range(0, len(flat), size):
        block = flat[first:first + size] - shift
        total += block.sum(axis=0)
        square += np.square(block).sum(axis=0)
    mean = total / len(flat)
    spread = np.sqrt(np.maximum(square / len(flat) - mean ** 2, 0))
    # Of a constant column rounding alone is left, which the division would blow up.
    spread[spread < 1e-7 * (1 + np.abs(mean + shift))] = 1
    return (mean + shift).astype(np.float32), spread.astype(np.float32)
