"""What one task asks for; apart from ``profile``, so that reading a record loads no pydantic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one task of a step asks for. ``mem_mb`` in MiB, ``time_min`` in minutes."""

    cpus: int = 1
    mem_mb: int = 2048
    gpus: int = 0
    time_min: int = 60
