"""A run of any pipeline as ``ReportData``, also one that failed or has not ended.

``of_run`` joins what the artifacts hold (``collect``) with what the record, the markers, the logs
and the scheduler say about the jobs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from l3hpc.errors import InputError, L3hpcError, command_line, report_damage
from l3hpc.io.files import read_json, write_text
from l3hpc.io.values import count_of, log_text
from l3hpc.report import comparison, timeline
from l3hpc.report.collect import collect, loaded_step
from l3hpc.report.comparison import Chain, ComparedRun
from l3hpc.report.data import Changed, Link, Problem, ReportData, StepFacts, StepFiles
from l3hpc.report.page import page, runs_page
from l3hpc.report.results import Comparison
from l3hpc.runs import logs, status
from l3hpc.runs.status import RunStatus
from l3hpc.steps import AnyStep
from l3hpc.web.html import check_page
from l3hpc.workspace import artifacts, origin, records, run_names, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord

LOG_LINES, LOG_BYTES = 60, 16_384  # of the log of each step
MOST_LINKS = 8  # to other runs of the pipeline
MOST_STEPS_WITH_FILES = 60  # a sweep may have thousands
_SECRET = re.compile(
    r"^(\s*export \w*(?:KEY|TOKEN|SECRET|PASSW|CREDENTIAL)\w*=).*$", re.MULTILINE | re.IGNORECASE)
GENERATOR = "l3hpc report"  # as in the templates of both pages


def of_run(workspace: Path, run: str, target: Path, *, title: str = "",
           extra: Iterable[tuple[str, str]] = ()) -> ReportData:
    """Read everything that the report of a run shows.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    target
        Where the page will be: links to other reports are relative to it.
    title
        Heading of the page; by default the pipeline and the state.
    extra
        More (name, value) pairs of provenance.

    Returns
    -------
    ReportData
        Parts that the run does not have are empty.

    Raises
    ------
    InputError
        There is no such run, or its record cannot be read.
    """
    [now] = status.collect(workspace, [run])
    record = records.read(workspace, run)
    rows = comparison.rows_by_artifact(workspace)
    sweep = comparison.of_sweep(record, now.combinations, rows)
    chain = comparison.chains(record, now.combinations)[_shown(sweep, now)]
    data = collect(
        run, {name: Path(step.artifact) for name, step in chain.items()},
        [StepFacts(name, kind=step.kind) for name, step in chain.items()],
        workspace=workspace, every_row=sweep is None,
        title=title or f"{record.pipeline}: {now.state_in_words}", created=record.created,
        extra=[*_provenance(workspace, record), *extra])
    files, note = _files(workspace, record)
    shown = {step.name: step.detail for step in now.steps}
    details = [detail for step in chain.values() if (detail := shown.get(step.name))]
    has_own_tile = data.scores or data.correspondence or data.epochs
    main = None if has_own_tile else comparison.headline(chain, rows)
    return replace(
        data, state=str(now.state), next_command=now.next or "",
        then_command=now.then or "", problems=_problems(now),
        headline=None if main is None else (*main, details[-1] if details else ""),
        sweep=sweep, steps=_facts(now, record, data.steps),
        timeline=timeline.collect(
            workspace, record, {step.name: step.state.is_active for step in now.steps}),
        files=files, changed=tuple(_changed(workspace, record, chain)),
        links=tuple(_links(workspace, record, target)),
        remarks=(*now.notes, *now.damaged), notes=tuple(dict.fromkeys(
            (*note, *data.notes, *(sweep.notes if sweep else ())))))


def _shown(sweep: Comparison | None, now: RunStatus) -> int:
    """Index of the combination whose results are shown: the best one, else the first that is done.
    """
    if sweep is not None and sweep.best is not None:
        return sweep.best
    return next((index for index, each in enumerate(now.combinations) if each.state.is_done), 0)


def write(workspace: Path, run: str, target: Path | None = None) -> tuple[Path, ReportData]:
    """Write the report of a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    target
        The page. None: ``report.html`` in the folder of the run.

    Returns
    -------
    Path, ReportData
        The page, and what it shows.

    Raises
    ------
    InputError
        As for ``of_run``; or ``target`` is a file that is not a report.
    """
    folder = Workspace(workspace).run(run)
    path = target or folder.report
    check_target(path)
    data = of_run(workspace, run, path)
    with contextlib.nullcontext() if target else sharing.same_readers(folder.path):
        _save(path, page(data))
    return path, data


def _save(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:  # such as the run of somebody else in a shared workspace
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise InputError("the file system is read-only" if error.errno == errno.EROFS else
                         "you may not write there", where=str(path),
                         hint="Name a file of your own: -o FILE") from None


def compare(workspace: Path, runs: Sequence[str], target: Path) -> Comparison:
    """Write a page that compares runs; of a sweep, its best combination takes part.

    Parameters
    ----------
    workspace
        The workspace folder.
    runs
        Names of the runs.
    target
        The page.

    Returns
    -------
    Comparison
        What the page shows.

    Raises
    ------
    InputError
        As for ``write``.
    """
    check_target(target)
    found, rows = [], comparison.rows_by_artifact(workspace)
    for now in status.collect(workspace, runs):
        record = records.read(workspace, now.run)
        swept = comparison.of_sweep(record, now.combinations, rows)
        chain = comparison.chains(record, now.combinations)[_shown(swept, now)]
        detail = {step.name: step.detail for step in now.steps}
        last = list(chain.values())[-1].name if chain else ""
        found.append(ComparedRun(record, chain, now.state_in_words, detail.get(last, ""),
                                 address(workspace, now.run, target)))
    compared = comparison.of_runs(found, rows)
    _save(target, runs_page(compared))
    return compared


def check_target(path: Path) -> None:
    """Refuse to replace a file that is not a report.

    Raises
    ------
    InputError
        ``path`` is a folder, or a file that this module did not write.
    """
    check_page(path, GENERATOR, "a report", "-o")


def _facts(now: RunStatus, record: RunRecord, collected: Sequence[StepFacts]
           ) -> tuple[StepFacts, ...]:
    """The chain with its states; of a sweep, each step of the pipeline with all its variants."""
    fingerprints = {step.name: (step.fingerprint, step.seconds) for step in collected}
    needs = {step.name: tuple(step.needs) for step in record.steps}
    if not now.combinations:
        return tuple(StepFacts(
            step.name, needs[step.name], str(step.state), step.tasks, step.done,
            fingerprints[step.name][1], step.detail, fingerprints[step.name][0], step.kind)
            for step in now.steps)
    base_of = {name: base for each in now.combinations for base, name in each.steps.items()}
    facts = []
    for base in dict.fromkeys(base_of.values()):
        variants = [step for step in now.steps if base_of.get(step.name) == base]
        # what somebody has to repair counts more than what is still going on
        state = next((step.state for step in variants if step.state.is_stuck), next(
            (step.state for step in variants if not step.state.is_done), variants[0].state))
        times = [result["elapsed_s"] for step in variants
                 for result in artifacts.results(Path(step.artifact)) if "elapsed_s" in result]
        facts.append(StepFacts(
            base, tuple(dict.fromkeys(base_of[need] for step in variants
                                      for need in needs[step.name])), str(state),
            sum(step.tasks for step in variants), sum(step.done for step in variants),
            sum(times) if times else None, f"{len(variants)} variants" if len(variants) > 1
            else variants[0].detail, "", variants[0].kind))
    return tuple(facts)


def _provenance(workspace: Path, record: RunRecord) -> Iterator[tuple[str, str]]:
    yield from (("run", record.run), ("pipeline", record.pipeline), ("cluster", record.cluster),
                ("workspace", str(workspace)), ("user", record.user),
                ("submitted from", f"{record.host}:{record.folder}"),
                ("command", _command(record.command)),
                ("options", typed(record.options) or "none"))


def _command(words: Sequence[str]) -> str:
    """The command as it was typed: without the path of l3hpc's own script."""
    program = Path(words[0]).parts if words else ()
    if program[-1:] == ("l3hpc",) or program[-2:] == ("l3hpc", "__main__.py"):
        words = ["l3hpc", *words[1:]]
    return shlex.join(words)


