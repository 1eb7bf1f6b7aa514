"""Good material that inputs are made from: sounds, data sets, a working folder, a workspace."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.workspace.layout import Workspace

FAKES = Path(__file__).parents[1] / "fakes"
RATE = 8000
CLUSTER = """\
cluster: local
paths: {workspace: ws, weights: untrained, audio: audio, esc50: esc50, us8k: us8k}
clusters:
  local: {slots: {cpus: 2, mem: 8GB}}
  greene: {partition: gpu, account: pr_42, limits: {time: 7d, mem: 180GB, array: 1001}}
"""


def fakes() -> None:
    """Make the stand-ins of the other tests importable."""
    if str(FAKES) not in sys.path:
        sys.path.insert(0, str(FAKES))


def sound(seconds: float = 1.5, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A tone in noise, float32 (samples, channels)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (220 + 30 * seed) * time)
    return (tone[:, None] + 0.05 * rng.normal(size=(len(time), channels))).astype(np.float32)


def working_folder(folder: Path) -> None:
    """cluster.yaml, recordings, two small data sets, and a workspace with runs."""
    import soundfile

    (folder / "cluster.yaml").write_text(CLUSTER)
    (folder / "audio").mkdir()
    for name in ("a", "b"):
        soundfile.write(folder / f"audio/{name}.wav", sound(seed=ord(name)), RATE)
    data_sets(folder)
    student(folder / "student.h5")
    workspace(folder / "ws")


def data_sets(folder: Path) -> None:
    """``esc50``, ``us8k`` and ``sonyc_ust``, each as small as it can be."""
    fakes()
    import layouts

    from l3hpc.console.progress import Progress
    from l3hpc.datasets.synth_clips import write_ust

    layouts.esc50(folder / "esc50")
    layouts.us8k(folder / "us8k")
    write_ust(folder / "sonyc_ust", 12, seconds=1.0, rate=RATE, seed=1, progress=Progress())


def student(path: Path, seed: int = 0) -> Path:
    """Weights of a very small network, in l3hpc's own format."""
    from l3hpc.models import weights
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import NetworkSpec

    spec = NetworkSpec(RATE, 32, 160, 256, filters=(2, 2, 3, 3, 4, 4, 5, 5))
    weights.save(untrained(spec, seed), path)
    return path


def workspace(folder: Path) -> dict[str, str]:
    """Three runs as they are after their jobs have ended: name → state."""
    fakes()
    import chains

    from l3hpc.io.files import write_json
    from l3hpc.ledger.journal.records import Journal
    from l3hpc.workspace import records

    names = {"good-1": "done", "bad-2": "failed", "third-3": "done"}
    for number, (name, state) in enumerate(names.items()):
        made = chains.plan(folder, name, ("extract", "sample", "fit"), tasks={"extract": 2},
                           salt=name)
        chains.submit_behind(made)
        jobs: dict[str, dict[str, Any]] = {}
        record = records.read(folder, name)

        for step, planned in zip(record.steps, made.steps, strict=True):
            failed = state == "failed" and step.name == "sample"
            blocked = state == "failed" and step.name == "fit"
            marks = Workspace(folder).run(name).step(step.name).markers
            for attempt in step.attempts:
                for index, job in attempt.task_ids.items():
                    jobs[job] = {
                        "state": "BLOCKED" if blocked else "FAILED" if failed else "COMPLETED",
                        "step": step.name, "task": index, "job": attempt.job,
                        "array": attempt.array, "after": [], "exit": int(failed),
                        "started": 1e9, "ended": 1e9 + 60}
                    if blocked:
                        continue
                    text = (f"job={job} node=here time={10**9} restarts=0\n"
                            if number != 2 else json.dumps({"job": job, "time": 10**9}))
                    (marks / f"{index}.begin").write_text(text)
                    (marks / f"{index}.exit").write_text(
                        f"code={int(failed)} time={10**9 + 60}\n")
                    write_json(marks / f"{index}.progress.json", {
                        "phase": "epoch", "done": 2, "total": 5, "elapsed_s": 20.0,
                        "loss": 0.5})
                    logs = Workspace(folder).run(name).step(step.name).logs
                    (logs / f"{job}_0_log.err").write_text("some words\nand more\n")
                    (logs / f"{job}_0_log.out").write_text("printed\n")
                    if failed:
                        write_json(marks / f"{index}.error.json", {
                            "type": "ValueError", "message": "no good", "tail": ["x", "y"]})
                        write_json(marks / f"{index}.requeues.json", [
                            {"reason": "time", "time": 1e9, "words": "time limit"}])
                    else:
                        place = planned.artifact / f"{index:04d}"
                        place.mkdir(parents=True, exist_ok=True)
                        (place / "out.txt").write_text("(0)")
                        write_json(place / "result.json", {
                            "started": 1e9, "finished": 1e9 + 61, "summary": {"rows": 1},
                            "usage": {"memory_mb": 100, "cpu_s": 50.0}, "files": {}})
        write_json(Workspace(folder).run(name).path / "local.json",
                   {"schema": 1, "host": "elsewhere", "jobs": jobs})
        journal = Journal(folder / "ledger/journal", run=name, git_commit="abc", labels={
            "username": "ada", "model_dir": f"/m/{number}", "output_dir": f"/o/{number}",
            "exp_id": "1"})
        for epoch in range(3):
            journal.record("embedding_approx_mse",
                           {"latest_train_loss": 0.5 / (epoch + 1)}, epoch=epoch)
        journal.record("sonyc_ust", {"micro_auprc": 0.5 + number / 10})
    return names


class Network:
    """Stands for a network where its numbers do not matter: eight levels of each second."""

    rate, window_s, dim = RATE, 1.0, 8

    def embed(self, frames: Any, batch_size: int | None = None, on_batch: Any = None
              ) -> np.ndarray:
        """Embeddings (n, 8) of frames (n, rate)."""
        parts = frames.parts(0, len(frames)) if hasattr(frames, "parts") else [frames]
        blocks = [np.asarray(part, np.float32) for part in parts]
        if any(block.size and abs(block).max() > 1e6 for block in blocks):
            return np.full((len(frames), self.dim), np.nan, np.float32)
        found = [np.abs(block).reshape(len(block), self.dim, -1).mean(axis=2, dtype=np.float32)
                 for block in blocks]
        if on_batch:
            on_batch(len(frames))
        return np.concatenate([np.zeros((0, self.dim), np.float32), *found])


def model() -> Any:
    """A ``Model`` on that network."""
    from dataclasses import replace

    from l3hpc.embedding.model import Model
    from l3hpc.embedding.model_files import recognise

    known = recognise("untrained")
    return Model(replace(known, rate=Network.rate, dim=Network.dim, dims=(Network.dim,)),
                 Network(), "none")
