"""``l3hpc embed``: embed sound files, with the options of openl3 and edgel3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from l3hpc.cli.place import complete_run_or_path, workspace, workspace_options
from l3hpc.console.progress import Progress, default_progress, reporting
from l3hpc.errors import EXIT_FAILED, InputError
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from l3hpc.embedding.batch import EmbedResult, EmbedSettings
    from l3hpc.embedding.folders import EmbedPlan, EmbedTask
    from l3hpc.embedding.model_files import Recognised

EXAMPLES = """\b
Examples:
  l3hpc embed street.wav --model student.h5            writes street.npz next to it
  l3hpc embed street.wav --model latest                with the student trained last
  l3hpc embed recordings/ --model sea-64 -o out        a folder and its subfolders
  l3hpc embed 'day/**/*.flac' --model sea-64 --hop-size 0.5 --suffix sea
  l3hpc embed recordings/ --model openl3_audio_mel256_env.h5 --embedding-size 6144 -o out
  l3hpc embed recordings/ --model hear:our_lab.birds --window 3
  l3hpc embed recordings/ --model untrained --dry-run  only show what would be done

\b
edgel3 and openl3 options that select a model:
  --model-type sea --emb-dim 64                        same as --model sea-64
  --model-type sparse --model-sparsity 95.45           same as --model edgel3-ft-95.45
  --input-repr mel256 --content-type env               same as --model openl3-mel256-env-6144

\b
Exit code 1: some inputs do not exist, or some recordings could not be embedded (listed on
standard error); the others are done.
"""


def complete_model(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of models in the model folders, of runs, and of files."""
    from l3hpc.embedding.model_files import available_models

    found = [CompletionItem(name) for name in available_models() if name.startswith(incomplete)]
    return [*found, *complete_run_or_path(context, parameter, incomplete)]


def model_of_run(name: str, origin: str, config_file: str | None = None,
                 workspace_dir: str | None = None) -> str:
    """The network that a run has made, if this is the name of a run.

    Parameters
    ----------
    name
        A model as the user names it, a run or the unique beginning of its name, ``RUN/STEP``,
        ``RUN/STEP/TASK``, ``latest`` or ``latest/STEP``.
    origin
        The option or argument, for messages.
    config_file, workspace_dir
        ``--config`` and ``--workspace``.

    Returns
    -------
    str
        Any other name unchanged.

    Raises
    ------
    InputError
        The run has no finished network, or several; or several runs begin like this.
    """
    from l3hpc.embedding.model_files import find_model, is_hear_module, parse_name

    if os.path.exists(name) or is_hear_module(name):
        return name
    if os.sep not in name:
        # A model of that name in a folder of models comes first, and needs no configuration.
        try:
            find_model(name)
            return name
        except InputError:
            pass
    if parse_name(name).network is not None:  # a published model, whose file is missing
        return name
    from l3hpc.pipelines.external_inputs import named_network
    from l3hpc.workspace import records

    try:
        folder = workspace(config_file, workspace_dir)
    except InputError:
        is_latest = name.partition("/")[0] == records.LATEST
        if is_latest or config_file is not None or workspace_dir is not None:
            raise
        return name  # a wrong name is reported where the model is read
    found = named_network(folder, name, origin)
    return name if found is None else str(found)


@click.command("embed", epilog=EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-m", "--model", metavar="FILE|NAME", shell_complete=complete_model,
              help="Weight file, model file, name, hear:package.module (a HEAR module), or a run "
                   "that made a network: RUN (or the beginning of its name), RUN/STEP "
                   "(RUN/train-8 of a sweep), RUN/STEP/TASK or latest. "
                   "[default: paths.weights of cluster.yaml]")
@click.option("-o", "--output-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Output folder. [default: next to each recording]")
@click.option("-x", "--suffix", help="Name outputs NAME_SUFFIX.npz.")
@click.option("-t", "--hop-size", "--audio-hop-size", default=0.1, show_default=True,
              type=click.FloatRange(0, 3600, min_open=True),
              help="Seconds from one frame to the next.")
@click.option("--window", metavar="SECONDS", type=click.FloatRange(0, 60, min_open=True),
              help="Length of a frame, for a HEAR module [default: 1], or shorter than that of a "
                   "network with a sidecar, which is then padded with zeros.")
@click.option("-n", "--no-centering", "--no-audio-centering", is_flag=True,
              help="Do not pad with half a second of zeros; timestamps are then the starts of "
                   "windows, not their centres.")
@click.option("-ab", "--batch-size", "--audio-batch-size", type=click.IntRange(1, 1_000_000),
              help="Frames per batch. [default: chosen by available memory]")
@click.option("-ow", "--overwrite", is_flag=True,
              help="Embed recordings again that already have an output.")
@click.option("--format", "format_", type=click.Choice(["npz", "h5", "csv"]), default="npz",
              show_default=True, help="Output format.")
