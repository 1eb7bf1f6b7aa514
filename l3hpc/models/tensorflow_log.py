"""TensorFlow's first import without its start-up lines, wherever it is imported.

From 2.18 on TensorFlow writes them to the file descriptor of stderr before its log level holds, so
``TF_CPP_MIN_LOG_LEVEL`` does not reach them. Warnings and errors are kept.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NVIDIA = "/dev/nvidiactl"
SCRIPTS_LEVEL = "2"  # what the job scripts export: errors
_STARTING = re.compile(
    r"I\d{4} "  # I0000 00:00:1795277630.127942   32086 port.cc:153] …
    r"|\d{4}-\d\d-\d\d [\d:.]+: I "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|To enable the following instructions: ")


def import_tensorflow() -> None:
    """Import TensorFlow, if that was not done yet, and let through only what is worth reading."""
    if "tensorflow" in sys.modules:
        return
    with _starting():
        import tensorflow  # noqa: F401


def quiet_first_import() -> None:
    """From now on the first import of TensorFlow is quiet, whichever module does it, Keras too."""
    if "tensorflow" not in sys.modules and not any(
            isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, once, as it would have been found without us."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None
                  ) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs the module's code without its start-up lines, then leaves the loader that it has."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        with _starting():
            self._loader.exec_module(module)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Hold back what is written to stderr meanwhile; then let through what is worth reading."""
    has_gpu = os.path.exists(NVIDIA)  # without one, "failed call to cuInit" is no news
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", SCRIPTS_LEVEL)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if level == SCRIPTS_LEVEL and not has_gpu else level
    if sys.stderr is None:  # it was closed: nothing to keep clean
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            text = worth_reading(kept.read().decode(errors="replace"))
            if text:
                os.write(2, text.encode())


def worth_reading(text: str) -> str:
    """The lines that do not only say that TensorFlow starts."""
    return "".join(line for line in text.splitlines(keepends=True) if not _STARTING.match(line))
