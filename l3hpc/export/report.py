"""What an export is and what it needs: ``report.json``, from which the card is written."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from l3hpc._version import __version__
from l3hpc.errors import L3hpcError
from l3hpc.export import arena, counts, micro
from l3hpc.export.build import Built
from l3hpc.export.frames import Frames
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import Runner
from l3hpc.export.settings import Settings
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.precision import deviation_of
from l3hpc.models.weights import RANDOM_WEIGHTS, WeightsInfo

SCHEMA = 1
RANDOM_INPUTS = 8
MICRO_INPUTS = 2
HOPS = (1.0, 0.5, 0.1)
SEED = 20180216
ROUNDING = 1e-5  # of the largest value: what float32 sums in another order may differ by


def make(info: WeightsInfo, settings: Settings, network: FoldedNetwork, built: Built,
         frames: Frames | None) -> dict[str, Any]:
    """The report, JSON-ready.

    Raises ``L3hpcError`` where strips and plain export do not agree: then nothing may be exported.
    """
    import tensorflow as tf

    spec = info.spec
    check = None if frames is None else spec.frontend(frames.check)
    macs = sum(counts.macs(built.plain))
    plain = _one("plain", built.plain, network, macs, check)
    models = [plain]
    agreement = None
    if built.counts:
        agreement = prove(built.plain.to_bytes(), built.body.to_bytes(), check)
        models.append(_one("strip-wise", built.body, network, macs, check))
    return {
        "schema": SCHEMA, "l3hpc": __version__, "tensorflow": tf.__version__,
        "model": {"label": info.label, "kind": info.kind, "dim": spec.dim, "spec": spec.to_dict(),
                  "caution": RANDOM_WEIGHTS if info.random_weights else None,
                  "licence": settings.licence, "notes": list(info.notes)},
        "format": settings.form, "frontend": settings.frontend, "input": _input(built.model),
        "strips": list(built.counts) or None, "arena_wanted": settings.arena,
        "flatbuffer_bytes": len(built.model.to_bytes()),
        "as_converted_bytes": len(built.as_converted),
        "calibration": None if frames is None else {
            "recordings": frames.recordings, "range_frames": len(frames.ranges),
            "check_frames": len(frames.check)},
        "models": models, "agreement": agreement,
        "accuracy": None if frames is None else _accuracy(built.model, settings, network, frames),
        "macs_per_second_of_audio": {f"{hop:g}": round(models[-1]["macs"] / hop) for hop in HOPS},
        "time_source": counts.SOURCE,
    }


def prove(plain: bytes, strips: bytes, spectrograms: np.ndarray | None) -> dict[str, Any]:
    """Run both on random and on real inputs: how many, whether all bits agree, and how far off.

    Integers have to agree in every bit; floats up to rounding, since kernels add them in an order
    that depends on the map's size. Raises ``L3hpcError`` where they do not.
    """
    first, second = Runner(plain), Runner(strips)
    rng = np.random.default_rng(SEED)
    shape = (RANDOM_INPUTS, *first.shape[1:])
    real = spectrograms
    if first.dtype.kind == "i":
        limits = np.iinfo(first.dtype)
        random = rng.integers(limits.min, limits.max, shape, first.dtype, endpoint=True)
        real = None if spectrograms is None else first.quantised(spectrograms)
    else:
        random = rng.uniform(-80.0, 0.0, shape).astype(np.float32)
    told: dict[str, Any] = {"bit_identical": True, "largest_difference": 0.0}
    for name, inputs in (("random", random), ("real", real)):
        if inputs is None:
            continue
        right, found = first.raw(inputs), second.raw(inputs)
        told[name] = len(inputs)
        told["bit_identical"] &= right.tobytes() == found.tobytes()
        off = float(np.abs(right.astype(np.float64) - found).max())
        told["largest_difference"] = max(told["largest_difference"], off)
        allowed = 0.0 if first.dtype.kind == "i" else ROUNDING * float(np.abs(right).max())
        if off > allowed:
            raise L3hpcError(f"strip-wise and plain export differ on {name} inputs by {off:g}",
                             hint="this should not happen: export with --no-strips")
    return told


def _one(name: str, graph: Graph, network: FoldedNetwork, macs: int,
         spectrograms: np.ndarray | None) -> dict[str, Any]:
    flatbuffer = graph.to_bytes()
    planned = arena.plan(graph)
    return {"name": name, "flatbuffer_bytes": len(flatbuffer),
            "operators": len(graph.operators), "tensors": len(graph.tensors),
            **counts.count(graph, network.spec, macs).as_json(),
            "arena": {"planned": planned.as_json(), **_measured(flatbuffer, spectrograms)}}


def _measured(flatbuffer: bytes, spectrograms: np.ndarray | None) -> dict[str, Any]:
    """What TFLite Micro recorded, and whether its outputs are TFLite's; or why nobody asked it."""
    runner = Runner(flatbuffer)
    inputs = np.zeros((1, *runner.shape[1:]), np.float32)
    if spectrograms is not None:
        inputs = spectrograms[:MICRO_INPUTS]
    own = runner.quantised(inputs) if runner.input_scale else inputs.astype(runner.dtype)
    try:
        recorded = micro.run(flatbuffer, own)
    except (micro.MicroUnavailable, micro.MicroRefused) as error:
        return {"measured": None, "not_measured": error.message}
    found = {key: value for key, value in asdict(recorded).items() if key != "outputs"}
    return {"measured": found,
            "outputs_equal": recorded.outputs.tobytes() == runner.raw(own).tobytes()}


def _accuracy(model: Graph, settings: Settings, network: FoldedNetwork, frames: Frames
              ) -> dict[str, Any] | None:
    from l3hpc.models.tensorflow_engine import TensorFlowEngine

    engine = TensorFlowEngine(network)
    spectrograms = network.spec.frontend(frames.check)
    right = np.concatenate([engine.run(spectrograms[start:start + 16])
                            for start in range(0, len(spectrograms), 16)])
    inputs = frames.check if settings.frontend == "inside" else spectrograms
    found = deviation_of(Runner(model.to_bytes()).embed(inputs), right)
    return None if found is None else found.as_json()


def _input(model: Graph) -> dict[str, Any]:
    tensor = model.inputs[0]
    scale, zero = model.quantisation(tensor)
    return {"shape": list(model.shape(tensor)), "type": model.type(tensor).lower(),
            "scale": scale, "zero": zero}
