"""What a check of a data set found: problems with examples, remarks, and counts.

``look`` adds what is wrong with its audio files: unreadable, empty, silent or too short ones, and
those that hold less than their header states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.console.progress import Progress
from l3hpc.findings import Finding

if TYPE_CHECKING:
    from l3hpc.audio.files import Contents

EXAMPLES = 3


@dataclass
class Inspection:
    """Everything that was found in one data set.

    Attributes
    ----------
    folder : str
        The data set.
    kind : str
        What it is: ``recordings``, ``embeddings``, ``SONYC-UST`` …
    findings : list of Finding
        Red: must be mended. Yellow: worth knowing.
    counts : dict
        Numbers by name, JSON-ready.
    """

    folder: str
    kind: str
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[Finding]:
        """What must be mended."""
        return [one for one in self.findings if not one.ok]

    @property
    def remarks(self) -> list[Finding]:
        """What is worth knowing."""
        return [one for one in self.findings if one.ok]

    def add(self, subject: str, message: str, examples: Iterable[str], *, hint: str = "",
            remark: bool = False) -> None:
        """Note a fault if there is any example of it.

        Parameters
        ----------
        subject : str
            One word or two for this kind of fault.
        message : str
            ``{n}`` in it is replaced by the number of examples.
        examples : iterable of str
            All places; the first three are kept.
        hint : str
            What to do.
        remark : bool
            Whether it is only worth knowing.
        """
        found = list(examples)
        if found:
            self.findings.append(Finding(
                subject, "yellow" if remark else "red", message.replace("{n}", f"{len(found):,}"),
                hint, len(found), tuple(found[:EXAMPLES])))

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return {"folder": self.folder, "kind": self.kind, "ok": not self.problems,
                "counts": self.counts, "problems": [_as_json(one) for one in self.problems],
                "remarks": [_as_json(one) for one in self.remarks]}


def _as_json(one: Finding) -> dict[str, Any]:
    return {"kind": one.subject, "message": one.message, "count": one.count,
            "examples": one.examples, "hint": one.advice or None}


def look(folder: Path, names: Sequence[str], findings: Inspection, listen: bool,
         progress: Progress, shortest: float = 1.0) -> dict[str, float]:
    """Probe files and note those that cannot be used; returns seconds per usable file."""
    from l3hpc.audio.decoding import INSTALL, find_ffmpeg
    from l3hpc.audio.files import AudioError, probe
    from l3hpc.audio.formats import needs_ffmpeg

    seconds: dict[str, float] = {}
    rates: Counter[int] = Counter()
    bad: dict[str, list[str]] = {"unreadable": [], "empty": [], "silent": [], "too short": []}
    undecoded: list[str] = []
    why = ""  # the first one cannot be read
    odd: dict[str, list[str]] = {"length": [], "no length": [], "quiet": [], "loud": []}
    progress.start("listening" if listen else "looking", total=len(names), unit="files")
    for name in names:
        try:
            if needs_ffmpeg(name) and find_ffmpeg() is None:
                undecoded.append(name)
                continue
            info = probe(folder / name)
            rates[info.rate] += 1
            length = info.seconds
            if listen and info.frames:
                contents = _listen(folder / name)
                length = contents.seconds
                _note(name, contents, odd)
                if not contents.peak and contents.frames and length >= shortest:
                    bad["silent"].append(name)
            if not length:
                bad["empty"].append(name)
            elif length < shortest:
                bad["too short"].append(name)
            else:
                seconds[name] = length
        except AudioError as error:
            bad[error.reason].append(name)
            if error.reason == "unreadable" and not why:
                why = f"{name}: {error.message}" + (f". {error.hint}" if error.hint else "")
        finally:
            progress.advance()
    progress.finish()
    findings.add("ffmpeg", "{n} files are decoded by ffmpeg, which is not installed", undecoded,
                 hint=f"Install it: {INSTALL}")
    words = {"unreadable": "{n} files cannot be read as audio", "empty": "{n} files are empty",
             "silent": "{n} files are silent",
             "too short": f"{{n}} files are shorter than {shortest:g} s"}
    for kind, message in words.items():
        findings.add(kind, message, bad[kind], hint=why if kind == "unreadable" else "")
    findings.add("length", "{n} files hold less or more than their header states", odd["length"],
                 hint="The samples that are there are used.")
    findings.add("no length", "{n} files do not state how long they are", odd["no length"],
                 remark=True, hint="They are read to their end.")
    findings.add("quiet", "{n} files are very quiet", odd["quiet"], remark=True)
    findings.add("loud", "{n} files go far above full scale", odd["loud"], remark=True)
    findings.counts["rates"] = {str(rate): count for rate, count in sorted(rates.items())}
    return seconds


def _note(name: str, contents: Contents, odd: dict[str, list[str]]) -> None:
    from l3hpc.audio.files import LOUD, QUIET

    words = contents.length_warning()
    if words:
        odd["length"].append(f"{name} ({words})")
    if contents.unstated:
        odd["no length"].append(name)
    if 0 < contents.peak < QUIET:
        odd["quiet"].append(f"{name} (largest sample {contents.peak:.1e})")
    if contents.peak > LOUD:
        odd["loud"].append(f"{name} (largest sample {contents.peak:,.0f})")


def _listen(path: Path) -> Contents:
    """What a recording holds; reads all samples (``AudioError`` where damaged)."""
    from l3hpc.audio.files import Contents, all_row_blocks, is_hdf5, probe, sound_blocks

    contents = Contents()
    if is_hdf5(path):
        contents.rate = probe(path).rate
        for block in all_row_blocks(path):
            contents.add(block)
    else:
        for _ in sound_blocks(path, contents):
            pass
    return contents
