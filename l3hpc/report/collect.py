"""Reads the finished artifacts of a run into ``ReportData``.

``collect`` comes first; below it are the parts in the order of the page: training, variance,
scores, correspondence, networks, steps and provenance (ledger rows: ``ledger_rows``). What a run
does not have stays empty. A damaged file, or a step of another package that cannot be loaded or
fails here, costs its own part only: ``ReportData.notes`` says what is missing and why.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import RESULT, open_regular, read_json, task_folders
from l3hpc.io.tables import read_records
from l3hpc.report import networks
from l3hpc.report.data import ReportData, StepFacts
from l3hpc.report.detection import read_detection
from l3hpc.report.ledger_rows import ledger_rows
from l3hpc.report.results import Correspondence, Curve, Epoch, Interval, Network, Scores, Variance
from l3hpc.steps import AnyStep, ReportItem, foreign
from l3hpc.steps import step as step_of
from l3hpc.workspace.layout import ArtifactFolder

HISTORY = {  # our field → the column names that Keras and the published jobs use
    "loss": ("loss",), "valid_loss": ("val_loss",),
    "mae": ("mean_absolute_error", "mae"), "valid_mae": ("val_mean_absolute_error", "val_mae"),
}
HEADER_BYTES = 4096
SPLITS = ("validate", "test")
METRICS = ("micro_auprc", "micro_f1", "macro_auprc")
LEVELS = ("coarse", "fine")

T = TypeVar("T")
Summaries = Mapping[str, Sequence[Mapping[str, Any]]]  # kind of step → the summary of each task


def collect(
    run: str, artifacts: Mapping[str, Path], steps: Sequence[StepFacts], *,
    workspace: Path | None = None, every_row: bool = True, title: str = "Results",
    created: float | None = None, extra: Iterable[tuple[str, str]] = (),
) -> ReportData:
    """Read what the artifacts of a run hold.

    Parameters
    ----------
    run
        Name of the run.
    artifacts
        Name of a step → its artifact folder. Missing and unfinished ones are left out.
    steps
        The chain with its states; times and fingerprints are filled in from the results.
    workspace
        Folder of the workspace whose journals are read; without it, the report has no rows of the
        results tables.
    every_row
        Whether rows of the run belong to the report that are not of these artifacts.
    title
        Heading of the page.
    created
        When the run was submitted, in seconds since the Unix epoch.
    extra
        More (name, value) pairs of provenance, listed first.

    Returns
    -------
    ReportData
        Parts that the run does not have are empty, and so are those whose file is damaged: for
        these, ``notes`` names file and line.
    """
    lost: list[str] = []
    folders = by_kind(artifacts, steps)
    tasks = {kind: found for kind, path in folders.items()
             if path.is_dir() and (found := task_folders(path))}
    read = {kind: [_result(folder / RESULT, kind, lost) for folder in found]
            for kind, found in tasks.items()}
    results = {kind: known for kind, found in read.items()
               if (known := [result for result in found if result is not None])}
    first = {kind: found[0] for kind, found in tasks.items()}
    summaries: Summaries = {kind: [_mapping(result.get("summary")) for result in found]
                            for kind, found in results.items()}
    loaded, notes = _load_steps(folders)
    sizes, network_notes = _networks(loaded, folders, summaries)
    teacher = networks.network_of(folders.values())
    # a teacher is trained before its student, so of two trainings the last one is the student's
    trained = _kind_with(ReportItem.TRAINING, reversed(first), loaded)
    model = _model_file(first.get(trained), summaries.get(trained, []))
    # a run without a training of its own shows the curves of its last step that has any
    curves = first[trained] / "history.csv" if trained in first else next(
        filter(None, (history_of(first[kind]) for kind in reversed(first) if kind in loaded)), None)
    correspondence = summaries.get(_kind_with(ReportItem.CORRESPONDENCE, first, loaded), [{}])[0]
    fitted = _kind_with(ReportItem.VARIANCE, first, loaded)
    evaluated = _kind_with(ReportItem.SCORES, first, loaded)
    rows, fold_tables = ((), ()) if workspace is None else ledger_rows(
        workspace, run, artifacts, every_row)
    return ReportData(
        run=run, title=title,
        created="" if created is None else f"{datetime.fromtimestamp(created):%d %B %Y, %H:%M}",
        teacher=str(teacher.get("label", "")), is_student="target" in teacher,
        teacher_trained=not networks.has_random_weights(folders.values()),
        epochs=or_note(lambda: read_epochs(curves), (), "The training history", lost)
        if curves is not None else (),
        epochs_of="" if curves is None or trained in first else next(
            f"{kind}, {curves.name}" for kind, folder in first.items() if folder == curves.parent),
        variance=or_note(lambda: read_variance(first[fitted] / "phi.h5"), None,
                         "The explained variance", lost) if fitted in first else None,
        scores=or_note(lambda: read_scores(first[evaluated]), (), "The evaluation", lost)
        if evaluated in first else (),
        correspondence=or_note(lambda: _correspondence(correspondence.get("test")), None,
                               "The correspondence test", lost),
        networks=sizes,
        model_file=model.name if model else "",
        model_bytes=model.stat().st_size if model else None,
        steps=tuple(_with_time(step, results, folders) for step in steps),
        ledger=rows, folds=fold_tables,
        provenance=tuple(extra) + _provenance(results, teacher),
        notes=(*notes, *network_notes, *lost),
    )


def _result(path: Path, kind: str, notes: list[str]) -> dict[str, Any] | None:
    """Return the result of a task; None, with a note, if its file is damaged."""
    value = or_note(lambda: read_json(path), None, f"A result of step {kind!r}", notes)
    return value if isinstance(value, dict) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def or_note(read: Callable[[], T], missing: T, what: str, notes: list[str]) -> T:
    """Read a part of the page; where its file is damaged, note that and leave the part empty.

    Parameters
    ----------
    read
        Reads the part.
    missing
        What is returned if it fails.
    what
        How the note calls it.
    notes
        Receives the note.
    """
    try:
        return read()
    # a file may also be sound and hold something else than expected
    except (InputError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        problem = error if isinstance(error, InputError) else InputError(
            f"is not of the expected form ({type(error).__name__}: {error})", where=what)
        report_damage(problem)
        notes.append(f"{what} is not shown. {problem.where}: {problem.message}"
                     if problem is error else f"{what} is not shown: {problem.message}.")
        return missing


# --- steps and their artifacts --------------------------------------------------------------------

def by_kind(artifacts: Mapping[str, Path], steps: Sequence[StepFacts]) -> dict[str, Path]:
    """Return the artifact folders by kind of step; of two steps of one kind, the later one's."""
    kinds = {step.name: step.kind or step.name for step in steps}
    return {kinds.get(name, name): Path(path) for name, path in artifacts.items()}


