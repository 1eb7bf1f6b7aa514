"""Runs the benchmarks one after the other, each in a process of its own.

    python -m benchmarks                 all of them; results go to benchmarks/results/, or into
                                         the folder of this processor there
    python -m benchmarks kdpp pca        only these
    python -m benchmarks --quick         small sizes: only checks that they run, writes no results
    python -m benchmarks --list          list the benchmarks
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys

from benchmarks.tables import compared, compared_markdown, results_file

NAMES = ("teacher", "input_share", "student", "embedding_agreement", "kdpp", "pca", "kernel_pca",
         "reduction", "training", "input_pipeline", "evaluation", "classifier", "scaling",
         "scheduling", "submitit_alone", "ledger", "first_run")
# They only look for what could be faster (teacher_parts), do not depend on the machine (intervals),
# or need recordings or code of others, an hour (tag_options), much disk (sensor_year,
# corpus_array), many processes (big_array), NFS (shared_files) or a GPU.
BY_HAND = ("teacher_parts", "intervals", "esc10", "recipe", "students", "quantised", "birdnet",
           "tag_options", "dcase_metrics", "sensor_year", "big_array", "corpus_array",
           "shared_files", "gpu")


def main() -> int:
    """Run the benchmarks and print the claims of those that ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, no results")
    parser.add_argument("--list", action="store_true", help="print the names")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if arguments.list:
        for name in NAMES:
            spec = importlib.util.find_spec(f"benchmarks.{name}")
            assert spec is not None and spec.loader is not None
            print(name)
        return 0
    failed = []
    for name in arguments.names or NAMES:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        command += ["--quick"] if arguments.quick else ["--json", str(results_file(name))]
        if subprocess.run(command).returncode:
            failed.append(name)
    if not arguments.quick:
        print("\n## all claims\n\n" + compared_markdown(compared([*NAMES, *BY_HAND])))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
