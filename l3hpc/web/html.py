"""HTML and SVG in which every plain string is escaped.

Charts consist of hundreds of elements whose number and position depend on the data; ``element`` and
``join`` build them. Pages are templates in ``assets/``; ``render`` fills them, and ``asset``
includes a style sheet or script.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from l3hpc.io.files import check_replaced

if TYPE_CHECKING:
    import jinja2

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
ASSETS = Path(__file__).resolve().parent / "assets"
HEAD_BYTES = 800  # of a page, with its generator


def printable(value: object) -> object:
    """Replace control characters and bidirectional overrides in a value by U+FFFD.

    ``Markup`` is returned unchanged, because its text has already been through this function.

    Examples
    --------
    >>> print(printable("a\x07b"))
    a�b
    """
    if isinstance(value, Markup):
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def check_page(path: Path, generator: str, what: str, option: str) -> None:
    """Refuse to replace a file that is not a page of the same kind.

    Parameters
    ----------
    path
        Where a page is to be written.
    generator
        What its template has in ``<meta name="generator">``.
    what, option
        The kind of page, and the option that names the file, for messages.

    Raises
    ------
    InputError
        ``path`` is a folder, a pipe or a device, or a file with other content.
    """
    mark = f'<meta name="generator" content="{generator}">'.encode()
    check_replaced(path, lambda stream: mark in stream.read(HEAD_BYTES), what, option)


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is its heading; ``numeric`` columns are right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[int] = ()
    caption: str = ""


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Make an element, ``<name …>children</name>``.

    Parameters
    ----------
    name
        The name of the element.
    *children
        Its contents: strings are escaped, lists joined, ``None`` is left out.
    **attributes
        ``class_`` stands for ``class``, and an underscore for a hyphen (``stroke_width``). ``None``
        and ``False`` omit an attribute, ``True`` writes its name only, floats have two decimals.

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
    """Concatenate parts and nested lists of parts; strings are escaped, ``None`` is left out."""
    return Markup("").join(
        join(part) if isinstance(part, (list, tuple)) else escape(printable(part))
        for part in parts if part is not None)


def render(template: str, **values: object) -> str:
    """Fill a template.

    Parameters
    ----------
    template
        The name of the file in ``assets/``, such as ``report.html.j2``.
    **values
        The variables of the template. Text is escaped unless it is ``Markup``.

    Returns
    -------
    str
        The whole document.

    Raises
    ------
    jinja2.UndefinedError
        The template uses a variable that was not given.
    """
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Markup:
    """Return a style sheet or script in ``assets/``, unescaped, to be included in a page."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=printable)
    environment.globals["asset"] = asset
    # Compact, in the given order, and an error for NaN, which browsers would not parse.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
