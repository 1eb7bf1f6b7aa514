"""The harness of the benchmarks: what it measures, prints and writes."""

from __future__ import annotations

import datetime
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import measure, sensor_year, shared_files, tables
from benchmarks.machine import about, machine, processor_folder
from benchmarks.tables import Claim, Table

HOLD = "import json, time; x = b'x' * ({mb} << 20); print('chatter'); print(json.dumps({values}))"


def python(mb: int, **values: object) -> list[str]:
    return [sys.executable, "-c", HOLD.format(mb=mb, values=repr(values))]


def test_the_line_about_a_machine_names_the_library_of_the_products() -> None:
    """A variable in the environment can make it half as fast."""
    here = machine()
    assert here["blas"].startswith("openblas 0.") and about(here).endswith(f", {here['blas']}")
    earlier = {name: value for name, value in here.items() if name != "blas"}
    assert f"{about(earlier)}, {here['blas']}" == about(here)


def test_a_machine_without_threadpoolctl_is_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU has no package of ours, and is described after the measurements."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    here = machine()
    assert here["blas"] is None and "openblas" not in about(here)


def test_a_worker_says_its_seconds_and_the_system_says_its_memory() -> None:
    small = measure.alone(python(200, seconds=12.5, loss=0.5))
    large = measure.alone(python(400))
    assert small.seconds == 12.5 and small.values["loss"] == 0.5
    assert 0 < large.seconds < 600  # it printed none: the whole process
    assert 205 < large.peak_mb - small.peak_mb < 215


def test_bytes_and_cpu_time_are_those_of_the_process_and_its_children(tmp_path: Path) -> None:
    file = tmp_path / "file"
    copy = ("import json, subprocess, time; data = open('/dev/zero', 'rb').read(30_000_000); "
            f"open({str(file)!r}, 'wb').write(data); "
            f"subprocess.run(['cp', {str(file)!r}, {str(tmp_path / 'copy')!r}], check=True); "
            "print(json.dumps({'own_s': time.process_time()}))")
    found = measure.alone([sys.executable, "-c", copy])
    assert 60 < found.read_mb < 100 and 59 < found.written_mb < 70
    assert found.cpu_s >= found.values["own_s"] > 0


def test_a_sensor_year_that_does_not_fit_on_the_disk_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_year.shutil, "disk_usage",
                        lambda folder: SimpleNamespace(free=10**10))
    with pytest.raises(SystemExit, match=r"10\.0 GB free, and 7,409,500 rows need 20\.\d GB"):
        sensor_year.tables(False, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="status 3"):
        measure.alone([sys.executable, "-c", "raise SystemExit(3)"])


def test_sides_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sides = {name: [sys.executable, "-c", f"open({str(log)!r}, 'a').write({name!r});"
                    f"print('{{\"seconds\": ' + str({seconds}) + '}}')"]
             for name, seconds in (("a", 1), ("b", 2))}
    found = measure.in_turn(sides, runs=3)
    assert log.read_text() == "ababab"
    assert measure.middle(found["b"]) == 2 and len(found["a"]) == 3


def test_middle_is_the_median_of_what_is_asked() -> None:
    runs = [measure.Measured(seconds, 10 * seconds, {"rate": -seconds}) for seconds in (5, 1, 2)]
    assert (measure.middle(runs), measure.middle(runs, "peak_mb")) == (2, 20)
    assert measure.middle(runs, "rate") == -2


@pytest.mark.parametrize(("measured", "at_least", "met"), [
    (2.2, True, True), (2.1, True, False), (2.1, False, True), (2.3, False, False)])
def test_a_claim_is_met_or_missed(measured: float, at_least: bool, met: bool) -> None:
    claim = Claim("part", "peer", measured, 2.2, at_least=at_least)
    assert claim.met is met
    assert ("(missed)" in tables.claims_markdown([claim])) is not met


