"""The help of every command is the golden one (tests/contract/help, one file per command).

After a deliberate change:   L3HPC_REGOLD=1 python -m pytest tests/contract/test_help.py
"""

from importlib.metadata import version

import click
import pytest
from goldens import HERE, REGOLD, check_files, check_text, commands

CLICK = HERE / "help/click-version.txt"
COMMANDS = list(commands())


def name(words):
    return "-".join(("l3hpc", *words)) + ".txt"


def click_now():
    return ".".join(version("click").split(".")[:2]) + "\n"


@pytest.fixture
def fresh(monkeypatch):
    """A command keeps the --help of its first use, which lacks -h where it ran without l3hpc."""
    for command in commands().values():
        monkeypatch.setattr(command, "_help_option", None, raising=False)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "l3hpc")
def test_help(words, l3hpc, fresh):
    if not REGOLD and CLICK.read_text() != click_now():
        pytest.skip(f"the golden texts are laid out by click {CLICK.read_text()}")
    said = l3hpc(*words, "--help")
    assert (said.code, said.err) == (0, "")
    check_text(f"help/{name(words)}", said.out)


def test_every_command_has_a_golden_help():
    check_files("help", [*map(name, COMMANDS), CLICK.name])
    if REGOLD:
        CLICK.write_text(click_now())


@pytest.mark.parametrize("command", ["submit", "render"])
def test_the_help_without_a_pipeline_is_a_page_and_the_rest_can_be_had(command, l3hpc, fresh):
    assert len(l3hpc(command, "--help").out.splitlines()) <= 75
    said = l3hpc(command, "--help-all")
    assert (said.code, said.err) == (0, "")
    params = commands()[command,].params
    options = [one for each in params if isinstance(each, click.Option) for one in each.opts]
    assert len(options) > 60 and not [one for one in options if f" {one} " not in said.out]
    assert "--help-all" not in l3hpc(command, "upstream", "--help").out


def test_every_help_has_examples():
    assert not [path.name for path in (HERE / "help").glob("l3hpc*.txt")
                if "Examples:" not in path.read_text()]


def test_lists_of_commands_show_whole_sentences():
    cut = [f"{path.name}: {line}" for path in (HERE / "help").glob("l3hpc*.txt")
           for line in path.read_text().splitlines()
           if line.startswith("  ") and line.endswith("...")]
    assert not cut
