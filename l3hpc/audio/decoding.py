"""Sound files as blocks of samples: libsndfile, fed so that it reads all there is, or ffmpeg.

Only regular files are opened: a FIFO named like a recording would be waited for without an end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.formats import AudioError, needs_ffmpeg
from l3hpc.audio.structure import SoundStructure, read_structure
from l3hpc.errors import InputError
from l3hpc.io.files import refuse_special

BLOCK = 1 << 20  # samples per channel read at once
MOST_AT_ONCE = 1 << 22  # samples of all channels
IN_MEMORY = 8 << 20  # bytes of a file that is copied to be patched
FFMPEG_BLOCK = 1 << 16
PATIENCE_S = 5.0  # for ffmpeg to end
MOST = 1 << 40  # samples: a header that states more states nothing (libsndfile's "unknown")
SLACK = 64  # some writers count their header among the samples
MP3_SLACK = 1152  # one frame
FFMPEG_SLACK_S = 0.25  # lengths are given in hundredths, and codecs begin and end with padding
INSTALL = "apt-get install ffmpeg, conda install ffmpeg, or pip install imageio-ffmpeg"


def require_regular(path: Path) -> None:
    """Raise ``AudioError`` ('unreadable') for what is no regular file and no link to one: reading a
    FIFO, a socket or a device could wait for ever."""
    try:
        refuse_special(path)
    except InputError as error:
        dangling = os.path.islink(path) and not os.path.exists(path)
        message = "a broken link" if dangling else error.message
        raise AudioError(message, where=str(path)) from None
    except ValueError:
        raise AudioError("not a file name: it contains a NUL character",
                             where=repr(str(path))) from None


def open_regular(path: Path) -> io.FileIO:
    """A regular file, opened to be read. Raises ``AudioError`` as ``require_regular`` does."""
    require_regular(path)  # opening a device can already do something
    try:
        # O_NONBLOCK: were it replaced by a FIFO meanwhile, opening would not wait for a writer
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AudioError(f"cannot be read: {(error.strerror or 'error').lower()}",
                         where=str(path)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AudioError("is no longer a regular file", where=str(path))
    return os.fdopen(handle, "rb", 0)  # not buffered: libsndfile continues from its position


class Decoder:
    """One sound file, open. Use it as a context manager.

    Attributes
    ----------
    rate: Hz. channels: in the file. stated: samples per channel that the header states (None: it
    states none). there: how many the structure shows to be there (None: only decoding tells). cut:
    whether the file is known to end early; after ``blocks`` it is certain. slack: samples by which
    the stated length may be off in a file that is whole. unstated: whether the header should state
    a length and does not.
    """

    slack = SLACK
    unstated = False

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.rate = self.channels = 0
        self.stated: int | None = None
        self.there: int | None = None
        self.cut = False

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples (n, channels) as float32, ``BLOCK`` at a time. Call it once."""
        raise NotImplementedError


def open_sound(path: Path) -> Decoder:
    """The decoder for a sound file. Raises ``AudioError`` ('unreadable')."""
    return Ffmpeg(path) if needs_ffmpeg(path) else Libsndfile(path)


