"""The command line in this process: a tenth of the time of a new one."""

import contextlib
import io
import os
import sys
from types import SimpleNamespace
from unittest import mock

import pytest


def call(*words):
    """Run ``l3hpc WORDS``: exit code, standard output, standard error."""
    from l3hpc.cli import main

    words, out, err = [str(word) for word in words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), \
            mock.patch.object(sys, "argv", ["l3hpc", *words]), pytest.raises(SystemExit) as end:
        main(words)
    return SimpleNamespace(code=end.value.code or 0, out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def there(folder, environment):
    """In the block this process works in the folder, and has this environment and no other."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            yield
    finally:
        os.chdir(before)
