"""The synthetic city: layout, repeatability, daily pattern, annotators, refusals."""

import csv
import hashlib
import wave
from collections import Counter, defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from l3hpc.datasets import corpus, synth, synth_clips
from l3hpc.datasets.synth import City, make_city
from l3hpc.datasets.synth_clips import SoundEvent, mix_clip
from l3hpc.errors import InputError

SMALL = City(sensors=3, recordings_per_sensor=4, ust_clips=30, seconds=1, rate=8000, days=9, seed=5)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "city"
    make_city(folder, SMALL)
    return folder


def digests(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def table(folder):
    with open(folder / "sonyc_ust" / "annotations.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_recordings_match_their_table(city):
    found = corpus.scan_recordings(city / "audio")
    assert len(found) == 12 and len({item.sensor for item in found}) == 3
    assert all(item.size == 44 + 2 * 8000 for item in found)
    days = {datetime.fromtimestamp(item.timestamp, ZoneInfo(synth.TIMEZONE)).date().isoformat()
            for item in found}
    assert min(days) >= "2017-11-20" and max(days) <= "2017-11-28"
    assert len({day[:7] + str(int(day[8:]) // 7) for day in days}) >= 2  # more than one week
    with wave.open(str(city / "audio" / found[0].file)) as file:
        assert file.getparams()[:4] == (1, 2, 8000, 8000)


def test_same_seed_same_bytes_and_other_seed_other_bytes(city, tmp_path):
    make_city(tmp_path / "again", SMALL)
    assert digests(tmp_path / "again") == digests(city)
    make_city(tmp_path / "other", City(**{**SMALL.__dict__, "seed": 6}))
    assert not set(digests(tmp_path / "other").values()) & {
        value for path, value in digests(city).items() if path.suffix in (".wav", ".csv")}


def test_a_finished_city_is_kept_and_anything_else_is_not_touched(city, tmp_path):
    before = digests(city)
    assert make_city(city, SMALL)["reused"] is True
    with pytest.raises(InputError, match="other settings"):
        make_city(city, City(**{**SMALL.__dict__, "days": 8}))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        make_city(tmp_path, SMALL)
    with pytest.raises(InputError, match="is a file"):
        make_city(tmp_path / "mine.txt", SMALL)
    assert digests(city) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_city_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("power cut")

    monkeypatch.setattr(synth, "write_ust", fail)
    with pytest.raises(RuntimeError):
        make_city(tmp_path / "city", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [
    {"sensors": 0}, {"ust_clips": 5}, {"rate": 10}, {"seconds": 0.5},
    {"recordings_per_sensor": 50_000, "days": 1},
])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        City(**wrong)


def test_splits_share_no_sensor_and_hold_every_category(city):
    rows = table(city)
    sensors = defaultdict(set)
    tags = defaultdict(Counter)
    for row in rows:
        sensors[row["split"]].add(row["sensor_id"])
        for name, value in row.items():
            if name.endswith("_presence") and name[1] == "_" and value == "1":
                tags[row["split"]][name] += 1
    assert set(sensors) == {"train", "validate", "test"}
    assert not sensors["train"] & sensors["validate"] and not sensors["test"] & sensors["validate"]
    assert not sensors["train"] & sensors["test"]
    assert len(tags["train"]) == 8
    assert (Counter(row["split"] for row in {r["audio_filename"]: r for r in rows}.values())
            == {"train": 18, "validate": 6, "test": 6})


def test_annotators_are_several_disagree_and_agree_on_held_out_clips(city):
    by_clip = defaultdict(list)
    for row in table(city):
        by_clip[row["audio_filename"]].append(row)
    opinions = 0
    for name, rows in by_clip.items():
        annotators = [int(row["annotator_id"]) for row in rows]
        assert len(set(annotators)) == len(annotators)
        assert (0 in annotators) == (rows[0]["split"] != "train")
        assert sum(annotator > 0 for annotator in annotators) == 3
        assert (city / "sonyc_ust" / "audio" / name).is_file()
        presence = {tuple(v for k, v in row.items() if k.endswith("_presence")) for row in rows}
        opinions += len(presence) > 1
        for row in rows:
            for column, value in row.items():
                if column.endswith("_proximity"):
                    present = row[column.replace("_proximity", "_presence")] == "1"
                    assert (value in ("near", "far", "notsure")) == present
    assert opinions > len(by_clip) / 2
    values = {value for rows in by_clip.values() for row in rows for column, value in row.items()
              if column.endswith("_presence")}
    assert values == {"0", "1", "-1"}


def test_columns_are_those_of_version_2(city):
    columns = list(table(city)[0])
    assert columns[:12] == synth_clips.METADATA and len(columns) == 12 + 29 + 29 + 8
    assert columns[12] == "1-1_small-sounding-engine_presence"
    assert columns[12 + 29] == "1-1_small-sounding-engine_proximity"
    assert columns[-1] == "8_dog_presence"


def test_the_city_follows_the_clock():
    def at(day, hour):
        return datetime(2017, 11, day, hour, tzinfo=ZoneInfo(synth.TIMEZONE))

    assert synth.activity(2, at(21, 10)) > 10 * synth.activity(2, at(21, 3))
    assert synth.activity(2, at(21, 10)) > 5 * synth.activity(2, at(26, 10))
    assert synth.activity(1, at(21, 8)) > 3 * synth.activity(1, at(21, 2))
    assert synth.loudness_floor(at(21, 4)) == pytest.approx(-62)
    assert synth.loudness_floor(at(21, 16)) == pytest.approx(-44)
    for coarse in range(1, 9):
        for hour in range(24):
            assert 0 <= synth.activity(coarse, at(21, hour)) <= 1


def test_mix_reaches_the_level_it_is_asked_for_and_never_overflows():
    rng = np.random.default_rng(1)
    quiet = mix_clip(rng, [], -40, 2, 8000) / 32768
    assert 20 * np.log10(quiet.std()) == pytest.approx(-41, abs=2.5)
    siren = mix_clip(rng, [SoundEvent(5, 2, -20)], -90, 2, 8000) / 32768
    assert 20 * np.log10(siren.std()) == pytest.approx(-20, abs=1.5)
    loud = mix_clip(rng, [SoundEvent(2, 1, 20)], -40, 1, 8000)
    assert loud.dtype == np.int16 and np.abs(loud.astype(int)).max() <= 32767
