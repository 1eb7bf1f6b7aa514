import importlib.util
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def networks():
    """The network in float64, and writers of weight files as Keras 2 left them."""
    spec = importlib.util.spec_from_file_location("reference", TESTS / "models/reference.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
