"""A module that is imported when a test first uses it: every worker reads every test file, and need
not load TensorFlow for that."""

import importlib


class LazyModule:
    def __init__(self, name):
        vars(self)["_name"] = name

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # pytest looks at whatever a test file holds
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute, value):  # monkeypatch does
        setattr(importlib.import_module(self._name), attribute, value)
