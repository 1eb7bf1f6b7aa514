"""Errors that name a value which is not one of the allowed ones, and copies of errors."""

import copy
import io
import pickle

import numpy as np
import pytest

from l3hpc.arrays.features import features
from l3hpc.audio.conventions import letter_of
from l3hpc.audio.formats import AudioError
from l3hpc.console.progress import LogProgress
from l3hpc.embedding.embed import get_resampler
from l3hpc.errors import InputError, Lines, check_choice, nearest
from l3hpc.findings import from_error
from l3hpc.ledger.schema import find_tab
from l3hpc.pipelines.resolve import UnsetPath, UnsetPathsError
from l3hpc.sampling.selection import select

NOT_STRINGS = [3, 2.5, None, ["l2"], {"a": 1}, b"l2", np.array(["l2", "l1"]), object()]


def test_the_nearest_name_is_suggested():
    assert nearest("trian", ["train", "fit"]) == "did you mean 'train'? valid: fit, train"
    assert nearest("zzz", ["train", "fit"]) == "valid: fit, train"


@pytest.mark.parametrize("value", NOT_STRINGS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("call", [
    lambda value: check_choice("norm", value, ("l1", "l2")), letter_of, get_resampler, find_tab,
    lambda value: features(np.ones((2, 2)), norm=value),
    lambda value: select(value, np.ones((4, 2)), np.ones(4), 2),
], ids=["check_choice", "letter_of", "resampler_of", "find_tab", "features", "select"])
def test_a_value_that_is_not_a_string_is_refused_with_the_valid_names(call, value):
    with pytest.raises(InputError, match="unknown") as caught:
        call(value)
    assert caught.value.allowed.startswith("valid: ")


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InputError) as caught:
        check_choice("norm", "x" * 500, ("l1", "l2"))
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("error", [
    InputError("no file", where="x.wav", allowed="WAV", hint="look"),
    AudioError("no sound", reason="silent", where="x.wav"),
    UnsetPathsError([UnsetPath("extract", "audio_dir", "paths.audio")]),
], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [
    copy.copy, lambda error: pickle.loads(pickle.dumps(error)), lambda error: error.replaced(),
], ids=["copy", "pickle", "replaced"])
def test_a_copy_of_an_error_is_the_same_whatever_its_constructor_takes(copied, error):
    other = copied(error)
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
    changed = error.replaced("other", hint="wait")
    assert (type(changed), changed.args, changed.hint) == (type(error), ("other",), "wait")
    assert str(changed).endswith("wait") and error.message != "other"


FOREIGN = "a\nerror: b\r\x1b[31m\x85\u2028\u202e.wav"  # the name of a file


def test_no_part_of_an_error_can_look_like_another_line_or_control_the_terminal():
    error = InputError(f"no sound in {FOREIGN}", where=FOREIGN, allowed=f"not {FOREIGN}",
                       hint=Lines(f"see {FOREIGN}", None, Lines("one", "two")))
    error.message += FOREIGN
    for known in (error, error.replaced(f"{FOREIGN}: {error.message}", hint=error.hint)):
        assert len(known.lines()) == 5 and known.lines()[-2:] == ["one", "two"]
        assert all(line.isprintable() for line in known.lines())
    assert error.where == FOREIGN  # programs open it
    again = pickle.loads(pickle.dumps(error))
    assert again.lines() == error.lines()
    finding = from_error("audio", error)
    progress = LogProgress(stream := io.StringIO())
    progress.note(f"skipped {FOREIGN}")
    printed = stream.getvalue().removesuffix("\n")
    assert all(text.isprintable() for text in (finding.message, finding.advice, printed))


def test_a_long_line_is_cut_but_for_the_command_that_is_to_be_typed():
    command = f"l3hpc report {' '.join(['run'] * 1000)}"
    error = InputError("cell " + "x" * 9000, allowed="y" * 9000, hint=command)
    first, allowed, hint = error.lines(1500)
    assert len(first) < 1000 and len(allowed) < 1000 and " … " in first and hint == command
