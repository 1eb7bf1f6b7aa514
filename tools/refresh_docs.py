"""Keeps the docs true: fills marked blocks from the code, or (``--check``) says which are stale.

A block in a Markdown page starts with ``<!-- filled: WHAT ARGUMENT -->`` and ends with
``<!-- end -->``. WHAT is ``help`` (a command's help text), ``params`` (a step's parameters),
``commands``, ``steps``, ``tabs``, ``exit-codes``, ``columns`` (a ledger tab), ``pipeline`` (a file
of jobs/), ``options`` and ``resources`` (of a pipeline), ``benchmark`` (a results file of
benchmarks/), ``table`` (one table of such a file, by its title), ``claims`` (of all of them),
``headlines`` (some of those), ``cost`` (of the published scale, worked out from them),
``transcript`` (of the last recorded demonstration), or ``file`` (any file of the tree).
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BLOCK = re.compile(r"<!-- filled: (\S+)(?: ([^\n]+?))? -->\n.*?<!-- end -->", re.DOTALL)


def help_text(words: str) -> str:
    """The help of ``l3hpc WORDS`` as a terminal of 80 columns shows it."""
    import click

    from l3hpc.cli import cli
    from l3hpc.cli.planning import HELP_ALL

    command: click.Command = cli
    context = click.Context(cli, info_name="l3hpc", **cli.context_settings)
    for word in words.removesuffix(f" {HELP_ALL}").split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        if found is None:
            raise SystemExit(f"docs name a command that does not exist: l3hpc {words}")
        command = found
        context = click.Context(command, parent=context, info_name=word,
                                **command.context_settings)
    context.terminal_width = context.max_content_width = 80
    typed = f"l3hpc {words}"
    if words.endswith(HELP_ALL):
        context.meta[HELP_ALL] = True
    else:
        typed += " --help"
    return f"```text\n$ {typed}\n{command.get_help(context)}\n```"


def params_table(name: str) -> str:
    """A step's parameters: name, default, what is allowed, meaning."""
    from l3hpc.steps import step

    rows = []
    for field_name, field in step(name).params_type.model_fields.items():
        if (field.json_schema_extra or {}).get("allowed") == "":
            continue  # nobody sets it: l3hpc fills it in
        default = "required" if field.is_required() else _code(
            field.get_default(call_default_factory=True))
        rows.append((f"`{field_name}`", default, _allowed(field), field.description or ""))
    return table(("parameter", "default", "allowed", "meaning"), rows)


def table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(value: object) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


LISTS = {int: "integers", float: "numbers", str: "names", Path: "paths"}


