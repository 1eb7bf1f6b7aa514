"""Describe, identify, load and save the network in a weight file.

``describe_weights``, ``identity`` and ``embedding_dim`` read headers only, without TensorFlow.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.audio.mels import format_bands
from l3hpc.errors import InputError
from l3hpc.io.files import digest_file, write_bytes
from l3hpc.io.values import one_line
from l3hpc.models import NETWORK_FILES
from l3hpc.models.geometry import find_geometry
from l3hpc.models.parameters import (
    ARRAY_NAMES,
    FoldedNetwork,
    Parameters,
    check_layers,
    untrained,
)
from l3hpc.models.spec import L3_FILTERS, NetworkSpec, openl3_spec
from l3hpc.models.weight_files import StoredNetwork, network_bytes, open_network

if TYPE_CHECKING:
    from l3hpc.models.embedder import Embedder

KINDS = ("openl3", "edgel3-sparse", "edgel3-sea", "keras3", "l3hpc", "untrained")
NETWORKS = ("openl3", "edgel3-sparse", "edgel3-sea")
FORMATS = {("keras2", False): "Keras 2 weights", ("keras2", True): "Keras 2 model",
           ("keras3", False): "Keras 3 weights", ("keras3", True): "Keras 3 model",
           ("l3hpc", False): "l3hpc"}  # (of the file, whether it holds a configuration)
DEFAULT_SEED = 20180216
# what a training writes, in the folder of its task: of the last epoch, and of the best ones
STUDENT_FILES = ("model_latest.h5", "model_best_valid_loss.h5", "model_best_valid_mae.h5")
BEST_STUDENT = STUDENT_FILES[1]
RECENT_S = 5.0  # since a change: another one could have the same time
SPARSE_SHARE = 0.3  # of zeros among kernel weights; trained dense kernels have none
RANDOM_WEIGHTS = "random-weight teacher: shows that the chain works, not how well"
# the step that made a compressed network → what it did after pruning
_COMPRESSED = {"prune": "", "distill": "distilled", "finetune": "fine-tuned"}
_UNTRAINED = re.compile(r"untrained(?::(\d{1,18}))?")


@dataclass(frozen=True)
class WeightsInfo:
    """What a weight file holds.

    Attributes
    ----------
    kind
        One of ``KINDS``.
    spec
        The network.
    layers
        Name and array shapes of the weighted layers, without the front end.
    file
        The file; None for an untrained network.
    label
        One line that names the network.
    notes
        What the file does not state and was assumed.
    random_weights
        Whether the network is untrained, or a student of an untrained teacher, so that its results
        show that a chain works, not how well.
    network
        One of ``NETWORKS``, whatever the format.
    format
        One of the values of ``FORMATS``.
    evidence
        How the front end was identified: one of ``geometry.EVIDENCE``, or ``'spec'`` where the file
        states it in l3hpc's own format.
    target
        What a student of l3hpc learnt: ``key`` (dataset of the targets), ``teacher`` (digest) and
        ``reduction`` (provenance of φ; None without one, and in files of earlier versions).
        Empty for other networks.
    learnt
        In words, for people: the teacher, the reduction of its embeddings and how it was pruned, or
        audio-visual correspondence. Empty for other networks.
    """

    kind: str
    spec: NetworkSpec
    layers: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]
    file: Path | None
    label: str
    notes: tuple[str, ...] = ()
    random_weights: bool = False
    network: str = "openl3"
    format: str = "none"
    evidence: str = "spec"
    target: Mapping[str, Any] = field(default_factory=dict)
    learnt: str = ""


def describe_weights(name: str | Path, *, embedding_size: int | None = None,
                     geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Inspect a weight file without reading more than its layers' shapes.

    Parameters
    ----------
    name
        A weight file, or ``'untrained[:SEED]'``.
    embedding_size
        512 (default) or 6144 for openl3 weights, which serve both.
    geometry
        Front-end values that overrule the file: ``rate``, ``n_mels``, ``hop``, ``n_dft``, ``fmax``,
        ``convention``, and ``head`` of a student.

    Returns
    -------
    WeightsInfo
        What the file holds.

    Raises
    ------
    InputError
        No such file, no known format, or layers that are not of this family (listed one by one with
        what was expected).
    """
    seed = untrained_seed(name)
    if seed is not None:
        teacher = openl3_spec("mel256", embedding_size or 512)
        spec = NetworkSpec.from_dict({**teacher.to_dict(), **(geometry or {})})
        layers = tuple((f"{kind}_{index + 1}", shapes)
                       for index, (kind, shapes) in enumerate(spec.layers()))
        label = f"untrained L3 (seed {seed}): random weights, for demonstration only"
        if spec.convention != "A":
            label += f", front end {spec.frontend.name}"
        return WeightsInfo("untrained", spec, layers, None, label, random_weights=True)
    with open_network(Path(name)) as stored:
        return _describe(stored, embedding_size, geometry or {})


