import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from chromium import PROGRAM, Browser

from l3hpc.report.data import (
    Changed,
    Link,
    Problem,
    ReportData,
    Span,
    StepFacts,
    StepFiles,
    StepTimes,
    TaskTimes,
)
from l3hpc.report.detection import plain_tags
from l3hpc.report.ledger_rows import LedgerRow, record
from l3hpc.report.page import RANDOM_TEACHER, components_table, page
from l3hpc.report.results import (
    Comparison,
    Curve,
    Epoch,
    Metric,
    Network,
    Scores,
    Variance,
    Variant,
)

VOID = {"meta", "br"}
HOSTILE = '"><script>alert(1)</script><img src=http://outside.invalid/x onerror=alert(1)>'


class Reader(HTMLParser):
    """Collects elements and text, and refuses a document whose elements do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.elements, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def visible(text):
    return " ".join(read(text).words)


def test_shows_the_numbers_it_was_given(report_data):
    words = visible(page(report_data))
    for expected in ("0.543", "0.432", "0.346", "0.511", "0.613", "0.438", "75.0%", "0.8125",
                     "584,420", "2.34 MB", "4,691,908", "18.768", "409,600",
                     "13,041,664", "2,404,321 bytes", "6 positives in 24 recordings", "2:05 min",
                     "0.125 (0.188 for always", "0.713 (0.513 at 0.5)", "0.500 (not chosen)",
                     "too few positives", "0.732", "0.234", "1,250", "7c1e22ab00112233", "ada",
                     "20180216", "512 → 2 dimensions"):
        assert expected in words, expected


def test_every_score_has_its_interval_beside_it_and_the_page_says_how_it_was_found(report_data):
    intervals = {"micro_auprc": (0.111, 0.112), "micro_f1": (0.221, 0.222),
                 "macro_auprc": (0.331, 0.332)}
    curve = Curve("dog", 0.44, (0.0, 1.0), (1.0, 0.5), 6, 24, (0.441, 0.442))
    scores = Scores("test", "fine", 0.11, 0.22, 0.33, (curve,), 24, 0.95, intervals,
                    "percentiles over clips drawn with replacement", 1000)
    told = visible(page(replace(report_data, scores=(scores,))))
    for text in ("95% CI 0.111 to 0.112; F1@0.5 0.220 (0.221 to 0.222), macro-AUPRC "
                 "0.330 (0.331 to 0.332) on test", "0.441 to 0.442", "0.440 (0.441 to 0.442)",
                 "0.110 (0.111 to 0.112)", "Ranges are 95% intervals: percentiles over clips drawn "
                 "with replacement, 1,000 times."):
        assert text in told, text
    assert told.count("0.441 to 0.442") == 2  # beside the curve and in the table
    bare = visible(page(replace(report_data, scores=(
        Scores("test", "fine", 0.11, 0.22, 0.33, (replace(curve, interval=None),), 24),))))
    assert "Ranges are" not in bare and "0.441 to 0.442" not in bare


def test_several_seeds_have_their_standard_deviation(report_data):
    scores = Scores("validate", "coarse", 0.5, 0.4, 0.3, spread={
        "micro_auprc": 0.011, "micro_f1": 0.012, "macro_auprc": 0.013}, seeds=3)
    told = visible(page(replace(report_data, scores=(scores,))))
    assert "mean of 3 seeds, standard deviation 0.011; F1@0.5 0.400 ± 0.012" in told
    assert "0.500 ± 0.011" in told and "curves are those of the first" in told
    assert "Detector" not in told


def test_same_findings_same_bytes(report_data):
    assert page(report_data) == page(replace(report_data))


def test_random_teacher_is_announced_and_a_trained_one_is_not(report_data):
    assert RANDOM_TEACHER in visible(page(report_data))
    assert RANDOM_TEACHER not in visible(page(replace(report_data, teacher_trained=True)))


def test_hostile_names_stay_text(report_data):
    hostile = ReportData(
        run=HOSTILE, title=HOSTILE, created=HOSTILE, teacher=HOSTILE,
        variance=Variance(HOSTILE, 4, 2, 3, (0.5, 0.2)),
        scores=(Scores(HOSTILE, HOSTILE, 0.5, 0.5, 0.5,
                       (Curve(HOSTILE, 0.5, (0.0, 1.0), (1.0, 0.5), 1, 2),)),),
        networks=(Network(HOSTILE, HOSTILE, 2, 10, 10),), model_file=HOSTILE,
        steps=(StepFacts(HOSTILE, (HOSTILE,), HOSTILE, detail=HOSTILE, fingerprint=HOSTILE),),
        ledger=(LedgerRow(HOSTILE, ((HOSTILE, HOSTILE),)),), provenance=((HOSTILE, HOSTILE),),
        notes=(HOSTILE,), remarks=(HOSTILE,), headline=(HOSTILE, 1.0, HOSTILE),
        state=HOSTILE, next_command=HOSTILE,
        problems=(Problem(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),),
        timeline=(StepTimes(HOSTILE, (TaskTimes(0, HOSTILE, (
            Span("running", 0.0, 1.0, HOSTILE),)),)),),
        files=(StepFiles(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        changed=(Changed(HOSTILE, HOSTILE, HOSTILE, HOSTILE),), links=(Link(HOSTILE, HOSTILE),),
        sweep=Comparison((HOSTILE,), (Metric(HOSTILE, "higher"),), tuple(
            Variant(HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, {HOSTILE: float(index)},
                    (Epoch(1, 1.0, 1.0),), HOSTILE) for index in range(3))))
    reader = read(page(hostile))
    usual = {tag for tag, _ in read(page(report_data)).elements}
    assert {tag for tag, _ in reader.elements} <= usual
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    assert HOSTILE in visible(page(hostile))


def test_nothing_points_outside(report_data):
    for tag, attrs in read(page(report_data)).elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "action", "background", "srcset", "style"} & set(attrs), tag
        assert tag == "a" or "href" not in attrs
        assert attrs.get("href", "#").startswith(("#", "../demo-0/"))
    text = page(report_data)
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_pictures_have_text_beside_them(report_data):
    reader = read(page(report_data))
    tags = [tag for tag, _ in reader.elements]
    # tables of chain, jobs, losses, variance, tags and bins, and two steps with their files
    assert tags.count("details") == 8 and tags.count("summary") == 8
    scrollers = [attrs for tag, attrs in reader.elements if attrs.get("role") == "region"]
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in scrollers)
    names = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(names) == len(set(names))
    anchors = {attrs["href"][1:] for tag, attrs in reader.elements
               if attrs.get("href", "").startswith("#")}
    assert len(anchors) > 8 and anchors <= set(names)
    headings = [tag for tag in tags if tag in {"h1", "h2", "h3"}]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_every_part_may_be_missing():
    words = visible(page(ReportData(run="only-extract")))
    assert ("Not in this run: a training, a reduction, an evaluation of tags, a network, rows of "
            "the results tables.") in words


@pytest.mark.parametrize("field", ["epochs", "variance", "scores", "networks", "steps", "ledger"])
def test_each_part_alone_may_be_missing(report_data, field):
    empty = None if field == "variance" else ()
    read(page(replace(report_data, **{field: empty})))


def test_umap_has_no_explained_variance(report_data):
    words = visible(page(replace(report_data, variance=Variance("umap", 512, 8, 100))))
    assert "it has no explained variance" in words


def test_the_variance_of_a_kernel_pca_is_not_called_the_teachers(report_data, tmp_path):
    from l3hpc.reduction import Phi, StreamingKernelPCA, save_phi
    from l3hpc.report.collect import read_variance

    x = np.random.default_rng(0).normal(size=(60, 5))
    save_phi(tmp_path / "phi.h5", Phi.from_kernel_pca(StreamingKernelPCA(3).fit(x)))
    variance = read_variance(tmp_path / "phi.h5")
    assert (variance.method, len(variance.ratios)) == ("kernel PCA (RBF)", 3)
    words = visible(page(replace(report_data, variance=variance)))
    assert "5 → 3 dimensions, kernel PCA (RBF)" in words
    assert "in the space of the kernel rbf" in words and "teacher's variance" not in words


@pytest.mark.slow
def test_browser_shows_the_page_and_asks_for_nothing(report_data, browser, tmp_path):
    target = tmp_path / "report.html"
    target.write_text(page(report_data), encoding="utf-8")
    dom, console, requests = browser.open(target)
    assert console == [] and requests == []
    assert dom.count("<svg") == page(report_data).count("<svg")
    assert "0.543" in dom


@pytest.mark.slow
def test_browser_check_sees_errors_and_requests(browser, tmp_path):
    target = tmp_path / "bad.html"
    target.write_text("<img src='http://outside.invalid/x.png'><script>nope()</script>")
    _, console, requests = browser.open(target)
    assert any("nope" in line for line in console)
    assert requests == ["http://outside.invalid/x.png"]


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
def test_on_a_phone_no_option_of_the_next_command_is_broken(report_data, tmp_path):
    words = [f"--set=step-{number}.learning-rate=0.{'1' * number}" for number in range(9)]
    target = tmp_path / "report.html"
    target.write_text(page(replace(report_data, next_command=" ".join(words))), encoding="utf-8")
    phone = Browser(tmp_path)
    try:
        phone.do("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1,
                 mobile=True)
        phone.do("Page.navigate", url=target.as_uri())
        phone.until("document.readyState == 'complete' && !!document.querySelector('footer')")
        lines = phone.js("""(() => {
            const code = [...document.querySelectorAll("code")]
                .find(one => one.textContent.startsWith("--set"));
            const range = document.createRange(), texts = [];
            const nodes = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
            while (nodes.nextNode()) {
                range.selectNodeContents(nodes.currentNode);
                if (nodes.currentNode.data.trim()) texts.push(range.getClientRects().length);
            }
            return texts; })()""")
        assert lines == [1] * len(words)
        assert phone.js("document.documentElement.scrollWidth") <= 390
    finally:
        phone.close()


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
def test_on_a_phone_nothing_is_wider_than_the_page_and_labels_stay_readable(report_data, tmp_path):
    target = tmp_path / "report.html"
    target.write_text(page(report_data), encoding="utf-8")
    phone = Browser(tmp_path)
    try:
        for width in (390, 320):
            phone.do("Emulation.setDeviceMetricsOverride", width=width, height=844,
                     deviceScaleFactor=1, mobile=True)
            phone.do("Page.navigate", url=target.as_uri())
            phone.until("document.readyState == 'complete' && !!document.querySelector('footer')")
            assert phone.js("document.documentElement.scrollWidth") <= width
            sizes = phone.js("""[...document.querySelectorAll("svg text")].map(text => {
                const drawing = text.ownerSVGElement, box = drawing.getBoundingClientRect();
                return box.width && parseFloat(getComputedStyle(text).fontSize) *
                    box.width / drawing.viewBox.baseVal.width; }).filter(size => size)""")
            assert len(sizes) > 60 and min(sizes) > (9.5 if width == 390 else 8)
            # the titles of a table stand on one line, also where some of them are broken
            assert phone.js("""[...document.querySelectorAll("thead tr")].every(row =>
                [...row.cells].every(cell =>
                    getComputedStyle(cell).verticalAlign === "bottom"))""")
        assert phone.js("""[...document.querySelectorAll("a, summary, pre, .scroll")]
            .every(one => one.tabIndex >= 0 || one.closest("details:not([open])"))""")
    finally:
        phone.close()


def test_of_several_seeds_the_page_says_what_is_a_mean(report_data):
    validate, test = report_data.scores
    curves = tuple(replace(curve, drawn_auprc=0.3333) for curve in validate.curves)
    judged = replace(test.detection, tags=(replace(test.detection.tags[0], positives=6),))
    told = visible(page(replace(report_data, scores=(
        replace(validate, seeds=3, curves=curves, detection=judged),
        replace(test, seeds=3, detection=replace(judged, tags=(
            replace(judged.tags[0], positives=40),)))))))
    for text in ("mean 0.613", "curve of the first seed: 0.333", "0.375 (few)",
                 "mean of 3 classifiers' thresholds", "fewer than 10 positive clips of validate"):
        assert text in told, text


def test_tags_have_the_same_names_in_all_tables(report_data):
    """Files have ``1_engine`` in some places and ``engine`` in others."""
    told = " ".join(visible(page(report_data)).split())
    assert "1_engine" not in told and "8_dog" not in told
    for text in ("engine 0.234 0.250", "engine 0.375 6", "dog 0.500 (not chosen)"):
        assert text in told, text
    assert plain_tags(["1-X_engine-of-uncertain-size", "1-1_small", "8_dog"]) == {
        "1-X_engine-of-uncertain-size": "engine-of-uncertain-size", "1-1_small": "small",
        "8_dog": "dog"}
    assert plain_tags(["1_a", "2_a", "3_b"]) == {"1_a": "1_a", "2_a": "2_a", "3_b": "3_b"}


def test_the_table_of_components_ends_at_the_rank(report_data):
    variance = Variance("pca", 512, 2, 500, (0.75, 0.125, 0.125, *[1e-9] * 509))
    assert len(components_table(replace(report_data, variance=variance)).rows) == 3


def test_values_by_class_are_no_json():
    shown = record(LedgerRow("sonyc_ust", (("Coarse Tag AUPRC", '{"engine": 0.6125, "dog": null}'),
                                           ("Username", "{ada"))))
    assert [value for _, value in shown.filled] == ["engine 0.613, dog –", "{ada"]


def test_a_blocked_step_names_what_blocks_it_in_the_same_line():
    text = page(ReportData("demo", problems=(Problem("fit", "blocked", "by sample"),)))
    assert re.search(r"fit: <span class=.bad.>blocked</span> by sample</h3>", text)
    assert text.count("by sample") == 1