@click.option("--frontend", "-af", "--audio-frontend",
              help="Front-end convention: kapre-0.1 (default), kapre-0.1-batch, openl3-0.4-kapre, "
                   "openl3-0.4-librosa, embedding-approx.")
@click.option("--resampler", type=click.Choice(["soxr", "kaiser_best"]), default="soxr",
              show_default=True, help="Resampler; kaiser_best is that of openl3 and edgel3.")
@click.option("-i", "--input-repr", type=click.Choice(["linear", "mel128", "mel256"]),
              help="Front end of openl3 weights, if the file does not identify it.")
@click.option("-c", "--content-type", type=click.Choice(["music", "env"]),
              help="Selects openl3 weights by content type.")
@click.option("-as", "--embedding-size", "--audio-embedding-size", type=click.IntRange(1),
              help="Embedding size of openl3 weights: 512 or 6144.")
@click.option("-mtype", "--model-type", type=click.Choice(["sea", "sparse"]),
              help="Selects edgel3 weights by type.")
@click.option("-e", "--emb-dim", type=click.IntRange(1),
              help="Embedding size of edgel3's sea models.")
@click.option("-retrain", "--retrain-type", type=click.Choice(["ft", "kd"]),
              help="Training of edgel3's sparse models.")
@click.option("-sp", "--model-sparsity", metavar="PERCENT",
              help="Sparsity of edgel3's sparse models.")
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1, 4096),
              help="Number of processes, which share the cores.")
@click.option("--engine", type=click.Choice(["auto", "ncnn", "tensorflow", "torch"]),
              default="auto", show_default=True,
              help="Inference engine; auto: the fastest on this machine, measured once.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress and no summary.")
@workspace_options
def command(inputs: tuple[str, ...], output_dir: Path | None, suffix: str | None, format_: str,
            jobs: int, dry_run: bool, as_json: bool, quiet: bool, config_file: str | None,
            workspace_dir: str | None, **options: Any) -> int:
    """Embed sound files, given as files, folders (searched recursively) or globs.

    Each recording NAME.wav becomes NAME.npz with `embedding` (frames, values) float32 and
    `timestamps` (frames,) in seconds. Recordings that have an output are skipped; those that are
    missing or cannot be read are reported, and the others are still embedded. In folders and globs,
    files that are not recordings are ignored and counted by kind.
    """
    from l3hpc.audio.framing import hop_samples
    from l3hpc.datasets.corpus import printable
    from l3hpc.embedding import batch
    from l3hpc.embedding.folders import plan_embedding
    from l3hpc.embedding.model_files import find_model, recognise

    if quiet:
        click.get_current_context().with_resource(reporting(Progress()))
    settings = batch.EmbedSettings(options["hop_size"], not options["no_centering"],
                                   options["batch_size"], options["overwrite"],
                                   options["resampler"])
    plan = plan_embedding(inputs, output_dir, suffix, format_)
    if options["model"] is not None:
        options["model"] = model_of_run(options["model"], "--model", config_file, workspace_dir)
    model = _model_arguments(options, config_file)
    file, named = find_model(model["model"])
    stated = {**named.options, **{key: model[key] for key in ("input_repr", "embedding_size")
                                  if model[key] is not None}}
    info = recognise(file, frontend=model["frontend"], window=model["window"], **stated)
    # a hop that is not a whole number of samples is refused before the network is loaded
    hop_samples(info.rate, settings.hop_size)
    if not quiet:
        _announce(info, plan)
    if dry_run:
        _preview(plan, settings, info.as_json() if as_json else None)
        return _report_failed_inputs(plan)
    results = []
    for result in _with_progress(_embed(model, plan.tasks, settings, jobs), len(plan.tasks),
                                 Progress() if quiet else default_progress()):
        results.append(result)
        if result.message:
            label = "failed" if result.state == batch.FAILED else "warning"
            click.echo(printable(f"{label}: {result.task.recording}: {result.message}"), err=True)
    failed = sum(result.state == batch.FAILED for result in results)
    if as_json:
        click.echo(json.dumps({
            "ok": not failed and not plan.failed, "model": info.as_json(),
            "hop_size": settings.hop_size, "center": settings.center, **_counts(results),
            "recordings": [result.as_json() for result in results],
            "failed_inputs": plan.failed, "passed_over": plan.ignored_text}))
    elif not quiet:
        click.echo(_summary(results, info))
    return _report_failed_inputs(plan) or (EXIT_FAILED if failed else 0)


def _announce(info: Recognised, plan: EmbedPlan) -> None:
    """Print what is known of the model, and which files are ignored."""
    from l3hpc.datasets.corpus import printable

    click.echo(str(info), err=True)
    for note in info.notes:
        click.echo(f"note: {note}", err=True)
    if plan.ignored_text:
        click.echo(printable(f"ignored {plan.ignored_text}"), err=True)