def loaded_step(kind: str) -> AnyStep | None:
    """Return the step of this kind; None if its package is not installed or cannot be loaded."""
    try:
        return step_of(kind)
    except InputError:
        return None


def step_error(kind: str, problem: str) -> InputError:
    """Return an error about a step that names the package which provides it."""
    return InputError(problem, where=f"{foreign().get(kind, 'l3hpc')}, step {kind!r}")


def _load_steps(kinds: Iterable[str]) -> tuple[dict[str, AnyStep], list[str]]:
    """Load the steps of these kinds; with a note for each that cannot be loaded."""
    loaded: dict[str, AnyStep] = {}
    notes = []
    for kind in kinds:
        try:
            loaded[kind] = step_of(kind)
        except InputError as error:
            report_damage(error)
            where = f" ({error.where})" if error.where else ""
            notes.append(f"The results of step {kind!r} are not shown: {error.message}{where}.")
    return loaded, notes


def _kind_with(item: ReportItem, kinds: Iterable[str], loaded: Mapping[str, AnyStep]) -> str:
    """Return the first kind whose step has this item; an empty text if none has."""
    return next((kind for kind in kinds if kind in loaded and item in loaded[kind].report_items),
                "")


# --- training -------------------------------------------------------------------------------------

def history_of(folder: Path) -> Path | None:
    """Return the file with the losses per epoch in a task folder; the first one of several.

    Parameters
    ----------
    folder
        Holds ``history.csv``, or one file for each of several trainings, ``history_coarse.csv``.
        A file of that name without epochs belongs to somebody's own step.
    """
    for path in sorted(folder.glob("history*.csv")):
        with contextlib.suppress(OSError), open_regular(path) as stream:
            if b"epoch" in stream.readline(HEADER_BYTES):
                return path
    return None


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Read a training history.

    Parameters
    ----------
    path
        A CSV file as Keras writes it, with a column ``epoch`` that starts at 0 or at 1.

    Returns
    -------
    tuple of Epoch
        Epochs counted from 1; empty if there is no such file.

    Raises
    ------
    InputError
        An epoch or a value is not a number.
    """
    if not path.is_file():
        return ()
    found = []
    for line, row in read_records(path, "training history", ["epoch"]):
        values = {field: next((_number(row[name], path, line) for name in names if name in row),
                              None) for field, names in HISTORY.items()}
        number = _number(row["epoch"], path, line)
        if number is None or not number.is_integer() or not 0 <= number < 1e9:
            raise InputError(f"epoch is {row['epoch']!r}", where=f"{path}:{line}",
                             allowed="whole numbers from 0")
        found.append(Epoch(int(number), **values))
    # Keras counts from 0, some of the published jobs from 1
    shift = 1 if found and found[0].epoch == 0 else 0
    return tuple(replace(epoch, epoch=epoch.epoch + shift) for epoch in found)


def _number(text: str | None, path: Path, line: int) -> float | None:
    """Return the number in a field of a CSV file; None for an empty field."""
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} is not a number", where=f"{path}:{line}") from None


def _model_file(folder: Path | None, summaries: Sequence[Mapping[str, Any]]) -> Path | None:
    """Return the student's file: the one that the result names, else the best or only HDF5 file."""
    if folder is None:
        return None
    named = summaries[0].get("model") if summaries else None
    candidates = sorted(folder.glob("*.h5"), key=lambda path: ("best" not in path.name, path.name))
    if isinstance(named, str) and (folder / named).is_file():
        return folder / named
    return candidates[0] if candidates else None


