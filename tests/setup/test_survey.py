"""What is looked for on a machine, with programs that answer as they are told."""

import pytest

from l3hpc.errors import ClusterError
from l3hpc.schedulers.slurm import site
from l3hpc.setup import survey

CONFIG = """cat <<X
Configuration data as of 2026-11-28T07:00:00
ClusterName             = greene
MaxArraySize            = 1001
SLURM_VERSION           = 23.11.4
X"""
DATABASE = r"""case "$*" in
*associations*) printf 'pr_7|normal,long|long||\npr_42|normal|normal|30|3-00:00:00\n' ;;
*qos*) printf 'normal|1-00:00:00|500|\nlong|7-00:00:00||DenyOnLimit\nother|||\n' ;;
*user*) echo pr_42 ;;
*clusters*) printf 'greene\ntorch\n' ;;
esac"""


@pytest.fixture
def greene(slurm):
    slurm.says("sinfo", "printf 'cpu*|up|4-00:00:00|64000|8|(null)|3\\n'")
    slurm.says("scontrol", CONFIG)
    slurm.says("sacctmgr", DATABASE)
    return slurm


def test_what_slurm_says(greene):
    found = site.ask()
    assert (found.cluster, found.version, found.max_array) == ("greene", "slurm 23.11.4", 1001)
    assert found.accounts == ("pr_42", "pr_7")  # the default one first
    assert (found.default_qos, found.max_submit) == ("normal", 30)
    assert found.partitions["cpu"].time_min == 1440  # the QOS allows less than the partition
    assert [one.name for one in found.qualities] == ["normal", "long"]
    assert found.other_clusters == ("torch",) and found.notes == ()
    assert "--all" not in greene.calls("sinfo")[0]


def test_limits_are_those_of_the_account_that_pays(greene):
    found = site.ask("pr_7")
    assert (found.default_qos, found.max_submit) == ("long", None)
    assert found.partitions["cpu"].time_min == 4 * 1440


def test_a_qos_that_lifts_the_partitions_limit(greene):
    greene.says("sacctmgr", DATABASE.replace("500|", "500|PartitionTimeLimit").replace(
        "1-00:00:00|500", "5-00:00:00|500").replace("|3-00:00:00", "|"))
    assert site.ask().partitions["cpu"].time_min == 5 * 1440


def test_without_accounting_there_is_a_note(greene):
    greene.says("sacctmgr", "echo 'accounting storage is not enabled' >&2; exit 1")
    found = site.ask()
    assert found.accounts == () and found.partitions["cpu"].time_min == 4 * 1440
    assert "accounts and QOS are unknown (sacctmgr: accounting" in found.notes[0]


def test_slurm_that_does_not_answer(greene):
    greene.says("sinfo", "echo 'sinfo: error: unable to contact' >&2; exit 1")
    with pytest.raises(ClusterError, match="does not answer: sinfo: unable to contact") as caught:
        survey.look()
    assert "l3hpc init --local" in caught.value.hint
    assert survey.look(local=True).site is None


@pytest.mark.parametrize(("answer", "said"), [
    ("", "Slurm answers, but sinfo lists no partition that you may use"),
    ("cpu*|up|1-00:00:00|?|8|(null)|3", "no partition whose limits can be read; it says 'cpu")])
def test_slurm_without_a_partition(greene, answer, said):
    greene.says("sinfo", f"echo '{answer}'")
    with pytest.raises(ClusterError) as caught:
        survey.look()
    assert said in caught.value.message and "does not answer" not in str(caught.value)
    assert "l3hpc init --local" in caught.value.hint


def test_no_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = survey.look()
    assert found.site is None and found.cpus >= 1 and found.mem_mb > 1


def test_modules_containers_and_scratch(greene, monkeypatch, tmp_path):
    (tmp_path / ".bash_profile").write_text(
        "module() { printf '/apps/modules:\\nanaconda3/2024.02\\ngcc/13\\npython/3.11 (D)\\n"
        "cuda/12.4\\n' >&2; }\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOADEDMODULES", "python/3.11:cuda/12.4")
    monkeypatch.setenv("SCRATCH", str(tmp_path / "gone"))
    monkeypatch.setenv("WORK", str(tmp_path))
    greene.says("apptainer", "")
    found = survey.look()
    assert found.modules == ("cuda/12.4", "python/3.11", "anaconda3/2024.02")
    assert found.loaded_modules == ("python/3.11", "cuda/12.4")
    assert (found.containers, found.scratch) == (("apptainer",), "WORK")
