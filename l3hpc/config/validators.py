"""Validators of single values in cluster.yaml; each returns the value, perhaps converted."""

from __future__ import annotations

import os
import re
import shlex

from l3hpc import steps
from l3hpc.config.capabilities import of as capabilities_of
from l3hpc.errors import InputError, nearest
from l3hpc.io.job_path import pieces

MAX_VALUE = 1024
MAX_PACK = 10_000
# with Unicode's line separators, at which some programs cut, and lone surrogates: bytes that are
# not UTF-8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CLUSTER = re.compile(r"\w[\w.-]*", re.ASCII)
_SBATCH_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.+))?")
# what sbatch is given already → the key of cluster.yaml that decides it ("" for none)
_RESERVED = {
    **{name: f"{name}:" for name in ("account", "partition", "qos", "constraint", "reservation",
                                     "wckey", "exclude", "exclusive", "clusters")},
    "mail-user": "mail_user:", "mail-type": "mail_type:",
    "array": "array_parallelism: and limits.array:", "kill-on-invalid-dep": "kill_on_invalid_dep:",
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "mem: and memory_request:"),
    **dict.fromkeys(("gres", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task",
                     "tres-per-task"), "gpus:, gpu_request: and gpu_type:"),
    "time": "time:", "cpus-per-task": "cpus:",
    **dict.fromkeys((
        "job-name", "nodes", "ntasks", "ntasks-per-node", "tasks-per-node", "output", "error",
        "open-mode", "signal",
        "requeue", "no-requeue", "dependency", "parsable", "wrap", "test-only", "wait", "help",
        "usage", "version", "quiet"), ""),
}
# options of sbatch that no key sets either → what to do instead
_REFUSED = {
    "uid": "Remove it: jobs run as the user who submits them.",
    "gid": "Remove it: jobs run in the group of the user who submits them.",
    "jobid": "Remove it: Slurm numbers the jobs.",
    "hold": "Submit the run when it is to start; scontrol hold holds a single job.",
    "export-file": "Use env: of the profile.",
}
_WHOLE_NAMES = ("export",)  # allowed, though they look like abbreviations of an option above
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def plain(value: object) -> str:
    """Check text that may stand in a script: no control characters.

    Parameters
    ----------
    value
        The value.

    Raises
    ------
    InputError
        If it is not a string, or has control characters.
    """
    if not isinstance(value, str):
        hint = "put it in quotes, or leave the key out" if isinstance(value, bool) \
            else "put it in quotes"
        raise InputError(f"{value!r} is not a string", hint=hint)
    if _CONTROL.search(value):
        raise InputError(f"{value[:60]!r} contains a control character (a line break, a tab, …) or "
                         "is not UTF-8")
    return value


def word(value: object) -> str:
    """Check a value of an ``#SBATCH`` line: short, no spaces, quotes, backslashes or leading dash.

    Parameters
    ----------
    value
        The value.

    Raises
    ------
    InputError
        If it is of another form.
    """
    text = plain(value)
    if not text or len(text) > MAX_VALUE:
        raise InputError(f"{text[:60]!r} has {len(text):,} characters",
                         allowed=f"1 to {MAX_VALUE:,} characters")
    # sbatch parses these lines itself: quotes, backslashes and a second option would be misread
    if text.startswith("-") or re.search(r"[\s'\"\\`$;<>#%]", text):
        raise InputError(
            f"{text[:60]!r} is not a name that Slurm accepts",
            allowed="no spaces, quotes, backslashes or any of ` $ ; < > # %, no leading dash")
    return text


def executor_name(value: object) -> str:
    """Check the name of a scheduler.

    Parameters
    ----------
    value
        The value.

    Raises
    ------
    InputError
        If there is no such scheduler.
    """
    capabilities_of(str(value))
    return str(value)


def variables(value: object) -> dict[str, str]:
    """Check environment variables: valid names, values as text.

    Parameters
    ----------
    value
        A mapping; numbers become text.

    Raises
    ------
    InputError
        If it is of another form.
    """
    if not isinstance(value, dict):
        raise InputError(f"{value!r} is not a mapping of names to values")
    for name in value:
        if not _VARIABLE.fullmatch(str(name)):
            raise InputError(f"{name!r} is not the name of an environment variable",
                             allowed="allowed: letters, digits and _, not starting with a digit")
        # the job's own values of these would be lost
        if str(name).startswith(("SLURM_", "SBATCH_")):
            raise InputError(f"{name} is reserved for Slurm and cannot be set here")
    # type, not isinstance: YAML's true is an int to Python, and would become the text True
    return {str(name): plain(str(item) if type(item) in (int, float) else item)
            for name, item in value.items()}


def launcher(value: object) -> tuple[str, ...]:
    """Split a container prefix as a shell would: ``apptainer exec --nv x.sif``.

    Parameters
    ----------
    value
        One line, in which ``~`` and ``$VARIABLES`` are expanded, or a list of words, which is taken
        as it is.

    Raises
    ------
    InputError
        If it is of another form, or a variable is not set.
    """
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    text = plain(value)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{value!r} has {str(error).lower()}") from None
    return tuple(program(item) for item in words)


