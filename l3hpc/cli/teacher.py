"""``l3hpc teacher``: networks of other kinds as teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l3hpc.errors import EXIT_FAILED, EXIT_OK, InputError, command_line, shell_path
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.teachers.study import Study

MOST_VECTORS = 8
OTHER_KINDS = {"hear": "module of the HEAR interface", "ready": "precomputed embeddings"}

EXAMPLES = """\b
Examples:
  l3hpc teacher describe birdnet.tflite                       what is in the file
  l3hpc teacher describe birdnet.tflite --rate 48000 --write  write birdnet.teacher.yaml
  l3hpc teacher describe net.onnx --rate 16000 --output pool  name the embedding
  l3hpc teacher describe vggish.keras --rate 16000 --window 0.96 \\
      --set frontend.n_mels=64 --set frontend.n_dft=512 --set frontend.length=400 \\
      --set frontend.hop=160 --set frontend.fmin=125 --set frontend.fmax=7500

\b
Then use the file: l3hpc submit upstream --weights birdnet.tflite
                   l3hpc embed recordings/ --model birdnet.tflite
"""


@click.group("teacher", epilog="""\b
Examples:
  l3hpc teacher describe birdnet.tflite                       what is in the file
  l3hpc teacher describe birdnet.tflite --rate 48000 --write  write birdnet.teacher.yaml
