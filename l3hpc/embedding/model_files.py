"""Models by name: which published file a name stands for, and in which folders it is looked for.

This package ships no weights. A name (``sea-64``, ``edgel3-ft-95.45``, ``openl3-mel256-music``, or
the name of any model file without its ending) is looked for in the folders of ``L3HPC_MODELS``
(separated by colons), in ``models`` where one works, and in ``~/.local/share/l3hpc/models``.

What is this model file? Network, rate, front end and dimension, told from the file itself.

A file's name decides nothing that the file tells by its contents: not the layers, not the stored
matrices, not the room that removed ones left, not a configuration. Only where the contents leave
the front end open is the name believed, and ``notes`` say so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.audio.conventions import ALIASES, NAMES, letter_of
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.errors import InputError, check_choice, nearest
from l3hpc.models import geometry as evidence
from l3hpc.models import tflite, weights
from l3hpc.models.weights import untrained_seed

VARIABLE = "L3HPC_MODELS"
ENDINGS = (".h5", ".h5.gz", ".weights.h5", ".keras", ".tflite")
SEA_DIMS = (512, 256, 128, 64)
SPARSITIES = ("53.5", "63.5", "72.3", "87.0", "95.45")
OPENL3_SIZES = (512, 6144)
OPENL3_SIZE = 6144  # of a name without a size, as openl3's default
WHERE = {"openl3": "https://github.com/marl/openl3/raw/models/",
         "edgel3": "https://github.com/ksangeeta2429/edgel3/raw/models/"}
_SEA = re.compile(r"(?:edgel3-)?sea-(\d+)")
_SPARSE = re.compile(r"(?:edgel3|sparse)-(ft|kd)-(\d+(?:\.\d+)?)")
_OPENL3 = re.compile(r"openl3-(linear|mel128|mel256)-(music|env)(?:-(\d+))?")
PATTERNS = ("sea-512, sea-256, sea-128, sea-64; edgel3-ft-95.45 (ft, kd; 53.5, 63.5, 72.3, 87.0, "
            "95.45); openl3-mel256-music (linear, mel128, mel256; music, env; -512, -6144); "
            "untrained[:SEED]; a file, or its name in one of the folders")
NETWORKS = {"openl3": "L3 audio network (openl3)", "edgel3-sparse": "sparse L3 (EdgeL3)",
            "edgel3-sea": "SEA student", "tflite": "TFLite model"}


@dataclass(frozen=True)
class NamedModel:
    """What a name stands for.

    files: names that the file may have. package: whose weights they are ('' for one's own).
    network: what the file has to hold (None: anything). options: what the name says beyond the file
    (``input_repr``, ``embedding_size``).
    """

    files: tuple[str, ...]
    package: str = ""
    network: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def find_model(name: str | Path) -> tuple[str | Path, NamedModel]:
    """The file (or ``'untrained[:SEED]'``) that a path or name stands for, and what the name says.

    A folder that is called like a model is not meant, where there is such a model. Raises
    ``InputError`` where nothing is found: where it was looked for, and what to do.
    """
    if isinstance(name, Path) or os.path.isfile(name) or os.sep in name:
        return Path(name), NamedModel(())
    if untrained_seed(name) is not None:
        return name, NamedModel(())
    named = parse_name(name)
    for folder in search_folders():
        for file in named.files:
            if os.path.isfile(folder / file):
                return folder / file, named
    if os.path.exists(name):
        return Path(name), NamedModel(())
    raise _missing(name, named)


def parse_name(name: str) -> NamedModel:
    """Which file a name stands for. A published name with a wrong number is an ``InputError``."""
    sea, sparse, openl3 = (one.fullmatch(name) for one in (_SEA, _SPARSE, _OPENL3))
    if sea:
        _one_of(name, sea[1], map(str, SEA_DIMS))
        file = f"edgel3_sea_ust_audio_emb_{sea[1]}.h5"
        return NamedModel((file, f"{file}.gz"), "edgel3", "edgel3-sea",
                     {"embedding_size": int(sea[1])})
    if sparse:
        share = next((one for one in SPARSITIES if float(one) == float(sparse[2])), sparse[2])
        _one_of(name, share, SPARSITIES)
        file = f"edgel3_{sparse[1]}_audio_sparsity_{share}.h5"
        return NamedModel((file, f"{file}.gz"), "edgel3", "edgel3-sparse")
    if openl3:
        size = int(openl3[3] or OPENL3_SIZE)
        _one_of(name, str(size), map(str, OPENL3_SIZES))
        stem = f"openl3_audio_{openl3[1]}_{openl3[2]}"
        return NamedModel(tuple(f"{stem}{version}{end}" for version in ("-v0_4_0", "", "-v0_2_0")
                           for end in (".h5.gz", ".h5")), "openl3", "openl3",
                     {"input_repr": openl3[1], "embedding_size": size})
    return NamedModel((name, *(f"{name}{end}" for end in ENDINGS)))


def published_name(*, model_type: str | None = None, emb_dim: int | None = None,
                   retrain_type: str | None = None, sparsity: str | None = None,
                   input_repr: str | None = None, content_type: str | None = None,
                   embedding_size: int | None = None) -> str | None:
    """The name that the options of edgel3 or openl3 amount to, with their defaults (None: none).

    Options of both are an ``InputError``; as in edgel3, those of the other model type are ignored.
    """
    edgel3 = any(one is not None for one in (model_type, emb_dim, retrain_type, sparsity))
    openl3 = any(one is not None for one in (input_repr, content_type, embedding_size))
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
    """The folders in which names are looked for, in this order."""
    stated = [Path(one).expanduser() for one in os.environ.get(VARIABLE, "").split(os.pathsep)
              if one]
    return [*stated, Path("models"), user_folder()]


def user_folder() -> Path:
    """The user's own folder of models (``XDG_DATA_HOME`` is honoured)."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "l3hpc" / "models"


def available_models() -> list[str]:
    """Names of the model files in ``folders()``, for shell completion."""
    found = set()
    for folder in search_folders():
        for path in folder.iterdir() if folder.is_dir() else ():
            ending = next((end for end in sorted(ENDINGS, key=len, reverse=True)
                           if path.name.endswith(end)), None)
            if ending:
                found.add(path.name.removesuffix(ending))
    return sorted(found)


def _one_of(name: str, value: str, allowed: Any) -> None:
    values = list(allowed)
    if value not in values:
        raise InputError(f"there is no published model {name!r}", allowed=", ".join(values))


def _missing(name: str, named: NamedModel) -> InputError:
    looked = ", ".join(str(folder) for folder in search_folders())
    if not named.package:
        return InputError(f"no model {name!r}: neither a file nor a name in {looked}",
                          allowed=PATTERNS, hint="l3hpc ships no weights: name the file you have, "
                          "or put it into one of these folders")
    file, folder = named.files[0 if named.package == "openl3" else 1], user_folder()
    return InputError(
        f"no model {name!r} in {looked}", allowed=f"a file named {' or '.join(named.files[:2])}",
        hint=f"l3hpc ships no weights. Those of {named.package}:\n"
             f"mkdir -p {folder} && curl -Lo {folder}/{file} {WHERE[named.package]}{file}")


@dataclass(frozen=True)
class Recognised:
    """One model file.

    Attributes
    ----------
    file: None for an untrained network. format: how it is stored, in words.
    network: ``openl3``, ``edgel3-sparse``, ``edgel3-sea`` or ``tflite``.
    rate: Hz. frontend: None where the network takes audio. dim: length of an embedding; dims: those
        that these weights can give.
    evidence: what the front end is known from. notes: what the file left open.
    random_weights: whether its numbers rest on random weights.
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

    def __str__(self) -> str:
        front = self.frontend
        if front is None:
            bands = "takes audio"
        else:
            kind = "linear spectrogram" if front.n_mels is None else f"{front.n_mels} mels"
            bands = (f"{kind}, DFT {front.n_dft}, hop {front.hop}, front end {front.name} "
                     f"(known from: {self.evidence})")
        place = self.file.name if self.file is not None else "untrained"
        return (f"{place}: {NETWORKS[self.network]}, {self.format}; {self.rate} Hz, {bands}; "
                f"{self.dim} values per frame")

    def as_json(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        values = {**asdict(self), "file": str(self.file) if self.file else None,
                  "dims": list(self.dims), "notes": list(self.notes)}
        if self.frontend is not None:
            values["frontend"]["shape"] = list(self.frontend.shape)
        return values


def recognise(file: str | Path, *, input_repr: str | None = None,
              embedding_size: int | None = None, frontend: str | None = None,
              geometry: Mapping[str, Any] | None = None) -> Recognised:
    """What a model file is, read from its headers.

    Parameters
    ----------
    file
        A model file, or ``'untrained[:SEED]'``.
    input_repr
        ``linear``, ``mel128`` or ``mel256``, stated for openl3 weights.
    embedding_size
        512 (default) or 6144 for openl3 weights, which serve both; for other files, the length to
        insist on.
    frontend
        A convention by name or letter (see ``l3hpc.audio.conventions``); None: the file's own,
        ``kapre-0.1`` for all published weights.
    geometry
        Single values of the front end that overrule the file (see ``weights.describe``).

    Returns
    -------
    Recognised
        Network, rate, front end and dimension, and what they are known from.

    Raises
    ------
    InputError
        No such file, no known format, not of this family, or the front end cannot be identified.
    """
    stated = geometry_of(input_repr, frontend, geometry)
    if weights.untrained_seed(file) is None and Path(file).is_file() and (
            tflite.is_tflite(Path(file))):
        return _tflite(Path(file), stated, embedding_size)
    info = weights.describe(file, embedding_size=embedding_size, geometry=stated)
    spec = info.spec
    dims = (spec.filters[-1],) if spec.tail == "student" else (
        spec.filters[-1], 12 * spec.filters[-1])
    return Recognised(info.file, info.format, info.network, spec.rate, spec.frontend, spec.dim,
                      dims, info.label, info.evidence, (*info.notes, *_by_name(info)),
                      info.random_weights)


def geometry_of(input_repr: str | None, frontend: str | None,
                geometry: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller states, as values of a front end."""
    stated = dict(geometry or {})
    if input_repr is not None:
        one = OPENL3_FRONTENDS[check_choice("input representation", input_repr, OPENL3_FRONTENDS)]
        stated = {"rate": one.rate, "n_mels": one.n_mels, "n_dft": one.n_dft, "hop": one.hop,
                  "fmax": one.fmax, **stated}
    if frontend is not None:
        if frontend not in ALIASES:
            raise InputError(f"unknown front end {frontend!r}",
                             allowed=nearest(frontend, NAMES.values()))
        stated["convention"] = letter_of(frontend)
    return stated


def _by_name(info: weights.WeightsInfo) -> tuple[str, ...]:
    if info.evidence != evidence.NAME:
        return ()
    return ("the file does not hold its front end; the one in its name was used",)


def _tflite(file: Path, stated: Mapping[str, Any], size: int | None) -> Recognised:
    info = tflite.describe(file, stated)
    if size not in (None, info.dim):
        raise InputError(f"this model gives {info.dim} values, not {size}", where=str(file),
                         allowed=str(info.dim))
    notes: tuple[str, ...] = ()
    if info.evidence == tflite.SHAPE:
        notes = ("the file does not state its front end; its input has a published one's shape",)
    return Recognised(file, f"TFLite, {info.input_type}", "tflite", info.rate, info.frontend,
                      info.dim, (info.dim,), info.label, info.evidence, notes)
