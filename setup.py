"""Copies the top-level templates, pipelines and default cluster.yaml into the built package."""

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


setup(cmdclass={"build_py": BuildWithDefaults})
