import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.resample import resample, resample_blocks, resample_rows
from l3hpc.errors import InputError


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 5000), source=st.sampled_from([8000, 11025, 44100, 48000]),
       target=st.sampled_from([8000, 16000, 48000]))
def test_length_is_the_ceiling(length, source, target):
    result = resample(np.zeros(length, np.float32), source, target)
    assert len(result) == -(-length * target // source) and result.dtype == np.float32


def test_removes_what_the_new_rate_cannot_hold():
    tone = np.sin(2 * np.pi * 6000 * np.arange(48000) / 48000).astype(np.float32)
    assert np.abs(resample(tone, 48000, 8000)[400:-400]).max() < 1e-4


def test_same_rate_is_the_same_signal():
    signal = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(resample(signal, 8000, 8000), signal)


def test_refuses_rate_zero():
    with pytest.raises(InputError, match="0 Hz"):
        resample(np.zeros(5), 8000, 0)


@pytest.mark.parametrize(("source", "target"), [(44100, 8000), (8000, 48000), (22050, 8000)])
@pytest.mark.parametrize("block", [100, 7001, 50_000])
def test_blocks_give_the_same_samples(source, target, block):
    signal = np.random.default_rng(0).standard_normal(60_001).astype(np.float32)
    parts = [signal[start:start + block] for start in range(0, len(signal), block)]
    found = np.concatenate(list(resample_blocks(parts, source, target)))
    assert len(found) == -(-len(signal) * target // source)
    np.testing.assert_array_equal(found, resample(signal, source, target))


@pytest.mark.parametrize(("samples", "source", "target"), [
    (48000, 48000, 8000), (4411, 44100, 8000), (7, 8000, 48000), (1000, 8000, 8000)])
def test_rows_are_resampled_each_for_itself(samples, source, target):
    rows = np.random.default_rng(1).standard_normal((5, samples)).astype(np.float32)
    rows[1] *= 1000  # nothing of it may reach the next row
    found = resample_rows(rows, source, target)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [resample(row, source, target) for row in rows])


def test_rows_refuse_rate_zero():
    with pytest.raises(InputError, match="0 Hz"):
        resample_rows(np.zeros((1, 5)), 0, 8000)


def test_a_stream_that_an_error_refers_to_is_no_leak():
    code = """
import atexit, gc
import numpy as np
from l3hpc.audio.resample import resample_blocks

atexit.register(gc.freeze)  # as commands and jobs do
blocks = resample_blocks([np.zeros(44100, np.float32)] * 2, 44100, 16000)
next(blocks)
cycle = [blocks]
cycle.append(cycle)
del blocks, cycle
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
