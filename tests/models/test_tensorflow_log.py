"""TensorFlow starts without its lines, and nothing else is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from l3hpc.models.tensorflow_log import NVIDIA, drop_startup_lines

pytestmark = pytest.mark.slow

STARTING = """\
2026-11-20 14:44:05.157831: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:32] Could not find cuda
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795277630.127942   32086 port.cc:153] oneDNN custom operations are on.
I0000 00:00:1795277673.136372   32140 cpu_feature_guard.cc:227] This binary is optimized
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
"""
KEPT = """\
W0000 00:00:1758131045.228000 3722035 gpu_device.cc:2341] Cannot dlopen some GPU libraries.
E0000 00:00:1758131045.203198 3722035 cuda_dnn.cc:8579] Unable to register cuDNN factory
embedding: 1/2 recordings
"""


def test_only_what_says_that_it_starts_is_left_out():
    assert drop_startup_lines(STARTING + KEPT) == KEPT
    assert drop_startup_lines("") == ""


@pytest.mark.parametrize("way", ["import_tensorflow()", "quiet_first_import()"])
def test_what_it_writes_when_it_starts_is_left_out_and_stderr_is_as_it_was(tmp_path, way):
    """A module that writes what TensorFlow does, both ways: C++ writes to the descriptor."""
    (tmp_path / "tensorflow.py").write_text(
        "import gc, os, sys\n"
        "assert not gc.isenabled() and not gc.get_freeze_count()\n"
        f"os.write(2, {STARTING.encode()!r})\nsys.stderr.write({KEPT!r})\n"
        "level = os.environ['TF_CPP_MIN_LOG_LEVEL']\n")
    code = ("import os, sys\n"
            "from l3hpc.models.tensorflow_log import import_tensorflow, quiet_first_import\n"
            "sys.stderr.write('before\\n')\n"
            f"{way}\n"
            "import tensorflow\n"
            "os.write(2, b'after\\n')\n"
            "import_tensorflow()\n"
            "import gc\n"
            "print(tensorflow.level, gc.isenabled(), gc.get_freeze_count() > 0)\n")
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**environment, "PYTHONPATH": str(tmp_path)})
    assert (done.stdout, done.stderr) == (
        f"{2 if Path(NVIDIA).exists() else 3} True {way == 'quiet_first_import()'}\n",
        f"before\n{KEPT}after\n")


def test_without_a_stderr_it_is_imported_all_the_same(tmp_path):
    """Any module of this name does: what is in it is not looked at."""
    (tmp_path / "tensorflow.py").write_text("")
    code = ("import sys\nfrom l3hpc.models.tensorflow_log import import_tensorflow\n"
            "import_tensorflow()\n"
            "print('tensorflow' in sys.modules)")
    done = subprocess.run(["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", code],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_whichever_module_imports_tensorflow_first_it_starts_without_its_lines():
    """A job's log begins with the job's own words: Keras imports TensorFlow by itself."""
    code = ("import os, sys\n"
            "from l3hpc.models.tensorflow_log import quiet_first_import\n"
            "quiet_first_import()\n"
            "quiet_first_import()\n"
            "os.write(2, b'before\\n')\n"
            "import keras\n"
            "os.write(2, b'after\\n')\n"
            "import tensorflow as tf\n"
            "assert not type(tf.__spec__.loader).__module__.startswith('l3hpc')\n"
            "assert not [f for f in sys.meta_path\n"
            "            if type(f).__module__ == 'l3hpc.models.tensorflow_log']\n"
            "model = keras.Sequential([keras.layers.Dense(1)])\n"
            "tf.function(lambda x: model(x))(tf.zeros((1, 2)))\n"
            "assert 'sklearn' not in sys.modules\n"
            "from keras.wrappers import SKLearnClassifier\n"
            "import sklearn.base\n"
            "assert issubclass(SKLearnClassifier, sklearn.base.ClassifierMixin)\n"
            "tf.config.list_physical_devices('GPU')\n"
            "print(tf.constant(3).numpy())\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    assert done.stdout == "3\n", done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "before" and "after" in lines
    assert not [line for line in lines if "oneDNN" in line or line.startswith("I0000")]
    if not Path(NVIDIA).exists():
        assert lines == ["before", "after"]
