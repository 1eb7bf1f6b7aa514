"""New processes that need not import TensorFlow: they are forked from one that has imported it, and
whatever else takes long, and computed nothing. A test may kill them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import gc, json, os, sys, traceback
sys.path[:0] = sys.argv[1:]
from l3hpc.models.tensorflow_log import quiet_first_import
quiet_first_import()
import hypothesis, pytest
import l3hpc.avc.training, l3hpc.compression.retraining, l3hpc.steps.train
gc.freeze()
for line in sys.stdin:
    code, words, folder, environment, out = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if out else 2, 1)
        sys.argv[1:] = words
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        status = 1
        try:
            exec(code, {"__name__": "__main__"})
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkServer:
    def __init__(self):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(Path(__file__).parent)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})

    def run(self, code, *words, cwd=None, env=None, out=None):
        """Execute ``code`` in a new process with ``words`` as its arguments. Returns its exit code,
        below 0 for a signal. out: a file for what it prints."""
        asked = [code, [str(word) for word in words], str(cwd or os.getcwd()),
                 dict(env or os.environ), out and str(out)]
        with contextlib.suppress(BrokenPipeError):  # it ended: then it answers nothing
            self._process.stdin.write(json.dumps(asked) + "\n")
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
