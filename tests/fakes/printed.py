"""Pages whose examples are carried out as they are printed: the lines after ``$`` of ``text``
blocks, ``>>>`` of ``pycon`` blocks, and files (a name in backquotes, a colon, and their block).

What a command says must be what the page shows below it, line by line, except for numbers (times,
sizes of other data, names of runs) and spaces. ``…`` stands for anything in a line, and on a line
of its own for any lines. What Python says must be exactly what the page shows.
"""

import doctest
import os
import re
import shlex
import subprocess
from pathlib import Path

from invoke import invoke

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
VARYING = re.compile(
    r"(\d{8}-[0-9a-f]{4}\b)|(just now|\d+ \w+ ago)|(\d[\d,.:]*)|(\s*…)|(\s+)")
ANY = (r"\d{8}-[0-9a-f]{4}", r"(?:just now|\d+ \w+ ago)", r"\d[\d,.:]*", ".*", " +")


class Page:
    """``said``: what every command of the page printed, by its line; ``names``: of its Python."""

    def __init__(self, path):
        self.path = ROOT / path
        self.said, self.names = {}, {}

    def carry_out(self, folder, monkeypatch):
        """All examples in their order, in ``folder``."""
        monkeypatch.chdir(folder)
        for name, language, content in BLOCK.findall(self.path.read_text(encoding="utf-8")):
            if name:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content, encoding="utf-8")
            elif language == "pycon":
                self._python(content)
            elif language == "text":
                for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                    line, _, answer = part.replace(" \\\n", " ").partition("\n")
                    line = re.sub(r" +", " ", line)
                    self.said[line] = said = command(line)
                    assert fits(answer, said), (
                        f"{self.path.name}: $ {line}\nshown:\n{answer}\nsaid:\n{said}")
        return self

    def _python(self, content):
        example = doctest.DocTestParser().get_doctest(content, self.names, self.path.name,
                                                      str(self.path), 0)
        told = []
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(example, out=told.append, clear_globs=False)
        self.names.update(example.globs)
        assert not runner.failures, "".join(told)


def command(line):
    """What a line of shell prints. One of l3hpc alone runs in this process, to import less."""
    if line.startswith("l3hpc ") and not set("|<>&;") & set(line):
        result = invoke(*shlex.split(line)[1:])
        said, code = result.stderr + result.stdout, result.return_value
    else:
        done = subprocess.run(["bash", "-c", line], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C.UTF-8"})
        said, code = done.stdout, done.returncode
    assert not code, f"$ {line}: exit code {code}\n{said}"
    return said


def fits(shown, said):
    """Whether the lines that a page shows are among those that were said, one below the other."""
    lines = ["(?:.*\n)*?" if line.strip() == "…" else f" *{_line(line)} *\n"
             for line in shown.rstrip().splitlines()]
    return re.search("^" + "".join(lines), said.rstrip() + "\n", re.MULTILINE) is not None


def _line(text):
    pattern, done = "", 0
    for found in VARYING.finditer(text.strip()):
        pattern += re.escape(text.strip()[done:found.start()])
        pattern += ANY[found.lastindex - 1]
        done = found.end()
    return pattern + re.escape(text.strip()[done:])
