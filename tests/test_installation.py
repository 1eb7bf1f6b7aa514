"""What to type to install an optional part, and the metadata of the wheel."""

import configparser
import importlib.metadata
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

from l3hpc import installation

ROOT = Path(__file__).resolve().parent.parent
EXTRA = re.compile(r"l3hpc\[[a-z]+\]")


class Installed:
    """A distribution of which pip noted this origin (None: nothing)."""

    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.origin if self.origin is None else json.dumps(self.origin)


@pytest.fixture
def installed(monkeypatch):
    def from_(origin):
        installation._origin.cache_clear()
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
        return installation.install_command("umap")

    yield from_
    installation._origin.cache_clear()


def test_an_extra_is_installed_from_where_l3hpc_came_from(installed, tmp_path):
    clone = tmp_path / "my clone"
    clone.mkdir()
    url = clone.as_uri()
    assert "%20" in url
    assert installed({"url": url, "dir_info": {}}) == f"pip install '{clone}[umap]'"
    assert installed({"url": url, "dir_info": {"editable": True}}) == (
        f"pip install --editable '{clone}[umap]'")
    assert installed({"url": "https://example.org/l3hpc.git",
                      "vcs_info": {"vcs": "git", "requested_revision": "v1"}}) == (
        "pip install 'l3hpc[umap] @ git+https://example.org/l3hpc.git@v1'")
    assert installed({"url": "https://example.org/l3hpc-1.whl", "archive_info": {}}) == (
        "pip install 'l3hpc[umap] @ https://example.org/l3hpc-1.whl'")


@pytest.mark.parametrize("origin", [
    None, {}, {"url": 3}, {"url": "file:///nowhere/l3hpc", "dir_info": {}}])
def test_where_the_source_is_unknown_or_gone_the_clone_is_named(installed, origin):
    assert installed(origin) == "pip install '.[umap]' (in the folder of the l3hpc clone)"


def test_options_come_before_the_source(installed):
    installed(None)
    assert installation.install_command("", "--force-reinstall").startswith(
        "pip install --force-reinstall .")


def test_nothing_advises_to_install_from_a_registry_that_does_not_have_it():
    """``l3hpc[extra]`` alone is a name that no registry knows."""
    files = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.yaml", "*.j2"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split()
    wrong = [f"{name}: {line.strip()}" for name in files if name != "tests/test_installation.py"
             for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
             if re.search(r"pip install[^|]*['\" ]l3hpc(\[|['\"\s]|$)", line)
             and "would find nothing" not in line]
    assert not wrong


def test_the_description_of_the_wheel_has_no_link_that_leads_nowhere(monkeypatch):
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **settings: given.update(settings))
    given = {}
    spec = importlib.util.spec_from_file_location("setup_of_l3hpc", ROOT / "setup.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    text = given["long_description"]
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    assert "the pipelines" in text and "filled:" not in text
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert "long_description" not in settings["metadata"]


def test_every_target_of_make_that_is_named_anywhere_does_something():
    """make says nothing, and succeeds, where a target of .PHONY has no commands."""
    text = (ROOT / "Makefile").read_text()
    [listed] = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    rules = {name: (needs, commands) for name, needs, commands in re.findall(
        r"^([a-z-]+):(.*?)(?:  ## .*)?\n((?:\t.*\n)*)", text, re.MULTILINE)}
    assert {*rules} == {*listed.split()}
    assert [name for name, (needs, commands) in rules.items() if not commands] == ["install-dev"]
    assert rules["install-dev"][0].split() == ["$(VENV)/.dev"]  # which has them
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci/run",
             *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.yml")]
    named = {word for page in pages for word in re.findall(
        r"(?:^|`|&& |run: |\$ )make ([a-z][a-z-]*)\b", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "fuzz", "bench", "check"} <= named <= {*rules}
