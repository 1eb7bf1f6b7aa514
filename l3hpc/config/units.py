"""Amounts as users write them: memory (``16GB``) and time (``4h``, ``1-00:00:00``), and back again.

Memory is counted as Slurm counts it: 1 GB = 1 GiB = 1024 MiB.
"""

from __future__ import annotations

import math
import re

from l3hpc.errors import InputError

MEMORY_HELP = "write a number and a unit: 512MB, 16GB, 1.5TB"
TIME_HELP = "write a number and a unit (90m, 20min, 4h, 7d, 1d12h), or [D-]HH:MM:SS"

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b)?", re.IGNORECASE)
_MIB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_DAYS_CLOCK = re.compile(r"(\d+)-(\d{1,2})(?::(\d\d))?")
_UNIT = r"(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
_WORD = re.compile(rf"(\d+(?:\.\d+)?)\s*{_UNIT}(?![a-z])", re.IGNORECASE)
_WORDS = re.compile(rf"(?:{_WORD.pattern}\s*)+", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_memory(text: str) -> int:
    """Parse an amount of memory; a number without a unit is refused.

    Parameters
    ----------
    text
        ``512MB``, ``16GB``, ``16G``, ``1.5TB``.

    Returns
    -------
    int
        MiB, rounded up.

    Raises
    ------
    InputError
        If it is not an amount of memory.

    Examples
    --------
    >>> parse_memory("16GB"), parse_memory("1.5TB")
    (16384, 1572864)
    """
    match = _MEMORY.fullmatch(str(text).strip())
    if not match:
        raise InputError(f"{str(text)!r} is not an amount of memory", allowed=MEMORY_HELP)
    # Slurm counts whole MiB
    amount = math.ceil(float(match[1]) * _MIB[match[2].lower()])
    if not 1 <= amount <= 2**30:
        raise InputError(f"{str(text)!r} is not a possible amount of memory", allowed=MEMORY_HELP)
    return amount


def parse_task_memory(text: str) -> int:
    """Parse the memory that a task requests: an amount, or 0 for all memory of its node.

    Parameters
    ----------
    text
        As for ``parse_memory``, or ``0``.

    Returns
    -------
    int
        MiB, rounded up; 0 for all of the node.

    Raises
    ------
    InputError
        If it is neither.

    Examples
    --------
    >>> parse_task_memory("16GB"), parse_task_memory("0")
    (16384, 0)
    """
    return 0 if str(text).strip() == "0" else parse_memory(text)


def parse_time(text: str) -> int:
    """Parse a time limit; a number without a unit is refused.

    Parameters
    ----------
    text
        ``90m``, ``20min``, ``4h``, ``1d12h``, ``12:00:00``, ``1-00:00:00``.

    Returns
    -------
    int
        Minutes, rounded up.

    Raises
    ------
    InputError
        If it is not a time from 1 minute to 1 year.

    Examples
    --------
    >>> parse_time("1d12h"), parse_time("1-00:00:00")
    (2160, 1440)
    """
    stripped = str(text).strip()
    if match := _CLOCK.fullmatch(stripped):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total: float = days * 86400 + hours * 3600 + minutes * 60 + seconds
    elif match := _DAYS_CLOCK.fullmatch(stripped):
        days, hours, minutes = (int(part or 0) for part in match.groups())
        total = days * 86400 + hours * 3600 + minutes * 60
    elif _WORDS.fullmatch(stripped):
        total = sum(float(value) * _SECONDS[unit[0].lower()] for value, unit in
                    _WORD.findall(stripped))
    else:
        raise InputError(f"{str(text)!r} is not a time limit", allowed=TIME_HELP)
    # Slurm counts whole minutes
    amount = math.ceil(total / 60)
    if not 1 <= amount <= 525_600:
        raise InputError(f"{str(text)!r} is not a possible time limit (1 minute to 1 year)",
                         allowed=TIME_HELP)
    return amount


def format_memory(mib: int) -> str:
    """Format an amount of memory.

    Parameters
    ----------
    mib
        MiB.

    Examples
    --------
    >>> format_memory(16384), format_memory(512)
    ('16 GB', '512 MB')
    """
    for unit, size in (("TB", 1024 * 1024), ("GB", 1024)):
        if mib >= size:
            # .3g would write 1000 as 1e+03
            return f"{mib / size:.3g} {unit}" if mib < 1000 * size else f"{mib // size:,} {unit}"
    return f"{mib} MB"


def memory_setting(mib: int) -> str:
    """Return an amount of memory as a setting takes it, exactly: for ``--set STEP.mem=``.

    Parameters
    ----------
    mib
        MiB.

    Examples
    --------
    >>> memory_setting(16384), memory_setting(1536), memory_setting(24105)
    ('16GB', '1.5GB', '24105MB')
    """
    for unit, size in (("TB", 1024 * 1024), ("GB", 1024)):
        if mib >= size and 2 * mib % size == 0:
            return f"{mib / size:.15g}{unit}"
    return f"{mib}MB"


def format_task_memory(mib: int) -> str:
    """Format the memory that a task requests.

    Parameters
    ----------
    mib
        MiB; 0 for all of the node.

    Examples
    --------
    >>> format_task_memory(16384), format_task_memory(0)
    ('16 GB', 'whole node')
    """
    return format_memory(mib) if mib else "whole node"


def format_time(minutes: int) -> str:
    """Format a time limit.

    Parameters
    ----------
    minutes
        Minutes.

    Examples
    --------
    >>> format_time(90), format_time(10080)
    ('1 h 30 min', '7 d')
    """
    days, rest = divmod(minutes, 1440)
    hours, left = divmod(rest, 60)
    parts = [f"{value} {unit}" for value, unit in ((days, "d"), (hours, "h"), (left, "min"))
             if value]
    return " ".join(parts) or "0 min"


def slurm_time(minutes: int) -> str:
    """Format a time limit for sbatch.

    Parameters
    ----------
    minutes
        Minutes.

    Examples
    --------
    >>> slurm_time(90)
    '0-01:30:00'
    """
    days, rest = divmod(minutes, 1440)
    hours, left = divmod(rest, 60)
    # with days and seconds, since Slurm reads 2:30 as minutes and seconds
    return f"{days}-{hours:02d}:{left:02d}:00"