""")
def command() -> None:
    """Use networks of other kinds as teachers."""


@command.command("describe", epilog=EXAMPLES)
@click.argument("file", type=click.Path())
@click.option("--rate", metavar="HZ", type=int, help="Sampling rate of the audio.")
@click.option("--window", metavar="SECONDS", type=float,
              help="Length of a window. [default: as long as the input, if that is audio]")
@click.option("--output", metavar="TENSOR",
              help="The tensor that is the embedding (for Keras, a layer). [default: the input of "
                   "the last layer, if that is one vector]")
@click.option("--set", "values", metavar="KEY=VALUE", multiple=True,
              help="Any other value of the sidecar: scale, pool, axis, input, frontend.KEY.")
@click.option("--write", is_flag=True, help="Write the sidecar NAME.teacher.yaml beside the file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def describe(file: str, rate: int | None, window: float | None, output: str | None,
             values: tuple[str, ...], write: bool, as_json: bool) -> int:
    """Show what is in a network file, and write its sidecar.

    A TFLite, ONNX or Keras file does not say at which rate its audio is sampled, how samples are
    scaled, or how its spectrogram is computed. The sidecar does; with it, the file can be a
    teacher. Nothing in the file is executed.

    FILE can also be weights of the L3 family, a HEAR module (hear:package.module, which is run) or
    a folder of precomputed embeddings, which need no sidecar.
    """
    from l3hpc.io.values import one_line
    from l3hpc.teachers.sidecar import sidecar_path, write_sidecar
    from l3hpc.teachers.study import study

    path = Path(file)
    stated_options = [name for name, value in (
        ("--rate", rate), ("--window", window), ("--output", output), ("--set", values),
        ("--write", write)) if value]
    if not path.is_file() or (not stated_options and _is_l3(path)):
        return _describe_other(file, stated_options, as_json)
    stated = {key: value for key, value in (("rate", rate), ("window", window),
                                            ("output", output)) if value is not None}
    found = study(path, {**stated, **_parse(values)})
    written = None
    if write and found.sidecar is not None:
        written = write_sidecar(path, found.sidecar)
    if as_json:
        click.echo(json.dumps({
            "schema": 1, "file": str(path), "format": found.graph.format,
            "inputs": [str(one) for one in found.graph.inputs],
            "outputs": [str(one) for one in found.graph.outputs],
            "vectors": [str(one) for one in found.graph.vectors()],
            "values": dict(found.values), "reasons": dict(found.reasons),
            "missing": list(found.missing), "dim": found.dim,
            "sidecar": str(written) if written else None}, indent=2))
    else:
        for line in _lines(path, found):
            click.echo(one_line(line))  # names in a file may hold any character
        if written is not None:
            click.echo(f"wrote {shell_path(written)}")
            click.echo(f"next: {command_line('submit', 'upstream', '--weights', path)} --dry-run")
        elif found.sidecar is not None and not sidecar_path(path).is_file():
            click.echo(f"{shell_path(sidecar_path(path))}: not written (--write)")
    if write and written is None:
        click.echo(f"nothing written: {sidecar_path(path).name} must state everything", err=True)
        return EXIT_FAILED
    return EXIT_OK


def _is_l3(path: Path) -> bool:
    """Whether a file without a sidecar holds weights of the L3 family."""
    from l3hpc.teachers import find

    # TFLite files are studied in any case: as a teacher a classifier gives another tensor.
    if path.suffix in (".tflite", ".onnx") or find.has_sidecar(path):
        return False
    try:
        return find.describe(str(path)).spec is not None
    except InputError:
        return False


def _describe_other(name: str, options: list[str], as_json: bool) -> int:
    """Describe what needs no sidecar: a HEAR module, a folder of embeddings, L3 weights."""
    from l3hpc.teachers.find import absolute, has_random_weights
    from l3hpc.teachers.find import describe as describe_teacher

    if absolute(name) is None and not has_random_weights(name):
        raise InputError("no such file", where=name,
                         allowed="a network file (.tflite, .onnx, .keras, .h5), "
                                 "hear:package.module, a folder of embeddings, or 'untrained'")
    known = describe_teacher(name)
    if options:
        raise InputError(f"{', '.join(options)} describe a network file, not {known.label}",
                         where=name, allowed="--json",
                         hint="The window of this teacher: submit … --set extract.window=SECONDS")
    if as_json:
        click.echo(json.dumps({
            "schema": 1, "file": name, "format": known.kind, "inputs": [], "outputs": [],
            "vectors": [], "values": {"rate": known.rate, "window": known.window_s}, "reasons": {},
            "missing": [], "dim": known.dim, "sidecar": None}, indent=2))
        return EXIT_OK
    click.echo(f"{known.label}: {OTHER_KINDS.get(known.kind, 'network of the L3 family')}")
    if known.kind != "ready":
        click.echo(f"rate     {known.rate:,} Hz")
    other = "" if known.spec else ", or another: --set extract.window=SECONDS"
    click.echo(f"window   {known.window_s:g} s{other}")
    click.echo(f"{'':<9}embeddings of {count_of(known.dim, 'value')}")
    for note in known.notes:
        click.echo(f"note     {note}")
    return EXIT_OK


def _parse(values: tuple[str, ...]) -> dict[str, Any]:
    """``frontend.n_mels=64`` → ``{"frontend": {"n_mels": 64}}``; values are YAML."""
    from l3hpc.io.yaml import parse_yaml

    result: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{text!r:.60} is not KEY=VALUE", where="--set",
                             hint=command_line("teacher", "describe", "--help"))
        inside = result
        *outer, last = key.split(".")
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise InputError(f"{part} has a value and keys", where=f"--set {text:.60}",
                                 allowed="one or the other")
        inside[last] = parse_yaml(value, "--set")[0]
    return result


def _lines(path: Path, found: Study) -> list[str]:
    """The result for people."""
    graph = found.graph
    lines = [f"{path.name}: {graph.format}, {count_of(len(graph.operations), 'operation')}",
             f"inputs   {', '.join(map(str, graph.inputs))}",
             f"outputs  {', '.join(map(str, graph.outputs))}", ""]
    for key, value in found.values.items():
        text = str(value)
        if key in ("input", "output") and value in graph.tensors:
            text = str(graph.tensors[value])
        elif key == "frontend" and isinstance(value, dict):
            text = ", ".join(f"{name} {one}" for name, one in value.items())
        lines.append(f"{key:<9}{text}  ({found.reasons[key]})")
    if found.dim is not None:
        lines.append(f"{'':<9}embeddings of {count_of(found.dim, 'value')}, one per "
                     f"{found.values['window']:g} s of audio")
    for text in found.missing:
        lines.append(f"missing  {text}")
    if "output" not in found.values:
        vectors = graph.vectors()
        lines += ["", "tensors of one vector per window, the last first:",
                  *(f"  {one}" for one in reversed(vectors[-MOST_VECTORS:]))]
    return lines
