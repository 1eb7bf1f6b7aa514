"""Builds the package: with the top-level templates, pipelines and cluster.yaml, and a description
whose links work where there is no clone around it."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithDefaults(build_py):
    """Adds ``l3hpc/defaults/`` (what a user finds when the working folder has none of its own)."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "l3hpc" / "defaults"
        for pattern in ("templates/*.j2", "jobs/*.yaml", "cluster.yaml"):
            for source in sorted(ROOT.glob(pattern)):
                copy = target / source.relative_to(ROOT)
                self.mkpath(str(copy.parent))
                self.copy_file(str(source), str(copy))


def description():
    """README without the marks of filled blocks; a link to a file of the clone becomes its text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n", "", text)
    return re.sub(r"!?\[([^\]]*)\]\((?!https://)[^)\s]*\)", r"\1", text)


setup(cmdclass={"build_py": BuildWithDefaults}, long_description=description(),
      long_description_content_type="text/markdown")
