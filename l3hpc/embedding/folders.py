"""Which recordings are meant, and where their embeddings go: files, folders, globs; output names.

Outputs are named as openl3 and edgel3 do: ``<name>.npz`` beside the recording or in the output
folder, ``<name>_<suffix>.npz`` with a suffix (one that begins with a dot is joined without ``_``).
Folders are searched through all levels, and the output folder gets the same levels.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from l3hpc.audio import formats
from l3hpc.audio.decoding import require_regular
from l3hpc.audio.formats import SOUND_SUFFIXES, AudioError
from l3hpc.errors import InputError
from l3hpc.io.files import walk_files

FORMATS = ("npz", "h5", "csv")


@dataclass(frozen=True)
class EmbedTask:
    """One recording and the file that its embeddings go to."""

    recording: Path
    output: Path


@dataclass
class EmbedPlan:
    """What there is to embed.

    works: in order. failed: inputs of which there is nothing to embed, and why. others: files in
    folders and globs that are no recordings.
    """

    works: list[EmbedTask] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    @property
    def passed_over(self) -> str:
        """``3 other files: 2 .caf, 1 .txt``; '' for none, and without outputs of before."""
        outputs = {_entry(work.output) for work in self.works}
        return formats.describe_ignored(sorted(
            {entry for path in self.others if (entry := _entry(path)) not in outputs}))


def find_recordings(inputs: Iterable[str | Path], output_dir: Path | None = None,
                    suffix: str | None = None, format: str = "npz") -> list[EmbedTask]:
    """The recordings of ``plan_embedding``; an input that is not there is an ``InputError``."""
    found = plan_embedding(inputs, output_dir, suffix, format)
    for word, why in found.failed.items():
        raise InputError(why, where=word)
    return found.works


def plan_embedding(inputs: Iterable[str | Path], output_dir: Path | None = None,
                   suffix: str | None = None, format: str = "npz") -> EmbedPlan:
    """What there is to embed, in order, each recording once (a link to one is one of its own).

    ``inputs``: sound files; folders, searched through all levels for ``SOUND_SUFFIXES`` (hidden
    ones are ignored); globs (``**`` for any level). With ``output_dir`` a folder keeps its
    levels; recordings of files and globs do where their names alone would have the same output.
    Inputs that do not exist or hold no recording are listed, and the others go on. Raises
    ``InputError`` when there is no recording at all, and when two would have the same output.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}", allowed=", ".join(FORMATS))
    words = [str(one) for one in inputs]
    found = EmbedPlan()
    recordings: list[tuple[Path, Path | None]] = []
    for word in words:
        others: list[Path] = []
        try:
            inside = list(_recordings(word, others))
        except InputError as error:
            found.failed[word] = error.message
            continue
        if not inside:
            passed = formats.describe_ignored(others)
            found.failed[word] = "no recordings in it" + (f", but {passed}" if passed else "")
        recordings += inside
        found.others += others
    taken: dict[Path, tuple[Path, Path | None]] = {}
    for recording, levels in recordings:
        taken.setdefault(_entry(recording), (recording, levels))
    _add(found, list(taken.values()), output_dir, suffix, format)
    if not found.works:
        word, why = next(iter(found.failed.items()), ("", "no inputs"))
        more = len(found.failed) - 1
        raise InputError(why + (f" (and {more} more such inputs)" if more > 0 else ""),
                         where=word or None,
                         allowed=f"sound files ({', '.join(SOUND_SUFFIXES)}), folders, globs")
    return found


def _add(found: EmbedPlan, recordings: list[tuple[Path, Path | None]], output_dir: Path | None,
         suffix: str | None, format: str) -> None:
    """Give each recording its output."""
    outputs: dict[Path, Path] = {}
    kept = _levels([path for path, levels in recordings if levels is None], output_dir, suffix,
                   format)
    for recording, levels in recordings:
        if output_dir is None:
            folder = recording.parent
        else:
            folder = output_dir / (kept.get(recording, Path()) if levels is None else levels)
        output = folder / output_name(recording, suffix, format)
        other = outputs.setdefault(_entry(output), recording)
        if other is not recording:
            if os.path.realpath(other) == os.path.realpath(recording):
                continue
            raise InputError(f"{other} and {recording} would both become {output}",
                             hint="embed them one after the other, into different folders (-o)")
        found.works.append(EmbedTask(recording, output))


def _levels(recordings: list[Path], output_dir: Path | None, suffix: str | None, format: str
            ) -> dict[Path, Path]:
    """The folders, below the one that all have in common, of recordings whose names alone would
    give two of them the same output; {} where they would not."""
    names = [output_name(path, suffix, format) for path in recordings]
    sounds = {os.path.realpath(path) for path in recordings}
    if output_dir is None or len(set(names)) == len(names) or len(sounds) < 2:
        return {}
    parents = [Path(os.path.abspath(path.parent)) for path in recordings]
    common = Path(os.path.commonpath(parents))
    return {path: parent.relative_to(common)
            for path, parent in zip(recordings, parents, strict=True)}


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


def _recordings(word: str, others: list[Path]) -> Iterator[tuple[Path, Path | None]]:
    """(recording, its folders below the input) of one input; None where it names no folder."""
    path = Path(word)
    if path.is_dir():
        yield from _inside(path, others)
    elif glob.has_magic(word) and not os.path.lexists(path):
        matches = [Path(found) for found in sorted(glob.glob(word, recursive=True))]
        if not matches:
            raise InputError("no file matches", where=word)
        files = [found for found in matches if not found.is_dir()]
        taken = _sounds(files, others)
        for found in matches:
            if found in taken:
                yield found, None
            elif found.is_dir() and "**" not in word:
                yield from _inside(found, others)
    else:
        try:
            require_regular(path)
        except AudioError as error:
            message = error.message
            raise InputError("no such file or folder" if message == "no such file" else message,
                             where=word) from None
        yield path, None


def _inside(folder: Path, others: list[Path]) -> Iterator[tuple[Path, Path]]:
    files = list(walk_files(folder))
    taken = _sounds(files, others)
    for path in files:
        if path in taken:
            yield path, path.parent.relative_to(folder)


def _sounds(files: list[Path], others: list[Path]) -> set[Path]:
    """Those of ``files`` that are recordings; the rest is added to ``others``."""
    sounds, _ = formats.without_videos(path for path in files if formats.is_sound(path))
    taken = set(sounds)
    others += [path for path in files if path not in taken]
    return taken
