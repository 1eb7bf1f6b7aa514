"""Small videos."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

from films import make_video  # noqa: E402


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder of eight small videos, each of a colour and a pitch of its own."""
    folder = tmp_path_factory.mktemp("films")
    colours = ("red", "lime", "blue", "yellow", "magenta", "cyan", "white", "black")
    for number, colour in enumerate(colours):
        make_video(folder / f"{colour}.mp4", colour, 300 + 150 * number)
    return folder
