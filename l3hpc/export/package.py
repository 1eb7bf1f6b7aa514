"""Export one model: its report, its model card, and all files of the folder, or none.

``build_report`` computes the numbers of ``report.json``; ``card_text`` writes the model card from
them; ``export_model`` makes the model and writes the folder.
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
from l3hpc.datasets.corpus import scan_recordings
from l3hpc.errors import L3hpcError
from l3hpc.export import build, ccode, costs, interpreter
from l3hpc.export.build import (
    BuiltModel,
    CalibrationFrames,
    ExportSettings,
    build_model,
    check_output,
    describe_model,
    read_model,
)
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import TfliteRunner
from l3hpc.io.files import write_bytes, write_json, write_text
from l3hpc.io.folders import atomic_folder
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.precision import deviation_of
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import RANDOM_WEIGHTS, WeightsInfo

SCHEMA = 1
RANDOM_INPUTS = 8
MICRO_INPUTS = 2
HOPS = (1.0, 0.5, 0.1)
SEED = 20180216
ROUNDING = 1e-5  # of the largest value: float32 sums in another order may differ by so much
UNKNOWN_LICENCE = ("The weight file does not state it. Ask its publisher, and pass the answer to "
                   "the next export with `--licence`.")
# Rows of the card's table, with their keys in a model's entry of the report.
ROWS = (("flatbuffer, bytes", "flatbuffer_bytes"), ("operators", "operators"),
        ("multiply-accumulates per frame", "macs"), ("of these, computed twice", "extra_macs"),
        ("estimated seconds per frame, Cortex-M7 at 216 MHz", "seconds_m7"),
        ("parameters × 1 byte", "flash_as_published"),
        ("largest single map, bytes", "ram_as_published"))


# the report ---------------------------------------------------------------------------------------


def build_report(info: WeightsInfo, settings: ExportSettings, network: FoldedNetwork,
                 built: BuiltModel, frames: CalibrationFrames | None) -> dict[str, Any]:
    """Compute the report of an export.

    Parameters
    ----------
    info
        The model.
    settings
        How it is exported.
    network
        Its folded network.
    built
        The exported graphs.
    frames
        Real frames; None: the accuracy is not measured.

    Returns
    -------
    dict
        JSON-ready.

    Raises
    ------
    L3hpcError
        The outputs of the strip-wise and the plain model differ; nothing may be exported.
    """
    import tensorflow as tf

    spec = info.spec
    check = None if frames is None else spec.frontend(frames.check)
    macs = sum(costs.convolution_macs(built.plain))
    plain = _model_figures("plain", built.plain, network, macs, check)
    models = [plain]
    agreement = None
    if built.counts:
        agreement = compare_outputs(built.plain.to_bytes(), built.body.to_bytes(), check)
        models.append(_model_figures("strip-wise", built.body, network, macs, check))
    return {
        "schema": SCHEMA, "l3hpc": __version__, "tensorflow": tf.__version__,
        "model": {"label": info.label, "kind": info.kind, "dim": spec.dim, "spec": spec.to_dict(),
                  "caution": RANDOM_WEIGHTS if info.random_weights else None,
                  "licence": settings.licence, "notes": list(info.notes), "learnt": info.learnt},
        "format": settings.form, "frontend": settings.frontend,
        "input": _input_figures(built.model),
        "strips": list(built.counts) or None, "arena_wanted": settings.arena,
        "flatbuffer_bytes": len(built.model.to_bytes()),
        "as_converted_bytes": len(built.as_converted),
        "calibration": None if frames is None else {
            "recordings": frames.recordings, "range_frames": len(frames.ranges),
            "check_frames": len(frames.check)},
        "models": models, "agreement": agreement,
        "accuracy": None if frames is None else _accuracy(built.model, settings, network, frames),
        "macs_per_second_of_audio": {f"{hop:g}": round(models[-1]["macs"] / hop) for hop in HOPS},
        "time_source": costs.TIME_SOURCE,
    }


def compare_outputs(plain: bytes, strips: bytes, spectrograms: np.ndarray | None) -> dict[str, Any]:
    """Compare the outputs of the plain and the strip-wise model on random and on real inputs.

    Integers must agree in every bit; floats up to rounding, since kernels add them in an order that
    depends on the size of the map.

    Parameters
    ----------
    plain
        Flatbuffer of the plain model.
    strips
        Flatbuffer of the strip-wise model.
    spectrograms
        (n, bands, times) in dB of real frames; None: none.

    Returns
    -------
    dict
        ``bit_identical``, ``largest_difference``, and the numbers of ``random`` and ``real``
        inputs.

    Raises
    ------
    L3hpcError
        The outputs differ.
    """
    first, second = TfliteRunner(plain), TfliteRunner(strips)
    rng = np.random.default_rng(SEED)
    shape = (RANDOM_INPUTS, *first.shape[1:])
    real = spectrograms
    if first.dtype.kind == "i":
        limits = np.iinfo(first.dtype)
        random = rng.integers(limits.min, limits.max, shape, first.dtype, endpoint=True)
        real = None if spectrograms is None else first.quantised(spectrograms)
    else:
        random = rng.uniform(-80.0, 0.0, shape).astype(np.float32)
    result: dict[str, Any] = {"bit_identical": True, "largest_difference": 0.0}
    for name, inputs in (("random", random), ("real", real)):
        if inputs is None:
            continue
        expected, outputs = first.raw(inputs), second.raw(inputs)
        result[name] = len(inputs)
        # As bytes: -0.0 equals 0.0, and NaN not even itself.
        result["bit_identical"] &= expected.tobytes() == outputs.tobytes()
        difference = float(np.abs(expected.astype(np.float64) - outputs).max())
        result["largest_difference"] = max(result["largest_difference"], difference)
        allowed = 0.0 if first.dtype.kind == "i" else ROUNDING * float(np.abs(expected).max())
        if difference > allowed:
            raise L3hpcError(f"the strip-wise and the plain model differ on {name} inputs by "
                             f"{difference:g}", hint="This is a bug; please report it. Until it is "
                             "fixed, export with --no-strips.")
    return result


def _model_figures(name: str, graph: Graph, network: FoldedNetwork, macs: int,
                   spectrograms: np.ndarray | None) -> dict[str, Any]:
    """Size, costs and arena of one model."""
    flatbuffer = graph.to_bytes()
    planned = costs.plan_arena(graph)
    return {"name": name, "flatbuffer_bytes": len(flatbuffer),
            "operators": len(graph.operators), "tensors": len(graph.tensors),
            **costs.inference_costs(graph, network.spec, macs).as_json(),
            "arena": {"planned": planned.as_json(), **_measured(flatbuffer, spectrograms)}}


def _measured(flatbuffer: bytes, spectrograms: np.ndarray | None) -> dict[str, Any]:
    """What TFLite Micro recorded, and whether its outputs are TFLite's; or why it was not run."""
    runner = TfliteRunner(flatbuffer)
    # The arena does not depend on the values; without recordings, zeros will do.
    inputs = np.zeros((1, *runner.shape[1:]), np.float32)
    if spectrograms is not None:
        inputs = spectrograms[:MICRO_INPUTS]
    values = runner.quantised(inputs) if runner.input_scale else inputs.astype(runner.dtype)
    try:
        recorded = interpreter.run_micro(flatbuffer, values)
    except (interpreter.MicroUnavailable, interpreter.MicroRefused) as error:
        return {"measured": None, "not_measured": error.message}
    arena = {key: value for key, value in asdict(recorded).items() if key != "outputs"}
    return {"measured": arena,
            "outputs_equal": recorded.outputs.tobytes() == runner.raw(values).tobytes()}


