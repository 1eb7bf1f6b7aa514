"""The pages of docs/tutorials, carried out as they are printed (but for the one that needs a
cluster: tests/cluster/test_tutorial.py).

What stands on the pages was seen with the published Student 3 and the 400 recordings of ESC-10.
Here, to be quick, there are three folds with two seconds of one recording of each class. Where the
recordings or the student are not in ../shared/real, synthetic sound and random weights take their
place.
"""

import csv
import gzip
import json
import shutil
import warnings

import numpy as np
import pytest
import soundfile
from invoke import invoke
from printed import ROOT, Page, fits

from l3hpc.models import weights
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import student_spec

pytestmark = pytest.mark.slow

REAL = ROOT.parent / "shared/real"
STUDENT = "edgel3_sea_ust_audio_emb_64.h5.gz"
CLASSES = ("dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby", "sneezing",
           "clock_tick", "helicopter", "chainsaw")


def small_esc10(folder, folds="123"):
    """ESC-10 with a clip per class and fold; whether its recordings are real."""
    table = REAL / "esc10/meta/esc50.csv"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    if table.is_file():
        with table.open() as file:
            rows = {(row["fold"], row["category"]): row for row in csv.DictReader(file)
                    if row["fold"] in folds}
        for row in rows.values():
            sound, rate = soundfile.read(REAL / "esc10/audio" / row["filename"], stop=2 * 44100)
            soundfile.write(folder / "audio" / row["filename"], sound, rate)
    else:
        warnings.warn("no ../shared/real/esc10: synthetic recordings in its place", stacklevel=2)
        rng = np.random.default_rng(0)
        rows = {}
        for fold in folds:
            for target, name in enumerate(CLASSES):
                file = f"{fold}-{target}-A-{target}.ogg"
                time = np.arange(2 * 8000) / 8000
                tone = 0.3 * np.sin(2 * np.pi * (200 + 300 * target) * time)
                sound = tone + rng.normal(0, 0.02, len(time))
                soundfile.write(folder / "audio" / file, sound, 8000)
                rows[fold, name] = {"filename": file, "fold": fold, "target": target,
                                    "category": name, "esc10": "True",
                                    "src_file": target, "take": "A"}
    with (folder / "meta/esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))))
        writer.writeheader()
        writer.writerows(rows.values())
    return table.is_file()


def small_student(path):
    """A student of 64 dimensions with random weights; as the published one, it is too large for the
    default arena if it is not computed in strips."""
    plain = path.with_suffix("")
    spec = student_spec(filters=(20, 20, 4, 4, 4, 4, 4, 64), emb_dim=64)
    weights.save(untrained(spec, 0), plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def test_embed_in_one_minute(tmp_path, monkeypatch):
    page = Page("docs/tutorials/embed.md").carry_out(tmp_path, monkeypatch)
    assert page.names["embedding"].std() > 0


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, _cache, timed):
    """A folder in which the tutorial on ESC-10 was carried out, and whether with real sound."""
    folder = tmp_path_factory.mktemp("esc10")
    real = small_esc10(folder / "ESC-50") and (REAL / "edgel3" / STUDENT).is_file()
    if real:
        shutil.copy(REAL / "edgel3" / STUDENT, folder)
    else:
        small_student(folder / STUDENT)
    timed(weights.load(folder / STUDENT).spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_cache))
        return folder, real, Page("docs/tutorials/esc10.md").carry_out(folder, patch)


def test_esc10_with_a_published_student(evaluated):
    folder, _, page = evaluated
    [path] = folder.glob("workspace/artifacts/score/*/0000/scores.json")
    scores = json.loads(path.read_text())
    assert scores["pooled"]["clips"] == 30
    assert scores["pooled"]["accuracy"] > 0.3  # by chance: 0.1
    assert f"accuracy {scores['accuracy']['mean']:.3f}" in page.said["l3hpc status"]


def test_a_sweep_and_its_report(evaluated, monkeypatch):
    folder, _, _ = evaluated
    Page("docs/tutorials/sweep.md").carry_out(folder, monkeypatch)
    told = json.loads(invoke("report", "latest", "--json").stdout)
    assert [each["values"] for each in told["sweep"]["variants"]] == [
        {"folds.every": value} for value in ("1", "10")]


def test_from_student_to_microcontroller(tmp_path, monkeypatch):
    small_esc10(tmp_path / "ESC-50", folds="1")
    small_student(tmp_path / STUDENT)
    page = Page("docs/tutorials/sensor.md").carry_out(tmp_path, monkeypatch)
    assert page.names["cosine"].shape == (len(page.names["original"]),)


def test_pages_that_are_wrong_are_found():
    said = "clips-20261128-8799   done, 3 steps\n  one  0:28  a\n  two  0:30  b\nend\n"
    for shown in ("clips-20261120-0000 done, 4 steps\n…\nend", "one 0:01 a\ntwo 1 b", "…steps",
                  "clips…\none 0:28 a", said):
        assert fits(shown, said), shown
    for shown in ("clips-20261120-0000 failed, 4 steps", "one 0:28 a\nend", "end\n…\none 0:28 a",
                  "one 0:28", "one 0:28 a b"):
        assert not fits(shown, said), shown
