"""Accuracy lost by quantisation, and memory needed on a microcontroller.

    python -m benchmarks.quantised --esc10 FOLDER --weights FILE.h5[.gz] [--quick] [--json FILE]

The published weights in FILE as float32, float16, int8 and int16x8: cosine similarity and relative
error of embeddings against float32 on frames of real recordings that no range was taken from, and
ESC-10 accuracy (5 official folds, logistic regression with C = 0.1 on standardised mean and
standard deviation over frames, hop 0.5 s, centred; every format trains its own classifier). Ranges
come from recordings of fold 1 only. Then Student 2 (128-d; random weights: sizes do not depend on
them) and the given weights, plain and strip-wise: flash, arena, multiply-accumulates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import about, machine
from benchmarks.tables import Claim, Table, claims_markdown, write_results

FORMS = ("fp32", "fp16", "int8", "int16x8")
RANGE_FRAMES = 200
HOP_S = 0.5
SLOW_STEP = 16
ARENA, FLASH = 102_400, 600_000


def clips(folder: Path, quick: bool) -> list[dict[str, str]]:
    """Rows of the data set's table; with ``quick`` eight of each fold, of two classes."""
    table = next((folder / "meta").glob("*.csv"))
    from l3hpc.io.tables import read_records

    rows = [row for _, row in read_records(table, "table of ESC-50")]
    if not quick:
        return rows
    classes = sorted({row["target"] for row in rows})[:2]
    return [row for fold in "12345" for target in classes
            for row in [one for one in rows if (one["fold"], one["target"]) == (fold, target)][:4]]


def spectrograms(rows: list[dict[str, str]], folder: Path, spec: Any) -> list[np.ndarray]:
    """Return the spectrograms of every clip: (frames, bands, times) float32."""
    from l3hpc.audio.files import read_audio
    from l3hpc.audio.framing import frame_audio

    found = []
    for row in rows:
        signal, rate = read_audio(folder / "audio" / row["filename"], spec.rate)
        frames, _ = frame_audio(signal, rate, HOP_S, center=True)
        found.append(spec.frontend(frames))
    return found


def accuracy(embeddings: list[np.ndarray], rows: list[dict[str, str]]) -> list[float]:
    """Return the accuracy of each fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.array([np.concatenate([one.mean(axis=0), one.std(axis=0)]) for one in embeddings])
    y = np.array([int(row["target"]) for row in rows])
    fold = np.array([int(row["fold"]) for row in rows])
    scores = []
    for held_out in sorted(set(fold)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
        model.fit(x[fold != held_out], y[fold != held_out])
        scores.append(float(model.score(x[fold == held_out], y[fold == held_out])))
    return scores


def exact(network: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the embeddings of the unquantised float32 network, the reference of all formats."""
    from l3hpc.models.engines import TensorFlowEngine

    return TensorFlowEngine(network).run


def accuracy_table(arguments: argparse.Namespace) -> Table:
    """Compare the formats."""
    from l3hpc.export.build import ExportSettings, build_model, read_model
    from l3hpc.export.interpreter import TfliteRunner
    from l3hpc.models.precision import deviation_of

    parameters, info = read_model(arguments.weights)
    network = parameters.folded()
    rows = clips(arguments.esc10, arguments.quick)
    heard = spectrograms(rows, arguments.esc10, info.spec)
    seen = np.concatenate([one for one, row in zip(heard, rows, strict=True)
                           if row["fold"] == "1"])
    ranges = seen[np.linspace(0, len(seen) - 1, min(RANGE_FRAMES, len(seen))).astype(int)]
    run = exact(network)
    right = [run(one) for one in heard]
    unseen = [index for index, row in enumerate(rows) if row["fold"] != "1"]
    lines, figures = [], {}
    for form in FORMS:
        print(f"{form}: embedding {len(rows)} recordings", file=sys.stderr, flush=True)
        built = build_model(network, ExportSettings(form, calibrate=arguments.esc10), ranges)
        runner = TfliteRunner(built.plain.to_bytes())  # strips give the same bits
        chosen = set(range(len(rows))) if form != "int16x8" else set(unseen[::SLOW_STEP])
        found = {index: runner.embed(heard[index]) for index in sorted(chosen)}
        judged = [index for index in unseen if index in chosen]
        off = deviation_of(np.concatenate([found[index] for index in judged]),
                           np.concatenate([right[index] for index in judged]))
        assert off is not None, "every embedding is 0"
        figures |= {f"{form} cosine": off.cosine, f"{form} relative error": off.relative_error}
        line = [form, f"{len(built.plain.to_bytes()):,}", f"{off.frames:,}", f"{off.cosine:.6f}",
                f"{off.least_cosine:.4f}", f"{off.relative_error:.2e}", "–", ""]
        if len(found) == len(rows):
            scores = accuracy([found[index] for index in range(len(rows))], rows)
            figures[f"{form} accuracy"] = float(np.mean(scores))
            line[-2:] = [f"{np.mean(scores):.4f}", " ".join(f"{score:.3f}" for score in scores)]
        lines.append(line)
    return Table(
        "Formats: accuracy on real recordings",
        ["format", "flash, bytes", "frames", "mean cosine", "least cosine", "mean relative error",
         "ESC-10 accuracy", "folds"], lines,
        [f"{info.label}.", "Cosine and relative error against float32 on frames of folds 2 to 5 "
         f"(int16x8, whose kernels are slow here: every {SLOW_STEP}th recording, and no accuracy); "
         f"ranges of integer formats from {len(ranges)} frames of fold 1.",
         f"{len(rows)} recordings, centred frames, hop {HOP_S} s, logistic regression (C = 0.1) on "
         "mean and standard deviation."], figures=figures)


