"""Figures in the sentences of pages are those of the results, or those that are computed here.

Tables of results are filled in by ``tools/refresh_docs.py``. Sentences are written by people: each
that states a figure stands here, made of the figure. After a benchmark has run again, a failure
shows what the page should say.
"""

from __future__ import annotations

import re
import statistics
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tables import RESULTS, Table, load
from l3hpc.audio.decoding import MAX_BLOCK
from l3hpc.compression import plans, sizes
from l3hpc.datasets.corpus import Recording
from l3hpc.datasets.synth import City
from l3hpc.io.files import read_json, write_json
from l3hpc.io.job_path import LEAST_FREE
from l3hpc.models.spec import openl3_spec, parameter_count, student_spec
from l3hpc.worker.node_scratch import LEAST_ROOM

ROOT = Path(__file__).resolve().parents[2]
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
                "ten", "eleven", "twelve")
FILLED = re.compile(r"<!-- filled: .*?<!-- end -->", re.DOTALL)
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)


def tables(benchmark: str) -> list[Table]:
    """The tables of a benchmark on the first processor that has its results."""
    files = [*RESULTS.glob(f"{benchmark}.json"), *sorted(RESULTS.glob(f"*/{benchmark}.json"))]
    return load(files[0])[1]


def cell(benchmark: str, row: str, column: str, where: str = "") -> str:
    """A cell of the first row that begins with ``row`` (and has ``where`` in its second cell)."""
    return next(cells[table.columns.index(column)] for table in tables(benchmark)
                if column in table.columns for cells in table.rows
                if cells[0] == row and where in cells[1])


def figures(benchmark: str) -> dict[str, float]:
    """The figures of all tables of a benchmark."""
    return {name: value for table in tables(benchmark) for name, value in table.figures.items()}


def number(text: str) -> float:
    return float(text.replace(",", ""))


def of_export() -> Iterator[tuple[str, str]]:
    """Flash, memory and accuracy of exported students."""
    def size(network: str, export: str, column: str) -> str:
        return cell("quantised", network, column, export)

    given, exact = "64-d weights given", figures("quantised")
    flash = {kind: size(given, kind, "flash, bytes") for kind in ("plain", "strip-wise")}
    arena = {kind: size(given, kind, "arena recorded, bytes") for kind in flash}
    unseen = cell("quantised", "int8", "frames")
    yield "README.md", (
        f"needs {flash['strip-wise']} bytes of flash and an arena of {arena['strip-wise']} bytes, "
        f"at a mean cosine similarity of {exact['int8 cosine']:.4f} to its float32 embeddings (on "
        f"{unseen} frames not used for calibration)")
    seen = figures("esc10")
    compared = (f"compared with float32: cosine similarity {seen['cosine']:.5f}, relative error "
                f"{seen['relative error']:.4f} ({seen['frames']:.0f} frames)")
    for page, how in (("docs/commands/export.md", "measured"), ("docs/tutorials/sensor.md", "…")):
        yield page, compared
        for kind in flash:
            macs = number(size(given, kind, "multiply-accumulates per frame")) / 1e6
            seconds = size(given, kind, "estimated s per frame, 216 MHz Cortex-M7")
            yield page, (f"{kind} {flash[kind]} bytes of flash, arena {arena[kind]} bytes ({how}), "
                         f"{macs:.1f} million multiply-accumulates, about {seconds} s on a 216 MHz "
                         "Cortex-M7")
    sensor = "docs/tutorials/sensor.md"
    yield sensor, f"weights are stored: {number(flash['strip-wise']) / 1000:.0f} kB"
    yield sensor, f"it needs {number(arena['plain']) / 1000:.0f} kB"
    assert number(arena["strip-wise"]) < number(arena["plain"]) / 2
    yield sensor, "it needs less than half"
    yield sensor, f"#define L3_MODEL_BYTES {number(flash['strip-wise']):.0f} "
    yield sensor, f"#define L3_MODEL_ARENA {number(arena['strip-wise']):.0f} "
    yield sensor, f"It was {seen['first']:.3f} for the first clip"
    page, student = "docs/commands/export.md", "Student 2"
    yield page, ("arena recorded by TensorFlow Lite Micro, bytes | "
                 f"{size(student, 'plain', 'arena recorded, bytes')} | "
                 f"**{size(student, 'strip-wise', 'arena recorded, bytes')}** |")
    yield page, (f"flatbuffer, bytes | {size(student, 'plain', 'flash, bytes')} | "
                 f"**{size(student, 'strip-wise', 'flash, bytes')}** |")
    yield page, (
        f"{size(student, 'plain', 'multiply-accumulates per frame')} | "
        f"{size(student, 'strip-wise', 'multiply-accumulates per frame')} "
        f"(+{size(student, 'strip-wise', 'computed twice')}) |")
    yield page, (f"accuracy {exact['fp32 accuracy']:.4f} in float32, {exact['fp16 accuracy']:.4f} "
                 f"in float16, {exact['int8 accuracy']:.4f} in int8")
    yield page, (f"float32 is {exact['int8 cosine']:.4f} for int8 and "
                 f"{exact['int16x8 cosine']:.4f} for int16x8")
    yield "CHANGELOG.md", (
        f"needs {size(student, 'strip-wise', 'arena recorded, bytes')} bytes of arena instead of "
        f"{size(student, 'plain', 'arena recorded, bytes')}")