# --- variance -------------------------------------------------------------------------------------

def read_variance(path: Path) -> Variance | None:
    """Read how much variance φ keeps.

    Parameters
    ----------
    path
        The file of φ, ``phi.h5``.

    Returns
    -------
    Variance or None
        With the share of every component where the file has them; None if there is no such file.
    """
    if not path.is_file():
        return None
    from l3hpc.reduction.phi import load_phi

    phi = load_phi(path)
    # the spectrum also covers the components that φ drops
    ratios = phi.arrays.get("spectrum", phi.arrays.get("explained_variance_ratio", ()))
    return Variance(phi.approx, phi.in_dim, phi.out_dim, phi.n_samples or None,
                    tuple(float(ratio) for ratio in ratios),
                    str(phi.params["kernel"]) if phi.kind == "kernel pca" else "")


# --- scores ---------------------------------------------------------------------------------------

def read_scores(folder: Path) -> tuple[Scores, ...]:
    """Read all scores of an evaluation.

    Parameters
    ----------
    folder
        Holds ``evaluation.json`` and ``curves.json``; either may be missing.

    Returns
    -------
    tuple of Scores
        Coarse before fine, validate before test.

    Raises
    ------
    InputError
        They are not the files of an evaluation.
    """
    numbers, curves = (read_json(folder / name) if (folder / name).is_file() else {}
                       for name in ("evaluation.json", "curves.json"))
    if not isinstance(numbers, dict) or not isinstance(curves, dict):
        raise InputError("not the files of an evaluation", where=str(folder))
    found = []
    for level in LEVELS:
        for split in SPLITS:
            values = _of_split(numbers, split).get(level)
            if values:
                split_curves = _of_split(curves, split)
                files = split_curves.get("files") or _of_split(numbers, split).get("files")
                scores = _scores(split, level, values, split_curves.get(level) or {}, files)
                found.append(replace(
                    scores, curves=_with_first(scores.curves, numbers.get("seeds"), split, level),
                    seeds=len(numbers.get("seeds") or "1"),
                    detection=read_detection(values, str(folder / "evaluation.json"))))
    return tuple(found)


def _with_first(curves: tuple[Curve, ...], seeds: object, split: str, level: str
                ) -> tuple[Curve, ...]:
    """Return the curves of a mean over seeds with the area of the first seed, which is drawn."""
    if not isinstance(seeds, dict) or not seeds:
        return curves
    scores = _of_split(next(iter(seeds.values())), split).get(level) or {}
    areas = scores.get("class_auprc") or {}
    return tuple(replace(curve, drawn_auprc=_finite(areas.get(curve.tag))) for curve in curves)