def size_table(arguments: argparse.Namespace) -> Table:
    """Compare plain and strip-wise conversion."""
    from l3hpc.export import costs, interpreter
    from l3hpc.export.build import ExportSettings, build_model, read_model
    from l3hpc.export.package import compare_outputs
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import student_spec

    given, info = read_model(arguments.weights)
    rng = np.random.default_rng(0)
    lines, claims = [], []
    for name, parameters in (("Student 2", untrained(student_spec(head="relu"), 0)),
                             (f"{info.spec.dim}-d weights given", given)):
        network = parameters.folded()
        noise = (0.1 * rng.standard_normal((8, network.spec.rate))).astype(np.float32)
        heard = network.spec.frontend(noise)
        built = build_model(network, ExportSettings("int8", calibrate=arguments.esc10), heard)
        agreed = compare_outputs(built.plain.to_bytes(), built.body.to_bytes(), heard)
        plain_macs = sum(costs.convolution_macs(built.plain))
        for kind, graph in (("plain", built.plain), ("strip-wise", built.body)):
            flatbuffer = graph.to_bytes()
            try:
                recorded: int | None = interpreter.run_micro(flatbuffer).total
            except interpreter.MicroUnavailable as error:
                print(error, file=sys.stderr)
                recorded = None
            found = costs.inference_costs(graph, network.spec, plain_macs)
            strips = "–" if kind == "plain" else " + ".join(map(str, built.counts))
            lines.append([
                name, kind, strips, f"{len(flatbuffer):,}",
                f"{recorded:,}" if recorded else "not recorded",
                f"{costs.plan_arena(graph).total:,}", f"{found.macs:,}",
                f"{100 * found.extra_macs / plain_macs:.2f}%", f"{found.seconds_m7:.2f}"])
        lines[-1][2] += ", bit-identical" if agreed["bit_identical"] else ", NOT identical"
        if name == "Student 2":
            total = recorded or costs.plan_arena(built.body).total
            claims = [Claim("arena of Student 2 in int8", "one map of its first block", total,
                            ARENA, "bytes", at_least=False),
                      Claim("flash of Student 2 in int8", "0.60 MB (10⁶)",
                            len(built.body.to_bytes()), FLASH, "bytes", at_least=False)]
    return Table(
        "int8 on a microcontroller: plain and strip-wise",
        ["network", "export", "strips per block", "flash, bytes", "arena recorded, bytes",
         "arena planned, bytes", "multiply-accumulates per frame", "computed twice",
         "estimated s per frame, 216 MHz Cortex-M7"], lines,
        ["Student 2 has random weights here: sizes and arenas do not depend on them.",
         "Recorded by the TensorFlow Lite Micro interpreter (x86-64); planned from the file.",
         f"Time is estimated from published figures: {costs.TIME_SOURCE}."], claims)


def main() -> None:
    """Run the benchmark, print the tables and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantised", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--weights", type=Path, required=True, help="published weights")
    parser.add_argument("--quick", action="store_true", help="40 recordings of two classes")
    parser.add_argument("--json", type=Path, help="also write tables and claims here")
    arguments = parser.parse_args()
    tables = [size_table(arguments), accuracy_table(arguments)]
    here = machine()
    print(about(here))
    for table in tables:
        print("\n" + table.markdown())
    print("\n" + claims_markdown(tables[0].claims))
    if arguments.json:
        write_results(arguments.json, "quantised", here, tables, arguments.quick)


if __name__ == "__main__":
    main()
