"""Odd values, and damage done to bytes, texts, tables and nested values."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

WORDS = (
    "", " ", "-", "--", "0", "-1", "1", "x", "None", "null", "nan", "NaN", "inf", "-inf", "1e400",
    "1e-400", "1e308", "1_000", "0x10", "007", "+5", "5.", ".5", "1,5", "1.000.000", "½", "١٢",
    "１２", "²", "12 34", " 7 ", "7\n", "a\nb", "a\tb", "a\rb", "a\x00b", "\x1b[31mred\x1b[0m",
    "\x07",
    "\u202egnp.exe", "\ufeff", "\u200b", "é", "e\u0301", "日本語", "🙂", "\ud800", "a/b", "../x",
    "/dev/null", "/", ".", "..", "~", "~root", "$HOME", "${X}", "$(id)", "`id`", ";id", "| id",
    "a'b", 'a"b', "a\\b", "%s", "%j", "%A_%a", "{x}", "{{ 7*7 }}", "{paths.audio}", "*", "[a]",
    "=1+1", "@x", "#x", "&x", "!x", "true", "yes", "off", "2026-11-20", "4:00:00",
    "99999999999999999999", "-99999999999999999999", "9" * 400, "x" * 300, "x" * 5000, "a=b", "=",
    "a=", "=b", "latest", "a,b", ",", ",,", "1,2,3", "1-2", "5%2", "0.1", "1e3", "16GB", "-16GB",
    "0GB", "1e5GB", "16 gb", "1.5.5GB", "GB", "4h", "0h", "-4h", "1e3h", "4 h 5", "99999d", "1-0",
    "1-99:99:99", "00:00:00")
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30,
    -2**63, 0.0, -0.0, 0.5, 1.5, -0.5, 1e-300, 1e-9, 1e9, 1e300, float("nan"), float("inf"),
    float("-inf"))
PLAIN: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"a": {"a": 1}}}, [1, "x", None],
    *NUMBERS, *WORDS)


def word(rng: random.Random) -> str:
    """An odd word."""
    if rng.random() < 0.1:
        return "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xA0, 0x2000),
                                       rng.randrange(0x1F300, 0x1F600))))
                       for _ in range(rng.randrange(1, 12)))
    return rng.choice(WORDS)


def argument(rng: random.Random) -> str:
    """An odd word that can stand on a command line."""
    return word(rng).replace("\x00", "").encode("utf-8", "surrogatepass").decode(
        "utf-8", "surrogateescape")


def binary(data: bytes, rng: random.Random, head: int = 4096) -> bytes:
    """Bytes with something flipped, cut, doubled, or put in; mostly in the first ``head``."""
    held = bytearray(data)
    if not held:
        return rng.randbytes(rng.randrange(1, 64))

    def place() -> int:
        return rng.randrange(min(head, len(held)) if rng.random() < 0.7 else len(held))

    kind = rng.randrange(10)
    if kind <= 2:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            held[place()] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del held[rng.choice((place(), rng.randrange(len(held)), len(held) - 1)):]
    elif kind == 4:
        at = place()
        del held[at:at + rng.choice((1, 2, 4, 16, 1000))]
    elif kind == 5:
        at, size = place(), rng.choice((1, 2, 4, 8))
        number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(32)))
        held[at:at + size] = (number & (2**(8 * size) - 1)).to_bytes(
            size, rng.choice(("little", "big")))
    elif kind == 6:
        at = place()
        held[at:at] = rng.randbytes(rng.choice((1, 2, 4, 64)))
    elif kind == 7:
        at, size = place(), rng.choice((4, 16, 512))
        held[at:at + size] = bytes([rng.choice((0, 255))]) * min(size, len(held) - at)
    elif kind == 8:
        held += rng.choice((b"\0" * 100, rng.randbytes(100), bytes(held[:1000])))
    else:
        one, other = sorted((place(), place()))
        held[one:other] = held[one:other][::-1]
    return bytes(held)


def text(data: bytes, rng: random.Random) -> bytes:
    """A text with lines gone, doubled, changed, in another encoding, or with odd bytes."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(14)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        cut = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:cut]
    elif kind == 4:
        cut = rng.randrange(len(lines[at]) + 1)
        odd = rng.choice((b"\xff", b"\x00", b"\xe9", b"\t", b"\x1b[2J", b"\xef\xbb\xbf", b"\r",
                          b"\xc2\x85", b"\xe2\x80\xa8", b'"', b"'", b"{", b"}", b"[", b":", b"#",
                          b"\\", b",", b";", b"%", b"&a ", b"*a", b"!!int ", b"!!python/object:x ",
                          b"|", b">", b"- ", b"? ", b"<<: "))
        lines[at] = lines[at][:cut] + odd + lines[at][cut:]
    elif kind == 5:
        return b"\n".join(lines)[:rng.randrange(len(data) + 1)]
    elif kind == 6:
        return b"\n".join(lines).decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500")), "replace")
    elif kind == 7:
        return b"\r\n".join(lines) if rng.random() < 0.5 else b"\r".join(lines)
    elif kind == 8:
        lines[at] = b"  " * rng.randrange(5) + lines[at].lstrip()
    elif kind == 9:
        key, colon, _ = lines[at].partition(b":")
        odd = word(rng).encode("utf-8", "surrogatepass")
        lines[at] = key + (colon or b": ") + b" " + odd
    elif kind == 10:
        parts = lines[at].split()
        if parts:
            lines[at] = lines[at].replace(rng.choice(parts), word(rng).encode(
                "utf-8", "surrogatepass"), 1)
    elif kind == 11:
        lines[at:at] = [word(rng).encode("utf-8", "surrogatepass")]
    elif kind == 12:
        return binary(data, rng, len(data))
    else:
        lines[at] *= rng.choice((2, 3, 1000))
    return b"\n".join(lines)


def nested(value: Any, rng: random.Random, odd: Sequence[Any] = PLAIN) -> Any:
    """A value of dicts and lists with one place changed: another value, gone, renamed, doubled."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        items = inside.items() if isinstance(inside, dict) else enumerate(inside) \
            if isinstance(inside, list) else ()
        for key, item in items:
            places.append((inside, key))
            walk(item)

    walk(value)
    if not places:
        return rng.choice(odd)
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[word(rng)] = holder.pop(key)
    elif kind == 2:
        other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, rng.choice(odd))
    elif kind == 4:
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(rng.choice(odd))
    return value


def one_of(rng: random.Random, *makers: Callable[[], Any]) -> Any:
    """What one of the functions gives."""
    return rng.choice(makers)()
