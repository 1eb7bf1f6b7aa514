"""What the doctor examines: a profile, a cluster.yaml, and programs that say what a test wants."""

from pathlib import Path

from l3hpc.config import settings as configuration
from l3hpc.config.profile import ClusterProfile
from l3hpc.doctor.environment import Answer

SINFO = """\
cpu*|up|2-00:00:00|64000|16|(null)|3
gpu|up|7-00:00:00|128000+|32|gpu:rtx8000:4|2
gpu|up|7-00:00:00|256000|48|gpu:a100:2(S:0-1)|1
old|down|infinite|8000|4|(null)|1
"""
SLURM = "cluster: greene\nclusters: {greene: {partition: cpu, account: pr_42}}\n"


class Programs:
    """Answers by program name; remembers what was asked."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __call__(self, command):
        self.asked.append(list(command))
        return self.answers.get(Path(command[0]).name, Answer(None, "", f"{command[0]} is missing"))


def said(text):
    return Answer(0, text, "")


def profile(**values):
    return ClusterProfile.model_validate({"name": "greene", "executor": "slurm", **values})


def config_in(folder, text="", environ=None):
    folder.mkdir(exist_ok=True)
    (folder / "cluster.yaml").write_text(text or "cluster: local\n")
    return configuration.load(folder / "cluster.yaml", environ=environ or {})


def states(lines):
    return {line.subject: line.severity for line in lines}
