"""Front-end conventions: how published weights and packages compute spectrograms.

There are five, and they are not interchangeable:

======  ====================  ======================================================================
letter  name                  spectrogram
======  ====================  ======================================================================
A       `kapre-0.1`           kapre 0.1.4, with which openl3 and edgel3 weights were trained (the
                              default). "Same" padding, HTK mels of the *power* spectrum, then the
                              square root, 10 log10, maximum of each example subtracted, clamped at
                              -80.
A'      `kapre-0.1-batch`     kapre 0.1.3.1: the same, with the maximum taken over the whole batch.
B       `openl3-0.4-kapre`    openl3 0.4, kapre front end: zeros at the end only, Slaney mels of the
                              *magnitude*.
C       `openl3-0.4-librosa`  openl3 0.4, librosa front end: centred with zeros (before 0.10
                              librosa mirrored the ends), Slaney mels of the magnitude.
D       `embedding-approx`    the external mel spectrogram of embedding-approx: centred with zeros,
                              HTK mels of the magnitude, squared before the logarithm (20 log10).
======  ====================  ======================================================================

The names are for people; weight files, frozen configurations and fingerprints store the letters, so
that a name and its letter mean the same network. All code that takes a convention accepts either,
and ``letter_of`` converts a name to its letter.
"""

from __future__ import annotations

from l3hpc.errors import InputError, nearest

NAMES = {"A": "kapre-0.1", "A'": "kapre-0.1-batch", "B": "openl3-0.4-kapre",
         "C": "openl3-0.4-librosa", "D": "embedding-approx"}
CONVENTIONS = tuple(NAMES)
ALIASES = {
    **{letter: letter for letter in NAMES}, **{name: letter for letter, name in NAMES.items()},
    "A′": "A'", "kapre-0.1.4": "A", "kapre-0.1.3.1": "A'", "openl3-kapre": "B", "kapre": "B",
    "openl3-librosa": "C", "librosa": "C", "external": "D"}


def letter_of(convention: str) -> str:
    """Return the letter with which a convention is stored.

    Parameters
    ----------
    convention
        A name, a letter, or another of ``ALIASES``.

    Returns
    -------
    str
        One of ``CONVENTIONS``.

    Raises
    ------
    InputError
        There is no such convention.

    Examples
    --------
    >>> letter_of("openl3-0.4-librosa"), letter_of("C")
    ('C', 'C')
    """
    if not isinstance(convention, str) or convention not in ALIASES:
        raise InputError(f"unknown front-end convention {convention!r}",
                         allowed=nearest(convention, NAMES.values()))
    return ALIASES[convention]


def name_of(convention: str) -> str:
    """Return the name of a convention that is given by name, letter or alias.

    Examples
    --------
    >>> name_of("B")
    'openl3-0.4-kapre'
    """
    return NAMES[letter_of(convention)]
