"""The length of a sound file as its structure shows it, read without decoding.

libsndfile trusts the header: if that states too little, the rest of the recording is not read. A
recorder that was killed leaves a data chunk of 0 bytes, a file written into a pipe has one of
0xFFFFFFFF, and an MP3 file without a Xing header states no length at all (decoders extrapolate from
the first frames, which is wrong for a variable bit rate). ``read_structure`` finds the stated and
the actual length, and how the file must be given to a decoder so that it reads all of it. Below it
there is a section for each container format.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from struct import pack, unpack

STREAMED = 0x7FFF_0000  # data sizes from here on mean "unknown" (ffmpeg, sox, arecord)
PLAIN = (1, 3, 6, 7, 0xFFFE)  # WAV codings in which a block of bytes is one sample of each channel
PADDING = 1 << 20  # bytes after the data that are searched for padding
MAX_JOINED = 10_000  # files joined in one
WAVES = (b"RIFF", b"RIFX", b"RF64", b"BW64")
UNCOMPRESSED = (b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64", b"FL64")  # AIFF-C codings
TAGS = (b"TAG", b"ID3", b"APE")  # that some editors append without a chunk


@dataclass(frozen=True)
class SoundStructure:
    """The structure of a sound file, as far as it concerns its length.

    Attributes
    ----------
    stated : int or None
        Samples per channel that the header states; None if it states none.
    there : int or None
        Samples per channel that the structure shows; None if only decoding can tell.
    patches : tuple of (int, bytes)
        Offsets, and bytes to replace in the header before a decoder reads it.
    spans : tuple of (int, int)
        Start and stop of streams that are joined end to end, in bytes; empty for one stream.
    piped : bool
        Whether a decoder must get the file through a pipe, so that it does not guess a length.
    cut : bool
        Whether the file ends in the middle of its structure.
    rate, channels : int
        Hz and number of channels for MP3; else 0.
    """

    stated: int | None = None
    there: int | None = None
    patches: tuple[tuple[int, bytes], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    piped: bool = False
    cut: bool = False
    rate: int = 0
    channels: int = 0


def read_structure(stream: FileIO) -> SoundStructure | None:
    """Read the structure of an open file.

    Parameters
    ----------
    stream
        The file; its position changes.

    Returns
    -------
    SoundStructure or None
        None for a format that is left to libsndfile altogether.
    """
    size = os.fstat(stream.fileno()).st_size
    head = _read_at(stream, 0, 12)
    readers: dict[bytes, Callable[[FileIO, int], SoundStructure | None]] = {
        b"RIFF": _riff, b"RIFX": _riff, b"RF64": _riff, b"BW64": _riff, b"FORM": _aiff,
        b".snd": _au, b"fLaC": _flac, b"OggS": _ogg}
    reader = readers.get(head[:4])
    if reader is not None:
        return reader(stream, size)
    return _mp3(stream, size)


def _read_at(stream: FileIO, position: int, count: int) -> bytes:
    stream.seek(position)
    return stream.read(count)


# WAV, RF64 --------------------------------------------------------------------------------------


def _riff(stream: FileIO, size: int) -> SoundStructure | None:
    order = ">" if _read_at(stream, 0, 4) == b"RIFX" else "<"
    position, block, wide, coding = 12, 0, 0, 0
    while len(head := _read_at(stream, position, 8)) == 8:
        name, length = head[:4], unpack(f"{order}I", head[4:])[0]
        if name == b"ds64":
            wide = position + 8
        elif name == b"fmt ":
            coding = unpack(f"{order}H", _read_at(stream, position + 8, 2).ljust(2, b"\0"))[0]
            block = unpack(f"{order}H", _read_at(stream, position + 20, 2).ljust(2, b"\0"))[0]
        elif name == b"data":
            break
        position += 8 + length + length % 2
    else:
        return None
    if not block:
        return None
    start, stated = position + 8, length
    # For libsndfile a size of 0xFFFFFFFF means: up to the end of the file.
    patches = ((position + 4, b"\xff" * 4),)
    if wide and length == 0xFFFFFFFF:
        stated = unpack("<Q", _read_at(stream, wide + 8, 8).ljust(8, b"\0"))[0]
        patches = ((wide + 8, pack("<Q", max(size - start, 0))),)
    there = size - start
    spans = _joined_spans(stream, size, order)
    if spans:
        return SoundStructure(stated // block if coding in PLAIN else None, spans=spans)
    if coding not in PLAIN:  # compressed: bytes do not give the number of samples
        return SoundStructure(patches=patches if there and not stated else (), cut=stated > there)
    if stated >= STREAMED and stated > there and not (wide and stated < 1 << 60):
        return SoundStructure(None, there // block)
    if stated < there and not _chunks_follow(stream, start + stated + stated % 2, size, order):
        return SoundStructure(stated // block or None, there // block, patches)
    return SoundStructure(stated // block, min(stated, there) // block, cut=stated > there)


def _joined_spans(stream: FileIO, size: int, order: str) -> tuple[tuple[int, int], ...]:
    """The spans of WAV files that were joined end to end; empty for one file."""
    begins = [0]
    while len(begins) < MAX_JOINED and (head := _read_at(stream, begins[-1], 12))[:4] in WAVES \
            and head[8:] == b"WAVE":
        length = unpack(f"{order}I", head[4:8])[0]
        begins.append(begins[-1] + 8 + length + length % 2)
    begins.pop()  # no WAV file begins at the last position
    return tuple(zip(begins, [*begins[1:], size], strict=True)) if len(begins) > 1 else ()


def _chunks_follow(stream: FileIO, position: int, size: int, order: str) -> bool:
    """Whether the data are followed by a chunk, a tag, padding, or fewer than 8 bytes."""
    head = _read_at(stream, position, 8)
    if size - position < 8 or not any(_read_at(stream, position, PADDING)):
        return True
    if head[:3] in TAGS:
        return True
    length = unpack(f"{order}I", head[4:])[0]
    return all(32 <= byte < 127 for byte in head[:4]) and position + 8 + length <= size + 1


# AIFF, AU ---------------------------------------------------------------------------------------


def _aiff(stream: FileIO, size: int) -> SoundStructure | None:
    if _read_at(stream, 8, 4) not in (b"AIFF", b"AIFC"):
        return None
    position, block, frames, frames_at = 12, 0, 0, 0
    sound: tuple[int, int] | None = None
    while len(head := _read_at(stream, position, 8)) == 8:
        name, length = head[:4], unpack(">I", head[4:])[0]
        if name == b"COMM":
            common = _read_at(stream, position + 8, 8).ljust(8, b"\0")
            channels, frames, bits = unpack(">hIh", common)
            block, frames_at = channels * (-(-bits // 8)), position + 10
            packed = _read_at(stream, position + 26, 4)
            if _read_at(stream, 8, 4) == b"AIFC" and packed not in UNCOMPRESSED:
                return None  # compressed: bytes do not give the number of samples
        elif name == b"SSND":
            sound = position, length
            # A chunk that was not finished: what follows are samples, not another chunk.
            if not length or position + 8 + length > size:
                break
        position += 8 + length + length % 2
    if sound is None or block <= 0:
        return None
    position, length = sound
    start = position + 16 + unpack(">I", _read_at(stream, position + 8, 4).ljust(4, b"\0"))[0]
    there = max(size - start, 0) // block
    within = max(position + 8 + length - start, 0) // block
    # A recorder that was killed has not written its header.
    if there and not (frames and within):
        patches = (frames_at, _uint32(there)), (position + 4, _uint32(size - position - 8))
        return SoundStructure(None, there, patches)
    return SoundStructure(frames, min(frames, there), cut=frames > there)


def _uint32(value: int) -> bytes:
    return pack(">I", min(value, 0xFFFFFFFF))


def _au(stream: FileIO, size: int) -> SoundStructure | None:
    head = _read_at(stream, 0, 24)
    if len(head) < 24:
        return None
    start, stated, coding, _, channels = unpack(">5I", head[4:])
    block = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding, 0) * channels
    if not block:
        return None
    there = max(size - start, 0)
    if stated == 0xFFFFFFFF or not stated and there:
        return SoundStructure(None, there // block, ((8, b"\xff" * 4),))
    if stated < there:
        return SoundStructure(stated // block, there // block, ((8, b"\xff" * 4),))
    return SoundStructure(stated // block, there // block, cut=stated > there)


# FLAC, Ogg --------------------------------------------------------------------------------------


def _flac(stream: FileIO, size: int) -> SoundStructure | None:
    head = _read_at(stream, 0, 26)
    if len(head) < 26 or head[4] & 0x7F:
        return None
    stated = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
    # With an unknown length the decoder reads the file to its end.
    patches = ((21, bytes([head[21] & 0xF0, 0, 0, 0, 0])),)
    return SoundStructure(stated or None, None, patches)


def _ogg(stream: FileIO, size: int) -> SoundStructure | None:
    """Walk through the pages, to find joined streams and whether the last page is complete."""
    position, begins, ended, after_end = 0, [0], False, False
    while position < size:
        head = _read_at(stream, position, 27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        lengths = stream.read(head[26])
        length = 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or position + length > size:
            ended = False
            break
        if head[5] & 2 and after_end:
            begins.append(position)
        ended = after_end = bool(head[5] & 4)
        position += length
    spans = tuple(zip(begins, [*begins[1:], size], strict=True)) if len(begins) > 1 else ()
    return SoundStructure(None, None, spans=spans, cut=not ended)


# MP3 --------------------------------------------------------------------------------------------

_KBITS = {  # (is MPEG 1, layer) → bit rates in kbit/s
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[False, 3] = _KBITS[False, 2]
_RATES = (44100, 48000, 32000)
MP3_SEARCH = 1 << 16  # bytes in which the first frame must begin
WINDOW = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class _Frame:
    """The header of an MPEG audio frame; ``kind`` are the bits that all frames of a stream share.
    """

    length: int
    samples: int
    rate: int
    channels: int
    kind: int


def _frame(head: bytes) -> _Frame | None:
    """Parse the four bytes of a frame header; None if they are not valid."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbits, padding = _KBITS[first, layer][bits], head[2] >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    if layer == 1:
        length = (12_000 * kbits // hertz + padding) * 4
    else:
        length = samples // 8 * 1000 * kbits // hertz + padding
    channels = 1 if head[3] >> 6 == 3 else 2
    return _Frame(length, samples, hertz, channels, head[1] & 0x1E | rate << 8)


def _mp3(stream: FileIO, size: int) -> SoundStructure | None:
    """Count the frames, and compare with the number that a Xing header states."""
    position = 0
    while len(head := _read_at(stream, position, 10)) == 10 and head[:3] == b"ID3":
        position += 10 + sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10]))
    start, first = _first_frame(stream, position)
    if first is None:
        return None
    count, cut = _count_frames(stream, start, size, first.kind)
    header = _xing(_read_at(stream, start, first.length))
    if header is None:
        return SoundStructure(None, count * first.samples, piped=True, cut=cut, rate=first.rate,
                              channels=first.channels)
    at, stated = header
    # The frame with the Xing header contains no sound.
    count -= 1
    # A frame more or less is common: some encoders count the one with the header among the frames.
    if stated is not None and count <= stated + 1:
        return SoundStructure(stated * first.samples, count * first.samples, cut=count < stated - 1,
                              rate=first.rate, channels=first.channels)
    return SoundStructure(None if stated is None else stated * first.samples, count * first.samples,
                          # The tag's name is overwritten, so that the decoder does not believe
                          # its number of frames.
                          ((start + at, bytes(4)),), piped=True, cut=cut, rate=first.rate,
                          channels=first.channels)


