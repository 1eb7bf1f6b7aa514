"""What an export is and needs: ``report.json``, and the model card that is written from it.

One model exported: every file of it, or none, in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc._version import __version__
from l3hpc.audio.conventions import name_of
from l3hpc.console.progress import Progress
from l3hpc.datasets.corpus import scan
from l3hpc.errors import L3hpcError
from l3hpc.export import build, ccode, costs, interpreter
from l3hpc.export.build import (
    Built,
    Frames,
    Settings,
    build_model,
    check_output,
    describe_model,
    read_model,
)
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import Runner
from l3hpc.io.files import atomic_folder, write_bytes, write_json, write_text
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.precision import deviation_of
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import RANDOM_WEIGHTS, WeightsInfo

SCHEMA = 1
RANDOM_INPUTS = 8
MICRO_INPUTS = 2
HOPS = (1.0, 0.5, 0.1)
SEED = 20180216
ROUNDING = 1e-5  # of the largest value: what float32 sums in another order may differ by
UNKNOWN_LICENCE = ("The weights file does not say. Ask those who published it, and state the "
                   "answer with `--licence` at the next export.")
ROWS = (("flatbuffer, bytes", "flatbuffer_bytes"), ("operators", "operators"),
        ("multiply-accumulates per frame", "macs"), ("of these computed twice", "extra_macs"),
        ("estimated seconds per frame, Cortex-M7 at 216 MHz", "seconds_m7"),
        ("parameters × 1 byte", "flash_as_published"),
        ("largest single map, bytes", "ram_as_published"))


def make(info: WeightsInfo, settings: Settings, network: FoldedNetwork, built: Built,
         frames: Frames | None) -> dict[str, Any]:
    """The report, JSON-ready.

    Raises ``L3hpcError`` where strips and plain export do not agree: then nothing may be exported.
    """
    import tensorflow as tf

    spec = info.spec
    check = None if frames is None else spec.frontend(frames.check)
    macs = sum(costs.macs(built.plain))
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
        "time_source": costs.SOURCE,
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
    planned = costs.plan(graph)
    return {"name": name, "flatbuffer_bytes": len(flatbuffer),
            "operators": len(graph.operators), "tensors": len(graph.tensors),
            **costs.count(graph, network.spec, macs).as_json(),
            "arena": {"planned": planned.as_json(), **_measured(flatbuffer, spectrograms)}}


def _measured(flatbuffer: bytes, spectrograms: np.ndarray | None) -> dict[str, Any]:
    """What TFLite Micro recorded, and whether its outputs are TFLite's; or why nobody asked it."""
    runner = Runner(flatbuffer)
    inputs = np.zeros((1, *runner.shape[1:]), np.float32)
    if spectrograms is not None:
        inputs = spectrograms[:MICRO_INPUTS]
    own = runner.quantised(inputs) if runner.input_scale else inputs.astype(runner.dtype)
    try:
        recorded = interpreter.run_micro(flatbuffer, own)
    except (interpreter.MicroUnavailable, interpreter.MicroRefused) as error:
        return {"measured": None, "not_measured": error.message}
    found = {key: value for key, value in asdict(recorded).items() if key != "outputs"}
    return {"measured": found,
            "outputs_equal": recorded.outputs.tobytes() == runner.raw(own).tobytes()}


def _accuracy(model: Graph, settings: Settings, network: FoldedNetwork, frames: Frames
              ) -> dict[str, Any] | None:
    from l3hpc.models.engines import TensorFlowEngine

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


