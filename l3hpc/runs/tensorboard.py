"""TensorBoard on the event files of runs: which folders hold them, and one tree of links to them.

A step that writes event files puts them into a folder called ``tensorboard``: in its output, and
while it is running below its scratch folder.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.run_record import RunRecord

FOLDER = "tensorboard"


def event_folders(runs: Iterable[RunRecord]) -> dict[str, Path]:
    """Find the folders with event files of runs.

    Parameters
    ----------
    runs
        Their records.

    Returns
    -------
    dict of str to Path
        ``RUN/STEP``, or ``RUN/STEP/TASK`` of a step with several tasks → its folder.
    """
    found: dict[str, Path] = {}
    for run in runs:
        for step in run.steps:
            artifact = ArtifactFolder(step.artifact)
            for index in range(step.tasks):
                scratch = artifact.scratch(index)
                candidates = [artifact.task(index) / FOLDER, scratch / FOLDER,
                              *sorted(scratch.glob(f"*/{FOLDER}"))]
                folder = next((path for path in candidates if path.is_dir()), None)
                if folder is not None:
                    name = f"{run.run}/{step.name}"
                    found[name if step.tasks == 1 else f"{name}/{index:04d}"] = folder.absolute()
    return found


def program() -> list[str]:
    """Return the command that starts TensorBoard: of this environment, or else of the shell.

    Raises
    ------
    InputError
        TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is not None:
        return [sys.executable, "-m", "tensorboard.main"]
    found = shutil.which("tensorboard")
    if found is None:
        raise InputError("TensorBoard is not installed", hint=install_command("tensorboard"))
    return [found]


def serve(folders: Mapping[str, Path], port: int) -> int:
    """Start TensorBoard and wait for its end.

    Parameters
    ----------
    folders
        As returned by ``event_folders``.
    port
        Port on this machine.

    Returns
    -------
    int
        Its exit code; 0 if it was ended by Ctrl-C.

    Raises
    ------
    InputError
        TensorBoard is not installed.
    """
    command = program()
    # links, because TensorBoard names its runs after folders, and ours are called 0000
    with tempfile.TemporaryDirectory(prefix="l3hpc-tensorboard-") as tree:
        for name, folder in folders.items():
            link = Path(tree, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
        try:
            # in the working folder, its modules would take the place of those of Python
            return subprocess.call([*command, "--logdir", tree, "--port", str(port)], cwd=tree)
        except KeyboardInterrupt:
            return 0
