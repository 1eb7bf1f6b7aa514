"""Two people of a group, who are real users of this machine, in processes of their own."""

import contextlib
import io
import os
import traceback

import pytest

GROUP, ADA, BOB = 54_321, 54_001, 54_002
root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two people")


def as_person(user, work, says=None, umask=0o027, group=GROUP):
    """Do it as another person, in a process of its own; its exception comes back as text."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        text = b""
        try:
            os.close(out)
            os.setgroups([group])
            os.setgid(group)
            os.setuid(user)
            os.umask(umask)
            os.environ["HOME"] = "/nonexistent"
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}".encode()
        finally:
            os.write(into, text[:60_000])
            os._exit(0)
    os.close(into)
    with open(out, "rb") as stream:
        said = stream.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the process of this person ended with {code}: {said}"
    message = said.partition("Traceback")[0]  # which quotes this file
    assert (says or "") in message and (says is not None or not said), said
    return message


def types(user, *words, umask=0o027, group=GROUP):
    """What a person sees who types ``l3hpc WORDS``, which only reads: exit code, output, messages.

    It runs as root first, because the files of Python may be readable to root alone.
    """
    from l3hpc.cli import main

    def command():
        out, err, code = io.StringIO(), io.StringIO(), 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        return "\0".join([str(code), out.getvalue(), err.getvalue()])

    def tell():
        raise AssertionError(command())

    command()
    said = as_person(user, tell, "AssertionError", umask, group)
    code, printed, told = said.removeprefix("AssertionError: ").split("\0")
    return int(code), printed, told.rstrip("\n")
