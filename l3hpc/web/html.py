"""Single HTML and SVG elements, for drawings: safe by construction, every plain string is escaped.

Pages are templates (``templates``); a drawing is made of hundreds of elements whose number and
place follow from the data, and those are put together here.

Filling the templates of ``assets/``: every value is escaped, every name has to be known.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    import jinja2

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
ASSETS = Path(__file__).resolve().parent / "assets"


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


def render(template: str, **values: object) -> str:
    """Fill one template.

    Parameters
    ----------
    template
        The file's name in ``assets/``, such as ``report.html.j2``.
    **values
        What the template names. Text is escaped unless it is ``Markup``.

    Returns
    -------
    str
        The whole document.

    Raises
    ------
    jinja2.UndefinedError
        The template names a value that was not given.
    """
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Markup:
    """Return a style sheet or script of ``assets/`` as it is, to be written into a page."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=printable)
    environment.globals["asset"] = asset
    # no spaces, the order that was given, and an error for a number that JSON does not have
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
