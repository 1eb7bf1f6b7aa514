"""What came out of the steps of a run, and of several runs, as the report shows it: plain data.

``None`` means unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, float]


@dataclass(frozen=True)
class Epoch:
    """One line of the training history.

    Attributes
    ----------
    epoch
        Counted from 1.
    loss, valid_loss
        Loss on the training and on the validation set.
    mae, valid_mae
        Mean absolute error on the training and on the validation set.
    """

    epoch: int
    loss: float | None = None
    valid_loss: float | None = None
    mae: float | None = None
    valid_mae: float | None = None


@dataclass(frozen=True)
class Variance:
    """How much of the teacher's variance the reduction φ keeps.

    Attributes
    ----------
    approx
        Method of the reduction, such as ``pca``.
    in_dim, out_dim
        Dimensions before and after the reduction.
    samples
        Number of rows on which φ was fitted.
    ratios
        Share of the variance per component, 0 to 1, largest first.
    kernel
        That of a kernel PCA, whose variance is not the teacher's; empty for all others.
    """

    approx: str
    in_dim: int
    out_dim: int
    samples: int | None = None
    ratios: tuple[float, ...] = ()
    kernel: str = ""

    @property
    def method(self) -> str:
        """``pca`` or ``kernel PCA (RBF)``."""
        from l3hpc.reduction.header import method_name

        return method_name(self.approx, self.kernel or "linear")

    @property
    def kept(self) -> float | None:
        """Share of the variance in the ``out_dim`` dimensions that are kept, 0 to 1."""
        return sum(self.ratios[: self.out_dim]) if self.ratios else None


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one tag.

    Attributes
    ----------
    tag
        Name of the tag.
    auprc
        Area under the curve, 0 to 1.
    recall, precision
        Points of the curve, of equal number, each 0 to 1.
    positives, recordings
        Recordings that carry the tag, and all recordings.
    interval
        Confidence interval of ``auprc``.
    drawn_auprc
        Area under the points, where ``auprc`` is the mean of several seeds.
    """

    tag: str
    auprc: float | None
    recall: tuple[float, ...] = ()
    precision: tuple[float, ...] = ()
    positives: int | None = None
    recordings: int | None = None
    interval: Interval | None = None
    drawn_auprc: float | None = None

    @property
    def prevalence(self) -> float | None:
        """Share of recordings that carry the tag: the precision at chance level."""
        if self.positives is None or not self.recordings:
            return None
        return self.positives / self.recordings


@dataclass(frozen=True)
class Bin:
    """The pairs of clip and tag whose probability is from ``low`` to ``high``.

    Attributes
    ----------
    low, high
        Ends of the bin, 0 to 1.
    pairs
        Their number.
    predicted, observed
        Mean probability and frequency; None without pairs.
    """

    low: float
    high: float
    pairs: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class Calibration:
    """How well probabilities agree with frequencies.

    Attributes
    ----------
    brier, reference, error
        Brier score, that of always predicting the frequency, and expected calibration error; of a
        tag, None where its truth is not known.
    bins, tags
        The bins, and the same of each tag (without bins); empty for a tag.
    """

    brier: float | None
    reference: float | None
    error: float | None
    bins: tuple[Bin, ...] = ()
    tags: Mapping[str, Calibration] = field(default_factory=dict)


@dataclass(frozen=True)
class Detected:
    """A tag at its threshold, on one split.

    Attributes
    ----------
    tag
        Its column in a predictions file.
    threshold, chosen
        The threshold, and whether there were positive clips to choose it on.
    positives
        Clips that have the tag.
    precision, recall, f1
        At the threshold; None where they are not defined.
    f1_at_half
        F1 at 0.5.
    """

    tag: str
    threshold: float
    chosen: bool
    positives: int
    precision: float | None
    recall: float | None
    f1: float | None
    f1_at_half: float | None


@dataclass(frozen=True)
class SensorScore:
    """The clips of one sensor: their number, that of their positives, and their micro-AUPRC."""

    sensor: str
    clips: int
    positives: int
    micro_auprc: float | None


@dataclass(frozen=True)
class Detection:
    """All of it, of one level on one split.

    Attributes
    ----------
    calibration
        None in evaluations of earlier versions.
    tags
        One per tag; empty where ``validate`` was not predicted.
    micro_f1, macro_f1, micro_f1_at_half, macro_f1_at_half
        Over all tags, at their thresholds and at 0.5.
    sensors
        One per sensor.
    """

    calibration: Calibration | None = None
    tags: tuple[Detected, ...] = ()
    micro_f1: float | None = None
    macro_f1: float | None = None
    micro_f1_at_half: float | None = None
    macro_f1_at_half: float | None = None
    sensors: tuple[SensorScore, ...] = ()


