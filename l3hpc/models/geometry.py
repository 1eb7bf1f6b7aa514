"""Identify the front end that a stored network expects, from all that its file shows.

In this order: what the caller states, the model's configuration, the DFT and mel matrices that old
files hold, the unused space that those matrices left when they were deleted, the file's name, and
what is usual for this kind of network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from l3hpc.audio.mels import mel_filterbank
from l3hpc.errors import InputError, check_choice
from l3hpc.models.spec import is_valid_value, openl3_spec
from l3hpc.models.weight_files import StoredLayer, StoredNetwork

KEYS = ("rate", "n_mels", "hop", "n_dft", "fmax", "convention", "window_s", "head")
MAX_RATE = 10**6
USUAL_HOPS = {48000: 242, 8000: 160}
STATED, CONFIGURATION, MATRICES, UNUSED_SPACE, NAME, USUAL = EVIDENCE = (
    "stated", "configuration", "stored matrices", "room of removed matrices", "file name", "usual")
OVERHEAD_BYTES = 1 << 18  # at most, for what a file holds besides arrays
# Whole numbers only: the last digits of a date in the name are no rate.
_NUMBERS = re.compile(r"(?<!\d)(\d{4,6})_(\d{1,4})_(\d{1,5})_(\d{2,6})(?!\d)")
_FMAX = re.compile(r"_fmax_(\d+(?:\.\d+)?)")


def find_geometry(stored: StoredNetwork, tail: str, stated: Mapping[str, Any]
                  ) -> tuple[dict[str, Any], list[str], str]:
    """Identify the front end that a stored network expects.

    Parameters
    ----------
    stored
        The open weight file.
    tail
        ``'embedding'`` (a teacher) or ``'student'``, as its layers show.
    stated
        Values (``KEYS``) that the caller gives; they overrule the file.

    Returns
    -------
    values
        ``NetworkSpec`` arguments (``KEYS``).
    notes
        What was assumed, as sentences.
    weakest
        The weakest of ``EVIDENCE`` that rate, DFT and mels rest on.

    Raises
    ------
    InputError
        ``stated`` holds an unknown value, or the front end cannot be identified; the message names
        what to state.
    """
    _check_stated(stated)
    values, origin = _gather(stored, tail, stated)
    notes: list[str] = []
    if tail == "embedding":
        notes += _complete_teacher(values)
    if "hop" not in values and values.get("rate") in USUAL_HOPS:
        values["hop"] = USUAL_HOPS[values["rate"]]
        notes.append(f"hop {values['hop']} assumed, as usual at {values['rate']} Hz")
    missing = [key for key in ("rate", "n_mels", "hop", "n_dft") if key not in values]
    if missing:
        raise InputError(
            f"the file does not state the front end of this network: {', '.join(missing)} unknown",
            where=str(stored.path),
            hint="state the geometry, or name the file "
                 "<anything>_<rate>_<mels>_<hop>_<dft>.h5, for example student_8000_64_160_1024.h5")
    return values, notes, _weakest(origin)


def _check_stated(stated: Mapping[str, Any]) -> None:
    for key, value in stated.items():
        check_choice("front-end value", key, KEYS)
        if not is_valid_value(key, value):
            raise InputError(f"invalid {key} of a front end: {value!r:.60}")


def _gather(stored: StoredNetwork, tail: str, stated: Mapping[str, Any]
            ) -> tuple[dict[str, Any], dict[str, str]]:
    """Values from the strongest evidence for each, and which evidence that is."""
    gathered: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def add(evidence: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if key not in gathered:
                gathered[key], origin[key] = value, evidence

    add(STATED, stated)
    add(CONFIGURATION, from_config(stored.config))
    add(MATRICES, _matrices(stored, tail))
    if tail == "embedding":
        add(UNUSED_SPACE, from_unused_space(stored.unused_bytes))
    by_name = from_name(stored.path.name)
    # If the file's contents contradict its name, the name belongs to another network and is
    # ignored. What the caller states may differ from the name: that is why it is stated.
    contradicted = any(key in by_name and gathered[key] != by_name[key]
                       for key in ("rate", "n_dft", "n_mels")
                       if origin.get(key, STATED) != STATED)
    if not contradicted:
        add(NAME, by_name)
    return gathered, origin


def _complete_teacher(values: dict[str, Any]) -> list[str]:
    """Fill in what openl3 teachers have in common; returns notes on what was assumed."""
    notes = []
    if "n_mels" not in values:
        notes.append("the file does not state its front end: mel256 at 48 kHz assumed, openl3's "
                     "default; files with another one have linear or mel128 in their names")
    teacher = openl3_spec(_representation(values))
    for key in ("n_mels", "rate", "n_dft"):
        values.setdefault(key, getattr(teacher, key))
    if values["rate"] == teacher.rate:
        values.setdefault("hop", teacher.hop)
    return notes


def _weakest(origin: Mapping[str, str]) -> str:
    """The weakest evidence behind rate, mels and DFT.

    A stored matrix shows its size, and what is usual at 48 kHz follows from it; without any
    evidence of the mels, the rest is only what is usual.
    """
    if "n_mels" not in origin:
        return USUAL
    return max((origin[key] for key in ("rate", "n_mels", "n_dft") if key in origin),
               key=EVIDENCE.index)


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Geometry from the spectrogram layer in a Keras model's configuration.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    dict
        ``KEYS`` that it states; {} without such a layer.
    """
    # a file from anywhere: nothing about its structure is certain
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        name = str(layer.get("class_name", "")).lower() if isinstance(layer, dict) else ""
        values = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(values, dict):
            continue
        if name.endswith("melfrontend"):
            return {key: values[key] for key in KEYS
                    if key in values and is_valid_value(key, values[key])}
        if "spectrogram" in name:
            return _kapre(values, linear="mel" not in name)
    return {}


