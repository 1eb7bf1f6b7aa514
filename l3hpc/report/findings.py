"""What the report shows, as plain data: no file formats and no layout. ``None`` means unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, float]


@dataclass(frozen=True)
class Epoch:
    """One line of the training history; ``epoch`` counts from 1."""

    epoch: int
    loss: float | None = None
    valid_loss: float | None = None
    mae: float | None = None
    valid_mae: float | None = None


@dataclass(frozen=True)
class Variance:
    """How much of the teacher's variance φ keeps. ``ratios``: per component, largest first."""

    approx: str
    in_dim: int
    out_dim: int
    samples: int | None = None
    ratios: tuple[float, ...] = ()

    @property
    def kept(self) -> float | None:
        """Share of the variance in the chosen dimensions, 0 to 1."""
        return sum(self.ratios[: self.out_dim]) if self.ratios else None


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one tag; ``prevalence`` is what guessing would reach."""

    tag: str
    auprc: float | None
    recall: tuple[float, ...] = ()
    precision: tuple[float, ...] = ()
    positives: int | None = None
    recordings: int | None = None
    interval: Interval | None = None

    @property
    def prevalence(self) -> float | None:
        """Share of recordings that carry the tag."""
        if self.positives is None or not self.recordings:
            return None
        return self.positives / self.recordings


@dataclass(frozen=True)
class Scores:
    """The metrics of one level (``coarse`` or ``fine``) on one split.

    confidence: of the intervals (0.95), which are by name of the metric; method: how they were
    found, from how many resamples.
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


@dataclass(frozen=True)
class Network:
    """Size of a network, counted as the SEA poster counts."""

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
    """How often an audio-visual network was right about pairs of unseen videos.

    interval: exact binomial, 95 %. matching, non_matching: shares of right answers in each half.
    """

    pairs: int
    right: int
    interval: Interval
    matching: float | None = None
    non_matching: float | None = None


@dataclass(frozen=True)
class StepFacts:
    """One step of the chain. ``state``: done, reused, running, failed, waiting. Time in seconds.

    kind: which step it is, where its name is another.
    """

    name: str
    needs: tuple[str, ...] = ()
    state: str = "done"
    tasks: int = 1
    tasks_done: int = 1
    seconds: float | None = None
    detail: str = ""
    fingerprint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class LedgerRow:
    """One row of a results tab: its column titles and values in order."""

    tab: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Findings:
    """Everything on the page."""

    run: str
    title: str = "Results"
    created: str = ""
    teacher: str = ""
    teacher_trained: bool = True
    epochs: tuple[Epoch, ...] = ()
    variance: Variance | None = None
    scores: tuple[Scores, ...] = ()
    correspondence: Correspondence | None = None
    networks: tuple[Network, ...] = ()
    model_file: str = ""
    model_bytes: int | None = None
    steps: tuple[StepFacts, ...] = ()
    ledger: tuple[LedgerRow, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def score(self, level: str = "coarse", split: str = "validate") -> Scores | None:
        """The scores of one level and split, if this run has them."""
        for scores in self.scores:
            if (scores.level, scores.split) == (level, split):
                return scores
        return None
