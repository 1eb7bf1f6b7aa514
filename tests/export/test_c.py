"""The C that is written: golden header, compiled by gcc, and run against the float front end."""

import shutil
import subprocess

import numpy as np
import pytest

from l3hpc.audio.frontends import Frontend, hann
from l3hpc.errors import InputError
from l3hpc.export import ccode
from l3hpc.export.graph import Graph

GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1"]
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

MODEL_HEADER = """\
/* A TensorFlow Lite model. Made by l3hpc export.
 * Operators for the resolver: ADD, CONV_2D, MAX_POOL_2D, RESHAPE
 */
#ifndef L3_MODEL_H
#define L3_MODEL_H

#ifdef __cplusplus
extern "C" {
#endif

#define L3_MODEL_BYTES 1234
#define L3_MODEL_ARENA 5678 /* bytes on 64 bits, fewer on 32 */
#define L3_MODEL_INPUT_COUNT 800 /* 1 x 32 x 25 x 1, int8 */
#define L3_MODEL_INPUT_SCALE 0.313725501f /* real = scale * (value - zero) */
#define L3_MODEL_INPUT_ZERO 127
#define L3_MODEL_OUTPUT_COUNT 8 /* 1 x 8, int8 */
"""

MODEL_MAIN = """
#include <stdio.h>
#include <stdint.h>
#include "l3_model.h"
int main(void)
{
    if ((uintptr_t)l3_model % 16 != 0)
        return 1;
    return fwrite(l3_model, 1, sizeof l3_model, stdout) != L3_MODEL_BYTES;
}
"""

FRONTEND_MAIN = """
#include <stdio.h>
#include "l3_frontend.h"
static uint32_t spectrum[L3_FRONTEND_TIMES][L3_FRONTEND_BINS];
static int32_t logs[L3_FRONTEND_BANDS * L3_FRONTEND_TIMES];
static l3_input_t input[L3_FRONTEND_BANDS * L3_FRONTEND_TIMES];
int main(void)
{
    if (fread(spectrum, sizeof spectrum, 1, stdin) != 1)
        return 1;
    for (int time = 0; time < L3_FRONTEND_TIMES; time++)
        l3_frontend_mel(spectrum[time], time, logs);
    l3_frontend_input(logs, input);
    return fwrite(input, sizeof input, 1, stdout) != 1;
}
"""

FRONTENDS = {"student": Frontend(8000, 1024, 160, 64), "magnitudes": Frontend(
    8000, 512, 250, 20, convention="B"), "empty bands": Frontend(8000, 256, 400, 64),
    "squared later": Frontend(8000, 512, 320, 32, convention="D")}


def build(folder, sources):
    for name, text in sources.items():
        (folder / name).write_text(text)
    units = [name for name in sources if name.endswith(".c")]
    subprocess.run([*GCC, *units, "-o", "program"], cwd=folder, check=True)
    return folder / "program"


def spectra(front, audio):
    """Magnitudes (squared where the convention says so) by definition, (times, bins) float64."""
    before, after = front.padding()
    padded = np.pad(audio.astype(np.float64), (before, after))
    window = np.rint(hann(front.n_dft) * 32767) / 32767  # the C table's
    found = np.array([np.abs(np.fft.rfft(padded[start:start + front.n_dft] * window))
                      for start in range(0, len(padded) - front.n_dft + 1, front.hop)])
    return found ** 2 if front.power else found


def run(program, front, values, dtype):
    done = subprocess.run([program], input=values.astype("<u4").tobytes(), capture_output=True,
                          check=True)
    return np.frombuffer(done.stdout, dtype).reshape(front.shape)


def test_golden_header(made):
    header = ccode.model_header(Graph(made("small", "int8").flatbuffer), 1234, 5678)
    assert header.startswith(MODEL_HEADER)
    assert "extern const unsigned char l3_model[L3_MODEL_BYTES];" in header
    assert "L3_MODEL_ARENA" not in ccode.model_header(Graph(made("small", "fp32").flatbuffer), 1, 0)
    assert "SCALE" not in ccode.model_header(Graph(made("small", "fp32").flatbuffer), 1, 0)


