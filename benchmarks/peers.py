"""Environments of the peers, made once with pinned versions, so that each peer runs at its best.

    python -m benchmarks.peers openl3      make one, and print its interpreter

They are in ``~/.cache/l3hpc/peers``, or in the folder ``L3HPC_PEERS``. If a peer cannot be
installed, the benchmark fails; no row is left out.
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
    "dppy": ("dppy==0.3.3", "numpy<2", "scipy<1.14", "setuptools<81", "h5py"),
    "published": ("resampy==0.4.3", "librosa==0.10.2", "numpy<2", "h5py", "soundfile",
                  "setuptools<81"),
    "openl3": ("tensorflow==2.20.0", "kapre==0.3.7", "librosa==0.11.0", "resampy==0.2.2",
               "moviepy==1.0.3", "scikit-image", "soundfile", "h5py", "setuptools<81", "wheel",
               "openl3==0.4.2"),
}
NO_DOWNLOADS = """
import gzip
import urllib.request


def nothing(url, filename):
    gzip.open(filename, "wb").close()


urllib.request.urlretrieve = nothing
"""


def folder() -> Path:
    """Return the folder of the environments."""
    base = os.environ.get("L3HPC_PEERS")
    return Path(base) if base else Path.home() / ".cache" / "l3hpc" / "peers"


def python(peer: str) -> str:
    """Return the interpreter of a peer's environment, which is created if it does not exist."""
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
    """Install openl3; its setup.py would download weights, so it gets empty files instead."""
    if sys.version_info >= (3, 12):
        raise RuntimeError("openl3 0.4.2 installs on Python 3.10 and 3.11 only")
    *others, openl3 = wanted
    _pip(interpreter, *others)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "sitecustomize.py").write_text(NO_DOWNLOADS)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps",
                        "--no-build-isolation", openl3], check=True,
                       env={**os.environ, "PYTHONPATH": place})


if __name__ == "__main__":
    print(python(sys.argv[1]))
