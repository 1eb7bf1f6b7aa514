"""``l3hpc notify`` and the messages that ``status --watch`` sends."""

import json
from pathlib import Path

import chains
import pytest
from click.shell_completion import ShellComplete
from finished import Finished
from postbox import TOKEN, postbox

from l3hpc.cli import cli
from l3hpc.runs import submit

pytestmark = pytest.mark.slow

pytest.importorskip("apprise")


@pytest.fixture(scope="module")
def _box():
    with postbox() as made:
        yield made


@pytest.fixture
def box(_box):
    _box.empty()
    return _box


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("notify"))


@pytest.fixture
def here(finished, monkeypatch, box):
    """A working folder with a run that is done."""
    chains.clean_environment(monkeypatch)
    finished.empty()
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("HOME", str(finished.folder / "home"))
    monkeypatch.delenv("OUTPUT_DIR", raising=False)
    Path("cluster.yaml").write_text(json.dumps({
        "paths": {"workspace": "ws"}, "clusters": {"local": {"notify": box.url}}}))
    Path("cluster.yaml").chmod(0o600)
    finished.submit(chains.plan(finished.workspace, "good", ("extract",),
                                on=chains.profile(notify=box.url)))
    return finished.folder


def test_what_is_due_is_sent_once(say, here, box):
    code, out, _ = say("notify", "--dry-run")
    assert code == 0 and box.messages == []
    would = "would send to json (notify.urls, entry 1): good done on local\n  extract: 1 rows"
    assert out.startswith(would)
    assert say("notify") == (0, "sent to json (notify.urls, entry 1): good done on local\n", "")
    assert say("notify") == (0, "nothing to send\n", "")
    assert box.titles() == ["good done on local"]


def test_json(say, here, box):
    value = json.loads(say("notify", "--json")[1])
    [message] = value["messages"]
    assert (message["run"], message["event"], message["sent"]) == ("good", "done", True)
    assert TOKEN not in json.dumps(value)


def test_a_service_that_is_away(say, here, box):
    box.status = 500
    code, out, err = say("notify")
    assert code == 75 and out.startswith("not sent, json (notify.urls, entry 1) did not take it")
    assert TOKEN not in out + err


def test_a_watch_sends_as_well(say, here, box):
    code, out, _ = say("status", "good", "--watch", "1")
    assert code == 0 and "note" not in out and box.titles() == ["good done on local"]
    assert say("status", "good")[0] == 0  # a look sends nothing


def test_a_watch_goes_on_where_nothing_can_be_sent(say, here, box):
    box.status = 500
    code, out, _ = say("status", "--watch", "1")
    assert code == 0 and "good   local   done" in out and "note: not sent, json" in out
    Path("cluster.yaml").write_text('{"clusters": {"local": {"notify": "$NOT_SET_HERE"}}}')
    code, out, _ = say("status", "--workspace", "ws", "--watch", "1")
    assert code == 0 and "no messages are sent: notify.urls, entry 1" in out
    code, _, err = say("status", "--workspace", "ws", "--watch", "1", "--json")
    assert code == 0 and "NOT_SET_HERE is not set" in err


def test_a_test_message(say, here, box):
    assert say("notify", "--test")[0] == 0
    assert "a test of the profile local" in box.messages[0]["message"]
    Path("cluster.yaml").write_text("{}")
    code, _, err = say("notify", "--test")
    assert code == 2 and "no addresses are set" in err and "l3hpc notify --help" in err


def test_a_line_for_cron(say, here, box):
    code, out, err = say("notify", "--cron", "--every", "10")
    assert code == 0 and out.startswith("*/10 * * * * ") and TOKEN not in out + err
    assert f"notify --workspace {here}/ws --config {here}/cluster.yaml >>" in out and "PATH=" in out
    assert f"log: {here}/home/.l3hpc/notify/" in err
    for other in ("--test", "--dry-run", "--json"):  # which would be ignored without a word
        code, out, err = say("notify", "--cron", other)
        assert (code, out) == (2, "") and f"so {other} has no meaning" in err
    Path("cluster.yaml").write_text('{"clusters": {"local": {"notify": "$HOOK"}}}')
    code, _, err = say("notify", "--cron")
    assert code == 2 and "cron does not know the variables" in err


def test_the_address_is_shown_nowhere(say, here):
    for words in (("config", "show", "--all"), ("config", "show", "--json"), ("config", "check"),
                  ("doctor", "--quick"), ("doctor", "--quick", "--json"), ("notify", "--test")):
        _, out, err = say(*words)
        assert TOKEN not in out + err, words
    assert "json (notify.urls, entry 1); on done, failed, requeued" in say("doctor", "--quick")[1]


@pytest.mark.parametrize("entry", [
    {"urls": [f"json://h/{TOKEN}", 5]}, {"urls": f"json://h/{TOKEN}\n"}, {"urls": {TOKEN: 1}},
    {"urls": [f"json://h/{TOKEN}"], "on": ["never"]}, {"urls": [[f"json://h/{TOKEN}"]]}, 5])
def test_a_mistake_in_the_file_does_not_show_it(say, here, entry):
    Path("cluster.yaml").write_text(json.dumps({"clusters": {"local": {"notify": entry}}}))
    code, out, err = say("config", "show")
    assert code == 2 and "cluster.yaml" in err and "notify" in err
    assert TOKEN not in out + err


S = f"json://u:{TOKEN}@h"