def of_esc10() -> Iterator[tuple[str, str]]:
    """A published student on real recordings."""
    found = figures("esc10")

    def spans(name: str) -> str:
        return f"{found[f'{name} low']:.3f} to {found[f'{name} high']:.3f}"

    every, tenth = "svm category", "svm category every 10"
    page, sweep = "docs/tutorials/esc10.md", "docs/tutorials/sweep.md"
    said = {name: f"esc10, svm: accuracy {found[name]:.3f} (95% interval {spans(name)})"
            for name in (every, tenth)}
    yield page, f"svm, 5 folds: accuracy {found[every]:.3f} on average"
    yield page, said[every]
    yield page, f"**{found[f'{every} right'] / 400:.4f}** of the 400 clips are classified correctly"
    yield page, f"The interval, {spans(every)}, is"
    confusion = next(table for table in tables("esc10") if table.title.startswith("Confusion"))
    yield page, "class," + ",".join(confusion.columns[1:]) + " " + " ".join(
        ",".join(row) for row in confusion.rows)
    rows = {row[0]: dict(zip(confusion.columns, row, strict=True)) for row in confusion.rows}
    rain, dogs = (NUMBER_WORDS[int(count)] for count in (
        rows["rain"]["sea_waves"], rows["dog"]["sneezing"]))
    yield page, (f"{rain.title()} clips of rain were taken for sea waves, and {dogs} barking dogs "
                 "for sneezes")
    yield sweep, f"1 done {said[every]} 10 done {said[tenth]}"
    yield sweep, f"{spans(every)} and {spans(tenth)} overlap"
    less = NUMBER_WORDS[int(found[f"{every} right"] - found[f"{tenth} right"])]
    yield sweep, f"The difference is {less} clips of 400"
    assert found["svm target as esc50"] == found["rf target as esc50"] == 400
    yield "docs/pipelines/clips.md", "ESC-10 gives the same predictions in both, clip by clip"
    yield "docs/pipelines/clips.md", (
        f"({found['svm target']:.4f} with a support vector machine and {found['rf target']:.4f} "
        "with a random forest, both on statistics)")
    yield "docs/pipelines/clips.md", f"reaches {found['rf category']:.4f}."


