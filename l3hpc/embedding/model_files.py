"""Finding model files by name, and recognising what a model file contains.

l3hpc ships no weights. ``find_model`` searches for a name (``sea-64``, ``edgel3-ft-95.45``,
``openl3-mel256-music``, or the name of any model file without its suffix) in the folders of
``L3HPC_MODELS`` (separated by colons), in ``models`` in the working folder, and in
``~/.local/share/l3hpc/models``.

``recognise`` finds network, rate, front end and dimension from the contents of a file: its layers,
stored matrices and configuration. The name of the file is used only if the contents do not
determine the front end; ``notes`` then contains a remark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.audio.conventions import ALIASES, NAMES, letter_of
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.errors import InputError, Lines, check_choice, nearest, shell_path
from l3hpc.models import NETWORK_FILES, tflite, weights
from l3hpc.models import geometry as evidence
from l3hpc.models.weights import untrained_seed
from l3hpc.teachers import find as teachers
from l3hpc.teachers.base import Options
from l3hpc.teachers.find import short_name
from l3hpc.teachers.hear import PREFIX

VARIABLE = "L3HPC_MODELS"
ENDINGS = (".h5", ".h5.gz", ".weights.h5", ".keras", ".tflite", ".onnx")
SEA_DIMS = (512, 256, 128, 64)
SPARSITIES = ("53.5", "63.5", "72.3", "87.0", "95.45")
OPENL3_SIZES = (512, 6144)
OPENL3_SIZE = 6144  # for a name without a size, as in openl3
HEAR = "hear"  # the network of a module, which only its code knows
WHERE = {"openl3": "https://github.com/marl/openl3/raw/models/",
         "edgel3": "https://github.com/ksangeeta2429/edgel3/raw/models/"}
_SEA = re.compile(r"(?:edgel3-)?sea-(\d+)")
_SPARSE = re.compile(r"(?:edgel3|sparse)-(ft|kd)-(\d+(?:\.\d+)?)")
_OPENL3 = re.compile(r"openl3-(linear|mel128|mel256)-(music|env)(?:-(\d+))?")
PATTERNS = ("sea-512, sea-256, sea-128, sea-64; edgel3-ft-95.45 (ft, kd; 53.5, 63.5, 72.3, 87.0, "
            "95.45); openl3-mel256-music (linear, mel128, mel256; music, env; -512, -6144); "
            "untrained[:SEED]; hear:package.module; a file, or its name in one of the folders; the "
            "folder of a run that trained a student, such as workspace/runs/RUN")
NETWORKS = {"openl3": "L3 audio network (openl3)", "edgel3-sparse": "sparse L3 (EdgeL3)",
            "edgel3-sea": "SEA student", "tflite": "TFLite model",
            HEAR: "module of the HEAR interface", "other": "network of another kind"}


@dataclass(frozen=True)
class NamedModel:
    """The meaning of a model's name.

    Attributes
    ----------
    files : tuple of str
        The names that the file may have.
    package : str
        The package that published it; empty for the user's own files.
    network : str or None
        The network that the file must contain; None for any.
    options : dict
        ``input_repr`` and ``embedding_size``, if the name states them.
    """

    files: tuple[str, ...]
    package: str = ""
    network: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def find_model(name: str | Path) -> tuple[str | Path, NamedModel]:
    """Find the file of a model.

    Parameters
    ----------
    name
        A path, a name, ``'untrained[:SEED]'`` or ``'hear:package.module'``. The folder of a run or
        of its training stands for the student in it.

    Returns
    -------
    file : str or Path
        The file; the last two are returned unchanged.
    named : NamedModel
        The meaning of the name.

    Raises
    ------
    InputError
        There is no such file; the message lists the folders that were searched. Or the folder of a
        run has several students.
    """
    if is_hear_module(name):
        return str(name), NamedModel(())
    if isinstance(name, Path) or os.path.isfile(name) or os.sep in name:
        return _student_in(Path(name)), NamedModel(())
    if untrained_seed(name) is not None:
        return name, NamedModel(())
    named = parse_name(name)
    for folder in search_folders():
        for file in named.files:
            if os.path.isfile(folder / file):
                return folder / file, named
    # A folder with the name of a model, which hides no model of that name.
    if os.path.exists(name):
        return _student_in(Path(name)), NamedModel(())
    raise _missing(name, named)


def _student_in(path: Path) -> Path:
    """The network in the folder of a run, of a step or of a task; a file as it is."""
    if not path.is_dir():
        return path
    folders: dict[Path, Path] = {}  # of a task, as the user sees it → its network
    for pattern in ("", "[0-9]*", "*/*/[0-9]*"):
        for name in NETWORK_FILES:
            for file in sorted(path.glob(os.path.join(pattern, name))):
                folders.setdefault(file.parent.resolve(), file)
        if folders:
            break
    if len(folders) > 1:
        raise InputError("holds several trained models: name the folder of one", where=str(path),
                         allowed=", ".join(_shown(file.parent) for file in folders.values()))
    if not folders:
        raise InputError("is a folder without a trained network", where=str(path),
                         allowed="a model file, or the folder of a run that has trained a network")
    return next(iter(folders.values()))


def _shown(task: Path) -> str:
    """The folder of a task, or that of its step if the step has no other."""
    others = [one for one in task.parent.iterdir() if one.name.isdecimal() and one.is_dir()]
    return str(task if len(others) > 1 else task.parent)


def is_hear_module(name: str | Path) -> bool:
    """Whether a name refers to the user's own code (see ``l3hpc.teachers.hear``)."""
    return str(name).startswith(PREFIX)