def from_matrices(layer: StoredLayer) -> dict[str, Any]:
    """Geometry from kapre's stored matrices: DFT size, mels, and (from the mel filters) the rate.

    The triangles of an HTK bank with unit area determine the spacing of the bins in Hz, thus the
    rate, and the last corner determines fmax. The hop is not in them.

    Parameters
    ----------
    layer
        The spectrogram layer.

    Returns
    -------
    dict
        ``KEYS`` that follow from its matrices.
    """
    shapes = layer.shapes
    n_dft = shapes[0][0] if len(shapes[0]) == 4 else 0
    bins = n_dft // 2 + 1
    if not n_dft or shapes[:2] != ((n_dft, 1, 1, bins),) * 2:
        return {}
    values: dict[str, Any] = {"n_dft": n_dft}
    if len(layer.arrays) < 3:
        return {**values, "n_mels": None}
    if len(shapes[2]) != 2 or shapes[2][0] != bins or not 0 < shapes[2][1] <= 2 * bins:
        return values
    matrix = np.asarray(layer.arrays[2][()], dtype=np.float64)
    values["n_mels"] = shapes[2][1]
    if not np.isfinite(matrix).all():
        return values
    spacing, top = _triangle(matrix[:, -1])
    rate = round(spacing * n_dft) if spacing < MAX_RATE else 0
    if not 1 <= rate <= MAX_RATE:
        return values
    fmax = None if abs(top - rate / 2) < 1e-3 * rate else round(top, 1)
    if fmax is not None and fmax > rate / 2:
        return values
    # One triangle is an estimate: the whole bank must come out the same.
    bank = mel_filterbank(rate, n_dft, values["n_mels"], fmax)
    if bank.shape == matrix.shape and np.abs(bank - matrix).max() < 1e-3 * bank.max():
        values.update(rate=rate, fmax=fmax)
    return values


def _matrices(stored: StoredNetwork, tail: str) -> dict[str, Any]:
    """``from_matrices``, and the rate of the one teacher whose spectrogram is linear."""
    values = {} if stored.frontend is None else from_matrices(stored.frontend)
    linear = _openl3("linear")
    bins_only = "n_mels" in values and values["n_mels"] is None
    if tail == "embedding" and bins_only and values["n_dft"] == linear["n_dft"]:
        return linear
    return values