def of_results() -> Iterator[tuple[str, str]]:
    """What else is measured."""
    rate = {name: number(cell("input_share", f"OpenVINO, {name}", "network alone, frames/s"))
            for name in ("float32", "bfloat16", "int8")}
    yield "docs/steps/extract.md", (
        f"{rate['bfloat16'] / rate['float32']:.1f} and {rate['int8'] / rate['float32']:.1f} times "
        "as fast as in float32")
    found = figures("intervals")
    yield "docs/steps/evaluate.md", (
        f"in {found['60 positives']:.1%} of the cases if sixty clips have the tag, in "
        f"{found['10 positives']:.1%} if ten have it, and in {found['3 positives']:.1%} if three "
        "have it")
    small, half = ([f"{found[f'{metric} {level}']:.1%}"
                    for metric in ("AUPRC", "F1 at 0.5", "accuracy")] for level in (0.05, 0.5))
    yield "docs/commands/compare.md", (
        f"{small[0]} have a p of at most 0.05 for AUPRC, {small[1]} for F1 and {small[2]} for "
        f"accuracy (exact would be 5%), and {half[0]}, {half[1]} and {half[2]} a p of at most 0.5")
    means = [statistics.mean(number(cell("students", f"{size}-d, {sampling}", "accuracy"))
                             for sampling in ("dpp", "dpp-div", "spl", "random"))
             for size in (32, 64)]
    yield "docs/recipe.md", f"their accuracy is {means[0]:.3f} and {means[1]:.3f}."
    [demo] = [claim for table in tables("first_run") for claim in table.claims]
    yield "README.md", f"takes about {NUMBER_WORDS[round(demo.measured / 60)]} minutes on two cores"
    files, left = (int(number(cell("big_array", name, "files")))
                   for name in ("the finished run", "runs pack"))
    before, after = (number(cell("big_array", name, "MB"))
                     for name in ("the finished run", "runs pack"))
    yield "docs/commands/runs.md", (
        f"{files - left + 1:,} files packed; {files:,} files ({before * 1000:.0f} kB) → {left} "
        f"({after:.1f} MB)")


