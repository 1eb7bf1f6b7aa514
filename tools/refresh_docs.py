"""Keeps the docs true: fills marked blocks from the code, or (``--check``) says which are stale.

A block in a Markdown page starts with ``<!-- filled: WHAT ARGUMENT -->`` and ends with
``<!-- end -->``. WHAT is ``help`` (a command's help text), ``params`` (a step's parameters),
``exit-codes``, ``columns`` (a ledger tab) or ``pipeline`` (a file of jobs/).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- filled: (\S+) ?(.*?) -->\n.*?<!-- end -->", re.DOTALL)


def help_text(words: str) -> str:
    """The help of ``l3hpc WORDS`` at a width of 90 columns."""
    import click

    from l3hpc.cli import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="l3hpc")
    for word in words.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        if found is None:
            raise SystemExit(f"docs name a command that does not exist: l3hpc {words}")
        command = found
        context = click.Context(command, parent=context, info_name=word)
    context.terminal_width = 90
    context.max_content_width = 90
    return f"```text\n$ l3hpc {words + ' ' if words else ''}--help\n{command.get_help(context)}\n```"


def params_table(name: str) -> str:
    """A step's parameters: name, default, meaning."""
    from l3hpc.steps import step

    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for field_name, field in step(name).Params.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default()}`"
        meaning = (field.description or "").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{field_name}` | {default} | {meaning} |")
    return "\n".join(rows)


def exit_codes(_: str) -> str:
    """The one table of exit codes."""
    from l3hpc.errors import EXIT_CODES

    rows = ["| code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()])


def columns_table(tab: str) -> str:
    """The columns of a ledger tab, with their letters."""
    from l3hpc.ledger.columns import TABS

    rows = ["| column | title | field |", "|---|---|---|"]
    for index, column in enumerate(TABS[tab].columns):
        letter = chr(65 + index) if index < 26 else chr(64 + index // 26) + chr(65 + index % 26)
        rows.append(f"| {letter} | {column.title} | `{column.field}` |")
    return "\n".join(rows)


def pipeline_file(name: str) -> str:
    """The text of ``jobs/NAME.yaml``."""
    return f"```yaml\n{(ROOT / 'jobs' / f'{name}.yaml').read_text().rstrip()}\n```"


FILLERS: dict[str, Callable[[str], str]] = {
    "help": help_text, "params": params_table, "exit-codes": exit_codes,
    "columns": columns_table, "pipeline": pipeline_file,
}


def filled(text: str) -> str:
    """``text`` with every marked block brought up to date."""
    def fill(match: re.Match[str]) -> str:
        what, argument = match.groups()
        heading = f"<!-- filled: {what}{' ' + argument if argument else ''} -->"
        return f"{heading}\n{FILLERS[what](argument)}\n<!-- end -->"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Rewrite stale pages, or with ``--check`` name them and end with 1."""
    stale = []
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        text = page.read_text()
        fresh = filled(text)
        if fresh != text:
            stale.append(page.relative_to(ROOT))
            if "--check" not in sys.argv:
                page.write_text(fresh)
    for page in stale:
        print(f"{'stale' if '--check' in sys.argv else 'refreshed'}: {page}")
    if stale and "--check" in sys.argv:
        print("run: python tools/refresh_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