def _accuracy(model: Graph, settings: ExportSettings, network: FoldedNetwork,
              frames: CalibrationFrames) -> dict[str, Any] | None:
    """Deviation of the exported model's embeddings from those in float32."""
    from l3hpc.models.engines import TensorFlowEngine

    engine = TensorFlowEngine(network)
    spectrograms = network.spec.frontend(frames.check)
    exact = np.concatenate([engine.run(spectrograms[start:start + 16])
                            for start in range(0, len(spectrograms), 16)])
    inputs = frames.check if settings.frontend == "inside" else spectrograms
    deviation = deviation_of(TfliteRunner(model.to_bytes()).embed(inputs), exact)
    return None if deviation is None else deviation.as_json()


def _input_figures(model: Graph) -> dict[str, Any]:
    tensor = model.inputs[0]
    scale, zero = model.quantisation(tensor)
    return {"shape": list(model.shape(tensor)), "type": model.type(tensor).lower(),
            "scale": scale, "zero": zero}


# the model card -----------------------------------------------------------------------------------

def card_text(report: Mapping[str, Any]) -> str:
    """Write the model card.

    Parameters
    ----------
    report
        From ``build_report``.

    Returns
    -------
    str
        Markdown.
    """
    model, spec = report["model"], report["model"]["spec"]
    parts = [f"# {model['label']}", _summary_text(report), _data_text(report),
             "## Licence of the weights", model["licence"] or UNKNOWN_LICENCE,
             "## Numbers", figures_table(report), _accuracy_text(report),
             "## Input", _input_text(report, spec)]
    if model["caution"]:
        parts.insert(1, f"**{model['caution']}**")
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_table(report: Mapping[str, Any]) -> str:
    """Write the table that compares the plain and the strip-wise model, with notes.

    Parameters
    ----------
    report
        From ``build_report``.

    Returns
    -------
    str
        Markdown.
    """
    models = report["models"]
    lines = ["| | " + " | ".join(model["name"] for model in models) + " |",
             "|---" * (len(models) + 1) + "|"]

    def row(name: str, values: list[Any]) -> None:
        lines.append(f"| {name} | " + " | ".join(_cell(value) for value in values) + " |")

    row("arena recorded by TFLite Micro, bytes",
        [(model["arena"]["measured"] or {}).get("total") for model in models])
    row("arena planned from the file, bytes",
        [model["arena"]["planned"]["total"] for model in models])
    for name, key in ROWS:
        row(name, [model[key] for model in models])
    reasons = {model["arena"].get("not_measured") for model in models} - {None}
    notes = [f"Not recorded: {reason}." for reason in sorted(reasons)]
    agreement = report["agreement"]
    if agreement:
        amounts = " and ".join(f"{agreement[name]} {name}" for name in ("random", "real")
                               if name in agreement)
        equal = "bit-identical" if agreement["bit_identical"] else (
            f"equal within {agreement['largest_difference']:.1g} (order of float additions)")
        notes.append(f"Strips per block: {', '.join(map(str, report['strips']))}. The outputs of "
                     f"both are {equal} on {amounts} inputs.")
    notes.append(f"TensorFlow's converter wrote {report['as_converted_bytes']:,} bytes; parts that "
                 "inference does not read are removed.")
    notes.append(f"Time is an estimate from published figures ({report['time_source']}), not a "
                 "measurement of this model.")
    return "\n".join(lines) + "\n\n" + "\n".join(f"* {note}" for note in notes)