def _of_split(content: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Return the part of one split; a file without splits belongs to the split it names.

    Published evaluation files have no splits and name none: they are of ``validate``.
    """
    if any(name in content for name in SPLITS):
        part = content.get(split) or {}
        return part if isinstance(part, dict) else {}
    return content if content.get("split", "validate") == split else {}


def _scores(split: str, level: str, values: Mapping[str, Any], curves: Mapping[str, Any],
            files: object) -> Scores:
    """Return the scores of one level; tables may stand in either of the two files."""
    confidence = values.get("confidence") or curves.get("confidence") or {}
    positives = values.get("class_positives") or curves.get("class_positives") or {}
    points = values.get("curves") or curves.get("curves") or curves
    areas = values.get("class_auprc") or {}
    recordings = int(files) if isinstance(files, int) else None
    resamples = confidence.get("samples")
    return Scores(
        split, level, micro_auprc=_finite(values.get("micro_auprc")),
        micro_f1=_finite(values.get("micro_f1")), macro_auprc=_finite(values.get("macro_auprc")),
        curves=tuple(Curve(
            tag, _finite(area), *_curve_points(points.get(tag)), positives.get(tag), recordings,
            _interval((confidence.get("class_auprc") or {}).get(tag)))
            for tag, area in areas.items()),
        recordings=recordings, confidence=_finite(confidence.get("level")),
        intervals={name: interval for name in METRICS
                   if (interval := _interval(confidence.get(name))) is not None},
        method=str(confidence.get("method") or ""),
        resamples=resamples if isinstance(resamples, int) else None,
        spread={name: value for name in METRICS
                if (value := _finite((values.get("spread") or {}).get(name))) is not None})


def _curve_points(curve: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return recall and precision of a curve; both empty if there is none."""
    if not isinstance(curve, dict) or not {"recall", "precision"} <= set(curve):
        return (), ()
    return tuple(map(float, curve["recall"])), tuple(map(float, curve["precision"]))


def _interval(values: object) -> Interval | None:
    """Return the two ends of an interval; None if there is none."""
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        return None
    return float(values[0]), float(values[1])


def _finite(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _correspondence(test: object) -> Correspondence | None:
    """Return the test of an audio-visual network; None if there is none."""
    if not isinstance(test, dict):
        return None
    low, high = test["interval"]
    return Correspondence(test["pairs"], test["right"], (float(low), float(high)),
                          _finite(test["matching_right"]), _finite(test["non_matching_right"]))


# --- networks -------------------------------------------------------------------------------------

def _networks(loaded: Mapping[str, AnyStep], folders: Mapping[str, Path], summaries: Summaries,
              ) -> tuple[tuple[Network, ...], list[str]]:
    """Return the networks of all steps, finished or not; with a note for each step that fails."""
    found: list[Network] = []
    notes = []
    for kind, step in loaded.items():
        config = ArtifactFolder(folders[kind]).config
        try:
            params = read_json(config)["params"] if config.is_file() else {}
            networks = [_network(name, spec)
                        for name, spec in step.networks(params, summaries.get(kind, []))]
        # the code of another package may raise anything, also SystemExit
        except (Exception, SystemExit) as error:
            problem = error if isinstance(error, InputError) and error.where else step_error(
                kind, f"networks() failed: {type(error).__name__}: {error}")
            report_damage(problem)
            notes.append(f"The networks of a step are not shown. {problem}")
            continue
        found += [network for network in networks if network is not None]
    return tuple(found), notes


def _network(name: str, spec: object) -> Network | None:
    """Return the size of a network; None if the step does not describe it yet."""
    if not isinstance(spec, dict):
        return None
    from l3hpc.models.spec import NetworkSpec, activation_bytes, parameter_count

    network = NetworkSpec.from_dict(spec)
    bands = f"{network.n_mels} mels" if network.n_mels else "linear spectrum"
    return Network(str(name), f"{network.rate:,} Hz, {bands}", network.dim,
                   parameter_count(network), activation_bytes(network) // 4)


# --- steps, ledger rows, provenance ---------------------------------------------------------------

def _with_time(step: StepFacts, results: Mapping[str, Sequence[Mapping[str, Any]]],
               folders: Mapping[str, Path]) -> StepFacts:
    """Return a step with the time and the fingerprint that its results have."""
    kind = step.kind or step.name
    times = [result.get("elapsed_s") for result in results.get(kind, [])]
    known = [float(time) for time in times if isinstance(time, (int, float))]
    fingerprint = folders[kind].name if kind in folders else ""
    return replace(step, seconds=sum(known) if known else step.seconds,
                   fingerprint=step.fingerprint or fingerprint)


def _provenance(results: Mapping[str, Sequence[Mapping[str, Any]]],
                teacher: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return teacher, seeds, versions and memory as pairs of name and value."""
    pairs = []
    if teacher:
        who = "student" if "target" in teacher else "teacher"
        pairs.append((who, str(teacher.get("label", ""))))
        pairs.append((f"{who}'s digest", str(teacher.get("digest", ""))))
    seeds = {kind: done[0].get("seed") for kind, done in results.items()}
    known = ", ".join(f"{kind} {seed}" for kind, seed in seeds.items() if seed is not None)
    if known:
        pairs.append(("seeds", known))
    # versions are those of the task that finished last: reused artifacts may have others
    finished = [(done[-1].get("finished", 0), done[-1]) for done in results.values()]
    environment = max(finished, key=lambda item: item[0])[1].get("environment", {}) \
        if finished else {}
    for name in ("l3hpc", "python", "host"):
        if environment.get(name):
            pairs.append((name, str(environment[name])))
    packages = environment.get("packages") or {}
    pairs += [(name, str(version)) for name, version in sorted(packages.items())]
    memory = [result["peak_memory_mb"] for done in results.values() for result in done
              if isinstance(result.get("peak_memory_mb"), (int, float))]
    if memory:
        pairs.append(("peak memory of a task", f"{max(memory):,} MB"))
    return tuple(pairs)
