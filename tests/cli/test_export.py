"""``l3hpc export``: options that contradict each other."""

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
