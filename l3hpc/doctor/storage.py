"""The folders and files of a configuration: workspace, weights, data sets; and the results sheet.

The results are always kept in the workspace; a Google Sheet is checked if one is configured.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from l3hpc import notify
from l3hpc.config import sources
from l3hpc.config.settings import Config, check_workspace
from l3hpc.console.formatting import file_size
from l3hpc.doctor.environment import Ask
from l3hpc.errors import (
    HeaderDriftError,
    InputError,
    L3hpcError,
    OfflineError,
    command_line,
    shell_path,
)
from l3hpc.findings import Finding, Severity, from_error
from l3hpc.io.files import write_text
from l3hpc.io.job_path import LEAST_FREE, pieces, usable
from l3hpc.io.values import count_of, one_line
from l3hpc.schedulers.slurm.commands import on_cluster
from l3hpc.workspace import sharing

LEAST_FREE_GB = 10
SHARED_TYPES = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "fuse", "panfs", "afs", "cifs",
                "orangefs", "pvfs", "glusterfs", "wekafs", "9p", "virtiofs")
SHEET = "results sheet"
# joins literal text (=TEXT) and values of variables ($NAME) without letting the shell expand either
# The last answer counts; a prolog or a login file of the site may print lines beside it. The checks
# are those of ``io.job_path``, which jobs make.
SCRATCH_PROBE = """mark="$1"; shift; folder=
for piece; do
    case "$piece" in
    =*) folder="$folder${piece#=}" ;;
    *) value="$(printenv "${piece#?}")"
       [ -n "$value" ] || { echo; echo "$mark bad ${piece} is not set in a job"; exit; }
       folder="$folder$value" ;;
    esac
done
echo
case "/$folder/" in */../*) echo "$mark bad $folder contains '..'"; exit ;; esac
if [ ! -d "$folder" ]; then echo "$mark bad $folder does not exist on node $(hostname)"
elif [ ! -w "$folder" ] || [ ! -x "$folder" ]; then
    echo "$mark bad $folder is not writable on node $(hostname)"
else echo "$mark ok $(hostname) $(df -Pk "$folder" | awk 'NR == 2 { print $4 }') $folder"
fi"""
SHEET_TIMEOUT_S = 12.0


def workspace_lines(config: Config, ask: Ask, probe: bool = True) -> Iterator[Finding]:
    """Check that the workspace is writable, has space, and can be read by the nodes, if there are
    any.

    Parameters
    ----------
    config
        The configuration.
    ask
        Runs a program.
    probe
        Whether to run a job on a node.
    """
    folder = config.workspace
    parent = nearest_folder(folder)
    try:
        check_workspace(folder, config.origin("paths.workspace"))
    except InputError as error:
        yield from_error("workspace", error)
        return
    try:
        for place in map(nearest_folder, sharing.written_folders(folder)):
            test = place / f".l3hpc-doctor-{uuid.uuid4().hex[:8]}"
            write_text(test, "ok\n")
            test.unlink()
    except OSError as error:
        yield Finding("workspace", "red", f"{place} is not writable: {error.strerror}",
                      "set another one: paths.workspace in cluster.yaml, or OUTPUT_DIR")
        return
    free = shutil.disk_usage(parent).free / 1e9
    words = f"{folder}, {free:,.0f} GB free" + ("" if folder.is_dir() else ", will be created")
    if free < LEAST_FREE_GB:
        yield Finding("workspace", "yellow", words,
                      "embeddings of a year of audio need much more: free some space, or set "
                      "another paths.workspace")
    else:
        yield Finding("workspace", "green", words)
    yield shared_line(config, place, ask, probe)
    yield sharing_line(config)


def sharing_line(config: Config) -> Finding:
    """Check who else can replace files in the workspace, or change those that decide what jobs do.

    Parameters
    ----------
    config
        The configuration.
    """
    check = "workspace is yours"
    found = [*sharing.find_risks(config.workspace),
             *sharing.find_file_risks(sources.own_files(config.file))]
    if not found:
        return Finding(check, "green", "your group can add files, and nobody else can replace yours"
                       if config.profile.shared_group else "nobody else can replace your files")
    words = "; ".join(risk.message for risk in found)
    advice = "their owners can fix that: " + "; ".join(risk.fix for risk in found)
    severity: Severity = "red" if any(risk.anybody for risk in found) else "yellow"
    return Finding(check, severity, words, advice)


def shared_line(config: Config, folder: Path, ask: Ask, probe: bool = True) -> Finding:
    """Check that a node of the cluster can read the workspace, with a job of one second.

    Parameters
    ----------
    config
        The configuration.
    folder
        The workspace, or the nearest folder above it that exists.
    ask
        Runs a program.
    probe
        Whether to run the job; otherwise the type of the file system decides.
    """
    check = "workspace is shared"
    if not config.profile.capabilities.remote:
        return Finding(check, "off", "not needed for cluster local")
    kind = filesystem(folder)
    advice = f"try it: srun ls -d {folder}; if that fails, set paths.workspace to a shared folder"
    if probe:
        try:
            # a new file: a node may still have an old listing of the folder cached
            token = folder / f".l3hpc-doctor-{uuid.uuid4().hex[:8]}"
            write_text(token, "ok\n")
        except OSError as error:
            return Finding(check, "red", f"{folder} is not writable: {error.strerror}", advice)
        try:
            answer = ask([*srun(config), "sh", "-c", 'cat "$1" && hostname', "sh",
                          str(token)])
        finally:
            token.unlink(missing_ok=True)
        words = answer.out.split()
        if answer.code == 0 and words[:1] == ["ok"]:
            return Finding(check, "green", f"node {words[-1]} can read it ({kind})")
        if "No such file" in answer.err + answer.out:
            return Finding(check, "red", f"a node cannot read {folder} ({kind} of this machine)",
                           "set paths.workspace to a folder that all nodes share")
        return Finding(check, "yellow", f"no node was free to check it ({answer.reason})", advice)
    if kind.startswith(SHARED_TYPES):
        return Finding(check, "green", f"it is on {kind}")
    return Finding(check, "yellow", f"it is on {kind}, which may be local to this machine",
                   advice)


def scratch_line(config: Config, ask: Ask, probe: bool = True) -> Finding:
    """Check the folder on the disk of a node that ``scratch:`` of the profile names.

    Parameters
    ----------
    config
        The configuration.
    ask
        Runs a program.
    probe
        Whether to run a job of one second on a node; on ``local``, this machine is checked.
    """
    check, text = "scratch on the nodes", config.profile.scratch
    advice = "tasks would use the workspace instead: correct or remove scratch: of the profile"
    if not config.profile.capabilities.remote:
        try:
            folder = usable(text, os.environ)
        except InputError as error:
            return Finding(check, "yellow", f"{text}: {error.message}", advice)
        return Finding(check, "green",
                       f"{folder}, {shutil.disk_usage(folder).free / 1e9:,.0f} GB free")
    if not probe:
        return Finding(check, "off", f"{text}: not checked without a job on a node")
    # a profile of the shell on the node may print lines of its own
    mark = f"l3hpc-{uuid.uuid4().hex[:8]}"
    answer = ask([*srun(config), "sh", "-c", SCRATCH_PROBE, "sh", mark,
                  *(("$" if is_variable else "=") + part for part, is_variable in pieces(text))])
    said = [line.removeprefix(f"{mark} ") for line in answer.out.splitlines()
            if line.startswith(f"{mark} ")]
    state, _, rest = said[-1].partition(" ") if said else ("", "", "")
    if answer.code or not state:
        why = "no node was free to check it" if answer.code else (
            "the check on a node printed nothing")
        return Finding(check, "yellow", f"{text}: {why} ({answer.reason})",
                       "see the log of the first task")
    if state == "bad":
        return Finding(check, "yellow", f"{text}: {one_line(rest)}", advice)
    node, free_kb, folder_text = (rest.split(" ", 2) + ["", ""])[:3]
    words = f"{one_line(folder_text)} of node {node}"
    if not free_kb.isdigit():
        return Finding(check, "yellow", f"{words}: df does not say how much is free", advice)
    enough = int(free_kb) * 1024 >= LEAST_FREE
    return Finding(check, "green" if enough else "yellow",
                   f"{words}, {int(free_kb) / 1e6:,.0f} GB free", "" if enough else advice)


def srun(config: Config, mem_mb: int = 50, minutes: int = 1) -> list[str]:
    """Return the command of a test job: a small request, which gives up if no node is free.

    Parameters
    ----------
    config
        The configuration.
    mem_mb
        Memory, MiB.
    minutes
        Time limit.
    """
    profile = config.profile
    words = on_cluster(["srun", "--immediate=10", "--ntasks=1", f"--time={minutes}",
                        "--job-name=l3-doctor"], profile.slurm_clusters)
    for option in ("account", "partition", "qos", "reservation", "wckey"):
        if value := getattr(profile, option):
            words.append(f"--{option}={value}")
    if profile.memory_request == "mem":
        words.append(f"--mem={mem_mb}M")
    return words


def nearest_folder(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists.

    Parameters
    ----------
    folder
        The folder.
    """
    for candidate in (folder, *folder.parents):
        if candidate.is_dir():
            return candidate
    return Path("/")


def filesystem(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds a folder (``nfs4``, ``lustre``, ``ext4``).

    Parameters
    ----------
    folder
        The folder.
    mounts
        The content of /proc/mounts; None: that of this machine.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "an unknown file system"
    best = ("", "an unknown file system")
    real = os.path.realpath(folder)
    for entry in mounts.splitlines():
        words = entry.split()
        if len(words) < 3:
            continue
        # /proc/mounts writes blanks in octal
        point = words[1].replace("\\040", " ")
        # the longest mount point that contains the folder counts
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, words[2])
    return best[1]


def weights_line(config: Config) -> Finding:
    """Check the weights of the teacher.

    Parameters
    ----------
    config
        The configuration.
    """
    name = config.paths.weights
    if name is None:
        return Finding("weights", "off", "not set (paths.weights, L3_MODEL_PATH)",
                       "needed for submit upstream: a weight file of the teacher")
    if name.startswith("untrained"):
        return Finding("weights", "yellow", f"{name}: the teacher has random weights, for a "
                       "demonstration only",
                       "set paths.weights in cluster.yaml (or L3_MODEL_PATH) to a weight file")
    from l3hpc.teachers.find import describe, short_name

    try:
        known = describe(name)
    except L3hpcError as error:
        return from_error("weights", error, "set another file in paths.weights")
    except OSError as error:
        return Finding("weights", "red", f"{name} cannot be read: {error.strerror or error}",
                       "set paths.weights in cluster.yaml (or L3_MODEL_PATH) to a readable file")
    takes = f"windows of {known.window_s:g} s"
    if known.spec is not None:
        takes = f"{known.spec.n_mels} mels" if known.spec.n_mels else "linear spectrum"
    # Precomputed embeddings are of audio at any rate: theirs is that at which loudness is measured.
    rate = "" if known.kind == "ready" else f"{known.rate} Hz, "
    return Finding("weights", "green",
                   f"{short_name(name)}: {known.kind}, {rate}{takes}, {known.dim} dimensions")


def data_lines(config: Config) -> Iterator[Finding]:
    """Check the data sets that are configured.

    Parameters
    ----------
    config
        The configuration.
    """
    yield audio_line(config.paths.audio)
    yield embeddings_line(config.paths.embeddings)
    yield sonyc_line(config.paths.sonyc_ust)


def audio_line(folder: Path | None) -> Finding:
    """Check the recordings.

    Parameters
    ----------
    folder
        Their folder; None: not configured.
    """
    if folder is None:
        return Finding("audio", "off", "not set (paths.audio, AUDIO_DIR)",
                       "needed for submit upstream; to try it out: "
                       + command_line("data", "synth", "city"))
    from l3hpc.datasets.corpus import scan_recordings

    try:
        recordings = scan_recordings(folder)
    except L3hpcError as error:
        return from_error("audio", error)
    sensors = {recording.sensor for recording in recordings}
    lost = sum(recording.size < 0 for recording in recordings)
    size = sum(max(recording.size, 0) for recording in recordings)
    words = (f"{count_of(len(recordings), 'recording')} of "
             f"{count_of(len(sensors), 'sensor')}, {file_size(size)}")
    if lost:
        return Finding("audio", "yellow",
                       f"{words}; {lost:,} of them are listed but missing",
                       command_line('data', 'check', folder))
    return Finding("audio", "green", words)


def embeddings_line(folder: Path | None) -> Finding:
    """Check existing teacher embeddings.

    Parameters
    ----------
    folder
        Their folder; None: not configured.
    """
    if folder is None:
        return Finding("embeddings", "off", "not set (paths.embeddings, EMBEDDING_DIR)",
                       "needed only to start from existing teacher embeddings")
    from l3hpc.datasets.embeddings import open_source

    try:
        source = open_source(folder)
        source.refuse_empty()
        rows = sum(part.rows for part in source.parts)
        dims = sorted({part.dim for part in source.parts})
    except L3hpcError as error:
        return from_error("embeddings", error)
    return Finding("embeddings", "green", f"{count_of(rows, 'row')} in "
                   f"{count_of(len(source.parts), 'file')}, "
                   f"{' and '.join(map(str, dims))} dimensions")


def sonyc_line(folder: Path | None) -> Finding:
    """Check the annotated clips that the classifier needs.

    Parameters
    ----------
    folder
        Their folder; None: not configured.
    """
    if folder is None:
        return Finding("SONYC-UST", "off", "not set (paths.sonyc_ust, SONYC_UST_PATH)",
                       "needed for submit downstream; to try it out: "
                       + command_line("data", "synth", "city"))
    from l3hpc.datasets.sonyc_ust import find_problems, locate_sonyc_ust
    from l3hpc.io.tables import read_records

    try:
        problems = [str(problem) for problem in find_problems(folder)]
        paths = locate_sonyc_ust(folder)
    except L3hpcError as error:
        return from_error("SONYC-UST", error, command_line('data', 'check', folder))
    if problems:
        return Finding("SONYC-UST", "red",
                       f"{count_of(len(problems), 'problem')}, the first: {problems[0]}",
                       command_line('data', 'check', folder))
    clips = {(row["split"], row["audio_filename"])
             for _, row in read_records(paths.annotations, "annotations")}
    counts = [f"{sum(part == split for part, _ in clips):,} {split}"
              for split in ("train", "validate", "test")]
    return Finding("SONYC-UST", "green", f"{count_of(len(clips), 'clip')} ({', '.join(counts)})")


def results_line(config: Config, probe: bool = True) -> Finding:
    """Check that the configured sheet is accessible with the configured key, and has our columns.

    Parameters
    ----------
    config
        The configuration.
    probe
        Whether to contact it; otherwise only the key file is checked.
    """
    if config.ledger.sheet_id is None:
        return Finding(SHEET, "off", "not set (ledger.sheet_id, GSHEET_ID): results stay in the "
                       "workspace, as CSV and XLSX", f"see them: {command_line('ledger', 'show')}")
    from l3hpc.ledger.schema import MAIN_TABS, TABS
    from l3hpc.ledger.sheets.client import Pace, Sheets, credentials
    from l3hpc.ledger.sheets.grid import require_headers
    from l3hpc.ledger.sheets.reading import read_snapshot

    try:
        if not probe:
            if config.ledger.key_file is not None:
                credentials(config.ledger.key_file)
            return Finding(SHEET, "green", f"{config.ledger.sheet_id}, not tested")
        sheets = Sheets(config.ledger.sheet_id, config.ledger.key_file,
                        pace=Pace(lambda text: None, sleep=_LimitedSleep()))
        snapshot = read_snapshot(sheets)
        require_headers(snapshot, [TABS[name] for name in MAIN_TABS])
    except OfflineError as error:
        return Finding(SHEET, "yellow", f"{error.message}; results are kept in the workspace",
                       f"{command_line('ledger', 'sync')}   on a machine with internet access")
    except HeaderDriftError as error:
        return from_error(SHEET, error, command_line("ledger", "check"))
    except L3hpcError as error:
        return from_error(SHEET, error, command_line("ledger", "check"))
    return Finding(SHEET, "green", f"{snapshot.title!r} is accessible as {sheets.account}, with "
                   f"all columns of {', '.join(MAIN_TABS)}")


def notify_line(config: Config) -> Finding:
    """Whether the addresses for messages about runs can be used; nothing is sent."""
    wanted, check = config.profile.notify, "notifications"
    if wanted is None:
        return Finding(check, "off", "not set (notify: of the profile)",
                       f"to get messages about runs: {command_line('notify', '--help')}")
    try:
        found = notify.destinations(url.get_secret_value() for url in wanted.urls)
    except InputError as error:
        return from_error(check, error)
    words = f"{', '.join(one.label for one in found)}; on {', '.join(wanted.on)}"
    literal = any("://" in url.get_secret_value() for url in wanted.urls)
    if literal and config.file.stat().st_mode & 0o077:
        return Finding(check, "yellow", f"{words}; others can read the addresses in {config.file}",
                       command_line("notify", "--help") + " shows how to keep them elsewhere; or: "
                       f"chmod 600 {shell_path(config.file)}")
    return Finding(check, "green", words)


class _LimitedSleep:
    """A ``sleep`` for retries that gives up after some seconds in total."""

    def __init__(self) -> None:
        self.left = SHEET_TIMEOUT_S

    def __call__(self, seconds: float) -> None:
        if seconds > self.left:
            raise OfflineError(f"no answer from Google within {SHEET_TIMEOUT_S:.0f} s")
        self.left -= seconds
        import time

        time.sleep(seconds)
