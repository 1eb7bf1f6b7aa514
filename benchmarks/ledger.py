"""The ledger: recorder, fold, sync and page, against the way of the published code.

The published code appends a row with values.append and updates cells of the row that it finds by
its key, from the training process, fifty retries at once on any error. Both ways talk over loopback
to the same server, which speaks Sheets v4 and answers at once: Google takes 0.1 s and more for each
request, and takes 60 of each kind a minute.

    python -m benchmarks.ledger [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import alone, middle, worker
from benchmarks.tables import Claim, Table, run

MSE = "embedding_approx_mse"
NAMES = ("train_loss", "validation_loss", "train_mae", "validation_mae")
RUNS, EPOCHS, ROWS = 1000, 300, 1000
PER_MINUTE = 60  # writes that Google takes from one user
FIXED = {
    "approx_mode": "pca", "emb_key": "pca_batch_500000_len_64_kernel_linear", "model_repr": "l3",
    "student_emb_len": 128, "num_epochs": 300, "train_epoch_size": 4096,
    "validation_epoch_size": 1024, "train_batch_size": 64, "validation_batch_size": 64,
    "random_state": 20180216, "learning_rate": 1e-4, "gpus": 2, "checkpoint_interval": 1,
    "note": "random-weight teacher", "state": "running"}


def labels(number: int) -> dict[str, Any]:
    """What a submission knows of a run."""
    folder = "/scratch/ada/sea/workspace"
    reduced = f"{folder}/artifacts/reduce/{number:016x}"
    name = f"upstream-20261120-{number:04x}"
    return {"run": name, "username": "ada", "model_dir": f"{folder}/runs/{name}/artifacts/train",
            "train_data_dir": reduced, "validation_data_dir": reduced,
            "reduced_emb_train_dir": reduced, "reduced_emb_valid_dir": reduced,
            "log": f"{folder}/runs/{name}/steps/train/logs"}


def values(chance: random.Random, best: dict[str, float], epoch: int) -> dict[str, Any]:
    """What the training step records of one epoch: its whole row."""
    latest = {name: chance.random() + 1 / (epoch + 1) for name in NAMES}
    for name, value in latest.items():
        best[name] = min(best.get(name, value), value)
    return {**FIXED, **{f"latest_{name}": value for name, value in latest.items()},
            **{f"best_{name}": value for name, value in best.items()}}


def make(folder: Path, runs: int, epochs: int) -> None:
    """Journals as real runs write them, without waiting for the disk."""
    from l3hpc.ledger.journal.records import Journal

    chance = random.Random(1)
    for number in range(runs):
        journal = Journal(folder, run=f"upstream-20261120-{number:04x}", labels=labels(number),
                          job=str(8000 + number), restart=0, rank=0)
        lines: list[bytes] = []
        journal._write = lines.append  # type: ignore[method-assign,assignment]
        best: dict[str, float] = {}
        for epoch in range(epochs):
            journal.record(MSE, values(chance, best, epoch), epoch=epoch)
        journal.record(MSE, {**FIXED, "state": "finished"})
        journal.close()
        assert journal.path is not None
        journal.path.write_bytes(b"".join(lines))


# workers: each in a process of its own -----------------------------------------------------------


def record_worker(folder: str, epochs: str) -> dict[str, Any]:
    """Seconds per epoch of the recorder, each record flushed to the disk."""
    from l3hpc.ledger.journal.records import Journal

    journal = Journal(Path(folder), run="bench", labels=labels(0), fallback=Path(folder))
    chance, best, spent = random.Random(2), dict[str, float](), []
    for epoch in range(int(epochs)):
        given = values(chance, best, epoch)
        start = time.perf_counter()
        journal.record(MSE, given, epoch=epoch)
        spent.append(time.perf_counter() - start)
    assert journal.waiting == 0
    size = journal.path.stat().st_size if journal.path else 0
    return {"seconds": sum(spent), "p50": percentile(spent, 50), "p99": percentile(spent, 99),
            "bytes": size / int(epochs)}


def fold_worker(folder: str, history: str) -> dict[str, Any]:
    """CPU seconds of a fold of everything in a folder."""
    from l3hpc.ledger.journal.fold import fold_folders

    before = _cpu()
    found = fold_folders([Path(folder)], history=history == "history")
    cpu = _cpu() - before
    assert not found.torn and not found.unplaced
    return {"seconds": cpu, "rows": len(found.rows), "records": found.records}


WORKERS = {"record": record_worker, "fold": fold_worker}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def percentile(times: Sequence[float], share: int) -> float:
    """The time that ``share`` percent stay under."""
    return statistics.quantiles(times, n=100)[share - 1]


# tables ------------------------------------------------------------------------------------------


def recorder(quick: bool, work: Path) -> Table:
    """Milliseconds of an epoch that go into results."""
    epochs = 60 if quick else 2000
    ours = alone(worker("ledger", "record", work / "recorded", epochs)).values
    chance, best, spent = random.Random(2), dict[str, float](), []
    with published(work / "naive") as way:
        way.append(labels(0), values(chance, best, 0))
        for epoch in range(1, 20 if quick else 300):
            given = values(chance, best, epoch)
            start = time.perf_counter()
            way.update(labels(0), given)
            spent.append(time.perf_counter() - start)
    rows = [["l3hpc: a record, flushed to disk", f"{ours['p50'] * 1e3:.2f}",
             f"{ours['p99'] * 1e3:.2f}", "0", f"{ours['bytes']:,.0f}"],
            ["published method: find the row, update it (loopback)",
             f"{percentile(spent, 50) * 1e3:.2f}", f"{percentile(spent, 99) * 1e3:.2f}", "2", "0"]]
    return Table("Results of one epoch, in the training process",
                 ["method", "p50 ms", "p99 ms", "requests", "bytes on disk"], rows,
                 ["the disk is the one of this machine; a network file system's flush is slower"],
                 figures={"record p50 ms": ours["p50"] * 1e3, "record p99 ms": ours["p99"] * 1e3})


def folding(quick: bool, work: Path) -> Table:
    """CPU seconds and memory of the fold."""
    from l3hpc.ledger.journal.upkeep import compact

    runs, epochs = (20, 30) if quick else (RUNS, EPOCHS)
    folder = work / "journal"
    make(folder, runs, epochs)
    rows, measured = [], {}

    def measure(title: str, history: str) -> None:
        results = [alone(worker("ledger", "fold", folder, history)) for _ in range(
            1 if quick else 3)]
        assert results[0].values["records"] == runs * (epochs + 1)
        measured[title] = middle(results), middle(results, "peak_mb")
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        rows.append([title, f"{measured[title][0]:.2f}", f"{measured[title][1]:.0f}",
                     f"{megabytes:.0f}", str(len(list(folder.glob("*.jsonl"))))])

    measure("rows", "rows")
    measure("rows and every epoch", "history")
    compact(folder, quiet_s=-1.0)
    measure("rows, after ledger compact", "rows")
    measure("rows and every epoch, after ledger compact", "history")
    size = f"{runs:,} runs × {epochs} epochs"
    claims = [Claim(f"fold of {size}", "a limit", measured["rows"][0], 3.0, "s CPU", False),
              Claim(f"fold of {size}, every epoch kept", "a limit",
                    measured["rows and every epoch"][1], 300.0, "MB", False)]
    return Table(f"The fold of {size}", ["what", "CPU s", "peak MB", "MB on disk", "files"], rows,
                 [f"{runs * (epochs + 1):,} records as the training step writes them: the whole "
                  "row with every epoch, each line with its checksum"],
                 () if quick else claims,
                 {f"fold {title} cpu s": seconds for title, (seconds, _) in measured.items()})


def syncing(quick: bool, work: Path) -> Table:
    """Requests and seconds of passes."""
    count = 30 if quick else ROWS
    rows: list[list[str]] = []
    with world(work / "sync") as here:
        here.init()
        make(here.store.journal, count, 3)
        for title in (f"{count:,} new rows", "nothing new"):
            start = time.perf_counter()
            report = here.sync()
            spent = time.perf_counter() - start
            rows.append([f"ledger sync, {title}", str(report.requests), f"{spent:.2f}", "0"])
        idle = report.requests
    with published(work / "appended") as way:
        start, best = time.perf_counter(), dict[str, float]()
        for number in range(count):
            way.append(labels(number), values(random.Random(number), best, 0))
        spent = time.perf_counter() - start
    rows.append([f"published method, {count:,} new rows", str(count), f"{spent:.2f}",
                 f"{max(0, count - PER_MINUTE) / PER_MINUTE * 60:.0f}"])
    return Table("To the sheet", ["what", "requests", "s (loopback)", "s that the quota adds"],
                 rows, claims=() if quick else (
                     Claim("requests of a pass that finds nothing new", "a limit", idle, 2,
                           "requests", False),))


def page(quick: bool, work: Path) -> Table | None:
    """Milliseconds until the HTML page answers."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("no chromium here: the page is not measured", file=sys.stderr)
        return None
    from l3hpc.ledger.journal.fold import fold_folders
    from l3hpc.ledger.schema import TABS
    from l3hpc.ledger.views.exports import write_html

    runs, epochs = (50, 10) if quick else (ROWS, EPOCHS)
    make(work / "for-page", runs, epochs)
    path = work / "results.html"
    write_html(path, {TABS[MSE]: fold_folders([work / "for-page"], history=True).rows_of(MSE)})
    times = []
    for number in range(1 if quick else 5):
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu",
             f"--user-data-dir={work}/profile-{number}", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=300)
        found = re.search(r'data-ready="(\d+)"', done.stdout)
        assert found is not None, done.stderr
        times.append(float(found[1]) / 1e3)
    seconds = statistics.median(times)
    return Table(f"The page of {runs:,} runs × {epochs} epochs",
                 ["s to interactive", "worst", "MB"],
                 [[f"{seconds:.2f}", f"{max(times):.2f}", f"{path.stat().st_size / 1e6:.1f}"]],
                 ["headless Chromium, from navigation until table, curves and comparison appear"],
                 () if quick else (Claim("page of 1,000 runs to interactive", "a limit", seconds,
                                         2.0, "s", False),))