@needs_gcc
def test_the_array_is_the_file(made, tmp_path):
    flatbuffer = Graph(made("small", "int8").flatbuffer).to_bytes()
    program = build(tmp_path, {
        "l3_model.h": ccode.model_header(Graph(flatbuffer), len(flatbuffer), 0),
        "l3_model.c": ccode.model_source(flatbuffer), "main.c": MODEL_MAIN})
    assert subprocess.run([program], capture_output=True, check=True).stdout == flatbuffer


@pytest.mark.parametrize("name", FRONTENDS)
def test_the_table_is_the_filterbank(name):
    front = FRONTENDS[name]
    made = ccode.frontend_tables(front)
    bank, start = np.zeros((front.n_dft // 2 + 1, front.bands)), 0
    for band in range(front.bands):
        count = made.count[band]
        bank[made.first[band]:made.first[band] + count, band] = (
            made.weights[start:start + count] * 2.0 ** (made.offset[band] / 65536))
        start += count
    assert start == len(made.weights)
    right = front.filterbank() * 32767 / front.filterbank().max()
    np.testing.assert_allclose(bank, right, atol=0.8)
    assert not made.count[front.empty_bands()].any()
    assert made.window[0] == 0 and made.window[front.n_dft // 2] == 32767


@needs_gcc
@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize(("dtype", "scale", "zero", "least"), [
    ("int8", 80 / 255, 127, 1.01), ("int16", 80 / 32767, 0, 25), ("float32", 0.0, 0, 0.05)])
def test_the_integer_front_end_is_the_float_one(tmp_path, name, dtype, scale, zero, least):
    """Noise with energy in every band, spectra scaled to 32 bits: within a step or 0.06 dB."""
    front = FRONTENDS[name]
    rng = np.random.default_rng(7)
    audio = (0.2 * rng.standard_normal(front.rate)).astype(np.float32)
    program = build(tmp_path, {"l3_frontend.h": ccode.frontend_header(front, dtype, scale, zero),
                               "l3_frontend.c": ccode.frontend_source(front, dtype, scale, zero),
                               "main.c": FRONTEND_MAIN})
    values = spectra(front, audio)
    found = run(program, front, np.rint(values / values.max() * (2**32 - 1)), dtype)
    right = front(audio[None])[0].astype(np.float64)
    if scale:
        limits = np.iinfo(dtype)
        right = np.clip(np.rint(right / scale) + zero, limits.min, limits.max)
    heard = np.ones(front.bands, bool)
    heard[front.empty_bands()] = False
    assert np.abs(found[heard] - right[heard]).max() <= least
    assert found.dtype == dtype and len(np.unique(found)) > 15
    floor = found[~heard]
    assert (floor == (zero + round(-80 / scale) if scale else -80)).all() or np.allclose(floor, -80)


@needs_gcc
def test_silence_is_the_largest_value_everywhere(tmp_path):
    """As in floats: an all-zero frame is a spectrogram of zeros."""
    front = FRONTENDS["student"]
    program = build(tmp_path, {
        "l3_frontend.h": ccode.frontend_header(front, "int8", 80 / 255, 127),
        "l3_frontend.c": ccode.frontend_source(front, "int8", 80 / 255, 127),
        "main.c": FRONTEND_MAIN})
    silent = np.zeros((front.shape[1], front.n_dft // 2 + 1))
    assert (run(program, front, silent, "int8") == 127).all()
    assert not front(np.zeros((1, 8000), np.float32)).any()
    silent[3, 100] = 1000  # one click: all else is at the floor
    found = run(program, front, silent, "int8")
    assert found.max() == 127 and (np.delete(found, 3, axis=1) == -128).all()


def test_a_linear_spectrogram_has_no_table():
    with pytest.raises(InputError, match="no mel table"):
        ccode.frontend_tables(Frontend(8000, 512, 242, None))
