"""Results of checking a data set: problems with examples, remarks, and counts.

``probe_audio_files`` adds the problems of its audio files: unreadable, empty, silent or too short
ones, and those that hold less than their header states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.console.progress import Progress
from l3hpc.findings import Finding
from l3hpc.io.values import in_number

if TYPE_CHECKING:
    from l3hpc.audio.files import Contents

EXAMPLES = 3


@dataclass
class Inspection:
    """All results of checking one data set.

    Attributes
    ----------
    folder
        The data set.
    kind
        What it is: ``recordings``, ``embeddings``, ``SONYC-UST`` …
    findings
        Red: must be fixed. Yellow: worth knowing.
    counts
        Numbers by name, JSON-ready.
    """

    folder: str
    kind: str
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[Finding]:
        """The findings that must be fixed."""
        return [finding for finding in self.findings if not finding.ok]

    @property
    def remarks(self) -> list[Finding]:
        """The findings that are worth knowing."""
        return [finding for finding in self.findings if finding.ok]

    def add(self, subject: str, message: str, examples: Iterable[str], *, hint: str = "",
            remark: bool = False) -> None:
        """Add a finding if there is any example of it.

        Parameters
        ----------
        subject
            One or two words for this kind of problem.
        message
            ``{n}`` in it is replaced by the number of examples, ``[file is|files are]`` by the
            form for that number.
        examples
            All places; the first three are kept.
        hint
            What to do.
        remark
            Whether it is only worth knowing.
        """
        places = list(examples)
        if places:
            self.findings.append(Finding(
                subject, "yellow" if remark else "red",
                in_number(message, len(places)).replace("{n}", f"{len(places):,}"), hint,
                len(places), tuple(places[:EXAMPLES])))

    def as_json(self) -> dict[str, Any]:
        """The results as JSON-ready values."""
        return {"folder": self.folder, "kind": self.kind, "ok": not self.problems,
                "counts": self.counts, "problems": [_as_json(finding) for finding in self.problems],
                "remarks": [_as_json(finding) for finding in self.remarks]}


def _as_json(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.subject, "message": finding.message, "count": finding.count,
            "examples": finding.examples, "hint": finding.advice or None}


def probe_audio_files(folder: Path, names: Sequence[str], findings: Inspection, listen: bool,
                      progress: Progress, shortest: float = 1.0) -> dict[str, float]:
    """Probe audio files and add those that cannot be used to the findings.

    Parameters
    ----------
    folder
        Where the files are.
    names
        Paths relative to it.
    findings
        Takes the results.
    listen
        Whether to read all samples, not only headers.
    progress
        Shows how many files are done.
    shortest
        Seconds that a file must last.

    Returns
    -------
    dict
        Name → seconds, of the usable files.
    """
    from l3hpc.audio.decoding import INSTALL, find_ffmpeg
    from l3hpc.audio.files import AudioError, probe
    from l3hpc.audio.formats import needs_ffmpeg

    seconds: dict[str, float] = {}
    rates: Counter[int] = Counter()
    bad: dict[str, list[str]] = {"unreadable": [], "empty": [], "silent": [], "too short": []}
    undecoded: list[str] = []
    reason = ""  # why the first unreadable file cannot be read
    odd: dict[str, list[str]] = {"length": [], "no length": [], "quiet": [], "loud": []}
    progress.start("reading samples" if listen else "reading headers", total=len(names),
                   unit="files")

    def look(name: str) -> None:
        info = probe(folder / name)
        rates[info.rate] += 1
        length = info.seconds
        if listen and info.frames:
            contents = _read_all_samples(folder / name)
            length = contents.seconds
            _note_oddities(name, contents, odd)
            # one that is too short anyway has a single finding
            if not contents.peak and contents.frames and length >= shortest:
                bad["silent"].append(name)
        if not length:
            bad["empty"].append(name)
        elif length < shortest:
            bad["too short"].append(name)
        else:
            seconds[name] = length

    for name in names:
        if needs_ffmpeg(name) and find_ffmpeg() is None:
            undecoded.append(name)
        else:
            try:
                look(name)
            except AudioError as error:
                bad[error.reason].append(name)
                if error.reason == "unreadable" and not reason:
                    reason = f"{name}: {error.message}" + (f". {error.hint}" if error.hint else "")
        progress.advance()
    progress.finish()
    findings.add("ffmpeg", "{n} [file needs|files need] ffmpeg, which is not installed", undecoded,
                 hint=f"Install it: {INSTALL}")
    messages = {"unreadable": "{n} [file|files] cannot be read as audio",
                "empty": "{n} [file is|files are] empty",
                "silent": "{n} [file is|files are] silent",
                "too short": f"{{n}} [file is|files are] shorter than {shortest:g} s"}
    for kind, message in messages.items():
        findings.add(kind, message, bad[kind], hint=reason if kind == "unreadable" else "")
    findings.add("length",
                 "{n} [file holds|files hold] less or more than [its|their] header states",
                 odd["length"], hint="The samples that exist are used.")
    findings.add("no length", "{n} [file does|files do] not state [its|their] length",
                 odd["no length"], remark=True, hint="They are read to their end.")
    findings.add("quiet", "{n} [file is|files are] very quiet", odd["quiet"], remark=True)
    findings.add("loud", "{n} [file goes|files go] far above full scale", odd["loud"], remark=True)
    findings.counts["rates"] = {str(rate): count for rate, count in sorted(rates.items())}
    return seconds


def _note_oddities(name: str, contents: Contents, odd: dict[str, list[str]]) -> None:
    from l3hpc.audio.files import LOUD, QUIET

    mismatch = contents.length_warning()
    if mismatch:
        odd["length"].append(f"{name} ({mismatch})")
    if contents.unstated:
        odd["no length"].append(name)
    if 0 < contents.peak < QUIET:
        odd["quiet"].append(f"{name} (largest sample {contents.peak:.1e})")
    if contents.peak > LOUD:
        odd["loud"].append(f"{name} (largest sample {contents.peak:,.0f})")


def _read_all_samples(path: Path) -> Contents:
    """What a recording holds, after reading all of it (``AudioError`` where it is damaged)."""
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