def from_unused_space(unused_bytes: int) -> dict[str, Any]:
    """Geometry of openl3 from the bytes of its file that no array uses.

    The weights of openl3 0.4 are those of 0.2 from which a public migration script deleted the
    spectrogram layer in place. HDF5 does not return such space, and its size differs between the
    three front ends.

    Parameters
    ----------
    unused_bytes
        Of the file.

    Returns
    -------
    dict
        ``KEYS``; {} where the size fits none of the front ends.
    """
    for representation in ("linear", "mel128", "mel256"):
        spec = openl3_spec(representation)
        bins = spec.n_dft // 2 + 1
        size = 4 * (2 * spec.n_dft * bins + bins * (spec.n_mels or 0))
        if size <= unused_bytes <= size + OVERHEAD_BYTES:
            return _openl3(representation)
    return {}


def _openl3(representation: str) -> dict[str, Any]:
    spec = openl3_spec(representation)
    return {"rate": spec.rate, "n_mels": spec.n_mels, "hop": spec.hop, "n_dft": spec.n_dft,
            "fmax": None}


def from_name(name: str) -> dict[str, Any]:
    """Geometry from the file names that the published packages and trainers use.

    Parameters
    ----------
    name
        Name of the file.

    Returns
    -------
    dict
        ``KEYS``; {} for any other name.
    """
    lower = name.lower()
    if "edgel3_sea" in lower:
        return {"rate": 8000, "n_mels": 64, "hop": 160, "n_dft": 1024, "fmax": None}
    numbers = _NUMBERS.search(lower)
    # Four numbers may be a date; no network of this family has a lower rate.
    if numbers and int(numbers[1]) >= 4000:
        rate, mels, hop, dft = (int(text) for text in numbers.groups())
        fmax = _FMAX.search(lower)
        return {"rate": rate, "n_mels": mels or None, "hop": hop, "n_dft": dft,
                "fmax": float(fmax[1]) if fmax else None}
    for representation in ("linear", "mel128", "mel256"):
        if representation in lower:
            return _openl3(representation)
    return _openl3("mel256") if lower.startswith("edgel3_") else {}


def _kapre(config: Mapping[str, Any], linear: bool) -> dict[str, Any]:
    """Geometry from the configuration of a kapre layer, which has names of its own."""
    values: dict[str, Any] = {}
    for key, source in (("rate", "sr"), ("hop", "n_hop"), ("n_dft", "n_dft"), ("n_mels", "n_mels")):
        if config.get(source) is not None and is_valid_value(key, config[source]):
            values[key] = config[source]
    if linear:
        return {**values, "n_mels": None}
    top = config.get("fmax")
    if top and "rate" in values and is_valid_value("fmax", top):
        values["fmax"] = None if top == values["rate"] / 2 else float(top)
    return values


def _triangle(column: np.ndarray) -> tuple[float, float]:
    """(bin spacing in Hz, upper corner in Hz) of a unit-area triangle sampled at the bins.

    (0, 0) where it has too few samples.
    """
    used = np.flatnonzero(column > 1e-6 * column.max()) if column.any() else np.array([], int)
    if len(used) < 6:
        return 0.0, 0.0
    # The slopes of the two sides, each from two neighbouring bins of it.
    rise = column[used[1]] - column[used[0]]
    fall = column[used[-2]] - column[used[-1]]
    if rise <= 0 or fall <= 0:
        return 0.0, 0.0
    left = used[0] - column[used[0]] / rise
    right = used[-1] + column[used[-1]] / fall
    centre = (fall * right + rise * left) / (rise + fall)
    spacing = 2.0 / ((centre - left) * (right - left) * rise)
    return float(spacing), float(right * spacing)


def _representation(values: Mapping[str, Any]) -> str:
    mels = values.get("n_mels", 256)
    return "linear" if mels is None else "mel128" if mels == 128 else "mel256"
