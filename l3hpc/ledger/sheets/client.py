"""Requests to Google Sheets over gspread: rate limit, retries, time-outs and credentials.

Requests that can be repeated safely are repeated here: reads, and batches, which Google applies
once or not at all (see ``sync``). A write by metadata is sent once; after ``Unanswered`` it is
unknown whether it was applied. The only scope is ``spreadsheets``, and a sheet is opened by its id.
No message shows a key, a token, or more of a server's answer than its error text.
"""

from __future__ import annotations

import json
import os
import random
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from l3hpc.console.progress import doing
from l3hpc.errors import InputError, L3hpcError, OfflineError, command_line
from l3hpc.io.files import read_json
from l3hpc.ledger.cells import quoted_argument

if TYPE_CHECKING:
    from gspread.exceptions import APIError

SCOPE = "https://www.googleapis.com/auth/spreadsheets"
BASE = "https://sheets.googleapis.com"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRIES = 12
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 64.0
PER_MINUTE = 55  # Google allows a user 60 reads and 60 writes per minute
TIMEOUT_S = (10.0, 90.0)  # to connect, to answer
RETRY_CODES = (408, 429, 500, 502, 503, 504)
MAX_BYTES = 10_485_760  # of one request; Google refuses a larger one


def _later() -> str:
    return ("Nothing is lost: the journals keep all results. Run   "
            f"{command_line('ledger', 'sync')}   again later.")


class Refused(L3hpcError):
    """Google refused a batch as a whole (HTTP 400): nothing was written."""


class Unanswered(OfflineError):
    """A write by metadata got no clear answer.

    It may have been applied, or may still be applied as long as its anchors exist.
    """


class SignInError(L3hpcError):
    """Google rejects the credentials; trying again does not help."""


