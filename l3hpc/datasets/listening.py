"""What is wrong with audio files: unreadable, empty, silent or too short ones are findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from l3hpc.datasets.findings import Findings
from l3hpc.progress import Progress


def look(folder: Path, names: Sequence[str], findings: Findings, listen: bool,
         progress: Progress, shortest: float = 1.0) -> dict[str, float]:
    """Probe files and note those that cannot be used; returns seconds per usable file."""
    from l3hpc.audio.files import AudioError, probe

    seconds: dict[str, float] = {}
    rates: Counter[int] = Counter()
    bad: dict[str, list[str]] = {"unreadable": [], "empty": [], "silent": [], "too short": []}
    progress.start("listening" if listen else "looking", total=len(names), unit="files")
    for name in names:
        try:
            info = probe(folder / name)
            rates[info.rate] += 1
            if info.frames == 0:
                bad["empty"].append(name)
            elif info.seconds < shortest:
                bad["too short"].append(name)
            else:
                if listen and not _heard(folder / name):
                    bad["silent"].append(name)
                seconds[name] = info.seconds
        except AudioError as error:
            bad[error.reason].append(name)
        progress.advance()
    progress.finish()
    words = {"unreadable": "{n} files cannot be read as audio", "empty": "{n} files are empty",
             "silent": "{n} files are silent",
             "too short": f"{{n}} files are shorter than {shortest:g} s"}
    for kind, message in words.items():
        findings.add(kind, message, bad[kind])
    findings.counts["rates"] = {str(rate): count for rate, count in sorted(rates.items())}
    return seconds


def _heard(path: Path) -> bool:
    """Whether any sample is not zero; reads all of them (``AudioError`` where damaged)."""
    from l3hpc.audio.files import is_hdf5, read_audio, sound_blocks

    if is_hdf5(path):
        return bool(read_audio(path)[0].any())
    return sum(int(block.any()) for block in sound_blocks(path)) > 0
