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
    from l3hpc.audio.decoding import find_ffmpeg
    from l3hpc.audio.files import AudioError
    from l3hpc.audio.formats import needs_ffmpeg

    found = _Probed(shortest)
    progress.start("reading samples" if listen else "reading headers", total=len(names),
                   unit="files")
    for name in names:
        if needs_ffmpeg(name) and find_ffmpeg() is None:
            found.undecoded.append(name)
        else:
            try:
                found.add(folder, name, listen)
            except AudioError as error:
                found.bad[error.reason].append(name)
                if error.reason == "unreadable" and not found.reason:
                    hint = f". {error.hint}" if error.hint else ""
                    found.reason = f"{name}: {error.message}{hint}"
        progress.advance()
    progress.finish()
    found.report(findings)
    return found.seconds


class _Probed:
    """What was found in audio files.

    Attributes
    ----------
    seconds : dict
        Name → seconds, of the usable files.
    bad, odd : dict of str to list of str
        Kind of problem → files that cannot be used, and files that can.
    undecoded : list of str
        Files that need ffmpeg, which is not installed.
    reason : str
        Why the first unreadable file cannot be read.
    """

    def __init__(self, shortest: float) -> None:
        self.seconds: dict[str, float] = {}
        self.bad: dict[str, list[str]] = {
            "unreadable": [], "empty": [], "silent": [], "too short": []}
        self.odd: dict[str, list[str]] = {"length": [], "no length": [], "quiet": [], "loud": []}
        self.undecoded: list[str] = []
        self.reason = ""
        self._rates: Counter[int] = Counter()
        self._shortest = shortest

    def add(self, folder: Path, name: str, listen: bool) -> None:
        """Probe a file."""
        from l3hpc.audio.files import probe

        info = probe(folder / name)
        self._rates[info.rate] += 1
        length = info.seconds
        if listen and info.frames:
            contents = _read_all_samples(folder / name)
            length = contents.seconds
            self._note_oddities(name, contents)
            # one that is too short anyway has a single finding
            if not contents.peak and contents.frames and length >= self._shortest:
                self.bad["silent"].append(name)
        if not length:
            self.bad["empty"].append(name)
        elif length < self._shortest:
            self.bad["too short"].append(name)
        else:
            self.seconds[name] = length

    def _note_oddities(self, name: str, contents: Contents) -> None:
        from l3hpc.audio.files import LOUD, QUIET

        mismatch = contents.length_warning()
        if mismatch:
            self.odd["length"].append(f"{name} ({mismatch})")
        if contents.unstated:
            self.odd["no length"].append(name)
        if 0 < contents.peak < QUIET:
            self.odd["quiet"].append(f"{name} (largest sample {contents.peak:.1e})")
        if contents.peak > LOUD:
            self.odd["loud"].append(f"{name} (largest sample {contents.peak:,.0f})")

    def report(self, findings: Inspection) -> None:
        """Add all of it to the findings."""
        from l3hpc.audio.decoding import INSTALL

        bad, odd = self.bad, self.odd
        findings.add("ffmpeg", "{n} [file needs|files need] ffmpeg, which is not installed",
                     self.undecoded, hint=f"Install it: {INSTALL}")
        findings.add("unreadable", "{n} [file|files] cannot be read as audio", bad["unreadable"],
                     hint=self.reason)
        findings.add("empty", "{n} [file is|files are] empty", bad["empty"])
        findings.add("silent", "{n} [file is|files are] silent", bad["silent"])
        findings.add("too short", f"{{n}} [file is|files are] shorter than {self._shortest:g} s",
                     bad["too short"])
        findings.add("length",
                     "{n} [file holds|files hold] less or more than [its|their] header states",
                     odd["length"], hint="The samples that exist are used.")
        findings.add("no length", "{n} [file does|files do] not state [its|their] length",
                     odd["no length"], remark=True, hint="They are read to their end.")
        findings.add("quiet", "{n} [file is|files are] very quiet", odd["quiet"], remark=True)
        findings.add("loud", "{n} [file goes|files go] far above full scale", odd["loud"],
                     remark=True)
        findings.counts["rates"] = {
            str(rate): count for rate, count in sorted(self._rates.items())}


def _read_all_samples(path: Path) -> Contents:
    """What a recording holds, after reading all of it (``AudioError`` where it is damaged)."""
    from l3hpc.audio.files import Contents, is_hdf5, probe, sound_blocks
    from l3hpc.audio.hdf5_rows import all_row_blocks

    contents = Contents()
    if is_hdf5(path):
        contents.rate = probe(path).rate
        for block in all_row_blocks(path):
            contents.add(block)
    else:
        for _ in sound_blocks(path, contents):
            pass
    return contents