def _summary_text(report: Mapping[str, Any]) -> str:
    inside = report["frontend"] == "inside"
    window_s = report["model"]["spec"].get("window_s", 1)
    audio = "one second of audio" if window_s == 1 else f"{window_s:g} seconds of audio"
    takes = audio if inside else f"the mel spectrogram of {audio}"
    return (f"An audio embedding network of the L3-Net family as TensorFlow Lite, in "
            f"{report['format']}: it turns {takes} into {report['model']['dim']} numbers, the "
            "input of a classifier that is not in this file. Batch normalisation is folded. "
            f"Exported by l3hpc {report['l3hpc']} with TensorFlow {report['tensorflow']}.")


def _data_text(report: Mapping[str, Any]) -> str:
    calibration, learnt = report["calibration"], report["model"]["learnt"]
    parts = ["No recordings were used in this export." if calibration is None else
             f"Ranges are from {calibration['range_frames']} frames, the accuracy from "
             f"{calibration['check_frames']} others, of a folder of {calibration['recordings']} "
             "recordings.",
             f"The network learnt {learnt}. The file does not state of which recordings." if learnt
             else "The file does not state what the weights were trained on."]
    return "## Data\n\n" + " ".join(parts)


def _accuracy_text(report: Mapping[str, Any]) -> str:
    accuracy = report["accuracy"]
    if accuracy is None:
        return "The accuracy against float32 was not measured: no recordings were given."
    return (f"Compared with the same network in float32 on {accuracy['frames']} real frames: "
            f"cosine similarity {accuracy['cosine']:.5f} (lowest {accuracy['least_cosine']:.5f}), "
            f"relative error {accuracy['relative_error']:.4f} (largest "
            f"{accuracy['largest_relative_error']:.4f}).")