def of_a_gpu() -> Iterator[tuple[str, str]]:
    """Sums of the parts of the teacher, in bfloat16."""
    parts = [row for table in tables("gpu") if table.title == "Parts of the teacher"
             for row in table.rows if row[1] == "bfloat16"]
    first, product = (number(row[3]) for row in parts if row[0].startswith("convolution 1"))
    pools = sum(number(row[3]) for row in parts if "pooling" in row[0])
    others = sum(number(row[3]) for row in parts if row[0].startswith("convolution")) \
        - first - product
    rate = number(cell("gpu", "matrix product 8192³, bfloat16", "measured").split()[0]) * 1e12
    copy = number(cell("gpu", "copy on the device, read and written", "measured").split()[0]) * 1e9
    spec, operations, before, moved = openl3_spec(), [], 1, 0.0
    for index, channels in enumerate(spec.filters):
        places = spec.maps[index // 2][0] * spec.maps[index // 2][1]
        operations.append(18 * places * before * channels)
        before = channels
        if index in (1, 3, 5):
            moved += 2 * channels * places * 1.25  # reads a map in 16 bits, writes a quarter
    page = "docs/benchmarks.md"
    yield page, (f"convolutions 2 to 8 take {others:.1f} µs per frame, "
                 f"{sum(operations[1:]) / others / 1e-6 / rate:.2f} of the matrix rate, the first "
                 f"convolution alone {first:.1f}, and the three max poolings together {pools:.1f}")
    yield page, f"as a matrix product ({product:.1f} µs,"
    yield page, ("add up to "
                 f"{sum(operations) / (others + product + pools) / 1e-6 / rate:.2f} of the matrix")
    yield page, (f"poolings in {sum(operations) / rate * 2e6 - others - product:.1f} µs; at the "
                 f"measured rate of a copy they would take {moved / copy * 1e6:.1f}.")


def of_computations() -> Iterator[tuple[str, str]]:
    """Counts and sizes that follow from definitions."""
    yield "README.md", f"{parameter_count(openl3_spec()) / 1e6:.1f} million parameters"
    for size, width in ((512, 1), (256, 0.5), (128, 0.5), (64, 0.5)):
        filters = [*(int(width * each) for each in (64, 64, 128, 128, 256, 256)), size, size]
        count = parameter_count(student_spec(emb_dim=size, filters=filters, head="relu"))
        yield "docs/steps/train.md", f"| {size} | {' '.join(map(str, filters))} | {count:,} |"
    for plan, percent in plans.PUBLISHED.items():
        left = round(sizes.published_size(percent).remaining)
        also = ", `edgel3`" if plan == "95.45" else ""
        yield "docs/steps/prune.md", (
            f"| `{plan}`{also} | {' '.join(f'{one:g}' for one in percent)} | {left:,} |")
    found = sizes.published_size(plans.parse_plan("edgel3"))
    yield "docs/steps/compare.md", (
        f"gives EdgeL3 {round(found.remaining):,} parameters and {found.mb:.3f} MB")
    yield "docs/steps/extract.md", f"more than {MAX_BLOCK / 48000:.0f} seconds at 48 kHz"
    yield "docs/cluster.md", f"less than {LEAST_FREE / 1e9:.1f} GB free"
    yield "docs/cluster.md", f"if less than {LEAST_ROOM / 1e6:.0f} MB are left"
    city = City(recordings_per_sensor=20, ust_clips=60)
    seconds = (city.sensors * city.recordings_per_sensor + city.ust_clips) * city.seconds
    yield "docs/commands/data.md", (
        f"{seconds / 60:.0f} minutes of sound, {seconds * city.rate * 2 / 1e6:.0f} MB")


QUOTED = [*of_export(), *of_esc10(), *of_results(), *of_a_gpu(), *of_computations()]


def plain(text: str) -> str:
    """Text with single spaces."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("page", "sentence"), QUOTED,
                         ids=[f"{page}: {text[:50]}" for page, text in QUOTED])
def test_a_page_states_what_was_measured(page: str, sentence: str) -> None:
    assert plain(sentence) in plain((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["docs/benchmarks.md", "docs/recipe.md", "docs/scale.md"])
def test_every_decimal_of_the_sentences_stands_in_a_table_or_is_held_here(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    given = " ".join([*FILLED.findall(text),
                      *(sentence for name, sentence in QUOTED if name == page)])
    have = {number(each) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", given)}
    sentences = re.sub(r"`[^`]*`|\]\([^)]*\)", "", FENCE.sub("", FILLED.sub("", text)))
    for each in re.findall(r"(?<![\d.])\d+\.\d+(?![\d.]|e-)", sentences):
        digits = len(each.partition(".")[2])
        assert each in HELD.get(page, ()) or any(
            round(value * unit, digits) == float(each) for value in have
            for unit in (1, 100, 0.01)), f"{each}: where does it come from?"


HELD = {"docs/scale.md": (  # by the tests below, and settings
    "0.22", "0.33", "0.84", "1.3", "1.5", "2.11", "3.7", "7.4", "4.2", "0.5")}


def test_the_frozen_configuration_of_many_recordings(tmp_path: Path) -> None:
    count = 5000
    recordings = [Recording(f"{number:060d}", "sonycnode-b827eb13bdeb", 1511150000.0 + number,
                            None, 960_044, 1795982848065863000 + number).as_json()
                  for number in range(count)]
    shards = [{"recordings": recordings[start:start + 64]} for start in range(0, count, 64)]
    write_json(tmp_path / "config.json", {"shards": shards})
    kilobytes = (tmp_path / "config.json").stat().st_size / count / 1000
    tracemalloc.start()
    read_json(tmp_path / "config.json")
    held = tracemalloc.get_traced_memory()[1] / count / 1000
    tracemalloc.stop()
    # the memory of a Python object varies with its version
    assert f"{kilobytes:.2f}" == "0.22" and held == pytest.approx(0.84, abs=0.1)
    files = 30e6 / 1024
    page = plain((ROOT / "docs/scale.md").read_text(encoding="utf-8"))
    assert "grows by 0.22 kB per audio file, and takes 0.84 kB per file in memory" in page
    assert (f"that is {0.22 * files / 1000:.0f} MB on disk and {0.84 * files / 1000:.0f} MB in "
            "memory") in page
    assert f"it is {0.22 * 1.5:.2f} GB on disk and another {0.84 * 1.5:.1f} GB in every" in page


def test_what_architecture_says_of_a_module() -> None:
    lines = [len(path.read_text(encoding="utf-8").splitlines())
             for path in (ROOT / "l3hpc").rglob("*.py") if path.name != "__init__.py"]
    [said] = re.findall(r"A module is about (\d+) lines long \(the median\)",
                        (ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    assert statistics.median(lines) == pytest.approx(int(said), rel=0.1)
