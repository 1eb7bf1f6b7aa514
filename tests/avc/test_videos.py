"""Real files through a real ffmpeg: what is taken is what is there, and what is broken is said."""

import shutil
import stat
import time

import numpy as np
import pytest
from films import encode, make_video, needs_ffmpeg

from l3hpc.audio.decoding import find_ffmpeg
from l3hpc.avc import videos
from l3hpc.avc.videos import VideoError, VideoProbe, open_video, scan_videos
from l3hpc.errors import InputError, L3hpcError

pytestmark = [needs_ffmpeg, pytest.mark.slow]
RATE = 16000


@pytest.mark.slow
def test_colour_and_pitch_come_through(films):
    for name, colour, pitch in (("red", (254, 0, 0), 300), ("blue", (0, 0, 254), 600)):
        video = open_video(films, next(file for file in scan_videos(films)
                                       if file.file == f"{name}.mp4"))
        assert abs(video.seconds - 3) < 0.15
        image = video.image(1.0, 28, 32, (0.5, 0.5))
        assert image.shape == (28, 28, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - colour).max() <= 8
        sound = video.sound(1.0, RATE)
        assert sound.shape == (RATE,) and sound.dtype == np.int16
        assert np.argmax(np.abs(np.fft.rfft(sound * np.hanning(RATE)))) == pitch


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Frame n of 10 per second is white left of column 8 n, black right of it; pitch by second."""
    folder = tmp_path_factory.mktemp("moving")
    encode("-f", "lavfi", "-i", "color=black:s=320x256:r=10:d=4", "-f", "lavfi", "-i",
           "aevalsrc='0.5*sin(2*PI*t*(400+200*floor(t)))':s=16000:d=4", "-vf",
           "geq=lum='if(lt(X,8*N),235,16)':cb=128:cr=128", "-qscale:v", "1",
           "-c:a", "pcm_s16le", folder / "moving.avi")
    return folder / "moving.avi"


@pytest.mark.parametrize("moment", [0.0, 0.55, 1.05, 2.35, 3.85])
def test_the_frame_is_of_that_time(moving, moment):
    # a square of the full height from the left end, at the same scale: columns are pixels
    image = videos.decode_image(moving, moment, 256, 256, (0.0, 0.0))
    white = (image[128, :, 0] > 128).sum()
    # the first frame at or after it; the square ends at column 256
    assert abs(white - min(8 * np.ceil(moment * 10 - 1e-9), 256)) <= 2


def test_the_square_is_where_it_was_asked_for(moving):
    left, right = (videos.decode_image(moving, 3.0, 256, 256, (share, 0.0))
                   for share in (0.0, 1.0))
    assert abs((left[0, :, 0] > 128).sum() - 240) <= 2
    assert abs((right[0, :, 0] > 128).sum() - (240 - 64)) <= 2  # 320 wide: 64 to spare
    np.testing.assert_allclose(left[:, 64:].astype(int), right[:, :192], atol=3)


@pytest.mark.parametrize(("start", "pitch"), [(0.0, 400), (1.0, 600), (3.0, 1000)])
def test_the_second_is_of_that_time(moving, start, pitch):
    sound = videos.decode_sound(moving, start, RATE)
    assert np.argmax(np.abs(np.fft.rfft(sound * np.hanning(RATE)))) == pitch


def test_upright_frames_scale_by_their_short_side(tmp_path):
    path = make_video(tmp_path / "tall.mp4", "lime", size="64x160", seconds=2)
    assert videos.decode_image(path, 0.5, 56, 64, (1.0, 1.0)).shape == (56, 56, 3)


def test_a_time_behind_the_last_frame_gives_the_last_second_s_frame(films):
    assert videos.decode_image(films / "red.mp4", 3.4, 16, 18, (0, 0)).shape == (16, 16, 3)
    with pytest.raises(VideoError, match="no image at 60.00 s"):
        videos.decode_image(films / "red.mp4", 60.0, 16, 18, (0, 0))
    with pytest.raises(VideoError, match=r"only 0\.\d\d s of sound at 2.70 s"):
        videos.decode_sound(films / "red.mp4", 2.7, RATE)


def test_probing_with_and_without_ffprobe(films, tmp_path, monkeypatch):
    silent = make_video(tmp_path / "silent.mp4", sound=False)
    song = tmp_path / "song.flac"
    encode("-f", "lavfi", "-i", "sine=d=2", song)
    expected = {films / "red.mp4": (3, True, True), silent: (3, True, False),
                song: (2, False, True)}
    which = shutil.which
    for missing in ("nothing", "ffprobe"):
        monkeypatch.setattr(videos.shutil, "which",
                            lambda name, no=missing: None if name == no else which(name))
        for path, (seconds, image, sound) in expected.items():
            found = videos.probe_video(path)
            assert (found.image, found.sound) == (image, sound)
            assert abs(found.seconds - seconds) < 0.15
        with pytest.raises(VideoError, match="README|text.mp4"):
            (tmp_path / "text.mp4").write_text("no video")
            videos.probe_video(tmp_path / "text.mp4")


def test_a_cover_is_no_image():
    banner = """Input #0, flac, from 'x':
  Duration: 01:02:03.50, bitrate: 1 kb/s
  Stream #0:0: Audio: flac, 44100 Hz
  Stream #0:1: Video: mjpeg, yuvj420p, 5x5 (attached pic)
