"""Messages about real local runs of fake steps, received by a server on this machine."""

import json
from pathlib import Path

import pytest
from fakeslurm import queue_line
from finished import Finished
from postbox import TOKEN, postbox

from l3hpc.errors import InputError, collect_damage
from l3hpc.runs import notifications, resume, submit
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease

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
    return Finished(tmp_path_factory.mktemp("notifications"))


@pytest.fixture
def here(finished, monkeypatch, box, chains):
    """``here.write(urls)``: cluster.yaml with these addresses. ``here.plan(...)``: a run of it.
    ``here.submit(plan)``: it, finished."""
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("OUTPUT_DIR", raising=False)
    finished.empty()

    class Here:
        workspace, submit = finished.workspace, finished.submit

        def write(self, *urls, **rest):
            self.notify = {"urls": list(urls), **rest}
            Path("cluster.yaml").write_text(json.dumps({
                "paths": {"workspace": "ws"}, "clusters": {"local": {"notify": self.notify}}}))

        def plan(self, run, names=("extract", "sample"), **options):
            on = chains.profile(notify=self.notify)
            return chains.plan(self.workspace, run, names, on=on, salt=run, **options)

        def send(self, **options):
            return list(notifications.announce(self.workspace, **options))

    made = Here()
    made.write(box.url)
    return made


def test_done_failed_and_resumed_are_each_sent_once(here, box):
    here.submit(here.plan("good"))
    here.submit(here.plan("bad", params={"sample": {"fail": "scratch"}}))
    assert box.messages == []
    assert [one.sent for one in here.send()] == [True, True]
    assert sorted(box.titles()) == ["bad failed on local", "good done on local"]
    body = {message["title"]: message["message"] for message in box.messages}
    assert "extract: 1 rows" in body["good done on local"]
    assert "sample failed: first attempt fails" in body["bad failed on local"]
    assert "next: l3hpc logs bad sample\nthen: l3hpc resume bad" in body["bad failed on local"]
    assert {message["type"] for message in box.messages} == {"success", "failure"}
    assert here.send() == []
    resume.resume(here.workspace, "bad", here.plan("bad").profile)
    assert [one.message.title for one in here.send()] == ["bad done on local"]
    assert here.send() == [] and len(box.messages) == 3


def test_the_secret_is_in_no_file(here, box, tmp_path, capfd):
    here.submit(here.plan("good"))
    here.send()
    assert len(box.messages) == 1
    read = {path: path.read_bytes() for path in here.workspace.rglob("*") if path.is_file()}
    assert len(read) > 10 and any(path.name == "notified.json" for path in read)
    assert not [path for path, content in read.items() if TOKEN.encode() in content]
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err


def test_a_service_that_is_away_gets_it_later_and_the_others_at_once(here, box):
    with postbox() as other:
        here.write(box.url, other.url)
        box.status = 503
        here.submit(here.plan("good"))
        assert [one.sent for one in here.send()] == [False, True]
        assert (box.titles(), other.titles()) == ([], ["good done on local"])
        assert [one.sent for one in here.send()] == [False]
        box.status = 200
        assert [one.sent for one in here.send()] == [True]
        assert here.send() == []
        assert box.titles() == other.titles() == ["good done on local"]


def test_requeues_are_told_while_the_run_goes_on(here, box, slurm, chains):
    Path("cluster.yaml").write_text(json.dumps({"clusters": {"greene": {"notify": box.url}}}))
    on = chains.profile(name="greene", executor="slurm", slots={}, notify=box.url)
    submit.submit(chains.plan(here.workspace, "long", ("extract", "sample"), on=on,
                              tasks={"extract": 3}))
    slurm.says("squeue", "cat <<'X'\n" + "\n".join(
        queue_line(job, "RUNNING", name="l3-long-extract") for job in ("100_0", "100_1")) + "\nX")
    assert here.send() == []
    folder = Workspace(here.workspace).run("long").step("extract").markers
    folder.mkdir(exist_ok=True)
    for task in (0, 1):
        markers.add_requeue(folder, task, "memory", 5.0, words="out of memory, now asks for 32 GB")
    sent = here.send()
    assert [one.message.event for one in sent] == ["requeued"]
    assert box.messages[0]["title"] == "long: back in the queue on greene"
    assert box.messages[0]["message"] == "extract: out of memory, now asks for 32 GB (2 times)"
    assert box.messages[0]["type"] == "warning"
    assert here.send() == []
    markers.add_requeue(folder, 2, "node", 6.0)
    assert [one.message.body for one in here.send()] == ["extract: node"]