def _allowed(field: Any) -> str:
    """Words for the type and bounds of a pydantic field, if it has none of its own."""
    from l3hpc.steps.params import MOST

    if "allowed" in (field.json_schema_extra or {}):
        return str(field.json_schema_extra["allowed"])
    whole = typing.get_origin(field.annotation) is tuple
    inner = () if whole else typing.get_args(field.annotation)
    kinds = [kind for kind in inner or (field.annotation,) if kind is not type(None)]
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{kind}`" for kind in kinds)
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            of = typing.get_args(kind)[0]
            of = typing.get_args(of)[0] if typing.get_args(of) else of
            return "list of " + LISTS[of]
    names = {bool: "true, false", int: "integer", float: "number", str: "string", Path: "path"}
    words = ", ".join(names.get(kind, str(kind)) for kind in kinds)
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    # MOST only refuses slips, and would stand in every other line
    bounds = [f"{sign} {_number(getattr(one, name))}" for one in field.metadata
              for name, sign in signs if getattr(one, name, None) not in (None, MOST)]
    return ", ".join([words, *bounds])


def _number(bound: float) -> str:
    """A bound as people read it; the two limits of seeds as powers."""
    exponent = (int(bound) + 1).bit_length() - 1
    if exponent in (32, 63) and bound == 2**exponent - 1:
        return f"2^{exponent} - 1"
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def exit_codes(_: str) -> str:
    """The one table of exit codes."""
    from l3hpc.errors import EXIT_CODES

    rows = ["| code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()])


def columns_table(tab: str) -> str:
    """The columns of a ledger tab, with their letters."""
    from l3hpc.ledger.schema import TABS

    rows = ["| column | title | field |", "|---|---|---|"]
    for index, column in enumerate(TABS[tab].columns):
        letter = chr(65 + index) if index < 26 else chr(64 + index // 26) + chr(65 + index % 26)
        rows.append(f"| {letter} | {column.title} | `{column.field}` |")
    return "\n".join(rows)


def pipeline_file(name: str) -> str:
    """The text of ``jobs/NAME.yaml``."""
    return f"```yaml\n{(ROOT / 'jobs' / f'{name}.yaml').read_text().rstrip()}\n```"


def options_table(name: str) -> str:
    """The options of a pipeline: what each sets, its default and meaning."""
    from l3hpc.pipelines import definition
    from l3hpc.pipelines.offered import options_by_step
    from l3hpc.pipelines.options import OPTIONS

    pipeline = definition.load_pipeline(name, ROOT)
    here = {option.name[2:]: option for options in options_by_step(pipeline).values()
            for option in options}
    rows = []
    for option, targets in pipeline.options.items():
        known = OPTIONS[option]
        choices = f" ({', '.join(known.choices)})" if known.choices else ""
        rows.append((f"`--{option}`", known.help + choices, here[option].default,
                     ", ".join(f"`{target}`" for target in targets)))
    return table(("option", "meaning", "default", "sets"), rows)


def resources_table(name: str) -> str:
    """The steps of a pipeline: what each needs, and what each of its tasks asks for."""
    from l3hpc.config.units import format_memory, format_time
    from l3hpc.pipelines import definition

    rows = []
    for step in definition.load_pipeline(name, ROOT).steps.values():
        wanted = step.resources
        needs = ", ".join([*step.needs, *(f"{kind} (external)" for kind in step.given)])
        rows.append((f"[{step.name}](../steps/{step.kind}.md)", needs or "–", str(wanted.cpus or 1),
                     format_memory(wanted.mem) if wanted.mem else "–", str(wanted.gpus or "–"),
                     format_time(wanted.time) if wanted.time else "–"))
    return table(("step", "needs", "cpus", "mem", "gpus", "time"), rows)


def commands_table(base: str) -> str:
    """All commands with a link to their pages, which lie in ``base``commands/."""
    from l3hpc.cli import COMMANDS

    return table(("command", "what it does"), [
        (f"[`l3hpc {name}`]({base}commands/{name}.md)", text) for name, text in COMMANDS.items()])


def steps_table(_: str) -> str:
    """All steps with a link to their pages."""
    from l3hpc.steps import BUILT_IN, step

    rows = []
    for name in BUILT_IN:
        inputs = ", ".join(f"{kind}{'' if need.required else ' (optional)'}"
                           for kind, need in step(name).inputs.items())
        if step(name).takes_any:
            inputs = "any steps (optional)"
        rows.append((f"[{name}](steps/{name}.md)", step(name).title, inputs or "–"))
    return table(("step", "output", "reads the output of"), rows)


def tabs_table(_: str) -> str:
    """The tabs of the ledger: key, number of columns, what ranks them."""
    from l3hpc.ledger.schema import TABS
    from l3hpc.steps import BUILT_IN, step

    written = {tab for name in BUILT_IN for tab in (step(name).tab, *step(name).further_tabs)}
    rows = []
    for name, tab in TABS.items():
        key = " and ".join(tab.column(field).title for field in tab.key)
        rank = f"{tab.column(tab.rank).title} ({'smallest' if tab.best == 'min' else 'largest'})"
        rows.append((f"`{name}`", str(len(tab.columns)), key, rank,
                     "yes" if name in written else "no"))
    return table(("tab", "columns", "key of a row", "best row", "written by the pipelines"), rows)


def file_text(path: str) -> str:
    """The text of a file of the tree."""
    kind = {".yaml": "yaml", ".j2": "jinja", ".py": "python"}.get(Path(path).suffix, "text")
    return f"```{kind}\n{(ROOT / path).read_text().rstrip()}\n```"


def transcript(name: str) -> str:
    """What ``tools/record_demo.py`` saw on the screen."""
    return f"```text\n{(ROOT / 'docs' / 'transcripts' / f'{name}.txt').read_text().rstrip()}\n```"


def one_table(words: str) -> str:
    """The table ``NAME TITLE`` of ``benchmarks/results``, as for ``benchmark``."""
    name, _, title = words.partition(" ")
    return benchmark_tables(name, title)


def benchmark_tables(names: str, title: str | None = None) -> str:
    """The tables of ``benchmarks/results/NAME.json``, with machine, date and commit.

    title: of the only one that is wanted, which is then left out.
    """
    from benchmarks.machine import about
    from benchmarks.tables import RESULTS, load

    parts = []
    for name in names.split():
        files = [*RESULTS.glob(f"{name}.json"), *sorted(RESULTS.glob(f"*/{name}.json"))]
        if not files:
            parts.append(f"Not measured yet: `.venv/bin/python -m benchmarks {name}`.")
            continue
        for file in files:
            found, tables = load(file)
            source = found.get("source") or f"{found['date']}, commit {found['commit']}"
            wanted = [table.markdown() if title is None
                      else table.markdown().partition("\n\n")[2]
                      for table in tables if title in (None, table.title)]
            if wanted:
                parts += [f"{about(found['machine'])}; {source}.", *wanted]
    if title is not None and not parts:
        raise SystemExit(f"docs name a table that no results have: {names} {title}")
    return "\n\n".join(parts)


def claims_table(_: str) -> str:
    """What all benchmarks claim, from their last full run on each processor."""
    from benchmarks.__main__ import NAMES
    from benchmarks.tables import compared, compared_markdown

    return compared_markdown(compared([*NAMES, "sensor_year", "big_array", "gpu"]))


HEADLINES = {  # which claims
    "teacher": (0, 3), "student": (0,), "kdpp": (1,), "pca": (0, 2), "reduction": (0, 1, 2),
    "training": (0,), "input_pipeline": (0,), "evaluation": (0,)}


def headlines(_: str) -> str:
    """What README says of speed: some claims, those where the peer is faster among them."""
    from benchmarks.tables import compared

    rows = ["| part | against | measured | on |", "|---|---|---|---|"]
    for name, picked in HEADLINES.items():
        found = [row for row in compared([name]) if not row.of]
        for row in (found[index] for index in picked if index < len(found)):
            if row.claim.unit == "×":
                factor = row.text(lambda claim: claim.measured if claim.at_least
                                  else 1 / claim.measured)
                rows.append(f"| {row.claim.part} | {row.claim.peer} | {factor} times as fast | "
                            f"{'; '.join(row.measured_on)} |")
    return "\n".join(rows)


def cost_table(kind: str) -> str:
    """A table of ``benchmarks.cost``: core-hours, gpu-hours or terabytes."""
    from benchmarks import cost
    from benchmarks.tables import RESULTS

    return cost.KINDS[kind](cost.figures(RESULTS / "scaling.json")
                            | cost.figures(RESULTS / "gpu.json") | cost.published(RESULTS))


FILLERS: dict[str, Callable[[str], str]] = {
    "help": help_text, "params": params_table, "exit-codes": exit_codes,
    "columns": columns_table, "pipeline": pipeline_file, "options": options_table,
    "resources": resources_table, "commands": commands_table, "steps": steps_table,
    "tabs": tabs_table, "file": file_text, "benchmark": benchmark_tables,
    "table": one_table, "transcript": transcript, "claims": claims_table, "headlines": headlines,
    "cost": cost_table,
}


def filled(text: str) -> str:
    """``text`` with every marked block brought up to date."""
    def fill(match: re.Match[str]) -> str:
        heading = match[0].partition("\n")[0]
        return f"{heading}\n{FILLERS[match[1]](match[2] or '')}\n<!-- end -->"

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
