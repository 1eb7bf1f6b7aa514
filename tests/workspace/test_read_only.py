"""A workspace on a file system that is mounted read-only: what only reads works."""

import json
import subprocess
import sys

import pytest

from l3hpc.ledger.journal.records import Journal

MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
COMMANDS = """
import contextlib, io, json, sys
from l3hpc.cli import main
said = []
for words in json.loads(sys.argv[1]):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
    said.append([code, out.getvalue()])
print(json.dumps(said))
"""


def test_what_only_reads_works_and_the_rest_says_why_not(chains, tmp_path):
    if subprocess.run(["unshare", "-m", "sh", "-c", MOUNT, "sh", tmp_path, "true"],
                      capture_output=True, check=False).returncode:
        pytest.skip("only root can mount")
    workspace = tmp_path / "ws"
    chains.submit_behind(chains.plan(workspace, run="one", on=chains.profile(shared_group=True)))
    Journal(workspace / "ledger" / "journal", run="one", labels={"model_dir": "/m/a"},
            git_commit="").record("embedding_approx_mse", {"num_epochs": 1})
    file = tmp_path / "cluster.yaml"
    file.write_text(f"cluster: local\npaths: {{workspace: {workspace}}}\n"
                    "clusters: {local: {shared_group: true}}\n")
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "own.yaml").write_text("description: x\nsteps:\n  say: {kind: shell, command: 'true', "
                                   "resources: {cpus: 1, mem: 1GB, time: 10m}}\n")
    page = tmp_path / "out"
    page.mkdir()
    reading = [["status"], ["usage", "one"], ["logs", "one"], ["ledger", "show"], ["notify"],
               ["report", "one", "-o", f"{page}/r.html"],
               ["ledger", "export", "--csv", f"{page}/r.csv"]]
    writing = {("report", "one"): "report.html: the file system is read-only",
               ("submit", "own"): "runs: is on a read-only file system",
               ("ledger", "export"): "read-only file system",
               ("ledger", "compact"): "Read-only file system",
               ("resume", "one"): "read-only file system"}
    every = [["-C", str(tmp_path), *words] for words in (*reading, *writing)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNT, "sh", workspace, sys.executable, "-c", COMMANDS,
         json.dumps(every)], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    for words, (code, text) in zip(reading, said, strict=False):
        assert code == 0, (words, text)
    assert "1 row" in said[3][1]
    for (words, reason), (code, text) in zip(writing.items(), said[len(reading):], strict=True):
        assert code in (1, 2) and reason in text, (words, text)
        assert "belongs to" not in text and "Traceback" not in text
