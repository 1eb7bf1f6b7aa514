"""How close a compressed network's embeddings are to the teacher's, also layer by layer.

``scan_layers`` is the sensitivity analysis: prune one convolution at a time and see what is lost.
EdgeL3 (Kumari et al. 2019) did this at 70, 80, 85, 90 and 95%, with audio-visual correspondence as
the measure (``l3hpc.compression.correspondence``). Any function from a network to numbers will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l3hpc.compression.plans import check_percent, layer_names
from l3hpc.compression.pruning import prune
from l3hpc.compression.sizes import layer_counts
from l3hpc.errors import InputError
from l3hpc.models import engines
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters

SPARSITIES = (70.0, 80.0, 85.0, 90.0, 95.0)  # percent, of the published scan
Evaluate = Callable[[Parameters], dict[str, Any]]



class Fidelity:
    """Compares networks with one teacher on one set of windows.

    Parameters
    ----------
    teacher
        The network to compare with.
    frames
        (n, rate) windows in [-1, 1].
    threads
        CPU threads; None: all that the task was given.
    engine
        Inference engine, see ``l3hpc.models.engines``.

    Raises
    ------
    InputError
        There are no windows.
    """

    def __init__(self, teacher: Parameters, frames: np.ndarray, *, threads: int | None = None,
                 engine: str = "auto") -> None:
        if not len(frames):
            raise InputError("no windows of audio to compare embeddings on")
        self.frames, self.threads, self.engine = frames, threads, engine
        self.teacher = self.embed(teacher)
        self._unpruned = teacher

    def embed(self, parameters: Parameters) -> np.ndarray:
        """Embed the windows.

        Parameters
        ----------
        parameters
            The network.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.
        """
        engine = engines.choose(parameters.folded(), self.threads, self.engine)
        return Embedder(parameters, "", threads=self.threads, engine=engine).embed(self.frames)

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """The ``embedding_distance`` of a network to the teacher.

        Parameters
        ----------
        parameters
            The network.

        Returns
        -------
        dict
            ``mse``, ``mae``, ``cosine`` and ``windows``.

        Raises
        ------
        InputError
            Its embeddings have another length than the teacher's.
        """
        if parameters.spec.dim != self.teacher.shape[1]:
            raise InputError(f"embeddings of length {parameters.spec.dim} cannot be compared with "
                             f"the teacher's of length {self.teacher.shape[1]}")
        # the teacher is the largest of the networks, and a task of a scan has few of them
        embeddings = self.teacher if parameters is self._unpruned else self.embed(parameters)
        return embedding_distance(embeddings, self.teacher)


def embedding_distance(embeddings: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Mean squared error, mean absolute error and mean cosine between two sets of embeddings.

    Computed in float64. Where one of the two embeddings of a window is all zeros its cosine counts
    as 0, where both are, as 1.

    Parameters
    ----------
    embeddings
        (n, dim).
    reference
        (n, dim), the values to compare with.

    Returns
    -------
    dict
        ``mse`` and ``mae`` over all values, ``cosine`` over the windows, and ``windows`` (n).
    """
    # Squares of small differences lose digits in float32.
    mine, theirs = embeddings.astype(np.float64), reference.astype(np.float64)
    difference = mine - theirs
    product = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    # Students give zeros for silence: two such embeddings agree, though they have no angle.
    both = ~mine.any(axis=1) & ~theirs.any(axis=1)
    cosine = np.where(product > 0, (mine * theirs).sum(axis=1) / np.where(product > 0, product, 1),
                      both.astype(float))
    return {"mse": float((difference ** 2).mean()), "mae": float(np.abs(difference).mean()),
            "cosine": float(cosine.mean()), "windows": len(mine)}


@dataclass(frozen=True)
class ScanPoint:
    """One network of the scan.

    Attributes
    ----------
    layer
        The convolution that is pruned, from 0.
    sparsity
        Percent of its weights that become zero.
    """

    layer: int
    sparsity: float


def scan_points(layers: int, sparsities: Sequence[float] = SPARSITIES) -> list[ScanPoint]:
    """All points of a scan, layer by layer.

    Parameters
    ----------
    layers
        Number of convolutions.
    sparsities
        Percent, each in 0 ≤ q < 100.

    Returns
    -------
    list of ScanPoint
        ``layers`` × ``len(sparsities)`` points.

    Raises
    ------
    InputError
        A sparsity is out of range.
    """
    for value in sparsities:
        check_percent(value, "sparsities")
    return [ScanPoint(layer, value) for layer in range(layers) for value in sparsities]


def scan_layers(parameters: Parameters, points: Iterable[ScanPoint],
                evaluate: Evaluate) -> Iterable[dict[str, Any]]:
    """Prune one convolution at a time and evaluate each network.

    Parameters
    ----------
    parameters
        The unpruned network.
    points
        Which convolution to prune by how much.
    evaluate
        Gives the measures of a network, such as ``Fidelity.of``.

    Yields
    ------
    dict
        ``layer`` (from 1), ``name``, ``sparsity``, the ``layer_counts`` of the layer and the
        measures.
    """
    names = layer_names(len(parameters.spec.filters))
    for point in points:
        plan = [0.0] * len(names)
        plan[point.layer] = point.sparsity
        pruned = prune(parameters, plan)
        yield {"layer": point.layer + 1, "name": names[point.layer], "sparsity": point.sparsity,
               **layer_counts(pruned)[point.layer], **evaluate(pruned)}
