"""Selecting rows of a corpus: what is kept of each row meanwhile."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from l3hpc.arrays.features import FeatureRows
from l3hpc.arrays.rows import ChunkRows, ConcatRows, SubsetRows, in_order_only
from l3hpc.sampling.kdpp import KDPP
from l3hpc.sampling.subset import EmbeddingCorpus, select_frames

DAY_S = 86_400


class Part:
    """A file of embeddings whose provenance is computed; ``sensors`` take turns of ``run`` rows."""

    dim = 2

    def __init__(self, rows, sensors=1, run=1):
        self.rows = rows
        self.values = {
            "recording": (np.arange(rows, dtype=np.int32) // run % sensors).astype(np.int32),
            "timestamp": 1.5e9 + np.arange(rows) * (20 * DAY_S / rows),
            "loudness": (np.arange(rows, dtype=np.int64) * 7919 % 1009).astype(np.float32),
            "recordings/sensor": np.array([f"s{number}" for number in range(sensors)], object)}

    def provenance(self, only=None):
        return self.values


def corpus(*parts):
    return EmbeddingCorpus(SimpleNamespace(parts=parts, dim=2, path="x", refuse_empty=lambda: None))


def chosen(found, sensor="s0", samples=40):
    return [(one.frame, one.rows.tolist()) for one in select_frames(
        found, sensor, samples, method="spl", timescale="day", timezone="UTC", epsilon=1e-3,
        norm="l2", seed=1)]


@pytest.mark.parametrize("rows", [1, 999])
def test_rows_of_one_sensor_are_selected_alike_whether_they_are_neighbours_or_not(rows):
    alone, other = Part(rows), Part(7)
    other.values["recordings/sensor"] = np.array(["other"], object)
    expected = chosen(corpus(alone))
    after = chosen(corpus(other, alone))
    assert [(frame, [row - 7 for row in found]) for frame, found in after] == expected
    # every second row
    mixed = Part(2 * rows, sensors=2)
    for name in ("timestamp", "loudness"):
        mixed.values[name] = np.repeat(alone.values[name], 2)
    assert [(frame, [row // 2 for row in found]) for frame, found in chosen(corpus(mixed))
            ] == expected


def test_the_columns_of_a_sensor_are_not_copied():
    rows = 1 << 19
    found = corpus(Part(rows))
    columns = found.columns
    assert sum(column.nbytes for column in columns.values()) == 16 * rows
    tracemalloc.start()
    try:
        chosen(found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 45 * rows, f"{peak / rows:.0f} bytes per row"


def test_the_determinant_of_a_large_sample_is_computed_in_blocks():
    values = np.random.default_rng(0).standard_normal((20_000, 3))
    largest = []

    class Rows:
        shape = values.shape

        def chunks(self, size=4096):
            return (values[start:start + size] for start in range(0, len(values), size))

        def take(self, indices):
            largest.append(len(indices))
            return values[indices]

    picked = np.arange(0, 20_000, 2)
    found = KDPP(Rows(), epsilon=0.1).log_det(picked)
    sign, right = np.linalg.slogdet(np.eye(3) + values[picked].T @ values[picked] / 0.1)
    assert found == pytest.approx(right + len(picked) * np.log(0.1), rel=1e-12) and sign == 1
    assert max(largest) <= 4096


def test_rows_that_are_only_read_in_order_are_known_in_any_wrapping():
    values = np.zeros((4, 2))
    chunks = ChunkRows(lambda: [values], values.shape)
    for wrap in (FeatureRows, lambda rows: SubsetRows(rows, np.arange(2)),
                 lambda rows: ConcatRows([values, rows]),
                 lambda rows: SubsetRows(FeatureRows(rows), np.arange(2))):
        assert in_order_only(wrap(chunks)) and not in_order_only(wrap(values))
