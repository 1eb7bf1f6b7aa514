"""A profile from what a site has. No Slurm: sbatch is a function that refuses what it is told to.
"""

import pytest

from l3hpc.config.resources import Resources
from l3hpc.errors import ClusterError, InputError
from l3hpc.schedulers.slurm.partitions import Partition
from l3hpc.schedulers.slurm.site import Site
from l3hpc.setup import choices


def partition(name, **values):
    return Partition(name, **{"up": True, "time_min": 7 * 1440, "mem_mb": 192_000, "cpus": 48,
                              "nodes": 10, **values})


def site(*parts, **values):
    return Site("greene", "slurm 23.11.4", {one.name: one for one in parts},
                **{"accounts": ("pr_42", "pr_7"), "max_array": 1001, **values})


def takes_all(options):
    return ""


def refuses(*words):
    """An sbatch that refuses every job with one of these options."""
    return lambda options: next((f"sbatch: {word} is refused" for word in words if any(
        word in option for option in options)), "")


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """What the pipelines ask for."""
    found = {"extract": Resources(4, 8192, 1, 240), "fit": Resources(4, 16384, 0, 120),
             "train": Resources(4, 16384, 1, 1440)}
    monkeypatch.setattr(choices, "demands", lambda: found)
    return found


CPU = partition("cpu", default=True)
GPU = partition("gpu", gpus={"a100": 4, "v100": 2}, gres="gpu:a100:4,gpu:v100:2")


def test_steps_with_gpus_go_where_gpus_are():
    found = choices.choose(site(CPU, GPU), takes_all)
    assert (found.name, found.account, found.partition) == ("greene", "pr_42", "cpu")
    assert (found.gpu_request, found.gpu_type, found.memory_request) == ("gres", "", "mem")
    assert found.steps == {"extract": {"partition": "gpu"}, "train": {"partition": "gpu"}}
    assert found.reasons["train"] == "requests a GPU; partition cpu has none"
    assert found.limits == {"time": "7d", "mem": "192000MB", "array": 1001}
    assert found.notes == []


def test_what_no_partition_has_is_cut_to_what_there_is():
    small = partition("cpu", default=True, time_min=90, mem_mb=6000, cpus=2)
    found = choices.choose(site(small), takes_all)
    assert found.gpu_request == "none"
    assert found.steps["train"] == {"time": "90m", "mem": "6000MB", "cpus": 2}
    assert "requests 1 d; partition cpu allows 1 h 30 min" in found.reasons["train"]
    assert found.limits["time"] == "90m"


def test_a_debug_partition_by_default_is_left_where_it_is_too_short():
    debug = partition("debug", default=True, time_min=60)
    found = choices.choose(site(debug, partition("long", time_min=None), GPU), takes_all)
    assert found.partition == "debug"
    assert {kind: own["partition"] for kind, own in found.steps.items()} == {
        "extract": "gpu", "fit": "long", "train": "gpu"}
    assert "time" not in found.limits  # one of them has none


def test_the_main_partition_is_one_that_takes_our_jobs():
    found = choices.choose(site(CPU, partition("open")), refuses("--partition=cpu"))
    assert found.partition == "open"
    found = choices.choose(site(CPU, partition("open", up=False)), refuses("--partition=cpu"))
    assert found.partition == "cpu" and "sbatch refuses even a job of one minute" in found.notes[0]


@pytest.mark.parametrize(("words", "memory"), [
    (("--mem=",), "mem-per-cpu"), (("--mem=", "--mem-per-cpu="), "none")])
def test_memory_is_asked_for_as_the_site_takes_it(words, memory):
    assert choices.choose(site(CPU), refuses(*words)).memory_request == memory


def test_where_memory_is_not_managed_it_is_no_limit():
    """Slurm says 1 MB of nodes whose memory nobody has written into slurm.conf."""
    found = choices.choose(site(partition("cpu", default=True, mem_mb=1)), refuses("--mem"))
    assert (found.memory_request, found.steps) == ("none", {})
    assert "mem" not in found.limits


@pytest.mark.parametrize(("words", "request_", "kind"), [
    (("--gres",), "gpus-per-node", ""), (("gpu:1", "node=1"), "gres", "a100"),
    (("gpu:1", "node=1", "gpu:a100:1"), "gpus-per-node", "a100"),
    (("gpu:1", "node=1", "a100"), "gres", "v100")])
def test_gpus_are_asked_for_as_the_site_takes_them(words, request_, kind):
    found = choices.choose(site(CPU, GPU), refuses(*words))
    assert (found.gpu_request, found.gpu_type) == (request_, kind)


def test_gpus_that_nobody_gives_us_are_not_asked_for():
    found = choices.choose(site(CPU, GPU), refuses("--gres", "--gpus-per-node"))
    assert found.gpu_request == "none" and found.steps == {}
    assert "sbatch refuses a job with one: sbatch: --gres is refused" in found.notes[0]


def test_an_array_leaves_room_in_the_queue():
    assert choices.choose(site(CPU, max_submit=100), takes_all).limits["array"] == 50
    assert "array" not in choices.choose(site(CPU, max_array=None), takes_all).limits


