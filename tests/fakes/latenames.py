"""Names of files as NFS shows them: one that was not found stays missing on this machine until its
folder is opened (on NFS, or a minute later)."""

import os


class LateNames:
    """Patches what Python looks names up with. ``missing``: what counts as missing."""

    def __init__(self, monkeypatch):
        self.missing = set()
        stat, open_, listdir, scandir = os.stat, os.open, os.listdir, os.scandir

        def looked_up(path, *rest, **options):
            if isinstance(path, int):
                return stat(path, *rest, **options)
            text = os.path.abspath(os.fsdecode(path))
            if self._is_missing(text):
                raise FileNotFoundError(text)
            try:
                return stat(path, *rest, **options)
            except FileNotFoundError:
                self._note(text)
                raise

        def opened(path, *rest, **options):
            handle = open_(path, *rest, **options)
            if isinstance(path, (str, os.PathLike)):
                self._ask(path)
            return handle

        def listed(call):
            def listing(path=".", *rest, **options):
                self._ask(path)
                return call(path, *rest, **options)
            return listing

        monkeypatch.setattr(os, "stat", looked_up)
        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "listdir", listed(listdir))
        monkeypatch.setattr(os, "scandir", listed(scandir))

    def _is_missing(self, text):
        while text != "/":
            if text in self.missing:
                return True
            text = os.path.dirname(text)
        return False

    def _note(self, text):
        """Of a path whose folders are missing, too, the first one is remembered."""
        while not os.path.lexists(os.path.dirname(text)):
            text = os.path.dirname(text)
        self.missing.add(text)

    def _ask(self, folder):
        if not isinstance(folder, int):
            folder = os.path.abspath(os.fsdecode(folder))
            self.missing -= {text for text in self.missing if os.path.dirname(text) == folder}