def test_results_are_written_and_read_again(tmp_path: Path) -> None:
    table = Table("PCA", ["side", "s"], [["ours", "1.0"]], ["small"], [Claim("a", "b", 3, 2)],
                  {"rows_per_s": 2.5})
    tables.write_results(tmp_path / "new" / "pca.json", "pca", machine(), [table], quick=False)
    found, again = tables.load(tmp_path / "new" / "pca.json")
    assert found["benchmark"] == "pca" and found["machine"]["cores"] >= 1
    assert again[0].claims == [Claim("a", "b", 3, 2)] and again[0].figures == {"rows_per_s": 2.5}
    assert again[0].markdown() == ("### PCA\n\n| side | s |\n|---|---|\n| ours | 1.0 |\n\n* small")


STATS = """device proc mounted on /proc with fstype proc
device here:/ mounted on /mnt/a with fstype nfs4 statvers=1.1
\tbytes:\t1 2 0 0 5000 600 1 1
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 2 2 0 400 6000 0 1 1 0
\t       WRITE: 0 0 0 0 0 0 0 0 0
device here:/ mounted on /mnt/b with fstype nfs4 statvers=1.1
\tbytes:\t1 2 0 0 7 8 1 1
\tper-op statistics
\t        READ: 9 2 0 400 6000 0 1 1 0
"""


def test_requests_are_those_of_one_mount(tmp_path: Path) -> None:
    assert shared_files.requests(STATS, "/mnt/a") == {"read": 5000, "written": 600, "READ": 2}
    with pytest.raises(SystemExit, match="only root|not on NFS; give a folder on NFS with --work"):
        shared_files.mount_of(tmp_path)


def test_committed_results_are_whole() -> None:
    from benchmarks.__main__ import BY_HAND, NAMES

    for path in tables.RESULTS.glob("**/*.json"):
        found, all_tables = tables.load(path)
        assert found["quick"] is False and found["benchmark"] == path.stem
        assert path.stem in (*NAMES, *BY_HAND) and all_tables
        for table in all_tables:
            assert all(len(row) == len(table.columns) for row in table.rows), table.title
        json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("value", "digits", "text"), [
    (133.4, 2, "130"), (133.4, 3, "133"), (1333.0, 2, "1,300"), (5.41e-06, 3, "5.41e-6"),
    (1e-4, 3, "0.0001"), (1 / 3, 3, "0.333"), (0.0, 3, "0"), (66.0, 3, "66"), (-3.714, 3, "-3.71"),
    (9.999, 2, "10"), (999.6, 3, "1,000"), (2.20, 3, "2.2"), (29_500_000.0, 3, "29,500,000"),
    (float("inf"), 3, "inf"), (0.0012345, 3, "0.00123")])
def test_a_figure_is_written_as_a_person_writes_it(value: float, digits: int, text: str) -> None:
    assert tables.figure(value, digits) == text


def test_a_claim_without_a_unit_has_no_space_in_its_bold_type() -> None:
    line = tables.claims_markdown([Claim("error", "peer", 5.41e-6, 1e-4, "", at_least=False)])
    assert line.splitlines()[-1] == "| error | peer | **5.41e-6** | lower | ≤ 0.0001 |  |"


def test_every_claim_says_what_it_is_held_to_and_which_direction_is_better() -> None:
    claims = [Claim("faster", "peer", 2, 1), Claim("memory", "", 3, 9, "MB", at_least=False)]
    for judged in (True, False):
        lines = tables.claims_markdown(claims, judged=judged).splitlines()[-2:]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [(row[1], row[3]) for row in cells] == [("peer", "higher"), ("a target", "lower")]


def test_small_sizes_are_not_judged_by_the_targets_of_the_full_ones() -> None:
    text = tables.claims_markdown([Claim("part", "peer", 0.5, 300)], judged=False)
    assert "missed" not in text and "300" not in text and "**0.5 ×**" in text


def test_no_committed_figure_reads_like_a_program_printed_it() -> None:
    pages = [tables.RESULTS.parent.parent / name for name in (
        "README.md", "docs/benchmarks.md", "docs/scale.md", "docs/recipe.md")]
    for page in pages:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"\de\+\d| \*\* \|", line), f"{page.name}: {line}"


