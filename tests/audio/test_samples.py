"""Arrays of any type and shape as checked mono float32, or refused with what to type."""

import decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.formats import AudioError
from l3hpc.audio.samples import check_rate, to_float, to_mono
from l3hpc.errors import InputError

SOUND = (0.4 * np.random.default_rng(0).uniform(-1, 1, 400)).astype(np.float32)
INT16 = np.round(SOUND * 32767).astype(np.int16)


@pytest.mark.parametrize(("array", "wanted"), [
    (INT16, INT16 / 32768), (INT16.astype(">i2"), INT16 / 32768),
    ((INT16 // 256).astype(np.int8), INT16 // 256 / 128),
    ((INT16 // 256 + 128).astype(np.uint8), INT16 // 256 / 128),
    (INT16.astype(np.int32) << 16, INT16 / 32768), (INT16.astype(np.int64) << 16, INT16 / 32768),
    (SOUND, SOUND), (SOUND.astype(">f8"), SOUND), (SOUND.astype(np.float16), SOUND),
    (SOUND.astype(np.longdouble), SOUND), (SOUND.tolist(), SOUND), (tuple(SOUND.tolist()), SOUND),
    (4 * SOUND, 4 * SOUND), (np.zeros(9, np.int64), np.zeros(9)),
    (INT16[::-2], INT16[::-2] / 32768)])
def test_what_is_certain_is_taken_without_comment(array, wanted):
    mono, notes = to_mono(array)
    assert mono.dtype == np.float32 and mono.flags.c_contiguous and notes == []
    np.testing.assert_allclose(mono, wanted, atol=3e-4 if np.ndim(array) and np.asarray(
        array).dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("kind", ["i4", "i8", ">i8"])
@pytest.mark.parametrize(("bits", "hint"), [
    (16, r"16 bits: audio.astype\('int16'\); 32 bits: audio / 2\*\*31"),
    (24, r"24 bits: audio / 2\*\*23; 32 bits: audio / 2\*\*31")])
def test_wide_integers_that_hold_narrow_values_are_refused(kind, bits, hint):
    values = np.round(SOUND * 2.0 ** (bits - 1)).astype(kind)
    with pytest.raises(InputError, match=f"(?s)of up to .* a recording of {bits} bits .*{hint}"):
        to_mono(values)
    with pytest.raises(InputError, match="a recording of 16 bits"):  # as a list of Python numbers
        to_mono(INT16.tolist())


def test_a_quiet_recording_of_32_bits_is_neither_amplified_nor_refused_without_need():
    """24 bits in the upper part of 32, as libsndfile and scipy give them, are told by the zeros."""
    quiet = np.round(SOUND * 2.0**23 * 1e-3).astype(np.int32) << 8
    assert abs(quiet).max() < 1 << 23
    mono, notes = to_mono(quiet)
    np.testing.assert_allclose(mono, SOUND * 1e-3, atol=1e-6)
    assert notes == []
    with pytest.raises(InputError, match="or a quiet one of 32"):
        to_mono(quiet + 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-2**31, 2**31 - 1), min_size=1, max_size=20),
       st.sampled_from(["i4", "i8"]))
def test_a_wide_integer_is_full_scale_of_32_bits_or_refused(values, kind):
    try:
        mono, _ = to_mono(np.array(values, kind))
    except InputError:
        assert max(map(abs, values)) <= 1 << 23
    else:
        np.testing.assert_allclose(mono, np.array(values) / 2.0**31, rtol=1e-6)


@pytest.mark.parametrize(("peak", "bits"), [(30_000.0, 16), (32768.0, 16), (5e6, 24), (2e9, 32)])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_that_hold_integers_are_scaled_by_what_they_are(peak, bits, kind):
    values = (SOUND / abs(SOUND).max() * peak).astype(kind)
    mono, notes = to_mono(values, "audio[1]")
    np.testing.assert_allclose(mono, values / 2.0 ** (bits - 1), rtol=1e-6)
    assert f"taken as {bits}-bit integers (divided by 2**{bits - 1})" in notes[0]


@pytest.mark.parametrize(("shape", "samples", "channels"), [
    ((400,), 400, 1), ((400, 1), 400, 1), ((1, 1), 1, 1), ((400, 2), 400, 2), ((400, 64), 400, 64),
    ((3, 2), 3, 2)])
def test_samples_first(shape, samples, channels):
    array = np.arange(np.prod(shape)).reshape(shape) / 1e4
    mono, notes = to_mono(array)
    np.testing.assert_allclose(mono, array.reshape(samples, channels).mean(1), rtol=1e-6)
    assert notes == []


@pytest.mark.parametrize(("shape", "words"), [
    ((1, 400), "1 channel of 400 samples"), ((2, 400), "2 channels of 400 samples"),
    ((64, 65), "64 channels of 65 samples")])
def test_channels_first_is_taken_where_it_is_certain_and_said(shape, words):
    array = np.random.default_rng(0).uniform(-1, 1, shape)
    mono, notes = to_mono(array)
    np.testing.assert_allclose(mono, array.mean(0), atol=1e-6)
    assert notes == [f"shape {shape} is taken as {words}; (samples, channels) is audio.T"]


@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 64), (400, 400), (400, 65), (65, 400)])
def test_shapes_that_could_be_two_things_are_refused_with_what_to_type(shape):
    with pytest.raises(InputError, match=r"(?s)which axis is the ch.*audio\.T.*list\(aud"):
        to_mono(np.zeros(shape))