def _report_failed_inputs(plan: EmbedPlan) -> int:
    """Print the inputs of which nothing was embedded; return the exit code that follows."""
    from l3hpc.datasets.corpus import printable

    for name, reason in plan.failed.items():
        click.echo(printable(f"failed: {name}: {reason}"), err=True)
    return EXIT_FAILED if plan.failed else 0


def _model_arguments(options: dict[str, Any], config_file: str | None) -> dict[str, Any]:
    """Return the arguments of ``load_model``."""
    from l3hpc.embedding.model_files import published_name

    edgel3 = {"model_type": options["model_type"], "emb_dim": options["emb_dim"],
              "retrain_type": options["retrain_type"], "sparsity": options["model_sparsity"]}
    openl3 = {key: options[key] for key in ("input_repr", "content_type", "embedding_size")}
    model = {"model": options["model"], "input_repr": options["input_repr"],
             "embedding_size": options["embedding_size"], "frontend": options["frontend"],
             "engine": options["engine"], "window": options["window"]}
    if model["model"] is None:
        model["model"] = published_name(**edgel3, **openl3) or _configured_model(
            config_file)
    # --input-repr and --embedding-size also describe a file, so they do not select a second model
    elif options["content_type"] or published_name(**edgel3):
        raise InputError("the model is given twice", where="--model",
                         allowed="either --model, or the options of edgel3 or openl3 that select "
                                 "one")
    return model


def _configured_model(config_file: str | None) -> str:
    """Return the weights of cluster.yaml."""
    from l3hpc.config import settings as config
    from l3hpc.embedding.embed import NO_MODEL
    from l3hpc.embedding.model_files import PATTERNS

    found = config.load(config_file).paths.weights
    if found is None:
        raise InputError("no model was given", where="--model", allowed=PATTERNS,
                         hint=f"{NO_MODEL.partition(':')[0]}: --model FILE, or paths.weights in "
                              "cluster.yaml")
    return found


def _embed(model: dict[str, Any], works: list[EmbedTask], settings: EmbedSettings, jobs: int,
           ) -> Iterator[EmbedResult]:
    """Embed recordings, in ``jobs`` processes; yield the results as they finish."""
    from l3hpc.embedding import batch
    from l3hpc.embedding.model import load_model

    # loading a network takes seconds, so it is not done if every recording has an output
    if all(work.output.is_file() for work in works) and not settings.overwrite:
        return iter([batch.EmbedResult(work, batch.SKIPPED) for work in works])
    if jobs > 1:
        return batch.embed_in_processes(model, works, settings, jobs)
    return batch.embed_all(load_model(**model), works, settings)


def _with_progress(results: Iterator[EmbedResult], total: int, progress: Progress
                   ) -> Iterator[EmbedResult]:
    """Yield the results and advance the progress bar."""
    progress.start("embedding", total, "recordings")
    frames = 0
    for result in results:
        frames += result.frames
        progress.advance(frames=frames)
        yield result
    progress.finish()


def _preview(plan: EmbedPlan, settings: EmbedSettings, model: dict[str, Any] | None) -> None:
    """Print what would be done; as JSON if ``model`` is given."""
    from l3hpc.datasets.corpus import printable

    rows = [(work, "skip" if work.output.is_file() and not settings.overwrite else "embed")
            for work in plan.tasks]
    if model is not None:
        click.echo(json.dumps({"model": model, "recordings": [
            {"recording": str(work.recording), "output": str(work.output), "action": action}
            for work, action in rows],
            "failed_inputs": plan.failed, "passed_over": plan.ignored_text}))
        return
    for work, action in rows:
        click.echo(printable(f"{action:<5}  {work.recording} -> {work.output}"))
    click.echo("nothing was written")


def _counts(results: list[EmbedResult]) -> dict[str, int]:
    """Return the number of recordings by state, and of all frames."""
    from l3hpc.embedding.batch import STATES

    counts = {state: sum(result.state == state for result in results) for state in STATES}
    return {**counts, "frames": sum(result.frames for result in results)}


def _summary(results: list[EmbedResult], info: Recognised) -> str:
    """Return the last line, and below it a warning of random weights."""
    counts = _counts(results)
    parts = [f"{counts['done']:,} embedded ({count_of(counts['frames'], 'frame')} of "
             f"{count_of(info.dim, 'value')})"]
    if counts["skipped"]:
        parts.append(f"{counts['skipped']:,} skipped (they have an output; --overwrite embeds them "
                     "again)")
    if counts["failed"]:
        parts.append(f"{counts['failed']:,} failed")
    text = f"{count_of(len(results), 'recording')}: {', '.join(parts)}"
    if info.random_weights:
        why = "the weights of this model are random" if info.file is None else \
            "this model comes from a random-weight teacher"
        text += f"\n{why}, so these embeddings mean nothing"
    return text
