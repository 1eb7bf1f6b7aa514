"""A small SONYC-UST data set made on the fly, in version 1 and version 2."""

import csv

import numpy as np
import pytest

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy

V1 = ["split", "sensor_id", "audio_filename", "annotator_id"]
V2 = [*V1, "year", "week", "day", "hour", "borough", "block", "latitude", "longitude"]


@pytest.fixture
def taxonomy():
    return sonyc_ust_taxonomy()


@pytest.fixture
def write_annotations(tmp_path):
    def write(rows, taxonomy, *, version=2, name="annotations.csv"):
        """rows: (split, sensor, file, annotator, {column stem: presence, column: proximity})."""
        keys = V2 if version == 2 else V1
        tags = taxonomy.fine_columns + taxonomy.coarse_columns
        columns = keys + [f"{tag}_presence" for tag in tags]
        fine = len(keys) + len(taxonomy.fine)
        columns[fine:fine] = [f"{tag}_proximity" for tag in taxonomy.fine_columns]
        path = tmp_path / name
        with open(path, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            for split, sensor, file, annotator, present in rows:
                cells = [split, sensor, file, annotator, *[1] * (len(keys) - 4)]
                cells += [present.get(column.removesuffix("_presence"), 0)
                          if column.endswith("_presence") else present.get(column, -1)
                          for column in columns[len(keys):]]
                writer.writerow(cells)
        return path

    return write


@pytest.fixture
def random_truth():
    def make(rng, clips, tags, share=0.3):
        return rng.random((clips, tags)) < share

    return make


@pytest.fixture
def rng():
    return np.random.default_rng(7)
