"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import l3hpc

ROOT = Path(l3hpc.__file__).parent
MODULES = sorted(
    ".".join(("l3hpc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        _, tried = doctest.testmod(importlib.import_module(name), raise_on_error=True,
                                   optionflags=doctest.NORMALIZE_WHITESPACE)
    except doctest.UnexpectedException as error:  # with --quick, an import of TensorFlow skips
        raise error.exc_info[1] from error
    assert tried
