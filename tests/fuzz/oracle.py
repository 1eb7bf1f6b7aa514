"""What is right for every command and function: exit codes, messages, and what is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .runner import Fault

MOST_LINES = 7
LONGEST_LINE = 2000
ADDRESS_SPACE = 8 << 30
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
FORBIDDEN = ("Traceback (most recent call last)", "This is a bug")
VARIABLES = ("AUDIO_DIR", "EMBEDDING_DIR", "OUTPUT_DIR", "L3_MODEL_PATH", "SONYC_UST_PATH",
             "GSHEET_ID", "US8K_PATH", "ESC50_PATH", "COLUMNS")


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def calm(home: Path) -> None:
    """A worker's surroundings: a home of its own, no settings, no network, signals to nobody."""
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), NO_COLOR="1",
                      CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="3")
    for name in list(os.environ):
        if name in VARIABLES or name.startswith(("SLURM_", "SBATCH_", "L3HPC_", "GOOGLE_")):
            del os.environ[name]
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise ConnectionRefusedError(111, "no network in here")
        real_connect(self, address)

    def lookup(host: Any, *words: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            raise socket.gaierror(-2, "no network in here")
        return real_lookup(host, *words, **options)

    def signalled(number: int, signal: int) -> None:
        if signal == 0 or children(number):
            return real_kill(number, signal)
        raise Fault(f"a signal was sent: {signal} to {number}")

    real_connect, real_lookup, real_kill = socket.socket.connect, socket.getaddrinfo, os.kill
    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.getaddrinfo = lookup
    os.kill = os.killpg = signalled  # type: ignore[assignment]
    sys.stdin = io.StringIO()


def children(number: int) -> bool:
    """Whether a process was started by this one: those may be ended."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except (OSError, ValueError):
        return False
    return int(text.rpartition(")")[2].split()[1]) == os.getpid()


def command(*words: str, codes: tuple[int, ...] | None = None) -> Said:
    """Run ``l3hpc WORDS`` in this process. A ``Fault`` where it breaks a rule of all commands.

    codes: the exit codes that are right (default: the documented ones).
    """
    from l3hpc import cli
    from l3hpc.errors import EXIT_CODES

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape",
                                 write_through=True) for _ in range(2))
    place = os.getcwd()
    umask = os.umask(0o022)
    told: list[str] = []
    unexpected = cli._unexpected

    def noted(error: Exception) -> Any:
        told.append(uncaught(error, shown(words)))
        return unexpected(error)

    code: Any = 0
    cli._unexpected = noted
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), \
                warnings.catch_warnings():
            cli.main(list(words))
    except SystemExit as end:
        code = end.code or 0
    except Fault:
        raise
    except BaseException as error:
        raise Fault(uncaught(error, shown(words))) from None
    finally:
        cli._unexpected = unexpected
        os.chdir(place)
        os.umask(umask)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))
    said = Said(code, *texts)
    if told and any(word in said.err for word in FORBIDDEN):
        raise Fault(told[0])
    check(said, words, codes or tuple(EXIT_CODES))
    return said


def check(said: Said, words: tuple[str, ...], codes: tuple[int, ...]) -> None:
    """The rules of all commands."""
    what = f"{shown(words)}\nexit {said.code}\n{said.out[-1500:]}\n{said.err[-1500:]}"
    if said.code not in codes:
        raise Fault(f"exit code {said.code}, which is not one of {codes}: {what}")
    for text in (said.out, said.err):
        for word in FORBIDDEN:
            if word in text:
                raise Fault(f"the output says {word!r}: {what}")
        found = CONTROL.search(text)
        if found is not None and not _renders(words):
            raise Fault(f"a control character {found[0]!r} reaches the terminal: {what}")
    if said.code == 2 and not said.err.strip() and not said.out.strip():
        raise Fault(f"refused without a message: {what}")
    if said.err.startswith("error:") or said.code == 2 and said.err:
        lines = said.err[said.err.find("error:"):].strip().splitlines()
        if not 1 <= len(lines) <= MOST_LINES:
            raise Fault(f"a message of {len(lines)} lines: {what}")
        if max(map(len, lines)) > LONGEST_LINE:
            raise Fault(f"a message with a line of {max(map(len, lines))} characters: {what}")
        if len(lines[0]) < len("error: ab"):
            raise Fault(f"a message that says nothing: {what}")
    if said.code == 0 and "--json" in words and said.out.strip():
        strict_json(said.out, what)


def _renders(words: tuple[str, ...]) -> bool:
    """Commands whose output is a file, byte for byte."""
    return any(word in ("render", "logs") for word in words)


def strict_json(text: str, what: str = "") -> Any:
    """The value of a JSON text; NaN and infinity are none."""
    def refuse(name: str) -> Any:
        raise Fault(f"{name} in JSON: {what}")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise Fault(f"the output is not JSON ({error}): {what}") from None


def call(function: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """What a function of the library gives, or the error it was refused with (an ``L3hpcError``).

    Any other exception is a ``Fault``.
    """
    from l3hpc.errors import L3hpcError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*values, **options)
    except L3hpcError as error:
        lines = str(error).splitlines()
        if not lines or len(lines[0]) < 3:
            raise Fault(f"a message that says nothing: {error!r}") from None
        if len(lines) > MOST_LINES:
            raise Fault(f"a message of {len(lines)} lines: {error}") from None
        return error
    except Fault:
        raise
    except BaseException as error:
        raise Fault(uncaught(error, "")) from None


def uncaught(error: BaseException, what: str) -> str:
    """The text of a ``Fault``: the exception and where in l3hpc it came from, then all of it."""
    places = [f"{frame.filename.partition('/l3hpc/')[2]}:{frame.name}" for frame in
              traceback.extract_tb(error.__traceback__) if "/l3hpc/" in frame.filename]
    words = str(error).splitlines()
    return (f"uncaught: {type(error).__name__} in {places[-1] if places else 'the harness'}: "
            f"{words[0] if words else ''}\n{what}\n"
            + "".join(traceback.format_exception(error)))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every entry below a folder with its size and time: to see that nothing was written."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(top, name))
            size = 0 if name in folders else status.st_size
            found[os.path.relpath(os.path.join(top, name), folder)] = (
                size, 0 if name in folders else status.st_mtime_ns)
    return found


def unchanged(folder: Path, before: dict[str, tuple[int, int]], what: str) -> None:
    """A ``Fault`` where something was written since ``before``."""
    after = tree(folder)
    if after != before:
        names = sorted(name for name in {*after, *before} if after.get(name) != before.get(name))
        raise Fault(f"something was written: {names[:5]}: {what}")


def shown(words: tuple[str, ...]) -> str:
    """A command as typed."""
    return "l3hpc " + " ".join(repr(word) if not word.isascii() or " " in word or not word
                               else word for word in words)
