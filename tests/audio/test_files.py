import os
import pickle

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.audio.files import (
    AudioError,
    AudioInfo,
    check_usable,
    count_rows,
    probe,
    read_audio,
    read_rows,
    sound_blocks,
    usable_blocks,
)


@pytest.mark.parametrize(("subtype", "bits"), [
    ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32), ("PCM_U8", 8)])
def test_integers_are_divided_by_full_scale(tmp_path, subtype, bits):
    path = tmp_path / "x.wav"
    values = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    soundfile.write(path, values, 8000, subtype=subtype)
    signal, rate = read_audio(path)
    assert rate == 8000 and signal.dtype == np.float32
    np.testing.assert_allclose(signal, values, atol=2.0 ** (1 - bits))
    assert signal[0] == -1.0


def test_float_and_flac_and_ogg(tmp_path):
    tone = 0.5 * np.sin(np.arange(16000) * 0.1)
    for name, subtype, tolerance in (("a.wav", "FLOAT", 1e-7), ("a.flac", "PCM_24", 1e-6),
                                     ("a.ogg", "VORBIS", 0.05)):
        soundfile.write(tmp_path / name, tone, 16000, subtype=subtype)
        signal, rate = read_audio(tmp_path / name)
        assert rate == 16000 and len(signal) == 16000
        assert np.abs(signal - tone).max() < tolerance


def test_channels_are_averaged_also_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.files.BLOCK", 7)
    stereo = np.random.default_rng(0).uniform(-1, 1, (100, 3))
    soundfile.write(tmp_path / "s.wav", stereo, 8000, subtype="FLOAT")
    assert probe(tmp_path / "s.wav") == AudioInfo(100, 8000, 3)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav")[0], stereo.mean(axis=1), atol=1e-6)


def test_resampling_keeps_a_tone(tmp_path):
    rate, target = 44100, 8000
    soundfile.write(tmp_path / "t.wav", np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate) / 2,
                    rate, subtype="FLOAT")
    signal, found = read_audio(tmp_path / "t.wav", target)
    assert found == target and len(signal) == 16000
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / target) / 2
    assert np.abs(signal - expected)[800:-800].max() < 1e-4


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_unreadable_says_so(tmp_path, content):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"bad\.wav") as caught:
        read_audio(path)
    assert caught.value.reason == "unreadable"
    with pytest.raises(AudioError):
        probe(path)


def test_missing_file_is_unreadable(tmp_path):
    with pytest.raises(AudioError):
        read_audio(tmp_path / "none.wav")


def test_empty_and_not_finite(tmp_path):
    soundfile.write(tmp_path / "e.wav", np.zeros(0), 8000)
    with pytest.raises(AudioError) as caught:
        read_audio(tmp_path / "e.wav")
    assert caught.value.reason == "empty"
    soundfile.write(tmp_path / "n.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="finite") as caught:
        read_audio(tmp_path / "n.wav")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("signal", "reason"), [
    (np.zeros(0), "empty"), (np.ones(799), "too short"), (np.zeros(8000), "silent")])
def test_unusable_audio_has_a_reason(signal, reason):
    with pytest.raises(AudioError) as caught:
        check_usable(signal, 800, where="a.wav")
    assert caught.value.reason == reason and "a.wav" in str(caught.value)
    check_usable(np.ones(800), 800)


def test_errors_survive_pickling():
    error = AudioError("is silent", reason="silent", where="a.wav", hint="h")
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, str(again)) == ("silent", str(error))
    with pytest.raises(ValueError, match="unknown reason"):
        AudioError("x", reason="loud")


@pytest.mark.parametrize(("dtype", "scale"), [("i2", 32768), ("f4", 1), ("f8", 1)])
@pytest.mark.parametrize("shape", [(3, 8000), (3, 1, 8000)])
def test_published_hdf5_layout(tmp_path, dtype, scale, shape):
    values = np.random.default_rng(0).uniform(-0.9, 0.9, shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["audio"] = (values * scale).astype(dtype)
    rows, rate = read_rows(tmp_path / "a.h5")
    assert rate == 8000 and rows.shape == (3, 8000) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, values.reshape(3, 8000), atol=1 / 32768)
    assert count_rows(tmp_path / "a.h5") == 3
    np.testing.assert_array_equal(read_rows(tmp_path / "a.h5", 1, 2)[0], rows[1:2])
    np.testing.assert_array_equal(read_audio(tmp_path / "a.h5")[0], rows.reshape(-1))
    assert probe(tmp_path / "a.h5") == AudioInfo(24000, 8000, 1)


