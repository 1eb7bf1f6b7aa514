"""Quality of embeddings on real recordings: ESC-10 accuracy by 5-fold logistic regression.

    python -m benchmarks.esc10 --esc10 FOLDER --teacher FILE.h5[.gz] [--work FOLDER] [--json]

Runs ``l3hpc submit all`` on the 400 real recordings of FOLDER/audio with the given weights as
teacher (a 32-d student, PCA on an exact DPP sample; SONYC-UST is a generated one, since the real
one is not at hand) and then compares teacher, distilled student and the same student untrained:
mean and standard deviation of the embeddings over frames (hop 0.5 s, centred), standardised,
logistic regression with C = 0.1, the five official folds. Times of all steps come from the records
of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.tables import print_table


def accuracy(embedder: Any, audio: Path, meta: Path) -> tuple[float, list[float]]:
    """Return mean and per-fold accuracy of 5-fold logistic regression on clip statistics."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from l3hpc.audio.files import read_audio
    from l3hpc.audio.framing import frame_audio
    from l3hpc.io.tables import read_records

    rows = [row for _, row in read_records(meta, "table of ESC-50")]
    features, labels, folds = [], [], []
    for row in rows:
        signal, rate = read_audio(audio / row["filename"], embedder.rate)
        frames, _ = frame_audio(signal, rate, 0.5, center=True)
        vectors = embedder.embed(frames)
        features.append(np.concatenate([vectors.mean(axis=0), vectors.std(axis=0)]))
        labels.append(int(row["target"]))
        folds.append(int(row["fold"]))
    x, y, fold = np.array(features), np.array(labels), np.array(folds)
    scores = []
    for held_out in sorted(set(folds)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
        model.fit(x[fold != held_out], y[fold != held_out])
        scores.append(float(model.score(x[fold == held_out], y[fold == held_out])))
    return float(np.mean(scores)), scores


def distill(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the whole chain; return the student's folder and the seconds of every step."""
    l3hpc = [sys.executable, "-m", "l3hpc"]
    city = work / "city"
    subprocess.run([*l3hpc, "data", "synth", str(city), "--sensors", "1", "--recordings", "1",
                    "--clips", "120"], check=True)
    environment = {**os.environ, "AUDIO_DIR": str(arguments.esc10 / "audio"),
                   "L3_MODEL_PATH": str(arguments.teacher), "OUTPUT_DIR": str(work / "workspace"),
                   "SONYC_UST_PATH": str(city / "sonyc_ust")}
    command = [*l3hpc, "submit", "all", "--approx", "pca", "--sampling", "dpp",
               "--emb-dim", str(arguments.emb_dim), "--filters", arguments.filters,
               "--samples", str(arguments.samples), "--epochs", str(arguments.epochs),
               "--learning-rate", str(arguments.learning_rate), "--name", "esc10", "--yes",
               "--set", "extract.max_failed=0.1"]
    print("$", " ".join(command[2:]), file=sys.stderr)
    subprocess.run(command, check=True, env=environment, cwd=work)
    status = subprocess.run([*l3hpc, "status", "latest", "--json"], check=True, env=environment,
                            cwd=work, capture_output=True, text=True)
    run = json.loads(status.stdout)
    runs = run["runs"] if isinstance(run, dict) else run
    folder = work / "workspace" / "runs" / runs[0]["run"]
    seconds = {}
    for step in sorted((folder / "artifacts").iterdir()):
        results = [json.loads((task / "result.json").read_text())
                   for task in sorted(step.resolve().iterdir()) if task.name.isdigit()]
        seconds[step.name] = round(sum(result["elapsed_s"] for result in results), 1)
    return {"run": runs[0]["run"], "folder": folder, "seconds": seconds}


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with audio/ and meta/")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher's weight file")
    parser.add_argument("--work", type=Path, help="where to run (default: a temporary folder)")
    parser.add_argument("--emb-dim", type=int, default=32)
    parser.add_argument("--filters", default="32,32,64,64,128,128,32,32")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.esc10, arguments.teacher = arguments.esc10.resolve(), arguments.teacher.resolve()

    from l3hpc.models.embedder import Embedder
    from l3hpc.models.parameters import untrained
    from l3hpc.models.weights import load

    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        outcome = distill(arguments, work)
        student = load(outcome["folder"] / "artifacts/train/0000/model_best_valid_loss.h5")
        random = Embedder(untrained(student.spec, 0), "untrained", trained=False)
        networks = {f"teacher ({arguments.teacher.name})": load(arguments.teacher),
                    f"distilled {student.dim}-d student": student,
                    f"the same {student.dim}-d student untrained": random}
        audio, meta = arguments.esc10 / "audio", arguments.esc10 / "meta" / "esc50.csv"
        if not meta.is_file():
            meta = next((arguments.esc10 / "meta").glob("*.csv"))
        results = {name: accuracy(network, audio, meta) for name, network in networks.items()}
    if arguments.json:
        print(json.dumps({"machine": machine(), "seconds": outcome["seconds"], "accuracy": {
            name: {"mean": mean, "folds": folds} for name, (mean, folds) in results.items()}}))
        return
    print_table("ESC-10 accuracy (5 folds)", ["network", "accuracy", "folds"],
                [[name, f"{mean:.3f}", " ".join(f"{fold:.3f}" for fold in folds)]
                 for name, (mean, folds) in results.items()])
    print_table("seconds of each step (all tasks)", ["step", "s"],
                [[name, value] for name, value in outcome["seconds"].items()])


if __name__ == "__main__":
    main()
