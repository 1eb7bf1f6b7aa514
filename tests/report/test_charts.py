import re
from xml.etree import ElementTree

import pytest

from l3hpc.report import charts
from l3hpc.report.data import StepFacts
from l3hpc.report.results import Bin, Calibration, Curve, Epoch, Network, Variance

SVG = "{http://www.w3.org/2000/svg}"


def read(drawing):
    return ElementTree.fromstring(drawing)


def line_points(root, class_):
    found = [node for node in root.iter(f"{SVG}path") if node.get("class") == class_]
    points = [re.findall(r"([-\d.]+),([-\d.]+)", node.get("d")) for node in found]
    return [[(float(x), float(y)) for x, y in line] for line in points]


def words(root):
    return [node.text for node in root.iter(f"{SVG}text")]


def test_every_drawing_has_a_title_and_a_description(report_data):
    drawings = [charts.loss_chart(report_data.epochs), charts.variance_chart(report_data.variance),
                charts.curve_panel(report_data.scores[0].curves[0]),
                charts.size_chart(report_data.networks), charts.chain_picture(report_data.steps)]
    for drawing in drawings:
        root = read(drawing)
        assert root.get("role") == "img"
        names = root.get("aria-labelledby").split()
        assert [node.get("id") for node in list(root)[:2]] == names
        assert all(node.text for node in list(root)[:2])


def test_loss_lines_are_proportional_to_the_losses():
    epochs = [Epoch(1, 1.0, 2.0), Epoch(2, 0.5, 1.0), Epoch(3, 0.0, 0.5)]
    root = read(charts.loss_chart(epochs))
    train = line_points(root, "line one")[0]
    valid = line_points(root, "line two dash")[0]
    scale = (train[2][1] - train[0][1]) / 1.0
    assert train[1][1] == pytest.approx(train[0][1] + 0.5 * scale, abs=0.11)
    assert valid[0][1] == pytest.approx(train[0][1] - 1.0 * scale, abs=0.11)
    assert train[1][0] - train[0][0] == pytest.approx(train[2][0] - train[1][0], abs=0.11)
    assert "best 0.5 in epoch 3" in words(root)


def test_loss_chart_of_one_epoch_and_of_missing_values():
    read(charts.loss_chart([Epoch(1, 0.5, None)]))
    read(charts.loss_chart([Epoch(1, float("nan"), float("inf")), Epoch(2, 1.0, 1.0)]))
    read(charts.loss_chart([Epoch(1)]))


def test_best_epoch_skips_what_is_not_a_number():
    epochs = [Epoch(1, 1, float("nan")), Epoch(2, 1, 0.5), Epoch(3, 1, 0.5), Epoch(4, 1, None)]
    assert charts.best_epoch(epochs) == epochs[1]
    assert charts.best_epoch([Epoch(1)]) is None


@pytest.mark.parametrize("width", [300, 360, 480, 960])
@pytest.mark.parametrize("chosen", [1, 4, 8, 12])
def test_the_label_of_the_variance_stays_inside(width, chosen):
    variance = Variance("pca", 512, chosen, 500, (1 / 16,) * 16)
    root = read(charts.variance_chart(variance, width))
    [label] = [one for one in root.iter() if (one.text or "").endswith(" dimensions")
               and one.get("class") == "name"]
    left, length = float(label.get("x")), 7 * len(label.text)
    if label.get("text-anchor") == "end":
        left -= length
    assert left >= 0 and left + length <= width


def test_variance_chart_marks_the_chosen_dimension():
    root = read(charts.variance_chart(Variance("pca", 512, 2, 500, (0.5, 0.25, 0.125))))
    assert "75.0% in 2 dimensions" in words(root)
    (points,) = line_points(root, "line one")
    heights = [y for _, y in points]
    unit = heights[0] - heights[1]
    assert heights[1] - heights[2] == pytest.approx(unit / 2, abs=0.11)
    assert heights[2] - heights[3] == pytest.approx(unit / 4, abs=0.11)


def test_curve_panel_draws_by_recall_and_shows_the_chance_level():
    root = read(charts.curve_panel(Curve("dog", 0.5, (1.0, 0.0), (0.25, 1.0), 1, 4)))
    (points,) = line_points(root, "line one")
    assert points[0][0] < points[1][0] and points[0][1] < points[1][1]
    (guess,) = line_points(root, "guess")
    assert guess[0][1] == guess[1][1] == points[1][1]


def test_size_bars_are_proportional():
    root = read(charts.size_chart([Network("a", "", 4, 1_000_000, 1),
                                   Network("b", "", 4, 250_000, 1)]))
    bars = [float(node.get("width")) for node in root.iter(f"{SVG}rect")]
    assert bars[1] == pytest.approx(bars[0] / 4, abs=0.02)


def test_chain_has_a_box_per_step_and_an_arrow_per_need():
    steps = [StepFacts("extract", (), seconds=30.0), StepFacts("fit", ("extract",), seconds=10.0),
             StepFacts("reduce", ("extract", "fit", "elsewhere"), seconds=None)]
    root = read(charts.chain_picture(steps))
    boxes = [node for node in root.iter(f"{SVG}rect") if node.get("class") == "box"]
    heads = [node for node in root.iter(f"{SVG}path") if node.get("class") == "head"]
    assert (len(boxes), len(heads)) == (3, 3)
    bars = [float(node.get("width")) for node in root.iter(f"{SVG}rect")
            if node.get("class") == "bar"]
    assert bars == pytest.approx([69.0, 23.0])


@pytest.mark.parametrize(("seconds", "shown"), [
    (None, "–"), (float("nan"), "–"), (0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1:05 min"),
    (59.99, "1:00 min"), (3599.7, "1:00 h"), (7380, "2:03 h")])
def test_clock(seconds, shown):
    assert charts.clock(seconds) == shown


@pytest.mark.parametrize(("cumulative", "chosen", "shown"), [
    ([0, 0.5, 0.8, 0.9, 0.99, 1.0], 1, 5), ([0, 0.9, 0.999, 1, 1, 1, 1], 1, 2),
    ([0, 0.9, 0.999, 1, 1, 1, 1], 2, 4), ([0, 0.5, 0.6], 2, 2)])
def test_the_long_tail_of_components_is_left_out(cumulative, chosen, shown):
    assert charts.shown_components(cumulative, chosen) == shown


def test_a_reliability_chart_has_a_point_for_each_bin_with_pairs_and_a_bar_for_every_bin():
    bins = (Bin(0.0, 0.5, 999, 0.2, 0.3), Bin(0.5, 0.9, 9, 0.7, 0.6), Bin(0.9, 1.0, 0, None, None))
    root = read(charts.reliability_chart(Calibration(0.1, 0.2, 0.09, bins)))
    [points] = line_points(root, "line one")
    [diagonal] = line_points(root, "guess")
    (left, bottom), (right, top) = diagonal
    for (x, y), one in zip(points, bins, strict=False):
        assert x == pytest.approx(left + one.predicted * (right - left), abs=0.11)
        assert y == pytest.approx(bottom + one.observed * (top - bottom), abs=0.11)
    heights = [float(node.get("height")) for node in root.iter(f"{SVG}rect")]
    assert heights == [pytest.approx(3 * heights[1], abs=0.3), heights[1], 0]
    assert {"999", "9", "0"} <= set(words(root))
    read(charts.reliability_chart(Calibration(0, 0, 0, bins[2:])))
