"""The cost of the published scale: plain arithmetic, checked by other arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cost, scaling
from benchmarks.tables import RESULTS, load
from l3hpc.models.spec import openl3_spec, student_spec

KNOWN = {
    "extract core_s_per_row": 0.12, "task start core_s": 1.8, "extract teacher peak_mb": 400.0,
    "sample, days of 5,480 rows core_s_per_row": 3.6e-5,
    "sample, days of 5,480 rows peak_mb": 150.0, "fit core_s_per_row": 7.2e-3, "fit peak_mb": 120.0,
    "reduce core_s_per_row": 1.2e-5, "reduce peak_mb": 100.0, "train core_s_per_row": 6e-4,
    "train peak_mb": 800.0, "train bytes_per_row": 178.0, "train core_s_per_batch": 0.75,
    "embed student2 core_s_per_row": 0.001, "embed peak_mb": 210.0}
PUBLISHED = {"openl3 per_s": 12.5, "gzip rows_per_s": 5_000.0, "feed ms_per_batch": 900.0}


def lines(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[1:] for row in rows[2:]}


def test_operations_of_the_teacher_and_of_a_training_step() -> None:
    assert cost.flops(openl3_spec()) / 1e9 == pytest.approx(20.405, abs=0.001)
    # Student 2 by hand: kernel, channels in and out, size of the map
    by_hand = 18 * (32 * 3200 + 32 * 32 * 3200 + 32 * 64 * 800 + 64 * 64 * 800
                    + 64 * 128 * 192 + 128 * 128 * 192 + 2 * 128 * 128 * 48)
    assert cost.flops(student_spec()) == by_hand
    assert cost.step_flops() == 192 * by_hand


def test_core_hours() -> None:
    rows = lines(cost.core_hours(KNOWN | PUBLISHED))
    assert rows["extract"][1:4] == ["1,000", "1", "0.4 GB"]  # 30e6 · 0.12 s + 1,000 · 1.8 s
    assert rows["sample"][1:4] == ["0.3", "0.02", "0.33 GB"]  # and 90 bytes of 2 million rows
    assert rows["fit"][1:4] == ["1", "1", "0.12 GB"]
    assert rows["reduce"][1:3] == ["0.6", "0.0006"]
    assert rows["train: spectra"][1:4] == ["5", "5", "6.1 GB"]  # 178 bytes of 30 million rows
    # 300 · (4,096 + 1,024 / 3) · 0.75 s
    assert rows["train: steps"][1] == "277"
    assert rows["upstream, all"][1] == "**1,285**"
    assert float(rows["embed (SONYC-UST)"][1]) == pytest.approx(18_510 * 91 / 3.6e6, rel=5e-3)
    assert "2 TB" in rows["fit"][4] and "750 GB" in rows["sample"][4]
    assert "1,333 core-hours" in rows["extract"][4]  # 30e6 windows · 2 cores / 12.5 per second
    assert "1.7 core-hours" in rows["reduce"][4]  # 30e6 rows / 5,000 per second
    assert "307 core-hours" in rows["train: spectra"][4]  # 300 · 4,096 · 0.9 s
    few = lines(cost.core_hours(KNOWN | {"train bytes_per_row": 7.0}))
    assert few["train: spectra"][3] == "2.6 GB"  # 60 bytes are known to be kept
    assert cost.UNKNOWN in few["extract"][4]


def test_the_speeds_of_the_published_method_are_those_of_the_results() -> None:
    assert cost.published(RESULTS).keys() == cost.PUBLISHED.keys() == PUBLISHED.keys()
    [_, _, rate] = cost.PUBLISHED["openl3 per_s"]
    table = load(RESULTS / "teacher.json")[1][0]
    assert cost.published(RESULTS)["openl3 per_s"] == float(
        table.rows[0][table.columns.index(rate)])
    assert cost.published(Path("nowhere")) == {}


def test_what_is_not_measured_is_said_and_spoils_the_sum_alone() -> None:
    rows = lines(cost.core_hours({name: KNOWN[name] for name in KNOWN if "fit" not in name}))
    assert rows["fit"][1:4] == [cost.UNKNOWN] * 3
    assert rows["upstream, all"][1] == cost.UNKNOWN
    assert rows["extract"][1] == "1,000"
    assert cost.figures(Path("nowhere.json")) == {}


def test_gpu_hours_are_at_the_measured_rates() -> None:
    rows = lines(cost.gpu_hours({
        "gpu teacher tf32 per_s": 10_000.0, "gpu extract tf32 per_s": 2_000.0,
        "gpu train tf32 s": 0.006}))
    unknown = cost.UNKNOWN
    assert rows["extract, network and front end"][1:] == ["612.2", unknown, "0.83", unknown]
    assert rows["extract, from FLAC files on"][2:] == [unknown, "4.2", unknown]
    train = rows["train, 300 × 4,096 steps"]
    assert train[1:] == [f"{300 * 4096 * cost.step_flops() / 1e15:.1f}", unknown, "2", unknown]
    assert rows["train, 300 × 1,024 batches of validation"][3] == "0.17"


def test_terabytes() -> None:
    rows = lines(cost.terabytes({}))
    assert rows["audio, 48 kHz, 16 bit"][:3] == ["1.44", "1.44", "0"]
    teacher = rows["teacher's embeddings, with provenance"]
    assert teacher[0] == f"{30e6 * (512 * 4 + 28) / 1e12:.3g}"
    assert rows["reduced embeddings"][0] == "0.0154"
    spectra = rows["spectra and targets for training (removed at the end)"]
    assert spectra[0] == f"{30e6 * (64 * 50 * 4 + 512) / 1e12:.3g}"
    assert rows["300 epochs of training"][1] == f"{300 * 5120 * 64 * 13_312 / 1e12:.3g}"
    on_disk = [float(row[0].strip("*")) for row in rows.values()]
    assert on_disk[-1] == pytest.approx(sum(on_disk[:-1]), rel=0.01)


def test_the_prediction_for_one_sensor_is_its_share_of_the_tables() -> None:
    rows, samples = cost.WINDOWS // cost.SENSORS, cost.SAMPLES // cost.SENSORS
    predicted, whole = cost.one_sensor(KNOWN, rows, samples), lines(cost.core_hours(KNOWN))
    assert f"{predicted['sample'].core_s * cost.SENSORS / 3600:.3g}" == whole["sample"][1]
    assert f"{predicted['sample'].peak_mb / 1e3:.2g} GB" == whole["sample"][3]
    assert predicted["fit"].core_s == pytest.approx(samples * 7.2e-3)
    # a row of 512 values is read, one of 128 written and read again
    assert predicted["reduce"].read_gb == pytest.approx(rows * 2560 / 1e9)
    assert predicted["reduce"].written_gb == pytest.approx(rows * 512 / 1e9)


def test_figures_of_all_tables_of_a_results_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"tables": [
        {"figures": {"a": 1.0}}, {"title": "without"}, {"figures": {"b": 2.0}}]}))
    assert cost.figures(tmp_path / "x.json") == {"a": 1.0, "b": 2.0}


def test_the_benchmark_measures_every_figure_that_the_page_wants() -> None:
    source = Path(scaling.__file__).read_text()
    steps = {case.name for case in scaling.CASES}
    for name in KNOWN:
        step, _, figure = name.rpartition(" ")
        by_step = step in steps and figure in (
            "peak_mb", "core_s_per_row", "bytes_per_row")
        assert by_step or f'"{name}"' in source, name
