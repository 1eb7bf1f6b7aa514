"""Place and time of clips, and a split by sensor: read from tables, nonsense refused with its line.
"""

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.tagging import clip_metadata

HEADER = "audio_filename,latitude,longitude,week,day,hour"


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "annotations.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def test_the_85_values_of_the_dcase_2020_baseline(table):
    path = table("b.wav,40.72,-73.99,1,0,0", "a.wav,40.73,-73.98,52,6,23",
                 "a.wav,40.73,-73.98,52,6,23", "c.wav,40.7,-74,53,3,12")
    values, notes = clip_metadata.read_metadata(path, ["a.wav", "b.wav", "c.wav"])
    assert values.shape == (3, 85) and values.dtype == np.float32
    np.testing.assert_allclose(values[:, :2], [[40.73, -73.98], [40.72, -73.99], [40.7, -74]])
    ones = [np.flatnonzero(row[2:]).tolist() for row in values]
    # week − 1, then the day after 52 weeks, then the hour after 7 days
    assert ones == [[51, 52 + 6, 59 + 23], [0, 52, 59], [51, 52 + 3, 59 + 12]]
    assert notes == ["clips of week 53 count as week 52: 1, for example c.wav"]


@pytest.mark.parametrize("row, message", [
    ("a.wav,91,0,1,0,0", "annotations.csv:2: latitude is '91'.*degrees from -90 to 90"),
    ("a.wav,,0,1,0,0", "latitude is ''"),
    ("a.wav,nan,0,1,0,0", "latitude is 'nan'"),
    ("a.wav,1,0,54,0,0", "week is '54'.*whole numbers from 1 to 53"),
    ("a.wav,1,0,0,0,0", "week is '0'"),
    ("a.wav,1,0,2,7,0", "day is '7'"),
    ("a.wav,1,0,2,1.5,0", "day is '1.5'"),
    ("a.wav,1,0,2,1,24", "hour is '24'"),
])
def test_values_out_of_range_are_refused_with_their_line(table, row, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        clip_metadata.read_metadata(table(row), ["a.wav"])


def test_tables_without_it_and_contradictions_are_refused(table):
    with pytest.raises(InputError, match="needs the columns latitude, longitude, week, day, hour"):
        clip_metadata.read_metadata(table("a.wav", header="audio_filename"), ["a.wav"])
    with pytest.raises(InputError, match="'a.wav' has two places or times"):
        clip_metadata.read_metadata(table("a.wav,1,0,2,1,2", "a.wav,1,0,2,1,3"), ["a.wav"])
    with pytest.raises(InputError, match="no row for 'b.wav'"):
        clip_metadata.read_metadata(table("a.wav,1,0,2,1,2"), ["b.wav"])


def test_split_by_sensor(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("sensor_id,split,note\n3,train,\n12,validate,x\n3,train,again\n7,test,\n")
    assert clip_metadata.read_split(path) == {"3": "train", "12": "validate", "7": "test"}
    path.write_text("sensor_id,split\n3,train\n3,test\n")
    with pytest.raises(InputError, match="sensor 3 is in two splits: train, test"):
        clip_metadata.read_split(path)
    path.write_text("sensor_id,split\n3,valid\n")
    with pytest.raises(InputError, match="did you mean 'validate'"):
        clip_metadata.read_split(path)
    path.write_text("sensor,split\n3,train\n")
    with pytest.raises(InputError, match="sensor_id"):
        clip_metadata.read_split(path)
