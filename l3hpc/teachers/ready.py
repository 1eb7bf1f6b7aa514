"""Folders of ready embeddings, which stand in for a teacher (see ``l3hpc.datasets.ready``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l3hpc.datasets.ready import ReadyEmbeddings
from l3hpc.teachers.base import DEFAULT_WINDOW_S, Description, Options


class ReadyFolders:
    """Whatever is a folder."""

    def accepts(self, name: str) -> bool:
        """Any folder."""
        return Path(name).is_dir()

    def describe(self, name: str, options: Options) -> Description:
        """From the first file."""
        ready = self.load(name, options)
        return Description("ready", ready.label, ready.rate, ready.window_s, ready.dim)

    def fingerprint(self, name: str) -> str:
        """A digest of names, sizes and times of change."""
        return self.load(name, Options()).fingerprint

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """With the digest of the listing."""
        return self.describe(name, options).identity(self.fingerprint(name))

    def load(self, name: str, options: Options) -> ReadyEmbeddings:
        """The files, which are read one by one."""
        return ReadyEmbeddings(Path(name), options.window_s or DEFAULT_WINDOW_S)
