"""Keeps the working folder out of Python's search path; imported before anything else.

``python -m l3hpc…`` puts it first. A ``random.py`` there, whether it belongs to the user's own
steps or comes from someone else who may write to the folder, would replace the standard library's
module in the runner and in jobs. Only ``sys`` and ``os`` are used, which Python has already loaded.
"""

import os
import sys


def leave_out_working_folder() -> None:
    """Remove the entry that ``python -m l3hpc…`` adds, unless l3hpc itself is in that folder.

    Programs that import l3hpc keep their search path: while ``-m`` locates a module, ``sys.argv``
    begins with ``-m``, and a notebook's or a script's does not.
    """
    if getattr(sys, "argv", [])[:1] != ["-m"] or getattr(sys.flags, "safe_path", False):
        return
    try:
        folder = os.getcwd()
    except OSError:  # it was removed, and Python has added nothing
        return
    if sys.path[:1] == [folder] and os.path.dirname(os.path.dirname(__file__)) != folder:
        del sys.path[0]


leave_out_working_folder()
