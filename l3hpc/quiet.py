"""TensorFlow's first import without its start-up lines.

From 2.18 on TensorFlow writes them to the file descriptor of stderr before its log level holds, so
``TF_CPP_MIN_LOG_LEVEL`` does not reach them. Warnings and errors are kept.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile

NVIDIA = "/dev/nvidiactl"
_STARTING = re.compile(
    r"I\d{4} "  # I0000 00:00:1795277630.127942   32086 port.cc:153] …
    r"|\d{4}-\d\d-\d\d [\d:.]+: I "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|To enable the following instructions: ")


def import_tensorflow() -> None:
    """Import TensorFlow, if that was not done yet, and let through only what is worth reading."""
    if "tensorflow" in sys.modules:
        return
    has_gpu = os.path.exists(NVIDIA)  # without one, "failed call to cuInit" is no news
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_gpu else "3")
    if sys.stderr is None:  # it was closed: nothing to keep clean
        import tensorflow
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            text = worth_reading(kept.read().decode(errors="replace"))
            if text:
                os.write(2, text.encode())


def worth_reading(text: str) -> str:
    """The lines that do not only say that TensorFlow starts."""
    return "".join(line for line in text.splitlines(keepends=True) if not _STARTING.match(line))
