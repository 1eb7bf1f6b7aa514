"""A workspace with one damaged file, through the commands about runs and the ledger."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from . import bases, damage
from .oracle import command, strict_json
from .runner import Case, Fault, Surface, Verdict

HURT = "bad-2"  # the run whose files are damaged
READING = (("status",), ("status", "--all", "--json"), ("status", HURT), ("status", HURT, "--json"),
           ("status", "good-1"), ("logs", HURT, "sample"), ("logs", HURT, "extract", "--task", "1"),
           ("logs", HURT, "extract", "--path"), ("usage", HURT), ("usage", HURT, "--json"),
           ("usage", "latest"), ("resume", HURT, "--dry-run"), ("resume", HURT, "--dry-run",
                                                                "--json"),
           ("retry", HURT, "sample", "--dry-run"), ("cancel", HURT), ("cancel", HURT, "--json"))
LEDGER = (("show",), ("show", "--json"), ("status", "--json"), ("export", "--csv", "tables"),
          ("export", "--html", "page.html"), ("compact", "--dry-run"), ("compact",),
          ("repair", "--journal", "--yes"), ("diff", "/m/0", "/m/1", "--json"))


class Workspaces(Surface):
    """Records, markers, local state, attempts, results, scripts of one run of three."""

    name = "workspace"
    share = 700

    def prepare(self, folder: Path) -> None:
        (folder / "cluster.yaml").write_text(bases.CLUSTER)
        self.base = folder
        bases.workspace(folder / "ws")
        self.files = sorted(
            path.relative_to(folder) for path in [
                *(folder / "ws/runs" / HURT).rglob("*"), *(folder / "ws/local").rglob("*"),
                *self._artifacts()]
            if path.is_file() and not path.is_symlink())
        self.whole = self._others(command("status", "--all", "--json").out)

    def _artifacts(self) -> list[Path]:
        links = (self.base / "ws/runs" / HURT / "artifacts").iterdir()
        return [path for link in links for path in link.resolve().rglob("*")]

    def _others(self, text: str) -> dict[str, Any]:
        """What status says of the other runs."""
        return {run["run"]: {"state": run["state"], "steps": [
            (step["name"], step["state"], step["done"], step["detail"]) for step in run["steps"]]}
            for run in strict_json(text)["runs"] if run["run"] != HURT}

    def judge(self, case: Case) -> Verdict:
        shutil.copytree(self.base, case.folder, symlinks=True, dirs_exist_ok=True)
        spool = False
        for change in case.damages():
            path = case.folder / change.choice(self.files)
            spool = spool or "ws/local" in str(path)
            spoil(path, change)
        said = command("status", "--all", "--json", codes=(0, 1))
        if said.code and (not case.changes or HURT not in said.err + said.out):
            raise Fault(f"exit 1, and no damaged file is named: {said.err}")
        others = self._others(said.out)
        if others != self.whole and not spool:
            raise Fault(f"a damaged file of {HURT} changed the others: {others}\n{said.err}")
        if set(others) != set(self.whole):
            raise Fault(f"runs are missing: {sorted(self.whole)} and {sorted(others)}\n{said.err}")
        listed = {run["run"] for run in strict_json(said.out)["runs"]}
        there = (case.folder / "ws/runs" / HURT / "run.json").exists()
        if there and HURT not in listed and HURT not in said.err + said.out:
            raise Fault(f"{HURT} is left out and nobody is told: {said.err}")
        words = case.rng.choice(READING)
        said = command(*words)
        if case.changes == () and said.code not in (0,):
            raise Fault(f"{words} of a whole workspace ends with {said.code}: {said.err}")
        if words[0] == "status" and words[1:2] != (HURT,) and said.code > 1:
            raise Fault(f"{words} ends with {said.code}: {said.err}")
        return Verdict(said.code == 0, said.code)


class Journals(Surface):
    """Journals of the results: damaged lines, odd records, odd files."""

    name = "ledger"
    share = 500

    def prepare(self, folder: Path) -> None:
        (folder / "cluster.yaml").write_text(bases.CLUSTER)
        names = bases.workspace(folder / "ws")
        self.rows = {name: number for number, name in enumerate(names)}
        self.base = folder
        self.files = sorted((folder / "ws/ledger/journal").iterdir())

    def judge(self, case: Case) -> Verdict:
        shutil.copytree(self.base, case.folder, symlinks=True, dirs_exist_ok=True)
        place = case.folder / "ws/ledger/journal"
        hurt = case.rng.choice(self.files).name
        for change in case.damages():
            path = place / hurt
            if change.random() < 0.5:
                odd_records(path, change)
            else:
                spoil(path, change)
        said = command("ledger", "show", "--json", "--columns", "all", codes=(0, 1))
        rows = {(tab["tab"], tuple(row["key"])): row["values"] for tab in strict_json(said.out)
                for row in tab["rows"]}
        lost = [name for name, number in self.rows.items() if not hurt.startswith(name)
                and not any(f"/{number}" in "".join(map(str, key)) for _, key in rows)]
        if lost:
            raise Fault(f"rows of whole journals are gone: {lost}\n{said.err}")
        words = ("ledger", *case.rng.choice(LEDGER))
        ended = command(*words)
        if not case.changes and ended.code:
            raise Fault(f"{words} of whole journals ends with {ended.code}: {ended.err}")
        if words[1] in ("show", "status", "compact") and ended.code not in (0,):
            raise Fault(f"{words} ends with {ended.code}: {ended.err}")
        return Verdict(ended.code == 0, ended.code)


def spoil(path: Path, rng: random.Random) -> None:
    """A file changed: its bytes, its values, its kind, or gone."""
    if not path.exists() or path.is_symlink() or not path.is_file():
        return
    kind = rng.randrange(14)
    data = path.read_bytes()
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.unlink()
        path.mkdir()
    elif kind == 3:
        path.unlink()
        path.symlink_to(rng.choice(("/nowhere", path.name, "/dev/null", "/etc/hostname")))
    elif kind == 4:
        path.unlink()
        os.mkfifo(path)
    elif kind == 5:
        path.write_bytes(damage.text(data, rng))
    elif kind == 6:
        path.write_bytes(damage.binary(data, rng))
    else:
        try:
            value = json.loads(data)
        except ValueError:
            path.write_bytes(damage.text(data, rng))
            return
        path.write_text(json.dumps(damage.nested(value, rng)))


def odd_records(path: Path, rng: random.Random) -> None:
    """Sealed records with odd values in the place of the file's own."""
    from l3hpc.ledger.journal.records import seal, unseal

    if not path.is_file():
        return
    lines = []
    for line in path.read_bytes().splitlines():
        record = unseal(line)
        if record is not None and rng.random() < 0.5:
            try:
                line = seal(damage.nested(record, rng)).rstrip(b"\n")
            except (TypeError, ValueError, UnicodeError, AttributeError):
                continue
        lines.append(line)
    path.write_bytes(b"\n".join(lines) + b"\n")
