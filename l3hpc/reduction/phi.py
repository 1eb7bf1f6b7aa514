"""Rows onto principal directions: all at once, or as a stream at the speed of the disk.

φ, the reduction of teacher embeddings, as one object and one HDF5 file that executes nothing.

The file holds plain arrays and a JSON description: no pickle, so any version and any program can
read it. It carries the teacher that made the embeddings, the fingerprint of the rows it was fitted
on, and a digest of its own numbers.

φ from file to file: one pass in bounded memory, whole-row chunks, no compression.

Whole rows of 1,024 in a chunk and no gzip is what makes this run at the speed of the disk.
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

from l3hpc.arrays.rows import rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, map_in_order
from l3hpc.console.progress import Progress
from l3hpc.datasets.embeddings import APPROXIMATIONS, Part, reduced_key
from l3hpc.errors import InputError
from l3hpc.io.files import canonical_json, write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_attributes
from l3hpc.reduction.umap import RebuiltUMAP, StandardizedUMAP

if TYPE_CHECKING:
    from l3hpc.reduction.pca import StreamingPCA

BLOCK_ROWS = 2048
FORMAT = "l3hpc-phi"
VERSION = 1
HEADER = ("approx", "in_dim", "out_dim", "fingerprint", "teacher", "n_samples", "params")
HEADER_TYPES = {"in_dim": int, "out_dim": int, "n_samples": int, "teacher": dict, "params": dict}
PROJECTION = ("mean", "scale", "components")
ARRAYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "pca": (*PROJECTION, "explained_variance", "explained_variance_ratio"),
    "umap": ("mean", "scale", "training_rows", "training_embedding"),
}
CHUNK_ROWS = 1024


class Projection:
    """((x − mean) / scale) · componentsᵀ of rows x: mean, scale (d,); components (kept, d).

    Rows of float32 are projected in float32, all others in float64; the rest of the mean that
    float32 cannot hold is not lost.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, components: np.ndarray) -> None:
        self.dim, self.kept = len(mean), len(components)
        self._mean, self._scale, self._components = mean, scale, components
        self._ready: dict[np.dtype, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _parts(self, kind: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre (d,), weights (d, kept) and what is added to every score (kept,), as ``kind``."""
        if kind not in self._ready:
            weights = (self._components / self._scale).T
            centre = self._mean.astype(kind)
            rest = (centre - self._mean) @ weights
            self._ready[kind] = (centre, np.ascontiguousarray(weights, kind), rest.astype(kind))
        return self._ready[kind]

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Scores of rows (m, d): (m, kept), float32 for float32 rows, else float64."""
        x = np.asarray(x)
        self._check(x)
        kind = _kind(x)
        result = np.empty((len(x), self.kept), kind)
        buffer = np.empty((min(BLOCK_ROWS, len(x)), self.dim), kind)
        centre, weights, rest = self._parts(kind)
        for start in range(0, len(x), BLOCK_ROWS):
            rows = x[start:start + BLOCK_ROWS]
            centred = buffer[:len(rows)]
            np.subtract(rows, centre, out=centred, casting="unsafe")
            scores = result[start:start + len(rows)]
            np.matmul(centred, weights, out=scores)
            scores += rest
        return result

    def stream(
        self, chunks: Iterable[np.ndarray], threads: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Scores of rows that come in ``chunks``, in order, as float32 blocks (m, kept).

        A block is only valid until the next one is asked for. threads: None: one per core. The
        scores depend neither on how the chunks are cut nor on ``threads``, in any bit.
        """
        count = available_threads(threads)
        with blas_threads(1):
            yield from map_in_order(self._score, self._centred(chunks, count + 1), count)

    def _centred(
        self, chunks: Iterable[np.ndarray], buffers: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows less the mean, a buffer for their scores), from ``buffers`` pairs used in turn."""
        kind = np.dtype(np.float32)
        centre = self._parts(kind)[0]
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for number, rows in enumerate(rechunk(chunks, BLOCK_ROWS)):
            self._check(rows)
            if len(pairs) < buffers:
                pairs.append((np.empty((BLOCK_ROWS, self.dim), kind),
                              np.empty((BLOCK_ROWS, self.kept), kind)))
            centred, scores = (buffer[:len(rows)] for buffer in pairs[number % buffers])
            np.subtract(rows, centre, out=centred, casting="unsafe")
            yield centred, scores

    def _score(self, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        centred, scores = pair
        _, weights, rest = self._parts(centred.dtype)
        np.matmul(centred, weights, out=scores)
        scores += rest
        return scores

    def _check(self, x: np.ndarray) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(
                f"expected rows of length {self.dim}, found an array of shape {x.shape}")


def _kind(x: np.ndarray) -> np.dtype:
    return np.dtype(np.float32 if x.dtype == np.float32 else np.float64)


@dataclass
class Phi:
    """A reduction from ``in_dim`` to ``out_dim`` numbers per row.

    approx: 'pca', 'umap' or 'none' (rows are passed on as they are).
    fingerprint: names the rows it was fitted on; teacher: names the network that made them.
    n_samples: rows of the fit; params: settings of the fit, JSON-able; arrays: its numbers.
    """

    approx: str
    in_dim: int
    out_dim: int
    fingerprint: str = ""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    n_samples: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    _model: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.approx not in APPROXIMATIONS:
            raise InputError(f"unknown reduction {self.approx!r}",
                             allowed=f"valid: {', '.join(APPROXIMATIONS)}")
        missing = [name for name in ARRAYS[self.approx] if name not in self.arrays]
        if missing:
            raise InputError(f"a {self.approx} reduction without {', '.join(missing)}")
        for name, shape in self._shapes().items():
            if self.arrays[name].shape != shape:
                raise InputError(f"{name} has shape {self.arrays[name].shape}, expected {shape}")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        if self.approx == "none":
            if self.in_dim != self.out_dim:
                raise InputError(f"'none' keeps {self.in_dim} numbers, not {self.out_dim}")
            return {}
        shapes: dict[str, tuple[int, ...]] = {"mean": (self.in_dim,), "scale": (self.in_dim,)}
        if self.approx == "pca":
            shapes |= {"components": (self.out_dim, self.in_dim),
                       "explained_variance": (self.out_dim,),
                       "explained_variance_ratio": (self.out_dim,)}
        else:
            rows = len(self.arrays["training_rows"])
            shapes |= {"training_rows": (rows, self.in_dim),
                       "training_embedding": (rows, self.out_dim)}
        return shapes

    @classmethod
    def from_pca(
        cls, pca: StreamingPCA, *, fingerprint: str = "", teacher: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Phi:
        """φ of a fitted PCA."""
        out_dim, in_dim = pca.components_.shape
        arrays = {"mean": pca.mean_, "scale": pca.scale_, "components": pca.components_,
                  "explained_variance": pca.explained_variance_,
                  "explained_variance_ratio": pca.explained_variance_ratio_,
                  "spectrum": pca.spectrum_}
        return cls("pca", in_dim, out_dim, fingerprint, dict(teacher or {}), pca.n_samples_,
                   {"mode": pca.mode, "kernel": "linear", **(params or {})}, arrays)

    @classmethod
    def from_umap(
        cls, umap: StandardizedUMAP, *, fingerprint: str = "",
        teacher: Mapping[str, Any] | None = None,
    ) -> Phi:
        """φ of a fitted UMAP."""
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
        """φ that passes rows on as they are: the plain MSE baseline."""
        return cls("none", dim, dim, fingerprint, dict(teacher or {}))

    @property
    def key(self) -> str:
        """The published name of what this φ makes."""
        names = ("kernel", "n_neighbors", "min_dist", "metric")
        known = {name: self.params[name] for name in names if name in self.params}
        return reduced_key(self.approx, self.n_samples, self.out_dim, **known)

    @property
    def explained(self) -> float | None:
        """The part of the variance that the output keeps (0 to 1); None for UMAP."""
        if self.approx == "none":
            return 1.0
        ratio = self.arrays.get("explained_variance_ratio")
        return None if ratio is None else float(np.sum(ratio))

    @property
    def digest(self) -> str:
        """32 hex digits that name this φ: its numbers, teacher, and the rows it was fitted on."""
        state = hashlib.blake2b(canonical_json(self._header()).encode(), digest_size=16)
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            state.update(f"{name}{array.shape}{array.dtype.str}".encode())
            state.update(array.tobytes())
        return state.hexdigest()

    def _header(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in HEADER}
        return {name: dict(value) if isinstance(value, Mapping) else value
                for name, value in values.items()}

    def check(
        self, dim: int | None = None, teacher: Mapping[str, Any] | None = None,
        fingerprint: str | None = None, where: str | None = None,
    ) -> None:
        """Refuse (``InputError``) rows of another length, from another teacher, or another fit.

        None means: not known, not checked. ``where`` names the rows in the message.
        """
        if dim is not None and dim != self.in_dim:
            raise InputError(
                f"embeddings have {dim} numbers per row, this {self.approx} reduction was fitted "
                f"on {self.in_dim}", where=where, hint="fit it again on embeddings of this teacher")
        if teacher is not None and self.teacher and dict(teacher) != dict(self.teacher):
            raise InputError(
                f"embeddings of teacher {_name(teacher)}, but the {self.approx} reduction was "
                f"fitted on those of {_name(self.teacher)}", where=where,
                hint="use one teacher for extract, sample, fit and reduce")
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise InputError(
                f"this {self.approx} reduction was fitted on input "
                f"{self.fingerprint or 'unknown'}, not on {fingerprint}", where=where,
                hint="run the step fit again")

    def transform(
        self, x: np.ndarray, teacher: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """φ of the rows of ``x`` (m, in_dim): (m, out_dim) float32; refuses as ``check`` does."""
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
        """φ of rows that come in ``chunks``, in order, as float32 blocks (m, out_dim).

        A block is only valid until the next one is asked for. ``threads`` (None: one per core)
        work on a PCA, whose result does not depend on the cuts; a UMAP takes each chunk as one
        call, so that its result does. Refuses as ``transform`` does.
        """
        if self.approx == "pca":
            return self._transformer().stream(chunks, threads)
        return (self.transform(chunk) for chunk in chunks)

    def _transformer(self) -> Any:
        if self._model is None:
            if self.approx == "pca":
                self._model = Projection(*(self.arrays[name] for name in PROJECTION))
            else:
                self._model = RebuiltUMAP(self.arrays, self.params)
        return self._model


def _name(teacher: Mapping[str, Any]) -> str:
    label = str(teacher.get("label") or teacher.get("kind") or "unknown")
    digest = str(teacher.get("digest") or "")
    return f"{label} ({digest[:12]})" if digest else label


def save_phi(path: Path, phi: Phi) -> None:
    """Write φ to an HDF5 file, whole or not at all."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["header"] = canonical_json(phi._header())
        file.attrs["key"] = phi.key
        file.attrs["digest"] = phi.digest
        for name in sorted(phi.arrays):
            file.create_dataset(name, data=phi.arrays[name])
    write_bytes(Path(path), image.getvalue())


def load_phi(path: Path) -> Phi:
    """Read φ. A file of another kind, of a newer version, or with changed numbers is refused."""
    where = str(path)
    with open_hdf5(path) as file:
        attrs = read_attributes(file, Path(path))
        if str(attrs.get("format")) != FORMAT:
            raise InputError("is not a reduction written by this program", where=where,
                             hint="the step fit writes phi.h5")
        if str(attrs.get("version", 0)) != str(VERSION):
            raise InputError(f"has version {attrs.get('version', 0)}", where=where,
                             allowed=f"version {VERSION}")
        try:
            header = json.loads(attrs["header"])
            fields = {name: header[name] for name in HEADER}
            for name, value in fields.items():
                if not isinstance(value, HEADER_TYPES.get(name, str)):
                    raise ValueError(f"{name} is {value!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"its description is missing or broken ({error})", where=where,
                             hint="run the step fit again") from None
        arrays = {name: numeric_dataset(file, name, "f")[()] for name in file}
        stored = attrs.get("digest")
    try:
        phi = Phi(**fields, arrays=arrays)
    except InputError as error:
        raise InputError(error.message, where=where, allowed=error.allowed,
                         hint="run the step fit again") from None
    if phi.digest != stored:
        raise InputError("its numbers are not those that were written (digest differs)",
                         where=where, hint="run the step fit again")
    return phi


def reduce_part(
    part: Part, phi: Phi, target: Path, *, chunk: int = 8192, progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write φ of every row of ``part``, in order, as dataset ``phi.key`` (float32) of ``target``.

    The attributes of the file name the key, φ's digest and the teacher.

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
        Is advanced by the rows that are written.
    threads
        As for ``Phi.stream``.

    Raises
    ------
    InputError
        When the rows are of another dimension or teacher than those φ was fitted on, or not finite.
    """
    import h5py
    import numpy as np

    attributes: dict[str, Any] = part.attributes()
    teacher = attributes.get("teacher") or None
    phi.check(part.dim, teacher, where=str(part.path))
    target.parent.mkdir(parents=True, exist_ok=True)
    chunks = (min(CHUNK_ROWS, part.rows), phi.out_dim) if part.rows else None
    with h5py.File(target, "w") as file:
        data = file.create_dataset(phi.key, (part.rows, phi.out_dim), "f4", chunks=chunks)
        at = 0
        for reduced in phi.stream(part.chunks(chunk), threads):
            if not np.isfinite(reduced).all():
                raise InputError(f"rows {at} to {at + len(reduced) - 1} hold numbers that are "
                                 "not finite", where=str(part.path))
            data[at:at + len(reduced)] = reduced
            at += len(reduced)
            if progress is not None:
                progress.advance(len(reduced))
        file.attrs["key"] = phi.key
        file.attrs["approx"] = phi.approx
        file.attrs["phi"] = phi.digest
        file.attrs["teacher"] = json.dumps(dict(teacher or phi.teacher))
        file.attrs["source"] = part.path.name
