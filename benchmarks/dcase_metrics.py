"""The DCASE 2020 recipe on a generated city, scored by us and by the public baseline's own code.

    python -m benchmarks.dcase_metrics --baseline FOLDER [--python FILE] [--json FILE]

FOLDER is a checkout of the public baseline (github.com/sonyc-project/urban-sound-tagging-baseline,
or that of DCASE 2020 task 5) with its ``metrics.py``. It is code of others, so it is not part of
this repository, and runs in a process of its own: FILE is the Python of an environment with numpy,
pandas, scikit-learn and oyaml (default: this one).

Two classifiers, coarse and fine, are trained by ``classify`` with ``recipe: dcase2020``; their
predictions for validate are scored on both sides. Where several thresholds have the same recall,
the baseline's order is that of an unstable sort. So its areas are given twice: as its code computes
them, and from its own counts in our order (recall ascending, then threshold descending).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import about, machine
from benchmarks.tables import Table, figure, write_results
from benchmarks.tag_options import make

CLIPS = 600
KIND = "telling hours"
NAMES = ("micro_auprc", "micro_f1", "macro_auprc")

# Runs in the baseline's environment, which has no l3hpc.
CHILD = """
import json, sys
import numpy as np
from sklearn.metrics import auc
sys.path.insert(0, sys.argv[1])
import metrics

def area(frame):
    frame = frame.sort_values(["R", "threshold"], ascending=[True, False])
    return auc([0.0, *frame["R"], 1.0], [1.0, *frame["P"], 0.0])

counts = metrics.evaluate(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5])
micro, frame = metrics.micro_averaged_auprc(counts, return_df=True)
macro, each = metrics.macro_averaged_auprc(counts, return_classwise=True)
half = (frame["threshold"] >= 0.5).to_numpy().nonzero()[0][0]
print(json.dumps({
    "micro_auprc": micro, "micro_f1": frame["F"][half], "macro_auprc": macro,
    "class_auprc": list(each.values()), "ordered_micro_auprc": area(frame),
    "ordered_macro_auprc": float(np.mean([area(one) for one in counts.values()])),
    "ordered_class_auprc": [area(one) for one in counts.values()],
    "ties": int(frame["R"].duplicated().sum()), "thresholds": len(frame)}))
"""


def main() -> None:
    """Train, score on both sides, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dcase_metrics",
                                     description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, required=True, help="folder of metrics.py")
    parser.add_argument("--python", default=sys.executable, help="the baseline's environment")
    parser.add_argument("--work", type=Path, help="folder for data (default: a temporary one)")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the city")
    parser.add_argument("--json", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        table = compare(arguments.work or Path(temporary), arguments)
    print(f"{about(machine())}\n\n{table.markdown()}")
    if arguments.json:
        write_results(arguments.json, "dcase_metrics", machine(), [table], arguments.clips != CLIPS)


def compare(work: Path, arguments: argparse.Namespace) -> Table:
    """Our numbers, the baseline's, and how far they are apart."""
    from l3hpc.tagging.evaluation import evaluate
    from l3hpc.worker.standalone import run_standalone

    city, embeddings = make(work, KIND, 0, arguments.clips)
    data = city / "sonyc_ust"
    rows, figures = [], {}
    for level in ("coarse", "fine"):
        out = work / f"dcase-{level}-{arguments.clips}"
        if not out.is_dir():
            run_standalone("classify", {"sonyc_ust": str(data), "recipe": "dcase2020",
                                        "level": level}, {"embed": embeddings}, out)
        files = (out / f"predictions_{level}_validate.csv", data / "annotations.csv",
                 data / "dcase-ust-taxonomy.yaml")
        mine = evaluate(*files)[level]
        theirs: dict[str, Any] = json.loads(subprocess.run(
            [arguments.python, "-c", CHILD, str(arguments.baseline), *map(str, files), level],
            check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        for name in NAMES:
            ordered = theirs.get(f"ordered_{name}", theirs[name])
            rows.append((level, name, f"{mine[name]:.6f}", f"{theirs[name]:.6f}",
                         figure(abs(mine[name] - theirs[name]), 2),
                         figure(abs(mine[name] - ordered), 2)))
        classes = np.array(list(mine["class_auprc"].values()))
        apart, ordered_apart = (np.abs(classes - theirs[key]).max()
                                for key in ("class_auprc", "ordered_class_auprc"))
        rows.append((level, "class_auprc (largest)", "", "", figure(apart, 2),
                     figure(ordered_apart, 2)))
        figures[f"{level} ties"] = theirs["ties"]
        worst = max(abs(mine[name] - theirs.get(f"ordered_{name}", theirs[name]))
                    for name in NAMES)
        if max(worst, float(ordered_apart)) > 1e-12:
            raise SystemExit(f"{level}: the same counts in the same order differ by {worst:.1e}")
    return Table(
        "DCASE 2020 recipe on a generated city, scored twice",
        ("level", "number (validate)", "l3hpc", "baseline", "difference", "ties in our order"),
        rows, figures=figures,
        notes=(f"{arguments.clips} clips, city '{KIND}' of `benchmarks/tag_options.py`.",
               "Recalls that occur at several thresholds: "
               + ", ".join(f"{name.split()[0]} {value:,}" for name, value in figures.items())
               + "."))


if __name__ == "__main__":
    main()
