"""CSV tables: predictions, annotations, taxonomy, recordings.csv, those of data sets, own ones."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

from . import bases, damage
from .oracle import command, strict_json
from .runner import Case, Fault, Surface, Verdict

Rows = list[list[str]]


class Tables(Surface):
    """One table of a data set, or a table of predictions."""

    name = "tables"
    share = 700

    def prepare(self, folder: Path) -> None:
        from l3hpc.datasets.taxonomy import Taxonomy
        from l3hpc.tagging.annotations import Annotations

        bases.working_folder(folder)
        self.base = folder
        self.annotations = (folder / "sonyc_ust/annotations.csv").read_bytes()
        self.taxonomy = (folder / "sonyc_ust/dcase-ust-taxonomy.yaml").read_bytes()
        taxonomy = Taxonomy.load(folder / "sonyc_ust/dcase-ust-taxonomy.yaml")
        annotations = Annotations.load(folder / "sonyc_ust/annotations.csv", taxonomy)
        names = sorted(path.name for path in (folder / "sonyc_ust/audio").iterdir())
        header = ["audio_filename", *taxonomy.fine_columns, *taxonomy.coarse_columns]
        rng = random.Random(0)
        rows = [[name, *(f"{rng.random():.6g}" for _ in header[1:])] for name in names
                if name in annotations.files("validate")]
        self.predictions: Rows = [header, *rows]
        self.recordings: Rows = [["file", "sensor", "timestamp"],
                                 *([f"{name}.wav", f"s{number}", str(1.5e9 + 3600 * number)]
                                   for number, name in enumerate("ab"))]
        self.score: Any = None

    def judge(self, case: Case) -> Verdict:
        asked = case.rng.choice(("predictions", "predictions", "annotations", "taxonomy",
                                 "recordings", "us8k", "esc50", "sonyc_ust", "clips"))
        if asked == "clips":
            return self._submit(case)
        if asked in ("predictions", "annotations", "taxonomy"):
            return self._evaluate(case, asked)
        return self._check(case, asked)

    def _evaluate(self, case: Case, asked: str) -> Verdict:
        files = {"predictions": encoded(self.predictions), "annotations": self.annotations,
                 "taxonomy": self.taxonomy}
        harmless, percent = asked == "predictions" and case.rng.random() < 0.5, False
        for change in case.damages():
            if not harmless:
                files[asked] = damaged(files[asked], change) if asked != "taxonomy" else \
                    damage.text(files[asked], change)
            elif change.random() < 0.2:
                rows = [[row[0], *(str(float(cell) * 100) for cell in row[1:])]
                        for row in self.predictions[1:]]
                files[asked], percent = encoded([self.predictions[0], *rows]), True
            else:
                files[asked] = same(files[asked], change)
        names = {"predictions": "p.csv", "annotations": "a.csv", "taxonomy": "t.yaml"}
        for kind, name in names.items():
            (case.folder / name).write_bytes(files[kind])
        said = command("run", "evaluate", "--set", "predictions=p.csv", "--set",
                       "annotations=a.csv", "--set", "taxonomy=t.yaml", "--set", "bootstrap=0",
                       "-o", "out", "--json", codes=(0, 1, 2))
        if said.code:
            left = [path.name for path in (case.folder / "out").rglob("*") if path.is_file()]
            if "evaluation.json" in left or "result.json" in left:
                raise Fault(f"refused, and left {left}")
            if said.code == 1:
                raise Fault(f"a table that is refused ends with 1, not 2: {said.err[-600:]}")
            if harmless and not percent:
                raise Fault(f"the same table in another form is refused: {said.err[-600:]}")
            return Verdict(False, said.code)
        found = json.loads((case.folder / "out/evaluation.json").read_text())
        between(found)
        if percent:
            raise Fault(f"predictions in percent are scored: {said.err[-300:]}")
        numbers = {level: found.get(level) for level in ("fine", "coarse")}
        if harmless:
            self.score = self.score or numbers
            if numbers != self.score:
                raise Fault(f"the same table in another form has another score: {numbers} and "
                            f"{self.score}")
        return Verdict(True)

    def _submit(self, case: Case) -> Verdict:
        """A table of clips as a pipeline takes it: refused with a message, or planned."""
        data = (self.base / "esc50/meta/esc50.csv").read_bytes()
        for change in case.damages():
            data = damaged(data, change)
        (case.folder / "t.csv").write_bytes(data)
        said = command("submit", "clips", "--table", "t.csv", "--audio",
                       str(self.base / "esc50/audio"), "--student", str(self.base / "student.h5"),
                       "--dry-run", "--json", codes=(0, 2))
        if said.code:
            if not case.changes:
                raise Fault(f"a good table is refused: {said.err[-600:]}")
            return Verdict(False, said.code)
        tasks = {step["name"]: step["tasks"] for step in strict_json(said.out)["steps"]}
        if tasks["folds"] < 3:
            raise Fault(f"too few folds to train, validate and test: {tasks}")
        return Verdict(True)

    def _check(self, case: Case, asked: str) -> Verdict:
        place = case.folder / asked
        if asked == "recordings":
            shutil.copytree(self.base / "audio", place)
            table = place / "recordings.csv"
            table.write_bytes(encoded(self.recordings))
        else:
            shutil.copytree(self.base / asked, place)
            table = place / {"us8k": "metadata/UrbanSound8K.csv", "esc50": "meta/esc50.csv",
                             "sonyc_ust": "annotations.csv"}[asked]
        whole = table.read_bytes()
        before = self._found(asked, case) if not case.changes else None
        data = whole
        for change in case.damages():
            data = damaged(data, change)
        table.write_bytes(data)
        said = command("data", "check", asked, "--json", codes=(0, 1, 2))
        if said.code != 2:
            found = strict_json(said.out)["found"]
            if before is not None and found != before:
                raise Fault("the same folder, another answer")
            if said.code == 0 and not any(
                    value for one in found for value in one["counts"].values()):
                raise Fault(f"nothing was found, and nothing is wrong: {said.out}")
        return Verdict(said.code == 0, said.code)

    def _found(self, asked: str, case: Case) -> Any:
        return strict_json(command("data", "check", asked, "--json", codes=(0, 1)).out)["found"]


def encoded(rows: Rows, **options: Any) -> bytes:
    """A CSV file."""
    held = io.StringIO()
    csv.writer(held, lineterminator="\n", **options).writerows(rows)
    return held.getvalue().encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> Rows:
    """The cells of a CSV file, as far as that can be told."""
    csv.field_size_limit(10**9)
    try:
        return list(csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"))))
    except csv.Error:
        return []
    finally:
        csv.field_size_limit(131072)


def same(data: bytes, rng: random.Random) -> bytes:
    """The same table in another form."""
    rows = [row for row in decoded(data) if row]
    kind = rng.randrange(6)
    if kind == 0:
        body = rows[1:]
        rng.shuffle(body)
        return encoded([rows[0], *body])
    if kind == 1:
        order = list(range(len(rows[0])))
        rng.shuffle(order)
        return encoded([[row[place] for place in order] for row in rows])
    if kind == 2:
        return encoded(rows, quoting=csv.QUOTE_ALL)
    if kind == 3:
        return encoded(rows).replace(b"\n", b"\r\n")
    if kind == 4:
        return b"\xef\xbb\xbf" + encoded(rows)
    return encoded(rows) + b"\n\n"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A table with cells, columns, rows, separators or encoding changed."""
    rows = decoded(data)
    if rng.random() < 0.4 or len(rows) < 2 or not all(rows):
        return damage.text(data, rng)
    line, place = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    kind = rng.randrange(11)
    if kind == 0:
        rows[line][place:place + 1] = [damage.word(rng)]
    elif kind == 1:
        rows = [row[:place] + row[place + 1:] for row in rows]
    elif kind == 2:
        rows = [[*row, damage.word(rng)] for row in rows]
    elif kind == 3:
        rows.insert(line, list(rows[rng.randrange(len(rows))]))
    elif kind == 4:
        return encoded(rows, delimiter=rng.choice((";", "\t", "|")))
    elif kind == 5:
        return encoded(rows).decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-16-be", "utf-32", "latin-1", "cp037")), "replace")
    elif kind == 6:
        rows[line].append("more")
    elif kind == 7:
        rows[0][place] = rng.choice((rows[0][place].upper(), f" {rows[0][place]} ", "",
                                     rows[0][0], damage.word(rng)))
    elif kind == 8:
        rows = rows[:1] if rng.random() < 0.5 else rows[1:]
    elif kind == 9:
        odd = rng.choice(("{}%", "{}e5", "-{}", "{}_0", " {} ", "'{}", "{},5", "0x{}", "{}f"))
        rows = [rows[0], *([*row[:place], odd.format(row[place]), *row[place + 1:]]
                           for row in rows[1:] if len(row) > place)]
    else:
        rows[line][place:place + 1] = ["x" * rng.choice((131072, 131073, 10**6))]
    return encoded(rows)


def between(value: Any, name: str = "") -> None:
    """Every number of an evaluation is in [0, 1], or counts something, or is none."""
    if isinstance(value, dict):
        for key, item in value.items():
            between(item, key)
    elif isinstance(value, list):
        for item in value:
            between(item, name)
    elif isinstance(value, float) and not -1e-9 <= value <= 1 + 1e-9:  # NaN is not either
        raise Fault(f"{name} is {value}")
