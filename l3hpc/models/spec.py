"""The shape of an L3 audio network in numbers: front end, filters, tail, sizes. No TensorFlow here.

The audio half of Look, Listen and Learn (Arandjelović and Zisserman 2017; Cramer et al. 2019) is a
batch normalisation of the spectrogram and eight 3x3 convolutions in four blocks; the students of
Specialized Embedding Approximation are narrower copies with their own front end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from l3hpc.audio.conventions import letter_of
from l3hpc.audio.framing import window_samples
from l3hpc.audio.frontends import Frontend
from l3hpc.audio.mels import format_bands, max_mels_without_empty
from l3hpc.errors import InputError, option

L3_FILTERS = (64, 64, 128, 128, 256, 256, 512, 512)
DEPTHS = (8, 7, 6, 5)  # convolutions
TAILS = ("embedding", "student")
HEADS = ("relu", "linear")
MAX_NUMBER = 10**9  # in a front end that a file states; larger ones are damage
MAX_ACTIVATION_BYTES = 1 << 28  # of one frame: 20 times that of the teacher


@dataclass(frozen=True)
class NetworkSpec:
    """One network of this family: everything that decides its shapes and its arithmetic.

    Parameters
    ----------
    rate, n_mels, hop, n_dft, fmax, convention, window_s
        The front end (see ``Frontend``).
    filters
        Output channels of the eight convolutions; five to seven for a teacher cut in depth.
    tail
        ``'embedding'``: max pooling right after the last convolution (openl3, sparse EdgeL3);
        ``'student'``: batch normalisation, ReLU if ``head`` is ``'relu'``, max pooling of the whole
        map (training model, published students).
    head
        ``'relu'`` (published; values are >= 0) or ``'linear'`` (signed); of student tails only.
    emb_dim
        Length of the output; None: ``filters[-1]``. An ``'embedding'`` tail can also give
        ``12 * filters[-1]`` (6144), from a 4 x 3 map flattened as (band, time, channel).

    Raises
    ------
    InputError
        The values do not make a network of this family.

    References
    ----------
    R. Arandjelovic and A. Zisserman, "Look, listen and learn", ICCV 2017. J. Cramer et al., "Look,
    listen, and learn more: design choices for deep audio embeddings", ICASSP 2019.
    """

    rate: int
    n_mels: int | None
    hop: int
    n_dft: int
    fmax: float | None = None
    filters: tuple[int, ...] = L3_FILTERS
    tail: str = "student"
    head: str = "relu"
    emb_dim: int | None = None
    convention: str = "A"
    window_s: float = 1.0

    def __post_init__(self) -> None:
        # People write names of conventions; files and fingerprints hold the letter.
        object.__setattr__(self, "convention", letter_of(self.convention))
        object.__setattr__(self, "filters", tuple(int(count) for count in self.filters))
        if len(self.filters) not in DEPTHS or min(self.filters) < 1:
            raise InputError(f"invalid filters: {list(self.filters)}",
                             allowed="eight positive numbers, one per convolution (five to seven "
                                     "for a network cut in depth)")
        if self.emb_dim is None:
            object.__setattr__(self, "emb_dim", self.filters[-1])
        if self.tail not in TAILS or self.head not in HEADS:
            raise InputError(f"unknown tail {self.tail!r} or head {self.head!r}",
                             allowed=f"tails: {', '.join(TAILS)}; heads: {', '.join(HEADS)}")
        # Before anything is allocated: a damaged file may state any geometry.
        if activation_bytes(self) > MAX_ACTIVATION_BYTES:
            raise InputError(f"this network needs {activation_bytes(self):,} bytes per frame",
                             allowed=f"at most {MAX_ACTIVATION_BYTES:,}")
        bands, times = self.last_map
        if bands < 1 or times < 1:
            shape = self.frontend.shape
            raise InputError(f"a spectrogram of {shape[0]} bands x {shape[1]} times is too small "
                             "for three 2x2 poolings", allowed="at least 8 x 8")
        if self.dim == self.filters[-1]:
            return
        if self.tail != "embedding" or self.dim != 12 * self.filters[-1]:
            raise InputError(
                f"an embedding of {self.dim} values cannot come from {self.filters[-1]} "
                "channels in the last convolution",
                allowed=f"{self.filters[-1]}" + (f" or {12 * self.filters[-1]}"
                                                 if self.tail == "embedding" else ""))
        if bands % 4 or times % 3:
            raise InputError(f"the last feature map, {bands} x {times}, cannot be pooled to 4 x 3",
                             allowed="bands divisible by 4, times divisible by 3")

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return int(self.emb_dim or self.filters[-1])

    @property
    def frontend(self) -> Frontend:
        """The spectrogram this network takes."""
        return Frontend(self.rate, self.n_dft, self.hop, self.n_mels, self.fmax, self.convention,
                        self.window_s)

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """(bands, times) of the feature maps in each of the four blocks."""
        bands, times = self.frontend.shape
        return tuple((bands >> block, times >> block) for block in range(4))

    @property
    def last_map(self) -> tuple[int, int]:
        """(bands, times) of the last convolution's feature map."""
        return self.maps[(len(self.filters) - 1) // 2]

    @property
    def halvings(self) -> tuple[int, ...]:
        """Convolutions (from 0) that a 2x2 max pooling follows: the last of each block but one."""
        return tuple(index for index in (1, 3, 5) if index < len(self.filters) - 1)

    @property
    def pool(self) -> tuple[int, int]:
        """Size (and stride) of the last pooling."""
        bands, times = self.last_map
        return (bands, times) if self.dim == self.filters[-1] else (bands // 4, times // 3)

    @property
    def final_norm(self) -> bool:
        """Whether a batch normalisation follows the last convolution."""
        return self.tail == "student"

    @property
    def model_repr(self) -> str:
        """The published name of a geometry, ``rate_mels_hop_dft[_half]_fmax_F``."""
        half = "_half" if self.filters[0] * 2 == L3_FILTERS[0] else ""
        fmax = f"{self.fmax:g}" if self.fmax is not None else "None"
        return f"{self.rate}_{self.n_mels}_{self.hop}_{self.n_dft}{half}_fmax_{fmax}"

    def layers(self) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
        """The weighted layers in order.

        Arrays of a convolution: kernel (3, 3, in, out), bias. Of a normalisation: gamma, beta,
        moving mean, moving variance. The front end has no weights.

        Returns
        -------
        list of tuple
            ``'batch_norm'`` or ``'conv'``, and the shapes of its arrays.
        """
        result: list[tuple[str, tuple[tuple[int, ...], ...]]] = [("batch_norm", ((1,),) * 4)]
        before = 1
        for index, count in enumerate(self.filters):
            result.append(("conv", ((3, 3, before, count), (count,))))
            if index < len(self.filters) - 1 or self.final_norm:
                result.append(("batch_norm", ((count,),) * 4))
            before = count
        return result

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` reads."""
        values = {**asdict(self), "filters": list(self.filters)}
        # Files of one-second networks stay those of earlier versions.
        if self.window_s == 1:
            del values["window_s"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkSpec:
        """The spec that ``to_dict`` described.

        Parameters
        ----------
        values
            JSON values.

        Returns
        -------
        NetworkSpec
            The network.

        Raises
        ------
        InputError
            Keys are unknown or missing, or values are of another kind.
        """
        known = {field.name for field in fields(cls)}
        if set(values) - known or not {"rate", "n_mels", "hop", "n_dft"} <= set(values):
            raise InputError(f"not a network spec: keys {sorted(values)}",
                             allowed=", ".join(sorted(known)))
        for key, value in values.items():
            if not is_valid_value(key, value):
                raise InputError(f"not a network spec: {key} is {value!r:.60}")
        return cls(**values)


def openl3_spec(input_repr: str = "mel256", embedding_size: int = 512) -> NetworkSpec:
    """The openl3 network of an input representation.

    Parameters
    ----------
    input_repr
        ``'linear'``, ``'mel128'`` or ``'mel256'``.
    embedding_size
        512 or 6144.

    Returns
    -------
    NetworkSpec
        The network, at 48 kHz.

    Raises
    ------
    InputError
        There is no such network.

    Examples
    --------
    >>> openl3_spec("mel128").frontend.shape
    (128, 199)
    """
    geometry = {"linear": (None, 512), "mel128": (128, 2048), "mel256": (256, 2048)}
    if input_repr not in geometry:
        raise InputError(f"unknown input representation {input_repr!r}",
                         allowed=", ".join(geometry))
    n_mels, n_dft = geometry[input_repr]
    return NetworkSpec(48000, n_mels, 242, n_dft, tail="embedding", emb_dim=embedding_size)


def student_filters(emb_dim: int, width: float | None = None) -> tuple[int, ...]:
    """Filters of a student: those of L3 times a width, the last two as many as the embedding has.

    Parameters
    ----------
    emb_dim
        Length of the embedding.
    width
        Factor for the first six convolutions, above 0 and at most 1. None: as in the published
        students, half the width up to 256 dimensions and the full one up to 512.

    Returns
    -------
    tuple of int
        Output channels of the eight convolutions.

    Raises
    ------
    InputError
        More than 512 dimensions without a width, which no published student has.

    Examples
    --------
    >>> student_filters(128)
    (32, 32, 64, 64, 128, 128, 128, 128)
    >>> student_filters(32, width=0.25)
    (16, 16, 32, 32, 64, 64, 32, 32)
    """
    if width is None and emb_dim > L3_FILTERS[-1]:
        raise InputError(f"no published student has embeddings of length {emb_dim}",
                         where=option("emb-dim"),
                         allowed=f"at most 512, or any length with {option('width')}",
                         hint=f"state the width, for example: {option('width', 1)}")
    if width is None:
        width = 0.5 if emb_dim <= 256 else 1.0
    return (*(max(1, round(width * count)) for count in L3_FILTERS[:6]), emb_dim, emb_dim)


def student_spec(rate: int = 8000, n_mels: int = 64, hop: int = 160, n_dft: int = 1024,
                 fmax: float | None = None, emb_dim: int = 128,
                 filters: Sequence[int] | None = None, head: str = "linear",
                 window_s: float = 1.0) -> NetworkSpec:
    """A student network; the defaults are the published 128-d geometry.

    Parameters
    ----------
    rate
        Hz.
    n_mels, hop, n_dft, fmax
        The front end: mel bands, samples, samples, Hz.
    emb_dim
        Length of the embedding.
    filters
        Output channels of the eight convolutions; None: see ``student_filters``.
    head
        ``'linear'`` or ``'relu'``.
    window_s
        Length of a window in seconds.

    Returns
    -------
    NetworkSpec
        The network.

    Raises
    ------
    InputError
        The values are not those of a student (see ``check_student``).

    Examples
    --------
    >>> student_spec().dim, parameter_count(student_spec())
    (128, 584420)
    """
    check_student(rate, n_mels, hop, n_dft, fmax, emb_dim, filters, window_s)
    chosen = tuple(filters) if filters is not None else student_filters(emb_dim)
    return NetworkSpec(rate, n_mels, hop, n_dft, fmax, chosen, "student", head, emb_dim,
                       window_s=window_s)


def check_student(rate: int, n_mels: int, hop: int, n_dft: int, fmax: float | None, emb_dim: int,
                  filters: Sequence[int] | None = None, window_s: float = 1.0) -> None:
    """Check the values of a student; an error names the option and what is allowed.

    Parameters
    ----------
    rate
        Hz.
    n_mels
        Mel bands.
    hop
        Samples from one spectrum to the next.
    n_dft
        Samples per spectrum.
    fmax
        Hz; None: half the rate.
    emb_dim
        Length of the embedding.
    filters
        Output channels of the eight convolutions; None: see ``student_filters``.
    window_s
        Length of a window in seconds.

    Raises
    ------
    InputError
        A DFT that is odd or longer than a window; a hop longer than the DFT (it would
        skip samples); fmax above half the rate; mel bands without a DFT bin; a spectrogram too
        small for three poolings; or an embedding length that does not follow from the filters.
    """
    def refuse(name: str, message: str, allowed: str) -> None:
        raise InputError(message, where=option(name), allowed=allowed)

    if rate < 1000:
        refuse("asr", f"a sample rate of {rate} Hz is too low for audio", "at least 1000 Hz")
    # in this order, because each is only defined where those before it are allowed
    samples = window_samples(window_s, rate)
    if n_dft < 2 or n_dft % 2 or n_dft > samples:
        frame = "a one-second frame" if window_s == 1 else f"a frame of {window_s:g} s"
        refuse("dft", f"a DFT of {n_dft} samples does not fit {frame} at {rate} Hz",
               f"an even number of samples from 2 to {samples - samples % 2}")
    if hop < 1 or hop > n_dft:
        refuse("hop", f"a hop of {hop} samples does not fit a DFT of {n_dft}: "
               + ("it would skip samples" if hop > n_dft else "it would never advance"),
               f"1 to {n_dft} samples")
    if fmax is not None and not 0 < fmax <= rate / 2:
        refuse("fmax", f"fmax {fmax:g} Hz is above half the sample rate of {rate} Hz",
               f"above 0 and at most {rate / 2:g} Hz")
    if n_mels < 8:
        refuse("mels", f"{n_mels} mel bands are too few for three 2x2 poolings", "at least 8")
    frontend = Frontend(rate, n_dft, hop, n_mels, fmax, window_s=window_s)
    _check_bands(frontend)
    if frontend.shape[1] < 8:
        refuse("hop", f"a hop of {hop} samples gives {frontend.shape[1]} spectra per "
               f"{'second' if window_s == 1 else 'window'}, too few for three 2x2 poolings",
               f"at most {(samples - 1) // 7} samples")
    chosen = tuple(filters) if filters is not None else student_filters(emb_dim)
    if len(chosen) != 8 or min(chosen) < 1:
        refuse("filters", f"invalid filters: {list(chosen)}",
               "eight positive numbers, one per convolution")
    if chosen[-1] != emb_dim:
        refuse("emb-dim", f"the last convolution has {chosen[-1]} filters, so the embedding has "
               f"length {chosen[-1]}, not {emb_dim}", f"{chosen[-1]}, or other filters")


def parameter_count(spec: NetworkSpec, *, trainable: bool = False) -> int:
    """Number of parameters of a network.

    Parameters
    ----------
    spec
        The network.
    trainable
        Whether to leave out the moving statistics.

    Returns
    -------
    int
        Parameters that are stored, or those that are trained.
    """
    total = 0
    for kind, shapes in spec.layers():
        for shape in shapes[:2] if trainable and kind == "batch_norm" else shapes:
            size = 1
            for length in shape:
                size *= length
            total += size
    return total


def activation_bytes(spec: NetworkSpec) -> int:
    """Size of the largest feature map of one frame as float32.

    Parameters
    ----------
    spec
        The network.

    Returns
    -------
    int
        Bytes.
    """
    return max(4 * bands * times * max(spec.filters[2 * block:2 * block + 2])
               for block, (bands, times) in enumerate(spec.maps)
               if 2 * block < len(spec.filters))


def is_valid_value(key: str, value: Any) -> bool:
    """Whether a value is of the kind that ``NetworkSpec`` takes for a field.

    Parameters
    ----------
    key
        Name of the field.
    value
        Any JSON value.

    Returns
    -------
    bool
        False for a wrong type, or a number beyond ``MAX_NUMBER``.
    """
    if key in ("tail", "head", "convention"):
        return isinstance(value, str)
    if key == "filters":
        return isinstance(value, (list, tuple)) and all(is_valid_value("hop", one) for one in value)
    if value is None:
        return key in ("n_mels", "fmax", "emb_dim")
    if isinstance(value, float):
        return key in ("fmax", "window_s") and np.isfinite(value)
    # bool is a subclass of int, and JSON's true is no number of samples.
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and abs(int(value)) <= MAX_NUMBER


def _check_bands(frontend: Frontend) -> None:
    """Refuse a front end with mel bands that contain no DFT bin."""
    rate, n_dft, mels, fmax = frontend.rate, frontend.n_dft, frontend.n_mels, frontend.fmax
    empty = frontend.empty_bands()
    if not empty:
        return
    # The smallest DFT that has a bin for every band, by powers of two and within a frame.
    longer, remedy = n_dft, ""
    while not remedy and longer * 2 <= rate:
        longer *= 2
        fits = max_mels_without_empty(rate, longer, fmax)
        if fits >= (mels or 0):
            remedy = f", or a longer DFT ({option('dft', longer)} supports {fits})"
    raise InputError(
        f"{option('mels', mels)} leaves {len(empty)} of {mels} mel bands empty at {rate} Hz with a "
        f"DFT of {n_dft} (bins are {rate / n_dft:.1f} Hz apart).",
        allowed=f"Use at most {max_mels_without_empty(rate, n_dft, fmax)} mels{remedy}.",
        hint=f"Empty (of 0 to {frontend.bands - 1}): {format_bands(empty)}.")