def load_parameters(name: str | Path, *, embedding_size: int | None = None,
                    geometry: Mapping[str, Any] | None = None) -> tuple[Parameters, WeightsInfo]:
    """Load the arrays of a network, without TensorFlow.

    Parameters
    ----------
    name, embedding_size, geometry
        As in ``describe_weights``.

    Returns
    -------
    parameters
        float32 arrays, one tuple per weighted layer.
    info
        What the file holds.

    Raises
    ------
    InputError
        As in ``describe_weights``; or values that are not finite, or a negative moving variance.
    """
    seed = untrained_seed(name)
    if seed is not None:
        info = describe_weights(name, embedding_size=embedding_size, geometry=geometry)
        return untrained(info.spec, seed), info
    with open_network(Path(name)) as stored:
        info = _describe(stored, embedding_size, geometry or {})
        arrays = tuple(layer.read() for layer in stored.layers)
    for (layer, _), values in zip(info.layers, arrays, strict=True):
        if not all(np.isfinite(array).all() for array in values):
            raise InputError(f"layer {layer!r} holds values that are not finite numbers",
                             where=str(name))
        # A negative variance shows that the arrays are in another order: its root would be NaN
        # later.
        if len(values) == len(ARRAY_NAMES["batch_norm"]) and (values[3] < 0).any():
            raise InputError(f"layer {layer!r} holds a moving variance below 0", where=str(name),
                             allowed=f"arrays in the order {', '.join(ARRAY_NAMES['batch_norm'])}")
    return Parameters(info.spec, arrays), info


def load_folded(name: str | Path, *, embedding_size: int | None = None,
                geometry: Mapping[str, Any] | None = None) -> tuple[FoldedNetwork, WeightsInfo]:
    """Load a network for inference, from ``prepared_weights`` if that has it.

    Parameters
    ----------
    name, embedding_size, geometry
        As in ``describe_weights``.

    Returns
    -------
    network
        Its arrays cannot be changed.
    info
        What the file holds.

    Raises
    ------
    InputError
        As in ``load_parameters``.
    """
    from l3hpc.models.prepared_weights import prepared

    def make() -> FoldedNetwork:
        return load_parameters(name, embedding_size=embedding_size, geometry=geometry)[0].folded()

    info = describe_weights(name, embedding_size=embedding_size, geometry=geometry)
    return prepared(lambda: _content(name, info), info.spec, make), info


def load(name: str | Path, *, embedding_size: int | None = None,
         geometry: Mapping[str, Any] | None = None, threads: int | None = None,
         engine: str = "auto") -> Embedder:
    """Load the network in a file, ready to embed.

    Parameters
    ----------
    name
        A weight file, or ``'untrained[:SEED]'``.
    embedding_size
        As in ``describe_weights``.
    geometry
        As in ``describe_weights``.
    threads
        CPU threads; None: all that the process was given.
    engine
        ``auto`` (the fastest here, see ``l3hpc.models.engines``) or the name of an engine.

    Returns
    -------
    Embedder
        The network.

    Raises
    ------
    InputError
        As in ``load_parameters``; or the engine is not available.
    """
    from l3hpc.models import engines
    from l3hpc.models.embedder import Embedder

    network, info = load_folded(name, embedding_size=embedding_size, geometry=geometry)
    return Embedder(network, info.label, trained=not info.random_weights, threads=threads,
                    engine=engines.choose(network, threads, engine))


def embedding_dim(name: str | Path, *, embedding_size: int | None = None) -> int:
    """Length of a network's embeddings.

    Parameters
    ----------
    name
        A weight file, or ``'untrained[:SEED]'``.
    embedding_size
        As in ``describe_weights``.

    Returns
    -------
    int
        Values per frame.
    """
    return describe_weights(name, embedding_size=embedding_size).spec.dim


