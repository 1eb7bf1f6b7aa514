"""Modules of the HEAR 2021 interface as teachers: ``hear:package.module[@WEIGHTS]``.

The module is the user's own code and is run as such, also before submission: only a loaded model
states its rate and the length of its embeddings. It is found by its name, as in an import
statement, never by a path. The embedding of a window is the module's scene embedding of that window
alone, so that it does not depend on what surrounds it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.errors import InputError
from l3hpc.io.files import digest, digest_file, walk_files
from l3hpc.io.values import one_line
from l3hpc.models.embedder import check_frames
from l3hpc.teachers.base import (
    DEFAULT_WINDOW_S,
    HIGHEST_RATE,
    LOWEST_RATE,
    Description,
    Frames,
    Options,
    Teacher,
)

PREFIX = "hear:"
FORM = "hear:package.module, or hear:package.module@WEIGHTS: a name as in an import statement"
FUNCTIONS = ("load_model", "get_timestamp_embeddings", "get_scene_embeddings")
ATTRIBUTES = ("sample_rate", "timestamp_embedding_size", "scene_embedding_size")
LONGEST = 300  # characters of the user's exception in a message
BATCH = 32  # windows; the interface does not say what a model can take


class HearModules:
    """Whatever is named ``hear:…``."""

    def accepts(self, name: str) -> bool:
        """By the prefix."""
        return name.startswith(PREFIX)

    def describe(self, name: str, options: Options) -> Description:
        """From the loaded model."""
        model = _load(name)
        return Description("hear", model.label, model.rate,
                           options.window_s or DEFAULT_WINDOW_S, model.dim)

    def fingerprint(self, name: str) -> str:
        """Name and version of the code, and the digest of the weights."""
        module, weights = parse(name)
        parts = [PREFIX + module, code_version(module)]
        return " ".join(parts if weights is None else [*parts, _digest_weights(weights)])

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """With the digest of the fingerprint."""
        return self.describe(name, options).identity(digest(self.fingerprint(name)))

    def load(self, name: str, options: Options) -> Teacher:
        """The model, on a GPU if PyTorch or TensorFlow has one."""
        return HearTeacher(_load(name), options.window_s or DEFAULT_WINDOW_S)


def parse(name: str) -> tuple[str, Path | None]:
    """Divide the name of a teacher into module and weights.

    Parameters
    ----------
    name
        ``hear:package.module`` or ``hear:package.module@WEIGHTS``.

    Returns
    -------
    module : str
        The module.
    weights : Path or None
        The path to be passed to its ``load_model``; None for the module's default.

    Raises
    ------
    InputError
        The module is not named as in an import statement, or there are no such weights.

    Examples
    --------
    >>> parse("hear:hearbaseline.vggish")
    ('hearbaseline.vggish', None)
    """
    module, at, weights = name.removeprefix(PREFIX).partition("@")
    if not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"{module!r} is not the name of a Python module", where=name, allowed=FORM,
                         hint="Install the code, or put its folder into PYTHONPATH")
    if at and not Path(weights).exists():
        raise InputError(f"there are no weights {weights!r}", where=name, allowed=FORM)
    return module, Path(weights) if at else None


def code_version(module: str) -> str:
    """What identifies the code of a module.

    Parameters
    ----------
    module
        Its name.

    Returns
    -------
    str
        Name and version of the distribution that installed it; for other code (in ``PYTHONPATH``,
        or installed as editable), which changes without a new version, a digest of the Python files
        of its package.

    Raises
    ------
    InputError
        There is no such module.
    """
    source = _source(module)
    top = _source(module.partition(".")[0])
    package = top.parent if top.name == "__init__.py" else None
    root = top.parent if package is None else package.parent
    line = f"\n{os.path.relpath(source, root)},"
    for distribution in importlib.metadata.distributions(path=[str(root)]):
        if line in "\n" + (distribution.read_text("RECORD") or ""):
            return f"{distribution.name} {distribution.version}"
    files = {source, top, *(package.rglob("*.py") if package else ())}
    return digest([[os.path.relpath(path, root), digest_file(path)] for path in sorted(files)])


def _digest_weights(weights: Path) -> str:
    """Of a file, or of all files of a folder."""
    if weights.is_file():
        return digest_file(weights)
    return digest([[str(path.relative_to(weights)), digest_file(path)]
                   for path in sorted(walk_files(weights))])


@dataclass(frozen=True)
class HearTeacher:
    """A module and its model, as ``l3hpc.teachers.base.Teacher``.

    Attributes
    ----------
    model
        What the module loaded.
    window_s
        Seconds of a window.
    """

    model: _Loaded
    window_s: float

    @property
    def label(self) -> str:
        """One line that names it."""
        return self.model.label

    @property
    def rate(self) -> int:
        """Hz."""
        return self.model.rate

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.model.dim

    @property
    def engine_name(self) -> str:
        """The library that computes it."""
        return self.model.library

    def embed(self, frames: Frames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Compute the scene embeddings of windows; see ``Teacher.embed``."""
        check_frames(frames, self.rate, self.window_s, batch_size)
        result = np.empty((len(frames), self.dim), np.float32)
        size = batch_size or BATCH
        for start in range(0, len(frames), size):
            batch = np.ascontiguousarray(to_float(frames[start:start + size]), np.float32)
            result[start:start + size] = self.model.embed(batch)
            if on_batch is not None:
                on_batch(len(batch))
        return result


