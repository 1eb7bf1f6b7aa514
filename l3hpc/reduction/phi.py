"""φ, the reduction of teacher embeddings, its file, and its application to whole files.

The HDF5 file of φ contains plain arrays and a JSON description, no pickle, so that any version and
any program can read it. It names the teacher that made the embeddings and the fingerprint of the
rows that φ was fitted to, and has a digest of its numbers. ``reduce_part`` applies φ from file to
file, in one pass and bounded memory.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from l3hpc.console.progress import Progress
from l3hpc.datasets.embedding_file import EmbeddingFile
from l3hpc.datasets.embeddings import reduced_key
from l3hpc.errors import InputError
from l3hpc.io.files import canonical_json, write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5
from l3hpc.reduction.header import (
    FORMAT,
    HEADER,
    KERNEL_PROJECTION,
    PROJECTION,
    VERSIONS,
    PhiDescription,
    PhiHeader,
    read_header,
)
from l3hpc.reduction.linear_fit import LinearFit
from l3hpc.reduction.projection import Projection
from l3hpc.reduction.umap import RebuiltUMAP, StandardizedUMAP

if TYPE_CHECKING:
    from l3hpc.reduction.kernel_fit import KernelFit
    from l3hpc.reduction.kernel_pca import StreamingKernelPCA
    from l3hpc.reduction.kernel_projection import KernelProjection
    from l3hpc.reduction.pca import StreamingPCA

CHUNK_ROWS = 1024  # of a dataset: whole rows without compression are written at disk speed


@dataclass
class Phi(PhiHeader):
    """A fitted reduction: the attributes of ``PhiHeader``, and its numbers.

    Attributes
    ----------
    arrays : dict
        Name → array, the numbers of the fit.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    _model: Projection | KernelProjection | RebuiltUMAP | None = field(
        default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.check_values({name: array.shape for name, array in self.arrays.items()})

    @classmethod
    def from_pca(
        cls, pca: StreamingPCA | LinearFit, *, fingerprint: str = "",
        teacher: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None,
    ) -> Phi:
        """Make φ of a fitted PCA.

        Parameters
        ----------
        pca
            The fitted estimator, or what ``linear_fit.fit_linear`` returns.
        fingerprint, teacher
            As in the attributes.
        params
            Additional settings.
        """
        fit: LinearFit = pca if isinstance(pca, LinearFit) else pca.as_fit()
        out_dim, in_dim = fit.components.shape
        arrays = {"mean": fit.mean, "scale": fit.scale, "components": fit.components,
                  "explained_variance": fit.explained_variance,
                  "explained_variance_ratio": fit.explained_variance_ratio,
                  "spectrum": fit.spectrum}
        return cls("pca", in_dim, out_dim, fingerprint, dict(teacher or {}), fit.n_samples,
                   {"mode": fit.mode, "kernel": "linear", **(params or {})}, arrays)

    @classmethod
    def from_kernel_pca(
        cls, pca: StreamingKernelPCA | KernelFit, *, fingerprint: str = "",
        teacher: Mapping[str, Any] | None = None,
    ) -> Phi:
        """Make φ of a fitted kernel PCA.

        Parameters
        ----------
        pca
            The fitted estimator, or what ``kernel_fit.fit_kernel`` returns.
        fingerprint, teacher
            As in the attributes.
        """
        from l3hpc.reduction.kernel_fit import KernelFit

        fit: KernelFit = pca if isinstance(pca, KernelFit) else pca.as_fit()
        kernel = fit.kernel
        settings: dict[str, Any] = {"kernel": kernel.name, "gamma": kernel.gamma}
        if kernel.name == "poly":
            settings |= {"degree": kernel.degree, "coef0": kernel.coef0}
        if not fit.is_exact:
            settings["seed"] = fit.seed
        arrays = {"mean": fit.mean, "scale": fit.scale, "landmarks": fit.landmarks,
                  "centre": fit.centre, "weights": fit.weights,
                  "explained_variance": fit.explained_variance,
                  "explained_variance_ratio": fit.explained_variance_ratio}
        in_dim, out_dim = len(fit.mean), fit.weights.shape[1]
        return cls("pca", in_dim, out_dim, fingerprint, dict(teacher or {}), fit.n_samples,
                   settings, arrays)

    @classmethod
    def from_umap(
        cls, umap: StandardizedUMAP, *, fingerprint: str = "",
        teacher: Mapping[str, Any] | None = None,
    ) -> Phi:
        """Make φ of a fitted UMAP.

        Parameters
        ----------
        umap
            The fitted UMAP.
        fingerprint, teacher
            As in the attributes.
        """
        arrays = {"mean": umap.mean_, "scale": umap.scale_,
                  "training_rows": umap.training_rows_,
                  "training_embedding": umap.training_embedding_}
        rows, in_dim = umap.training_rows_.shape
        return cls("umap", in_dim, umap.n_components, fingerprint, dict(teacher or {}), rows,
                   umap.params_, arrays)

    @classmethod
    def identity(
        cls, dim: int, *, fingerprint: str = "", teacher: Mapping[str, Any] | None = None,
    ) -> Phi:
        """Make the φ that leaves rows unchanged, for the MSE baseline.

        Parameters
        ----------
        dim
            Length of a row.
        fingerprint, teacher
            As in the attributes.
        """
        return cls("none", dim, dim, fingerprint, dict(teacher or {}))

    @property
    def key(self) -> str:
        """The published name of the dataset of rows that this φ makes."""
        names = ("kernel", "n_neighbors", "min_dist", "metric")
        settings = {name: self.params[name] for name in names if name in self.params}
        return reduced_key(self.approx, self.n_samples, self.out_dim, **settings)

    @property
    def explained(self) -> float | None:
        """Fraction of the variance that the output keeps, 0 to 1; None for UMAP.

        With a kernel, of the variance of k(x, ·): see ``StreamingKernelPCA``.
        """
        if self.approx == "none":
            return 1.0
        ratio = self.arrays.get("explained_variance_ratio")
        return None if ratio is None else float(np.sum(ratio))

    @property
    def digest(self) -> str:
        """32 hex digits that identify this φ: numbers, teacher, and fingerprint of the fit."""
        state = hashlib.blake2b(canonical_json(self._header()).encode(), digest_size=16)
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            # The same bytes in another shape or type are another φ.
            state.update(f"{name}{array.shape}{array.dtype.str}".encode())
            state.update(array.tobytes())
        return state.hexdigest()

    @property
    def description(self) -> PhiDescription:
        """All of this without the numbers."""
        return PhiDescription(**self._header(), sampled=self.sampled, digest=self.digest)

    def _header(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in HEADER}
        return {name: dict(value) if isinstance(value, Mapping) else value
                for name, value in values.items()}

    def transform(
        self, x: np.ndarray, teacher: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Reduce rows.

        Parameters
        ----------
        x
            Rows, shape (m, in_dim).
        teacher
            Identity of the network that made them (None: not checked).

        Returns
        -------
        ndarray of float32, shape (m, out_dim)
            The reduced rows.

        Raises
        ------
        InputError
            As ``check``.
        """
        x = np.asarray(x)
        if x.ndim != 2:
            raise InputError(f"expected rows of length {self.in_dim}, found shape {x.shape}")
        self.check(x.shape[1], teacher)
        if self.approx == "none":
            return x.astype(np.float32)
        return self._transformer().transform(x).astype(np.float32, copy=False)

    def stream(
        self, chunks: Iterable[np.ndarray], threads: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Reduce rows that are read in chunks, in their order.

        The result of a PCA does not depend on how the chunks are cut. A UMAP transforms each chunk
        in one call, and its result depends on the rows of the call.

        Parameters
        ----------
        chunks
            Arrays (m, in_dim).
        threads
            Number of threads for a PCA of either kind (None: one per core).

        Yields
        ------
        ndarray of float32, shape (m, out_dim)
            Valid only until the next one is requested.

        Raises
        ------
        InputError
            For rows of another length.
        """
        transformer = self._transformer() if self.approx != "none" else None
        if transformer is None or isinstance(transformer, RebuiltUMAP):
            return (self.transform(chunk) for chunk in chunks)
        return transformer.stream(chunks, threads)

    def _transformer(self) -> Projection | KernelProjection | RebuiltUMAP:
        """The object that reduces rows, made when it is first needed."""
        if self._model is None:
            if self.kind == "kernel pca":
                from l3hpc.reduction.kernel_projection import KernelProjection

                self._model = KernelProjection(
                    self.kernel(), *(self.arrays[name] for name in KERNEL_PROJECTION))
            elif self.kind == "pca":
                self._model = Projection(*(self.arrays[name] for name in PROJECTION))
            else:
                self._model = RebuiltUMAP(self.arrays, self.params)
        return self._model


def save_phi(path: Path, phi: Phi) -> None:
    """Write φ to an HDF5 file, atomically.

    Parameters
    ----------
    path
        The file.
    phi
        The reduction.
    """
    # HDF5 writes a file in many places and steps. Made in memory, it reaches the disk whole or not
    # at all.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSIONS[phi.kind == "kernel pca"]
        file.attrs["header"] = canonical_json(phi._header())
        file.attrs["key"] = phi.key
        file.attrs["digest"] = phi.digest
        file.attrs["sampled"] = canonical_json(dict(phi.sampled))
        for name in sorted(phi.arrays):
            file.create_dataset(name, data=phi.arrays[name])
    write_bytes(Path(path), image.getvalue())


def load_phi(path: Path) -> Phi:
    """Read φ.

    Parameters
    ----------
    path
        A file that ``save_phi`` wrote.

    Raises
    ------
    InputError
        For a file of another kind or version, and one that was damaged or changed.
    """
    with open_hdf5(path) as file:
        header = read_header(file, Path(path))
        arrays = {name: numeric_dataset(file, name, "f")[()] for name in file}
    phi = Phi(**{name: getattr(header, name) for name in HEADER}, sampled=header.sampled,
              arrays=arrays)
    if phi.digest != header.digest:
        raise InputError("the numbers have changed since it was written (digest differs)",
                         where=str(path), hint="run the step fit again")
    return phi


def reduce_part(
    part: EmbeddingFile, phi: Phi, target: Path, *, chunk: int = 8192,
    progress: Progress | None = None, threads: int | None = None,
) -> None:
    """Reduce all rows of one file and write them to another, in the same order.

    The dataset is named ``phi.key`` (float32); attributes of the file give the key, the digest of φ
    and the teacher.

    Parameters
    ----------
    part
        Embeddings of one file.
    phi
        The reduction.
    target
        HDF5 file to write.
    chunk
        Rows that are read at once.
    progress
        Advanced by the rows that are written.
    threads
        As for ``Phi.stream``.

    Raises
    ------
    InputError
        For rows of another length or teacher than those of the fit, and rows that are not finite.
    """
    import h5py
    import numpy as np

    attributes: dict[str, Any] = part.attributes()
    teacher = attributes.get("teacher") or None
    phi.check(part.dim, teacher, where=str(part.path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # HDF5 has no chunks of length 0.
    chunks = (min(CHUNK_ROWS, part.rows), phi.out_dim) if part.rows else None
    with h5py.File(target, "w") as file:
        data = file.create_dataset(phi.key, (part.rows, phi.out_dim), "f4", chunks=chunks)
        at = 0
        for reduced in phi.stream(part.chunks(chunk), threads):
            if not np.isfinite(reduced).all():
                raise InputError(f"rows {at} to {at + len(reduced) - 1} contain NaN or infinite "
                                 "values", where=str(part.path))
            data[at:at + len(reduced)] = reduced
            at += len(reduced)
            if progress is not None:
                progress.advance(len(reduced))
        file.attrs["key"] = phi.key
        file.attrs["approx"] = phi.approx
        file.attrs["phi"] = phi.digest
        file.attrs["reduction"] = canonical_json(phi.description.provenance())
        file.attrs["teacher"] = json.dumps(dict(teacher or phi.teacher))
        file.attrs["source"] = part.path.name
