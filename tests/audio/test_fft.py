"""The transforms are those of ``scipy.fft`` to the bit, and take over where SciPy changes."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.audio import fft


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "size"), [((30,), None), ((3, 64), 64), ((2, 3, 50), 81),
                                             ((4, 70), 64), ((5, 1), 1), ((2, 0), 4)])
def test_the_bits_of_scipy(kind, shape, size):
    samples = np.random.default_rng(1).standard_normal(shape).astype(kind)
    spectrum, wanted = fft.rfft(samples, size), scipy.fft.rfft(samples, size)
    assert spectrum.dtype == wanted.dtype and np.array_equal(spectrum, wanted)
    length = size or shape[-1]
    back, wanted = fft.irfft(spectrum, length), scipy.fft.irfft(spectrum, length)
    assert back.dtype == wanted.dtype and np.array_equal(back, wanted)


def test_samples_that_overlap_in_memory_stay_as_they_are():
    signal = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 64)[::16]
    before = signal.copy()
    assert np.array_equal(fft.rfft(windows), scipy.fft.rfft(windows))
    assert np.array_equal(signal, before)


def test_whole_numbers_are_transformed_too():
    samples = np.arange(12).reshape(2, 6)
    assert np.array_equal(fft.rfft(samples), scipy.fft.rfft(samples))
    assert np.array_equal(fft.irfft(samples, 10), scipy.fft.irfft(samples, 10))


@given(st.integers(1, 10**6))
def test_fast_lengths(size):
    assert fft.next_fast_len(size) == scipy.fft.next_fast_len(size, real=True)


class Other:
    """A compiled module whose numbers mean something else."""

    def r2c(self, samples, axes, forward, norm, out, threads):
        return scipy.fft.rfft(samples) * 2

    def c2r(self, spectrum, axes, size, forward, norm, out, threads):
        return scipy.fft.irfft(spectrum, size)

    def good_size(self, size, real):
        return 15


def missing():
    raise ImportError("no pypocketfft")


@pytest.mark.parametrize("load", [Other, missing])
def test_another_module_than_expected_is_not_used(monkeypatch, load):
    monkeypatch.setattr(fft, "_load", load)
    fft._compiled.cache_clear()
    try:
        assert fft._compiled() is None
        samples = np.random.default_rng(1).standard_normal((2, 20)).astype(np.float32)
        spectrum = fft.rfft(samples, 24)
        assert np.array_equal(spectrum, scipy.fft.rfft(samples, 24))
        assert np.array_equal(fft.irfft(spectrum, 24), scipy.fft.irfft(spectrum, 24))
        assert fft.next_fast_len(13) == 15
    finally:
        fft._compiled.cache_clear()


def test_the_compiled_module_is_used_and_the_rest_of_scipy_not_imported():
    code = ("import sys, numpy as np; from l3hpc.audio import fft\n"
            "fft.irfft(fft.rfft(np.ones((2, 8), np.float32), fft.next_fast_len(7)), 8)\n"
            "print(fft._compiled() is not None, [name for name in sys.modules if 'scipy' in name])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