def test_hdf5_rate_attribute_and_refusals(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["audio"] = np.zeros((2, 80), "i2")
        file["audio"].attrs["rate"] = 8
    assert probe(tmp_path / "a.h5").rate == 8
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["audio"] = np.zeros((2, 2, 80))
    (tmp_path / "c.h5").write_bytes(b"junk")
    for name in ("b.h5", "c.h5"):
        with pytest.raises(AudioError):
            read_rows(tmp_path / name)


def test_a_header_that_promises_too_much_is_no_trap(tmp_path):
    path = tmp_path / "x.flac"
    soundfile.write(path, np.full(8000, 0.25), 8000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # of the 36 bits that count the samples
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert probe(path).frames > 1 << 35  # 256 GB, were it believed
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert caught.value.reason == "unreadable"


def test_a_header_that_tells_no_length_costs_reading_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.files.BLOCK", 3000)
    path = tmp_path / "x.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2))
    soundfile.write(path, noise, 8000, subtype="PCM_24")
    known = read_audio(path)[0]
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # of the 36 bits that count the samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with soundfile.SoundFile(path) as sound:
        assert sound.frames == (1 << 63) - 1
    assert probe(path) == AudioInfo(8000, 8000, 2)
    np.testing.assert_array_equal(read_audio(path)[0], known)
    assert [len(block) for block in sound_blocks(path)] == [3000, 3000, 2000]


def test_names_need_not_be_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(path), np.full(80, 0.5), 80, format="WAV")
    assert probe(path) == AudioInfo(80, 80, 1)
    np.testing.assert_array_equal(read_audio(path)[0], np.full(80, 0.5))
    path.write_bytes(b"RIFF")
    with pytest.raises(AudioError) as caught:
        probe(path)
    assert caught.value.where == str(path) and "caf" not in caught.value.message


def damaged_rows(path):
    """Four rows in as many chunks; the third is damaged on the disk."""
    with h5py.File(path, "w") as file:
        audio = file.create_dataset("audio", (4, 2000), "i2", chunks=(1, 2000), fletcher32=True)
        audio[...] = np.arange(1, 8001).reshape(4, 2000)
        place = audio.id.get_chunk_info(2).byte_offset
    with open(path, "r+b") as stream:
        stream.seek(place + 100)
        stream.write(b"damage")
    return path


def test_a_damaged_chunk_makes_an_hdf5_file_unreadable(tmp_path):
    from l3hpc.datasets.windows import pieces

    path = damaged_rows(tmp_path / "a.h5")
    assert read_rows(path, 0, 2)[0].shape == (2, 2000)
    for read in (lambda: read_rows(path), lambda: read_audio(path),
                 lambda: list(pieces(path, 2000, 0.5, True))):
        with pytest.raises(AudioError, match=r"a\.h5: is damaged: ") as caught:
            read()
        assert caught.value.reason == "unreadable"


def test_long_recordings_are_judged_before_their_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.files.BLOCK", 1000)
    sound = np.zeros(8000, np.float32)
    soundfile.write(tmp_path / "silent.wav", sound, 1000, subtype="FLOAT")
    sound[7777] = 0.5
    soundfile.write(tmp_path / "late.wav", sound, 1000, subtype="FLOAT")
    np.testing.assert_array_equal(np.concatenate(list(usable_blocks(tmp_path / "late.wav"))), sound)
    for name, least, reason in (("silent.wav", 1.0, "silent"), ("late.wav", 9.0, "too short")):
        with pytest.raises(AudioError) as caught:
            next(usable_blocks(tmp_path / name, least))
        assert caught.value.reason == reason
