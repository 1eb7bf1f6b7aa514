"""Templates become text: found, computed within limits, and safe for a shell.

A template may be somebody else's, and ``l3hpc render`` is how one looks at what it does. So it
computes text and cannot reach into Python; a loop without end is ended; and text that it prints
without ``| q`` is refused if that text could mean anything to the shell.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from l3hpc.config import sources
from l3hpc.config.validators import plain
from l3hpc.errors import InputError

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

MAX_SECONDS = 5.0  # of computing, for one script; ours take milliseconds
MAX_CHARACTERS = 4_000_000  # of one script; Slurm itself takes 4 MB
MAX_BITS = 4096  # of a number that a template computes
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")


class _EndlessError(InputError):
    """A template computes too long."""


def render(names: Sequence[str], context: Mapping[str, Any], folders: Sequence[Path] | None = None
           ) -> tuple[str, str | None]:
    """Render a template.

    Parameters
    ----------
    names
        File names; the first that exists is the template.
    context
        The values that it may use.
    folders
        Where it is looked up before our own folder; None: see ``config.sources``.

    Returns
    -------
    text : str
        The text, without gaps of several empty lines.
    file : str or None
        The file of the template.

    Raises
    ------
    InputError
        For a value that cannot stand in a script, and for a fault in the template.
    """
    searched = tuple(Path(folder).absolute() for folder in (
        sources.template_folders() if folders is None else folders))
    environment = _environment(searched)
    # where no file is known: the template of a kind of step, before the base that all have
    named = names[-2] if len(names) > 1 else names[0]
    with _located_faults(named, searched, context), _limited_time():
        template = environment.select_template(names)
        pieces, size = [], 0
        for piece in template.generate(context):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise InputError(f"the template makes more than {MAX_CHARACTERS:,} characters",
                                 where=template.filename, hint="Look for a loop that has no end.")
    return _without_gaps("".join(pieces)), template.filename


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """End what computes too long: two nested loops over ``range`` would take hours, and Jinja's
    sandbox limits each of them alone.

    Computing time counts, so that a slow disk or a busy machine refuses nothing. Signals reach the
    main thread alone: in another one, as of a notebook, a template has no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    started = time.thread_time()

    def check(number: int, frame: FrameType | None) -> None:
        # the timer also counts what other threads compute
        if time.thread_time() - started > MAX_SECONDS:
            raise _EndlessError(f"the template computes for more than {MAX_SECONDS:g} seconds",
                                hint="Look for loops in loops, or a macro that calls itself.")

    before = signal.signal(signal.SIGVTALRM, check)
    try:
        # and again: Jinja ignores errors of constants that it computes in advance (after a time in
        # which it can find the line of an error)
        signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS, 2.0)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def _located_faults(name: str, folders: Sequence[Path], context: Iterable[str]) -> Iterator[None]:
    """Turn the errors of a template into ours, with its file and line."""
    import jinja2

    try:
        yield
    except _EndlessError as error:  # perhaps before the first line runs: Jinja computes constants
        error.where = _template_location(error, name)
        raise
    except InputError as error:  # for a value; of which template, if one printed it
        error.where = error.where or _template_location(error, "") or None
        raise
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"template: {error.message}",
                         where=f"{error.filename or error.name}:{error.lineno}") from None
    except jinja2.UndefinedError as error:
        raise InputError(f"template: {error.message}", where=_template_location(error, name),
                         allowed=f"valid: {', '.join(sorted(context))}") from None
    except jinja2.TemplateNotFound as error:
        raise InputError(f"there is no template {error.name!r}",
                         where=", ".join(str(folder) for folder in folders)) from None
    # {{ params.rate / 0 }}, a filter that does not take the value, a file that is no UTF-8
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
            AttributeError, OSError, RecursionError, MemoryError) as error:
        raise InputError(f"template: {str(error) or 'not enough memory'}",
                         where=_template_location(error, name)) from None


def _without_gaps(text: str) -> str:
    """Leave one empty line of those that the blocks of a template leave which print nothing."""
    while "\n\n\n" in text:  # many times as fast as a regular expression
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip("\n") + "\n"


def quoted(value: object) -> Markup:
    """Quote a value as one word of shell (the filter ``q``).

    Parameters
    ----------
    value
        The value.

    Raises
    ------
    InputError
        If it contains control characters, or is too long.
    """
    return _quoted(str(value))


@functools.lru_cache(maxsize=256)  # most values are the same in all scripts of a run
def _quoted(text: str) -> Markup:
    from markupsafe import Markup

    if len(text) > 16_384:
        raise InputError(f"{text[:40]!r}… has {len(text):,} characters; at most 16,384 are allowed")
    return Markup(shlex.quote(plain(text)))


@functools.cache
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    """One environment for all scripts of a submission, so that a template is compiled once."""
    import jinja2.sandbox
    from markupsafe import Markup

    class Environment(jinja2.sandbox.SandboxedEnvironment):
        """Jinja's sandbox, in which ``9 ** 9 ** 9`` is refused: no signal could end it."""

        intercepted_binops = frozenset({"**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if isinstance(left, int) and isinstance(right, int) \
                    and left.bit_length() * right > MAX_BITS:
                raise InputError(f"the template computes {left} ** {right}",
                                 allowed=f"numbers of at most {MAX_BITS:,} bits")
            return super().call_binop(context, operator, left, right)

    def refuse_unquoted(value: object) -> object:
        """Refuse text that a template prints unquoted, unless it is harmless."""
        if isinstance(value, (Markup, int, float, jinja2.Undefined)):
            return value
        text = str(value)
        if not _SAFE.fullmatch(text):
            raise InputError(f"a template prints {text[:60]!r} without quoting it",
                             hint="write {{ name | q }} in the template")
        return value

    delivered = sources.defaults_folder() / "templates"
    loader = jinja2.ChoiceLoader([
        jinja2.FileSystemLoader([str(folder) for folder in folders]),
        jinja2.PrefixLoader({"default": jinja2.FileSystemLoader(str(delivered))}),
    ])
    environment = Environment(
        loader=loader, undefined=jinja2.StrictUndefined, autoescape=True, finalize=refuse_unquoted,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )
    environment.filters["q"] = quoted
    return environment


def _template_location(error: Exception, default: str) -> str:
    trace = error.__traceback__
    location = default
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            location = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return location