@dataclass(frozen=True)
class _Loaded:
    """A module, its model, and how arrays become tensors of the model's library and back."""

    label: str
    module: ModuleType
    model: Any
    library: str

    @property
    def rate(self) -> int:
        return int(self.model.sample_rate)

    @property
    def dim(self) -> int:
        return int(self.model.scene_embedding_size)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Scene embeddings (n, dim) of sounds (n, samples)."""
        embeddings: np.ndarray = _run(self.label, "get_scene_embeddings",
                                      lambda: np.asarray(self._scenes(batch)))
        if embeddings.dtype.kind in "cmMOSU":
            raise InputError(f"get_scene_embeddings gave values of the type {embeddings.dtype}",
                             where=self.label, allowed="real numbers")
        if embeddings.shape != (len(batch), self.dim):
            raise InputError(f"get_scene_embeddings gave the shape {embeddings.shape} for "
                             f"{len(batch)} sounds", where=self.label,
                             allowed=f"({len(batch)}, {self.dim}): (sounds, scene_embedding_size)")
        return embeddings.astype(np.float32, copy=False)

    def _scenes(self, batch: np.ndarray) -> Any:
        """What the module computes for a batch, in the memory of the CPU."""
        if self.library != "torch":
            return self.module.get_scene_embeddings(
                sys.modules["tensorflow"].convert_to_tensor(batch), self.model)
        torch = sys.modules["torch"]
        device = next(iter(self.model.parameters()), torch.empty(0)).device
        with torch.no_grad():
            found = self.module.get_scene_embeddings(torch.from_numpy(batch).to(device),
                                                     self.model)
        return found.detach().cpu()


@functools.lru_cache(maxsize=2)
def _load(name: str) -> _Loaded:
    # A plan describes its teacher several times, and loading may take seconds.
    path, weights = parse(name)
    module = _import(path)
    missing = [function for function in FUNCTIONS if not callable(getattr(module, function, None))]
    if missing:
        raise InputError(f"the module has no {', '.join(missing)}", where=name,
                         allowed=f"a module of the HEAR 2021 interface: {', '.join(FUNCTIONS)}",
                         hint=f"Check it: hear-validator {path}")
    arguments = () if weights is None else (str(weights),)
    model = _run(name, "load_model", lambda: module.load_model(*arguments))
    library = _library(model)
    if library is None:
        raise InputError(f"load_model gives a {type(model).__name__}", where=name,
                         allowed="a torch.nn.Module or a tf.Module")
    wrong = [attribute for attribute in ATTRIBUTES
             if not isinstance(value := getattr(model, attribute, None), int)
             or isinstance(value, bool) or value < 1]
    if wrong:
        raise InputError(f"the model has no {', '.join(wrong)}, or not as a whole number",
                         where=name, allowed=f"a model with {', '.join(ATTRIBUTES)}",
                         hint=f"Check it: hear-validator {path}")
    if not LOWEST_RATE <= model.sample_rate <= HIGHEST_RATE:
        raise InputError(f"the model has a sample_rate of {model.sample_rate} Hz", where=name,
                         allowed=f"{LOWEST_RATE} to {HIGHEST_RATE}")
    if library == "torch":
        model = model.to("cuda" if sys.modules["torch"].cuda.is_available() else "cpu").eval()
    return _Loaded(name, module, model, library)


def _library(model: object) -> str | None:
    """Which library a model is of; one that was not imported has no models."""
    for library, base in (("torch", "nn.Module"), ("tensorflow", "Module")):
        found: Any = sys.modules.get(library)
        for part in base.split(".") if found else ():
            found = getattr(found, part)
        if found and isinstance(model, found):
            return library
    return None


def _import(module: str) -> ModuleType:
    _source(module)
    return _run(PREFIX + module, "importing it", lambda: importlib.import_module(module))


def _source(module: str) -> Path:
    """The file of a module."""
    parent = module.rpartition(".")[0]
    if parent:
        _source(parent)  # find_spec imports it, and names only the top where there is none
    spec = _run(PREFIX + module, f"importing {parent}" if parent else "finding it",
                lambda: importlib.util.find_spec(module))
    if spec is None:
        raise InputError(f"there is no module {module}", where=PREFIX + module, allowed=FORM,
                         hint=f"Install it for {sys.executable}, or put its folder into PYTHONPATH")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError("is not a file of Python code", where=PREFIX + module,
                         allowed="a module, or a package with an __init__.py")
    return Path(spec.origin)


def _run(where: str, what: str, code: Callable[[], Any]) -> Any:
    """Run the user's code; whatever it raises becomes an ``InputError`` that names it.

    What it prints goes to standard error: standard output may be JSON. The working folder stays.
    """
    folder = os.getcwd()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return code()
    except (InputError, MemoryError):
        raise
    # The user's code may raise anything; sys.exit(0) in it would end a command as if it had worked.
    except (Exception, SystemExit) as error:
        module = where.removeprefix(PREFIX).partition("@")[0]
        call = f"; {module}.load_model()" if what == "load_model" else ""
        raise InputError(f"{what} failed: {type(error).__name__}: {one_line(error):.{LONGEST}}",
                         where=where, hint=f"Try it in Python: import {module}{call}") from error
    finally:
        os.chdir(folder)