@dataclass(frozen=True)
class Scores:
    """The metrics of one tag level on one split.

    Attributes
    ----------
    split
        ``validate`` or ``test``.
    level
        ``coarse`` or ``fine``.
    micro_auprc, micro_f1, macro_auprc
        Metrics over all tags, 0 to 1.
    curves
        One per tag.
    recordings
        Number of recordings that were scored.
    confidence
        Confidence level of the intervals, such as 0.95.
    intervals
        Name of a metric → its confidence interval.
    method, resamples
        How the intervals were computed, and from how many resamples.
    spread, seeds
        Name of a metric → its standard deviation over classifiers that differ in their seed, and
        the number of them.
    detection
        Thresholds, calibration and sensors.
    """

    split: str
    level: str
    micro_auprc: float | None
    micro_f1: float | None
    macro_auprc: float | None
    curves: tuple[Curve, ...] = ()
    recordings: int | None = None
    confidence: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    method: str = ""
    resamples: int | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 1
    detection: Detection | None = None


@dataclass(frozen=True)
class Network:
    """Size of a network, counted as on the SEA poster.

    Attributes
    ----------
    name, input
        Labels of the network and of its input, such as ``8,000 Hz, 64 mels``.
    emb_dim
        Length of its embedding.
    parameters
        Number of parameters, moving statistics of batch normalisation included.
    activation_values
        Number of values in the largest single feature map.
    """

    name: str
    input: str
    emb_dim: int
    parameters: int
    activation_values: int

    @property
    def float32_mb(self) -> float:
        """Parameters in float32, in 10^6 bytes."""
        return self.parameters * 4 / 1e6

    @property
    def int8_bytes(self) -> int:
        """Parameters in 8 bits, in bytes."""
        return self.parameters

    @property
    def activation_bytes(self) -> int:
        """Largest single feature map in float32, in bytes."""
        return self.activation_values * 4


@dataclass(frozen=True)
class Correspondence:
    """How often an audio-visual network classified pairs of unseen videos correctly.

    Attributes
    ----------
    pairs, right
        Number of pairs, and of those that were classified correctly.
    interval
        Exact binomial confidence interval (95%) of the share of correct answers.
    matching, non_matching
        Share of correct answers among matching and among non-matching pairs, 0 to 1.
    """

    pairs: int
    right: int
    interval: Interval
    matching: float | None = None
    non_matching: float | None = None


@dataclass(frozen=True)
class Metric:
    """A number that tells how good a result is; ``better``: ``higher``, ``lower`` or ''."""

    name: str
    better: str = ""


@dataclass(frozen=True)
class Variant:
    """A combination of a sweep, or one of several runs.

    Attributes
    ----------
    label
        Its values as text, or the name of the run.
    values
        Swept option, or parameter that differs → its value.
    state
        ``done``, or how far it is.
    metrics
        Name of a metric → its value, for those that are known.
    epochs
        The training history, if there is one.
    result
        The summary of the last step.
    address
        Of the report of the run; empty if it has none.
    random_weights
        Whether it is a run with results of a random-weight teacher.
    epochs_of
        The kind of step whose history ``epochs`` is.
    target
        What the first metric is measured against, if that differs: a loss says nothing beside that
        of another target.
    """

    label: str
    values: Mapping[str, str]
    state: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    result: str = ""
    address: str = ""
    random_weights: bool = False
    epochs_of: str = ""
    target: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Variants side by side.

    Attributes
    ----------
    options
        What distinguishes them.
    metrics
        What came out, the most important first.
    variants
        In the order of the sweep, or of the command line.
    of_runs
        Whether they are runs, and not the combinations of one sweep.
    notes
        Sentences about parts that are missing, and why.
    """

    options: tuple[str, ...]
    metrics: tuple[Metric, ...]
    variants: tuple[Variant, ...]
    of_runs: bool = False
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> int | None:
        """Index of the best variant by the first metric; None if that is unknown, or always equal,
        or cannot be compared, or of runs, if only one of them has it.
        """
        if not self.metrics or not self.metrics[0].better or self.has_targets:
            return None
        name, sign = self.metrics[0].name, 1 if self.metrics[0].better == "higher" else -1
        known = [(sign * variant.metrics[name], -index)
                 for index, variant in enumerate(self.variants) if name in variant.metrics]
        if self.of_runs and len(known) < 2:
            return None
        equal = len(known) > 1 and len({value for value, _ in known}) == 1
        return -max(known)[1] if known and not equal else None

    @property
    def has_targets(self) -> bool:
        """Whether the first metric of some variants is measured against another target."""
        return len({variant.target for variant in self.variants
                    if self.metrics and self.metrics[0].name in variant.metrics}) > 1
