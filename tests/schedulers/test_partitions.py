"""What a partition can never run is refused before anything is written or submitted."""

import threading
import wave

import pytest

from l3hpc import schedulers
from l3hpc.cli import main
from l3hpc.config.resources import Resources
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError
from l3hpc.runs import resume, submit
from l3hpc.schedulers.slurm import partitions
from l3hpc.schedulers.slurm.commands import ignored_variables

SINFO = """\
CLUSTER: greene
cpu*|up|2-00:00:00|64000|16|(null)|3
gpu|up|7-00:00:00|128000+|32|gpu:rtx8000:4,shard:8|2
gpu|up|7-00:00:00|256000|48|gpu:a100:2(S:0-1)|1
short|up|30:00|8000|4|gpu:2|1
mig|up|1:00:00|8000|4|gpu:1g.5gb:7(S:0,2)|1
long|up|infinite|64000|16|(null)|1
"""


def on(chains, **profile):
    return chains.profile(name="greene", executor="slurm", slots={}, **profile)


def test_sinfo_is_read_whatever_it_groups():
    found = partitions.parse_sinfo(SINFO)
    assert {name: one.time_min for name, one in found.items()} == {
        "cpu": 2880, "gpu": 10080, "short": 30, "mig": 60, "long": None}
    assert {name: one.gpus for name, one in found.items()} == {
        "cpu": {}, "gpu": {"rtx8000": 4, "a100": 2}, "short": {"": 2}, "mig": {"1g.5gb": 7},
        "long": {}}
    assert [name for name, one in found.items() if one.default] == ["cpu"]


def test_a_partition_of_unclear_size_is_left_to_sbatch():
    found = partitions.parse_sinfo("cpu*|up|1:00|N/A|4|gpu:2|3\ncpu*|up|1:00|64000|4||3\n"
                            "gpu|up|1:00|64000|4|(null)|1\n")
    assert list(found) == ["gpu"]


@pytest.mark.parametrize(("profile", "wanted", "message", "hint"), [
    ({}, Resources(time_min=2881), "extract requests 2 d 1 min; partition cpu allows 2 d",
     "--set extract.time=2880m"),
    ({"partition": "short"}, Resources(time_min=31),
     "extract requests 31 min; partition short allows 30 min", "--set extract.time=30m"),
    ({"partition": "short,cpu"}, Resources(time_min=3000),
     "extract requests 2 d 2 h; partition short allows 30 min", "--set extract.time=30m"),
    ({"steps": {"extract": {"partition": "short"}}}, Resources(time_min=31),
     "extract requests 31 min; partition short allows 30 min", "--set extract.time=30m"),
    ({"partition": "gpu", "gpu_type": "h100"}, Resources(gpus=1),
     "extract requests a GPU of type h100; partition gpu has a100, rtx8000", "gpu_type:"),
    ({"partition": "short", "gpu_type": "a100"}, Resources(gpus=1, time_min=5),
     "extract requests a GPU of type a100; partition short has GPUs without a type",
     "Remove gpu_type:"),
    ({"partition": "gpu", "gpu_type": "a100", "gpu_request": "gpus-per-node"}, Resources(gpus=3),
     "extract requests 3 GPUs of type a100; no node of partition gpu has more than 2",
     "--set extract.gpus=2"),
    ({}, Resources(gpus=1), "extract requests a GPU; partition cpu has none",
     "--set extract.gpus=0"),
    ({}, Resources(cpus=17), "extract requests 17 cores; the largest node of partition cpu has 16",
     "--set extract.cpus=16"),
    ({}, Resources(mem_mb=65536),
     "extract requests 64 GB of memory; the largest node of partition cpu has 62.5 GB",
     "--set extract.mem=62.5GB"),
])
def test_what_no_partition_of_the_step_can_run_is_refused(
        chains, slurm, tmp_path, profile, wanted, message, hint):
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    for options in ({"test_only": True}, {}):
        made = chains.plan(tmp_path / "w", names=("extract",), on=on(chains, **profile),
                           resources={"extract": wanted})
        with pytest.raises(InputError) as caught:
            submit.submit(made, **options)
        assert caught.value.message == message and hint in caught.value.hint
    assert slurm.calls("sbatch") == [] and not (tmp_path / "w").exists()


