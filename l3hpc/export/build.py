"""From a model file and export settings to the graph that is exported.

``ExportSettings`` refuses what cannot be exported before any work. ``read_model`` reads the
network, ``read_frames`` real frames to calibrate and check it on, and ``build_model`` converts,
rounds and tiles the network, keeping the plain version for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.conventions import name_of
from l3hpc.datasets.corpus import Recording, scan_recordings
from l3hpc.datasets.windows import evenly_spaced, sample_windows
from l3hpc.embedding.model_files import find_model, geometry_of
from l3hpc.errors import InputError, command_line, nearest
from l3hpc.export import tiling
from l3hpc.export.conversion import (
    INTEGER,
    check_format,
    convert,
    convert_frontend,
    join_graphs,
    round_first_layer,
)
from l3hpc.export.graph import Graph
from l3hpc.export.tiling import ARENA_BUDGET
from l3hpc.io.values import in_number
from l3hpc.models.parameters import FoldedNetwork, Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import WeightsInfo, describe_weights, load_parameters

HOP_S = 0.5
RANGE_FRAMES = 200
CHECK_FRAMES = 100
MAX_RECORDINGS = 100  # that frames are taken from, for calibration and for the check
FRONTENDS = ("outside", "inside")
MODEL_FILES = ("model.tflite", "l3_model.h", "l3_model.c")
FRONTEND_FILES = ("l3_frontend.h", "l3_frontend.c")
REPORT_FILES = ("card.md", "report.json")


def read_model(name: str | Path, geometry: Mapping[str, Any] | None = None
               ) -> tuple[Parameters, WeightsInfo]:
    """Read the parameters of a model.

    Parameters
    ----------
    name
        A weight file, a name as ``l3hpc.embedding.load_model`` takes it, or ``untrained[:SEED]``; a
        ``Path`` is always a file.
    geometry
        Front-end values that overrule the file.

    Returns
    -------
    parameters
        The arrays of the network.
    info
        What the file holds.

    Raises
    ------
    InputError
        As ``l3hpc.embedding.model_files`` and ``l3hpc.models.weights.load_parameters``.
    """
    file, options = _model_file(name, geometry)
    return load_parameters(file, **options)


def describe_model(name: str | Path, geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Describe a model from the headers of its file alone.

    Parameters
    ----------
    name
        As in ``read_model``.
    geometry
        As in ``read_model``.

    Returns
    -------
    WeightsInfo
        What the file holds.

    Raises
    ------
    InputError
        As ``l3hpc.embedding.model_files`` and ``l3hpc.models.weights.describe_weights``.
    """
    file, options = _model_file(name, geometry)
    return describe_weights(file, **options)


def _model_file(name: str | Path, geometry: Mapping[str, Any] | None
           ) -> tuple[str | Path, dict[str, Any]]:
    """The file that a name stands for, and options to read it with."""
    file, named = find_model(name)
    representation = named.options.get("input_repr")
    return file, {"embedding_size": named.options.get("embedding_size"),
                  "geometry": geometry_of(representation, None, geometry)}


@dataclass(frozen=True)
class CalibrationFrames:
    """Frames (n, samples) float32 of real recordings.

    Attributes
    ----------
    ranges
        For the ranges of feature maps.
    check
        For the accuracy, of other recordings.
    recordings
        How many the folder holds.
    """

    ranges: np.ndarray
    check: np.ndarray
    recordings: int


def read_frames(folder: Path, rate: int, window_s: float = 1.0) -> CalibrationFrames:
    """Read frames of recordings spread evenly through a folder and its subfolders.

    Every second recording is for the ranges, the others for the check; a single one is for both.

    Parameters
    ----------
    folder
        Where the recordings are.
    rate
        Hz.
    window_s
        Length of a frame in seconds.

    Returns
    -------
    CalibrationFrames
        At most 200 and 100 frames.

    Raises
    ------
    InputError
        The folder holds no usable audio.
    """
    recordings = scan_recordings(folder)
    # Different recordings, so that the accuracy is not measured on what the ranges were fitted to.
    ranges = _windows(folder, recordings[0::2], rate, RANGE_FRAMES, window_s)
    check = _windows(folder, recordings[1::2] or recordings, rate, CHECK_FRAMES, window_s)
    if not len(ranges) or not len(check):
        count = len(recordings)
        raise InputError(in_number(
            f"[the only recording cannot|none of the {count} recordings can] be used", count),
                         where=str(folder), allowed="audible recordings of at least one second",
                         hint=command_line('data', 'check', folder, '--listen'))
    return CalibrationFrames(ranges, check, len(recordings))


