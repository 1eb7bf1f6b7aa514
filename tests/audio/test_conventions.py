"""A front-end convention by its name, its letter or another alias is one and the same."""

import numpy as np
import pytest

from l3hpc.audio.conventions import ALIASES, CONVENTIONS, NAMES, letter_of, name_of
from l3hpc.audio.frontends import Frontend
from l3hpc.errors import InputError
from l3hpc.models.spec import NetworkSpec


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_gives_the_same_numbers_and_stores_the_letter(alias):
    letter = letter_of(alias)
    named, lettered = (Frontend(8000, 512, 160, 32, None, one) for one in (alias, letter))
    frames = np.random.default_rng(0).uniform(-1, 1, (3, 8000)).astype(np.float32)
    np.testing.assert_array_equal(named(frames), lettered(frames))
    assert named == lettered and hash(named) == hash(lettered)
    assert named.convention == letter and named.name == NAMES[letter] == name_of(alias)
    spec = NetworkSpec(8000, 32, 160, 512, convention=alias)
    assert spec == NetworkSpec(8000, 32, 160, 512, convention=letter)
    assert spec.to_dict()["convention"] == letter
    assert NetworkSpec.from_dict({**spec.to_dict(), "convention": alias}) == spec


def test_names_and_letters_are_distinct_and_complete():
    assert CONVENTIONS == ("A", "A'", "B", "C", "D")
    assert len(set(NAMES.values())) == len(NAMES) and not set(NAMES) & set(NAMES.values())
    assert all(letter_of(name) == letter for letter, name in NAMES.items())


def test_an_unknown_convention_is_refused_with_the_names():
    with pytest.raises(InputError, match="unknown front-end convention 'openl3-0.4'") as caught:
        Frontend(8000, 512, 160, 32, convention="openl3-0.4")
    assert "openl3-0.4-kapre" in caught.value.allowed
