"""Results of a benchmark: tables and claims, printed as Markdown and written as JSON.

Every benchmark is a module with a function ``tables(quick, work)``; ``run`` makes the command line
of it. ``benchmarks/results/`` holds the JSON of the last full run on the processor ``REFERENCE``,
and a folder for every other processor; docs and README quote them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import about, machine, processor_name, this_processor

RESULTS = Path(__file__).parent / "results"
REFERENCE = "amd-epyc-avx512"


@dataclass(frozen=True)
class Claim:
    """One sentence for the summary: how many times better than a peer (or a limit), and the target.

    peer: what it is compared with; '' for the target alone. measured, target: ratios, or values in
    ``unit``. at_least: whether more is better. limit: what the machine allows, in words.
    """

    part: str
    peer: str
    measured: float
    target: float
    unit: str = "×"
    at_least: bool = True
    limit: str = ""

    @property
    def against(self) -> str:
        """What it is compared with, in words."""
        return self.peer or "a target"

    @property
    def better(self) -> str:
        """In which direction the measured value is better."""
        return "higher" if self.at_least else "lower"

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


@dataclass(frozen=True)
class Compared:
    """A claim and the same of other processors.

    Attributes
    ----------
    claim : Claim
        Of the first processor that has it.
    others : dict of str to Claim
        Processor → claim.
    of : str
        The processor of ``claim``; '' for the reference.
    measured_on : tuple of str
        Machine and date of each, that of ``claim`` first; empty for a run that is not in a file.
    """

    claim: Claim
    others: Mapping[str, Claim]
    of: str = ""
    measured_on: tuple[str, ...] = ()

    @property
    def all(self) -> list[Claim]:
        """The claims of all processors, by what was measured."""
        return sorted([self.claim, *self.others.values()], key=lambda each: each.measured)

    def text(self, value: Callable[[Claim], float] = lambda claim: claim.measured) -> str:
        """Return the range of a value over the processors: ``2.37 to 3.11``."""
        numbers = sorted(map(value, self.all))
        ends = dict.fromkeys(map(figure, (numbers[0], numbers[-1])))
        return " to ".join(ends)


@dataclass(frozen=True)
class Table:
    """One table; cells are text. notes: lines below it (sizes, settings, where the peer wins).

    figures: numbers of it by name, for pages that calculate with them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    claims: Sequence[Claim] = field(default_factory=tuple)
    figures: Mapping[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table with its title and notes."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |",
                 "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in self.rows]
        if self.notes:
            lines += ["", *(f"* {note}" for note in self.notes)]
        return "\n".join(lines)


def figure(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, as a person writes it: 130, 0.333, 5.41e-6."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if int(exponent) < -4:
        return f"{_shortest(mantissa)}e{int(exponent)}"
    rounded = float(f"{value:.{digits}g}")
    return _shortest(f"{rounded:,.{max(digits - 1 - int(exponent), 0)}f}")


def _shortest(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def claims_markdown(claims: Sequence[Claim], *, judged: bool = True) -> str:
    """Return the claims as one table.

    judged: with the targets, and whether each was reached. Not for small sizes (``--quick``): the
    targets are for the full ones.
    """
    if not judged:
        lines = ["Small sizes: the targets are for the full ones, so nothing is judged here.", "",
                 "| part | against | measured | better |", "|---|---|---|---|"]
        return "\n".join(lines + [
            f"| {claim.part} | {claim.against} | {_measured(claim)} | {claim.better} |"
            for claim in claims])
    return compared_markdown([Compared(claim, {}) for claim in claims])


def compared_markdown(rows: Sequence[Compared]) -> str:
    """Return claims with their targets as one table, with the range over the processors.

    Parameters
    ----------
    rows
        The claims; those of results files also say where and when they were measured.
    """
    columns = ["part", "against", "measured", "better", "target", "limit"]
    if any(row.measured_on for row in rows):
        columns.append("measured on")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        claim = row.claim
        sign = "≥" if claim.at_least else "≤"
        missing = [name for name, other in row.others.items() if not other.met]
        if not claim.met and row.others:
            missing.insert(0, row.measured_on[0].rpartition(", ")[0])
        missed = " (missed)" if not any(each.met for each in row.all) else \
            f" (missed on {', '.join(missing)})" if missing else ""
        measured = f"**{f'{row.text()} {claim.unit}'.rstrip()}**{missed}"
        target = f"{sign} {figure(claim.target)} {claim.unit}".rstrip()
        cells = [claim.part, claim.against, measured, claim.better, target, claim.limit,
                 "; ".join(row.measured_on)]
        lines.append(f"| {' | '.join(cells[:len(columns)])} |")
    return "\n".join(lines)


def compared(names: Sequence[str]) -> list[Compared]:
    """Return all claims of some benchmarks, each with that of every other processor.

    Claims that only another processor has follow those of their benchmark.

    Parameters
    ----------
    names
        Names of benchmarks; those without results are passed over.
    """
    found: list[Compared] = []
    for name in names:
        reference = RESULTS / f"{name}.json"
        others: dict[str, dict[tuple[str, str], Claim]] = {}
        places: dict[str, str] = {}
        for file in sorted(RESULTS.glob(f"*/{name}.json")):
            here = processor_name(load(file)[0]["machine"])
            others[here] = {(claim.part, claim.peer): claim for claim in _claims(file)}
            places[here] = _measured_on(file)
        for claim in _claims(reference):
            key = claim.part, claim.peer
            also = {here: claims.pop(key) for here, claims in others.items() if key in claims}
            found.append(Compared(claim, also, measured_on=(
                _measured_on(reference), *(places[here] for here in also))))
        found += [Compared(claim, {}, here, (places[here],)) for here, claims in others.items()
                  for claim in claims.values()]
    return found


def _measured_on(file: Path) -> str:
    """``AMD EPYC with AVX2, 2026-11-29``, or the GPU of the machine."""
    found = load(file)[0]
    date = found["date"]
    return (f"{found['machine'].get('gpu') or processor_name(found['machine'])}, "
            + ("no date" if date == "unknown" else date))


def _claims(file: Path) -> list[Claim]:
    return [claim for table in load(file)[1] for claim in table.claims] if file.is_file() else []


def results_file(name: str) -> Path:
    """Return where a full run of a benchmark on this machine belongs.

    Parameters
    ----------
    name
        Name of the benchmark.
    """
    here = this_processor()
    return (RESULTS if here == REFERENCE else RESULTS / here) / f"{name}.json"


def _measured(claim: Claim) -> str:
    return f"**{f'{figure(claim.measured)} {claim.unit}'.rstrip()}**"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table with one line about the machine, on stdout."""
    print(f"\n{about(machine())}\n")
    print(Table(title, columns, [[str(cell) for cell in row] for row in rows]).markdown())


def load(path: Path) -> tuple[dict[str, Any], list[Table]]:
    """(the whole file, its tables) of a results file."""
    found = json.loads(path.read_text())
    return found, [Table(**{**table, "claims": [Claim(**claim) for claim in table["claims"]]})
                   for table in found["tables"]]


def run(name: str, description: str | None, tables: Callable[..., list[Table]],
        **sizes: int) -> None:
    """The command line of one benchmark: ``python -m benchmarks.NAME [--quick] [--json FILE]``.

    sizes: further options, with their defaults, which ``tables`` is given by name.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="small sizes, one run: shows that it works, measures nothing")
    parser.add_argument("--json", type=Path, help="also write tables and claims here")
    parser.add_argument("--work", type=Path, help="folder for data (default: a temporary one)")
    for size, default in sizes.items():
        parser.add_argument(f"--{size}", type=int, default=default,
                            help=f"(default: {default:,})")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        found = tables(arguments.quick, work, **{size: getattr(arguments, size) for size in sizes})
    here = machine()
    print(about(here))
    for table in found:
        print("\n" + table.markdown())
    claims = [claim for table in found for claim in table.claims]
    if claims:
        print("\n" + claims_markdown(claims, judged=not arguments.quick))
    if arguments.json:
        write_results(arguments.json, name, here, found, arguments.quick)


def write_results(path: Path, name: str, here: dict[str, Any], tables: Sequence[Table],
                  quick: bool) -> None:
    """Write a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "benchmark": name, "quick": quick, "machine": here, "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "tables": [asdict(table) for table in tables]}, indent=1, ensure_ascii=False) + "\n")


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                          cwd=RESULTS.parent)
    return done.stdout.strip() or "unknown"
