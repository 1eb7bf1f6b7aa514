"""Embed in reduced precision, by choice, and measure how far the embeddings are from float32.

float32 is the default and exact (see ``engines``). tf32, bfloat16 and int8 are faster and change
the embeddings, so that the choice is part of what an artifact is, and the deviation from float32 on
real frames is measured and reported each time.

On the CPU, reduced precision is computed by OpenVINO (extra ``reduced``). Its convolutions are
direct ones, at the processor's matrix rate for each precision: in float32 the Winograd convolutions
of ncnn are faster, in integers nothing is. On a GPU, see ``torch_engine``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models import engines, openvino_engine, torch_engine
from l3hpc.models.embedder import Embedder
from l3hpc.models.engines import Engine
from l3hpc.models.openvino_engine import OpenVinoEngine
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.quantisation import (
    quantise,
)
from l3hpc.models.weights import load_folded

PRECISIONS = ("float32", "tf32", "bfloat16", "int8")
ENGINES_BY_PRECISION = {"tf32": ("auto", "torch"), "bfloat16": ("auto", "tensorflow", "torch"),
                        "int8": ("auto",)}
INSTRUCTIONS = {"bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
                "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")}
MIN_COSINE = 0.95


@dataclass(frozen=True)
class Deviation:
    """How far embeddings are from those in float32, frame by frame, without silent embeddings.

    Attributes
    ----------
    frames
        Number of frames.
    relative_error
        Length of the difference over length of the exact embedding, mean over frames.
    largest_relative_error
        The same, largest.
    cosine
        Mean cosine similarity.
    least_cosine
        Lowest cosine similarity.
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
        """Refuse embeddings that are too far from the network's own.

        Parameters
        ----------
        precision
            What the message names.

        Raises
        ------
        L3hpcError
            The mean cosine similarity is below ``MIN_COSINE``.
        """
        if self.cosine < MIN_COSINE:
            raise L3hpcError(f"embeddings in {precision} are too far off: {self}",
                             where="precision", allowed=f"a mean cosine of {MIN_COSINE} or more",
                             hint="use float32, or a node whose processor has instructions for it")


def check_engine(precision: str, engine: str, where: str) -> None:
    """Check that an engine computes in a precision.

    Parameters
    ----------
    precision
        One of ``PRECISIONS``.
    engine
        Name of the engine, or ``auto``.
    where
        The step, for the message.

    Raises
    ------
    InputError
        It does not.
    """
    allowed = ENGINES_BY_PRECISION.get(precision)
    if allowed is not None and engine not in allowed:
        raise InputError(f"the engine {engine} does not compute in {precision}",
                         where=f"{where}.engine", allowed=", ".join(allowed),
                         hint=f"leave {where}.engine at auto, or {where}.precision at float32")


def required_packages(precision: str, engine: str = "auto") -> dict[str, str]:
    """Packages that a precision or an engine requires.

    Parameters
    ----------
    precision
        One of ``PRECISIONS``.
    engine
        Name of the engine, or ``auto``.

    Returns
    -------
    dict
        Importable name → how to install it.
    """
    if precision == "int8":
        return {"openvino": install_command(openvino_engine.EXTRA)}
    if precision == "tf32" or engine == "torch":
        return {"torch": install_command(torch_engine.EXTRA)}
    return {}


def load_reduced(name: str | Path, precision: str, frames: np.ndarray | None = None, *,
                 threads: int | None = None, engine: str = "auto",
                 embedding_size: int | None = None, geometry: Mapping[str, Any] | None = None
                 ) -> tuple[Embedder, Embedder]:
    """Load a network in reduced precision, and in float32 to compare with.

    Parameters
    ----------
    name
        As in ``l3hpc.models.weights.load``.
    precision
        One of ``PRECISIONS``.
    frames
        (n, rate) one-second frames of real recordings, on which int8 measures its ranges.
    threads
        CPU threads; None: all that the process was given.
    engine
        ``auto`` (on a GPU PyTorch, or TensorFlow where that is not installed; else OpenVINO, or
        TensorFlow where that is not installed or does not compute in bfloat16) or, for bfloat16,
        ``tensorflow`` or ``torch``. tf32 is computed by PyTorch.
    embedding_size
        As in ``l3hpc.models.weights.load``.
    geometry
        As in ``l3hpc.models.weights.load``.

    Returns
    -------
    reduced
        In ``precision``.
    exact
        In float32, by the same library.

    Raises
    ------
    InputError
        No engine computes in this precision here.
    """
    network, info = load_folded(name, embedding_size=embedding_size, geometry=geometry)
    reduced, exact = _engines(network, precision, frames, threads, engine)

    def embedder(engine: Engine, label: str) -> Embedder:
        return Embedder(network, label, trained=not info.random_weights, threads=threads,
                        engine=engine)

    return embedder(reduced, f"{info.label}, {precision}"), embedder(exact, info.label)


