"""Work that another process does between two accesses to files."""

import contextlib
import os


@contextlib.contextmanager
def before_access(number, work, *parts):
    """Do the work before the n-th time that a file is opened, listed or looked at whose path has
    one of these parts. Yields a list that is not empty once the work is done.
    """
    calls, done = 0, []

    def counted(function):
        def call(*args, **options):
            nonlocal calls
            counts = any(part in str(args[0]) for part in parts)
            calls += counts
            if counts and calls == number:
                done.append(work())
            return function(*args, **options)
        return call

    names = ("open", "stat", "lstat", "scandir", "listdir", "rmdir")
    originals = {name: getattr(os, name) for name in names}
    for name in names:
        setattr(os, name, counted(originals[name]))
    try:
        yield done
    finally:
        for name in names:
            setattr(os, name, originals[name])
