"""The two recipes of container images, compared with each other and with setup.cfg. L3HPC_BASE (an
image or folder with Debian 13 that Apptainer can read) has l3hpc.def built and run."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from l3hpc._version import __version__

ROOT = Path(__file__).resolve().parent.parent
DEF, DOCKER = ((ROOT / name).read_text(encoding="utf-8") for name in ("l3hpc.def", "Dockerfile"))
METADATA = configparser.ConfigParser()
METADATA.read(ROOT / "setup.cfg")


def section(name):
    """The lines of a section of l3hpc.def."""
    return re.search(rf"^%{name}\n((?:    .*\n|\n)+)", DEF, re.MULTILINE)[1].split("\n")


def test_both_recipes_take_what_the_wheel_is_built_from():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")]
    copied = dict(line.split() for line in section("files") if line)
    assert list(copied) == allowed
    assert copied == {name: f"/usr/src/l3hpc/{name}" for name in allowed}
    assert all((ROOT / name).exists() for name in allowed)
    # what MANIFEST.in and setup.py name goes into the wheel, or into its description
    named = re.findall(r"[\w.-]+", re.sub(r"(?m)^(recursive-)?include|\*\S*", "",
                                          (ROOT / "MANIFEST.in").read_text()))
    wanted = {name for name in named if (ROOT / name).exists()} | {"pyproject.toml", "setup.cfg"}
    assert wanted - {"web", "export", "assets"} <= set(allowed)


def test_both_start_from_the_same_pinned_base_and_install_the_same():
    defaults = [dict(re.findall(r"^(?:ARG|   ) (BASE|EXTRAS)=(\S+)$", text, re.MULTILINE))
                for text in (DEF, DOCKER)]
    assert defaults[0] == defaults[1] and sorted(defaults[0]) == ["BASE", "EXTRAS"]
    name, _, tag = defaults[0]["BASE"].partition(":")
    assert name and tag not in ("", "latest")
    packages = [re.search(r"--no-install-recommends (.+)", text)[1].rstrip("\\ ")
                for text in (DEF, DOCKER)]
    assert packages[0] == packages[1]
    used = set(re.findall(r"[a-z]+", " ".join(re.findall(r"EXTRAS=(\S+)", DEF + DOCKER))))
    assert used <= set(METADATA["options.extras_require"])


def test_the_entry_point_is_that_of_the_wheel_and_its_user_is_not_root():
    [script] = METADATA["options.entry_points"]["console_scripts"].split("=")[:1]
    assert f'ENTRYPOINT ["{script.strip()}"]' in DOCKER
    assert f"exec /opt/l3hpc/bin/{script.strip()} \"$@\"" in "\n".join(section("runscript"))
    assert re.findall(r"^USER (.+)$", DOCKER, re.MULTILINE) == ["l3hpc"]
    assert DOCKER.index("USER l3hpc") < DOCKER.index("ENTRYPOINT")
    # `python3` of a profile is the one that has l3hpc
    assert "ENV PATH=/opt/l3hpc/bin:$PATH" in DOCKER
    assert '    export PATH="/opt/l3hpc/bin:$PATH"' in section("environment")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("apptainer") or "L3HPC_BASE" not in os.environ,
                    reason="needs apptainer, and L3HPC_BASE: an image or folder with Debian 13")
def test_the_image_is_built_and_runs_the_demo(tmp_path):
    image = tmp_path / "image"
    # a folder: compressing it would take as long as all else
    run("build", "--sandbox", "--build-arg", "BOOTSTRAP=localimage", "--build-arg",
        f"BASE={os.environ['L3HPC_BASE']}", image, "l3hpc.def", cwd=ROOT)
    assert run("run", "--userns", image, "--version").strip() == f"l3hpc, version {__version__}"
    (tmp_path / "here").mkdir()
    run("run", "--userns", "--bind", tmp_path, "--pwd", tmp_path / "here", image, "demo", "--yes")
    assert (tmp_path / "here/demo/results/report.html").is_file()


def run(*words, cwd=None):
    done = subprocess.run(["apptainer", *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