def test_only_what_is_wanted(here, box):
    here.write(box.url, on=["failed"])
    here.submit(here.plan("good"))
    here.submit(here.plan("bad", ("extract",), params={"extract": {"fail": "error"}}))
    assert [one.message.title for one in here.send()] == ["bad failed on local"]
    here.write(box.url)
    assert here.send() == []  # what was not wanted then is not sent later


def test_runs_from_before_are_not_told(here, box, chains):
    here.submit(chains.plan(here.workspace, "old", ("extract",)))
    assert here.send() == [] and box.messages == []


def test_what_a_person_cancels_is_not_told(here, box, slurm, chains):
    Path("cluster.yaml").write_text(json.dumps({"clusters": {"greene": {"notify": box.url}}}))
    on = chains.profile(name="greene", executor="slurm", slots={}, notify=box.url)
    submit.submit(chains.plan(here.workspace, "mine", ("extract",), on=on))
    slurm.says("squeue", f"cat <<'X'\n{queue_line('100', 'PENDING', name='l3-mine-extract')}\nX")
    resume.cancel(here.workspace, "mine")
    slurm.says("squeue", "")
    assert here.send() == [] and box.messages == []
    end = json.loads(Workspace(here.workspace).run("mine").notified.read_text())["sent"]
    assert [one["end"] for one in end.values()] == ["cancelled:1"]  # not looked at again


def test_two_at_once_send_it_once(here, box):
    here.submit(here.plan("good", ("extract",)))
    other = Lease(Workspace(here.workspace).run("good").notify_lease)
    assert other.acquire()
    assert here.send() == []
    other.release(forget=True)
    assert len(here.send()) == 1
    assert not list(Path(Workspace(here.workspace).run("good")).glob("notifying*"))


def test_dry_run_sends_and_notes_nothing(here, box):
    here.submit(here.plan("good", ("extract",)))
    assert [one.sent for one in here.send(dry_run=True)] == [None]
    assert box.messages == [] and len(here.send()) == 1


def test_what_is_damaged_or_gone_stops_no_other_run(here, box):
    for run in ("one", "two", "three"):
        here.submit(here.plan(run, ("extract",)))
    Workspace(here.workspace).run("one").notified.write_text("[]")
    record = records.read(here.workspace, "two")
    record.cluster = "gone"
    records.write(here.workspace, record)
    with collect_damage() as damage:
        assert [one.message.run for one in here.send()] == ["three"]
    assert {error.message for error in damage} == {
        "this is not a list of sent messages", "there is no cluster 'gone'"}


@pytest.mark.parametrize("note", [
    {"requeues": "x"}, {"requeues": {"sample": "x"}}, {"requeues": {"sample": None}},
    {"requeues": {"sample": -1}}, {"requeues": {"sample": True}}, {"requeues": None},
    {"end": 5}, "x", None])
def test_a_damaged_note_is_reported(here, box, note):
    here.submit(here.plan("one", ("extract",)))
    here.submit(here.plan("two", ("extract",)))
    [to] = notifications.destinations(here.plan("x").profile.notify)
    file = Workspace(here.workspace).run("one").notified
    file.write_text(json.dumps({"schema": 1, "sent": {to.key: note}}))
    with collect_damage() as damage:
        assert [one.message.run for one in here.send()] == ["two"]
    assert [(error.where, error.message) for error in damage] == [
        (str(file), "this is not a list of sent messages")]


def test_an_address_that_cannot_be_used_is_an_error(here, box):
    here.submit(here.plan("good", ("extract",)))
    here.write("$NOT_SET_HERE")
    with pytest.raises(InputError, match="NOT_SET_HERE is not set"):
        here.send()


def test_a_test_message_needs_no_run(here, box, chains):
    [one] = notifications.test(chains.profile(notify=box.url))
    assert one.sent and "test of the profile local" in box.messages[0]["message"]
    with pytest.raises(InputError, match="no addresses are set"):
        list(notifications.test(chains.profile()))
