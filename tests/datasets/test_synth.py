"""The synthetic city: layout, repeatability, daily pattern, annotators, refusals."""

import csv
import hashlib
import shutil
import wave
from collections import Counter, defaultdict
from datetime import datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from l3hpc.datasets import corpus, mixing, synth, synth_clips
from l3hpc.datasets.mixing import SoundEvent, mix_clip
from l3hpc.datasets.synth import City, make_city
from l3hpc.datasets.synth_clips import DIFFICULTIES, PARTNERS, Difficulty, clip_events
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


def test_a_city_is_written_where_a_link_leads_and_refused_where_the_disk_is_full(
        tmp_path, monkeypatch):
    small = City(sensors=1, recordings_per_sensor=1, ust_clips=0, seconds=1.0, rate=8000)
    (tmp_path / "disk").mkdir()
    (tmp_path / "city").symlink_to("disk")
    make_city(tmp_path / "city", small)
    assert (tmp_path / "disk/city.json").is_file()
    assert make_city(tmp_path / "city", small)["reused"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000))
    with pytest.raises(InputError, match="needs 16 kB, 12 kB are free"):
        make_city(tmp_path / "other", small)
    assert not (tmp_path / "other").exists()


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


# difficulty ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", [
    {"imbalance": -0.1}, {"imbalance": float("nan")}, {"correlation": 1.1}, {"noise": 31.0},
    {"disagreement": 3.1}, {"hours": 2.0}, {"colour": -1.0},
])
def test_an_impossible_difficulty_is_refused_with_its_range(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))) as error:
        Difficulty(**wrong)
    assert "a number from" in error.value.allowed


def test_a_city_of_before_is_the_same_and_is_reused(city):
    assert "difficulty" not in (city / "city.json").read_text()
    assert DIFFICULTIES["usual"] == Difficulty() == SMALL.difficulty
    # The same sounds as before there was a choice: this digest was made by that version.
    digest = hashlib.sha256((city / "sonyc_ust" / "annotations.csv").read_bytes()).hexdigest()
    assert digest.startswith("a5d226c2a471d4f5")


def categories(difficulty, clips=4000):
    rng = np.random.default_rng(1)
    return [[event.coarse for event in clip_events(rng, 8 + number, difficulty)]
            for number in range(clips)]


def test_imbalanced_categories_follow_zipfs_law():
    first = Counter(found[0] for found in categories(Difficulty(imbalance=1.0)))
    weight = 1 / np.arange(1, 9)
    share = np.array([first[c] for c in range(1, 9)]) / 4000
    # Five standard errors of the most frequent one: fails once in a million seeds.
    assert np.abs(share - weight / weight.sum()).max() < 5 * np.sqrt(0.37 * 0.63 / 4000)
    assert {found[0] for found in (
        [e.coarse for e in clip_events(np.random.default_rng(0), n, Difficulty(imbalance=3.0))]
        for n in range(8))} == set(range(1, 9))  # rare ones occur in the smallest split


@pytest.mark.slow
def test_correlated_categories_bring_their_partners():
    def together(difficulty):
        found = categories(difficulty)
        return np.mean([PARTNERS[one[0]] in one for one in found])

    assert together(Difficulty(correlation=1.0)) == 1.0
    assert together(Difficulty(correlation=0.5)) > 0.5 > 0.2 > together(Difficulty())
    assert all(len(set(one)) == len(one) for one in categories(Difficulty(correlation=1.0)))


@pytest.mark.slow
def test_volunteers_agree_and_hours_tell_where_that_is_requested(tmp_path):
    # One clip in two shows a category at its hours; volunteers who make no mistakes all agree.
    make_city(tmp_path / "city", City(1, 1, 300, 1, 8000, 1, 3, Difficulty(disagreement=0.0,
                                                                           hours=1.0)))
    night, places = {"2": [], "7": []}, defaultdict(set)
    by_clip = defaultdict(set)
    for row in table(tmp_path / "city"):
        heard = frozenset(k for k, v in row.items()
                          if k.endswith("_presence") and k[1] == "_" and v == "1")
        by_clip[row["audio_filename"]].add(heard)
        places[row["split"]].add(float(row["latitude"]))
        # The first of eight categories rotates with the number of the clip in its split.
        number = int(row["audio_filename"][3:9])
        if row["split"] == "train" and str(number % 8 + 1) in night:
            night[str(number % 8 + 1)].append(not 7 <= int(row["hour"]) < 17)
    assert all(len(opinions) == 1 for opinions in by_clip.values())
    assert min(places["train"]) < min(places["test"]) < max(places["test"]) < max(places["train"])
    assert np.mean(night["2"]) < 0.25 < 0.5 < np.mean(night["7"])


def test_noise_is_louder_and_microphones_differ():
    def clip(noise=0.0, gain=None):
        return mix_clip(np.random.default_rng(0), [], -50 + noise, 1.0, 8000, gain) / 32767

    level = 20 * np.log10(np.std(clip(12.0)) / np.std(clip()))
    assert level == pytest.approx(12, abs=0.3)
    flat = np.zeros(len(mixing.MICROPHONE_HZ))
    np.testing.assert_allclose(clip(20.0, flat), clip(20.0), atol=2 / 32767)
    low, high = flat.copy(), flat.copy()
    low[:3], high[5:] = 20.0, 20.0  # up to 250 Hz, from 2 kHz

    def tilt(samples):
        power = np.abs(np.fft.rfft(samples)) ** 2
        return 10 * np.log10(power[2000:].sum() / power[:250].sum())

    assert tilt(clip(20.0, high)) > tilt(clip(20.0)) + 15 > tilt(clip(20.0, low)) + 30
    assert mixing.microphone(np.random.default_rng(0), 0.0) is None
    assert np.std(mixing.microphone(np.random.default_rng(0), 4.0)) == pytest.approx(4, rel=0.6)


def test_a_refused_number_names_its_option():
    for values, option in (({"ust_clips": 1}, "--clips"), ({"sensors": 0}, "--sensors"),
                           ({"recordings_per_sensor": 0}, "--recordings")):
        with pytest.raises(InputError) as refused:
            City(**values)
        assert option in (refused.value.hint or "").split()
