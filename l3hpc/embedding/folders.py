"""Which recordings are meant, and where their embeddings go: files, folders, globs; output names.

Outputs are named as openl3 and edgel3 do: ``<name>.npz`` beside the recording or in the output
folder, ``<name>_<suffix>.npz`` with a suffix (one that begins with a dot is joined without ``_``).
Folders are searched through all levels, and the output folder gets the same levels.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.files import walk

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
FORMATS = ("npz", "h5", "csv")


@dataclass(frozen=True)
class Work:
    """One recording and the file that its embeddings go to."""

    recording: Path
    output: Path


def plan(inputs: Iterable[str | Path], output_dir: Path | None = None, suffix: str | None = None,
         format: str = "npz") -> list[Work]:
    """What there is to embed, in order, each recording once (a link to one is one of its own).

    ``inputs``: sound files; folders, searched through all levels for ``SOUND_SUFFIXES`` (hidden
    ones are passed over); globs (``**`` for any level). Raises ``InputError`` for an input that
    does not exist, when there is no recording at all, and when two would have the same output.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}", allowed=", ".join(FORMATS))
    words = [str(one) for one in inputs]
    works: list[Work] = []
    outputs: dict[Path, Path] = {}
    seen: set[Path] = set()
    for recording, levels in (pair for word in words for pair in _recordings(word)):
        entry = _entry(recording)
        if entry in seen:
            continue
        seen.add(entry)
        folder = recording.parent if output_dir is None else output_dir / levels
        output = folder / output_name(recording, suffix, format)
        other = outputs.setdefault(_entry(output), recording)
        if other is not recording:
            if os.path.realpath(other) == os.path.realpath(recording):
                continue
            raise InputError(f"{other} and {recording} would both become {output}",
                             hint="embed them one after the other, into different folders (-o)")
        works.append(Work(recording, output))
    if not works:
        raise InputError(f"no recordings in {', '.join(words) or 'nothing'}",
                         allowed=f"sound files ({', '.join(SOUND_SUFFIXES)}), folders, globs")
    return works


def output_name(recording: Path, suffix: str | None = None, format: str = "npz") -> str:
    """``street.npz`` for ``street.wav``; with a suffix ``street_suffix.npz``."""
    if not suffix:
        return f"{recording.stem}.{format}"
    if os.sep in suffix:
        raise InputError(f"a suffix {suffix!r}", where="--suffix", allowed="no / in it")
    return f"{recording.stem}{'' if suffix.startswith('.') else '_'}{suffix}.{format}"


def _entry(path: Path) -> Path:
    """The same for every way to write a path; a link is not what it leads to."""
    return Path(os.path.realpath(path.parent), path.name)


def _recordings(word: str) -> Iterator[tuple[Path, Path]]:
    """(recording, its folders below the input) of one input."""
    path = Path(word)
    if path.is_dir():
        yield from _inside(path)
    elif path.is_file():
        yield path, Path()
    elif glob.has_magic(word):
        for found in sorted(glob.glob(word, recursive=True)):
            if Path(found).is_file() and Path(found).suffix.lower() in SOUND_SUFFIXES:
                yield Path(found), Path()
            elif Path(found).is_dir() and "**" not in word:
                yield from _inside(Path(found))
    else:
        raise InputError("no such file or folder", where=word)


def _inside(folder: Path) -> Iterator[tuple[Path, Path]]:
    for path in walk(folder):
        if path.suffix.lower() in SOUND_SUFFIXES:
            yield path, path.parent.relative_to(folder)
