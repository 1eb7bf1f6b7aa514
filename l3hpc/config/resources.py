"""What one task requests; not in ``profile``, so that reading a record does not import pydantic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one task of a step requests.

    Attributes
    ----------
    cpus, gpus : int
        Cores and GPUs.
    mem_mb : int
        Memory, MiB.
    time_min : int
        Time limit, minutes.
    """

    cpus: int = 1
    mem_mb: int = 2048
    gpus: int = 0
    time_min: int = 60
