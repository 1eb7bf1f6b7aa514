"""``NAME.teacher.yaml`` beside a network file: what the file itself does not contain.

A network file lists its tensors, but not the sampling rate of its audio, the scale of the samples,
or how the spectrogram that it takes is computed. The sidecar does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from l3hpc.errors import InputError, nearest
from l3hpc.io.files import write_text
from l3hpc.teachers.base import HIGHEST_RATE, LOWEST_RATE
from l3hpc.teachers.logmel import LogMel

ENDING = ".teacher.yaml"
LONGEST_S = 60.0


class Sidecar(BaseModel):
    """The values of a sidecar.

    Attributes
    ----------
    rate
        Hz of the audio.
    window
        Seconds of audio per embedding.
    input, output
        Names of the tensors; the output is the embedding.
    pool
        How an output of more than one vector per window becomes one, over all axes but ``axis``.
    axis
        The axis of the values in such an output.
    scale
        Samples in [-1, 1] are multiplied by this.
    frontend
        The spectrogram that the network takes; None for audio.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Annotated[int, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]
    window: Annotated[float, Field(gt=0, le=LONGEST_S)]
    input: str
    output: str
    pool: Literal["none", "mean", "max"] = "none"
    axis: int = -1
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    frontend: LogMel | None = None


def sidecar_path(file: Path) -> Path:
    """The sidecar of a network file: ``birdnet.teacher.yaml`` for ``birdnet.tflite``."""
    return file.with_name(file.name.rsplit(".", 1)[0] + ENDING)


def read_sidecar(file: Path) -> Sidecar:
    """Read the sidecar of a network file.

    Parameters
    ----------
    file
        The network file.

    Raises
    ------
    InputError
        There is none, or a value is missing, unknown or not allowed.
    """
    # PyYAML is loaded when a sidecar is read: most teachers have none
    from l3hpc.io.yaml import read_yaml

    path = sidecar_path(file)
    values, lines = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError("is not a list of keys and values", where=str(path),
                         allowed=", ".join(Sidecar.model_fields))
    return check_sidecar(values, str(path), lines)


def check_sidecar(values: dict[str, Any], where: str, lines: dict[Any, int] | None = None,
                  options: Mapping[str, str] | None = None) -> Sidecar:
    """Check the values of a sidecar.

    Parameters
    ----------
    values
        By name.
    where
        What messages name.
    lines
        The line of each value, where they come from a file.
    options
        Key → the option that stated its value; messages about that value name the option.

    Raises
    ------
    InputError
        A value is missing, unknown or not allowed.
    """
    try:
        return Sidecar.model_validate(values)
    except ValidationError as error:
        # A key that is misspelt is also missing: the misspelling says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        line = (lines or {}).get(first["loc"])
        place = f"{where}:{line}" if line else where
        option = (options or {}).get(str(first["loc"][0]))
        place = option or place
        if first["type"] == "missing":
            raise InputError(f"states no {key}", where=place,
                             hint=f"add it: {f'--set {key}=…' if option else f'{key}: …'}"
                             ) from None
        if first["type"] == "extra_forbidden":
            *outer, last = map(str, first["loc"])
            fields = LogMel.model_fields if outer else Sidecar.model_fields
            raise InputError(f"unknown key {key!r}", where=place,
                             allowed=nearest(last, fields)) from None
        raise InputError(f"{key} is {first['input']!r:.60}: {first['msg'].lower()}",
                         where=place) from None


def write_sidecar(file: Path, sidecar: Sidecar) -> Path:
    """Write the sidecar of a network file, with a comment on every value.

    Parameters
    ----------
    file
        The network file.
    sidecar
        Its values.

    Returns
    -------
    Path
        The file that was written.
    """
    import yaml

    notes = {"rate": "Hz", "window": "seconds of audio per embedding", "input": "tensor",
             "output": "tensor that is the embedding",
             "pool": "none, mean or max: over all axes of the output but 'axis'",
             "scale": "samples in [-1, 1] are multiplied by this",
             "frontend": "the log-mel spectrogram that the network takes"}
    lines = [f"# How {file.name!r} embeds audio, as found by: l3hpc teacher describe"]
    for key, value in sidecar.model_dump(exclude_none=True).items():
        if key == "axis" and sidecar.pool == "none":
            continue
        text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True).rstrip()
        if "\n" in text:
            lines += [f"# {notes[key]}", text]
        else:
            lines.append(f"{text}  # {notes[key]}" if key in notes else text)
    path = sidecar_path(file)
    write_text(path, "\n".join(lines) + "\n")
    return path
