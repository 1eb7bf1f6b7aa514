"""Find out what the sidecar of a network file should say: for ``l3hpc teacher describe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from l3hpc.errors import InputError
from l3hpc.teachers.base import LOWEST_RATE
from l3hpc.teachers.graph import Graph, find_embedding
from l3hpc.teachers.logmel import LogMel
from l3hpc.teachers.network_file import ENDINGS, fit, per_window, read_graph
from l3hpc.teachers.sidecar import Sidecar, check_sidecar, read_sidecar, sidecar_path

RATES = (48_000, 44_100, 32_000, 22_050, 16_000, 8_000)  # for examples in messages
OPTIONS = {"rate": "--rate", "window": "--window", "output": "--output"}  # the others: --set
STEP_S = 0.005  # lengths of windows that are multiples of this are likely


@dataclass(frozen=True)
class Study:
    """What is understood of a network file.

    Attributes
    ----------
    graph
        What it computes.
    values
        Values for the sidecar that are known, by name.
    reasons
        Where each of them is from, in a few words.
    missing
        What nothing states, each with the option that does.
    sidecar
        All values, checked against the graph; None while something is missing.
    dim
        Length of an embedding; None while something is missing.
    """

    graph: Graph
    values: Mapping[str, Any]
    reasons: Mapping[str, str]
    missing: tuple[str, ...]
    sidecar: Sidecar | None = None
    dim: int | None = None


def study(path: Path, stated: Mapping[str, Any]) -> Study:
    """Study a network file.

    Parameters
    ----------
    path
        The file.
    stated
        Values that the caller gives; they overrule an existing sidecar, and that the graph.

    Returns
    -------
    Study
        The values and where each is from.

    Raises
    ------
    InputError
        The file cannot be used, or a value does not fit it.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    if path.suffix not in ENDINGS:
        raise InputError(f"has the ending {path.suffix!r}", where=str(path),
                         allowed=", ".join(ENDINGS))
    graph = read_graph(path)
    values: dict[str, Any] = {}
    if sidecar_path(path).is_file():
        values = read_sidecar(path).model_dump(exclude_none=True)
    reasons = dict.fromkeys(values, f"from {sidecar_path(path).name}")
    # The sidecar may not exist yet, and need not say what is stated: messages name the options.
    options = {key: OPTIONS.get(key, "--set") for key in stated}
    stated = _checked(stated, path, options)
    for key in ("input", "output"):
        if key in stated:
            graph.tensor(stated[key], options[key])
    values |= stated
    reasons |= dict.fromkeys(stated, "as stated")
    for key, (value, reason) in _from_graph(graph, values).items():
        values[key], reasons[key] = value, reason
    missing = tuple(_missing(graph, values))
    if missing:
        return Study(graph, values, reasons, missing)
    where = str(path) if stated else str(sidecar_path(path))
    sidecar = check_sidecar(values, where, options=options)
    return Study(graph, values, reasons, (), sidecar, fit(path, graph, sidecar, where).dim)


def _checked(stated: Mapping[str, Any], path: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Stated values in their types; refused where one is not allowed, whatever is still missing."""
    # A front end may be incomplete as long as other values are missing.
    plain = {key: value for key, value in stated.items()
             if not (key == "frontend" and isinstance(value, dict))}
    required = {"rate": LOWEST_RATE, "window": 1.0, "input": "", "output": ""}
    sidecar = check_sidecar({**required, **plain}, str(path), options=options)
    return {**stated, **{key: getattr(sidecar, key) for key in plain}}


def _sizes(graph: Graph) -> list[int | None]:
    """Sizes other than 1 of what the network is given for a window; [] if it has several inputs."""
    if len(graph.inputs) != 1:
        return []
    return [size for size in per_window(graph.inputs[0]) if size != 1]


def _from_graph(graph: Graph, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Values that are not stated and follow from the graph, with the reason."""
    found: dict[str, tuple[Any, str]] = {}
    if "input" not in values and len(graph.inputs) == 1:
        found["input"] = graph.inputs[0].name, "the only input"
    if "output" not in values and (embedding := find_embedding(graph)) is not None:
        found["output"] = embedding[0].name, embedding[1]
    sizes = _sizes(graph)
    if "window" not in values and "rate" in values and len(sizes) == 1 and sizes[0] is not None:
        found["window"] = sizes[0] / values["rate"], f"{sizes[0]:,} samples"
    return found


def _missing(graph: Graph, values: Mapping[str, Any]) -> list[str]:
    """What neither the caller nor the graph states."""
    sizes = _sizes(graph)
    missing = []
    if len(graph.inputs) != 1:
        missing.append(f"a single input (there are {len(graph.inputs)}); such a network cannot be "
                       "a teacher")
    if "output" not in values and find_embedding(graph) is None:
        missing.append("which tensor is the embedding: --output NAME")
    if "rate" not in values:
        likely = _windows(sizes[0]) if len(sizes) == 1 and sizes[0] is not None else ""
        missing.append("the rate of the audio: --rate HZ" + (f" ({likely})" if likely else ""))
    elif "window" not in values and not (len(sizes) == 1 and sizes[0] is not None):
        fitting = _fitting_window(sizes, values)
        missing.append("the length of a window: --window "
                       + (f"{fitting:.12g}" if fitting else "SECONDS"))
    if len(sizes) == 2 and "frontend" not in values:
        missing.append(f"how its spectrogram of {sizes[0]} x {sizes[1]} is computed: --set "
                       "frontend.n_mels=NUMBER --set frontend.n_dft=SAMPLES "
                       "--set frontend.hop=SAMPLES …")
    return missing


def _fitting_window(sizes: Sequence[int | None], values: Mapping[str, Any]) -> float | None:
    """Seconds of the shortest window whose spectrogram has these sizes; None if nothing says."""
    try:
        frontend = LogMel.model_validate(values.get("frontend"))
        rate = int(values["rate"])
    except (ValidationError, ValueError):  # refused when nothing is missing
        return None
    spectra = sizes[-1 if frontend.layout == "bands-times" else 0] if len(sizes) == 2 else None
    if spectra is None or rate < 1:
        return None
    # Microseconds are exact enough for any rate, and the shortest way to write it.
    return round(frontend.samples(spectra) / rate, 6)


def _windows(samples: int) -> str:
    """``3 s at 48,000 Hz``, …: lengths of a window at usual rates that are round numbers."""
    return ", ".join(f"{samples / rate:g} s at {rate:,} Hz" for rate in RATES
                     if abs(samples / rate / STEP_S - round(samples / rate / STEP_S)) < 1e-9)
