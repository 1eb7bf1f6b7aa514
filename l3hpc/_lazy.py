"""Lazy attributes for a package, so that importing it stays fast."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def attach(package: str, modules: Mapping[str, str]
           ) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for the ``__init__`` of a package.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    modules
        Public name → the module that defines it. The module is imported when the name is first
        used.

    Returns
    -------
    getattr, dir : callable
        To be assigned to ``__getattr__`` and ``__dir__`` (PEP 562).
    """
    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *modules})

    return load, names