@pytest.mark.parametrize(("array", "error", "words"), [
    (np.float32(1), InputError, r"shape \(\)"), (np.zeros((2, 3, 4)), InputError, r"(2, 3, 4)"),
    (np.zeros(0), AudioError, "no samples"), (np.zeros((0, 2)), AudioError, "no samples"),
    (np.zeros((9, 0)), AudioError, "no samples"), (np.zeros(9, bool), InputError, "type bool"),
    (np.zeros(9, complex), InputError, "type complex128"), (["a", "b"], InputError, "type <U1"),
    (np.array([1, None]), InputError, "not an array of numbers"),
    (None, InputError, "audio is None"),
    ({"a": 1}, InputError, "of type dict"), ([[1.0], [1.0, 2.0]], InputError, "different lengths"),
    (np.array(["2020"], "M8[D]"), InputError, "type datetime64"),
    (np.ones(9, np.uint16), InputError, "uint16"), (np.ones(9, np.uint64), InputError, "uint64"),
    (np.array([2**40]), InputError, "no recording has that many bits"),
    (np.array([0, np.nan]), AudioError, "not finite"),
    (np.array([0, np.inf]), AudioError, "not finite"),
    (np.array([0, 1e29], "f4"), AudioError, "which no recording has"),
    (np.array([0, 1e300]), AudioError, "which no recording has"),
    (np.ma.masked_array([1.0, 2.0], [0, 1]), InputError, "masked"),
    (np.array([decimal.Decimal(1)]), InputError, "not an array")])
def test_what_is_no_recording_is_refused(array, error, words):
    with pytest.raises(error, match=words):
        to_mono(array)


def test_no_scale_is_proposed_that_the_samples_exceed():
    with pytest.raises(InputError) as caught:
        to_mono(np.array([2**63], np.uint64))
    assert caught.value.hint is None


@pytest.mark.parametrize("kind", ["i4", "i8", "u2", "u8", "?", "c8", "U1"])
def test_frames_of_a_type_that_does_not_tell_full_scale_are_refused(kind):
    with pytest.raises(InputError, match="samples have type"):
        to_float(np.zeros((2, 8), kind))


@pytest.mark.parametrize("rate", [1, 8000, 44100.0, np.int64(48000), np.float32(16000)])
def test_rates(rate):
    assert check_rate(rate) == int(rate)


@pytest.mark.parametrize("rate", [0, -1, 44100.5, float("nan"), float("inf"), "8000", None, [8000],
                                  True, 1e12, 8000j, np.array([8000]), b"8000", {}])
def test_what_is_no_rate(rate):
    with pytest.raises(InputError, match="which is not a sampling rate"):
        check_rate(rate)