class Libsndfile(Decoder):
    """A file that libsndfile reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._source = -1  # a descriptor that libsndfile reads from
        self._stream = open_regular(path)
        try:
            try:
                self._structure = read_structure(self._stream) or SoundStructure()
            except (struct.error, OSError) as error:
                raise AudioError(f"not a readable sound file: {error}", where=str(path)) from None
            self._sound: Any = None
            self._feed: _Patched | None = None
            spans = self._structure.spans or ((0, None),)
            self._first, self._more = spans[0], spans[1:]
            self.stated, self.there, self.cut = (
                self._structure.stated, self._structure.there, self._structure.cut)
            self.unstated = self.stated is None and (
                self.there is not None or bool(self._structure.patches))
            if self._structure.rate:  # opened when it is read
                self.rate, self.channels = self._structure.rate, self._structure.channels
                self.slack = MP3_SLACK
                return
            self._sound = self._open(self._first[0], self._first[1], whole=False)
        except BaseException:
            self._stream.close()
            self._close_source()
            raise
        self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        known = int(self._sound.frames)
        if self.there is None and 0 <= known <= MOST and not self._more:
            self.there = known

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._stream.close()
        self._close_source()

    def blocks(self) -> Iterator[np.ndarray]:
        if self._sound is None or self._feed is not None:
            if self._sound is not None:
                self._sound.close()
            self._sound = self._open(*self._first)
            self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        yield from self._read()
        for start, stop in self._more:  # streams that were joined end to end
            self._sound.close()
            self._sound = self._open(start, stop)
            if (self._sound.samplerate, self._sound.channels) != (self.rate, self.channels):
                raise AudioError("streams of different rates or channels, one after the other",
                                 where=str(self.path), hint="Split the file, for example with "
                                 "ffmpeg, and embed each.")
            yield from self._read()

    def _read(self) -> Iterator[np.ndarray]:
        import soundfile

        known = BLOCK if self.there is None else max(self.there + 1, self.rate)
        while True:
            size = min(BLOCK, known, max(MOST_AT_ONCE // self.channels, 1))
            known = BLOCK  # there is more than the structure shows
            out = np.empty((size, self.channels), np.float32)
            out[:, 0] = np.nan  # what a damaged file still gave before it failed can be told
            try:
                block = self._sound.read(out=out)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                if not self._at_end():
                    raise AudioError(f"damaged: {error}", where=str(self.path)) from None
                missing = np.isnan(out[:, 0])
                block = out[:int(np.argmax(missing))] if missing.any() else out
                self.cut = True
                if len(block):
                    yield block
                return
            if len(block):
                yield block
            if len(block) < size:
                return

    def _at_end(self) -> bool:
        """Whether the decoder has taken the whole file: what it misses is not there."""
        if self._structure.piped:
            return True
        size = os.fstat(self._stream.fileno()).st_size
        if self._feed is None:
            place = os.lseek(self._stream.fileno(), 0, os.SEEK_CUR)
        elif self._source >= 0:
            place = self._feed.start + os.lseek(self._source, 0, os.SEEK_CUR)
        else:
            place = self._feed.taken
        return bool(place >= size)

    def _open(self, start: int, stop: int | None, whole: bool = True) -> Any:
        """``whole``: for all of its samples, not for its header alone."""
        import soundfile

        self._stream.seek(0)
        self._close_source()
        self._feed = None
        if self._structure.piped:
            self._source = _pipe(self._stream, self._structure.patches)
        elif self._structure.patches or stop is not None:
            self._feed = _Patched(self._stream, self._structure.patches, start, stop)
            if whole and self._feed.length <= IN_MEMORY:
                # a copy: to ask Python for each of its bytes, libsndfile would wait for its lock,
                # which with a dozen readers takes longer than decoding
                self._source = self._feed.copy()
        else:
            self._source = os.dup(self._stream.fileno())
        try:
            source = self._source if self._source >= 0 else self._feed
            sound = soundfile.SoundFile(source, closefd=False)
        except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:
            why = getattr(error, "error_string", error)
            raise AudioError(f"not a readable sound file: {why}", where=str(self.path)) from None
        # soundfile would stop at the stated length, and seek after every read
        sound.seekable = lambda: False
        return sound

    def _close_source(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1


class _Patched:
    """A part of a file as a file of its own, with some bytes replaced, for libsndfile."""

    def __init__(self, stream: io.FileIO, patches: tuple[tuple[int, bytes], ...], start: int,
                 stop: int | None) -> None:
        self._stream, self._patches, self.start = stream, patches, start
        size = os.fstat(stream.fileno()).st_size
        self.length = (size if stop is None else stop) - start
        self._place = 0
        self.taken = 0  # how far into the file it was read

    def copy(self) -> int:
        """The whole of it in a file of its own in memory: a descriptor, at its beginning."""
        descriptor = os.memfd_create("sound", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(self.read())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.length}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        left = max(self.length - self._place, 0)
        count = left if count < 0 else min(count, left)
        self._stream.seek(self.start + self._place)
        data = _patch(self._stream.read(count), self.start + self._place, self._patches)
        self._place += len(data)
        self.taken = max(self.taken, self.start + self._place)
        return data


def _patch(data: bytes, place: int, patches: tuple[tuple[int, bytes], ...]) -> bytes:
    """``data``, which lies at ``place`` of a file, with what the patches say."""
    touched = [(at, new) for at, new in patches if at < place + len(data) and place < at + len(new)]
    if not touched:
        return data
    changed = bytearray(data)
    for at, new in touched:
        first, last = max(at - place, 0), min(at - place + len(new), len(data))
        changed[first:last] = new[first + place - at:last + place - at]
    return bytes(changed)


def _pipe(stream: io.FileIO, patches: tuple[tuple[int, bytes], ...]) -> int:
    """A pipe from which the file comes: its length cannot be guessed from the size of the file."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    source = os.fdopen(os.dup(stream.fileno()), "rb")

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), source, os.fdopen(writer, "wb") as target:
            place = 0
            while data := os.pread(source.fileno(), 1 << 16, place):
                target.write(_patch(data, place, patches))
                place += len(data)

    threading.Thread(target=feed, name="feed", daemon=True).start()
    return reader