def _windows(folder: Path, recordings: Sequence[Recording], rate: int, count: int,
             window_s: float = 1.0) -> np.ndarray:
    most = min(count, MAX_RECORDINGS)
    return sample_windows(folder, evenly_spaced(recordings, most), rate, HOP_S, True, count,
                          window_s=window_s)[:count]


@dataclass(frozen=True)
class ExportSettings:
    """How to export one model.

    Parameters
    ----------
    form
        One of ``FORMATS``.
    strips
        Whether to compute the first blocks strip by strip; None: in integer formats.
    frontend
        ``outside`` (the model takes spectrograms; the front end is C code) or ``inside`` (the model
        takes audio).
    arena
        Bytes that the arena should not exceed with strips.
    calibrate
        A folder of audio, for ranges and accuracy; integer formats need it.
    licence
        Licence of the weights, as text.
    geometry
        Front-end values that overrule the file.

    Raises
    ------
    InputError
        A value is unknown or out of range, or a folder is missing.
    """

    form: str = "int8"
    strips: bool | None = None
    frontend: str = "outside"
    arena: int = ARENA_BUDGET
    calibrate: Path | None = None
    licence: str | None = None
    geometry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_format(self.form, self.calibrate is not None)
        if self.frontend not in FRONTENDS:
            raise InputError(f"unknown place of the front end {self.frontend!r}",
                             where="--frontend",
                             allowed=nearest(self.frontend, FRONTENDS))
        if self.arena < 1:
            raise InputError(f"an arena of {self.arena} bytes", where="--arena",
                             allowed="at least 1")

    @property
    def in_strips(self) -> bool:
        """Whether to compute the first blocks strip by strip."""
        return self.form in INTEGER if self.strips is None else self.strips

    def check(self, spec: NetworkSpec) -> None:
        """Check that a network can be exported with these settings.

        Parameters
        ----------
        spec
            The network.

        Raises
        ------
        InputError
            Its front end cannot be part of the model.
        """
        if self.frontend == "inside" and spec.convention != "A":
            raise InputError(f"the front end {name_of(spec.convention)} cannot be part of the "
                             "model", where="--frontend",
                             allowed=f"outside; inside only for {name_of('A')}")

    def files(self, spec: NetworkSpec) -> list[str]:
        """Names of the files that an export writes.

        A linear spectrogram has no mel table: its front end is not written as C.

        Parameters
        ----------
        spec
            The network.

        Returns
        -------
        list of str
            File names.
        """
        mel = self.frontend == "outside" and spec.n_mels is not None
        return [*MODEL_FILES, *(FRONTEND_FILES if mel else ()), *REPORT_FILES]


def check_output(output: Path) -> None:
    """Check that the output folder does not exist.

    Parameters
    ----------
    output
        The folder.

    Raises
    ------
    InputError
        It exists.
    """
    if Path(output).exists():
        raise InputError("already exists", where=str(output),
                         hint="choose another folder, or remove this one")


@dataclass(frozen=True)
class BuiltModel:
    """The graphs of one export.

    Attributes
    ----------
    as_converted
        The flatbuffer as TensorFlow's converter wrote it.
    plain
        The network without strips, shrunk.
    body
        The network that is exported, without a front end.
    model
        The network that is exported, with its front end where it is inside.
    counts
        Strips of each block; () where no block is tiled.
    """

    as_converted: bytes
    plain: Graph
    body: Graph
    model: Graph
    counts: tuple[int, ...]


def build_model(network: FoldedNetwork, settings: ExportSettings,
                spectrograms: np.ndarray | None) -> BuiltModel:
    """Convert, round and tile a network.

    Parameters
    ----------
    network
        The folded network.
    settings
        The format, and whether to use strips and a front end inside.
    spectrograms
        (n, bands, times) in dB of real frames, for the ranges; None: none.

    Returns
    -------
    BuiltModel
        What is exported, and what it is compared with.
    """
    as_converted = convert(network, settings.form, spectrograms)
    plain = Graph(as_converted)
    if settings.form in INTEGER and spectrograms is not None:
        round_first_layer(plain, network, spectrograms)
    about = {"spec": network.spec.to_dict(), "input": "spectrogram", "format": settings.form}
    counts: tuple[int, ...] = ()
    body = plain.fork()
    if settings.in_strips:
        chosen = tiling.choose_strips(plain, settings.arena)
        # One strip for each block is the plain graph.
        counts = chosen if max(chosen, default=1) > 1 else ()
        tiling.tile_blocks(body, counts)
    plain.shrink(about)
    body.shrink(about)
    model = body
    if settings.frontend == "inside":
        front = Graph(convert_frontend(network.spec))
        model = join_graphs(front, body.fork())
        model.shrink({**about, "input": "audio"})
    return BuiltModel(as_converted, plain, body, model, counts)
