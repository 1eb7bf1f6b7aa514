"""The local cluster: the same scripts, run by bash in dependency order."""

import json

from l3hpc.workflow import records, submission


def test_a_chain_of_five_runs_to_its_end(chains, tmp_path):
    made = chains.plan(tmp_path, tasks={"extract": 3})
    record = submission.submit(made)
    assert record.state == "submitted"
    assert [step.state for step in record.steps] == ["submitted"] * 5
    assert submission.succeeded(tmp_path, record)
    assert chains.output(made, "extract") == {0: "(0)", 1: "(1)", 2: "(2)"}
    assert chains.output(made, "train") == {
        0: "(0 (0 (0) (1) (2) (0 (0 (0) (1) (2)))))"}
    jobs = json.loads((records.run_folder(tmp_path, "demo") / "local.json").read_text())["jobs"]
    assert {job["state"] for job in jobs.values()} == {"COMPLETED"}
