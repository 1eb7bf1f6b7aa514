"""The parameter ``convention`` of the steps that embed: a name or a letter in, the letter stored.

Frozen configurations and fingerprints hold the letter, so that both spellings are one artifact.
``kapre-0.1-batch`` is missing: there an embedding depends on its batch, and steps promise rows that
do not depend on how they were computed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from l3hpc.audio.conventions import letter_of

OWN = "own"


def stored(convention: str) -> str:
    """``own``, or the letter of a convention."""
    return convention if convention == OWN else letter_of(convention)


Convention = Annotated[
    Literal["own", "kapre-0.1", "openl3-0.4-kapre", "openl3-0.4-librosa", "embedding-approx",
            "A", "B", "C", "D"], AfterValidator(stored)]


def front_end(convention: str) -> dict[str, str]:
    """The front-end values that overrule those a network states."""
    return {} if convention == OWN else {"convention": convention}