def exactly_once(quick: bool, _: Path) -> Table:
    """Rows lost, doubled and misplaced."""
    from benchmarks import ledger_once

    seeds = 1 if quick else 3
    rows = [[f"{share:.0%}", name, *map(str, total)]
            for share, name, total in ledger_once.results(seeds, (0.2,) if quick else (
                0.0, 0.05, 0.2))]
    return Table("Lost, duplicated and misplaced rows",
                 ["failing requests", "method", "lost", "doubled", "misplaced"], rows,
                 [f"{ledger_once.RUNS} runs of {ledger_once.EPOCHS} epochs, {seeds} seeds; a "
                  "person sorts now and then; failures: 503 (applied or not), lost answers, 429, "
                  "500"])


# surroundings ------------------------------------------------------------------------------------


@contextmanager
def world(folder: Path) -> Iterator[Any]:
    """The server, a workspace and a signed-in sheet."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sheets"))
    from sheets_server import Server
    from sheets_world import World

    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01},
                     daemon=True).start()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield World(server, folder)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def published(folder: Path) -> Iterator[Any]:
    """The published method: append a row, find a row by its key, update its last nine cells."""
    from benchmarks import ledger_once

    with world(folder) as here:
        here.init()
        yield ledger_once.Published(here)


def tables(quick: bool, work: Path) -> list[Table]:
    """All tables."""
    os.environ["HOME"] = tempfile.mkdtemp(dir=work)  # no second journal folder of anybody
    found = [recorder(quick, work), folding(quick, work), syncing(quick, work),
             page(quick, work), exactly_once(quick, work)]
    return [table for table in found if table is not None]


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](*sys.argv[3:])))
    else:
        run("ledger", __doc__, tables)
