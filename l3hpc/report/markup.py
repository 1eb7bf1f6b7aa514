"""HTML and SVG elements that are safe by construction: every plain string is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """Text that is markup already. Only ``element`` and ``join`` make it."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """``value`` as escaped text; control and direction-changing characters become U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """``<name …>children</name>``: strings are escaped, ``None`` is left out, lists are joined.

    Attributes: ``class_`` is ``class``, an underscore is a hyphen (``stroke_width``), ``None`` and
    ``False`` leave an attribute out, ``True`` writes its name only, floats have two decimals.
    """
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(f" {attribute}")
            continue
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        words.append(f' {attribute}="{escape(text)}"')
    return Markup(f"<{name}{''.join(words)}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other; nested lists and tuples are joined, ``None`` is left out."""
    texts = [join(part) if isinstance(part, (list, tuple)) else escape(part)
             for part in parts if part is not None]
    return Markup(between.join(texts))