@pytest.mark.parametrize(("profile", "wanted"), [
    ({}, Resources(time_min=2880, mem_mb=64000, cpus=16)),
    ({"partition": "short,cpu"}, Resources(time_min=31)),  # Slurm takes the second one
    ({"partition": "long"}, Resources(time_min=500_000)),
    ({"partition": "hidden"}, Resources(time_min=500_000)),  # sbatch knows
    ({"partition": "mig", "gpu_type": "1g.5gb"}, Resources(gpus=7)),
    ({"partition": "gpu"}, Resources(gpus=6)),
    ({"gpu_request": "none"}, Resources(gpus=1)),
    ({"memory_request": "none"}, Resources(mem_mb=10**6)),
    ({"partition": "gpu", "gpu_request": "shard"}, Resources(gpus=8)),
    ({}, Resources(mem_mb=0)),
])
def test_what_fits_goes_on(chains, slurm, tmp_path, profile, wanted):
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    submit.submit(chains.plan(tmp_path / "w", names=("extract",), on=on(chains, **profile),
                              resources={"extract": wanted}))
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize(("answer", "refused"), [
    ("echo DenyOnLimit,PartitionTimeLimit", False), ("echo DenyOnLimit", True),
    ("echo 'no database' >&2; exit 1", False)])
def test_a_qos_may_lift_the_time_limit_of_the_partition(chains, slurm, tmp_path, answer, refused):
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    slurm.says("sacctmgr", answer)
    made = chains.plan(tmp_path / "w", names=("extract",), on=on(chains, qos="long"),
                       resources={"extract": Resources(time_min=3000)})
    if refused:
        with pytest.raises(InputError, match="partition cpu allows 2 d"):
            submit.submit(made)
    else:
        submit.submit(made)
    assert "show qos long format=flags" in slurm.calls("sacctmgr")[0]


@pytest.mark.parametrize(("answer", "refused"), [
    ("printf 'DenyOnLimit\\nPartitionTimeLimit\\n'", False), ("echo DenyOnLimit", True),
    ("echo 'no database' >&2; exit 1", True)])
def test_a_qos_that_slurm_chooses_may_lift_it_too(chains, slurm, tmp_path, answer, refused):
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    slurm.says("sacctmgr", answer)
    made = chains.plan(tmp_path / "w", names=("extract",), on=on(chains),
                       resources={"extract": Resources(time_min=3000)})
    if refused:
        with pytest.raises(InputError, match="partition cpu allows 2 d"):
            submit.submit(made)
    else:
        assert submit.submit(made).state == "submitted"


def test_what_was_asked_before_is_not_asked_again(chains, slurm, tmp_path):
    plan = chains.plan(tmp_path / "w", names=("extract",), on=on(chains))
    submit.submit(plan, scheduler=schedulers.prepared(plan.profile, plan.workspace))
    assert len(slurm.calls("sinfo")) == 1


