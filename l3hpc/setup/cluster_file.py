"""The text of a cluster.yaml: values that were found, with the alternatives as comments."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import yaml

from l3hpc.config import sources
from l3hpc.config.profile import cluster_names, plain
from l3hpc.config.settings import ENVIRONMENT
from l3hpc.config.units import format_memory, format_time
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import refuse_special, write_text
from l3hpc.io.values import count_of
from l3hpc.schedulers.slurm.site import Quality, Site
from l3hpc.setup.choices import Choice
from l3hpc.setup.survey import Survey

COMMENT_AT = {0: 30, 2: 30}  # by indentation, as in the delivered file
WITHIN = 39
CLUSTER_VARIABLES = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
WIDTH = 100
MODULE = re.compile(r"[\w.][\w.+/@=~,-]*")  # a name that a shell takes as it is
CONTAINER = {"apptainer": "apptainer exec", "singularity": "singularity exec"}


def text(found: Survey, choice: Choice | None) -> str:
    """The whole file, for the profile ``choice`` (None: a machine without Slurm)."""
    name = choice.name if choice else "local"
    origin = f"{found.site.version}, cluster {found.site.cluster}" if found.site \
        else "a machine without Slurm"
    head = ["# Where jobs run and where data is; written by `l3hpc init` for " + origin + ".",
            "# `l3hpc doctor` checks it, `l3hpc config show` prints the effective values.", "",
            *_line("cluster", _value(name), "the profile used without --cluster", ""), ""]
    body = _slurm(found, found.site, choice) if found.site and choice else _local(found)
    return "\n".join([*head, *_places(found.scratch), "clusters:", f"  {_value(name)}:", *body, ""])


def write(path: Path, content: str, force: bool) -> None:
    """Write the file.

    Parameters
    ----------
    path
        The file, in a folder that exists.
    content
        Its text.
    force
        Replace a file that exists; of a link, the file that it leads to.

    Raises
    ------
    InputError
        As for ``check_target``, or the folder does not exist.
    L3hpcError
        The file cannot be written.
    """
    check_target(path, force)
    if not path.parent.is_dir():
        raise InputError("the folder does not exist", where=str(path.parent))
    try:
        write_text(path.resolve(), content)
    except OSError as error:  # it names the temporary file
        raise L3hpcError(f"cannot be written: {error.strerror or error}",
                         where=str(path)) from None


def check_target(path: Path, force: bool) -> None:
    """Check that a file may be written: there is nothing yet, or a regular file and ``force``.

    Parameters
    ----------
    path
        The file.
    force
        A regular file may be replaced.

    Raises
    ------
    InputError
        The file exists and ``force`` is not given; it is a folder, device, pipe, socket or a link
        that leads nowhere; or it has no proper name.
    """
    if str(path) == "-" or not path.parts:
        raise InputError("is not the name of a file", where=f"-o {'-' if path.parts else repr('')}",
                         hint="-o FILE writes a file; --dry-run prints it")
    try:
        plain(str(path))
    except InputError as error:
        raise InputError(error.message, where="-o") from None
    try:
        link = stat.S_ISLNK(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if link and not path.exists():
        raise InputError("is a link that leads nowhere; nothing was written", where=str(path),
                         hint="remove the link, or -o FILE writes another file")
    refuse_special(path)
    if not force:
        raise InputError("exists already; nothing was written", where=str(path),
                         hint="--force replaces it; --dry-run prints the new one; "
                              "-o FILE writes another file")


def _places(scratch: str) -> list[str]:
    """The sections paths and ledger of the delivered file, the workspace set to a large folder."""
    delivered = (sources.defaults_folder() / "cluster.yaml").read_text(encoding="utf-8")
    lines = delivered[delivered.index("paths:"):delivered.index("clusters:")].splitlines()
    # a value in the file would win over the variable that a person has set
    if scratch and ENVIRONMENT["paths.workspace"] not in os.environ:
        index = next(number for number, line in enumerate(lines) if "# workspace:" in line)
        lines[index:index + 1] = _line("workspace", f"${scratch}/l3hpc",
                                       "runs, artifacts, journals; every node has to see it", "  ")
    return lines


def _local(found: Survey) -> list[str]:
    return [f"    # this machine: {found.cpus} cores, {format_memory(found.mem_mb)}; jobs run with "
            "bash, as many at once as fit",
            *_off("slots", f"{{cpus: {found.cpus}, mem: {found.mem_mb}MB}}", "to use less"),
            *_off("notify", "~/.config/l3hpc/notify", "messages to Slack, mail, ntfy …"),
            "", "# On a login node of a Slurm cluster, `l3hpc init` writes a profile for it."]


def _slurm(found: Survey, site: Site, choice: Choice) -> list[str]:
    lines = [line for note in choice.notes for line in _comment(f"Look at this: {note}", "    ")]
    lines += _account(site, choice)
    lines += _line("partition", _value(choice.partition), "see the list; steps: below has others")
    for one in site.partitions.values():
        default = " (default)" if one.default else ""
        down = "" if one.up else ", down"
        lines += _comment(f"  {one.name}{default}: {one.words}{down}", "    ")
    if site.qualities:
        names = ", ".join(_quality(one, site.default_qos) for one in site.qualities)
        lines += _off("qos", _value(site.default_qos or site.qualities[0].name), f"yours: {names}")
    if not _can_be_named(site.cluster):
        pass  # sbatch's own default
    elif any(os.environ.get(name) for name in CLUSTER_VARIABLES):
        # without it sbatch would follow the variable, and this file is about the login node's own
        lines += _line("clusters", _value(site.cluster), "whatever SLURM_CLUSTERS says")
    elif site.other_clusters:
        lines += _off("clusters", _value(site.cluster),
                      f"the site also has: {', '.join(site.other_clusters)}; one profile each")
    lines += _gpus(site, choice)
    lines += _line("memory_request", choice.memory_request, "mem, mem-per-cpu or none")
    limits = ", ".join(f"{key}: {value}" for key, value in choice.limits.items())
    lines += _line("limits", f"{{{limits}}}", "larger requests are refused before submission")
    lines += _software(found)
    lines += _off("mail_user", "you@example.org", "mail at the end and after a failure")
    lines += _off("notify", "~/.config/l3hpc/notify", "messages to Slack, mail, ntfy …")
    lines += _off("array_parallelism", "50", "array tasks that run at the same time")
    if choice.steps:
        lines += _line("steps", "", "where the pipelines' own requests do not fit")
        for kind, settings in choice.steps.items():
            inner = ", ".join(f"{key}: {_value(value)}" for key, value in settings.items())
            lines += _line(kind, f"{{{inner}}}", choice.reasons[kind], "      ")
    return lines


def _can_be_named(cluster: str) -> bool:
    """Whether ``clusters:`` can name it."""
    try:
        return bool(cluster_names([cluster]))
    except InputError:
        return False


def _account(site: Site, choice: Choice) -> list[str]:
    if not choice.account:
        return _off("account", "NAME", "see above" if site.accounts
                    else "Slurm names no account of yours")
    others = ", ".join(name for name in site.accounts if name != choice.account)
    return _line("account", _value(choice.account), f"also yours: {others}" if others else "")


def _quality(one: Quality, default: str) -> str:
    said = [word for word in ("default" if one.name == default else "",
                              "" if one.time_min is None else f"up to {format_time(one.time_min)}",
                              "" if one.max_submit is None else count_of(one.max_submit, "job"))
            if word]
    return one.name + (f" ({', '.join(said)})" if said else "")


def _gpus(site: Site, choice: Choice) -> list[str]:
    types = sorted({kind for one in site.partitions.values() for kind in one.gpu_types})
    if choice.gpu_request == "none":
        having = [one for one in site.partitions.values() if one.gpus]
        why = "no partition of yours has GPUs" if not having else \
            "sbatch refuses jobs with a GPU" if any(one.up for one in having) \
            else "all partitions with GPUs are down"
        return _line("gpu_request", "none", f"{why}: steps use cores")
    lines = _line("gpu_request", choice.gpu_request, "gres, gpus-per-node, shard or none")
    if choice.gpu_type:
        return lines + _line("gpu_type", _value(choice.gpu_type), f"of {', '.join(types)}; "
                             "this site wants a type named")
    return lines + (_off("gpu_type", _value(types[0]), f"any of {', '.join(types)}")
                    if types else [])


def loadable(modules: tuple[str, ...]) -> list[str]:
    """The names of modules that ``setup:`` can load."""
    return [name for name in modules if MODULE.fullmatch(name)]


def _software(found: Survey) -> list[str]:
    """Modules, container, Python: what a job needs before it starts."""
    loaded = loadable(found.loaded_modules)
    odd = [name for name in found.loaded_modules if name not in loaded]
    if loaded:
        lines = _line("setup", "", "shell commands to run before Python starts")
        # those of this shell: the Python that runs l3hpc may come from one of them
        lines += [f"      - {_value('module load ' + ' '.join(loaded))}"]
    else:
        lines = _off("setup", "[module purge, module load NAME]",
                     "shell commands to run before Python starts")
    if odd:
        lines += _comment("  left out of module load, as no name of a module looks like this: "
                          + ", ".join(map(repr, odd)), "    ")
    if found.modules:
        lines += _comment(f"  modules of this site: {', '.join(found.modules)}", "    ")
    if found.containers:
        gpu = " --nv" if found.site and any(one.gpus for one in found.site.partitions.values()) \
            else ""
        lines += _off("container", f"{CONTAINER[found.containers[0]]}{gpu} /path/to/l3hpc.sif",
                      f"installed here: {', '.join(found.containers)}")
    return lines + _off("python", "python3", "default: the Python that runs l3hpc")


def _value(value: str | int) -> str:
    """As YAML reads it back: an account ``0042`` stays text."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n") \
        .rstrip("\n")


def _line(key: str, value: str, comment: str = "", indent: str = "    ") -> list[str]:
    """``key: value   # comment``; a comment too long for the line stands above it."""
    start = f"{indent}{key}: {value}".rstrip()
    if not comment:
        return [start]
    line = f"{start.ljust(COMMENT_AT.get(len(indent), WITHIN) - 2)}  # {comment}"
    if len(line) <= WIDTH:
        return [line]
    return [*_comment(comment, indent), start]


def _off(key: str, value: str, comment: str) -> list[str]:
    return _line(f"# {key}", value, comment)


def _comment(words: str, indent: str) -> list[str]:
    """Comment lines; what a program said may have line breaks."""
    lines, line = [], ""
    for word in re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", words).split(" "):
        if line.strip() and len(indent) + 2 + len(line) + len(word) > WIDTH:
            lines.append(line)
            line = "    " if words.startswith("  ") else ""
        line += word + " "
    return [f"{indent}# {line}".rstrip() for line in (*lines, line)]
