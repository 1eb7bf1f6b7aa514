"""Processes that a test may kill, without an import of TensorFlow for each: they are forked from
one that has imported all they need and computed nothing."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[2])
exec(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)  # what it prints is no answer
        try:
            exec(json.loads(line))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkServer:
    """prelude: code that is executed once, before all forks."""

    def __init__(self, prelude):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, prelude, str(Path(__file__).parent)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})

    def run(self, code):
        """Execute ``code`` in a new process. Returns its exit code, below 0 for a signal."""
        with contextlib.suppress(BrokenPipeError):  # it ended: then it answers nothing
            self._process.stdin.write(json.dumps(code) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.errors()
        return int(answer)

    def errors(self):
        """What all of them wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
