"""Filling the templates of ``assets/``: every value is escaped, every name has to be known."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from l3hpc.web.elements import printable

if TYPE_CHECKING:
    import jinja2

ASSETS = Path(__file__).resolve().parent / "assets"


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