def program(value: object) -> str:
    """Expand ``~`` and ``$VARIABLES`` of this machine in a word of a command.

    Parameters
    ----------
    value
        The word.

    Raises
    ------
    InputError
        If a variable is not set.
    """
    text = os.path.expandvars(os.path.expanduser(plain(value)))
    if unknown := re.search(r"\$(\w+|\{[^}]*\})", text):
        raise InputError(f"the environment variable {unknown[0]} is not set")
    return plain(text)


def job_folder(value: object) -> str:
    """Check the path of a folder on the nodes, whose ``$VARIABLES`` are those of the job.

    Parameters
    ----------
    value
        ``/local/$USER/$SLURM_JOB_ID``, ``${SLURM_TMPDIR}``; it is not expanded here.

    Raises
    ------
    InputError
        If it is relative, or has characters that a shell could misread.
    """
    text = plain(value)
    if len(text) > MAX_VALUE or not text.startswith(("/", "$")):
        raise InputError(f"{text[:60]!r} is not the path of a folder on the nodes",
                         allowed="an absolute path, with $VARIABLES of the job: $SLURM_TMPDIR, "
                                 "/local/$USER/$SLURM_JOB_ID")
    literal = "".join(part for part, is_variable in pieces(text) if not is_variable)
    if bad := re.search(r"[\s'\"\\`$;<>|&*?(){}\[\]!#%~]", literal):
        raise InputError(f"{text[:60]!r} contains {bad[0]!r}",
                         allowed="allowed: letters, digits, / . _ - + = : , @, $NAME and ${NAME}")
    if ".." in literal.split("/"):
        raise InputError(f"{text[:60]!r} contains '..'", hint="Write the path without it.")
    return text


def sbatch_options(value: object) -> tuple[str, ...]:
    """Check options of sbatch that l3hpc does not set itself.

    Parameters
    ----------
    value
        ``--name`` or ``--name=value``, or a list of them.

    Raises
    ------
    InputError
        If one is of another form, given twice, or one that l3hpc sets: with the key that does.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise InputError(f"{value!r} is not a list of sbatch options",
                         allowed="for example [--nice=100, --licenses=matlab:1]")
    found: dict[str, str] = {}
    for item in items:
        match = _SBATCH_OPTION.fullmatch(plain(item))
        if not match or len(item) > MAX_VALUE or re.search(r"[\"'\\]", item):
            raise InputError(f"{item[:60]!r} is not an option of sbatch",
                             allowed="--name or --name=value, without quotes and backslashes",
                             hint="Write the long form: --chdir=/data, not -D /data.")
        name = match[1]
        # sbatch accepts abbreviations: --part sets the partition, too
        taken = next((known for known in _RESERVED if known.startswith(name)), None)
        if taken is not None:
            key = _RESERVED[taken]
            raise InputError(f"--{name} sets --{taken}, which l3hpc sets itself",
                             hint=f"Use {key.replace(' and ', ' or ')} of the profile or the step."
                             if key else "Remove it: no key changes this option.")
        refused = next((known for known in _REFUSED if known.startswith(name)), None)
        if refused is not None and name not in _WHOLE_NAMES:
            raise InputError(f"--{name} sets --{refused}, which cannot be set here",
                             hint=_REFUSED[refused])
        if name in found:
            raise InputError(f"--{name} is given twice")
        found[name] = item
    return tuple(found.values())


def pack_size(value: object) -> int:
    """Check how many tasks one job runs.

    Parameters
    ----------
    value
        A whole number, from the command line as text.

    Raises
    ------
    InputError
        If it is not one, or out of range.
    """
    text = value.strip() if isinstance(value, str) else str(value)
    # true is 1 in Python, and 8.0 a fraction that somebody may not have meant
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= MAX_PACK:
        raise InputError(f"{text[:40]!r} is not a number of tasks",
                         allowed=f"a whole number from 1 to {MAX_PACK:,}")
    return int(text)


def cluster_names(value: object) -> tuple[str, ...]:
    """Check names of Slurm's clusters.

    Parameters
    ----------
    value
        A list, or one text with commas, as for ``--clusters``.

    Raises
    ------
    InputError
        If one is not a valid name.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise InputError(f"{value!r} is not a cluster name", hint="put it in quotes")
    names = tuple(word(item.strip() if isinstance(item, str) else item) for item in items)
    for name in names:
        if not _CLUSTER.fullmatch(name):
            raise InputError(f"{name!r} is not a cluster name",
                             allowed="letters, digits, _, - and . (sacctmgr list clusters)")
    return names


def steps_known(value: object) -> object:
    """Check that the keys of a mapping are kinds of steps.

    Parameters
    ----------
    value
        The mapping.

    Raises
    ------
    InputError
        For any other key.
    """
    for name in value if isinstance(value, dict) else ():
        if not steps.is_known(str(name)):
            raise InputError(f"unknown step {name!r}", allowed=nearest(str(name), steps.names()))
    return value
