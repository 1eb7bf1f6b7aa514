"""Wait for processes, which take as long as the machine lets them."""

import time


def until(condition, seconds=240):
    """Return once ``condition()`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