def parse_name(name: str) -> NamedModel:
    """Parse the name of a model.

    Parameters
    ----------
    name
        A published name, or the name of any file with or without its suffix.

    Raises
    ------
    InputError
        A published name with a number that does not exist.

    Examples
    --------
    >>> parse_name("sea-64").files[0]
    'edgel3_sea_ust_audio_emb_64.h5'
    """
    sea, sparse, openl3 = (pattern.fullmatch(name) for pattern in (_SEA, _SPARSE, _OPENL3))
    if sea:
        _check_published(name, sea[1], map(str, SEA_DIMS))
        file = f"edgel3_sea_ust_audio_emb_{sea[1]}.h5"
        return NamedModel((file, f"{file}.gz"), "edgel3", "edgel3-sea",
                          {"embedding_size": int(sea[1])})
    if sparse:
        sparsity = next((text for text in SPARSITIES if float(text) == float(sparse[2])),
                        sparse[2])
        _check_published(name, sparsity, SPARSITIES)
        file = f"edgel3_{sparse[1]}_audio_sparsity_{sparsity}.h5"
        return NamedModel((file, f"{file}.gz"), "edgel3", "edgel3-sparse")
    if openl3:
        size = int(openl3[3] or OPENL3_SIZE)
        _check_published(name, str(size), map(str, OPENL3_SIZES))
        stem = f"openl3_audio_{openl3[1]}_{openl3[2]}"
        return NamedModel(tuple(f"{stem}{version}{end}" for version in ("-v0_4_0", "", "-v0_2_0")
                                for end in (".h5.gz", ".h5")), "openl3", "openl3",
                          {"input_repr": openl3[1], "embedding_size": size})
    return NamedModel((name, *(f"{name}{end}" for end in ENDINGS)))


def published_name(*, model_type: str | None = None, emb_dim: int | None = None,
                   retrain_type: str | None = None, sparsity: str | None = None,
                   input_repr: str | None = None, content_type: str | None = None,
                   embedding_size: int | None = None) -> str | None:
    """Return the name for the options of edgel3 or openl3.

    Parameters
    ----------
    model_type, emb_dim, retrain_type, sparsity
        Options of edgel3. As in edgel3, those of the other model type are ignored.
    input_repr, content_type, embedding_size
        Options of openl3.

    Returns
    -------
    str or None
        The name, with the defaults of the package; None if no option is given.

    Raises
    ------
    InputError
        Options of both packages are given.

    Examples
    --------
    >>> published_name(model_type="sea"), published_name(content_type="env")
    ('sea-128', 'openl3-mel256-env-6144')
    """
    edgel3 = any(value is not None for value in (model_type, emb_dim, retrain_type, sparsity))
    openl3 = any(value is not None for value in (input_repr, content_type, embedding_size))
    if edgel3 and openl3:
        raise InputError("options of edgel3 and of openl3 cannot be combined",
                         allowed="--model-type, --emb-dim, --retrain-type, --model-sparsity; or "
                                 "--input-repr, --content-type, --audio-embedding-size")
    if openl3:
        return f"openl3-{input_repr or 'mel256'}-{content_type or 'music'}-" \
               f"{embedding_size or OPENL3_SIZE}"
    if not edgel3:
        return None
    if model_type == "sea":
        return f"sea-{emb_dim or 128}"
    return f"edgel3-{retrain_type or 'ft'}-{sparsity or '95.45'}"


