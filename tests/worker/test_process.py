"""What a task says that it used, and why it failed."""

import subprocess
import sys

import pytest

from l3hpc.worker import process


def test_a_small_command_does_not_double_the_memory_of_a_task():
    """Linux counts for it what its parent had when it was started."""
    code = ("import subprocess\n"
            "from l3hpc.worker.process import peak_memory_mb\n"
            "held = b'1' * (300 << 20)\n"
            "subprocess.run(['true'], check=True)\n"
            "print(peak_memory_mb())")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          check=True)
    assert 300 <= int(done.stdout) < 450


def _error_of(function):
    with pytest.raises(Exception) as caught:
        function()
    return process.error_details(caught.value)


def test_the_message_of_tensorflow_s_errors_is_what_was_wrong():
    """The first line is what status shows, and the end of the tail what it shows beneath."""
    import keras
    import tensorflow as tf

    class Square(keras.layers.Layer):
        def call(self, x, training=None):
            return tf.matmul(x, x)

    @tf.function
    def converted(x):
        return Square()(x, training=True) if tf.reduce_sum(x) > 0 else x

    @tf.function
    def gathered(x, index):
        return tf.gather(x, index)

    wrong = "Dimensions must be equal, but are 3 and 2 for"
    for call in (lambda: converted(tf.ones((2, 3))), lambda: Square()(keras.Input((3,), 2))):
        found = _error_of(call)
        assert found["type"] == "ValueError" and found["message"].startswith(wrong)
        assert found["tail"][-1].strip().startswith(wrong)
    found = _error_of(lambda: gathered(tf.ones((2, 3)), tf.constant([7])))
    assert found["message"] == "indices[0] = 7 is not in [0, 2)" == found["tail"][-1]


@pytest.mark.parametrize("message", [
    "", "plain", "two\nlines", "Graph execution error:", "in user code:", "\x1b[1mbold\x1b[0m",
    "Exception encountered when calling L.call().\n\nArguments received by L.call():\n  • x=1",
    "Graph execution error:\n\nDetected at node zeros defined at (most recent call last):\n"
    "<stack traces unavailable>\nOOM when allocating tensor\n\t [[{{node zeros}}]]\nHint: If you"])
def test_no_message_is_lost(message):
    def fail():
        raise RuntimeError(message)

    found = _error_of(fail)
    wanted = {"\x1b[1mbold\x1b[0m": "bold"}.get(message, message)
    if "OOM" in message:
        wanted = "OOM when allocating tensor"
    elif "Arguments" in message:
        wanted = "Exception encountered when calling L.call()."
    assert found["message"] == wanted
    assert any("fail" in line for line in found["tail"])