def _first_frame(stream: FileIO, position: int) -> tuple[int, _Frame | None]:
    """Position and header of the first frame that is followed by another one."""
    data = _read_at(stream, position, MP3_SEARCH + 8192)
    at = data.find(b"\xff")
    while 0 <= at < MP3_SEARCH:
        frame = _frame(data[at:at + 4])
        if frame is not None:
            # Eleven bits of sync word occur in any data: only a second frame at the right place
            # confirms one.
            following = _frame(data[at + frame.length:at + frame.length + 4])
            if following is not None and following.kind == frame.kind:
                return position + at, frame
        at = data.find(b"\xff", at + 1)
    return position, None


def _count_frames(stream: FileIO, start: int, size: int, kind: int) -> tuple[int, bool]:
    """The number of complete frames from ``start`` on, and whether the last one is cut off."""
    count, position = 0, start
    low, data = start, b""
    while position + 4 <= size:
        if position + 4 > low + len(data):
            low, data = position, _read_at(stream, position, WINDOW)
            if len(data) < 4:
                break
        at = position - low
        frame = _frame(data[at:at + 4])
        if frame is None or frame.kind != kind:
            after = data.find(b"\xff", at + 1)
            # Damage in the middle: the decoder finds its way back at the next sync word, and so
            # does the count.
            position = low + after if after >= 0 else low + len(data)
            continue
        if position + frame.length > size:
            return count, True
        count += 1
        position += frame.length
    return count, False


def _xing(data: bytes) -> tuple[int, int | None] | None:
    """Offset of the Xing, Info (LAME) or VBRI header in a frame, and the frames it states."""
    for name in (b"Xing", b"Info"):
        at = data.find(name, 4, 64)
        if at >= 0:
            flags = int.from_bytes(data[at + 4:at + 8], "big")
            stated = int.from_bytes(data[at + 8:at + 12], "big") if flags & 1 else None
            return at, stated
    at = data.find(b"VBRI", 4, 64)
    return (at, int.from_bytes(data[at + 14:at + 18], "big")) if at >= 0 else None
