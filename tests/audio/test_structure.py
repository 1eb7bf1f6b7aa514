"""Files whose stated length is wrong or missing: what is there is read, and the difference said."""

import struct
import subprocess

import numpy as np
import pytest
import soundfile

from l3hpc.audio import decoding, structure
from l3hpc.audio.decoding import find_ffmpeg
from l3hpc.audio.files import AudioError, Contents, probe, read_audio, sound_blocks

RATE = 8000
SECONDS = 6


@pytest.fixture
def sound():
    rng = np.random.default_rng(0)
    return (0.3 * rng.standard_normal(SECONDS * RATE)).clip(-0.99, 0.99).astype(np.float32)


def read(path):
    contents = Contents()
    signal, _ = read_audio(path, contents=contents)
    return signal, contents


def wav(path, sound, **options):
    """The bytes of a WAV file, and where the size of its data chunk stands."""
    soundfile.write(path, sound, RATE, **options)
    data = bytearray(path.read_bytes())
    return data, data.index(b"data") + 4


@pytest.mark.parametrize(("stated", "unstated", "words"), [
    (0, True, ""), (0xFFFFFFFF, True, ""), (0x7FFFF000, True, ""), (0x80000000, True, ""),
    (2 * SECONDS * RATE, False, ""), (2 * SECONDS * RATE + 44, False, ""),  # the header counted too
    (4 * SECONDS * RATE, False, "ends early: 6.000 s of audio, header states 12.000 s"),
    (2 * RATE, False, "is longer than its header states: 6.000 s of audio, header states 1.000 s"),
    (2 * RATE + 1, False,
     "is longer than its header states: 6.000 s of audio, header states 1.000 s")])
def test_the_size_of_a_wav_file_is_not_believed(tmp_path, sound, stated, unstated, words):
    path = tmp_path / "x.wav"
    data, at = wav(path, sound)
    whole = read_audio(path)[0]
    data[at:at + 4] = struct.pack("<I", stated)
    path.write_bytes(data)
    signal, contents = read(path)
    np.testing.assert_array_equal(signal, whole)
    said = contents.length_warning()
    assert said.startswith(words) and bool(words) == bool(said)
    assert contents.unstated == unstated
    assert probe(path).frames == len(sound)


@pytest.mark.parametrize("behind", [
    b"LIST\x04\x00\x00\x00INFO", b"id3 \x02\x00\x00\x00ab", bytes(400), b"ID3\x03" + bytes(40),
    b"abc"])
def test_what_follows_the_data_of_a_wav_file_is_no_sound(tmp_path, sound, behind):
    path = tmp_path / "x.wav"
    data, at = wav(path, sound)
    for stated, frames in ((2 * len(sound), len(sound)), (0, 0)):
        data[at:at + 4] = struct.pack("<I", stated)
        path.write_bytes(data[:at + 4 + stated] + behind)
        contents = Contents()
        assert sum(map(len, sound_blocks(path, contents))) == frames
        assert contents.length_warning() == ""


