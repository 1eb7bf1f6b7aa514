"""Finished artifacts in, findings out. What a run lacks stays empty; what is broken is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.io.files import RESULT, read_json, task_folders
from l3hpc.io.tables import records
from l3hpc.report.findings import (
    Correspondence,
    Curve,
    Epoch,
    Findings,
    Interval,
    LedgerRow,
    Network,
    Scores,
    StepFacts,
    Variance,
)
from l3hpc.steps import AnyStep, Finding
from l3hpc.steps import step as step_of
from l3hpc.workspace.layout import ArtifactFolder

HISTORY = {  # our field → the column names that Keras and the published jobs use
    "loss": ("loss",), "valid_loss": ("val_loss",),
    "mae": ("mean_absolute_error", "mae"), "valid_mae": ("val_mean_absolute_error", "val_mae"),
}
SPLITS = ("validate", "test")
LEVELS = ("coarse", "fine")


def collect(
    run: str, artifacts: Mapping[str, Path], steps: Sequence[StepFacts], *,
    workspace: Path | None = None, title: str = "Results", created: float | None = None,
    extra: Iterable[tuple[str, str]] = (),
) -> Findings:
    """Read what the artifacts of a run hold.

    Parameters
    ----------
    run
        The run's name.
    artifacts
        Name of a step → its artifact folder. Missing and unfinished ones are left out.
    steps
        The chain as the caller knows it; times and fingerprints are filled in from the results.
    workspace
        Where the ledger's journals are; without it the report has no rows of the results tables.
    title
        The heading of the page.
    created
        When the run was submitted, in seconds since the epoch.
    extra
        More (name, value) pairs of provenance.

    Returns
    -------
    Findings
        Parts that the run lacks are empty.

    Raises
    ------
    InputError
        A file of a finished artifact is damaged; the message names file and line.
    """
    places = by_kind(artifacts, steps)
    folders = {kind: found for kind, path in places.items()
               if path.is_dir() and (found := task_folders(path))}
    results = {kind: [read_json(folder / RESULT) for folder in found]
               for kind, found in folders.items()}
    first = {kind: found[0] for kind, found in folders.items()}
    summaries = {kind: [result.get("summary", {}) for result in found]
                 for kind, found in results.items()}
    teacher = _teacher(summaries.get(_which(Finding.TEACHER, first), []))
    # of two trainings the later one's: a teacher is trained before its student
    trained = _which(Finding.TRAINING, reversed(first))
    model = _model_file(first.get(trained), summaries.get(trained, []))
    told_apart = summaries.get(_which(Finding.CORRESPONDENCE, first), [{}])[0].get("test")
    fitted, evaluated = _which(Finding.VARIANCE, first), _which(Finding.SCORES, first)
    return Findings(
        run=run, title=title,
        created="" if created is None else f"{datetime.fromtimestamp(created):%d %B %Y, %H:%M}",
        teacher=str(teacher.get("label", "")),
        teacher_trained=not teacher.get("random_weights", teacher.get("kind") == "untrained"),
        epochs=epochs(first[trained] / "history.csv") if trained in first else (),
        variance=variance(first[fitted] / "phi.h5") if fitted in first else None,
        scores=scores(first[evaluated]) if evaluated in first else (),
        correspondence=_correspondence(told_apart),
        networks=_networks(places, summaries),
        model_file=model.name if model else "",
        model_bytes=model.stat().st_size if model else None,
        steps=tuple(_timed(step, results, places) for step in steps),
        ledger=ledger_rows(workspace, run, artifacts) if workspace is not None else (),
        provenance=tuple(extra) + _provenance(results, teacher),
    )


def by_kind(artifacts: Mapping[str, Path], steps: Sequence[StepFacts]) -> dict[str, Path]:
    """Artifact folders by kind of step (of two steps of one kind, the later one's)."""
    kinds = {step.name: step.kind or step.name for step in steps}
    return {kinds.get(name, name): Path(path) for name, path in artifacts.items()}


def known_step(kind: str) -> AnyStep | None:
    """The step of this kind; None where its package is no longer installed or cannot be loaded."""
    try:
        return step_of(kind)
    except InputError:
        return None


def epochs(path: Path) -> tuple[Epoch, ...]:
    """Read a training history.

    Parameters
    ----------
    path
        A CSV file as Keras writes it, with a column ``epoch`` that starts at 0 or at 1.

    Returns
    -------
    tuple of Epoch
        Epochs counted from 1; empty where there is no such file.

    Raises
    ------
    InputError
        An epoch or a value is not a number.
    """
    if not path.is_file():
        return ()
    found = []
    for line, row in records(path, "training history", ["epoch"]):
        values = {field: next((_number(row[name], path, line) for name in names if name in row),
                              None) for field, names in HISTORY.items()}
        number = _number(row["epoch"], path, line)
        if number is None or not number.is_integer() or not 0 <= number < 1e9:
            raise InputError(f"epoch is {row['epoch']!r}", where=f"{path}:{line}",
                             allowed="whole numbers from 0")
        found.append(Epoch(int(number), **values))
    shift = 1 if found and found[0].epoch == 0 else 0
    return tuple(replace(epoch, epoch=epoch.epoch + shift) for epoch in found)


def variance(path: Path) -> Variance | None:
    """What φ keeps; the shares of all components where the file has them."""
    if not path.is_file():
        return None
    from l3hpc.reduction.phi import load_phi

    phi = load_phi(path)
    ratios = phi.arrays.get("spectrum", phi.arrays.get("explained_variance_ratio", ()))
    return Variance(phi.approx, phi.in_dim, phi.out_dim, phi.n_samples or None,
                    tuple(float(ratio) for ratio in ratios))


def scores(folder: Path) -> tuple[Scores, ...]:
    """Read all scores of an evaluation, coarse before fine, validate before test.

    Parameters
    ----------
    folder
        Holds ``evaluation.json`` and ``curves.json``; either may be missing.

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
                more = _of_split(curves, split)
                found.append(_scores(split, level, values, more.get(level) or {},
                                     more.get("files") or _of_split(numbers, split).get("files")))
    return tuple(found)


def ledger_rows(workspace: Path, run: str, artifacts: Mapping[str, Path]) -> tuple[LedgerRow, ...]:
    """The rows of this run; in tabs where it has none, those of earlier runs whose results it used
    again."""
    from l3hpc.ledger.cells import cells
    from l3hpc.ledger.store import Store
    from l3hpc.ledger.views.select import shown

    real = {Path(path).resolve() for path in artifacts.values()}
    own: dict[tuple[str, tuple[str, ...]], LedgerRow] = {}
    reused: dict[tuple[str, tuple[str, ...]], LedgerRow] = {}
    for place, row in Store(workspace).fold().rows.items():
        mine = row.beside.get("run") == run or f"/runs/{run}/" in "/".join(row.key)
        if mine or any(Path(part).resolve() in real for part in row.key if part.startswith("/")):
            (own if mine else reused)[place] = LedgerRow(row.tab.name, tuple(
                (column.title, "" if value is None else shown(value))
                for column, value in zip(row.tab.columns, cells(row), strict=True)))
    tabs = {tab for tab, _ in own}
    found = own | {place: row for place, row in reused.items() if place[0] not in tabs}
    return tuple(found[place] for place in sorted(found))


def _of_split(content: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """The part of one split; a file without splits belongs to ``split`` or to ``validate``."""
    if any(name in content for name in SPLITS):
        part = content.get(split) or {}
        return part if isinstance(part, dict) else {}
    return content if content.get("split", "validate") == split else {}


def _scores(split: str, level: str, values: Mapping[str, Any], curves: Mapping[str, Any],
            files: object) -> Scores:
    sure = values.get("confidence") or curves.get("confidence") or {}
    positives = values.get("class_positives") or curves.get("class_positives") or {}
    lines = values.get("curves") or curves.get("curves") or curves
    areas = values.get("class_auprc") or {}
    recordings = int(files) if isinstance(files, int) else None
    return Scores(
        split, level, micro_auprc=_finite(values.get("micro_auprc")),
        micro_f1=_finite(values.get("micro_f1")), macro_auprc=_finite(values.get("macro_auprc")),
        curves=tuple(Curve(
            tag, _finite(area), *_line(lines.get(tag)), positives.get(tag), recordings,
            _interval((sure.get("class_auprc") or {}).get(tag)))
            for tag, area in areas.items()),
        recordings=recordings, confidence=_finite(sure.get("level")),
        intervals={name: interval for name in ("micro_auprc", "micro_f1", "macro_auprc")
                   if (interval := _interval(sure.get(name))) is not None},
        method=str(sure.get("method") or ""),
        resamples=sure["samples"] if isinstance(sure.get("samples"), int) else None)


def _line(curve: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not isinstance(curve, dict) or not {"recall", "precision"} <= set(curve):
        return (), ()
    return tuple(map(float, curve["recall"])), tuple(map(float, curve["precision"]))


def _interval(values: object) -> Interval | None:
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        return None
    return float(values[0]), float(values[1])


def _teacher(summaries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    teacher = summaries[0].get("teacher") if summaries else None
    return teacher if isinstance(teacher, dict) else {}


def _which(finding: Finding, kinds: Iterable[str]) -> str:
    """The first kind whose step has this finding; empty where none has."""
    return next((kind for kind in kinds
                 if (step := known_step(kind)) is not None and finding in step.findings), "")


def _networks(places: Mapping[str, Path],
              summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Network, ...]:
    """The networks of all steps, finished or not."""
    found = []
    for kind, artifact in places.items():
        step, config = known_step(kind), ArtifactFolder(artifact).config
        if step is not None:
            params = read_json(config)["params"] if config.is_file() else {}
            found += [_network(name, spec)
                      for name, spec in step.networks(params, summaries.get(kind, []))]
    return tuple(network for network in found if network is not None)


def _correspondence(test: object) -> Correspondence | None:
    """The test of an audio-visual network, where there is one."""
    if not isinstance(test, dict):
        return None
    low, high = test["interval"]
    return Correspondence(test["pairs"], test["right"], (float(low), float(high)),
                          _finite(test["matching_right"]), _finite(test["non_matching_right"]))


def _network(name: str, spec: object) -> Network | None:
    if not isinstance(spec, dict):
        return None
    from l3hpc.models.spec import NetworkSpec, activation_bytes, parameter_count

    network = NetworkSpec.from_dict(spec)
    bands = f"{network.n_mels} mels" if network.n_mels else "linear spectrum"
    return Network(name, f"{network.rate:,} Hz, {bands}", network.dim, parameter_count(network),
                   activation_bytes(network) // 4)


def _model_file(folder: Path | None, summaries: Sequence[Mapping[str, Any]]) -> Path | None:
    """The student's file: the one that the result names, else the best or only HDF5 file."""
    if folder is None:
        return None
    named = summaries[0].get("model") if summaries else None
    candidates = sorted(folder.glob("*.h5"), key=lambda path: ("best" not in path.name, path.name))
    if isinstance(named, str) and (folder / named).is_file():
        return folder / named
    return candidates[0] if candidates else None


def _timed(step: StepFacts, results: Mapping[str, Sequence[Mapping[str, Any]]],
           places: Mapping[str, Path]) -> StepFacts:
    kind = step.kind or step.name
    times = [result.get("elapsed_s") for result in results.get(kind, [])]
    known = [float(time) for time in times if isinstance(time, (int, float))]
    fingerprint = places[kind].name if kind in places else ""
    return replace(step, seconds=sum(known) if known else step.seconds,
                   fingerprint=step.fingerprint or fingerprint)


def _provenance(results: Mapping[str, Sequence[Mapping[str, Any]]],
                teacher: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs = []
    if teacher:
        pairs.append(("teacher", str(teacher.get("label", ""))))
        pairs.append(("teacher's digest", str(teacher.get("digest", ""))))
    seeds = {kind: done[0].get("seed") for kind, done in results.items()}
    known = ", ".join(f"{kind} {seed}" for kind, seed in seeds.items() if seed is not None)
    if known:
        pairs.append(("seeds", known))
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
        pairs.append(("largest memory of a task", f"{max(memory):,} MB"))
    return tuple(pairs)


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _number(text: str | None, path: Path, line: int) -> float | None:
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} is not a number", where=f"{path}:{line}") from None
