"""A task of embed without a single usable recording: the steps after it go on without its clips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from l3hpc import steps
from l3hpc.errors import L3hpcError

pytestmark = pytest.mark.slow


@pytest.fixture
def own(tmp_path):
    """Eighteen clips of two classes; those of the first task of six are without sound."""
    folder, lines = tmp_path / "birds", ["clip,species"]
    (folder / "audio").mkdir(parents=True)
    for number in range(18):
        label, time = ("owl", "wren")[number % 2], np.arange(16_000) / 8000
        sound = 0.1 * np.sin(2 * np.pi * (400, 1600)[number % 2] * time)
        soundfile.write(folder / f"audio/{number:02d}.wav", sound[:16_000 * (number >= 6)], 8000)
        lines.append(f"{number:02d},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("model", ["svm", "mil"])
def test_folds_and_score(runner, own, teacher, model):
    table = {"table": own / "labels.csv", "audio": own / "audio"}
    several = {"label_separator": ";"} if model == "mil" else {}
    if several:
        (own / "labels.csv").write_text(
            (own / "labels.csv").read_text().replace("3,wren", "3,wren;owl"))
    done = runner.run("embed", {**table, "student": str(teacher), "hop": 0.5, "files_per_task": 6,
                                "max_failed": 1.0})
    assert [result["rows"] > 0 for result in done.results] == [False, True, True]
    params = {**table, **several, "model": model, "fold_count": 3, "epochs": 2, "search": False}
    with pytest.raises(L3hpcError, match="6 of 18 clips"):
        runner.run("folds", params, artifact="refused")
    runner.run("folds", {**params, "max_missing": 0.5})
    score = runner.run("score")
    told = json.loads((score.folder / "0000/scores.json").read_text())
    assert sum(fold["clips"] for fold in told["folds"].values()) == 12 and len(told["missing"]) == 6


def test_classify_and_evaluate(runner, city, teacher, tmp_path):
    folder = tmp_path / "sonyc_ust"
    shutil.copytree(city / "sonyc_ust", folder)
    embed, params = steps.step("embed"), {"sonyc_ust": folder}
    wanted = {**params, "student": str(teacher), "hop": 0.5, "files_per_task": 9, "max_failed": 1.0}
    silent = [one[0] for one in embed.shards(embed.parse(wanted), {})[0]["recordings"]]
    for name in silent:
        soundfile.write(folder / "audio" / name, np.zeros(0), 8000)
    done = runner.run("embed", wanted)
    assert [result["rows"] > 0 for result in done.results] == [False, True, True, True]
    runner.run("classify", {**params, "epochs": 2})
    predicted = set()
    for path in (runner.artifact("classify") / "0000").glob("predictions_*.csv"):
        with open(path) as stream:
            predicted |= {row["audio_filename"] for row in csv.DictReader(stream)}
    assert predicted and not predicted & {Path(name).name for name in silent}
    done = runner.run("evaluate", {**params, "bootstrap": 0})
    [result] = done.results
    assert result["warnings"] == {} and 0 < result["metrics"]["test"]["coarse"]["micro_auprc"] < 1
