"""``l3hpc export``: export a model for a microcontroller or a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from l3hpc.cli.embed import complete_model, model_of_run
from l3hpc.cli.place import workspace_options
from l3hpc.console.progress import default_progress
from l3hpc.errors import InputError, shell_path, shell_word

EXAMPLES = """\b
Examples:
  l3hpc export student.h5 --int8 --calibrate city/audio -o sensor     for a microcontroller
  l3hpc export student.h5 --int8 --calibrate city/audio -o sensor --dry-run
  l3hpc export student.h5 --fp16 --frontend inside -o phone           audio in, embedding out
  l3hpc export edgel3_sea_ust_audio_emb_64.h5.gz --int8 --calibrate esc50/audio -o s3 --licence MIT
  l3hpc export student.h5 --hear -o hear_student                      for the HEAR benchmark

\b
What is written:
  model.tflite                    the model
  l3_model.c, l3_model.h          the same as a C array, with sizes and scales
  l3_frontend.c, l3_frontend.h    the mel front end in integers (with --frontend outside)
  card.md, report.json            description, flash, arena, accuracy, time
With --hear: __init__.py and a copy of the weights.
"""
HEAR_OPTIONS = {"as_hear", "output", "dry_run", "as_json", "config_file", "workspace_dir"}


@click.command(epilog=EXAMPLES)
@click.argument("model", shell_complete=complete_model)
@click.option("--int8", is_flag=True, help="8-bit integers (the default).")
@click.option("--int16x8", is_flag=True, help="16-bit activations, 8-bit weights.")
@click.option("--fp16", is_flag=True, help="float16 weights.")
@click.option("--fp32", is_flag=True, help="float32.")
@click.option("--hear", "as_hear", is_flag=True,
              help="A Python package of the HEAR 2021 interface, named like the output folder.")
@click.option("--calibrate", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Recordings like those that the model will process, for quantisation ranges and "
                   "accuracy. Required by the integer formats.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Output folder, which must not exist.")
@click.option("--strips/--no-strips", default=None,
              help="Compute the first blocks strip by strip: same results, less memory. "
                   "[default: with integer formats]")
@click.option("--arena", type=int, default=102_400, show_default=True, metavar="BYTES",
              help="Largest arena that the model should need with strips.")
@click.option("--frontend", type=click.Choice(["outside", "inside"]), default="outside",
              show_default=True,
              help="outside: the model takes spectrograms; inside: it takes audio.")
@click.option("--licence", metavar="TEXT", help="Licence of the weights, for the model card.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@workspace_options
def command(model: str, calibrate: Path | None, output: Path, strips: bool | None, arena: int,
            frontend: str, licence: str | None, dry_run: bool, as_json: bool,
            as_hear: bool, config_file: str | None, workspace_dir: str | None,
            **forms: bool) -> None:
    """Export MODEL as TensorFlow Lite, with C code, a model card and a report.

    MODEL is a weight file, a published name (sea-64; see l3hpc embed), a run that made a network
    (RUN, RUN/STEP, RUN/STEP/TASK or latest) or untrained[:SEED]. Flash and memory are always
    computed, and also measured with the TensorFlow Lite Micro interpreter if that is installed.
    With --hear, MODEL becomes a Python package that the tools of the HEAR benchmark can import.
    """
    model = model_of_run(model, "MODEL", config_file, workspace_dir)
    if as_hear:
        _refuse_with_hear()
        from l3hpc.export.hear_package import preview_package, write_package

        written = (preview_package if dry_run else write_package)(model, output)
        click.echo(json.dumps(written, indent=2) if as_json else _hear_summary(written, dry_run))
        return
    from l3hpc.export import package
    from l3hpc.export.build import ExportSettings, describe_model
    from l3hpc.models.tensorflow_log import import_tensorflow

    settings = ExportSettings(_form(forms), strips, frontend, arena, calibrate, licence)
    if dry_run:
        planned = package.preview(model, output, settings)
        click.echo(json.dumps(planned, indent=2) if as_json else _preview(planned, settings.arena))
        return
    describe_model(model)  # refuses a damaged file before TensorFlow is loaded
    import_tensorflow()
    report = package.export_model(model, output, settings, default_progress())
    click.echo(json.dumps(report, indent=2) if as_json else
               _summary(report, output, settings.in_strips))


def _refuse_with_hear() -> None:
    """Refuse options that a HEAR package does not have."""
    context = click.get_current_context()
    given = [option.opts[0] for option in context.command.params
             if isinstance(option, click.Option) and option.name not in HEAR_OPTIONS
             and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE]
    if given:
        raise InputError(f"--hear cannot be combined with {', '.join(given)}", where="--hear",
                         allowed="--output, --dry-run, --json, --workspace, --config")


def _hear_summary(written: dict[str, Any], dry_run: bool) -> str:
    """Return what was written, or would be, as text."""
    folder = Path(written["output"])
    wrote = f"{'would write' if dry_run else 'wrote'} {', '.join(written['files'])}"
    lines = [f"{written['model']}, as HEAR package {written['package']}",
             f"  {wrote} to {shell_path(folder)}"]
    if not dry_run:
        lines.append(f"  next: PYTHONPATH={shell_word(folder.absolute().parent)} hear-validator "
                     f"{written['package']}")
    return "\n".join(lines)


def _form(forms: dict[str, bool]) -> str:
    """Return the format that was chosen, ``int8`` if none was."""
    chosen = [f"--{form}" for form, is_set in forms.items() if is_set]
    if len(chosen) > 1:
        from l3hpc.export.conversion import FORMATS

        raise InputError(f"only one format can be exported at a time, not {' and '.join(chosen)}",
                         allowed=f"one of {', '.join(f'--{form}' for form in FORMATS)}",
                         hint="Export once per format, to different folders (-o).")
    return chosen[0].removeprefix("--") if chosen else "int8"


def _preview(planned: dict[str, Any], arena: int) -> str:
    """Return what an export would do, as text."""
    recordings = f"{planned['recordings']} recordings for ranges and accuracy" \
        if planned["recordings"] else "no recordings: accuracy will not be measured"
    strips = f"strip by strip where the arena exceeds {arena:,} bytes otherwise" \
        if planned["strips"] else "in one piece"
    return "\n".join([
        f"{planned['model']}: {planned['dim']}-d, as {planned['format']}",
        f"  first blocks {strips}, front end {planned['frontend']}, {recordings}",
        f"  would write {', '.join(planned['files'])} to {shell_path(planned['output'])}"])


def _summary(report: dict[str, Any], output: Path, in_strips: bool) -> str:
    """Return the results of an export as text. in_strips: strips were to be used if they help."""
    lines = [f"{report['model']['label']} as {report['format']}: {shell_path(output)}"]
    for model in report["models"]:
        measured = model["arena"]["measured"]
        total = measured["total"] if measured else model["arena"]["planned"]["total"]
        lines.append(f"  {model['name']:<11} {model['flatbuffer_bytes']:>11,} bytes of flash, "
                     f"arena {total:,} bytes ({'measured' if measured else 'planned'}), "
                     f"{model['macs'] / 1e6:.1f} million multiply-accumulates, about "
                     f"{model['seconds_m7']:.2f} s on a 216 MHz Cortex-M7")
    agreement = report["agreement"]
    if in_strips and not report["strips"]:
        wanted = report["arena_wanted"]
        lines.append("  not strip by strip: " + (
            f"the arena is not above {wanted:,} bytes (--arena)" if total <= wanted
            else "the arena would not be smaller"))
    if agreement:
        equal = "bit-identical" if agreement["bit_identical"] else "equal up to float rounding"
        lines.append(f"  strips per block {', '.join(map(str, report['strips']))}: {equal} on "
                     f"{agreement['random'] + agreement.get('real', 0)} inputs")
    if report["accuracy"]:
        accuracy = report["accuracy"]
        lines.append(f"  compared with float32: cosine similarity {accuracy['cosine']:.5f}, "
                     f"relative error {accuracy['relative_error']:.4f} ({accuracy['frames']} "
                     "frames)")
    if report["model"]["caution"]:
        lines.append(f"  {report['model']['caution']}")
    return "\n".join([*lines, f"  next: read {shell_path(output / 'card.md')}"])
