"""Decoding of sound files into blocks of samples, by libsndfile or ffmpeg.

``open_sound`` chooses the decoder. libsndfile is given the file in such a way that it reads all
samples, even if the header states fewer (see ``structure``). Only regular files are opened, because
opening a FIFO with the name of a recording would block for ever.
"""

from __future__ import annotations

import abc
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
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio.formats import AudioError, needs_ffmpeg
from l3hpc.audio.structure import SoundStructure, read_structure
from l3hpc.errors import InputError
from l3hpc.io.files import refuse_special

if TYPE_CHECKING:
    import soundfile

BLOCK = 1 << 20  # samples per channel that are read at once
MAX_BLOCK = 1 << 22  # most samples of all channels that are read at once
IN_MEMORY = 8 << 20  # bytes of a file that is copied to be patched
FFMPEG_BLOCK = 1 << 16
FFMPEG_EXIT_S = 5.0  # how long to wait for ffmpeg to exit
MAX_SAMPLES = 1 << 40  # a header that states more means "unknown" (libsndfile)
SLACK = 64  # samples; some writers count their header among the samples
MP3_SLACK = 1152  # samples: one frame
FFMPEG_SLACK_S = 0.25  # ffmpeg gives lengths in hundredths, and codecs add padding at both ends
INSTALL = "apt-get install ffmpeg, conda install ffmpeg, or pip install imageio-ffmpeg"


def require_regular(path: Path) -> None:
    """Check that a path is a regular file, or a link to one.

    Raises
    ------
    AudioError
        It is not (``reason`` is ``'unreadable'``); reading a FIFO or device could block for ever.
    """
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
    """Open a regular file for reading; raises ``AudioError`` as ``require_regular`` does."""
    # Checked before opening, because opening a device can have side effects.
    require_regular(path)
    try:
        # O_NONBLOCK: if the file has been replaced by a FIFO, opening does not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AudioError(f"cannot be read: {(error.strerror or 'error').lower()}",
                         where=str(path)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AudioError("is no longer a regular file", where=str(path))
    # Without a buffer, because libsndfile reads from the position of the descriptor.
    return os.fdopen(handle, "rb", 0)


class Decoder(abc.ABC):
    """An open sound file; a context manager.

    Attributes
    ----------
    rate : int
        Sampling rate in Hz.
    channels : int
        Number of channels in the file.
    stated : int or None
        Samples per channel that the header states; None if it states none.
    there : int or None
        Samples per channel that the structure of the file shows; None if only decoding can tell.
    cut : bool
        Whether the file ends early; final after ``blocks``.
    slack : int
        Samples by which ``stated`` may differ in a complete file.
    unstated : bool
        Whether the header should state a length and does not.
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

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples, (n, channels) float32, at most ``BLOCK`` at a time; call it once."""


def open_sound(path: Path) -> Decoder:
    """Open a sound file with the decoder for its suffix.

    Raises
    ------
    AudioError
        The file cannot be read (``reason`` is ``'unreadable'``).
    """
    return Ffmpeg(path) if needs_ffmpeg(path) else Libsndfile(path)


