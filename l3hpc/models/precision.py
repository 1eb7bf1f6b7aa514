"""Embedding in reduced precision, by choice: which engine does it, and how far off it is.

float32 is the default and exact (see ``engines``). bfloat16 and int8 are faster and change the
embeddings, so that the choice is part of what an artifact is, and the deviation from float32 on
real frames is measured and reported each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models import engines, openvino_engine
from l3hpc.models.embedder import Embedder, Engine
from l3hpc.models.openvino_engine import OpenVinoEngine, observe
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.quantisation import quantise
from l3hpc.models.weights import load_parameters

PRECISIONS = ("float32", "bfloat16", "int8")
ENGINES = {"bfloat16": ("auto", "tensorflow"), "int8": ("auto",)}
INSTRUCTIONS = {"bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
                "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")}
LEAST_COSINE = 0.95


@dataclass(frozen=True)
class Deviation:
    """How far embeddings are from those in float32, frame by frame; silent embeddings left out.

    relative_error: length of the difference over length of the exact one, mean over frames.
    """

    frames: int
    relative_error: float
    largest_relative_error: float
    cosine: float
    least_cosine: float

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (f"relative error {self.relative_error:.2g} (at most "
                f"{self.largest_relative_error:.2g}), cosine {self.cosine:.5f} (at least "
                f"{self.least_cosine:.5f}) against float32 on {self.frames} frames")

    def refuse(self, precision: str) -> None:
        """Raise ``L3hpcError`` when these are no longer the network's embeddings."""
        if self.cosine < LEAST_COSINE:
            raise L3hpcError(f"embeddings in {precision} are too far off: {self}",
                             where="precision", allowed=f"a mean cosine of {LEAST_COSINE} or more",
                             hint="use float32, or a node whose processor has instructions for it")


def check(precision: str, engine: str, where: str) -> None:
    """Refuse (``InputError``) an engine that does not compute in ``precision``."""
    allowed = ENGINES.get(precision)
    if allowed is not None and engine not in allowed:
        raise InputError(f"the engine {engine} does not compute in {precision}",
                         where=f"{where}.engine", allowed=", ".join(allowed),
                         hint=f"leave {where}.engine at auto, or {where}.precision at float32")


def packages(precision: str) -> dict[str, str]:
    """Importable name of what a precision cannot do without → how to install it."""
    return {"openvino": install_command(openvino_engine.EXTRA)} if precision == "int8" else {}


def load(name: str | Path, precision: str, frames: np.ndarray | None = None, *,
         threads: int | None = None, engine: str = "auto", embedding_size: int | None = None,
         geometry: Mapping[str, Any] | None = None) -> tuple[Embedder, Embedder]:
    """The network of a file in reduced ``precision``, and the same in float32 to compare with.

    Parameters
    ----------
    frames: (n, rate) one-second frames as real as can be, from which int8 takes its ranges.
    engine: ``auto`` (TensorFlow on a GPU; else OpenVINO, and TensorFlow where that is not
        installed or does not compute in bfloat16) or, for bfloat16, ``tensorflow``.

    Raises ``InputError`` where nothing computes this here.
    """
    parameters, info = load_parameters(name, embedding_size=embedding_size, geometry=geometry)
    reduced, exact = _engines(parameters.folded(), precision, frames, threads, engine)

    def embedder(engine: Engine, label: str) -> Embedder:
        return Embedder(parameters, label, trained=not info.random_weights, threads=threads,
                        engine=engine)

    return embedder(reduced, f"{info.label}, {precision}"), embedder(exact, info.label)


def deviation(reduced: Embedder, exact: Embedder, frames: np.ndarray) -> Deviation | None:
    """How far the one is from the other on frames (n, rate); None where all embeddings are 0."""
    return deviation_of(reduced.embed(frames), exact.embed(frames))


def deviation_of(wrong: np.ndarray, right: np.ndarray) -> Deviation | None:
    """How far embeddings (n, dim) are from the right ones; None where all of those are 0."""
    heard = right.any(axis=1)
    wrong, right = wrong[heard].astype(np.float64), right[heard].astype(np.float64)
    if not len(right):
        return None
    length = np.linalg.norm(right, axis=1)
    errors = np.linalg.norm(wrong - right, axis=1) / length
    cosines = (wrong * right).sum(axis=1) / (
        length * np.maximum(np.linalg.norm(wrong, axis=1), np.finfo(np.float64).tiny))
    return Deviation(len(right), float(errors.mean()), float(errors.max()),
                     float(cosines.mean()), float(cosines.min()))


def slow_here(precision: str) -> str | None:
    """The warning where this processor lacks instructions for ``precision`` (None: it has them)."""
    known = INSTRUCTIONS[precision]
    if _flags() & set(known):
        return None
    more = ("OpenVINO cuts long sums off at 16 bits here, so that embeddings deviate more than "
            "elsewhere" if precision == "int8" else "it is emulated")
    return (f"this processor has no instructions for {precision} ({', '.join(known)}): {more}, and "
            "float32 may be faster")


def _engines(network: FoldedNetwork, precision: str, frames: np.ndarray | None,
             threads: int | None, wanted: str) -> tuple[Engine, Engine]:
    """In ``precision``, and in float32 by the same library."""
    check(precision, wanted, "precision")
    if precision == "int8":
        if _granted_gpu():
            raise InputError(
                "int8 runs on the CPU, and this task has a GPU",
                where="precision", allowed="float32 or bfloat16 on a GPU",
                hint="for int8 request no GPU: --set STEP.gpus=0")
        if frames is None or not len(frames):
            raise InputError("int8 needs frames to measure its ranges, and there are none",
                             where="frames", allowed="one-second frames (n, rate)")
        spectrograms = network.spec.frontend(to_float(frames), threads=threads)
        quantised = quantise(network, observe(network, spectrograms, threads))
        return OpenVinoEngine(quantised, threads), OpenVinoEngine(network, threads)
    if wanted == "auto" and not engines._gpu() and openvino_engine.available() \
            and openvino_engine.computes_bfloat16():
        return OpenVinoEngine(network, threads, precision), OpenVinoEngine(network, threads)
    from l3hpc.models.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(network, threads, precision), TensorFlowEngine(network, threads)


def _granted_gpu() -> bool:
    """Whether a GPU was given to this very task; one that merely stands in the machine is not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible not in ("", "-1", "NoDevFiles") or bool(os.environ.get("SLURM_JOB_GPUS"))


def _flags() -> set[str]:
    """The processor's instruction sets, as Linux names them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()
