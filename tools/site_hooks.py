"""What MkDocs does with each page of the documentation, beyond its own rules (``mkdocs.yml``)."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 36  # characters that fit on a line of a phone
# not in blocks, whose lines are scrolled
_INLINE = re.compile(r"(?<!<pre>)(?<!<span></span>)<code>([^<\n]+)</code>")
_WORD = re.compile(r"[^ ]+")


def on_page_content(html: str, **_: Any) -> str:
    """Keep the words of commands and names together: a browser would break ``--dry-run`` behind
    each hyphen, and names in narrow tables anywhere.
    """
    return _INLINE.sub(lambda code: f"<code>{_WORD.sub(_together, code[1])}</code>", html)


def _together(word: re.Match[str]) -> str:
    # as the reader sees it: &lt; is one character
    length = len(re.sub(r"&\w+;", "x", word[0]))
    return f'<span class="together">{word[0]}</span>' if length <= LONGEST else word[0]
