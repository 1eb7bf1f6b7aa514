"""Fills README's transcript and picture from a run: ``python tools/record_demo.py``, some minutes.

Runs the demonstration in a folder of its own and keeps what it prints in ``docs/transcripts/``:
``demo`` (the last line of each step and the closing words, with ``…`` for what is left out),
``status`` and ``refusal``. Paths are shortened to the folder ``demo``; nothing else is changed.
``tools/refresh_docs.py`` puts them into README. What a headless Chromium shows of the report
becomes ``docs/images/report.png``: look at it before you commit it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRANSCRIPTS = ROOT / "docs" / "transcripts"
PICTURE = ROOT / "docs" / "images" / "report.png"
WINDOW = (1000, 1098)  # pixels: results, chain and timeline
LARGEST = 150_000  # bytes; README is read over slow lines too


def main() -> int:
    """Run, and write transcripts and picture; exit code 1 where the demonstration fails."""
    with tempfile.TemporaryDirectory() as folder:
        ran = _l3hpc(folder, "demo", "--yes")
        if ran.returncode:
            sys.stderr.write(ran.stderr)
            return 1
        steps = [line for line in ran.stderr.splitlines() if re.match(r"\w+: done in ", line)]
        closing = ran.stdout[ran.stdout.rindex("\n\n", 0, ran.stdout.index("\nreport ") - 1):]
        status = _l3hpc(folder, "-C", "demo", "status").stdout
        refusal = _l3hpc(folder, "-C", "demo", "submit", "upstream", "--asr", "8000", "--mels",
                         "512").stderr
        texts = {"demo": "…\n" + "\n…\n".join(["\n".join(steps), closing.strip("\n")]),
                 "status": f"$ l3hpc -C demo status\n{status}",
                 "refusal": "$ l3hpc -C demo submit upstream --asr 8000 --mels 512\n" + refusal}
        for name, text in texts.items():
            text = text.replace(f"{folder}/", "").replace(folder, "")
            (TRANSCRIPTS / f"{name}.txt").write_text(text.rstrip() + "\n", encoding="utf-8")
        take_picture(Path(folder) / "demo" / "results" / "report.html", PICTURE)
    return subprocess.run([sys.executable, str(ROOT / "tools" / "refresh_docs.py")]).returncode


def take_picture(page: Path, picture: Path) -> None:
    """Write what a window of Chromium shows of a page; SystemExit if it cannot or is too large."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit(f"Chromium is not installed: {picture} was not made")
    picture.parent.mkdir(exist_ok=True)
    width, height = WINDOW
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={profile}", f"--window-size={width},{height}",
             f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
    size = picture.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{picture} has {size:,} bytes, more than {LARGEST:,}: see WINDOW")


def _l3hpc(folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    # as where the environment is active: no line says how to activate it
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run([sys.executable, "-m", "l3hpc", *words], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, "PATH": path})


if __name__ == "__main__":
    sys.exit(main())