"""
    assert videos._read_banner(banner, "x") == VideoProbe(3723.5, False, True)
    found = {"streams": [
        {"codec_type": "video", "disposition": {"attached_pic": 1}, "duration": "1"},
        {"codec_type": "audio", "duration": "9.5"}]}
    assert videos._probed(found, "x") == VideoProbe(9.5, False, True)
    found["streams"].append({"codec_type": "video", "disposition": {"attached_pic": 0}})
    assert videos._probed(found, "x") == VideoProbe(9.5, True, True)


def test_which_files_are_videos_and_where_their_sound_lies(tmp_path):
    for name in ("video/a.mp4", "audio/a.flac", "video/b.MKV", "c.webm", "c.wav", "note.txt",
                 ".hidden/d.mp4", ".e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert {one.file: one.sound for one in scan_videos(tmp_path)} == {
        "video/a.mp4": "audio/a.flac", "video/b.MKV": "video/b.MKV", "c.webm": "c.wav"}
    with pytest.raises(InputError, match="holds no videos"):
        scan_videos(tmp_path / "audio")
    with pytest.raises(InputError, match="no such folder"):
        scan_videos(tmp_path / "nowhere")


def test_sound_beside_the_video_is_used(tmp_path):
    make_video(tmp_path / "video/a.mp4", sound=False)
    (tmp_path / "audio").mkdir()
    encode("-f", "lavfi", "-i", "sine=f=500:d=2", tmp_path / "audio/a.wav")
    (file,) = scan_videos(tmp_path)
    video = open_video(tmp_path, file)
    assert abs(video.seconds - 2) < 0.1  # of the shorter one
    assert np.argmax(np.abs(np.fft.rfft(video.sound(0.5, RATE)))) == 500


def test_unusable_videos_say_why(tmp_path):
    make_video(tmp_path / "silent.mp4", sound=False)
    make_video(tmp_path / "short.mp4", seconds=0.5)
    (tmp_path / "empty.mp4").write_bytes(b"")
    reasons = {}
    for file in scan_videos(tmp_path):
        with pytest.raises(VideoError) as error:
            open_video(tmp_path, file)
        reasons[file.file] = error.value.message
    assert reasons["silent.mp4"] == "has no sound"
    assert reasons["short.mp4"].startswith("has only 0.")
    assert "empty.mp4" in reasons


def test_names_are_names_and_nothing_else(tmp_path, monkeypatch):
    """A file named like an option, a pattern or another protocol is that file."""
    film = make_video(tmp_path / "plain/film.mp4", seconds=1.5)
    monkeypatch.chdir(tmp_path)
    for name in ("-y.mp4", "a%03d*.mp4", "concat:x|y.mp4", "a b'\".mp4", "$(touch owned).mp4"):
        shutil.copy(film, tmp_path / name)
        file = next(one for one in scan_videos(tmp_path) if one.file == name)
        assert open_video(tmp_path, file).image(0.5, 16, 18, (0, 0)).shape == (16, 16, 3)
        (tmp_path / name).unlink()
    assert not (tmp_path / "owned").exists()


def test_a_playlist_reaches_nothing(tmp_path):
    (tmp_path / "list.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    (file,) = scan_videos(tmp_path)
    with pytest.raises(VideoError):
        open_video(tmp_path, file)


def stand_in(folder, monkeypatch, script):
    """Puts a program named ffmpeg in the place of the real one."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(videos, "ffmpeg_program", lambda: str(program))


def test_a_program_that_hangs_is_ended(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(videos, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(VideoError, match="more than 0.5 s"):
        videos.decode_sound(tmp_path / "x.mp4", 0.0, RATE)
    assert time.monotonic() - started < 300


def test_without_ffmpeg_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(videos.shutil, "which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(L3hpcError, match="ffmpeg is not installed") as error:
            videos.ffmpeg_program()
        assert "apt-get install ffmpeg" in error.value.hint
    finally:
        find_ffmpeg.cache_clear()
