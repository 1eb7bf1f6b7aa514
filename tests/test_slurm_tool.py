"""tools/test-slurm, as far as it goes without root, network and minutes of time, and the ports of
clusters."""

import socket
import subprocess
from pathlib import Path

import pytest
import realslurm

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools/test-slurm"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run it where only some programs exist: what they print is given."""
    def run(*words, **programs):
        for name in ("bash", "dirname", "cat", "sh", "mkdir"):
            (tmp_path / name).symlink_to(f"/bin/{name}")
        for name, prints in programs.items():
            path = tmp_path / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\necho '{prints}'\n")
            path.chmod(0o755)
        return subprocess.run([TOOL, *words], capture_output=True, text=True, env={
            "PATH": str(tmp_path), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"})
    return run


READY = {"id": "0", "python3": "",
         **dict.fromkeys(("debootstrap", "unshare", "setpriv", "flock", "apt_get"), "")}


@pytest.mark.parametrize(("words", "programs", "said"), [
    (["potato"], {}, ["no such release or option: potato", "after --"]),
    (["trixie", "-k", "x"], {}, ["no such release or option: -k", "after --"]),
    ([], {}, ["usage: tools/test-slurm"]),
    (["--run"], {}, ["--run needs a command"]),
    (["sid", "--", "-k", "x"], {"id": "1000"}, ["only root can", "sudo tools/test-slurm sid"]),
    (["sid"], {"id": "0"}, ["debootstrap is not installed", "apt-get install debootstrap"]),
    (["sid"], {**READY, "findmnt": "rw,nosuid,nodev"}, ["nodev, noexec or read-only",
                                                        "XDG_CACHE_HOME"]),
    (["--vm", "sid"], READY, ["linux.uml is not installed", "apt-get install user-mode-linux"]),
])
def test_what_is_missing_is_said_before_anything_is_made(run, tmp_path, words, programs, said):
    done = run(*words, **programs)
    assert done.returncode == 2 and all(text in done.stderr for text in said), done.stderr
    assert not list(tmp_path.glob(".cache/l3hpc/slurm/*"))


def test_a_machine_that_would_kill_trainings_in_a_virtual_machine_is_named(run):
    done = run("--vm", "sid", **READY, findmnt="nodev", sysctl="65530", **{"linux.uml": ""})
    assert "vm.max_map_count is 65530" in done.stderr and "max_map_count=1048576" in done.stderr
    assert "nodev" in done.stderr


def test_both_releases_and_options_of_pytest_are_explained(run):
    done = run("--help")
    assert done.returncode == 0 and "trixie" in done.stdout and "-- -n 4 tests/" in done.stdout


def test_clusters_that_start_at_once_get_ports_of_their_own(monkeypatch):
    """Also where both look before any daemon listens, and at the same ports in the same order."""
    class InOrder:
        def sample(self, ports, count):
            return list(ports)[:count]

    monkeypatch.setattr(realslurm.random, "SystemRandom", InOrder)
    first, claims = realslurm.free_ports(3)
    with socket.socket() as daemon:
        daemon.bind(("127.0.0.1", first[0]))
        second, others = realslurm.free_ports(3)
        for claim in claims:
            claim.close()
        third, more = realslurm.free_ports(3)
    for claim in (*others, *more):
        claim.close()
    assert len({*first, *second}) == 6
    assert first[0] not in third and not {*second} & {*third}  # in use, and still claimed
    assert first[1] in third


def test_a_cluster_that_has_ended_claims_no_ports(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # there is nothing to cancel
    cluster = realslurm.RealSlurm(False, place=tmp_path)
    assert all(claim.getsockname() for claim in cluster._claims)
    cluster.stop()
    assert [claim.fileno() for claim in cluster._claims] == [-1] * 7
