"""Single HTML and SVG elements, for drawings: safe by construction, every plain string is escaped.

Pages are templates (``templates``); a drawing is made of hundreds of elements whose number and
place follow from the data, and those are put together here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(value: object) -> object:
    """Return ``value`` as text in which control and direction-changing characters are U+FFFD.

    Markup is returned as it is: its text has been here before.
    """
    if isinstance(value, Markup):
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Make ``<name …>children</name>``.

    Parameters
    ----------
    name
        The element's name.
    *children
        What stands inside: strings are escaped, lists joined, ``None`` is left out.
    **attributes
        ``class_`` is ``class``, an underscore is a hyphen (``stroke_width``). ``None`` and
        ``False`` leave an attribute out, ``True`` writes its name only, floats have two decimals.

    Returns
    -------
    Markup
        The element.

    Examples
    --------
    >>> str(element("circle", element("title", "a < b"), cx=1.5, class_="dot"))
    '<circle cx="1.5" class="dot"><title>a &lt; b</title></circle>'
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
        words.append(f' {attribute}="{escape(printable(text))}"')
    return Markup(f"<{name}{''.join(words)}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Join parts, one after the other; nested lists and tuples too; ``None`` is left out."""
    return Markup("").join(
        join(part) if isinstance(part, (list, tuple)) else escape(printable(part))
        for part in parts if part is not None)
