"""Text that cannot steer a terminal or break an encoding: what a value passes before it is shown.

Control characters are written out (``\\x1b``, ``\\u202e``), and what a stream's encoding lacks is
put in ASCII or escaped as JSON does.
"""

from __future__ import annotations

import codecs
import re

ESCAPED = "l3hpc.escape"  # error handler of encodings: what they lack, as JSON escapes it
# C0 but for tab and line feed, DEL, C1, line and paragraph separators, bidirectional overrides
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(rf"(?!\r\n)[{_HIDDEN}]")
_ANY = re.compile(rf"[{_HIDDEN}\t\n]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ASCII = str.maketrans({"→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "×": "x", "φ": "phi",
                        "✓": "+", "✗": "x", "·": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
                        "≥": ">=", "≤": "<=", "\u202f": " ", "\xa0": " "})


def visible(text: str) -> str:
    """``text`` with its control characters written out; tabs and line ends stay."""
    return _CONTROL.sub(_escaped, text)


def one_line(value: object) -> str:
    """A value from a file, a table or another program, as part of one line of ours."""
    return _ANY.sub(_escaped, str(value))


def log_text(text: str) -> str:
    """What a log holds, for reading: without colours; a bar drawn over itself becomes lines."""
    plain = _COLOUR.sub("", text)
    return visible(plain.replace("\r\n", "\n").replace("\r", "\n"))


def encodable(text: str, encoding: str) -> str:
    """``text`` as well as ``encoding`` can hold it; never an error."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        if not _is_unicode(encoding):
            text = text.translate(_ASCII)
        text = text.encode(encoding, ESCAPED).decode(encoding)
    return text


def _escaped(match: re.Match[str]) -> str:
    sign = match[0]
    return _NAMED.get(sign) or (f"\\x{ord(sign):02x}" if sign < " " else f"\\u{ord(sign):04x}")


def _is_unicode(encoding: str) -> bool:
    return encoding.lower().replace("_", "-").startswith(("utf", "u8"))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """As JSON escapes, so that JSON stays JSON."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start:error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{signs[at]:02x}{signs[at + 1]:02x}" for at in range(0, len(signs), 2)), \
        error.end


codecs.register_error(ESCAPED, _escape)