class Pace:
    """Keeps each kind of request below Google's quota.

    Parameters
    ----------
    say
        Called with a message before each wait.
    clock, sleep
        Replaced in tests.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self.say, self.clock, self.sleep = say, clock, sleep
        self.sent: dict[str, deque[float]] = {"read": deque(), "write": deque()}

    def take(self, kind: str) -> None:
        """Wait until one more request of ``kind`` (``read`` or ``write``) fits into the minute."""
        sent = self.sent[kind]
        while True:
            now = self.clock()
            while sent and now - sent[0] >= 60.0:
                sent.popleft()
            if len(sent) < PER_MINUTE:
                sent.append(now)
                return
            wait = 60.0 - (now - sent[0])
            self.say(f"waiting {wait:.0f} s: {PER_MINUTE} {kind}s this minute")
            self.sleep(wait)


class Sheets:
    """One spreadsheet.

    Parameters
    ----------
    sheet_id
        The part of its address between ``/d/`` and ``/edit``.
    key_file
        Key of a service account; by default, application default credentials are used.
    say
        Called with messages about waits and retries.
    pace
        Rate limit, replaced in tests.
    environ
        Environment variables.

    Raises
    ------
    InputError
        There are no credentials, or the key file is not one or can be read by others.
    """

    def __init__(self, sheet_id: str, key_file: Path | None = None, *,
                 say: Callable[[str], None] = lambda text: None, pace: Pace | None = None,
                 environ: Mapping[str, str] = os.environ) -> None:
        self.sheet_id = sheet_id
        self.base = base_url(environ)
        self.pace = pace or Pace(say)
        self.say = say
        self.requests = 0
        self._credentials, self.account = credentials(key_file)
        self._http = _http(self)

    def structure(self) -> dict[str, Any]:
        """Read title, tabs with their sizes, and developer metadata (one request)."""
        return dict(self._http.fetch_sheet_metadata(self.sheet_id, params={
            "fields": "spreadsheetId,properties.title,developerMetadata,"
                      "sheets(properties,developerMetadata,protectedRanges(range,unprotectedRanges,"
                      "description,warningOnly,requestingUserCanEdit),"
                      "filterViews.filterViewId)"}))

    def values(self, ranges: Sequence[str]) -> list[list[list[Any]]]:
        """Read the unformatted values of ranges (one request).

        Parameters
        ----------
        ranges
            In A1 notation.

        Returns
        -------
        list
            Per range, the rows of cells; empty cells at the end of a row or range are left out.
        """
        if not ranges:
            return []
        answer = self._http.values_batch_get(self.sheet_id, list(ranges), params={
            "valueRenderOption": "UNFORMATTED_VALUE", "majorDimension": "ROWS"})
        return [part.get("values", []) for part in answer["valueRanges"]]

    def batch(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Apply all requests or none (one request).

        Raises
        ------
        Refused
            Google refused them; nothing was written.
        """
        self._http.batch_update(self.sheet_id, {"requests": list(requests)})

    def read_by_filter(self, filters: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Read the unformatted values that data filters select, all at one moment (one request).

        Parameters
        ----------
        filters
            Data filters of the API.

        Returns
        -------
        list of mapping
            Each with ``dataFilters`` (those that selected it) and ``valueRange``.
        """
        if not filters:
            return []
        answer = self._http.request("post", self._address("values:batchGetByDataFilter"), json={
            "dataFilters": list(filters), "majorDimension": "ROWS",
            "valueRenderOption": "UNFORMATTED_VALUE"}).json()
        return list(answer.get("valueRanges", []))

    def write_by_filter(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Write values to the rows that data filters select (one request, sent once).

        Raises
        ------
        Refused
            Nothing was written.
        Unanswered
            It is unknown whether anything was written.
        """
        self._http.request("post", self._address("values:batchUpdateByDataFilter"), json={
            "valueInputOption": "RAW", "data": list(data)})

    def _address(self, method: str) -> str:
        """Return the address of a method for which gspread has no function."""
        return f"{BASE}/v4/spreadsheets/{self.sheet_id}/{method}"

    def send(self, call: Callable[[], Any], kind: str) -> Any:
        """Send a request, again after temporary failures.

        Parameters
        ----------
        call
            Sends the request and returns the answer.
        kind
            ``read`` or ``write``, for the rate limit.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        OfflineError
            ``TRIES`` attempts have failed.
        InputError, SignInError, Refused
            Google does not accept the request, and a repetition would not help.
        """
        import google.auth.exceptions
        import requests
        from gspread.exceptions import APIError

        reason = ""
        for attempt in range(TRIES):
            if attempt:
                wait = back_off(attempt)
                self.say(f"{reason}; trying again in {wait:.0f} s ({attempt + 1} of {TRIES})")
                self.pace.sleep(wait)
            # each try counts, for Google's quota too
            self.pace.take(kind)
            self.requests += 1
            try:
                with doing("waiting for Google Sheets"):
                    return call()
            except APIError as error:
                code = error.response.status_code
                if code not in RETRY_CODES:
                    raise self._explained(error, code) from None
                reason = _busy(code)
            except google.auth.exceptions.TransportError as error:
                reason = f"no connection to sign in ({type(error).__name__})"
            except google.auth.exceptions.RefreshError as error:
                if not error.retryable:
                    raise SignInError(
                        f"Google refused to sign in {self.account}",
                        hint="Check whether the key was deleted or disabled, and this machine's "
                             "clock; otherwise create a new key for the service account."
                    ) from None
                reason = "Google cannot sign in at the moment"
            # ValueError: the HTML page of a proxy instead of JSON
            except (requests.RequestException, ConnectionError, ValueError) as error:
                reason = f"no answer from Google ({type(error).__name__})"
        raise OfflineError(f"the sheet cannot be reached: {reason} ({TRIES} tries)",
                           hint=_later())

    def _explained(self, error: APIError, code: int) -> L3hpcError:
        """Return the error for an answer of Google, with what to do about it."""
        message = str(error.error.get("message", ""))[:500]
        if code == 404:
            return InputError(f"there is no spreadsheet with the id {self.sheet_id}",
                              hint="The id is the part of its address between /d/ and /edit.")
        if code == 403 and ("disabled" in message or "has not been used" in message):
            return InputError("the Google Sheets API is not enabled for the account's project",
                              hint="Google Cloud console → APIs & Services → Enable APIs → "
                                   "Google Sheets API, then wait a minute.")
        if code == 403:
            return InputError(f"the sheet is not shared with {self.account}",
                              hint="In the sheet: Share → add this address → Editor.")
        if code == 401:
            return SignInError(f"Google does not accept the credentials of {self.account}",
                               hint="Create a new key for the service account.")
        return Refused(f"Google refused the request ({code}): {message}")


def back_off(attempt: int) -> float:
    """Return the seconds to wait before another try, after ``attempt`` that failed.

    The wait doubles with each try, up to ``LONGEST_WAIT_S``, and has a random part.
    """
    # a random part, so that syncers that were refused together do not come back together
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (attempt - 1)) * (0.5 + random.random() / 2)


def request_bytes(value: object) -> int:
    """Return the size of the body of a request, in bytes."""
    return len(json.dumps(value, allow_nan=False))


def _busy(code: int) -> str:
    """Return the reason of a temporary failure."""
    return ("the quota of this minute is used up" if code == 429 else f"Google answered {code}")


def base_url(environ: Mapping[str, str]) -> str:
    """Return the address of the API.

    Parameters
    ----------
    environ
        Environment variables; ``L3HPC_SHEETS_URL`` may name another server for tests.

    Raises
    ------
    InputError
        That server is not on this machine: results and tokens must not be sent elsewhere.
    """
    address = environ.get("L3HPC_SHEETS_URL")
    if not address:
        return BASE
    parts = urlparse(address)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        raise InputError("only a loopback address can replace Google's",
                         where="L3HPC_SHEETS_URL", allowed="http://127.0.0.1:PORT")
    return address.rstrip("/")


