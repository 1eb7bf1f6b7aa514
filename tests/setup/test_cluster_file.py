"""The file that ``l3hpc init`` writes is read back as it was meant, whatever a site's names are."""

import os
import re
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from l3hpc.config import settings
from l3hpc.errors import InputError, L3hpcError
from l3hpc.schedulers.slurm.partitions import Partition
from l3hpc.schedulers.slurm.site import Quality, Site
from l3hpc.setup import cluster_file
from l3hpc.setup.choices import Choice
from l3hpc.setup.survey import Survey

PARTS = {"cpu": Partition("cpu", True, 1440, 64000, 4, "", 3, {}, True),
         "gpu": Partition("gpu", True, 2880, 64000, 8, "gpu:a100:2,gpu:v100:1", 2,
                          {"a100": 2, "v100": 1})}
SITE = Site("greene", "slurm 23.11.4", PARTS, ("0042", "lab"),
            (Quality("normal"), Quality("long", 10_080, 20)), "normal", 1001, None, ("other",))
CHOICE = Choice("greene", "0042", "cpu", "gres", "", "mem-per-cpu",
                {"time": "2d", "mem": "64000MB", "array": 1001}, {"train": {"partition": "gpu"}},
                {"train": "requests a GPU; partition cpu has none"}, ["a note\nof two lines"])


def read(tmp_path, text, cluster=None):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return settings.load(path, cluster, environ={})


