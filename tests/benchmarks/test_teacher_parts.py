"""Every library computes the same network, so that their times can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import teacher_parts
from l3hpc.models.engines import make_engine
from l3hpc.models.parameters import FoldedNetwork, untrained
from l3hpc.models.spec import NetworkSpec

pytestmark = pytest.mark.slow

SMALL = NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 16, 16), tail="embedding")


@pytest.fixture(scope="module")
def network() -> FoldedNetwork:
    return replace(untrained(SMALL, 0).folded(), scale=1.0, shift=0.0)


@pytest.fixture(scope="module")
def spectrograms() -> np.ndarray:
    # not a whole number for each thread
    return np.random.default_rng(0).standard_normal((5, *SMALL.maps[0])).astype("f4")


def error(found: np.ndarray, network: FoldedNetwork, spectrograms: np.ndarray) -> float:
    """As in the table: of the largest value of ncnn."""
    exact = make_engine("ncnn", network, 1).run(spectrograms)
    found = found.transpose(0, 2, 3, 1).reshape(exact.shape)
    return float(np.abs(found - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize(("library", "package"), [
    ("_openvino", "openvino"), ("_onnx_runtime", "onnxruntime")])
def test_a_library_that_reads_onnx_computes_what_ncnn_does(
        library: str, package: str, network: FoldedNetwork, spectrograms: np.ndarray) -> None:
    pytest.importorskip(package)
    pytest.importorskip("onnx")
    compute = getattr(teacher_parts, library)(teacher_parts._onnx_model(network), 2)
    for _ in range(2):  # the second time on the same threads
        assert error(compute(spectrograms), network, spectrograms) < 1e-5


@pytest.mark.parametrize(("terms", "allowed"), [(1, 1e-5), (3, 1e-4)])
def test_pytorch_computes_what_ncnn_does(terms: int, allowed: float, network: FoldedNetwork,
                                         spectrograms: np.ndarray) -> None:
    """Three terms: also on a processor without bfloat16, where they are products in float32."""
    torch = pytest.importorskip("torch")
    before = torch.backends.mkldnn.conv.fp32_precision
    try:
        found = teacher_parts._torch(network, spectrograms, terms)
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before
    assert error(found, network, spectrograms) < allowed
