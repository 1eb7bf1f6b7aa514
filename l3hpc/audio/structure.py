"""What a sound file's structure says of its length, read by ourselves.

libsndfile believes a header: where it states too little, the rest of the recording is not read. A
recorder that was killed leaves a data chunk of 0 bytes, a file written into a pipe one of
0xFFFFFFFF; an MP3 file without a Xing header has no stated length at all, and the one that
decoders guess from the first frames is wrong for a variable bit rate. ``read_structure`` finds
what is stated and what is there, and how a decoder has to be fed so that it reads all of it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO

STREAMED = 0x7FFF_0000  # data sizes from here on: the writer did not know (ffmpeg, sox, arecord)
PLAIN = (1, 3, 6, 7, 0xFFFE)  # WAV codings in which a block of bytes is one sample of each channel
PADDING = 1 << 20  # bytes after the data that are looked at
MOST_JOINED = 10_000  # files in one
WAVES = (b"RIFF", b"RIFX", b"RF64", b"BW64")
TAGS = (b"TAG", b"ID3", b"APE")  # of editors that append them without a chunk


@dataclass(frozen=True)
class SoundStructure:
    """A sound file's structure, as far as it says something of its length.

    Attributes
    ----------
    stated: samples per channel that the header states; None where it states none.
    there: samples per channel that the structure shows; None where only decoding tells.
    patches: (offset, bytes) to put over what the header says before a decoder sees it.
    spans: (start, stop) bytes of the streams that lie one after the other; () for one.
    piped: whether a decoder has to take the file for a pipe, so that it does not guess a length.
    cut: whether the file ends in the middle of its structure.
    rate, channels: where the structure was read that far (MP3); else 0.
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
    """The structure of an open file; None for a kind that is left to libsndfile altogether."""
    size = os.fstat(stream.fileno()).st_size
    head = _at(stream, 0, 12)
    readers: dict[bytes, Callable[[FileIO, int], SoundStructure | None]] = {
        b"RIFF": _riff, b"RIFX": _riff, b"RF64": _riff, b"BW64": _riff, b"FORM": _aiff,
        b".snd": _au, b"fLaC": _flac, b"OggS": _ogg}
    reader = readers.get(head[:4])
    if reader is not None:
        return reader(stream, size)
    return _mp3(stream, size)


def _at(stream: FileIO, place: int, count: int) -> bytes:
    stream.seek(place)
    return stream.read(count)


# WAV, RF64 --------------------------------------------------------------------------------------