def _input_text(report: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    entry = report["input"]
    shape = " × ".join(map(str, entry["shape"]))
    if report["frontend"] == "inside":
        return f"Audio at {spec['rate']} Hz, mono, in [-1, 1]: {shape}, {entry['type']}."
    decibels = (f" Decibels = {entry['scale']:.9g} × (value − {entry['zero']})."
                if entry["scale"] else "")
    return (f"Mel spectrogram in decibels, front end {name_of(spec['convention'])}, with a maximum "
            f"of 0 and a minimum of -80: {shape}, {entry['type']} ({spec['n_mels']} mels, hop "
            f"{spec['hop']}, DFT {spec['n_dft']}, {spec['rate']} Hz).{decibels} `l3_frontend.h` "
            "describes how to compute it in integers.")


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


# the folder ---------------------------------------------------------------------------------------

def preview(name: str | Path, output: Path, settings: ExportSettings) -> dict[str, Any]:
    """What ``export_model`` would do, without TensorFlow.

    Parameters
    ----------
    name
        As in ``build.read_model``.
    output
        The folder to write.
    settings
        How to export.

    Returns
    -------
    dict
        JSON-ready.

    Raises
    ------
    InputError
        ``export_model`` would refuse the model, the folder or the settings.
    """
    check_output(output)
    info = describe_model(name, settings.geometry)
    settings.check(info.spec)
    recordings = 0 if settings.calibrate is None else len(scan_recordings(settings.calibrate))
    return {"model": info.label, "dim": info.spec.dim, "format": settings.form,
            "strips": settings.in_strips, "frontend": settings.frontend, "output": str(output),
            "recordings": recordings, "files": settings.files(info.spec)}


def export_model(name: str | Path, output: Path, settings: ExportSettings,
                 progress: Progress | None = None) -> dict[str, Any]:
    """Export a model into a new folder, which appears only once it is complete.

    Parameters
    ----------
    name
        As in ``build.read_model``.
    output
        The folder to write.
    settings
        How to export.
    progress
        Shows the stages.

    Returns
    -------
    dict
        The report, as in ``report.json``.

    Raises
    ------
    InputError
        The model, the folder, the settings or the recordings cannot be used.
    L3hpcError
        The outputs of the strip-wise and the plain model differ.
    """
    progress = progress or Progress()
    check_output(output)
    parameters, info = read_model(name, settings.geometry)
    settings.check(info.spec)
    network = parameters.folded()
    progress.start("export", total=4, unit="steps")
    progress.advance(0, now="reading")
    frames = (None if settings.calibrate is None
              else build.read_frames(settings.calibrate, info.spec.rate, info.spec.window_s))
    progress.advance(now="converting")
    ranges = None if frames is None else info.spec.frontend(frames.ranges, threads=None)
    built = build_model(network, settings, ranges)
    progress.advance(now="checking")
    report = build_report(info, settings, network, built, frames)
    progress.advance(now="writing")
    _write(output, settings, info.spec, built, report)
    progress.advance()
    progress.finish()
    return report


def _write(output: Path, settings: ExportSettings, spec: NetworkSpec, built: BuiltModel,
           report: dict[str, Any]) -> None:
    model = built.model
    flatbuffer = model.to_bytes()
    tensor = model.inputs[0]
    input_type = (model.type(tensor).lower(), *model.quantisation(tensor))
    # TFLite Micro cannot run a model with a front end inside: there is no arena to reserve.
    measured = report["models"][-1]["arena"]["measured"]
    reserve = measured["total"] if measured and settings.frontend == "outside" else 0
    makers: dict[str, Callable[[], bytes | str]] = {
        "model.tflite": lambda: flatbuffer,
        "l3_model.h": lambda: ccode.model_header(model, len(flatbuffer), reserve),
        "l3_model.c": lambda: ccode.model_source(flatbuffer),
        "l3_frontend.h": lambda: ccode.frontend_header(spec.frontend, *input_type),
        "l3_frontend.c": lambda: ccode.frontend_source(spec.frontend, *input_type),
        "card.md": lambda: card_text(report),
    }
    with atomic_folder(output) as folder:
        for name in settings.files(spec):
            if name == "report.json":
                write_json(folder / name, report)
                continue
            content = makers[name]()
            if isinstance(content, bytes):
                write_bytes(folder / name, content)
            else:
                write_text(folder / name, content)
