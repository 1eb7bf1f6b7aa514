"""cluster.yaml and jobs/*.yaml: damaged as text and as values, through config, submit, render."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import yaml

from . import bases, damage
from .oracle import Said, command, strict_json, tree, unchanged
from .runner import Case, Fault, Surface, Verdict

ROOT = Path(__file__).parents[2]
TINY = b"""\
cluster: greene
paths: {workspace: ws, audio: audio, weights: untrained}
clusters:
  local: {slots: {cpus: 2, mem: 8GB}}
  greene: {partition: gpu, account: pr_42, limits: {time: 7d, mem: 180GB, array: 1001}}
"""


def full() -> bytes:
    """The delivered cluster.yaml with all its examples switched on."""
    lines = []
    for line in (ROOT / "cluster.yaml").read_text().splitlines():
        bare = line.lstrip()
        if bare.startswith("# ") and ":" in bare and not line.startswith("#"):
            lines.append(line.replace("# ", "", 1))
        else:
            lines.append(line)
    return "\n".join(lines).replace("cluster: local", "cluster: greene").replace(
        "1AbC…", "1AbCdEfGhIjKlMnOpQrSt").encode()


class SettingsFiles(Surface):
    """Text and values of the YAML files."""

    name = "yaml"
    share = 900

    def prepare(self, folder: Path) -> None:
        self.clusters = [TINY, (ROOT / "cluster.yaml").read_bytes(), full()]
        self.pipelines = {path.stem: path.read_bytes() for path in
                          sorted((ROOT / "jobs").glob("*.yaml"))}
        bases.data_sets(folder)
        self.places = ("--audio-dir", "audio", "--weights", "untrained", "--workspace", "ws",
                       "--esc50", str(folder / "esc50"), "--us8k", str(folder / "us8k"),
                       "--sonyc-ust", str(folder / "sonyc_ust"))
        self.student = ("--student", str(bases.student(folder / "student.h5")))

    def judge(self, case: Case) -> Verdict:
        rng, here = case.rng, case.folder
        cluster = rng.choice(self.clusters)
        name = rng.choice(sorted(self.pipelines))
        pipeline = self.pipelines[name]
        for change in case.damages():
            if change.random() < 0.6:
                cluster = damaged(cluster, change)
            else:
                pipeline = damaged(pipeline, change)
        (here / "cluster.yaml").write_bytes(cluster)
        (here / "jobs").mkdir()
        (here / f"jobs/{name}.yaml").write_bytes(pipeline)
        (here / "audio").mkdir()
        (here / "audio/a.wav").write_bytes(WAVE)
        before = tree(here)
        asked = rng.choice(("show", "check", "submit", "submit", "render"))
        if asked in ("show", "check"):
            words: tuple[str, ...] = ("config", asked, "--json")
        else:
            words = (asked, name, *self.places)
            words += self.student if name in ("downstream", "esc50", "us8k") else ()
            words += ("--dry-run", "--json") if asked == "submit" else ()
        said = command(*words, codes=(0, 2))
        unchanged(here, before, str(words))
        if case.rng.random() < 0.1 and command(*words, codes=(0, 2)) != said:
            raise Fault(f"the same input, another answer: {words}")
        if said.code == 0:
            accepted(asked, said)
        if asked == "show" and said.code == 2:
            again = command("submit", name, *self.places, "--dry-run")
            if again.code != 2:
                raise Fault(f"config show refuses what submit takes: {said.err}")
        return Verdict(said.code == 0, said.code)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A YAML file changed as text, or in one of its values."""
    if rng.random() < 0.5:
        return damage.text(data, rng)
    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, UnicodeError):
        return damage.text(data, rng)
    try:
        return yaml.safe_dump(damage.nested(value, rng), allow_unicode=True,
                              sort_keys=False).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        return damage.text(data, rng)


def accepted(asked: str, said: Said) -> None:
    """What was taken is in range, and a script is a script."""
    if asked == "render":
        scripts = said.out.split("##### ")[1:]
        for script in scripts:
            name, _, body = script.partition("\n")
            done = subprocess.run(["bash", "-n"], input=body.encode("utf-8", "surrogateescape"),
                                  capture_output=True, timeout=60)
            if done.returncode:
                raise Fault(f"a script that is not bash: {done.stderr!r}\n{body}")
    if asked == "submit":
        plan = strict_json(said.out)
        for step in plan["steps"]:
            in_range(step)


def in_range(step: dict[str, Any]) -> None:
    """Whether the resources of a planned step can be meant."""
    wanted = step.get("resources", {})
    limits = {"cpus": (1, 100_000), "mem_mb": (1, 2**30), "gpus": (0, 10_000),
              "time_min": (1, 525_600)}
    for name, (low, high) in limits.items():
        value = wanted.get(name, low)
        if not isinstance(value, int) or not low <= value <= high:
            raise Fault(f"{name} is {value!r} in a plan: {json.dumps(step)[:400]}")


WAVE = (b"RIFF" + (36 + 32000).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex(
    "1000000001000100401f0000803e000002001000") + b"data" + (32000).to_bytes(4, "little")
    + bytes(range(256)) * 125)
