"""Import TensorFlow without its start-up messages, wherever it is imported first.

From 2.18 on TensorFlow writes them to the file descriptor of stderr before its log level takes
effect, so that ``TF_CPP_MIN_LOG_LEVEL`` does not suppress them. Warnings and errors are kept.

Two things that take half of the start are left out. With TensorFlow comes Keras, whose
``keras.wrappers`` imports scikit-learn where it is installed: it is loaded when one of its names is
first used. And Python looks again and again for garbage among the million objects that these
imports make, although they all stay.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from l3hpc.console.progress import doing
from l3hpc.io.processes import without_garbage_collection

NVIDIA = "/dev/nvidiactl"
WRAPPERS = "keras.wrappers"
SCRIPTS_LEVEL = "2"  # TF_CPP_MIN_LOG_LEVEL in job scripts: errors
_STARTUP = re.compile(
    r"I\d{4} "  # I0000 00:00:1795277630.127942   32086 port.cc:153] …
    r"|\d{4}-\d\d-\d\d [\d:.]+: I "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|To enable the following instructions: ")


def import_tensorflow() -> None:
    """Import TensorFlow, if that was not done yet, without its start-up messages."""
    if "tensorflow" in sys.modules:
        return
    _find_first(WRAPPERS, _LaterLoader)
    with _starting():
        import tensorflow  # noqa: F401


def quiet_first_import() -> None:
    """Make the first import of TensorFlow quiet, whichever module does it (Keras, for example).

    For processes that are ours alone: no garbage is looked for among what exists after that import.
    """
    _find_first("tensorflow", _QuietLoader)
    _find_first(WRAPPERS, _LaterLoader)


def _find_first(name: str, wrap: Callable[[importlib.abc.Loader], importlib.abc.Loader]) -> None:
    """Wrap the loader of a module that is not imported yet."""
    if name not in sys.modules and not any(
            isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, wrap))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module once, as Python would, and wraps its loader."""

    def __init__(self, name: str, wrap: Callable[[importlib.abc.Loader], importlib.abc.Loader]
                 ) -> None:
        self.name = name
        self._wrap = wrap

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
                  ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        # Before looking for the module: find_spec asks all finders, this one included.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = self._wrap(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Restores the module's own loader."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader


class _QuietLoader(_Loader):
    """Runs the module's code without its start-up messages."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        with _starting():
            self._loader.exec_module(module)
        # Also for the end of the process, which would look through them twice.
        gc.freeze()


class _LaterLoader(_Loader):
    """Runs the module's code when one of its names is first used.

    ``importlib.util.LazyLoader`` would run it as soon as anybody looks at ``__file__``, which
    ``inspect`` does with all modules whenever TensorFlow compiles a function.
    """

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)

        def load(name: str) -> Any:
            if name.startswith("__") and name != "__all__":
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            vars(module).pop("__getattr__", None)
            self._loader.exec_module(module)
            return getattr(module, name)

        vars(module)["__getattr__"] = load


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Say that TensorFlow starts, hide its messages, and look for no garbage meanwhile."""
    with without_garbage_collection(), doing("starting TensorFlow", at_once=True), \
            _without_startup_lines():
        yield


@contextlib.contextmanager
def _without_startup_lines() -> Iterator[None]:
    # Without a GPU TensorFlow logs the error "failed call to cuInit", which is to be expected.
    has_gpu = os.path.exists(NVIDIA)
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", SCRIPTS_LEVEL)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if level == SCRIPTS_LEVEL and not has_gpu else level
    with without_lines(drop_startup_lines):
        yield


@contextlib.contextmanager
def without_lines(drop: Callable[[str], str]) -> Iterator[None]:
    """Capture what is written to stderr, by C++ too; afterwards write what is left of it.

    Parameters
    ----------
    drop
        What to leave of the text.
    """
    if sys.stderr is None:  # closed: nothing is shown anyway
        yield
        return
    # What Python still holds would otherwise be written into the file, and show after what follows.
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        # The descriptor, not sys.stderr: the messages are written by C++.
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            text = drop(kept.read().decode(errors="replace"))
            if text:
                os.write(2, text.encode())


def drop_startup_lines(text: str) -> str:
    """Remove the lines that only report that TensorFlow starts.

    Parameters
    ----------
    text
        What TensorFlow wrote.

    Returns
    -------
    str
        The other lines, unchanged.
    """
    return "".join(line for line in text.splitlines(keepends=True) if not _STARTUP.match(line))
