"""Runs surfaces in forked workers with a time limit, and keeps the smallest failing inputs.

A case is made from three numbers alone (surface, seed, number of the case), so that any of them
can be repeated. A worker that hangs, crashes or takes too much memory costs one case: its
successor goes on behind it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

HANG_S = 10.0
PREPARE_S = 120.0
MOST_MEMORY = 1.5e9  # bytes resident, of a surface without TensorFlow
KINDS_KEPT = 40  # of failures, per surface


class Fault(AssertionError):
    """What the code did with an input was wrong."""


class Verdict(NamedTuple):
    """What became of an input: taken, or refused with this exit code."""

    accepted: bool
    code: int = 0


@dataclass
class Case:
    """One input. folder: empty, and the working folder. rng: decides what the input is based on.

    changes: the seeds of the damage done to it; a smaller case has fewer of them.
    """

    folder: Path
    rng: random.Random
    changes: Sequence[int]

    def damages(self) -> Iterable[random.Random]:
        """A source of random numbers for each change."""
        return [random.Random(change) for change in self.changes]


class Surface:
    """A place where input from outside comes in. Subclasses say how to make and judge a case."""

    name = ""
    share = 1  # of the inputs of a whole run
    tensorflow = False
    most_changes = 3

    def prepare(self, folder: Path) -> None:
        """Make what all cases are based on, in a folder of its own. In the worker, once."""

    def judge(self, case: Case) -> Verdict:
        """Make the input in ``case.folder``, hand it to the code, and raise ``Fault`` if wrong."""
        raise NotImplementedError


@dataclass
class Failure:
    """One kind of failure: the smallest of its cases."""

    number: int
    text: str
    size: int
    changes: tuple[int, ...]
    count: int = 1
    kept: Path | None = None


@dataclass
class Tally:
    """What became of all inputs of a surface."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)


def changes_of(surface: Surface, seed: int, number: int) -> tuple[int, ...]:
    """The seeds of the damage of a case."""
    rng = random.Random(f"{surface.name} {seed} {number} changes")
    count = min(rng.choice((0, 1, 1, 1, 2, 2, 3, 3)), surface.most_changes)
    return tuple(rng.getrandbits(48) for _ in range(count))


def fuzz(surface: Surface, numbers: Sequence[int], seed: int, scratch: Path, *,
         limit_s: float = HANG_S, keep: Path | None = None,
         changes: tuple[int, ...] | None = None) -> Tally:
    """Try the cases ``numbers`` of a surface. keep: where failing inputs go. changes: in place of
    those that the number stands for."""
    tally = Tally()
    jobs = [(number, changes_of(surface, seed, number) if changes is None else changes)
            for number in numbers]
    suspects: list[tuple[int, tuple[int, ...]]] = []
    while jobs:
        jobs = _by_one_worker(surface, jobs, seed, scratch, limit_s, tally, keep, suspects)
    for suspect in suspects:  # alone once more: a busy machine is no hang
        rest = _by_one_worker(surface, [suspect], seed, scratch, limit_s, tally, keep, None)
        assert not rest
    for failure in tally.failures.values():
        _shrink(surface, failure, seed, scratch, limit_s, keep)
    return tally