class Libsndfile(Decoder):
    """Decodes a file with libsndfile."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._source = -1  # the descriptor that libsndfile reads from
        self._stream = open_regular(path)
        try:
            try:
                self._structure = read_structure(self._stream) or SoundStructure()
            except (struct.error, OSError) as error:
                raise AudioError(f"not a readable sound file: {error}", where=str(path)) from None
            self._sound: soundfile.SoundFile | None = None
            self._feed: _Patched | None = None
            spans = self._structure.spans or ((0, None),)
            self._first, self._more = spans[0], spans[1:]
            self.stated, self.there, self.cut = (
                self._structure.stated, self._structure.there, self._structure.cut)
            self.unstated = self.stated is None and (
                self.there is not None or bool(self._structure.patches))
            if self._structure.rate:  # an MP3 file, which libsndfile opens slowly: opened in blocks
                self.rate, self.channels = self._structure.rate, self._structure.channels
                self.slack = MP3_SLACK
                return
            self._sound = self._open(self._first[0], self._first[1], whole=False)
        except BaseException:
            self._stream.close()
            self._close_source()
            raise
        self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        frames = int(self._sound.frames)
        # Of files that were joined, libsndfile counts the first alone.
        if self.there is None and 0 <= frames <= MAX_SAMPLES and not self._more:
            self.there = frames

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._stream.close()
        self._close_source()

    def blocks(self) -> Iterator[np.ndarray]:
        # Opened for its header alone, or not yet: now the samples come from a copy in memory or a
        # pipe.
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
                raise AudioError("contains streams with different rates or channels",
                                 where=str(self.path), hint="Split the file, for example with "
                                 "ffmpeg, and embed each part.")
            yield from self._read()

    def _read(self) -> Iterator[np.ndarray]:
        import soundfile

        sound = self._sound
        assert sound is not None
        # One sample more than expected, so that a short file is read by one call to its end.
        expected = BLOCK if self.there is None else max(self.there + 1, self.rate)
        while True:
            size = min(BLOCK, expected, max(MAX_BLOCK // self.channels, 1))
            # A second block means more than the structure shows.
            expected = BLOCK
            out = np.empty((size, self.channels), np.float32)
            # Marks samples that were not written, if libsndfile fails in the middle of a block.
            out[:, 0] = np.nan
            try:
                block = sound.read(out=out)
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
        """Whether the decoder has read the whole file, so that the rest is missing from it."""
        if self._structure.piped:
            return True
        size = os.fstat(self._stream.fileno()).st_size
        if self._feed is None:
            position = os.lseek(self._stream.fileno(), 0, os.SEEK_CUR)
        elif self._source >= 0:
            position = self._feed.start + os.lseek(self._source, 0, os.SEEK_CUR)
        else:
            position = self._feed.taken
        return bool(position >= size)

    def _open(self, start: int, stop: int | None, whole: bool = True) -> soundfile.SoundFile:
        """Open a span of the file; ``whole`` to read its samples, not its header alone."""
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
            reason = getattr(error, "error_string", error)
            raise AudioError(f"not a readable sound file: {reason}",
                             where=str(self.path)) from None
        # Otherwise soundfile would stop at the stated length and seek after every read.
        sound.seekable = lambda: False
        return sound

    def _close_source(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1


class _Patched:
    """A file object for libsndfile: a part of a file, with some bytes replaced."""

    def __init__(self, stream: io.FileIO, patches: tuple[tuple[int, bytes], ...], start: int,
                 stop: int | None) -> None:
        self._stream, self._patches, self.start = stream, patches, start
        size = os.fstat(stream.fileno()).st_size
        self.length = (size if stop is None else stop) - start
        self._position = 0
        self.taken = 0  # position in the whole file up to which it was read

    def copy(self) -> int:
        """Copy it into a file in memory and return the descriptor, at its beginning."""
        descriptor = os.memfd_create("sound", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(self.read())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it, as ``io.IOBase.seek``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position, as ``io.IOBase.tell``."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Read at most ``count`` bytes (all if negative), as ``io.RawIOBase.read``."""
        left = max(self.length - self._position, 0)
        count = left if count < 0 else min(count, left)
        self._stream.seek(self.start + self._position)
        data = _patch(self._stream.read(count), self.start + self._position, self._patches)
        self._position += len(data)
        self.taken = max(self.taken, self.start + self._position)
        return data


def _patch(data: bytes, start: int, patches: tuple[tuple[int, bytes], ...]) -> bytes:
    """Apply (offset, bytes) patches to ``data``, which begins at ``start`` of a file."""
    touched = [(at, new) for at, new in patches if at < start + len(data) and start < at + len(new)]
    if not touched:
        return data
    changed = bytearray(data)
    for at, new in touched:
        first, last = max(at - start, 0), min(at - start + len(new), len(data))
        changed[first:last] = new[first + start - at:last + start - at]
    return bytes(changed)


