"""Names of a package that are loaded when they are used, so that importing it stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, where: Mapping[str, str]
          ) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``, for its ``__init__``.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    where
        Name → the module that has it.
    """
    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(where[name]), name)

    def listed() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *where})

    return load, listed