def search_folders() -> list[Path]:
    """Return the folders in which models are searched, in order."""
    from_variable = [Path(folder).expanduser()
                     for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    return [*from_variable, Path("models"), user_folder()]


def user_folder() -> Path:
    """Return the user's folder of models, in ``XDG_DATA_HOME`` if that is set."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "l3hpc" / "models"


def available_models() -> list[str]:
    """List the names of the model files in ``search_folders()``, for shell completion."""
    names = set()
    for folder in search_folders():
        for path in folder.iterdir() if folder.is_dir() else ():
            ending = next((end for end in sorted(ENDINGS, key=len, reverse=True)
                           if path.name.endswith(end)), None)
            if ending:
                names.add(path.name.removesuffix(ending))
    return sorted(names)


def _check_published(name: str, value: str, allowed: Iterable[str]) -> None:
    values = list(allowed)
    if value not in values:
        raise InputError(f"there is no published model {name!r}", allowed=", ".join(values))


def _missing(name: str, named: NamedModel) -> InputError:
    searched = " or ".join(str(folder) for folder in search_folders())
    if not named.package:
        return InputError(f"there is no model {name!r}: no such file here, or in {searched}",
                          allowed=PATTERNS, hint="l3hpc ships no weights: give the path of your "
                          "file, or put it into one of these folders")
    file = named.files[0 if named.package == "openl3" else 1]
    folder = shell_path(user_folder())
    return InputError(
        f"there is no model {name!r} in {searched}",
        allowed=f"a file named {' or '.join(named.files[:2])}",
        hint=Lines(f"l3hpc ships no weights. Those of {named.package}:",
                   f"mkdir -p {folder} && curl -Lo {folder}/{file} {WHERE[named.package]}{file}"))


@dataclass(frozen=True)
class Recognised:
    """What a model file contains.

    Attributes
    ----------
    file : Path or None
        None for an untrained network, and for code.
    format : str
        Description of the file format.
    network : {'openl3', 'edgel3-sparse', 'edgel3-sea', 'tflite', 'hear', 'other'}
        The kind of network; ``other``: a file with a sidecar.
    rate : int
        Sampling rate of the input in Hz.
    frontend : Frontend or None
        None if the network takes audio.
    dim : int
        Length of an embedding.
    dims : tuple of int
        The lengths that these weights can give.
    label : str
        Short description of the weights.
    evidence : str
        The source from which the front end is known.
    notes : tuple of str
        Remarks on what the file does not state.
    random_weights : bool
        Whether the weights are random.
    window_s : float
        Length of a frame in seconds.
    """

    file: Path | None
    format: str
    network: str
    rate: int
    frontend: Frontend | None
    dim: int
    dims: tuple[int, ...]
    label: str
    evidence: str
    notes: tuple[str, ...] = ()
    random_weights: bool = False
    window_s: float = 1.0

    def __str__(self) -> str:
        front = self.frontend
        if front is None:
            bands = "takes audio"
        else:
            kind = "linear spectrogram" if front.n_mels is None else f"{front.n_mels} mels"
            known = f" (known from: {self.evidence})"
            if self.evidence == "spec":  # stated, and no conclusion from what the file contains
                known = " (stated in the file)" if self.file is not None else ""
            bands = f"{kind}, DFT {front.n_dft}, hop {front.hop}, front end {front.name}{known}"
        name = self.file.name if self.file is not None else \
            "untrained" if self.random_weights else short_name(self.label)
        stored = "" if self.format == "none" else f", {self.format}"
        return (f"{name}: {NETWORKS[self.network]}{stored}; {self.rate} Hz, {bands}; "
                f"{self.dim} values per frame")

    def as_json(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        values = {**asdict(self), "file": str(self.file) if self.file else None,
                  "dims": list(self.dims), "notes": list(self.notes)}
        if self.frontend is not None:
            values["frontend"]["shape"] = list(self.frontend.shape)
        return values


def recognise(file: str | Path, *, input_repr: str | None = None,
              embedding_size: int | None = None, frontend: str | None = None,
              geometry: Mapping[str, Any] | None = None, window: float | None = None
              ) -> Recognised:
    """Recognise the model in a file from its headers.

    Parameters
    ----------
    file
        A model file, ``'untrained[:SEED]'`` or ``'hear:package.module'``, which is run.
    input_repr
        The input representation of openl3 weights: ``linear``, ``mel128`` or ``mel256``.
    embedding_size
        512 (default) or 6144 for openl3 weights, which can give both; for other files, the length
        that is required.
    frontend
        Name or letter of a convention (see ``l3hpc.audio.conventions``); None for that of the file,
        which is ``kapre-0.1`` for all published weights.
    geometry
        Single values of the front end that override the file (see ``weights.describe_weights``).
    window
        Length of a frame in seconds, for a HEAR module (default 1); with a sidecar, at most the
        network's, which is the default: shorter frames are padded with zeros.

    Returns
    -------
    Recognised
        Network, rate, front end and dimension, and the source of this knowledge.

    Raises
    ------
    InputError
        There is no such file, its format or network is unknown, the front end cannot be
        identified, or the model takes frames of another length.
    """
    stated = geometry_of(input_repr, frontend, geometry)
    if is_hear_module(file):
        return _hear_module(str(file), stated, embedding_size, window)
    if teachers.has_sidecar(file):
        return _network_file(Path(file), stated, embedding_size, window)
    found = _own_format(file, stated, embedding_size)
    if window not in (None, found.window_s):
        raise InputError(f"takes windows of {found.window_s:g} s, not of {window:g} s",
                         where=str(file), allowed=f"{found.window_s:g}, or none; any length for a "
                                                  "HEAR module (hear:package.module)")
    return found


def _own_format(file: str | Path, stated: Mapping[str, Any], embedding_size: int | None
                ) -> Recognised:
    """Networks of the L3 family, whose files state everything."""
    if weights.untrained_seed(file) is None and Path(file).is_file() and (
            tflite.is_tflite(Path(file))):
        return _tflite(Path(file), stated, embedding_size)
    info = weights.describe_weights(file, embedding_size=embedding_size, geometry=stated)
    spec = info.spec
    dims = (spec.filters[-1],) if spec.tail == "student" else (
        spec.filters[-1], 12 * spec.filters[-1])
    return Recognised(info.file, info.format, info.network, spec.rate, spec.frontend, spec.dim,
                      dims, info.label, info.evidence, (*info.notes, *_by_name(info)),
                      info.random_weights, spec.window_s)


def geometry_of(input_repr: str | None, frontend: str | None,
                geometry: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge what a caller states about the front end.

    Parameters
    ----------
    input_repr, frontend, geometry
        As for ``recognise``.

    Returns
    -------
    dict
        Values of a front end by name.

    Raises
    ------
    InputError
        An unknown input representation or convention.
    """
    stated = dict(geometry or {})
    if input_repr is not None:
        published = OPENL3_FRONTENDS[
            check_choice("input representation", input_repr, OPENL3_FRONTENDS)]
        stated = {"rate": published.rate, "n_mels": published.n_mels, "n_dft": published.n_dft,
                  "hop": published.hop, "fmax": published.fmax, **stated}
    if frontend is not None:
        if not isinstance(frontend, str) or frontend not in ALIASES:
            raise InputError(f"unknown front end {frontend!r}",
                             allowed=nearest(frontend, NAMES.values()))
        stated["convention"] = letter_of(frontend)
    return stated


def _by_name(info: weights.WeightsInfo) -> tuple[str, ...]:
    if info.evidence != evidence.NAME:
        return ()
    return ("the file does not state its front end; the one in its name was used",)


def _hear_module(name: str, stated: Mapping[str, Any], size: int | None, window: float | None
                 ) -> Recognised:
    known = teachers.describe(name, Options(window_s=window))
    if size not in (None, known.dim):
        raise InputError(f"this model gives {known.dim} values, not {size}", where=name,
                         allowed=str(known.dim))
    if stated:
        raise InputError("has no front end that can be stated", where=name,
                         allowed="none: its code computes what it needs")
    return Recognised(None, "Python code", HEAR, known.rate, None, known.dim, (known.dim,),
                      known.label, "the loaded model", window_s=known.window_s)


def _network_file(file: Path, stated: Mapping[str, Any], size: int | None, window: float | None
                  ) -> Recognised:
    known = teachers.describe(str(file), Options(stated, window_s=window))
    if size not in (None, known.dim):
        raise InputError(f"this model gives {known.dim} values, not {size}", where=str(file),
                         allowed=str(known.dim))
    return Recognised(file, known.kind, "other", known.rate, None, known.dim, (known.dim,),
                      known.label, "sidecar", known.notes, window_s=known.window_s)


def _tflite(file: Path, stated: Mapping[str, Any], size: int | None) -> Recognised:
    info = tflite.describe_tflite(file, stated)
    if size not in (None, info.dim):
        raise InputError(f"this model gives {info.dim} values, not {size}", where=str(file),
                         allowed=str(info.dim))
    notes: tuple[str, ...] = ()
    if info.evidence == tflite.SHAPE:
        notes = ("the file does not state its front end; the shape of its input is that of a "
                 "published one",)
    return Recognised(file, f"TFLite, {info.input_type}", "tflite", info.rate, info.frontend,
                      info.dim, (info.dim,), info.label, info.evidence, notes,
                      window_s=info.window_s)