def credentials(key_file: Path | None) -> tuple[Any, str]:
    """Load credentials that are limited to spreadsheets.

    Parameters
    ----------
    key_file
        Key of a service account; None for application default credentials.

    Returns
    -------
    credentials : google.auth.credentials.Credentials
    account : str
        E-mail address of the account, for messages.

    Raises
    ------
    InputError
        There are no credentials, or the key file is not one or can be read by others.
    """
    import google.auth
    import google.auth.exceptions
    from google.oauth2 import service_account

    if key_file is None:
        _require_private(_default_file())
        try:
            found, _ = google.auth.default(scopes=[SCOPE])
        except google.auth.exceptions.DefaultCredentialsError:
            raise InputError("there are no Google credentials", where="ledger.key_file",
                             allowed="a service account's key file (ledger.key_file in "
                                     "cluster.yaml, or --key-file)",
                             hint="or   gcloud auth application-default login "
                                  f"--scopes={SCOPE},"
                                  "https://www.googleapis.com/auth/cloud-platform") from None
    else:
        info = _key(Path(key_file))
        try:
            found = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
        except (ValueError, google.auth.exceptions.MalformedError):
            raise InputError("not a service account's key", where=str(key_file),
                             hint="Google Cloud console → Service accounts → Keys → Add key → "
                                  "JSON") from None
    if hasattr(found, "_is_regional_access_boundary_lookup_required"):
        # it would query a metadata server in a background thread; login nodes have none
        found._is_regional_access_boundary_lookup_required = lambda: False
    return found, getattr(found, "service_account_email", None) or "your Google account"


def _default_file() -> Path:
    """Return the path of application default credentials, if they are a file."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return Path(named) if named else (
        Path(os.environ.get("CLOUDSDK_CONFIG") or Path("~/.config/gcloud").expanduser())
        / "application_default_credentials.json")


def _require_private(path: Path) -> None:
    """Refuse a key file that other users can read."""
    try:
        mode = path.stat().st_mode
    except OSError:  # reported when the file is read
        return
    if stat.S_IMODE(mode) & 0o077:
        raise InputError("the key file can be read by others", where=str(path),
                         hint=f"chmod 600 {quoted_argument(str(path))}")


def _key(path: Path) -> dict[str, Any]:
    """Read the key of a service account."""
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"cannot read the key file: {error.strerror}", where=str(path)) from None
    _require_private(path)
    info = read_json(path)
    if not isinstance(info, dict) or info.get("type") != "service_account":
        raise InputError("not a service account's key", where=str(path),
                         hint="Google Cloud console → Service accounts → Keys → Add key → JSON")
    target = urlparse(str(info.get("token_uri", "")))
    # a request that is signed with the key goes to this address
    if target.scheme != "https" and target.hostname not in LOOPBACK:
        raise InputError("the key's token_uri is not an https address", where=str(path))
    return info


def _http(sheets: Sheets) -> Any:
    """Return gspread's client with our address, time-out, rate limit and retries."""
    import requests
    from google.auth.transport.requests import AuthorizedSession, Request
    from gspread.exceptions import APIError
    from gspread.http_client import HTTPClient

    loopback = sheets.base != BASE
    # a proxy of the environment is for Google, not for a test server on this machine
    signing = requests.Session()
    signing.trust_env = not loopback
    session = AuthorizedSession(sheets._credentials, auth_request=Request(signing),
                                max_refresh_attempts=2)
    session.trust_env = not loopback

    class Client(HTTPClient):
        """Sends each request through ``Sheets.send``."""

        def request(self, method: str, endpoint: str, *arguments: Any, **options: Any) -> Any:
            kind = "read" if method == "get" or endpoint.endswith("GetByDataFilter") else "write"
            target = endpoint.replace(BASE, sheets.base, 1)
            if request_bytes(options.get("json")) > MAX_BYTES:
                raise L3hpcError("a request to the sheet is larger than Google accepts "
                                 f"({MAX_BYTES:,} bytes); nothing was sent")

            def call() -> Any:
                response = HTTPClient.request(self, method, target, *arguments, **options)
                # a proxy may answer with an HTML page and status 200: that is a failure too
                response.json()
                return response

            def once() -> Any:
                try:
                    return call()
                except APIError as error:
                    if error.response.status_code not in RETRY_CODES:
                        raise
                    reason = _busy(error.response.status_code)
                except (requests.RequestException, ConnectionError, ValueError) as error:
                    reason = f"no answer from Google ({type(error).__name__})"
                raise Unanswered(f"the sheet cannot be reached: {reason}", hint=_later())

            return sheets.send(once if endpoint.endswith("UpdateByDataFilter") else call, kind)

    client = Client(sheets._credentials, session=session)
    client.set_timeout(TIMEOUT_S)
    return client
