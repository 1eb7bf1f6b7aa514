"""What a look at a data set found: problems in words with examples, remarks, and counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """One kind of fault: how often, and the first few examples (a file, or file:line)."""

    kind: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        shown = ", ".join(self.examples)
        more = f" and {self.count - len(self.examples):,} more" if (
            self.examples and self.count > len(self.examples)) else ""
        return f"{self.message}: {shown}{more}" if shown else self.message


@dataclass
class Findings:
    """problems: what must be mended; remarks: what is worth knowing; counts: numbers by name."""

    folder: str
    kind: str
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, message: str, examples: Iterable[str], *, hint: str | None = None,
            remark: bool = False) -> None:
        """Note a fault if there is any example of it; ``{n}`` in the message is their number."""
        found = list(examples)
        if found:
            problem = Problem(kind, message.replace("{n}", f"{len(found):,}"), len(found),
                              tuple(found[:EXAMPLES]), hint)
            (self.remarks if remark else self.problems).append(problem)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return {"folder": self.folder, "kind": self.kind, "ok": not self.problems,
                "counts": self.counts, "problems": [asdict(one) for one in self.problems],
                "remarks": [asdict(one) for one in self.remarks]}
