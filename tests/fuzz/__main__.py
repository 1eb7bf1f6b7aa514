"""``python -m tests.fuzz``: odd and damaged input over every surface, repeatable by its seed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .runner import HANG_S, Surface, Tally, fuzz, repeat, table
from .surfaces import SURFACES


def main() -> int:
    """Try the inputs; exit code 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000, help="of all surfaces together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--surface", action="append", type=_surface, metavar="NAME[=INPUTS]",
                        help=f"only this one; repeatable: {', '.join(sorted(SURFACES))}")
    parser.add_argument("--only", type=int, metavar="CASE", help="only this case of the surface")
    parser.add_argument("--changes", metavar="SEEDS", help="of --only: the damage that is done")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), metavar="FOLDER",
                        help="where failing inputs are saved")
    parser.add_argument("--limit", type=float, default=HANG_S, metavar="SECONDS",
                        help="an input that takes longer is a hang")
    given = parser.parse_args()
    named = [(name, None) for name, surface in SURFACES.items() if surface.share]
    chosen = [(SURFACES[name], inputs) for name, inputs in given.surface or named]
    scratch = Path(tempfile.mkdtemp(prefix="l3hpc-fuzz-")).resolve()
    try:
        return _all(chosen, given, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _surface(text: str) -> tuple[str, int | None]:
    """A surface and, where they are given, the number of its own inputs."""
    name, _, inputs = text.partition("=")
    if name not in SURFACES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(sorted(SURFACES))}")
    return name, int(inputs) if inputs else None


def _all(chosen: list[tuple[Surface, int | None]], given: argparse.Namespace, scratch: Path) -> int:
    whole = sum(surface.share for surface, _ in chosen) or 1
    tallies: dict[str, Tally] = {}
    keep = given.keep.absolute()
    begin = time.monotonic()
    for surface, own in chosen:
        count = own or -(-given.inputs * (surface.share or 1) // whole)
        numbers = range(count) if given.only is None else [given.only]
        changes = None if given.changes is None else \
            tuple(int(word) for word in given.changes.split(",") if word != "none")
        tally = fuzz(surface, numbers, given.seed, scratch, limit_s=given.limit, keep=keep,
                     changes=changes)
        tallies[surface.name] = tally
        failed = sum(failure.count for failure in tally.failures.values())
        print(f"{time.monotonic() - begin:6.0f} s  {surface.name}: {tally.inputs} inputs, "
              f"{tally.accepted} accepted, {failed} failures", flush=True)
        for failure in tally.failures.values():
            first = "\n    ".join(shortened(line) for line in failure.text.splitlines()[:4])
            print(f"  FAILED ({failure.count} times): {first}\n    "
                  f"{repeat(surface, given.seed, failure)}\n"
                  f"    saved in {failure.kept}", flush=True)
    print(f"\nseed {given.seed}, {time.monotonic() - begin:.0f} s\n{table(tallies)}")
    return 1 if any(tally.failures for tally in tallies.values()) else 0


def shortened(line: str) -> str:
    """A line for a terminal."""
    shown = line.encode("ascii", "backslashreplace").decode().replace("\x1b", "\\x1b")
    return shown if len(shown) <= 240 else f"{shown[:237]}..."


if __name__ == "__main__":
    sys.exit(main())