def test_the_persons_own_choice_counts():
    found = choices.choose(site(CPU, GPU), takes_all, name="mine", partition="gpu", account="pr_7")
    assert (found.name, found.partition, found.account) == ("mine", "gpu", "pr_7")
    assert found.steps == {}
    with pytest.raises(InputError, match="no partition 'gpus'") as caught:
        choices.choose(site(CPU, GPU), takes_all, partition="gpus")
    assert "did you mean 'gpu'" in caught.value.allowed
    with pytest.raises(InputError, match="may not use account 'pr_43'"):
        choices.choose(site(CPU), takes_all, account="pr_43")


@pytest.mark.parametrize(("cluster", "name"), [
    ("local", "slurm"), ("(null)", "slurm"), ("a b", "a-b"), ("", "slurm")])
def test_a_name_that_a_profile_may_have(cluster, name):
    found = choices.choose(Site(cluster, "", {"cpu": CPU}), takes_all)
    assert found.name == name and found.profile().executor == "slurm"
    assert repr(cluster) in found.notes[0] and f"it is called {name}" in found.notes[0]


@pytest.mark.parametrize("option", ["name", "partition", "account"])
@pytest.mark.parametrize("value", [
    "", " ", "a: b", "#x", "-x", "'", '"', "a\nb", "\x1b", "x" * 2000])
def test_what_a_person_gives_has_to_fit_into_a_profile(option, value):
    with pytest.raises(InputError) as caught:
        choices.choose(site(CPU, accounts=()), takes_all, **{option: value})
    assert caught.value.where == f"--{option}"


def test_a_profile_of_a_cluster_is_not_called_local():
    """``local`` runs jobs on this machine: on a site that is the login node."""
    with pytest.raises(InputError, match="--name: 'local' is the profile") as caught:
        choices.choose(site(CPU), takes_all, name="local")
    assert caught.value.allowed == "any other name"
    assert choices.choose(site(CPU), takes_all, name="Local").profile().executor == "slurm"


def test_names_of_slurm_that_a_profile_cannot_hold_are_left_out():
    found = choices.choose(site(partition("my part", default=True), CPU,
                                accounts=("my lab", "pr_7")), takes_all)
    assert (found.account, found.partition) == ("pr_7", "cpu")
    assert found.notes == [
        "account 'my lab' is left out: a profile cannot hold the name",
        "partition 'my part' is left out: a profile cannot hold the name"]
    with pytest.raises(ClusterError, match="cannot hold the name of partition 'my part'"):
        choices.choose(site(partition("my part")), takes_all)
    odd = partition("gpu", gpus={"a 100": 4, "v100": 2})
    assert choices.choose(site(CPU, odd), refuses("gpu:1", "node=1")).gpu_type == "v100"


@pytest.mark.parametrize(("values", "said"), [
    ({"cpus": 0}, "no cores"), ({"time_min": 0}, "a time limit under 1 min"),
    ({"mem_mb": 0}, "no memory"),
    ({"cpus": 0, "mem_mb": 0, "nodes": 0}, "no memory and no cores")])
def test_a_partition_in_which_nothing_can_run(values, said):
    found = choices.choose(site(partition("cpu", default=True, **values)), takes_all)
    found.profile()
    assert found.notes == [f"partition cpu has {said}: no job can run there"]
    found = choices.choose(
        site(partition("cpu", default=True, **values), partition("b")), takes_all)
    assert {own["partition"] for own in found.steps.values()} == {"b"}
    found.profile()


def test_a_limit_of_more_than_a_year_is_none():
    found = choices.choose(site(partition("cpu", default=True, time_min=800 * 1440)), takes_all)
    assert "time" not in found.limits and found.profile().limits.time is None


def test_a_packed_step_goes_where_all_its_tasks_have_time(monkeypatch):
    """Eight tasks of 4 h in one job need 32 h."""
    short = partition("cpu", default=True, time_min=1440)
    monkeypatch.setattr(choices, "packed_demands", lambda: {"fit": Resources(4, 8192, 0, 240, 8)})
    found = choices.choose(site(short, partition("long")), takes_all)
    assert found.steps == {"fit": {"partition": "long"}} and found.notes == []
    assert found.reasons["fit"] == "requests 8 × 4 h; partition cpu allows 1 d"
    found = choices.choose(site(short), takes_all)
    assert found.steps == {}
    assert found.notes == ["fit requests 8 × 4 h in a pipeline of yours; partition cpu allows 1 d: "
                           "write pack: 6 there"]


def test_packed_demands_are_those_of_the_longest_job(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    for name, asked in (("one", "time: 4h, pack: 8"), ("two", "time: 1h, pack: 20"),
                        ("three", "time: 90h")):
        (tmp_path / f"jobs/{name}.yaml").write_text(
            f"steps:\n  fit: {{given: [sample], resources: {{{asked}}}}}\n")
    [(kind, found)] = choices.packed_demands().items()
    assert (kind, found.time_min, found.pack) == ("fit", 240, 8)


def test_demands_are_the_most_of_any_pipeline(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/mine.yaml").write_text(
        "steps:\n  fit: {given: [sample], resources: {mem: 900GB, time: 1m}}\n")
    found = choices.demands()
    assert found["fit"].mem_mb == 900 * 1024 and found["fit"].time_min > 1
    assert found["train"].gpus == 1
