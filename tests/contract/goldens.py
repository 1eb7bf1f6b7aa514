"""Comparing with golden files, and the walk over all commands."""

import difflib
import json
import os
from pathlib import Path

import click
import pytest

HERE = Path(__file__).parent
REGOLD = bool(os.environ.get("L3HPC_REGOLD"))
HOW = "if that is on purpose: L3HPC_REGOLD=1 python -m pytest tests/contract"


def commands():
    """Every command of the command line: {("ledger", "show"): its click command}."""
    from l3hpc.cli import cli

    found = {}

    def walk(command, words):
        found[words] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                walk(command.get_command(context, name), (*words, name))

    walk(cli, ())
    return found


def with_json():
    """The commands that have an option --json, as words."""
    return [words for words, command in commands().items()
            if any("--json" in parameter.opts for parameter in command.params)]


def check_text(path, text):
    """The text is that of the golden file ``path`` (below this folder), line by line."""
    path = HERE / path
    if REGOLD:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    golden = path.read_text() if path.exists() else ""
    if text != golden:
        difference = difflib.unified_diff(golden.splitlines(), text.splitlines(),
                                          str(path.relative_to(HERE)), "now", lineterm="")
        pytest.fail("\n".join([*difference, HOW]), pytrace=False)


def check_files(folder, names):
    """The golden folder holds these files and no others: nothing is compared with nobody."""
    folder = HERE / folder
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if REGOLD:
        for name in found - set(names):
            (folder / name).unlink()
        return
    assert found == set(names), HOW


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
