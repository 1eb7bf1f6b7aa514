"""The model card: what the file is, what it was made of and measured on, for whoever finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l3hpc.audio.conventions import name_of

UNKNOWN_LICENCE = ("The weights file does not say. Ask those who published it, and state the "
                   "answer with `--licence` at the next export.")
ROWS = (("flatbuffer, bytes", "flatbuffer_bytes"), ("operators", "operators"),
        ("multiply-accumulates per frame", "macs"), ("of these computed twice", "extra_macs"),
        ("estimated seconds per frame, Cortex-M7 at 216 MHz", "seconds_m7"),
        ("parameters × 1 byte", "flash_as_published"),
        ("largest single map, bytes", "ram_as_published"))


def text(report: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    model, spec = report["model"], report["model"]["spec"]
    parts = [f"# {model['label']}", _what(report), _data(report),
             "## Licence of the weights", model["licence"] or UNKNOWN_LICENCE,
             "## Numbers", numbers(report), _accuracy(report),
             "## Input", _input(report, spec)]
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


def _accuracy(report: Mapping[str, Any]) -> str:
    found = report["accuracy"]
    if found is None:
        return "Accuracy against float32 was not measured: no recordings were given."
    return (f"Against the same network in float32, on {found['frames']} real frames: cosine "
            f"similarity {found['cosine']:.5f} (least {found['least_cosine']:.5f}), relative error "
            f"{found['relative_error']:.4f} (largest {found['largest_relative_error']:.4f}).")


def _input(report: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
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