def text(report: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    model, spec = report["model"], report["model"]["spec"]
    parts = [f"# {model['label']}", _what(report), _data(report),
             "## Licence of the weights", model["licence"] or UNKNOWN_LICENCE,
             "## Numbers", numbers(report), _accuracy_text(report),
             "## Input", _input_text(report, spec)]
    if model["caution"]:
        parts.insert(1, f"**{model['caution']}**")
    return "\n\n".join(part for part in parts if part) + "\n"


def numbers(report: Mapping[str, Any]) -> str:
    """The table of the plain and the strip-wise model side by side."""
    models = report["models"]
    lines = ["| | " + " | ".join(one["name"] for one in models) + " |",
             "|---" * (len(models) + 1) + "|"]

    def row(name: str, values: list[Any]) -> None:
        lines.append(f"| {name} | " + " | ".join(_cell(value) for value in values) + " |")

    row("arena recorded by TFLite Micro, bytes",
        [(one["arena"]["measured"] or {}).get("total") for one in models])
    row("arena planned from the file, bytes",
        [one["arena"]["planned"]["total"] for one in models])
    for name, key in ROWS:
        row(name, [one[key] for one in models])
    notes = []
    reasons = {one["arena"].get("not_measured") for one in models} - {None}
    notes += [f"Not recorded: {reason}." for reason in sorted(reasons)]
    agreement = report["agreement"]
    if agreement:
        amounts = " and ".join(f"{agreement[name]} {name}" for name in ("random", "real")
                               if name in agreement)
        equal = "bit-identical" if agreement["bit_identical"] else (
            f"equal within {agreement['largest_difference']:.1g} (order of float additions)")
        notes.append(f"Strips per block: {', '.join(map(str, report['strips']))}. The outputs of "
                     f"both are {equal} on {amounts} inputs.")
    notes.append(f"TensorFlow's converter wrote {report['as_converted_bytes']:,} bytes; what "
                 "inference does not read is left out.")
    notes.append(f"Time is an estimate from published figures ({report['time_source']}), not a "
                 "measurement of this model.")
    return "\n".join(lines) + "\n\n" + "\n".join(f"* {note}" for note in notes)


def _what(report: Mapping[str, Any]) -> str:
    inside = report["frontend"] == "inside"
    takes = "one second of audio" if inside else "the mel spectrogram of one second of audio"
    return (f"An audio embedding network of the L3-Net family as TensorFlow Lite, in "
            f"{report['format']}: it turns {takes} into {report['model']['dim']} numbers, for "
            "a classifier that is not in this file. BatchNorm is folded. Exported by l3hpc "
            f"{report['l3hpc']} with TensorFlow {report['tensorflow']}.")


def _data(report: Mapping[str, Any]) -> str:
    found = report["calibration"]
    if found is None:
        return "## Data\n\nNo recordings were used in this export."
    return (f"## Data\n\nRanges are from {found['range_frames']} frames, accuracy from "
            f"{found['check_frames']} others, of a folder of {found['recordings']} recordings. "
            "What the weights were trained on, this file does not say.")


def _accuracy_text(report: Mapping[str, Any]) -> str:
    found = report["accuracy"]
    if found is None:
        return "Accuracy against float32 was not measured: no recordings were given."
    return (f"Against the same network in float32, on {found['frames']} real frames: cosine "
            f"similarity {found['cosine']:.5f} (least {found['least_cosine']:.5f}), relative error "
            f"{found['relative_error']:.4f} (largest {found['largest_relative_error']:.4f}).")


def _input_text(report: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    entry = report["input"]
    shape = " × ".join(map(str, entry["shape"]))
    if report["frontend"] == "inside":
        return f"Audio at {spec['rate']} Hz, mono, in [-1, 1]: {shape}, {entry['type']}."
    real = (f" Decibels = {entry['scale']:.9g} × (value − {entry['zero']})."
            if entry["scale"] else "")
    return (f"Mel spectrogram in decibels, convention {name_of(spec['convention'])}, 0 at its "
            f"largest value and at least -80: {shape}, {entry['type']} ({spec['n_mels']} mels, hop "
            f"{spec['hop']}, DFT {spec['n_dft']}, {spec['rate']} Hz).{real} `l3_frontend.h` says "
            "how to make it in integers.")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def preview(name: str | Path, output: Path, settings: Settings) -> dict[str, Any]:
    """What ``export_model`` would do, without TensorFlow; refuses what it would refuse."""
    check_output(output)
    info = describe_model(name, settings.geometry)
    settings.check(info.spec)
    recordings = 0 if settings.calibrate is None else len(scan(settings.calibrate))
    return {"model": info.label, "dim": info.spec.dim, "format": settings.form,
            "strips": settings.in_strips, "frontend": settings.frontend, "output": str(output),
            "recordings": recordings, "files": settings.files(info.spec)}


def export_model(name: str | Path, output: Path, settings: Settings,
                 progress: Progress | None = None) -> dict[str, Any]:
    """Export the network in a weights file into the new folder ``output``; its report.

    Raises ``InputError`` for a model, settings or recordings that cannot be, before anything is
    written; ``L3hpcError`` where the export is not what it has to be.
    """
    progress = progress or Progress()
    check_output(output)
    parameters, info = read_model(name, settings.geometry)
    settings.check(info.spec)
    network = parameters.folded()
    progress.start("export", total=4, unit="steps")
    progress.advance(0, now="reading")
    found = (None if settings.calibrate is None
             else build.read_frames(settings.calibrate, info.spec.rate))
    progress.advance(now="converting")
    ranges = None if found is None else info.spec.frontend(found.ranges, threads=None)
    built = build_model(network, settings, ranges)
    progress.advance(now="checking")
    made = make(info, settings, network, built, found)
    progress.advance(now="writing")
    _write(output, settings, info.spec, built, made)
    progress.advance()
    progress.finish()
    return made


def _write(output: Path, settings: Settings, spec: NetworkSpec, built: Built,
           made: dict[str, Any]) -> None:
    model = built.model
    flatbuffer = model.to_bytes()
    tensor = model.inputs[0]
    end = (model.type(tensor).lower(), *model.quantisation(tensor))
    measured = made["models"][-1]["arena"]["measured"]
    reserve = measured["total"] if measured and settings.frontend == "outside" else 0
    makers: dict[str, Callable[[], bytes | str]] = {
        "model.tflite": lambda: flatbuffer,
        "l3_model.h": lambda: ccode.model_header(model, len(flatbuffer), reserve),
        "l3_model.c": lambda: ccode.model_source(flatbuffer),
        "l3_frontend.h": lambda: ccode.frontend_header(spec.frontend, *end),
        "l3_frontend.c": lambda: ccode.frontend_source(spec.frontend, *end),
        "card.md": lambda: text(made),
    }
    with atomic_folder(output) as folder:
        for name in settings.files(spec):
            if name == "report.json":
                write_json(folder / name, made)
                continue
            content = makers[name]()
            if isinstance(content, bytes):
                write_bytes(folder / name, content)
            else:
                write_text(folder / name, content)
