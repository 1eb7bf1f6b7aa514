"""Messages to people, through Apprise: Slack, Discord, Mattermost, Teams, mail, ntfy and others.

An address of Apprise holds a password or token, so it is never printed, logged or written anywhere:
messages of this program call it by its kind (``slack``). What is sent about which run, and that it
is sent once, is decided in ``runs.notifications``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from l3hpc.errors import InputError, shell_path
from l3hpc.installation import install_command
from l3hpc.io.files import digest, open_regular

Kind = Literal["success", "failure", "warning", "info"]
MAX_FILE = 64 * 1024
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SCHEME = re.compile(r"([a-zA-Z][\w+.-]{0,30})://")


@dataclass(frozen=True)
class Destination:
    """Where messages go.

    Attributes
    ----------
    label : str
        For a person: the kind of service and where the address was given. No part of the secret.
    url : str
        The address. It is not part of ``repr``.
    """

    label: str
    url: str = field(repr=False)

    @property
    def key(self) -> str:
        """A name for the address in files, from which the address cannot be read."""
        return digest(["l3hpc notification", self.url])[:16]


def destinations(given: Iterable[str]) -> list[Destination]:
    """The addresses of a profile.

    Parameters
    ----------
    given : iterable of str
        An address (``slack://…``), a variable that holds one (``$L3HPC_NOTIFY``), or a file with
        one per line (``~/.config/l3hpc/notify``), which only its owner may read.

    Raises
    ------
    InputError
        A variable is not set, a file cannot be read or can be read by others, or Apprise does not
        understand an address. The message does not contain the address.
    """
    return [_checked(url, where) for url, where in _addresses(given)]


def send(to: Destination, title: str, body: str, kind: Kind = "info") -> bool:
    """Send one message. Returns whether the service took it.

    Nothing that Apprise or its libraries log is shown: addresses and answers may hold secrets.
    """
    apprise = _apprise()
    with _quiet():
        service = apprise.Apprise.instantiate(to.url)
        return service is not None and bool(service.notify(
            body=body, title=title, notify_type=apprise.NotifyType(kind),
            body_format=apprise.NotifyFormat.TEXT))


def _addresses(given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(address, where it was given)."""
    for number, text in enumerate(given, 1):
        where = f"notify.urls, entry {number}"
        if found := _VARIABLE.fullmatch(text):
            name = found[1] or found[2]
            if not os.environ.get(name):
                raise InputError(f"the environment variable {name} is not set", where=where,
                                 hint="cron and jobs do not know the variables of your shell: name "
                                      "a file with the address instead")
            yield os.environ[name], f"{where}: ${name}"
        elif _SCHEME.match(text):
            yield text, where
        elif text.startswith(("/", "~", "./")):
            yield from ((line, f"{where}: {text}") for line in _lines(_home(text, where)))
        else:
            raise InputError("this is not an address, a variable or a file", where=where,
                             allowed="service://… of Apprise, $VARIABLE, or a path that starts "
                                     "with /, ~ or ./")


def _home(text: str, where: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"the home folder of {text!r} is not known", where=where,
                         hint="name the file by its whole path") from None


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise InputError("the file with addresses can be read by others", where=str(path),
                                 hint=f"chmod 600 {shell_path(path)}")
            text = stream.read(MAX_FILE).decode("utf-8")
    except OSError as error:
        raise InputError(f"the file with addresses cannot be read: {error.strerror}",
                         where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("the file with addresses is not UTF-8", where=str(path)) from None
    found = [line.strip() for line in text.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def _checked(url: str, where: str) -> Destination:
    with _quiet():
        service = _apprise().Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        raise InputError("Apprise does not understand this address", where=where,
                         allowed="an address as in the documentation of Apprise: slack://TOKENS, "
                                 "mailto://USER:PASSWORD@HOST, ntfy://TOPIC, …")
    scheme = _SCHEME.match(url)
    return Destination(f"{scheme[1].lower() if scheme else 'address'} ({where})", url)


def _apprise() -> ModuleType:
    try:
        import apprise
    except ImportError:
        raise InputError("notifications need the package apprise, which is not installed",
                         hint=install_command("notify")) from None
    return apprise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log record of any library: urllib3, for one, logs the path of an address."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