def typed(options: Mapping[str, Any]) -> str:
    """Return the options of a plan as they are typed on the command line.

    Examples
    --------
    >>> typed({"emb-dim": 8, "filters": [4, 8], "set": ["fit.seed=1"]})
    '--emb-dim 8 --filters 4,8 --set fit.seed=1'
    >>> typed({"grid": {"emb-dim": ["8", "16"]}})
    '--grid emb-dim=8,16'
    >>> typed({"teacher": True})
    '--teacher'
    """
    words = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
            continue
        if value is False:
            continue
        if name == "combinations":  # follows from the grid
            continue
        if name == "grid" and isinstance(value, dict):
            words += [f"--grid {one}={','.join(map(str, several))}"
                      for one, several in value.items()]
            continue
        values = value if name == "set" and isinstance(value, list) else [value]
        words += [f"--{name} " + (",".join(map(str, item)) if isinstance(item, list)
                                  else str(item)) for item in values]
    return " ".join(words)


def _problems(now: RunStatus) -> tuple[Problem, ...]:
    """The steps that failed, before those that wait for them in vain."""
    stuck = [step for step in now.steps if step.state.is_stuck]
    stuck.sort(key=lambda step: step.blocked_by is not None)
    return tuple(Problem(
        step.name, str(step.state),
        step.detail or (f"by {step.blocked_by}" if step.blocked_by else ""),
        tuple(step.last_words)) for step in stuck)


# --- what ran -------------------------------------------------------------------------------------

