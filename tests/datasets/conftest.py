"""Generated folders in the layouts of UrbanSound8K and ESC-50, and the tags of SONYC-UST."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import layouts  # noqa: E402

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy  # noqa: E402


@pytest.fixture
def esc50(tmp_path):
    """Makes a folder of ESC-50; see ``layouts.esc50``."""
    return lambda **options: layouts.esc50(tmp_path / "esc50", **options)


@pytest.fixture
def us8k(tmp_path):
    """Makes a folder of UrbanSound8K; see ``layouts.us8k``."""
    return lambda **options: layouts.us8k(tmp_path / "us8k", **options)


@pytest.fixture
def taxonomy():
    return sonyc_ust_taxonomy()
