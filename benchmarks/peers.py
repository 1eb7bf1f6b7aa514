"""The peers' own environments: made once, with pinned versions, so that they meet at their best.

    python -m benchmarks.peers openl3      make one, and print its interpreter

They lie in ``~/.cache/l3hpc/peers`` (``L3HPC_PEERS`` moves them). A peer that cannot be installed
is an error of the benchmark, never a row left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "torch": ("torch==2.13.0", "numpy"),
    "dppy": ("dppy==0.3.3", "numpy<2", "scipy<1.14", "setuptools<81"),
    "published": ("resampy==0.4.3", "librosa==0.10.2", "numpy<2", "h5py", "soundfile",
                  "setuptools<81"),
    "openl3": ("openl3==0.4.2",),
}


def folder() -> Path:
    """Where the environments lie."""
    base = os.environ.get("L3HPC_PEERS")
    return Path(base) if base else Path.home() / ".cache" / "l3hpc" / "peers"


def python(peer: str) -> str:
    """The interpreter of ``peer``'s environment, which is made where there is none."""
    wanted = REQUIREMENTS[peer]
    mark = hashlib.sha256(repr((sys.version_info[:2], wanted)).encode()).hexdigest()[:8]
    place = folder() / f"{peer}-{mark}"
    interpreter = place / "bin" / "python"
    if (place / "ready").is_file():
        return str(interpreter)
    shutil.rmtree(place, ignore_errors=True)
    print(f"installing {peer} into {place}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    if peer == "openl3":
        _install_openl3(interpreter, wanted)
    else:
        _pip(interpreter, *wanted)
    (place / "ready").touch()
    return str(interpreter)


def _pip(interpreter: Path, *requirements: str) -> None:
    subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *requirements], check=True)


def _install_openl3(interpreter: Path, wanted: tuple[str, ...]) -> None:
    """To be written with the benchmark of the teacher."""
    with tempfile.TemporaryDirectory():
        _pip(interpreter, *wanted)


if __name__ == "__main__":
    print(python(sys.argv[1]))