@pytest.mark.parametrize(("content", "said"), [
    ({"clusters": {"local": {"notify": {"url": S}}}}, "unknown key 'url' in notify"),
    ({"clusters": {"local": {"notify": {"url": [S]}}}}, "did you mean 'urls'"),
    ({"clusters": {"local": {"notify": {"urls": [S], S: 1}}}}, "unknown key 'json://…' in notify"),
    ({"clusters": {"local": {"notify": {"urls": [S], "on": TOKEN}}}}, "notify.on"),
    ({"clusters": {"local": {"notify": {"urls": [S], "on": {TOKEN: S}}}}}, "(got a mapping)"),
    ({"clusters": [{"notify": S}]}, "(got a list)"),
    ({"clusters": [[{"notify": TOKEN}]]}, "(got a list)"),
    ({"clusters": {"local": f"notify: {S}"}}, "(got a string)"),
    ({"clusters": {"local": f"notify: {TOKEN}"}}, "(got a string)"),
    ({"clusters": {"local": [{"notify": {"urls": TOKEN}}]}}, "(got a list)"),
    ({"clusters": {"local": S}}, "(got 'json://…')"),
    ({"clusters": {"local": {"slots": S + "' x"}}}, "slots"),
    ({"clusters": {"local": {"partition": S + " x"}}}, "partition: 'json://…' is not a name"),
    ({"clusters": {"local": {"env": [{"notify": TOKEN}]}}}, "env: a list is not allowed here"),
    ({"clusters": {"local": {"env": [S]}}}, "is not a mapping"),
    ({"clusters": {"notify": {"slots": TOKEN}}}, "slots"),
    ({"clusters": {"notify": [TOKEN]}}, "clusters.notify"),
    ({"paths": [{"notify": TOKEN}]}, "paths"), ({"cluster": {"notify": TOKEN}}, "cluster"),
    ({"notify": S}, "unknown key 'notify'"), ([{"notify": S}], "not a mapping"),
    ("!!int " + S, "not a valid int"), (f"notify: !{S} x", "the tag"),
    (f"{S}: 1\n{S}: 2", "written twice")])
def test_no_mistake_in_the_file_shows_an_address(say, tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(
        content if isinstance(content, str) else json.dumps(content))
    code, out, err = say("config", "show")
    assert code == 2 and said in err and TOKEN not in out + err


def test_damaged_notes_stop_no_other_run(say, here, box):
    submit.submit(chains.plan(here / "ws", "other", ("extract",), salt="other",
                              on=chains.profile(notify=box.url)))
    notified = here / "ws/runs/good/notified.json"
    notified.write_text('{"schema": 1, "sent": {"x": {"requeues": "x"}}}')
    code, out, err = say("notify")
    assert code == 0 and "other done on local" in out
    assert "warning: skipped:" in err and f"{notified}: this is not a list of sent messages" in err
    code, out, err = say("status", "--watch", "1")
    assert code == 0 and "note" not in out and str(notified) in err


def test_a_home_folder_that_is_not_known(say, here):
    Path("cluster.yaml").write_text('{"clusters": {"local": {"notify": "~nouser/x"}}}')
    code, _, err = say("notify", "--workspace", "ws", "--test")
    assert code == 2 and "the home folder of '~nouser/x' is not known" in err
    code, out, _ = say("status", "--workspace", "ws", "--watch", "1")
    assert code == 0 and "no messages are sent: notify.urls, entry 1" in out
    assert "\n      name the file by its whole path" in out


def test_a_relative_file_is_beside_cluster_yaml(say, here, box, monkeypatch):
    Path("addr").write_text(box.url)
    Path("addr").chmod(0o600)
    Path("cluster.yaml").write_text(
        '{"paths": {"workspace": "ws"}, "clusters": {"local": {"notify": "./addr"}}}')
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert say("notify", "--config", "../cluster.yaml")[0] == 0
    assert box.titles() == ["good done on local"]
    assert say("notify", "--cron", "--config", "../cluster.yaml")[2].count("\n") == 1
    (here / "addr").unlink()
    code, out, err = say("notify", "--cron", "--config", "../cluster.yaml")
    assert code == 0 and out.startswith("*/5 ")
    assert f"warning: no messages would be sent: {here}/addr: the file with addresses" in err


def test_the_hint_of_a_watch_is_on_its_own_line(say, here, box):
    Path("addr").write_text(box.url)
    Path("addr").chmod(0o644)
    Path("cluster.yaml").write_text('{"clusters": {"local": {"notify": "./addr"}}}')
    code, out, _ = say("status", "--workspace", "ws", "--watch", "1")
    assert code == 0 and "read by others\n      chmod 600 addr\n" in out


def test_json_tells_a_dry_run_from_a_failure(say, here, box):
    box.status = 500
    for words, sent, would in (("--dry-run",), False, True), ((), False, False):
        [message] = json.loads(say("notify", "--json", *words)[1])["messages"]
        assert (message["sent"], message["would_send"]) == (sent, would)


def test_the_doctor_says_where_others_can_read_it(say, here):
    Path("cluster.yaml").chmod(0o644)
    assert "others can read the addresses in" in say("doctor", "--quick")[1]
    Path("cluster.yaml").write_text("{}")
    assert "not set (notify: of the profile)" in say("doctor", "--quick")[1]


def test_profiles_are_completed(here):
    found = ShellComplete(cli, {}, "l3hpc", "_L3HPC_COMPLETE").get_completions(
        ["notify", "--cluster"], "lo")
    assert [one.value for one in found] == ["local"]
