"""Finding recordings by files, folders and globs, and naming the outputs of their embeddings.

Outputs are named as in openl3 and edgel3: ``<name>.npz`` beside the recording or in the output
folder, ``<name>_<suffix>.npz`` with a suffix (``<name><suffix>.npz`` if it begins with a dot).
Folders are searched recursively, and their subfolders are kept in the output folder.
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
from l3hpc.errors import InputError, check_choice
from l3hpc.io.files import walk_files

FORMATS = ("npz", "h5", "csv")


@dataclass(frozen=True)
class EmbedTask:
    """One recording to embed.

    Attributes
    ----------
    recording : Path
        The sound file.
    output : Path
        The file for its embeddings.
    """

    recording: Path
    output: Path


@dataclass
class EmbedPlan:
    """The recordings that a call will embed.

    Attributes
    ----------
    tasks : list of EmbedTask
        In order.
    failed : dict
        Input without recordings → the reason.
    ignored : list of Path
        Files in folders and globs that are not recordings.
    """

    tasks: list[EmbedTask] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)

    @property
    def ignored_text(self) -> str:
        """``3 other files: 2 .caf, 1 .txt``, not counting earlier outputs; empty if none."""
        outputs = {_real_entry(task.output) for task in self.tasks}
        return formats.describe_ignored(sorted(
            {entry for path in self.ignored if (entry := _real_entry(path)) not in outputs}))


def plan_embedding(inputs: Iterable[str | Path], output_dir: Path | None = None,
                   suffix: str | None = None, format: str = "npz") -> EmbedPlan:
    """Find the recordings to embed, in order and each once, and name their outputs.

    Parameters
    ----------
    inputs
        Sound files; folders, searched recursively for ``SOUND_SUFFIXES`` (hidden files are
        ignored); globs (``**`` for any number of folders).
    output_dir
        Folder for the outputs; None for the folder of each recording. Subfolders of an input
        folder are kept in it; those of files and globs are kept if names alone would clash.
    suffix
        Added to the name of each output; None for no suffix.
    format
        One of ``FORMATS``.

    Returns
    -------
    EmbedPlan
        The tasks, the inputs without recordings, and the files that are ignored.

    Raises
    ------
    InputError
        There are no recordings at all, two would have the same output, or an unknown format.
    """
    check_choice("format", format, FORMATS)
    plan = EmbedPlan()
    recordings: list[tuple[Path, Path | None]] = []
    for text in map(str, inputs):
        ignored: list[Path] = []
        try:
            of_input = list(_recordings(text, ignored))
        except InputError as error:
            plan.failed[text] = error.message
            continue
        if not of_input:
            others = formats.describe_ignored(ignored)
            plan.failed[text] = "contains no recordings" + (f", only {others}" if others else "")
        recordings += of_input
        plan.ignored += ignored
    distinct: dict[Path, tuple[Path, Path | None]] = {}
    for recording, levels in recordings:
        distinct.setdefault(_real_entry(recording), (recording, levels))
    _add_tasks(plan, list(distinct.values()), output_dir, suffix, format)
    if not plan.tasks:
        text, reason = next(iter(plan.failed.items()), ("", "no inputs"))
        more = len(plan.failed) - 1
        raise InputError(reason + (f" (and {more} more such inputs)" if more > 0 else ""),
                         where=text or None,
                         allowed=f"sound files ({', '.join(SOUND_SUFFIXES)}), folders, globs")
    return plan


def _add_tasks(plan: EmbedPlan, recordings: list[tuple[Path, Path | None]],
               output_dir: Path | None, suffix: str | None, format: str) -> None:
    """Name the output of each recording."""
    outputs: dict[Path, Path] = {}
    kept = _levels([path for path, levels in recordings if levels is None], output_dir, suffix,
                   format)
    for recording, levels in recordings:
        if output_dir is None:
            folder = recording.parent
        else:
            folder = output_dir / (kept.get(recording, Path()) if levels is None else levels)
        output = folder / output_name(recording, suffix, format)
        other = outputs.setdefault(_real_entry(output), recording)
        if other is not recording:
            if os.path.realpath(other) == os.path.realpath(recording):
                continue
            raise InputError(f"{other} and {recording} would both be written to {output}",
                             hint="embed them one after the other, into different folders (-o)")
        plan.tasks.append(EmbedTask(recording, output))


def _levels(recordings: list[Path], output_dir: Path | None, suffix: str | None, format: str
            ) -> dict[Path, Path]:
    """The folder of each recording below their common one, if names alone would clash; else {}."""
    names = [output_name(path, suffix, format) for path in recordings]
    sounds = {os.path.realpath(path) for path in recordings}
    if output_dir is None or len(set(names)) == len(names) or len(sounds) < 2:
        return {}
    parents = [Path(os.path.abspath(path.parent)) for path in recordings]
    common = Path(os.path.commonpath(parents))
    return {path: parent.relative_to(common)
            for path, parent in zip(recordings, parents, strict=True)}


def output_name(recording: Path, suffix: str | None = None, format: str = "npz") -> str:
    """Return the name of the output for a recording.

    Parameters
    ----------
    recording
        The sound file.
    suffix
        Joined to its name by ``_``, or directly if it begins with a dot; None for no suffix.
    format
        One of ``FORMATS``.

    Raises
    ------
    InputError
        ``suffix`` contains a slash.

    Examples
    --------
    >>> output_name(Path("street.wav")), output_name(Path("street.wav"), "sea")
    ('street.npz', 'street_sea.npz')
    """
    if not suffix:
        return f"{recording.stem}.{format}"
    if os.sep in suffix:
        raise InputError(f"suffix {suffix!r} contains a /", where="--suffix",
                         allowed="a part of a file name")
    return f"{recording.stem}{'' if suffix.startswith('.') else '_'}{suffix}.{format}"


def _real_entry(path: Path) -> Path:
    """The path with links in its folder resolved, but not a link that it is itself."""
    return Path(os.path.realpath(path.parent), path.name)


def _recordings(text: str, ignored: list[Path]) -> Iterator[tuple[Path, Path | None]]:
    """The recordings of one input, with their folder below it (None if it is not a folder)."""
    path = Path(text)
    if path.is_dir():
        yield from _in_folder(path, ignored)
    elif glob.has_magic(text) and not os.path.lexists(path):
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        if not matches:
            raise InputError("no file matches", where=text)
        files = [match for match in matches if not match.is_dir()]
        sounds = _sounds(files, ignored)
        for match in matches:
            if match in sounds:
                yield match, None
            elif match.is_dir() and "**" not in text:
                yield from _in_folder(match, ignored)
    else:
        try:
            require_regular(path)
        except AudioError as error:
            message = error.message
            raise InputError("no such file or folder" if message == "no such file" else message,
                             where=text) from None
        yield path, None


def _in_folder(folder: Path, ignored: list[Path]) -> Iterator[tuple[Path, Path]]:
    files = list(walk_files(folder))
    sounds = _sounds(files, ignored)
    for path in files:
        if path in sounds:
            yield path, path.parent.relative_to(folder)


def _sounds(files: list[Path], ignored: list[Path]) -> set[Path]:
    """The recordings among ``files``; the others are added to ``ignored``."""
    recordings, _ = formats.without_videos(path for path in files if formats.is_sound(path))
    sounds = set(recordings)
    ignored += [path for path in files if path not in sounds]
    return sounds
