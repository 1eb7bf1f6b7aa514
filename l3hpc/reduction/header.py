"""The header of φ: what it was fitted to, and the teacher of those embeddings.

It is read without the numbers of φ, so that a plan can be checked quickly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.datasets.embeddings import APPROXIMATIONS
from l3hpc.errors import InputError
from l3hpc.io.files import canonical_json
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_attributes
from l3hpc.reduction.kernels import Kernel

if TYPE_CHECKING:
    from l3hpc.io.hdf5 import Hdf5File

FORMAT = "l3hpc-phi"
# Of the file; the second is that of a kernel PCA, which earlier readers cannot apply and refuse.
VERSIONS = (1, 2)
HEADER = ("approx", "in_dim", "out_dim", "fingerprint", "teacher", "n_samples", "params")
HEADER_TYPES = {"in_dim": int, "out_dim": int, "n_samples": int, "teacher": dict, "params": dict}
PROJECTION = ("mean", "scale", "components")
KERNEL_PROJECTION = ("mean", "scale", "landmarks", "centre", "weights")
KERNEL_SETTINGS = ("gamma", "degree", "coef0")
ARRAYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "pca": (*PROJECTION, "explained_variance", "explained_variance_ratio"),
    "kernel pca": (*KERNEL_PROJECTION, "explained_variance", "explained_variance_ratio"),
    "umap": ("mean", "scale", "training_rows", "training_embedding"),
}


def method_name(approx: str, kernel: str) -> str:
    """What previews, messages and reports call a reduction.

    Parameters
    ----------
    approx, kernel
        As in the settings of a fit.

    Examples
    --------
    >>> method_name("pca", "linear"), method_name("pca", "rbf"), method_name("pca", "poly")
    ('pca', 'kernel PCA (RBF)', 'kernel PCA (poly)')
    """
    if approx != "pca" or kernel == "linear":
        return approx
    return f"kernel PCA ({'RBF' if kernel == 'rbf' else kernel})"


@dataclass
class PhiHeader:
    """What is known of φ without its numbers.

    Attributes
    ----------
    approx : str
        'pca' (linear or with a kernel), 'umap' or 'none' (rows stay unchanged).
    in_dim, out_dim : int
        Length of a row before and after.
    fingerprint : str
        Identifies the rows that it was fitted to.
    teacher : dict
        Identity of the network that made them, JSON values; empty where the embeddings did not
        name it, as published ones: then only the length of rows can be checked.
    n_samples : int
        Number of rows that it was fitted to.
    params : dict
        Settings of the fit, JSON values.
    sampled : dict
        How these rows were selected, for the ledger: ``method``, ``timescale``, ``audio`` (folder
        of the recordings) and ``sensor`` (None: all), as far as known. Not part of the digest.
    """

    approx: str
    in_dim: int
    out_dim: int
    fingerprint: str = ""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    n_samples: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    sampled: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def method(self) -> str:
        """As ``method_name``."""
        return method_name(self.approx, str(self.params.get("kernel", "linear")))

    @property
    def kind(self) -> str:
        """``approx``, or 'kernel pca' for a PCA with another kernel than the linear one."""
        is_linear = self.params.get("kernel", "linear") == "linear"
        return "kernel pca" if self.approx == "pca" and not is_linear else self.approx

    def kernel(self) -> Kernel:
        """The kernel of a kernel PCA."""
        settings = {name: self.params[name] for name in KERNEL_SETTINGS if name in self.params}
        return Kernel(self.params["kernel"], **{"gamma": 0.0, **settings})

    def check_values(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse values that cannot be those of a fit, without reading its numbers.

        Parameters
        ----------
        shapes
            Name → shape of each array.

        Raises
        ------
        InputError
            With the value.
        """
        if self.approx not in APPROXIMATIONS:
            raise InputError(f"unknown reduction {self.approx!r}",
                             allowed=f"valid: {', '.join(APPROXIMATIONS)}")
        for name, least in (("in_dim", 1), ("out_dim", 1), ("n_samples", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}", allowed=f"a whole number from {least}")
        for name in ("sensor", "method", "audio"):
            if not isinstance(self.sampled.get(name), str | None):
                raise InputError(f"sampled.{name} is {self.sampled[name]!r}", allowed="a string")
        if self.kind == "kernel pca":
            self.kernel()
        missing = [name for name in ARRAYS[self.kind] if name not in shapes]
        if missing:
            raise InputError(f"a {self.kind} reduction without {', '.join(missing)}")
        for name, shape in self._shapes(shapes).items():
            if shapes[name] != shape:
                raise InputError(f"{name} has shape {shapes[name]}, expected {shape}")

    def _shapes(self, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Name → expected shape; the number of landmarks or training rows is that of the file."""
        if self.approx == "none":
            if self.in_dim != self.out_dim:
                raise InputError(f"'none' with {self.in_dim} → {self.out_dim} dimensions",
                                 allowed="equal numbers")
            return {}
        shapes: dict[str, tuple[int, ...]] = {"mean": (self.in_dim,), "scale": (self.in_dim,)}
        if self.kind == "pca":
            shapes["components"] = self.out_dim, self.in_dim
        elif self.kind == "kernel pca":
            rows = found["landmarks"][:1]
            shapes |= {"landmarks": (*rows, self.in_dim), "centre": rows,
                       "weights": (*rows, self.out_dim)}
        else:
            rows = found["training_rows"][:1]
            shapes |= {"training_rows": (*rows, self.in_dim),
                       "training_embedding": (*rows, self.out_dim)}
        if self.approx == "pca":
            shapes |= {"explained_variance": (self.out_dim,),
                       "explained_variance_ratio": (self.out_dim,)}
        return shapes

    def unchecked(self, teacher: Mapping[str, Any] | None) -> list[str]:
        """A note where rows of a teacher meet a φ that does not name its own.

        Parameters
        ----------
        teacher
            Identity of the network that made the rows.
        """
        if not teacher or self.teacher:
            return []
        return ["φ does not say on whose embeddings it was fitted: that they were those of "
                f"{_name(teacher)} could not be checked"]

    def check(
        self, dim: int | None = None, teacher: Mapping[str, Any] | None = None,
        fingerprint: str | None = None, where: str | None = None,
    ) -> None:
        """Refuse rows of another length or teacher, and another fit.

        Parameters
        ----------
        dim
            Length of the rows (None: not checked).
        teacher
            Identity of the network that made them (None: not checked).
        fingerprint
            That of the rows of the fit (None: not checked).
        where
            The origin of the rows, for the message.

        Raises
        ------
        InputError
            With both values, and what to run again.
        """
        if dim is not None and dim != self.in_dim:
            raise InputError(
                f"embeddings have {dim} numbers per row, this {self.method} reduction was fitted "
                f"on {self.in_dim}", where=where, hint="fit it again on embeddings of this teacher")
        if teacher is not None and self.teacher and not _same_network(teacher, self.teacher):
            raise InputError(
                f"embeddings of teacher {_name(teacher)}, but the {self.method} reduction was "
                f"fitted on those of {_name(self.teacher)}", where=where,
                hint="use one teacher for extract, sample, fit and reduce")
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise InputError(
                f"this {self.method} reduction was fitted on input "
                f"{self.fingerprint or 'unknown'}, not on {fingerprint}", where=where,
                hint="run the step fit again")


@dataclass
class PhiDescription(PhiHeader):
    """The header of a file of φ.

    Attributes
    ----------
    digest : str
        As ``Phi.digest``.
    """

    digest: str = field(default="", kw_only=True)

    def provenance(self) -> dict[str, Any]:
        """What models and embeddings record of the φ behind them, JSON values."""
        return {"digest": self.digest, "approx": self.approx, "dim": self.out_dim,
                "rows": self.n_samples, "params": dict(self.params), "sampled": dict(self.sampled)}


def describe_phi(path: Path) -> PhiDescription:
    """Read the header of φ, without its numbers, which are many where a UMAP keeps its sample.

    Parameters
    ----------
    path
        A file that ``save_phi`` wrote.

    Raises
    ------
    InputError
        As ``load_phi``, except that numbers which have changed are not noticed.
    """
    with open_hdf5(path) as file:
        return read_header(file, Path(path))


def read_header(file: Hdf5File, path: Path) -> PhiDescription:
    """Read the header of an open file of φ.

    Parameters
    ----------
    file
        The file.
    path
        Its path, for messages.

    Raises
    ------
    InputError
        As ``describe_phi``.
    """
    where = str(path)
    attrs = read_attributes(file, path)
    if str(attrs.get("format")) != FORMAT:
        raise InputError("is not a reduction written by this program", where=where,
                         hint="the step fit writes phi.h5")
    if str(attrs.get("version", 0)) not in map(str, VERSIONS):
        raise InputError(f"has version {attrs.get('version', 0)}", where=where,
                         allowed=f"version {' or '.join(map(str, VERSIONS))}")
    try:
        header = json.loads(attrs["header"])
        fields = {name: header[name] for name in HEADER}
        # Types are checked here because the checks of Phi compute with these values: a damaged
        # file is named, instead of ending in a TypeError.
        for name, value in fields.items():
            if not isinstance(value, HEADER_TYPES.get(name, str)):
                raise ValueError(f"{name} is {value!r}")
        sampled = json.loads(attrs.get("sampled", "{}"))  # earlier versions: not recorded
        if not isinstance(sampled, dict):
            raise ValueError(f"sampled is {sampled!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the description is missing or damaged ({error})", where=where,
                         hint="run the step fit again") from None
    found = PhiDescription(**fields, sampled=sampled, digest=str(attrs.get("digest", "")))
    shapes = {name: tuple(numeric_dataset(file, name, "f").shape) for name in file}
    try:
        found.check_values(shapes)
    except InputError as error:
        raise InputError(error.message, where=where, allowed=error.allowed,
                         hint="run the step fit again") from None
    return found


def _same_network(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities are of one network."""
    # The label names its file, which may be renamed; earlier versions did not record the target.
    one, other = ({name: value for name, value in identity.items()
                   if name not in ("label", "target")} for identity in (first, second))
    return canonical_json(one) == canonical_json(other)


def _name(teacher: Mapping[str, Any]) -> str:
    """``edgel3 (1a2b3c4d5e6f)``."""
    label = str(teacher.get("label") or teacher.get("kind") or "unknown")
    digest = str(teacher.get("digest") or "")
    return f"{label} ({digest[:12]})" if digest else label
