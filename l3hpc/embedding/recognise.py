"""What is this model file? Network, rate, front end and dimension, told from the file itself.

A file's name decides nothing that the file tells by its contents: not the layers, not the stored
matrices, not the room that removed ones left, not a configuration. Only where the contents leave
the front end open is the name believed, and ``notes`` say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l3hpc.audio.conventions import ALIASES, NAMES, letter_of
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.errors import InputError, nearest
from l3hpc.models import geometry as evidence
from l3hpc.models import tflite, weights

NETWORKS = {"openl3": "L3 audio network (openl3)", "edgel3-sparse": "sparse L3 (EdgeL3)",
            "edgel3-sea": "SEA student", "tflite": "TFLite model"}


@dataclass(frozen=True)
class Recognised:
    """One model file.

    Attributes
    ----------
    file: None for an untrained network. format: how it is stored, in words.
    network: ``openl3``, ``edgel3-sparse``, ``edgel3-sea`` or ``tflite``.
    rate: Hz. frontend: None where the network takes audio. dim: length of an embedding; dims: those
        that these weights can give.
    evidence: what the front end is known from. notes: what the file left open.
    random_weights: whether its numbers rest on random weights.
    """

    file: Path | None
    format: str
    network: str
    rate: int
    frontend: Frontend | None
    dim: int
    dims: tuple[int, ...]
    label: str
    evidence: str
    notes: tuple[str, ...] = ()
    random_weights: bool = False

    def __str__(self) -> str:
        front = self.frontend
        if front is None:
            bands = "takes audio"
        else:
            kind = "linear spectrogram" if front.n_mels is None else f"{front.n_mels} mels"
            bands = (f"{kind}, DFT {front.n_dft}, hop {front.hop}, front end {front.name} "
                     f"(known from: {self.evidence})")
        place = self.file.name if self.file is not None else "untrained"
        return (f"{place}: {NETWORKS[self.network]}, {self.format}; {self.rate} Hz, {bands}; "
                f"{self.dim} values per frame")

    def as_json(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        values = {**asdict(self), "file": str(self.file) if self.file else None,
                  "dims": list(self.dims), "notes": list(self.notes)}
        if self.frontend is not None:
            values["frontend"]["shape"] = list(self.frontend.shape)
        return values


def recognise(file: str | Path, *, input_repr: str | None = None,
              embedding_size: int | None = None, frontend: str | None = None,
              geometry: Mapping[str, Any] | None = None) -> Recognised:
    """What a model file is, read from its headers.

    Parameters
    ----------
    file
        A model file, or ``'untrained[:SEED]'``.
    input_repr
        ``linear``, ``mel128`` or ``mel256``, stated for openl3 weights.
    embedding_size
        512 (default) or 6144 for openl3 weights, which serve both; for other files, the length to
        insist on.
    frontend
        A convention by name or letter (see ``l3hpc.audio.conventions``); None: the file's own,
        ``kapre-0.1`` for all published weights.
    geometry
        Single values of the front end that overrule the file (see ``weights.describe``).

    Returns
    -------
    Recognised
        Network, rate, front end and dimension, and what they are known from.

    Raises
    ------
    InputError
        No such file, no known format, not of this family, or the front end cannot be identified.
    """
    stated = geometry_of(input_repr, frontend, geometry)
    if weights.untrained_seed(file) is None and Path(file).is_file() and (
            tflite.is_tflite(Path(file))):
        return _tflite(Path(file), stated, embedding_size)
    info = weights.describe(file, embedding_size=embedding_size, geometry=stated)
    spec = info.spec
    dims = (spec.filters[-1],) if spec.tail == "student" else (
        spec.filters[-1], 12 * spec.filters[-1])
    return Recognised(info.file, info.format, info.network, spec.rate, spec.frontend, spec.dim,
                      dims, info.label, info.evidence, (*info.notes, *_by_name(info)),
                      info.random_weights)


def geometry_of(input_repr: str | None, frontend: str | None,
                geometry: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller states, as values of a front end."""
    stated = dict(geometry or {})
    if input_repr is not None:
        if input_repr not in OPENL3_FRONTENDS:
            raise InputError(f"unknown input representation {input_repr!r}",
                             allowed=nearest(input_repr, OPENL3_FRONTENDS))
        one = OPENL3_FRONTENDS[input_repr]
        stated = {"rate": one.rate, "n_mels": one.n_mels, "n_dft": one.n_dft, "hop": one.hop,
                  "fmax": one.fmax, **stated}
    if frontend is not None:
        if frontend not in ALIASES:
            raise InputError(f"unknown front end {frontend!r}",
                             allowed=nearest(frontend, NAMES.values()))
        stated["convention"] = letter_of(frontend)
    return stated


def _by_name(info: weights.WeightsInfo) -> tuple[str, ...]:
    if info.evidence != evidence.NAME:
        return ()
    return ("the file does not hold its front end; the one in its name was used",)


def _tflite(file: Path, stated: Mapping[str, Any], size: int | None) -> Recognised:
    info = tflite.describe(file, stated)
    if size not in (None, info.dim):
        raise InputError(f"this model gives {info.dim} values, not {size}", where=str(file),
                         allowed=str(info.dim))
    notes: tuple[str, ...] = ()
    if info.evidence == tflite.SHAPE:
        notes = ("the file does not state its front end; its input has a published one's shape",)
    return Recognised(file, f"TFLite, {info.input_type}", "tflite", info.rate, info.frontend,
                      info.dim, (info.dim,), info.label, info.evidence, notes)