# ffmpeg -----------------------------------------------------------------------------------------


@functools.cache
def find_ffmpeg() -> str | None:
    """The ffmpeg program on the PATH, or that of the package imageio-ffmpeg; None without both."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-untyped]

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpeg_source(path: Path) -> list[str]:
    """The arguments that make ``path`` ffmpeg's input: a local file and nothing else."""
    # "file:" so that no name reads as an option, a pattern or another protocol
    return ["-protocol_whitelist", "file", "-i", f"file:{os.path.abspath(path)}"]


class Ffmpeg(Decoder):
    """A file that ffmpeg decodes, as a process of its own whose output is read block by block."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        require_regular(path)
        program = find_ffmpeg()
        if program is None:
            raise AudioError(f"{self.path.suffix} files are decoded by ffmpeg, which is not "
                             "installed", where=str(path), hint=f"Install it: {INSTALL}")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        # AU: its header has rate and channels, and its samples are 32-bit floats
        self._process = subprocess.Popen(
            [program, "-hide_banner", "-nostdin", "-nostats", "-threads", "1",
             *ffmpeg_source(path), "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        head = self._output.read(24)
        if len(head) < 24 or head[:4] != b".snd":
            words = self._reason()
            self.close()
            raise AudioError(f"not a readable sound file: {words}", where=str(path))
        start, _, _, self.rate, self.channels = struct.unpack(">5I", head[4:])
        self._output.read(start - 24)
        # a raw AAC stream states no length; what ffmpeg says of one is a guess
        self.there = None if self.path.suffix.lower() == ".aac" else self._duration()
        self.stated = self.there
        self.slack = int(FFMPEG_SLACK_S * self.rate)

    def close(self) -> None:
        self._output.close()  # ffmpeg ends when nobody reads
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def blocks(self) -> Iterator[np.ndarray]:
        width, read = 4 * self.channels, 0
        size = min(FFMPEG_BLOCK, max(MOST_AT_ONCE // self.channels, 1))
        while data := self._output.read(size * width):
            whole = len(data) // width * width
            read += whole // width
            yield np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, self.channels)
        code = self._process.wait()
        if code and not read:
            raise AudioError(f"damaged: {self._reason()}", where=str(self.path))
        self.cut = bool(code)

    def _duration(self) -> int | None:
        found = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", self._text())
        if not found:
            return None
        seconds = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
        return round(seconds * self.rate)

    def _reason(self) -> str:
        if "matches no streams" in self._text():
            return "it holds no sound"
        lines = [line for line in self._text().splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'ffmpeg gave no reason'}".replace(
            f"file:{os.path.abspath(self.path)}: ", "")[:200]

    def _text(self) -> str:
        # pread: the place in the file is shared with ffmpeg, which is still writing
        return os.pread(self._said.fileno(), 1 << 16, 0).decode(errors="replace")
