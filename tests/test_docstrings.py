"""Examples in the docstrings of the scientific packages run and give what they show."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("sampling", "reduction", "tagging", "classification")
MODULES = [found.name for package in PACKAGES
           for found in pkgutil.iter_modules(
               importlib.import_module(f"l3hpc.{package}").__path__, f"l3hpc.{package}.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(name),
                             optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
