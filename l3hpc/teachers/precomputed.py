"""Folders of precomputed embeddings that stand in for a teacher: ``l3hpc.datasets.precomputed``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l3hpc.datasets.precomputed import PrecomputedEmbeddings
from l3hpc.teachers.base import DEFAULT_WINDOW_S, Description, Options


class PrecomputedFolders:
    """Whatever is a folder."""

    def accepts(self, name: str) -> bool:
        """Any folder."""
        return Path(name).is_dir()

    def describe(self, name: str, options: Options) -> Description:
        """From the first file."""
        found = self.load(name, options)
        # "ready" is what frozen configurations and attributes of files call them
        return Description("ready", found.label, found.rate, found.window_s, found.dim)

    def fingerprint(self, name: str) -> str:
        """A digest of names, sizes and times of change."""
        return self.load(name, Options()).fingerprint

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """With the digest of the listing."""
        return self.describe(name, options).identity(self.fingerprint(name))

    def load(self, name: str, options: Options) -> PrecomputedEmbeddings:
        """The files, which are read one by one."""
        return PrecomputedEmbeddings(Path(name), options.window_s or DEFAULT_WINDOW_S)