def _by_one_worker(surface: Surface, jobs: list[tuple[int, tuple[int, ...]]], seed: int,
                   scratch: Path, limit_s: float, tally: Tally, keep: Path | None,
                   suspects: list[tuple[int, tuple[int, ...]]] | None
                   ) -> list[tuple[int, tuple[int, ...]]]:
    """Try cases in one process until it ends; what it left."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    sys.stdout.flush()
    worker = context.Process(target=_work, args=(surface, jobs, seed, scratch, there), daemon=False)
    worker.start()
    there.close()
    place, limit = 0, PREPARE_S
    while place < len(jobs):
        number, changes = jobs[place]
        failed: str | None = None
        try:
            if not here.poll(limit):
                failed = f"hang: no answer within {limit:g} s"
                if suspects is not None and limit == limit_s:
                    suspects.append(jobs[place])
                    failed = ""
            else:
                message = here.recv()
        except (EOFError, ConnectionResetError):
            worker.join()
            code = worker.exitcode or 0
            words = signal.Signals(-code).name if code < 0 else f"exit {code}"
            failed = f"the process died: {words}"
        if failed is not None:
            if failed:
                tally.inputs += 1
                _note(tally, number, changes, failed, scratch / surface.name / str(number), keep,
                      surface, seed)
            _end(worker)
            return jobs[place + 1:]
        if message == "ready":
            limit = limit_s
            continue
        if isinstance(message, str):
            _note(tally, number, changes, message, scratch, None, surface, seed)
            _end(worker)
            return []
        place += 1
        tally.inputs += 1
        verdict, text, took = message
        if took > tally.slowest_s:
            tally.slowest_s, tally.slowest = took, number
        folder = scratch / surface.name / str(number)
        if verdict is None:
            _note(tally, number, changes, text, folder, keep, surface, seed)
        elif verdict[0]:
            tally.accepted += 1
        else:
            tally.refused[verdict[1]] += 1
        shutil.rmtree(folder, ignore_errors=True)
    worker.join(5)
    _end(worker)
    return []


def _work(surface: Surface, jobs: list[tuple[int, tuple[int, ...]]], seed: int, scratch: Path,
          there: Any) -> None:
    """The life of a worker."""
    os.setsid()
    from .oracle import calm, uncaught

    for number in (1, 2):  # what libraries print by themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    calm(scratch / "home")
    base = scratch / f"{surface.name}-base"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    os.chdir(base)
    try:
        surface.prepare(base)
    except Exception as error:
        there.send(f"not prepared: {uncaught(error, surface.name)}")
        os._exit(1)
    there.send("ready")
    for number, changes in jobs:
        folder = scratch / surface.name / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        case = Case(folder, random.Random(f"{surface.name} {seed} {number}"), changes)
        begin, verdict, text = time.monotonic(), None, ""
        try:
            verdict = tuple(surface.judge(case))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if memory > MOST_MEMORY and not surface.tensorflow:
                verdict, text = None, f"memory: more than {MOST_MEMORY / 1e9:g} GB were taken"
        except Fault as fault:
            text = str(fault)
        except Exception as error:  # of the harness, or of a function that was called directly
            text = uncaught(error, surface.name)
        os.chdir(base)
        there.send((verdict, text, time.monotonic() - begin))
        if text.startswith("memory:"):
            break  # a new process: the peak cannot be reset
    there.close()
    os._exit(0)


def _end(worker: Any) -> None:
    """End a worker, and whatever it started."""
    if worker.pid is not None:
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            if worker.is_alive():
                worker.kill()
    worker.join()


def _note(tally: Tally, number: int, changes: tuple[int, ...], text: str, folder: Path,
          keep: Path | None, surface: Surface, seed: int) -> None:
    kind, size = signature(text), _size(folder)
    known = tally.failures.get(kind)
    if known is None and len(tally.failures) >= KINDS_KEPT:
        kind, known = "others", tally.failures.get("others")
    count = known.count + 1 if known else 1
    if known is not None and (len(known.changes), known.size) <= (len(changes), size):
        known.count = count
        return
    failure = Failure(number, text, size, changes, count)
    tally.failures[kind] = failure
    if keep is not None:
        _keep(failure, folder, keep, surface, seed, kind)


def _keep(failure: Failure, folder: Path, keep: Path, surface: Surface, seed: int, kind: str
          ) -> None:
    """Save a failing input with what happened and the command that repeats it."""
    failure.kept = keep / f"{surface.name}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
    shutil.rmtree(failure.kept, ignore_errors=True)
    failure.kept.mkdir(parents=True)
    if folder.is_dir():
        shutil.copytree(folder, failure.kept / "input", symlinks=True, ignore=_no_fifos,
                        ignore_dangling_symlinks=True)
    (failure.kept / "what-happened.txt").write_text(
        f"{repeat(surface, seed, failure)}\n\n{failure.text}\n", errors="backslashreplace")


def _no_fifos(folder: str, names: list[str]) -> list[str]:
    odd = []
    for name in names:
        path = Path(folder, name)
        if not (path.is_symlink() or path.is_file() or path.is_dir()):
            odd.append(name)
    return odd


def _shrink(surface: Surface, failure: Failure, seed: int, scratch: Path, limit_s: float,
            keep: Path | None) -> None:
    """Leave out changes as long as it fails in the same way."""
    kind = signature(failure.text)
    if kind.startswith("not prepared"):
        return
    for gone in range(len(failure.changes) - 1, -1, -1):
        if len(failure.changes) < 2:
            return
        fewer = (*failure.changes[:gone], *failure.changes[gone + 1:])
        again = Tally()
        _by_one_worker(surface, [(failure.number, fewer)], seed, scratch, limit_s, again, keep,
                       None)
        if kind in again.failures:
            found = again.failures[kind]
            failure.changes, failure.text, failure.kept = fewer, found.text, found.kept


def signature(text: str) -> str:
    """What failures of one kind share: the text without names and numbers."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()] or [""]
    if text.startswith("uncaught:"):
        return ":".join(lines[0].split(":")[:3])
    first = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+", "…", lines[0])
    return re.sub(r"-?\d[\d.e+-]*", "0", first)[:160]


def repeat(surface: Surface, seed: int, failure: Failure) -> str:
    """The command that tries one case again."""
    chosen = ",".join(map(str, failure.changes)) or "none"
    changes = "" if failure.changes == changes_of(surface, seed, failure.number) else \
        f" --changes {chosen}"
    return (f"python -m tests.fuzz --surface {surface.name} --seed {seed} "
            f"--only {failure.number}{changes}")


def table(tallies: dict[str, Tally]) -> str:
    """Surface, inputs, accepted, refused by exit code, failures, slowest."""
    rows = [("surface", "inputs", "accepted", "refused (exit code: times)", "failures", "slowest")]
    for name, tally in tallies.items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(tally.refused.items()))
        failed = sum(failure.count for failure in tally.failures.values())
        rows.append((name, str(tally.inputs), str(tally.accepted), codes or "–", str(failed),
                     f"{tally.slowest_s:.1f} s (case {tally.slowest})"))
    total = [sum(getattr(tally, what) for tally in tallies.values())
             for what in ("inputs", "accepted")]
    failed = sum(failure.count for tally in tallies.values()
                 for failure in tally.failures.values())
    rows.append(("all", str(total[0]), str(total[1]), str(total[0] - total[1] - failed),
                 str(failed), ""))
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)
                               ).rstrip() for row in rows)


def _size(folder: Path) -> int:
    """Bytes of all files of an input."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