def _files(workspace: Path, record: RunRecord) -> tuple[tuple[StepFiles, ...], list[str]]:
    """Command, script and log of each step; with a note if there are too many."""
    found = tuple(_files_of(workspace, record, step)
                  for step in record.steps[:MOST_STEPS_WITH_FILES])
    left = len(record.steps) - len(found)
    return found, [f"Scripts and logs of the last {count_of(left, 'step')} are not on this page: "
                   f"{command_line('logs', record.run, 'STEP')} prints them."] if left else []


def _files_of(workspace: Path, record: RunRecord, step: StepRecord) -> StepFiles:
    folder = Workspace(workspace).run(record.run).step(step.name)
    command = shlex.join(["l3hpc", "run", step.kind, "--config", str(folder.config)])
    scripts = folder.scripts
    text = without_secrets(_text(scripts[0])) if scripts else ""
    try:
        log = logs.find_log(workspace, record, step)
    except InputError:  # the step ran nothing in this run
        return StepFiles(step.name, command, text)
    there = logs.log_size(log) is not None
    lines = log_text(logs.tail(log, LOG_BYTES)).splitlines() if there else []
    return StepFiles(step.name, command, text,
                     "\n".join(lines[-LOG_LINES:]), str(log))


def without_secrets(script: str) -> str:
    """Return a script without the values of variables that look like secrets: pages are shared.

    Examples
    --------
    >>> without_secrets("export WANDB_API_KEY=123\\nexport PATH=/bin")
    'export WANDB_API_KEY=(hidden)\\nexport PATH=/bin'
    """
    return _SECRET.sub(r"\1(hidden)", script)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(path)))
        return ""


# --- parameters and other runs --------------------------------------------------------------------

def _changed(workspace: Path, record: RunRecord, chain: Chain) -> Iterator[Changed]:
    """The parameters of a chain that differ from the defaults of their step."""
    for base, step in chain.items():
        config = _config(Workspace(workspace).run(record.run).step(step.name).config)
        known = loaded_step(step.kind)
        params = config.get("params")
        if known is None or not isinstance(params, dict):
            continue
        for name, value in known.shown_params(_all(known, params)).items():
            field = known.params_type.model_fields.get(name)
            if field is None and not known.has_own_params:
                continue
            if field is None or field.is_required():
                yield Changed(base, name, _json(value))
                continue
            default = _as_json(field.get_default(call_default_factory=True))
            if value != default:
                yield Changed(base, name, _json(value), _json(default))


def _all(known: AnyStep, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters with those that a plan leaves out because a recipe sets them."""
    try:
        return {**known.parse(params).all_values(), **params}
    except ValueError:  # frozen by another version
        return params


def _config(path: Path) -> Mapping[str, Any]:
    """The content of a frozen config; empty if it is damaged, which is noted."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except L3hpcError as error:
        report_damage(InputError(error.message, where=error.where or str(path)))
        return {}
    return content if isinstance(content, dict) else {}


def _as_json(value: object) -> object:
    """A default as a config holds it: tuples as lists, paths and enums as text."""
    return json.loads(json.dumps(value, default=str))


def _json(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _links(workspace: Path, record: RunRecord, target: Path) -> Iterator[Link]:
    """The runs that computed what this one reused or reads, and others of the same pipeline."""
    why: dict[str, list[str]] = {}
    own = {step.artifact for step in record.steps}
    for step in record.steps:
        config = _config(Workspace(workspace).run(record.run).step(step.name).config)
        inputs = config.get("inputs")
        sources = {step.name: step.artifact} | {
            f"{name} for {step.name}": folder
            for name, folder in (inputs if isinstance(inputs, dict) else {}).items()
            if isinstance(folder, str) and folder not in own}
        for words, folder in sources.items():
            for run in origin.runs_of(workspace, folder):
                if run != record.run:
                    why.setdefault(run, []).append(words)
    for run, several in why.items():
        yield Link(run, "computed " + ", ".join(several), address(workspace, run, target))
    for other in _of_same_pipeline(workspace, record):
        if other.run not in why:
            date = f"{datetime.fromtimestamp(other.created):%d %B %Y}"
            yield Link(other.run, f"the same pipeline, {date}",
                       address(workspace, other.run, target))


def _of_same_pipeline(workspace: Path, record: RunRecord) -> list[RunRecord]:
    """The newest other runs of the pipeline that have a report."""
    found = []
    for name in run_names.names(workspace):
        if name == record.run or not Workspace(workspace).run(name).report.is_file():
            continue
        try:
            other = records.read(workspace, name)
        except InputError as error:
            report_damage(error)
            continue
        if other.pipeline == record.pipeline:
            found.append(other)
    return sorted(found, key=lambda other: -other.created)[:MOST_LINKS]


def address(workspace: Path, run: str, target: Path) -> str:
    """Return the address of the report of a run, relative to a page; '' if it has none.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    target
        The page with the link.
    """
    report = Workspace(workspace).run(run).report
    if "/" in run or not report.is_file():
        return ""
    return quote(os.path.relpath(report.resolve(), target.parent.resolve()))
