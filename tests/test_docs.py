"""The docs are true: filled blocks are fresh, links resolve, and every example is typed rightly.

Fences: lines ``$ l3hpc …`` in ``console`` and ``text`` blocks must parse. Those in ``console``
blocks that only look (``submit --dry-run``, ``render``, ``config``, ``data check``, ``doctor
--quick``) and those whose documented answer is ``error: …`` are run in a small city as well.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from l3hpc.cli import COMMANDS, cli, main
from l3hpc.errors import InputError
from l3hpc.steps import BUILT_IN

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("**/*.md")])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUR_OWN = ("console", "text")
CLUSTER = """\
paths:
  audio: city/audio
  sonyc_ust: city/sonyc_ust
  weights: untrained
clusters:
  greene:
    account: pr_42
    partition: gpu
    gpu_type: rtx8000
    limits: {time: 7d, mem: 180GB, array: 1001}
"""


def tool() -> Any:
    """tools/refresh_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("refresh_docs", ROOT / "tools/refresh_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block of a page."""
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield found[1], found[2]


def typed(page: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(language, command line, documented answer) of every ``$ …`` line in our own blocks."""
    for language, text in fences(page):
        if language not in OUR_OWN:
            continue
        for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, *answer = part.rstrip("\n").split("\n")
            yield language, line, answer


def calls(line: str) -> Iterator[list[str]]:
    """The words after each ``l3hpc`` of a line of shell; pipes, && and redirections end them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word[0] in "|&;<>":
            while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
                words.pop(0)
            if words and words[0] == "l3hpc":
                yield words[1:]
            words = []
        else:
            words.append(word)


def parse(words: list[str]) -> None:
    """Let click parse a command line without running it; raises ``click.ClickException``."""
    command: click.Command = cli
    context = click.Context(cli, info_name="l3hpc", **cli.context_settings)
    rest = list(words)
    while rest and rest[0] in ("-C", "--directory", "--debug"):
        del rest[:1 if rest[0] == "--debug" else 2]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            raise click.UsageError(f"no command {rest[0]!r}")
        command = found
        context = click.Context(command, parent=context, info_name=rest.pop(0))
    try:
        command.make_context(command.name, rest, parent=context.parent)
    except click.exceptions.Exit:  # --help, --version
        return


EXAMPLES = [(page.relative_to(ROOT).as_posix(), *example)
            for page in PAGES for example in typed(page)]
IDS = [f"{page}:{line[:60]}" for page, _, line, _ in EXAMPLES]


def test_there_are_examples() -> None:
    assert sum(bool(list(calls(line))) for _, _, line, _ in EXAMPLES) > 60


@pytest.mark.parametrize(("page", "language", "line", "answer"), EXAMPLES, ids=IDS)
def test_every_example_parses(page: str, language: str, line: str, answer: list[str]) -> None:
    for words in calls(line):
        parse(words)


def test_wrong_examples_would_be_found() -> None:
    for line in ("l3hpc submit upstream --melz 64", "l3hpc sbumit", "l3hpc ledger shwo",
                 "A=b l3hpc render upstream --approx tsne | head", "l3hpc render"):
        (words,) = calls(line)
        with pytest.raises((click.ClickException, InputError)):
            parse(words)


def test_blocks_are_fresh() -> None:
    refresh = tool()
    stale = [str(page.relative_to(ROOT)) for page in PAGES
             if refresh.filled(page.read_text(encoding="utf-8"))
             != page.read_text(encoding="utf-8")]
    assert not stale, f"run: python tools/refresh_docs.py ({', '.join(stale)})"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(place), f"{target}: no such heading"


def linked(page: Path) -> set[Path]:
    """The pages that a page links to."""
    return {(page.parent / target.partition("#")[0]).resolve()
            for target in LINK.findall(page.read_text(encoding="utf-8"))}


def test_everything_has_a_page_on_the_index() -> None:
    pages = linked(DOCS / "index.md")
    wanted = [DOCS / "commands" / f"{name}.md" for name in COMMANDS]
    wanted += [DOCS / "steps" / f"{name}.md" for name in BUILT_IN]
    wanted += [DOCS / "pipelines" / f"{path.stem}.md" for path in (ROOT / "jobs").glob("*.yaml")]
    wanted += list(DOCS.glob("*.md"))
    wanted += [*DOCS.glob("pipelines/*.md"), DOCS / "steps" / "your-own.md"]
    listed = ("api", "decisions", "tutorials")  # their own index lists the rest
    wanted += [DOCS / name / "index.md" for name in listed]
    assert [path.name for path in wanted if path not in pages | {DOCS / "index.md"}] == []
    assert [path for path in DOCS.glob("**/*.md")
            if path not in wanted and path.parent.name not in listed] == []


def test_every_key_of_cluster_yaml_is_described() -> None:
    from l3hpc.config import profile, settings

    text = (DOCS / "cluster.md").read_text(encoding="utf-8").partition("## The default file")[0]
    names = [f"paths.{name}" for name in settings.PathSettings.model_fields]
    names += [f"ledger.{name}" for name in settings.LedgerSettings.model_fields]
    names += [f"limits.{name}" for name in profile.Limits.model_fields]
    names += [f"slots.{name}" for name in profile.Slots.model_fields]
    names += [name for name in profile.ClusterProfile.model_fields
              if name not in ("name", "limits", "slots", "steps")]
    names += [*profile.StepOverrides.model_fields, *settings.ENVIRONMENT.values()]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_key_of_a_pipeline_is_described() -> None:
    from l3hpc.pipelines import definition

    text = (DOCS / "pipelines" / "your-own.md").read_text(encoding="utf-8")
    names = [*definition.PipelineFile.model_fields,
             *(f"steps.NAME.{name}" for name in definition.StepEntry.model_fields)]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_block_and_variable_of_templates_is_described() -> None:
    from l3hpc.config import settings
    from l3hpc.doctor import configuration
    from l3hpc.schedulers import scripts

    text = (DOCS / "cluster.md").read_text(encoding="utf-8")
    described = text.partition("## Templates")[2].partition("## The default file")[0]
    base = (ROOT / "templates" / "base.sbatch.j2").read_text(encoding="utf-8")
    blocks = re.findall(r"\{% block (\w+) %\}", base)
    seen: list[Any] = []
    original = scripts._context

    def context(plan: Any, step: Any, part: Any) -> dict[str, Any]:
        seen.append(original(plan, step, part))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "_context", context)
        configuration.check(settings.load(ROOT / "cluster.yaml", environ={}))
    names = [*blocks, *seen[0]]
    assert [name for name in names if f"`{name}`" not in described] == []


# examples that are run ----------------------------------------------------------------------------


def looks_only(words: list[str]) -> bool:
    """Whether a command writes nothing and starts nothing."""
    head = words[:1] if words[:1] in (["render"], ["submit"], ["doctor"]) else words[:2]
    return (head in (["render"], ["config", "show"], ["config", "check"], ["data", "check"])
            or head == ["submit"] and "--dry-run" in words
            or head == ["doctor"] and "--quick" in words)


RUNNABLE = [(page, words, answer) for page, language, line, answer in EXAMPLES
            if language == "console" for words in calls(line)
            if looks_only(words) or answer[:1] and answer[0].startswith("error: ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as the examples assume it: city/, published/, student.h5, jobs/, …"""
    import h5py
    import numpy as np

    from l3hpc.datasets.synth import City, make_city
    from l3hpc.models import parameters, weights
    from l3hpc.models.spec import student_spec

    folder = tmp_path_factory.mktemp("docs")
    make_city(folder / "city", City(2, 2, 16, 1.0, 8000, 2, 0))
    (folder / "cluster.yaml").write_text(CLUSTER)
    spec = student_spec(filters=(2, 2, 2, 2, 2, 2, 2, 4), emb_dim=4)
    weights.save(parameters.untrained(spec, 0), folder / "student.h5")
    for split in ("train", "validate"):
        for name, key, dim in (("audio", "l3_embedding", 512),
                               ("reduced", "pca_batch_500000_len_64_kernel_linear", 64)):
            target = folder / "published" / name / split
            target.mkdir(parents=True)
            with h5py.File(target / "sonyc_ndata=2500000_part=0_split=0.h5", "w") as file:
                file[key] = np.zeros((2, dim), np.float32)
                if name == "audio":
                    file["audio"] = np.zeros((2, 8000))
    for page, kind in ((DOCS / "pipelines/your-own.md", "yaml"), (DOCS / "cluster.md", "jinja")):
        text = page.read_text(encoding="utf-8")
        for name, content in re.findall(
                rf"`((?:jobs|templates)/[\w.-]+)`[^`\n]*:\n\n```{kind}\n(.*?)```", text, re.DOTALL):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
    return folder


def test_examples_are_run() -> None:
    assert len(RUNNABLE) > 30
    assert {page for page, *_ in RUNNABLE} > {"docs/errors.md", "docs/commands/submit.md",
                                              "docs/pipelines/published-data.md"}


@pytest.mark.parametrize(
    ("page", "words", "answer"), RUNNABLE,
    ids=[f"{page}:{' '.join(words)[:60]}" for page, words, _ in RUNNABLE])
def test_examples_that_only_look_do_what_the_page_says(
    page: str, words: list[str], answer: list[str], place: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    from l3hpc.config.settings import ENVIRONMENT

    monkeypatch.chdir(place)
    for variable in ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    err = err.replace(f"{place}/", "")
    if answer[:1] and answer[0].startswith("error: "):
        assert end.value.code == 2, out + err
        said = [line.removesuffix(" …").removesuffix("…") for line in answer]
        assert [line for line in said if line not in err] == []
    else:
        assert end.value.code == 0, out + err
        assert out
    assert not (place / "workspace").exists()


def test_yaml_examples_of_sites_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from l3hpc.config import settings

    monkeypatch.setenv("USER", "you")
    text = (DOCS / "cluster.md").read_text(encoding="utf-8").partition("## Templates")[0]
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 6
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        name = re.findall(r"^  (\w+):", example.partition("clusters:")[2], re.MULTILINE)[0]
        assert settings.load(path, name, environ={}).profile.name == name


def test_the_tests_that_the_page_of_faults_names_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text()))
    assert len(named) > 10
    assert not named - {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
