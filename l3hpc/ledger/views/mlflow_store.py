"""Rows of the ledger as runs of MLflow: in a folder, an SQLite file or on a server.

An export can be repeated: a run that has not changed is left alone, one that has gets only what is
new. MLflow cannot change a parameter, so that is reported. Needs ``mlflow-skinny``, and SQLAlchemy
and Alembic for SQLite (extra ``mlflow``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import groupby, zip_longest
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from l3hpc.errors import InputError, L3hpcError, OfflineError, shell_word
from l3hpc.installation import install_command
from l3hpc.io.files import digest
from l3hpc.ledger.views.trackers import Exported, Point, TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Item = TypeVar("Item")

IDENTITY, DIGEST = "l3hpc.id", "l3hpc.digest"
MOST_METRICS, MOST_OTHERS = 800, 100  # of one request, which holds 1000 of all kinds
SAY_EVERY_S = 5.0
LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql")
# read by MLflow when it is imported or starts a request; what the user has set stays
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # newer versions refuse folders without it
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_ODD = re.compile(r"[^\w.\- /:]")  # MLflow refuses other characters in names


def tracking_uri(text: str) -> str:
    """Return the tracking URI of MLflow that a text stands for.

    Parameters
    ----------
    text
        A folder, ``sqlite:///FILE``, another database, or the address of a server.

    Raises
    ------
    InputError
        The text is none of them. Its message contains no password.

    Examples
    --------
    >>> tracking_uri("http://localhost:5000"), tracking_uri("sqlite:////tmp/runs.db")
    ('http://localhost:5000', 'sqlite:////tmp/runs.db')
    """
    allowed = "a folder, sqlite:///FILE or http://HOST:PORT"
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InputError("is not an address", where="--mlflow", allowed=allowed) from None
    scheme = parts.scheme if "://" in text or text.startswith("file:") else ""
    if not text.strip():
        raise InputError("is empty", where="--mlflow", allowed=allowed)
    if scheme in SERVERS or scheme.partition("+")[0] in DATABASES:
        return text
    if scheme not in ("", "file"):
        raise InputError(f"{scheme}:// is not supported", where="--mlflow", allowed=allowed)
    folder = Path(unquote(parts.path) if scheme else text).absolute()
    if folder.is_file() or folder.suffix in (".db", ".sqlite"):
        raise InputError(f"{folder} is not the name of a folder", where="--mlflow",
                         allowed=f"sqlite:///{folder} for an SQLite file")
    return folder.as_uri()


def view_command(uri: str) -> str:
    """Return the command that shows what is in a store of MLflow.

    Parameters
    ----------
    uri
        As returned by ``tracking_uri``; not a server.
    """
    command = f"mlflow ui --backend-store-uri {shell_word(without_password(uri))}"
    return f"MLFLOW_ALLOW_FILE_STORE=true {command}" if uri.startswith("file:") else command


def without_password(uri: str) -> str:
    """Return a URI as it may be printed.

    Examples
    --------
    >>> without_password("http://ada:secret@host:5000/x")
    'http://…@host:5000/x'
    """
    return re.sub(r"(?<=://)[^/@]*@", "…@", uri)


def export(uri: str, runs: Sequence[TrackedRun],
           say: Callable[[str], None] = lambda text: None) -> Exported:
    """Write runs into a store of MLflow, those of each tab into an experiment of its name.

    Parameters
    ----------
    uri
        As returned by ``tracking_uri``.
    runs
        The runs; those of one experiment follow each other.
    say
        Called every few seconds with how many runs were looked at.

    Returns
    -------
    Exported
        How many runs are new, updated and unchanged, and the parameters that MLflow could not
        change.

    Raises
    ------
    InputError
        MLflow is not installed, or not what it needs for a database.
    OfflineError
        The server does not respond.
    L3hpcError
        MLflow refuses something; the message is its own.
    """
    mlflow = require(uri)
    from mlflow.exceptions import MlflowException, RestException

    where = f"--mlflow {without_password(uri)}"
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    done = Exported()
    said = time.monotonic()
    try:
        # MLflow prints the address of each run, which would end up in the output of --json
        with contextlib.redirect_stdout(io.StringIO()):
            client = mlflow.tracking.MlflowClient(tracking_uri=uri)
            for experiment, members in groupby(runs, key=lambda run: run.experiment):
                number = _experiment(client, experiment, uri)
                known = {run.data.tags.get(IDENTITY): run for run in _runs(client, number)}
                for run in members:
                    _write(client, number, run, known.get(run.identity), done)
                    if time.monotonic() - said > SAY_EVERY_S:
                        said = time.monotonic()
                        say(f"MLflow: {done.new + done.updated + done.unchanged} of {len(runs)} "
                            "runs")
    except MlflowException as error:
        message = without_password(str(error)).split("\n")[0]
        if urlsplit(uri).scheme in SERVERS and not isinstance(error, RestException):
            cause = message.rpartition("Caused by ")[2]
            raise OfflineError(f"the MLflow server does not respond: {cause}",
                               where=where) from None
        raise L3hpcError(f"MLflow refused the export: {message}", where=where) from None
    return done


def require(uri: str) -> ModuleType:
    """Import MLflow, quietly and without telemetry, and look for what a database needs.

    Parameters
    ----------
    uri
        As returned by ``tracking_uri``.

    Raises
    ------
    InputError
        One of them is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
        import mlflow.tracking
    except ImportError as error:
        raise InputError("MLflow is not installed", where="--mlflow",
                         hint=install_command("mlflow")) from error
    # mlflow-skinny comes without them, and then only says that it does not know sqlite
    absent = [name for name in ("sqlalchemy", "alembic") if find_spec(name) is None]
    if absent and urlsplit(uri).scheme.partition("+")[0] in DATABASES:
        raise InputError(f"for a database MLflow needs {' and '.join(absent)}", where="--mlflow",
                         allowed="a folder or http://HOST:PORT without them",
                         hint=install_command("mlflow"))
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    module: ModuleType = mlflow
    return module


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Return the number of an experiment, which is created if there is none."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise L3hpcError(
                f"the experiment {name!r} was deleted", where=f"--mlflow {without_password(uri)}",
                hint=f"mlflow experiments restore --experiment-id {found.experiment_id}")
        return str(found.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):
        # the default would be a folder where the command happens to run
        beside = Path(uri.removeprefix("sqlite:///")).absolute().parent
        location = (beside / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location, tags={
        "mlflow.experimentKind": "custom_model_development"}))  # what the pages of MLflow show


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """Return all runs of an experiment that are not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _write(client: MlflowClient, experiment: str, run: TrackedRun, known: Run | None,
           done: Exported) -> None:
    """Write one run: all of it, or what the known one lacks."""
    from mlflow.entities import Metric, Param, RunTag

    content = digest(asdict(run))
    if known is not None and known.data.tags.get(DIGEST) == content:
        done.unchanged += 1
        return
    if known is None:
        number = client.create_run(
            experiment, start_time=round(run.started * 1000), run_name=run.name,
            tags={IDENTITY: run.identity, "mlflow.note.content": _description(run),
                  "mlflow.source.name": "l3hpc",
                  "mlflow.user": str(run.parameters.get("username", ""))}).info.run_id
        done.new += 1
    else:
        number = known.info.run_id
        done.updated += 1
    metrics = [Metric(_name(name), point.value, round(point.time * 1000), point.step)
               for name, points in run.metrics.items()
               for point in _missing(client, known, _name(name), points)]
    parameters = []
    before = known.data.params if known is not None else {}
    for name, value in run.parameters.items():
        name, text = _name(name), str(value)[:LONGEST_PARAMETER]
        if name not in before:
            parameters.append(Param(name, text))
        elif before[name] != text:
            done.notes.append(
                f"{run.name}: {name} is {text}, but MLflow has {before[name]} and changes no "
                "parameters: delete the run there and export it again")
    tags = [RunTag(f"l3hpc.{_name(name)}", value[:LONGEST_TAG])
            for name, value in (run.tags | run.links | {"state": run.state}).items()]
    for some_metrics, some_parameters, some_tags in zip_longest(
            _chunks(metrics, MOST_METRICS), _chunks(parameters, MOST_OTHERS),
            _chunks(tags, MOST_OTHERS), fillvalue=()):
        client.log_batch(number, some_metrics, some_parameters, some_tags)
    if run.state == "running":
        client.update_run(number, status="RUNNING")
    else:
        status = {"failed": "FAILED", "stale": "KILLED"}.get(run.state, "FINISHED")
        client.set_terminated(number, status, end_time=round(run.ended * 1000))
    # last, so that an export that was interrupted is completed by the next one
    client.set_tag(number, DIGEST, content)


def _missing(client: MlflowClient, known: Run | None, name: str, points: Sequence[Point],
             ) -> list[Point]:
    """Return the points of a metric that a run of MLflow lacks."""
    if known is None or name not in known.data.metrics:
        return list(points)
    latest: dict[int, Any] = {}
    for metric in client.get_metric_history(known.info.run_id, name):
        if metric.step not in latest or metric.timestamp >= latest[metric.step].timestamp:
            latest[metric.step] = metric
    return [point for point in points
            if point.step not in latest or latest[point.step].value != point.value]


def _description(run: TrackedRun) -> str:
    """Return the description of a run in Markdown: its note, and links to its files."""
    lines = [run.tags["note"], ""] if run.tags.get("note") else []
    for kind, target in run.links.items():
        link = Path(target).as_uri() if target.startswith("/") else target
        lines.append(f"* {kind}: [{target}]({link})")
    return "\n".join(lines)


def _name(name: str) -> str:
    """Return a name with characters that MLflow accepts."""
    return _ODD.sub("_", name)


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start:start + size]
