"""A sealed record that is not understood is set aside and named, and everything else goes on."""

import contextlib
import io
import json
import os
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import l3hpc
from l3hpc.cli import main
from l3hpc.ledger.journal import upkeep
from l3hpc.ledger.journal.fold import fold_folders
from l3hpc.ledger.journal.reading import Damage, all_records
from l3hpc.ledger.journal.records import MIDDLE, PREFIX, Journal, check_digits, unseal
from l3hpc.ledger.journal.upkeep import compact

TAB = "embedding_approx_mse"
OLD = (time.time() - 40 * 86_400,) * 2


def sealed(record):
    """A line as a foreign program would write it."""
    text = record if isinstance(record, bytes) else json.dumps(
        record, separators=(",", ":")).encode()
    return PREFIX + check_digits(text) + MIDDLE + text + b"}\n"


@pytest.fixture
def sound(tmp_path, monkeypatch):
    """A workspace with five sound records of one row."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    journal = Journal(tmp_path / "ledger" / "journal", run="up", labels={"model_dir": "/m"})
    for epoch in range(5):
        journal.record(TAB, {"latest_train_loss": 1.0 / (epoch + 1)}, epoch=epoch)
    journal.close()
    os.utime(journal.path, OLD)
    return journal.path


def record_of(path, **changed):
    whole = {**unseal(path.read_bytes().splitlines()[1]), **changed}
    return {name: value for name, value in whole.items() if value is not ...}


ODD = {
    "values a list": ({"values": [1]}, "'values' must be an object, not a list"),
    "no tab": ({"tab": ...}, "'tab' is missing"),
    "a newer schema": ({"schema": 2, "tab": ..., "cells": {}}, "written by a newer l3hpc (schema"),
    "schema as text": ({"schema": "1"}, "'schema' must be a whole number, not a string"),
    "seq as text": ({"seq": "7"}, "'seq' must be a number, not a string"),
    "time as nothing": ({"time": None}, "'time' must be a number, not null"),
    "time not a number": ({"time": float("nan")}, "'time' must be a number, not a string"),
    "a list in the key": ({"key": [["/m"]]}, "'key' must be a list of strings"),
    "a key too long": ({"key": ["/m", "x"]}, "'key' must be 1 string"),
    "host a number": ({"origin": {"host": 3}}, "'origin' does not name a host"),
    "restart too large": ({"seq": 10**30}, "'seq' is out of range"),
    "an unknown tab": ({"tab": "nowhere"}, "it belongs to no row of a known tab: tab 'nowhere'"),
    "no key": ({"key": None}, "it belongs to no row of a known tab: no key"),
}


def commands(*words):
    """Exit code, output and errors of a ledger command."""
    out, err = io.StringIO(), io.StringIO()
    with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
          pytest.raises(SystemExit) as end):
        main(["ledger", *words])
    assert "This is a bug" not in err.getvalue(), err.getvalue()
    return end.value.code or 0, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_record_is_named_and_the_rest_goes_on(sound, kind, tmp_path):
    changed, why = ODD[kind]
    line = sealed(record_of(sound, **changed))
    lines = sound.read_bytes().splitlines(keepends=True)
    sound.write_bytes(b"".join([*lines[:3], b"\n", line, *lines[3:]]))  # line 5: after an empty one
    os.utime(sound, OLD)
    before = sound.read_bytes()
    words = ("--workspace", str(tmp_path))
    for view in (("show",), ("status",), ("export", "--html", "page.html"), ("diff", "/m", "/m"),
                 ("compact", "--dry-run")):
        code, out, err = commands(*view, *words)
        assert code == 0 and f"{sound}:5: record skipped: {why}" in err, view
    assert "1 row" in commands("show", *words)[1] and "/m" in (tmp_path / "page.html").read_text()
    with pytest.warns(UserWarning, match=":5: record skipped"):
        assert len(l3hpc.results(tmp_path, TAB)) == 1
    facts = json.loads(commands("status", "--json", *words)[1])
    (odd,) = facts["not_understood"][str(sound)]
    assert odd["line"] == 5 and odd["why"].startswith(why) and facts["records"] == 6
    assert facts["newer_records"] == (kind == "a newer schema")
    assert facts["records_without_row"] == (kind in ("an unknown tab", "no key"))
    code, out, err = commands("repair", "--journal", "--yes", *words)
    assert code == 0 and f"{sound}:5: {why}" in out and "the line is kept" in out
    assert sound.read_bytes() == before
    code, out, err = commands("compact", *words)
    assert code == 0
    if facts["records_without_row"]:  # whole records: they go into the bundle
        assert not sound.exists() and len(list(all_records([sound.parent], Damage()))) == 6
    else:
        assert "holds records that are not understood: l3hpc ledger repair" in err
        assert sound.read_bytes() == before
    (row,) = fold_folders([sound.parent]).rows_of(TAB)
    assert row.values["latest_train_loss"] == 0.2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_among_journals_hangs_nobody(sound, tmp_path, make):
    make(sound.parent / "up-r9-host-1-x.jsonl")
    make(sound.parent / "+bundle-x.jsonl")
    code, out, err = commands("show", "--workspace", str(tmp_path))
    assert code == 0 and "1 row" in out and "cannot read" in err
    for command in (("repair", "--journal"), ("compact",)):
        assert commands(*command, "--workspace", str(tmp_path))[0] == 0


def test_compaction_follows_no_link_in_the_shared_folder(sound, tmp_path):
    (sound.parent / ".compaction.lock").symlink_to(tmp_path / "made by the victim")
    assert commands("compact", "--workspace", str(tmp_path))[0] == 1
    assert not (tmp_path / "made by the victim").exists()


@pytest.mark.parametrize("text", [
    "", "[]", "{}", "\xff", '{"last_sync": 1, "confirmed": {"sonyc_ust": 5}, "problems": []}',
    '{"last_sync": 1, "confirmed": {}, "problems": [5]}',
    '{"last_sync": 1, "confirmed": {"embedding_approx_mse": {"[\\"/m\\"]": [1]}}, "problems": []}'])
def test_a_damaged_state_of_a_sync_counts_as_none(sound, tmp_path, text):
    from l3hpc.ledger.store import Store
    path = Store(tmp_path).state_path("sheet-1")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    code, out, _ = commands("status", "--workspace", str(tmp_path), "--json")
    assert code == 0
    assert Store(tmp_path).state("sheet-1").confirmed == {}


def test_odd_counters_between_records_that_are_alike(sound):
    """Lines like the one before are parsed together; the odd one among them is still found."""
    lines = sound.read_bytes().splitlines(keepends=True)
    text = json.dumps(unseal(lines[3]), separators=(",", ":")).encode()
    lines[3] = sealed(text.replace(b'"seq":3', b'"seq":"3"'))
    sound.write_bytes(b"".join(lines))
    damage = Damage()
    assert [one["seq"] for one in all_records([sound.parent], damage)] == [0, 1, 2, 4]
    assert damage.not_understood == {str(sound): [(4, "'seq' must be a number, not a string")]}


def test_a_bundle_with_an_odd_part(sound):
    compact(sound.parent, quiet_s=-1.0)
    (bundle,) = sound.parent.glob("*.jsonl")
    for odd in ({"schema": 1, "packed": [1], "items": []},
                {"schema": 1, "packed": {}, "items": [[{}, {}]]},
                {"schema": 1, "bundle": [1]}, {"schema": 1, "bundle": {"runs": 3}}):
        whole = bundle.read_bytes()
        bundle.write_bytes(sealed(odd) + whole)
        damage = Damage()
        assert len(list(all_records([sound.parent], damage))) == 5
        assert bool(damage.not_understood) == ("packed" in odd)
        compact(sound.parent, quiet_s=-1.0)
        Journal(sound.parent, run="up", labels={"model_dir": "/m"}).record(TAB, {}, epoch=9)
        (fresh,) = sound.parent.glob("up-*.jsonl")
        fresh.unlink()
        bundle.write_bytes(whole)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([10**400, TAB, "sonyc_ust", "/m", "\ud800", "running", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=3) | st.sampled_from(["accepted", "host", "pid", "run", "state", "note"]),
        inner, max_size=3), max_leaves=6)
FIELDS = st.sampled_from(["schema", "tab", "key", "restart", "seq", "epoch", "time", "values",
                          "beside", "origin", "packed", "bundle", "items"])
INNER = st.sampled_from(["latest_epoch", "latest_train_loss", "best_train_loss", "model_dir",
                         "num_epochs", "emb_key"])


@pytest.mark.slow
@given(st.lists(st.one_of(
    VALUES, st.dictionaries(FIELDS, VALUES, max_size=8),
    st.tuples(st.just("like a sound one"), st.dictionaries(FIELDS, VALUES, max_size=3),
              st.dictionaries(INNER, VALUES, max_size=3))), min_size=1, max_size=4))
@example([("like a sound one", {"key": [1]}, {})])
@example([("like a sound one", {"beside": {"note": 1e999, "state": "finished"}}, {})])
@example([("like a sound one", {}, {"num_epochs": 10**400, "best_train_loss": 10**400})])
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_any_sealed_json(sound, tmp_path, found):
    whole = sound.read_bytes()
    lines = []
    for one in found:
        if isinstance(one, tuple):
            base = record_of(sound)
            one = {**base, "values": {**base["values"], **one[2]}, **one[1]}
        lines.append(sealed(one))
    lines.append(sealed(b"[" * 100_000))
    lines.append(sealed(b"9" * 5000))
    try:
        sound.write_bytes(whole + b"".join(lines))
        os.utime(sound, OLD)
        before = sound.read_bytes()
        words = ("--workspace", str(tmp_path))
        for view in (("show",), ("show", "--json", "--columns", "all"), ("status",),
                     ("status", "--json"), ("diff", "/m", "/m"), ("compact", "--dry-run"),
                     ("export", "--html", "page.html"), ("export",),
                     ("repair", "--journal", "--dry-run"), ("compact",)):
            code, _, err = commands(*view, *words)
            assert code == 0 or view[0] == "diff", (view, err)
        assert sound.read_bytes() == before  # the last two lines are odd in any case
        assert upkeep.find_damaged_files([sound.parent])[0].not_understood[-1][0] == 5 + len(lines)
        rows = fold_folders([sound.parent]).rows
        assert rows[TAB, ("/m",)].records >= 5
    finally:
        sound.write_bytes(whole)
