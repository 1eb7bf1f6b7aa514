"""The documentation site is built strictly: every page is in it, and every link and name exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chromium
import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_is_built_without_a_warning(site):
    assert (site / "index.html").is_file() and (site / "search/search_index.json").is_file()


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = set(re.findall(r"[\w/-]+\.md", yaml.safe_dump(navigation)))
    assert named == pages


def test_pages_fetch_nothing_from_elsewhere(site):
    """Links may lead elsewhere; what a page loads (styles, scripts, fonts, images) is its own."""
    loaded = re.compile(r"<(?:link[^>]+rel=.?(?:stylesheet|preconnect|icon)[^>]+href|(?:script|img)"
                        r"[^>]+src)=[\"']?(https?:[^\"'>\s]+)")
    assert not [url for page in site.rglob("*.html") for url in loaded.findall(page.read_text())]


def test_the_reference_has_the_names_of_the_library(site):
    page = (site / "api/sampling.html").read_text()
    for name in ("l3hpc.sampling.kdpp.KDPP", "l3hpc.sampling.selection.select"):
        assert f'id="{name}"' in page


BROKEN_WORDS = """
(() => {
  const found = [];
  for (const code of document.querySelectorAll("article code")) {
    const letters = [], nodes = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
    while (!code.closest("pre") && nodes.nextNode())
      for (let at = 0; at < nodes.currentNode.data.length; at++)
        letters.push([nodes.currentNode, at]);
    const text = code.textContent, range = document.createRange();
    let top = null;
    letters.forEach(([node, at], number) => {
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      const box = range.getBoundingClientRect();
      if (!box.height) return;
      const between = text.slice(number - 1, number + 1);
      if (top !== null && Math.abs(box.top - top) > 5 && !between.includes(" "))
        found.push(`${text.slice(0, number)}|${text.slice(number)}`);
      top = box.top;
    });
  }
  return found;
})()
"""


@pytest.mark.skipif(chromium.PROGRAM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_no_word_of_a_command_is_broken(site, tmp_path, width):
    browser = chromium.Browser(tmp_path)
    try:
        browser.do("Emulation.setDeviceMetricsOverride", width=width, height=900,
                   deviceScaleFactor=1, mobile=width == 390)
        for page in ("index", "cluster", "faults", "commands/submit", "steps/extract"):
            browser.do("Page.navigate", url=f"file://{site}/{page}.html")
            browser.until(f"document.readyState == 'complete' && location.href.includes('{page}')")
            assert browser.js(BROKEN_WORDS) == [], page
            assert browser.js("document.documentElement.scrollWidth <= innerWidth"), page
    finally:
        browser.close()
