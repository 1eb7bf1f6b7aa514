import os
import pickle
import shutil
import signal
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.audio import decoding
from l3hpc.audio.files import (
    AudioError,
    AudioInfo,
    Contents,
    check_usable,
    probe,
    read_audio,
    sound_blocks,
    unchanged,
    usable_blocks,
)
from l3hpc.audio.hdf5_rows import all_row_blocks, count_rows, read_rows
from l3hpc.datasets.windows import read_pieces


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
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 7)
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
    contents = Contents()
    np.testing.assert_array_equal(read_audio(path, contents=contents)[0], np.full(8000, 0.25))
    assert contents.length_warning().startswith(
        "ends early: 1.000 s of audio, header states 8589934.592 s")


def test_a_header_that_tells_no_length_costs_reading_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 3000)
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
    from l3hpc.datasets.windows import read_pieces

    path = damaged_rows(tmp_path / "a.h5")
    assert read_rows(path, 0, 2)[0].shape == (2, 2000)
    for read in (lambda: read_rows(path), lambda: read_audio(path),
                 lambda: list(read_pieces(path, 2000, 0.5, True))):
        with pytest.raises(AudioError, match=r"a\.h5: is damaged: ") as caught:
            read()
        assert caught.value.reason == "unreadable"


def test_long_recordings_are_judged_before_their_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 1000)
    sound = np.zeros(8000, np.float32)
    soundfile.write(tmp_path / "silent.wav", sound, 1000, subtype="FLOAT")
    sound[7777] = 0.5
    soundfile.write(tmp_path / "late.wav", sound, 1000, subtype="FLOAT")
    np.testing.assert_array_equal(np.concatenate(list(usable_blocks(tmp_path / "late.wav"))), sound)
    for name, least, reason in (("silent.wav", 1.0, "silent"), ("late.wav", 9.0, "too short")):
        with pytest.raises(AudioError) as caught:
            next(usable_blocks(tmp_path / name, least))
        assert caught.value.reason == reason


@pytest.mark.parametrize("value", [1e29, -3e9, 2.0**31 * 1.01])
def test_samples_that_no_recording_has_are_refused(tmp_path, value):
    sound = np.full(8000, 0.25)
    sound[7000] = value
    soundfile.write(tmp_path / "x.wav", sound, 8000, subtype="FLOAT")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = sound[None]
    for name in ("x.wav", "x.h5"):
        with pytest.raises(AudioError,
                           match=rf"x\{name[1:]}: contains samples of up to .*no recordi"):
            read_audio(tmp_path / name)


def test_a_file_in_the_other_byte_order_is_refused(tmp_path):
    sound = 0.3 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "x.wav", sound.astype("<f4").byteswap(), 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="finite|which no recording has"):
        read_audio(tmp_path / "x.wav")


def test_what_is_odd_about_a_recording_is_said(tmp_path):
    for peak, words in ((5e-5, ["is very quiet: its largest sample is 5.0e-05 of full scale"]),
                        (2e-4, []), (1.0, []), (4.0, []),
                        (30_000.0, ["has samples of up to 30,000, where full scale is 1"])):
        soundfile.write(tmp_path / "x.wav", np.full(8000, peak), 8000, subtype="FLOAT")
        contents = Contents()
        read_audio(tmp_path / "x.wav", contents=contents)
        assert contents.warnings() == words


def special(place, kind):
    """Something at ``place`` that is no regular file."""
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(place))
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        os.mkfifo(place.with_suffix(".pipe"))
        place.symlink_to(place.with_suffix(".pipe"))


@pytest.mark.parametrize(("kind", "words"), [
    ("fifo", "is a named pipe"), ("socket", "is a socket"), ("folder", "is a folder"),
    ("device", "is a device"), ("link", "is a named pipe")])
@pytest.mark.parametrize("name", ["x.wav", "x.h5", "x.m4a"])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind, words, name):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    special(Path(name), kind)
    signal.alarm(10)
    try:
        for look in (probe, read_audio):
            with pytest.raises(AudioError, match=f"{name}: {words}"):
                look(Path(name))
    finally:
        signal.alarm(0)


def test_links_to_files_are_read_and_links_to_nothing_are_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(800, 0.5), 8000)
    (tmp_path / "x.wav").symlink_to("a.wav")
    assert probe(tmp_path / "x.wav").frames == 800
    (tmp_path / "y.wav").symlink_to("nowhere")
    with pytest.raises(AudioError, match=r"y\.wav: a broken link"):
        probe(tmp_path / "y.wav")


@pytest.mark.parametrize("shape", [(2, 5000), (2, 1, 5000), (7, 300), (1, 0)])
def test_rows_come_in_blocks(tmp_path, monkeypatch, shape):
    rows = np.random.default_rng(0).integers(-9000, 9000, shape).astype(np.int16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = rows
        file["audio"].attrs["rate"] = 800
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 700)
    found = list(all_row_blocks(tmp_path / "x.h5"))
    assert max(map(len, found), default=0) <= 700
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *found]), rows.reshape(-1) / 32768)


@pytest.mark.parametrize(("shape", "words"), [
    ((800,), r"'audio' has shape \(800,\)"), ((2, 2, 800), r"'audio' has shape \(2, 2, 800\)"),
    (None, "contains no data set 'audio'")])
def test_an_hdf5_file_without_rows_of_audio_says_what_it_has(tmp_path, shape, words):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio" if shape else "sound"] = np.zeros(shape or 8, "f4")
    with pytest.raises(AudioError, match=words):
        read_rows(tmp_path / "x.h5")


@pytest.mark.parametrize("kind", ["i4", "i8", "u2", "u4"])
def test_rows_whose_type_does_not_tell_full_scale_are_refused(tmp_path, kind):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = np.ones((2, 800), kind)
    with pytest.raises(AudioError, match="whose full scale is unknown"):
        read_rows(tmp_path / "x.h5")


CHANGES = {
    "shrinks": lambda path: os.truncate(path, path.stat().st_size // 2),
    "is emptied": lambda path: os.truncate(path, 0),
    "grows": lambda path: path.write_bytes(path.read_bytes() + bytes(200_000)),
    "is rewritten": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "is replaced": lambda path: os.replace(shutil.copy(path, f"{path}.new"), path),
    "is removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".h5"])
def test_a_recording_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, suffix,
                                                              change):
    path = tmp_path / f"a{suffix}"
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 8).astype(np.float32)
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["audio"] = sound.reshape(-1, 16_000)
    else:
        soundfile.write(path, sound, 16_000)
    monkeypatch.setattr(decoding, "BLOCK", 1 << 15)
    pieces = read_pieces(path, 16_000, 0.5, True, size=2)
    next(pieces)
    change(path)
    with pytest.raises(AudioError, match="(changed|removed) while it was read") as refused:
        list(pieces)
    assert refused.value.reason == "unreadable"


def test_a_recording_that_is_only_read_by_others_has_not_changed(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(16_000, 0.1), 16_000)
    with unchanged(path):
        path.read_bytes()
        os.utime(path, ns=(1, path.stat().st_mtime_ns))
        os.chmod(path, 0o400)
    with pytest.raises(AudioError, match="changed while"), unchanged(path):
        os.utime(path)