def _pipe(stream: io.FileIO, patches: tuple[tuple[int, bytes], ...]) -> int:
    """Write a file into a pipe and return the end to read.

    From a pipe libsndfile cannot guess the length by the size of the file.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # A descriptor of the thread's own: the file may be closed before the thread has seen that its
    # pipe is not read any further.
    source = os.fdopen(os.dup(stream.fileno()), "rb")

    def feed() -> None:
        # The reader closes the pipe as soon as it has what it needs, such as the header alone.
        with contextlib.suppress(BrokenPipeError), source, os.fdopen(writer, "wb") as target:
            position = 0
            # pread, because the copy of the descriptor shares its position with the original.
            while data := os.pread(source.fileno(), 1 << 16, position):
                target.write(_patch(data, position, patches))
                position += len(data)

    threading.Thread(target=feed, name="feed", daemon=True).start()
    return reader


# ffmpeg -----------------------------------------------------------------------------------------


@functools.cache
def find_ffmpeg() -> str | None:
    """Find ffmpeg on the PATH or in the package imageio-ffmpeg; None if there is neither."""
    program = shutil.which("ffmpeg")
    if program:
        return program
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-untyped]

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpeg_source(path: Path) -> list[str]:
    """Return the arguments that make ``path`` ffmpeg's input, as a local file."""
    # "file:" keeps a name from being taken for an option, a pattern or another protocol.
    return ["-protocol_whitelist", "file", "-i", f"file:{os.path.abspath(path)}"]


class Ffmpeg(Decoder):
    """Decodes a file with ffmpeg, a process whose output is read block by block."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        require_regular(path)
        program = find_ffmpeg()
        if program is None:
            raise AudioError(f"{self.path.suffix} files are decoded by ffmpeg, which is not "
                             "installed", where=str(path), hint=f"Install it: {INSTALL}")
        # Messages go to a file: a pipe that nobody reads fills up, and ffmpeg would stop at it.
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        # The output is AU, whose header has rate and channels and whose samples are 32-bit floats.
        self._process = subprocess.Popen(
            # One thread, because the steps decode on every core of the task already. The first
            # audio stream: left to itself, ffmpeg takes the one with most channels.
            [program, "-hide_banner", "-nostdin", "-nostats", "-threads", "1",
             *ffmpeg_source(path), "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        head = self._output.read(24)
        if len(head) < 24 or head[:4] != b".snd":
            reason = self._reason()
            self.close()
            raise AudioError(f"not a readable sound file: {reason}", where=str(path))
        start, _, _, self.rate, self.channels = struct.unpack(">5I", head[4:])
        # AU allows a text between header and samples.
        self._output.read(start - 24)
        # A raw AAC stream states no length; ffmpeg would only guess one.
        self.there = None if self.path.suffix.lower() == ".aac" else self._duration()
        self.stated = self.there
        self.slack = int(FFMPEG_SLACK_S * self.rate)

    def close(self) -> None:
        self._output.close()  # ffmpeg exits when nobody reads its output
        try:
            self._process.wait(FFMPEG_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def blocks(self) -> Iterator[np.ndarray]:
        width, read = 4 * self.channels, 0
        size = min(FFMPEG_BLOCK, max(MAX_BLOCK // self.channels, 1))
        while data := self._output.read(size * width):
            # ffmpeg may be ended in the middle of a sample.
            whole = len(data) // width * width
            read += whole // width
            yield np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, self.channels)
        code = self._process.wait()
        # What was decoded before the damage is used, as for other formats; nothing at all is an
        # error.
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
            return "it contains no sound"
        lines = [line for line in self._text().splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'ffmpeg gave no reason'}".replace(
            f"file:{os.path.abspath(self.path)}: ", "")[:200]

    def _text(self) -> str:
        # pread, because the position in the file is shared with ffmpeg, which is still writing.
        return os.pread(self._messages.fileno(), 1 << 16, 0).decode(errors="replace")
