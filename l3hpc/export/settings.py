"""How a model is exported, which files that gives, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l3hpc.audio.conventions import name_of
from l3hpc.errors import InputError, nearest
from l3hpc.export.conversion import FORMATS, INTEGER
from l3hpc.export.tiling import BUDGET
from l3hpc.models.spec import NetworkSpec

FRONTENDS = ("outside", "inside")
MODEL_FILES = ("model.tflite", "l3_model.h", "l3_model.c")
FRONTEND_FILES = ("l3_frontend.h", "l3_frontend.c")
TEXTS = ("card.md", "report.json")


@dataclass(frozen=True)
class Settings:
    """How to export one model.

    Parameters
    ----------
    form: one of ``FORMATS``.
    strips: whether the first blocks are computed strip by strip; None: in integer formats.
    frontend: ``outside`` (the model takes spectrograms; the front end is C) or ``inside`` (audio).
    arena: bytes that strips should reach.
    calibrate: a folder of audio, for ranges and for the accuracy; integer formats need it.
    licence: of the weights, in words. geometry: front-end values that overrule the file.

    Raises ``InputError`` for what cannot be.
    """

    form: str = "int8"
    strips: bool | None = None
    frontend: str = "outside"
    arena: int = BUDGET
    calibrate: Path | None = None
    licence: str | None = None
    geometry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise InputError(f"unknown format {self.form!r}", allowed=nearest(self.form, FORMATS))
        if self.frontend not in FRONTENDS:
            raise InputError(f"no front end {self.frontend!r}", where="--frontend",
                             allowed=nearest(self.frontend, FRONTENDS))
        if self.arena < 1:
            raise InputError(f"an arena of {self.arena} bytes", where="--arena",
                             allowed="at least 1")
        if self.form in INTEGER and self.calibrate is None:
            raise InputError(f"{self.form} takes the range of every map from real frames",
                             where="--calibrate", allowed="a folder of audio",
                             hint="name recordings like those the model will hear: "
                                  "--calibrate FOLDER")

    @property
    def in_strips(self) -> bool:
        """Whether the first blocks are computed strip by strip."""
        return self.form in INTEGER if self.strips is None else self.strips

    def check(self, spec: NetworkSpec) -> None:
        """Refuse (``InputError``) what this network cannot be exported as."""
        if self.frontend == "inside" and spec.convention != "A":
            raise InputError(f"front-end convention {name_of(spec.convention)} cannot go inside",
                             where="--frontend", allowed=f"inside for {name_of('A')}; else outside")

    def files(self, spec: NetworkSpec) -> list[str]:
        """The files that the export of a network gives.

        A linear spectrogram has no mel table: its front end is not written as C.
        """
        mel = self.frontend == "outside" and spec.n_mels is not None
        return [*MODEL_FILES, *(FRONTEND_FILES if mel else ()), *TEXTS]


def check_output(output: Path) -> None:
    """Refuse (``InputError``) a folder that is already there."""
    if Path(output).exists():
        raise InputError("is already there", where=str(output),
                         hint="choose another folder, or remove this one")
