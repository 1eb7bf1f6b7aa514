"""The evaluation written down rule by rule, with loops: what the fast one is compared with."""

import numpy as np


def counts(truth, predicted, x_truth=None, x_predicted=None, thresholds=None):
    """[(threshold, tp, fp, fn)] in descending order of threshold, for one category."""
    clips, tags = truth.shape
    fine = x_truth is not None
    u_all = x_truth if fine else np.zeros(clips, bool)
    v_all = x_predicted if fine else np.zeros(clips)
    thresholds = thresholds or sorted(
        {value for value in predicted.ravel() if value >= 0.01} | {1.0}, reverse=True)
    rows = []
    for threshold in thresholds:
        tp = fp = fn = 0
        for clip in range(clips):
            y = [bool(value) for value in truth[clip]]
            p = [value >= threshold for value in predicted[clip]]
            u, v = bool(u_all[clip]), bool(fine and v_all[clip] >= threshold)
            hits = sum(a and b for a, b in zip(y, p, strict=True))
            tp += hits
            fn += sum(a and not b for a, b in zip(y, p, strict=True))
            if not u:
                fp += sum(b and not a for a, b in zip(y, p, strict=True))
            if u and (any(p) or v) and hits == 0:
                tp += 1
            if u and not any(y) and not any(p) and not v:
                fn += 1
            if not u and not any(y) and v and not all(p):
                fp += 1
        rows.append((threshold, tp, fp, fn))
    return rows


def ratio(tp, fp, fn):
    return tp / max(tp + fp, 0.5), tp / max(tp + fn, 0.5)


def area(rows):
    points = [(*ratio(tp, fp, fn)[::-1], -threshold) for threshold, tp, fp, fn in rows]
    points = sorted(points, key=lambda point: (point[0], point[2]))
    curve = [(0.0, 1.0), *((recall, precision) for recall, precision, _ in points), (1.0, 0.0)]
    return sum((b[0] - a[0]) * (b[1] + a[1]) / 2 for a, b in zip(curve, curve[1:], strict=False))


def micro(categories):
    rows = []
    for threshold in sorted({row[0] for rows in categories for row in rows}, reverse=True):
        last = [[row for row in rows if row[0] >= threshold][-1] for rows in categories]
        rows.append((threshold, *(sum(row[place] for row in last) for place in (1, 2, 3))))
    return rows


def f1(rows):
    threshold, tp, fp, fn = min((row for row in rows if row[0] >= 0.5), key=lambda row: row[0])
    precision, recall = ratio(tp, fp, fn)
    return 2 / (1 / precision + 1 / recall) if precision and recall else 0.0
