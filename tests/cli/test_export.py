"""``l3hpc export``: options that contradict each other, and a model that is not there."""

import pytest


@pytest.mark.parametrize(("words", "said"), [
    (("--int8", "--fp16"), "--int8 and --fp16"), (("--fp16", "--int8"), "--fp16 and --int8"),
    (("--fp32", "--int16x8", "--fp16"), "--fp32 and --int16x8 and --fp16")])
def test_two_formats_are_refused(tmp_path, say, words, said):
    code, out, err = say("export", "untrained", *words, "-o", str(tmp_path / "out"), "--dry-run")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: only one format can be exported at a time, not {said}",
        "       one of --int8, --int16x8, --fp16, --fp32",
        "       Export once per format, to different folders (-o)."]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["fp16", "fp32"])
def test_one_format_is_taken(tmp_path, say, form):
    code, out, _ = say("export", "untrained", f"--{form}", f"--{form}", "-o",
                       str(tmp_path / "out"), "--dry-run")
    assert code == 0 and f", as {form}" in out


def test_a_missing_model_is_named_before_tensorflow_starts(tmp_path, say, monkeypatch):
    monkeypatch.setattr("l3hpc.models.tensorflow_log.import_tensorflow", lambda: 1 / 0)
    missing, out = tmp_path / "missing.h5", tmp_path / "out"
    code, _, error = say("export", str(missing), "--fp32", "-o", str(out))
    assert code == 2 and "missing.h5" in error
    assert not out.exists()