@pytest.mark.parametrize("name", ["x.wav", "x.aiff", "x.au", "x.flac", "x.ogg", "x.rf64", "x.mp3"])
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path, sound, name):
    path = tmp_path / name
    kind = {"x.rf64": "RF64", "x.ogg": "OGG", "x.mp3": "MP3"}.get(name)
    soundfile.write(path, sound, RATE, format=kind)
    whole, contents = read(path)
    assert contents.length_warning() == "" and not contents.unstated
    data = path.read_bytes()
    path.write_bytes(data[:len(data) * 2 // 3])
    signal, contents = read(path)
    assert 0.4 * len(whole) < len(signal) < 0.75 * len(whole)
    count = len(signal) - 2000  # the end of what a codec gives may be faded
    np.testing.assert_allclose(signal[:count], whole[:count], atol=1e-6)
    assert contents.length_warning().startswith("ends early: ")
    if name != "x.ogg":
        assert "6." in contents.length_warning().split(", ")[1]


def test_a_recorder_that_never_wrote_its_header_of_aiff_and_au(tmp_path, sound):
    for name, places in (("x.aiff", ((b"COMM", 10), (b"SSND", 4))), ("x.au", ((b".snd", 8),))):
        path = tmp_path / name
        soundfile.write(path, sound, RATE)
        whole = read_audio(path)[0]
        data = bytearray(path.read_bytes())
        for chunk, offset in places:
            at = data.index(chunk) + offset
            data[at:at + 4] = bytes(4)
        path.write_bytes(data)
        signal, contents = read(path)
        np.testing.assert_array_equal(signal, whole)
        assert contents.unstated and probe(path).frames == len(whole)


@pytest.mark.parametrize("stated", [0, RATE, (1 << 36) - 1])
def test_the_length_of_a_flac_file_is_not_believed(tmp_path, sound, stated):
    path = tmp_path / "x.flac"
    soundfile.write(path, sound, RATE)
    whole = read_audio(path)[0]
    data = bytearray(path.read_bytes())
    value = int.from_bytes(data[21:26], "big") & ~((1 << 36) - 1) | stated
    data[21:26] = value.to_bytes(5, "big")
    path.write_bytes(data)
    signal, contents = read(path)
    np.testing.assert_array_equal(signal, whole)
    assert contents.length_warning().split(":")[0] == {
        0: "", RATE: "is longer than its header states"}.get(stated, "ends early")
    assert contents.unstated == (stated == 0)


def test_damage_in_the_middle_is_no_early_end(tmp_path, sound):
    path = tmp_path / "x.flac"
    soundfile.write(path, np.tile(sound, 4), RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 3:len(data) // 3 + 600] = bytes(600)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"x\.flac: damaged: "):
        read_audio(path)


def frames_of(data):
    """Where the frames of an MP3 file without tags begin, by our own walk in the test."""
    rates = {3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
             2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}
    at, found = 0, []
    while at + 4 <= len(data):
        assert data[at] == 0xFF
        version = data[at + 1] >> 3 & 3
        kbits = rates[3 if version == 3 else 2][data[at + 2] >> 4]
        hertz = (44100, 48000, 32000)[data[at + 2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
        found.append(at)
        at += (144_000 if version == 3 else 72_000) * kbits // hertz + (data[at + 2] >> 1 & 1)
    return found


@pytest.fixture
def vbr(tmp_path):
    """A loud second, then nine quiet ones: the first frames say nothing of the others."""
    path = tmp_path / "x.mp3"
    sound = 0.3 * np.random.default_rng(0).standard_normal(10 * 44100)
    sound[44100:] *= 1e-3
    soundfile.write(path, sound.astype(np.float32), 44100, format="MP3", bitrate_mode="VARIABLE",
                    compression_level=0.3)
    return path


def test_an_mp3_file_without_a_xing_header_is_read_to_its_end(vbr):
    whole, contents = read(vbr)
    assert len(whole) == 441000 and not contents.unstated
    data = vbr.read_bytes()
    starts = frames_of(data)
    assert b"Xing" in data[:200]
    vbr.write_bytes(data[starts[1]:])
    with soundfile.SoundFile(vbr) as believed:
        assert believed.frames < 300_000  # what a decoder guesses from the first frames
    for more in (b"", b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)):
        vbr.write_bytes(more + data[starts[1]:])
        signal, contents = read(vbr)
        assert len(signal) == probe(vbr).frames == 1152 * (len(starts) - 1)
        assert contents.unstated and contents.length_warning() == ""
        delay = len(signal) - 441000  # what the Xing header would have cut off
        best = max(range(delay + 1), key=lambda at: float(
            signal[at:at + 40000] @ whole[:40000]))
        np.testing.assert_allclose(signal[best:][5000:430_000], whole[5000:430_000], atol=2e-3)


def test_mp3_files_one_behind_the_other(vbr):
    data = vbr.read_bytes()
    vbr.write_bytes(data + data)
    signal, contents = read(vbr)
    assert abs(len(signal) - 2 * 441000) < 6000
    assert contents.length_warning().startswith("is longer than its header states: 20.")


@pytest.mark.parametrize("more", [b"", b"LIST\4\0\0\0INFO"])
def test_wav_files_one_after_the_other(tmp_path, sound, more):
    parts = [sound[:16000], sound[16000:40800]]
    whole = b""
    for part in parts:
        soundfile.write(tmp_path / "part.wav", part, 8000, "PCM_16")
        data = (tmp_path / "part.wav").read_bytes() + more
        whole += data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    (tmp_path / "x.wav").write_bytes(whole)
    contents = Contents()
    found = np.concatenate(list(sound_blocks(tmp_path / "x.wav", contents)))
    np.testing.assert_allclose(found, np.concatenate(parts), atol=1e-4)
    assert contents.warnings() == [
        "is longer than its header states: 5.100 s of audio, header states 2.000 s"]


def test_ogg_files_one_behind_the_other(tmp_path, sound):
    path = tmp_path / "x.ogg"
    soundfile.write(path, sound, RATE)
    whole = read_audio(path)[0]
    path.write_bytes(path.read_bytes() * 2)
    signal, contents = read(path)
    np.testing.assert_array_equal(signal, np.tile(whole, 2))
    assert contents.length_warning() == ""


def test_blocks_do_not_matter(tmp_path, sound, monkeypatch):
    for name in ("x.flac", "x.ogg"):
        path = tmp_path / name
        soundfile.write(path, sound, RATE)
        path.write_bytes(path.read_bytes()[:-2000])
        whole = read_audio(path)[0]
        for block in (1000, 4096, 7777):
            monkeypatch.setattr(decoding, "BLOCK", block)
            np.testing.assert_array_equal(read_audio(path)[0], whole)
        monkeypatch.undo()


@pytest.mark.parametrize("length", [0, 3, 4, 11, 12, 30, 43, 44, 45])
def test_headers_that_end_early_are_no_crash(tmp_path, sound, length):
    for name in ("x.wav", "x.aiff", "x.au", "x.flac", "x.ogg", "x.mp3"):
        path = tmp_path / name
        soundfile.write(path, sound, RATE, format="MP3" if name == "x.mp3" else None)
        path.write_bytes(path.read_bytes()[:length])
        with open(path, "rb", 0) as stream:
            structure.read_structure(stream)
        try:
            assert len(read_audio(path)[0]) < 20
        except AudioError as error:
            assert error.reason in ("unreadable", "empty")


needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="needs ffmpeg")


@needs_ffmpeg
@pytest.mark.parametrize(("name", "more"), [
    ("x.m4a", []), ("x.aac", []), ("x.webm", ["-c:a", "libopus"]), ("x.mp4", ["-ac", "2"]),
    ("x.m4a", ["-movflags", "+faststart"])])
def test_what_ffmpeg_decodes(tmp_path, sound, name, more):
    soundfile.write(tmp_path / "x.wav", sound, RATE)
    path = tmp_path / name
    source = tmp_path / "x.wav"
    subprocess.run([find_ffmpeg(), "-v", "error", "-i", source, *more, path], check=True)
    signal, contents = read(path)
    assert contents.length_warning() == "" and abs(contents.seconds - SECONDS) < 0.2
    assert abs(probe(path).seconds - SECONDS) < 0.2
    if name != "x.webm":  # Opus is always at 48 kHz
        assert contents.rate == RATE
    assert 0.2 < float(np.std(signal)) < 0.4
    if more != ["-movflags", "+faststart"] and name != "x.webm":
        return
    data = path.read_bytes()
    path.write_bytes(data[:len(data) * 2 // 3])
    signal, contents = read(path)
    assert 0 < contents.seconds < 0.8 * SECONDS
    assert contents.length_warning().startswith("ends early: ")


@needs_ffmpeg
def test_what_ffmpeg_cannot_decode(tmp_path):
    (tmp_path / "x.m4a").write_bytes(b"no sound at all")
    with pytest.raises(AudioError, match="not a readable sound file"):
        probe(tmp_path / "x.m4a")
    subprocess.run([find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=1",
                    tmp_path / "x.mp4"], check=True)
    with pytest.raises(AudioError, match="it contains no sound"):
        read_audio(tmp_path / "x.mp4")


def test_without_ffmpeg_its_installation_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "find_ffmpeg", lambda: None)
    (tmp_path / "x.m4a").write_bytes(b"....")
    with pytest.raises(AudioError, match=r"(?s)\.m4a files are decoded by ffmpeg, which is not "
                                         r"installed.*apt-get install ffmpeg"):
        read_audio(tmp_path / "x.m4a")