def test_a_program_that_ends_does_not_wait_for_slurm(chains, slurm, tmp_path):
    slurm.says("sinfo", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done")
    before = {*threading.enumerate()}
    scheduler = schedulers.prepared(on(chains), tmp_path)
    asking = [thread for thread in threading.enumerate() if thread not in before]
    (tmp_path / "go").touch()
    assert asking and all(thread.daemon for thread in asking)
    plan = chains.plan(tmp_path / "w", names=("extract",), on=on(chains))
    assert scheduler.validate(plan).endswith("sinfo lists no partition")


@pytest.mark.parametrize(("script", "why"), [
    ("echo 'sinfo: error: no controller' >&2; exit 1", "sinfo: no controller"),
    ("true", "sinfo lists no partition")])
def test_a_silent_sinfo_is_said_and_refuses_nothing(chains, slurm, tmp_path, script, why):
    class Said(Progress):
        notes = []

        def note(self, text):
            self.notes.append(text)

    slurm.says("sinfo", script)
    said = Said()
    said.notes = []
    submit.submit(chains.plan(tmp_path / "w", names=("extract",), on=on(chains)), progress=said)
    assert said.notes == [f"the limits of the partitions were not checked: {why}"]


def test_the_partitions_of_the_cluster_that_is_submitted_to_are_asked(chains, slurm, tmp_path):
    submit.submit(chains.plan(tmp_path / "w", names=("extract",),
                              on=on(chains, clusters=["fast"])))
    assert slurm.calls("sinfo")[0].startswith("sinfo --clusters=fast --noheader")


def test_resume_refuses_the_same(chains, slurm, tmp_path):
    profile = on(chains)
    submit.submit(chains.plan(tmp_path / "w", names=("extract",), on=profile))
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    with pytest.raises(InputError, match="extract requests 3 d; partition cpu allows 2 d"):
        resume.resume(tmp_path / "w", "demo", profile, sets=["extract.time=3d"])
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize(("environment", "words"), [
    ({"PATH": "x", "SLURM_CONF": "x", "SLURM_TIME_FORMAT": "x"}, ""),
    ({"SBATCH_CLUSTERS": "x", "SLURM_CLUSTERS": "x"}, ""),  # these are used
    ({"SBATCH_ACCOUNT": "x"},
     "the environment variable SBATCH_ACCOUNT is ignored: cluster.yaml decides; "
     "set account: in the profile instead"),
    ({"SBATCH_PARTITION": "x", "SBATCH_ACCOUNT": "x", "SBATCH_EXPORT": "NONE"},
     "the environment variables SBATCH_ACCOUNT, SBATCH_EXPORT, SBATCH_PARTITION are ignored: "
     "cluster.yaml decides; set account:, partition: in the profile instead"),
    ({"SLURM_QOS": "x"}, "the environment variable SLURM_QOS is ignored: cluster.yaml decides; "
                         "set qos: in the profile instead"),
    ({"SLURM_JOB_ID": "1", "SLURM_QOS": "x", "SBATCH_QOS": "x"},
     "the environment variable SBATCH_QOS is ignored: cluster.yaml decides; "
     "set qos: in the profile instead"),
])
def test_variables_that_do_not_count_are_named(environment, words):
    assert ignored_variables(environment) == words


def test_every_submitting_command_names_them_and_the_dry_run_refuses(
        chains, slurm, tmp_path, monkeypatch, capsys):
    slurm.says("sinfo", f"cat <<'E'\n{SINFO}E")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "audio"
    folder.mkdir()
    with wave.open(str(folder / "x.wav"), "wb") as sound:
        sound.setparams((1, 2, 48000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 48000))
    (tmp_path / "cluster.yaml").write_text(
        "cluster: greene\nclusters: {greene: {gpu_request: none}}\n")
    monkeypatch.setenv("SBATCH_ACCOUNT", "pr_1")
    submit.submit(chains.plan(tmp_path / "workspace", names=("extract",), on=on(chains)))
    slurm.says("squeue", "")
    upstream = ["submit", "upstream", "--audio-dir", "audio", "--weights", "untrained"]
    for words, code, more in (
            (["resume", "demo", "--dry-run"], 0, "would submit extract"),
            (["retry", "demo", "extract", "--dry-run"], 0, "would submit extract"),
            ([*upstream, "--dry-run"], 0, "nothing was submitted (--dry-run)"),
            ([*upstream, "--dry-run", "--set", "train.time=3d"], 2,
             "error: train requests 3 d; partition cpu allows 2 d"),
            ([*upstream, "--test-only", "--set", "train.time=3d"], 2,
             "error: train requests 3 d; partition cpu allows 2 d")):
        with pytest.raises(SystemExit) as end:
            main(words)
        said = capsys.readouterr()
        assert (end.value.code or 0) == code and more in said.out + said.err, said
        assert ("note: the environment variable SBATCH_ACCOUNT is ignored" in said.err) \
            is (code == 0 or "--test-only" in words)
    assert len(slurm.calls("sbatch")) == 1