def identity(name: str | Path, *, embedding_size: int | None = None,
             geometry: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What identifies a network, JSON-ready.

    Parameters
    ----------
    name
        A weight file, or ``'untrained[:SEED]'``.
    embedding_size
        As in ``describe_weights``.
    geometry
        As in ``describe_weights``.

    Returns
    -------
    dict
        ``kind``, ``dim``, ``digest`` (of the content), ``label``, ``spec``, ``random_weights`` and,
        of a student of l3hpc, ``target`` (see ``WeightsInfo``).
    """
    info = describe_weights(name, embedding_size=embedding_size, geometry=geometry)
    return {"kind": info.kind, "dim": info.spec.dim, "digest": _content(name, info),
            "label": info.label, "spec": info.spec.to_dict(),
            "random_weights": info.random_weights,
            **({"target": dict(info.target)} if info.target else {})}


def _content(name: str | Path, info: WeightsInfo) -> str:
    """What the weights are: a digest of their file, or the seed of random ones."""
    if info.file is None:
        return f"untrained-{untrained_seed(name)}"
    state = os.stat(info.file)
    if time.time() - state.st_ctime < RECENT_S:
        return digest_file(info.file)
    return _digest_once(info.file, (state.st_ino, state.st_size, state.st_mtime_ns,
                                    state.st_ctime_ns))


@functools.lru_cache(maxsize=8)
def _digest_once(file: Path, state: tuple[int, ...]) -> str:
    # a task asks for the digest of its teacher, which has 19 MB, and for the teacher
    return digest_file(file)


def random_weights_note(identity: Mapping[str, Any] | None) -> str | None:
    """The note to show beside every number that a network produces.

    Parameters
    ----------
    identity
        From ``identity``; None: no network.

    Returns
    -------
    str or None
        None where the network is trained.
    """
    return RANDOM_WEIGHTS if identity and identity.get("random_weights") else None


def untrained_seed(name: str | Path) -> int | None:
    """The seed in ``'untrained[:SEED]'``.

    Parameters
    ----------
    name
        A name or path.

    Returns
    -------
    int or None
        None for a path.

    Raises
    ------
    InputError
        The seed is not a number.
    """
    match = _UNTRAINED.fullmatch(str(name))
    if match is None:
        if str(name).startswith("untrained:"):
            raise InputError(f"{str(name)!r} has no valid seed",
                             allowed="untrained or untrained:SEED, with a whole number")
        return None
    return int(match[1]) if match[1] else DEFAULT_SEED


def save(parameters: Parameters, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a network in l3hpc's own format: HDF5 arrays and JSON, by one rename.

    Parameters
    ----------
    parameters
        The network.
    path
        The file; an existing one is replaced.
    provenance
        JSON-ready values that describe where the network comes from.
    """
    layers = [(kind, dict(zip(ARRAY_NAMES[kind], arrays, strict=True)))
              for (kind, _), arrays in zip(parameters.spec.layers(), parameters.layers,
                                           strict=True)]
    data = network_bytes(parameters.spec.to_dict(), layers, dict(provenance or {}))
    write_bytes(Path(path), data)


def _describe(stored: StoredNetwork, embedding_size: int | None, geometry: Mapping[str, Any]
              ) -> WeightsInfo:
    layers = [(layer.name, layer.shapes) for layer in stored.layers]
    if stored.spec is not None:
        notes: list[str] = []
        evidence = "spec"
        spec = NetworkSpec.from_dict({**stored.spec, **geometry})
        check_layers(layers, spec, where=str(stored.path))
    else:
        spec, notes, evidence = _infer(stored, layers, embedding_size, geometry)
    notes += _empty_bands(spec)
    if embedding_size not in (None, spec.dim):
        raise InputError(f"the embeddings of this network have length {spec.dim}, not "
                         f"{embedding_size}", where=str(stored.path), allowed=str(spec.dim))
    network = _network(stored, spec)
    kind = network if stored.format == "keras2" else stored.format
    label = f"{_name(stored)}: {kind}, {spec.dim}-d, {spec.rate} Hz, {_bands(spec)}"
    if spec.convention != "A":
        label += f", front end {spec.frontend.name}"
    teacher = stored.provenance.get("teacher")
    random = isinstance(teacher, dict) and bool(teacher.get("random_weights"))
    if random:
        label += " (learnt from a random-weight teacher)"
    return WeightsInfo(kind, spec, tuple(layers), stored.path, label, tuple(notes), random, network,
                       FORMATS[stored.format, bool(stored.config)], evidence,
                       _target(stored.provenance), _learnt(stored.provenance))


def _name(stored: StoredNetwork) -> str:
    """The name of the file; of one that every run names alike, how the network was made."""
    teacher, reduction = (stored.provenance.get(key) for key in ("teacher", "reduction"))
    if stored.path.name not in (*STUDENT_FILES, *NETWORK_FILES) \
            or not isinstance(teacher, dict) or not isinstance(teacher.get("label"), str):
        return stored.path.name
    # a file may come from anybody
    of = one_line(teacher["label"].partition(": ")[0])[:60]
    made_by, plan = (stored.provenance.get(key) for key in ("made_by", "plan"))
    if made_by in _COMPRESSED:
        how = _COMPRESSED[made_by]
        if plan != "none":  # only convolutions or filters were removed
            pruned = f"pruned ({one_line(plan or 'own plan')[:60]})"
            how = f"{pruned} and {how}" if how else pruned
        return f"{of}, {how or 'reduced'}"
    text = f"student of {of}"
    if isinstance(reduction, dict) and isinstance(reduction.get("dim"), int):
        text += f", {one_line(reduction.get('approx')).upper()[:10]} {reduction['dim']}-d"
    return text


def _target(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a student learnt, from the provenance that its training wrote."""
    teacher, reduction = provenance.get("teacher"), provenance.get("reduction")
    if not isinstance(provenance.get("target"), str) or not isinstance(teacher, dict) \
            or provenance.get("made_by") == "finetune":  # which learns no embeddings
        return {}
    return {"key": provenance["target"], "teacher": teacher.get("digest"),
            "reduction": reduction if isinstance(reduction, dict) else None}


def _learnt(provenance: Mapping[str, Any]) -> str:
    """What a network learnt, in words; '' where the file does not state it."""
    teacher, reduction = provenance.get("teacher"), provenance.get("reduction")
    # as avc_train wrote it
    taught = "" if (method := provenance.get("taught by")) is None else one_line(method)[:80]
    if not isinstance(teacher, dict) or not isinstance(teacher.get("label"), str):
        return taught
    # a file may come from anybody
    label = one_line(teacher["label"])[:200]
    made_by, plan = provenance.get("made_by"), one_line(provenance.get("plan") or "own plan")[:80]
    if made_by == "prune":
        return f"what {label} had learnt; it was pruned ({plan}) and not trained again"
    if made_by == "finetune":
        return f"{one_line(provenance.get('target'))[:80]}, after {label} was pruned ({plan})"
    text = f"the embeddings of {label}"
    if made_by == "distill":
        text += f", after it was pruned ({plan})"
    if isinstance(reduction, dict) and isinstance(reduction.get("dim"), int):
        method = one_line(reduction.get("approx"))[:40]
        text += f", reduced to {reduction['dim']} values by {method}"
    return text


def _infer(stored: StoredNetwork, layers: list[tuple[str, tuple[tuple[int, ...], ...]]],
           embedding_size: int | None, geometry: Mapping[str, Any]
           ) -> tuple[NetworkSpec, list[str], str]:
    """The network of a file that does not state it, notes on what was assumed, and the evidence."""
    tail = "student" if len(layers) >= 17 else "embedding"
    outputs = [shapes[0][3] for _, shapes in layers if len(shapes) == 2 and len(shapes[0]) == 4]
    filters = tuple(outputs) if len(outputs) == 8 else L3_FILTERS
    # The layers are checked first, with a placeholder front end: an unrelated file should be
    # refused for what it holds, not for a front end that it does not state.
    check_layers(layers, NetworkSpec(48000, 256, 242, 2048, filters=filters, tail=tail),
                 where=str(stored.path))
    values, notes, evidence = find_geometry(stored, tail, geometry)
    size = embedding_size if tail == "embedding" else None
    if tail == "student":
        head = _head(stored)
        if head is None and "head" not in values:
            notes.append("the file does not state its head: relu assumed, as in published students")
        values.setdefault("head", head or "relu")
    spec = NetworkSpec.from_dict({**values, "filters": filters, "tail": tail, "emb_dim": size})
    return spec, notes, evidence


def _head(stored: StoredNetwork) -> str | None:
    """The head, by whether a ReLU follows the last normalisation in the configuration."""
    inner = stored.config.get("config")
    layers = inner.get("layers", []) if isinstance(inner, dict) else []
    names = [str(layer.get("class_name", "")) for layer in layers if isinstance(layer, dict)]
    if "BatchNormalization" not in names:
        return None
    last = len(names) - 1 - names[::-1].index("BatchNormalization")
    return "relu" if {"Activation", "ReLU"} & set(names[last:]) else "linear"


def _network(stored: StoredNetwork, spec: NetworkSpec) -> str:
    if spec.tail == "student":
        return "edgel3-sea"
    zeros = values = 0
    for layer in stored.layers:
        if len(layer.arrays) == 2:
            kernel = layer.arrays[0][()]
            zeros += int(np.count_nonzero(kernel == 0))
            values += kernel.size
    return "edgel3-sparse" if zeros > SPARSE_SHARE * values else "openl3"


def _empty_bands(spec: NetworkSpec) -> list[str]:
    """A note on mel bands without a DFT bin, except for the teacher, whose two are well known."""
    empty = spec.frontend.empty_bands()
    if not empty or (spec.rate, spec.n_dft, spec.n_mels, spec.fmax) == (48000, 2048, 256, None):
        return []
    return [f"{len(empty)} of {spec.n_mels} mel bands hold no DFT bin and are always at the floor: "
            f"{format_bands(empty)}"]


def _bands(spec: NetworkSpec) -> str:
    return "linear" if spec.n_mels is None else f"{spec.n_mels} mels"
