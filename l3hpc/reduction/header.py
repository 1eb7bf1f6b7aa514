"""What is known of φ without its numbers: what it was fitted to, and of which teacher.

The header of a file of φ says it, so that a plan can be checked without reading the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import InputError
from l3hpc.io.files import canonical_json
from l3hpc.io.hdf5 import open_hdf5, read_attributes

if TYPE_CHECKING:
    import h5py

FORMAT = "l3hpc-phi"
# Of the file; the second is that of a kernel PCA, which earlier readers cannot apply and refuse.
VERSIONS = (1, 2)
HEADER = ("approx", "in_dim", "out_dim", "fingerprint", "teacher", "n_samples", "params")
HEADER_TYPES = {"in_dim": int, "out_dim": int, "n_samples": int, "teacher": dict, "params": dict}


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
        Identity of the network that made them, JSON values.
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


def read_header(file: h5py.File, path: Path) -> PhiDescription:
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
    return PhiDescription(**fields, sampled=sampled, digest=str(attrs.get("digest", "")))


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