@pytest.fixture(autouse=True)
def _no_workspace(monkeypatch):
    for name in ("OUTPUT_DIR", *cluster_file.CLUSTER_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def test_a_slurm_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    text = cluster_file.text(Survey(SITE, 8, 16000, ("apptainer",), ("python/3.11", "cuda/12"),
                                    ("cuda/12",), "SCRATCH"), CHOICE)
    found = read(tmp_path, text)
    assert found.workspace == tmp_path / "l3hpc"
    profile = found.profile
    assert (profile.name, profile.account, profile.partition) == ("greene", "0042", "cpu")
    assert (profile.gpu_request, profile.memory_request) == ("gres", "mem-per-cpu")
    assert profile.setup == ("module load python/3.11 cuda/12",)
    assert (profile.limits.time, profile.limits.mem, profile.limits.array) == (2880, 64000, 1001)
    assert profile.at("train").partition == "gpu" and list(profile.steps) == ["train"]
    for said in ("# Look at this: a note of two lines", "also yours: lab",
                 "cpu (default): 3 nodes, up to 1 d, 4 cores", "long (up to 7 d, 20 jobs)",
                 "gpu_type: a100", "# container: apptainer exec --nv", "the site also has: other",
                 "requests a GPU; partition cpu has none"):
        assert said in text
    assert all(len(line) <= 105 for line in text.splitlines()), text


def test_every_key_that_is_commented_out_is_one(tmp_path):
    """A person removes the # and the file is right."""
    text = cluster_file.text(Survey(SITE, 8, 16000, ("singularity",)), CHOICE)
    lines = text.splitlines()
    keys = [found[1] for line in lines if (found := re.match("    # ([a-z_]+): ", line))]
    assert {"qos", "clusters", "gpu_type", "setup", "container", "python", "mail_user",
            "array_parallelism"} <= set(keys)
    uncommented = "\n".join(line.replace("    # ", "    ", 1)
                            if line.strip().removeprefix("# ").partition(":")[0] in keys else line
                            for line in lines)
    profile = read(tmp_path, uncommented).profile
    assert (profile.qos, profile.gpu_type, profile.array_parallelism) == ("normal", "a100", 50)


def test_a_profile_of_this_machine(tmp_path):
    text = cluster_file.text(Survey(None, 8, 16000), None)
    found = read(tmp_path, text)
    assert found.profile.name == "local" and found.workspace == tmp_path / "workspace"
    assert "this machine: 8 cores, 15.6 GB" in text
    slots = read(tmp_path, text.replace("    # slots", "    slots")).profile.slots
    assert (slots.cpus, slots.mem) == (8, 16000)


def test_a_variable_for_the_workspace_is_not_overruled(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", "elsewhere")
    text = cluster_file.text(Survey(SITE, 8, 16000, scratch="SCRATCH"), CHOICE)
    assert "# workspace: workspace" in text and "$SCRATCH" not in text


def test_the_file_is_about_the_cluster_that_was_asked(tmp_path, monkeypatch):
    found = Survey(SITE, 8, 16000)
    assert read(tmp_path, cluster_file.text(found, CHOICE)).profile.clusters == ()
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    assert read(tmp_path, cluster_file.text(found, CHOICE)).profile.slurm_clusters == "greene"


def test_what_exists_is_kept(tmp_path):
    path = tmp_path / "cluster.yaml"
    cluster_file.write(path, "cluster: local\n", force=False)
    with pytest.raises(InputError, match="exists already") as caught:
        cluster_file.write(path, "x", force=False)
    assert "--force" in caught.value.hint and path.read_text() == "cluster: local\n"
    cluster_file.write(path, "cluster: local\n\n", force=True)
    assert path.read_text() == "cluster: local\n\n"
    with pytest.raises(InputError, match="does not exist"):
        cluster_file.write(tmp_path / "no/cluster.yaml", "x", force=False)


@pytest.mark.parametrize("force", [False, True])
def test_only_a_regular_file_is_replaced(tmp_path, force, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    os.mkfifo("pipe")
    Path("to_pipe").symlink_to("pipe")
    Path("dangling").symlink_to("gone")
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    for name, said in (("pipe", "is a named pipe"), ("to_pipe", "is a named pipe"),
                       ("socket", "is a socket"), ("folder", "is a folder"),
                       ("dangling", "a link that leads nowhere"), ("loop", "that leads nowhere")):
        before = os.lstat(name)
        with pytest.raises(InputError, match=f"^{name}: .*{said}"):
            cluster_file.write(Path(name), "x", force)
        assert os.lstat(name).st_ino == before.st_ino
        assert stat.S_IFMT(os.lstat(name).st_mode) == stat.S_IFMT(before.st_mode)
    assert not Path("gone").exists()


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "real.yaml").write_text("old")
    link = tmp_path / "cluster.yaml"
    link.symlink_to("real.yaml")
    with pytest.raises(InputError, match="exists already"):
        cluster_file.write(link, "new", force=False)
    cluster_file.write(link, "new", force=True)
    assert link.is_symlink() and (tmp_path / "real.yaml").read_text() == "new"


@pytest.mark.parametrize("name", ["", "-", "a\nb.yaml", "\x1b[31m", "\udcff"])
def test_what_is_no_name_of_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        cluster_file.write(Path(name), "x", force=True)
    assert caught.value.where.startswith("-o")
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    assert not list(tmp_path.iterdir())


def test_an_error_of_writing_names_the_file(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", f"{path}.tmp")
    monkeypatch.setattr(cluster_file, "write_text", full)
    path = tmp_path / "cluster.yaml"
    with pytest.raises(L3hpcError, match="cannot be written: No space left on device") as caught:
        cluster_file.write(path, "x", force=False)
    assert caught.value.where == str(path)


def test_why_no_gpu_is_asked_for():
    def said(parts):
        text = cluster_file.text(Survey(replace(SITE, partitions=parts), 8, 16000),
                                 replace(CHOICE, gpu_request="none"))
        return re.search("gpu_request: none +# (.*)", text)[1]

    assert said(PARTS) == "sbatch refuses jobs with a GPU: steps use cores"
    assert said({**PARTS, "gpu": replace(PARTS["gpu"], up=False)}) == \
        "all partitions with GPUs are down: steps use cores"
    assert said({"cpu": PARTS["cpu"]}) == "no partition of yours has GPUs: steps use cores"


def test_a_module_is_no_shell_code(tmp_path):
    odd = ("py'thon/3", "$(touch x)", "-x", "a\nb", "a;b")
    text = cluster_file.text(Survey(SITE, 8, 16000, (), ("gcc/13.2+cuda", *odd)), CHOICE)
    assert read(tmp_path, text).profile.setup == ("module load gcc/13.2+cuda",)
    assert all(repr(name) in re.sub("\n *# +", " ", text) for name in odd)
    text = cluster_file.text(Survey(SITE, 8, 16000, (), odd), CHOICE)
    assert read(tmp_path, text).profile.setup == ()


def test_a_cluster_and_accounts_that_a_profile_cannot_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    site = replace(SITE, cluster="(null)", accounts=("my lab",))
    text = cluster_file.text(Survey(site, 8, 16000), replace(CHOICE, name="slurm", account=""))
    profile = read(tmp_path, text).profile
    assert profile.clusters == () and profile.account is None
    assert "names no account of yours" not in text


@pytest.mark.parametrize("name", ["null", "yes", "12", "x" * 1024])
def test_a_name_is_read_back(tmp_path, name):
    text = cluster_file.text(Survey(SITE, 8, 16000), replace(CHOICE, name=name))
    assert read(tmp_path, text).profile.name == name