def deviation(reduced: Embedder, exact: Embedder, frames: np.ndarray) -> Deviation | None:
    """How far the embeddings of one network are from those of another.

    Parameters
    ----------
    reduced
        The network in reduced precision.
    exact
        The network in float32.
    frames
        (n, rate).

    Returns
    -------
    Deviation or None
        None where all exact embeddings are 0.
    """
    return deviation_of(reduced.embed(frames), exact.embed(frames))


def deviation_of(embeddings: np.ndarray, exact: np.ndarray) -> Deviation | None:
    """How far embeddings are from the exact ones.

    Parameters
    ----------
    embeddings
        (n, dim).
    exact
        (n, dim).

    Returns
    -------
    Deviation or None
        None where all exact embeddings are 0.
    """
    # Students give zeros for silence, and an error relative to zero says nothing.
    audible = exact.any(axis=1)
    embeddings = embeddings[audible].astype(np.float64)
    exact = exact[audible].astype(np.float64)
    if not len(exact):
        return None
    length = np.linalg.norm(exact, axis=1)
    errors = np.linalg.norm(embeddings - exact, axis=1) / length
    cosines = (embeddings * exact).sum(axis=1) / (
        length * np.maximum(np.linalg.norm(embeddings, axis=1), np.finfo(np.float64).tiny))
    return Deviation(len(exact), float(errors.mean()), float(errors.max()),
                     float(cosines.mean()), float(cosines.min()))


def slow_warning(precision: str) -> str | None:
    """The warning for a processor that lacks instructions for a precision.

    Parameters
    ----------
    precision
        One of ``PRECISIONS``.

    Returns
    -------
    str or None
        None where it has them.
    """
    instructions = INSTRUCTIONS.get(precision, ())
    if not instructions or _flags() & set(instructions):
        return None
    effect = ("OpenVINO cuts long sums off at 16 bits here, so that embeddings deviate more than "
              "elsewhere" if precision == "int8" else "it is emulated")
    return (f"this processor has no instructions for {precision} ({', '.join(instructions)}): "
            f"{effect}, and float32 may be faster")


def _engines(network: FoldedNetwork, precision: str, frames: np.ndarray | None,
             threads: int | None, engine: str) -> tuple[Engine, Engine]:
    """In ``precision``, and in float32 by the same library."""
    check_engine(precision, engine, "precision")
    if precision == "int8":
        if _granted_gpu():
            raise InputError(
                "int8 runs on the CPU, and this task has a GPU",
                where="precision", allowed="float32 or bfloat16 on a GPU",
                hint="for int8 request no GPU: --set STEP.gpus=0")
        if frames is None or not len(frames):
            raise InputError("int8 needs frames to measure its ranges on, and there are none",
                             where="frames", allowed="one-second frames (n, rate)")
        spectrograms = network.spec.frontend(to_float(frames), threads=threads)
        quantised = quantise(network, openvino_engine.calibrate(network, spectrograms, threads))
        return OpenVinoEngine(quantised, threads), OpenVinoEngine(network, threads)
    if engine == "auto" and (precision == "tf32" or engines.gpu_engine() == "torch"):
        engine = "torch"
    if engine == "torch":
        return (torch_engine.TorchEngine(network, threads, precision),
                torch_engine.TorchEngine(network, threads))
    # Where OpenVINO does not compute in bfloat16, it would compute in float32 without a message.
    if engine == "auto" and not engines.has_gpu() and openvino_engine.available() \
            and openvino_engine.computes_bfloat16():
        return OpenVinoEngine(network, threads, precision), OpenVinoEngine(network, threads)
    from l3hpc.models.engines import TensorFlowEngine

    return TensorFlowEngine(network, threads, precision), TensorFlowEngine(network, threads)


def _granted_gpu() -> bool:
    """Whether this task was granted a GPU, not only whether the machine has one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # Slurm sets NoDevFiles for tasks without a GPU on nodes that have some.
    return visible not in ("", "-1", "NoDevFiles") or bool(os.environ.get("SLURM_JOB_GPUS"))


def _flags() -> set[str]:
    """The processor's instruction sets, as Linux names them."""
    return set(engines.read_cpuinfo("flags", "Features").split())