@pytest.mark.parametrize(("name", "flags", "folder"), [
    ("AMD EPYC", "fma avx2 avx512f", tables.REFERENCE),
    ("AMD EPYC", "fma avx2", "amd-epyc-avx2"),
    ("AMD EPYC 7B13 64-Core Processor", "avx2", "amd-epyc-7b13-avx2"),
    ("Intel(R) Xeon(R) Processor", "avx512f amx_tile amx_bf16", "intel-xeon-amx"),
    ("Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz", "", "intel-core-i7-9700k")])
def test_every_processor_has_a_folder(name: str, flags: str, folder: str) -> None:
    assert processor_folder(name, flags) == folder


def test_claims_give_the_range_over_the_processors(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(folder: Path, processor: str, instructions: str, *claims: Claim) -> None:
        here = {**machine(), "processor": processor, "instructions": instructions}
        tables.write_results(folder / "kdpp.json", "kdpp", here, [
            Table("k-DPP", ["s"], [["1"]], claims=claims)], quick=False)

    today = datetime.date.today().isoformat()

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    measured(tmp_path, "EPYC", "AVX-512", Claim("n", "DPPy", 480, 300),
             Claim("memory", "DPPy", 13, 8), Claim("first", "DPPy", 7, 8))
    measured(tmp_path / "old", "EPYC", "AVX2", Claim("memory", "DPPy", 14, 8),
             Claim("first", "DPPy", 9, 8))
    measured(tmp_path / "new", "EPYC", "AVX-1024", Claim("memory", "DPPy", 7, 8))
    measured(tmp_path / "xeon", "Xeon", "AMX", Claim("n", "DPPy", 299, 300),
             Claim("AMX", "DPPy", 9, 8))
    lines = tables.compared_markdown(tables.compared(["kdpp", "unknown"])).splitlines()[2:]
    assert lines == [
        "| n | DPPy | **299 to 480 ×** (missed on Xeon with AMX) | higher | ≥ 300 × |  | "
        f"EPYC with AVX-512, {today}; Xeon with AMX, {today} |",
        "| memory | DPPy | **7 to 14 ×** (missed on EPYC with AVX-1024) | higher | ≥ 8 × |  | "
        f"EPYC with AVX-512, {today}; EPYC with AVX-1024, {today}; EPYC with AVX2, {today} |",
        "| first | DPPy | **7 to 9 ×** (missed on EPYC with AVX-512) | higher | ≥ 8 × |  | "
        f"EPYC with AVX-512, {today}; EPYC with AVX2, {today} |",
        f"| AMX | DPPy | **9 ×** | higher | ≥ 8 × |  | Xeon with AMX, {today} |"]


def test_every_claim_says_where_and_when_it_was_measured() -> None:
    from benchmarks.__main__ import BY_HAND, NAMES

    for row in tables.compared([*NAMES, *BY_HAND]):
        assert len(row.measured_on) == len(row.all), row.claim.part
        for text in row.measured_on:
            assert re.fullmatch(r".+, (\d{4}-\d\d-\d\d|no date)", text), row.claim.part


def test_results_of_another_processor_do_not_replace_those_of_the_reference(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for here, folder in ((tables.REFERENCE, tables.RESULTS), ("xeon", tables.RESULTS / "xeon")):
        monkeypatch.setattr(tables, "this_processor", lambda here=here: here)
        assert tables.results_file("pca") == folder / "pca.json"


def test_a_precision_that_the_processor_does_not_compute_is_left_out(
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    from benchmarks.teacher import runs_here
    from l3hpc.models import openvino_engine

    for has in (False, True):
        monkeypatch.setattr(openvino_engine, "computes_bfloat16", lambda has=has: has)
        assert runs_here("openvino", "bfloat16") is has and runs_here("openvino", "float32")
    assert not runs_here("no_such_library", "float32")