def _riff(stream: FileIO, size: int) -> SoundStructure | None:
    order = ">" if _at(stream, 0, 4) == b"RIFX" else "<"
    place, block, wide, coding = 12, 0, 0, 0
    while len(head := _at(stream, place, 8)) == 8:
        name, length = head[:4], struct.unpack(f"{order}I", head[4:])[0]
        if name == b"ds64":
            wide = place + 8
        elif name == b"fmt ":
            coding = struct.unpack(f"{order}H", _at(stream, place + 8, 2).ljust(2, b"\0"))[0]
            block = struct.unpack(f"{order}H", _at(stream, place + 20, 2).ljust(2, b"\0"))[0]
        elif name == b"data":
            break
        place += 8 + length + length % 2
    else:
        return None
    if not block:
        return None
    start, stated = place + 8, length
    patches = ((place + 4, b"\xff" * 4),)
    if wide and length == 0xFFFFFFFF:
        stated = struct.unpack("<Q", _at(stream, wide + 8, 8).ljust(8, b"\0"))[0]
        patches = ((wide + 8, struct.pack("<Q", max(size - start, 0))),)
    there = size - start
    spans = _joined(stream, size, order)
    if spans:
        return SoundStructure(stated // block if coding in PLAIN else None, spans=spans)
    if coding not in PLAIN:  # compressed: samples are counted otherwise
        return SoundStructure(patches=patches if there and not stated else (), cut=stated > there)
    if stated >= STREAMED and stated > there and not (wide and stated < 1 << 60):
        return SoundStructure(None, there // block)
    if stated < there and not _chunks_follow(stream, start + stated + stated % 2, size, order):
        return SoundStructure(stated // block or None, there // block, patches)
    return SoundStructure(stated // block, min(stated, there) // block, cut=stated > there)


def _joined(stream: FileIO, size: int, order: str) -> tuple[tuple[int, int], ...]:
    """The spans of WAV files that were joined end to end; () for one file."""
    begins = [0]
    while len(begins) < MOST_JOINED and (head := _at(stream, begins[-1], 12))[:4] in WAVES \
            and head[8:] == b"WAVE":
        length = struct.unpack(f"{order}I", head[4:8])[0]
        begins.append(begins[-1] + 8 + length + length % 2)
    begins.pop()  # what follows the last is no WAV file
    return tuple(zip(begins, [*begins[1:], size], strict=True)) if len(begins) > 1 else ()


def _chunks_follow(stream: FileIO, place: int, size: int, order: str) -> bool:
    """Whether what follows the data is a chunk, a tag, padding, or next to nothing."""
    head = _at(stream, place, 8)
    if size - place < 8 or not any(_at(stream, place, PADDING)):
        return True
    if head[:3] in TAGS:
        return True
    length = struct.unpack(f"{order}I", head[4:])[0]
    return all(32 <= byte < 127 for byte in head[:4]) and place + 8 + length <= size + 1


# AIFF, AU ---------------------------------------------------------------------------------------


def _aiff(stream: FileIO, size: int) -> SoundStructure | None:
    if _at(stream, 8, 4) not in (b"AIFF", b"AIFC"):
        return None
    place, block, frames, frames_at = 12, 0, 0, 0
    sound: tuple[int, int] | None = None
    while len(head := _at(stream, place, 8)) == 8:
        name, length = head[:4], struct.unpack(">I", head[4:])[0]
        if name == b"COMM":
            common = _at(stream, place + 8, 8).ljust(8, b"\0")
            channels, frames, bits = struct.unpack(">hIh", common)
            block, frames_at = channels * (-(-bits // 8)), place + 10
            packed = _at(stream, place + 26, 4)
            if _at(stream, 8, 4) == b"AIFC" and packed not in (b"NONE", b"twos", b"sowt", b"fl32",
                                                               b"FL32", b"fl64", b"FL64"):
                return None  # compressed: its blocks are counted otherwise
        elif name == b"SSND":
            sound = place, length
            if not length or place + 8 + length > size:
                break
        place += 8 + length + length % 2
    if sound is None or block <= 0:
        return None
    place, length = sound
    start = place + 16 + struct.unpack(">I", _at(stream, place + 8, 4).ljust(4, b"\0"))[0]
    there = max(size - start, 0) // block
    within = max(place + 8 + length - start, 0) // block
    if there and not (frames and within):  # the recorder never came to write its header
        patches = (frames_at, _long(there)), (place + 4, _long(size - place - 8))
        return SoundStructure(None, there, patches)
    return SoundStructure(frames, min(frames, there), cut=frames > there)


def _long(value: int) -> bytes:
    return struct.pack(">I", min(value, 0xFFFFFFFF))


def _au(stream: FileIO, size: int) -> SoundStructure | None:
    head = _at(stream, 0, 24)
    if len(head) < 24:
        return None
    start, stated, coding, _, channels = struct.unpack(">5I", head[4:])
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
    head = _at(stream, 0, 26)
    if len(head) < 26 or head[4] & 0x7F:
        return None
    stated = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
    patches = ((21, bytes([head[21] & 0xF0, 0, 0, 0, 0])),)  # unknown: it is read to its end
    return SoundStructure(stated or None, None, patches)


def _ogg(stream: FileIO, size: int) -> SoundStructure | None:
    """Pages, one after the other: where streams begin that follow another, and how it ends."""
    place, begins, ended, after_end = 0, [0], False, False
    while place < size:
        head = _at(stream, place, 27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        lengths = stream.read(head[26])
        length = 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or place + length > size:
            ended = False
            break
        if head[5] & 2 and after_end:
            begins.append(place)
        ended = after_end = bool(head[5] & 4)
        place += length
    spans = tuple(zip(begins, [*begins[1:], size], strict=True)) if len(begins) > 1 else ()
    return SoundStructure(None, None, spans=spans, cut=not ended)


# MP3 --------------------------------------------------------------------------------------------

_KBITS = {  # (MPEG 1?, layer) → bit rates
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[False, 3] = _KBITS[False, 2]
_RATES = (44100, 48000, 32000)
MP3_SEARCH = 1 << 16  # bytes in which the first frame has to begin
WINDOW = 1 << 22


@dataclass(frozen=True)
class _Frame:
    """The header of an MPEG audio frame. kind: what all frames of a stream share."""

    length: int
    samples: int
    rate: int
    channels: int
    kind: int


def _frame(head: bytes) -> _Frame | None:
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
    """Frames, counted one after the other, against what a Xing header says."""
    place = 0
    while len(head := _at(stream, place, 10)) == 10 and head[:3] == b"ID3":
        place += 10 + sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10]))
    start, first = _first(stream, place)
    if first is None:
        return None
    count, cut = _count(stream, start, size, first.kind)
    found = _xing(_at(stream, start, first.length), first)
    if found is None:
        return SoundStructure(None, count * first.samples, piped=True, cut=cut, rate=first.rate,
                      channels=first.channels)
    at, stated = found
    count -= 1  # the frame with the Xing header holds no sound
    if stated is not None and count <= stated + 1:
        return SoundStructure(stated * first.samples, count * first.samples, cut=count < stated - 1,
                      rate=first.rate, channels=first.channels)
    return SoundStructure(None if stated is None else stated * first.samples, count * first.samples,
                  ((start + at, bytes(4)),), piped=True, cut=cut, rate=first.rate,
                  channels=first.channels)


def _first(stream: FileIO, place: int) -> tuple[int, _Frame | None]:
    """Where the first frame begins that another one follows."""
    data = _at(stream, place, MP3_SEARCH + 8192)
    at = data.find(b"\xff")
    while 0 <= at < MP3_SEARCH:
        frame = _frame(data[at:at + 4])
        if frame is not None:
            following = _frame(data[at + frame.length:at + frame.length + 4])
            if following is not None and following.kind == frame.kind:
                return place + at, frame
        at = data.find(b"\xff", at + 1)
    return place, None


def _count(stream: FileIO, start: int, size: int, kind: int) -> tuple[int, bool]:
    """Whole frames from ``start`` on, and whether the last one is cut off."""
    count, place = 0, start
    low, data = start, b""
    while place + 4 <= size:
        if place + 4 > low + len(data):
            low, data = place, _at(stream, place, WINDOW)
            if len(data) < 4:
                break
        at = place - low
        frame = _frame(data[at:at + 4])
        if frame is None or frame.kind != kind:
            after = data.find(b"\xff", at + 1)
            place = low + after if after >= 0 else low + len(data)
            continue
        if place + frame.length > size:
            return count, True
        count += 1
        place += frame.length
    return count, False


def _xing(data: bytes, frame: _Frame) -> tuple[int, int | None] | None:
    """Where the Xing header (or LAME's Info) of a first frame is, and how many frames it states."""
    for name in (b"Xing", b"Info"):
        at = data.find(name, 4, 64)
        if at >= 0:
            flags = int.from_bytes(data[at + 4:at + 8], "big")
            stated = int.from_bytes(data[at + 8:at + 12], "big") if flags & 1 else None
            return at, stated
    at = data.find(b"VBRI", 4, 64)
    return (at, int.from_bytes(data[at + 14:at + 18], "big")) if at >= 0 else None
