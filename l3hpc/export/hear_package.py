"""A model as a package of the HEAR 2021 interface: its weights, and the module that HEAR imports.

The package calls ``l3hpc.hear``, so l3hpc must be installed where it is used. It exists for tools
that are given the name of a module and no weights, and to hand a model to others as one folder.
"""

from __future__ import annotations

import keyword
import shutil
from pathlib import Path
from typing import Any

from l3hpc.embedding.model_files import find_model, recognise
from l3hpc.errors import InputError
from l3hpc.export.build import check_output
from l3hpc.io.files import write_text
from l3hpc.io.folders import atomic_folder
from l3hpc.teachers.find import has_sidecar
from l3hpc.teachers.sidecar import sidecar_path

MODULE = "__init__.py"


def preview_package(name: str | Path, output: Path) -> dict[str, Any]:
    """What ``write_package`` would write, without TensorFlow.

    Parameters
    ----------
    name
        A model as for ``l3hpc.load_model``.
    output
        The folder to write; its name is the name of the package.

    Returns
    -------
    dict
        JSON-ready.

    Raises
    ------
    InputError
        The model cannot be read, or the folder exists or is no name of a Python package.
    """
    check_output(output)
    package = Path(output).name
    if not package.isidentifier() or keyword.iskeyword(package):
        raise InputError(f"{package!r} is not a name of a Python package", where="--output",
                         allowed="a folder named with letters, digits and underscores, not "
                                 "beginning with a digit: -o hear_student")
    file, named = find_model(name)
    info = recognise(file, **named.options)
    return {"model": info.label, "dim": info.dim, "format": "hear", "package": package,
            "output": str(output), "files": [MODULE, *(path.name for path in _to_copy(file))]}


def write_package(name: str | Path, output: Path) -> dict[str, Any]:
    """Write a package of the HEAR 2021 interface into a new folder.

    Parameters
    ----------
    name, output
        As for ``preview_package``.

    Returns
    -------
    dict
        As from ``preview_package``.

    Raises
    ------
    InputError
        As from ``preview_package``.
    """
    planned = preview_package(name, output)
    file, named = find_model(name)
    copied = _to_copy(file)
    with atomic_folder(output) as folder:
        write_text(folder / MODULE,
                   _module_text(file, bool(copied), named.options, planned["package"]))
        for path in copied:
            shutil.copyfile(path, folder / path.name)
    return planned


def _to_copy(file: str | Path) -> list[Path]:
    """The model's file, and the sidecar without which another network's file is no teacher."""
    if not Path(file).is_file():  # untrained, or a module
        return []
    return [Path(file), sidecar_path(Path(file))] if has_sidecar(file) else [Path(file)]


def _module_text(file: str | Path, copied: bool, options: dict[str, Any], package: str) -> str:
    """The module of the package."""
    model = f"str(Path(__file__).with_name({Path(file).name!r}))" if copied else repr(str(file))
    return f'''"""A model for the tools of HEAR 2021 (https://hearbenchmark.com), which import it.

Written by `l3hpc export --hear`; l3hpc must be installed. From the folder that contains this one:

    PYTHONPATH=. hear-validator {package}
"""

from pathlib import Path

from l3hpc import hear
from l3hpc.hear import get_scene_embeddings, get_timestamp_embeddings

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

MODEL = {model}
OPTIONS = {options!r}


def load_model(model_file_path="", **options):
    """Load the model of this package, or another one if a path is given."""
    if model_file_path:
        return hear.load_model(model_file_path, **options)
    return hear.load_model(MODEL, **{{**OPTIONS, **options}})
'''
