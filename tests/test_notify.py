"""Addresses and messages, with the real Apprise and a server on this machine."""

import logging
import sys

import pytest
from postbox import TOKEN, postbox

from l3hpc import notify
from l3hpc.errors import InputError

pytest.importorskip("apprise")


@pytest.fixture
def box():
    with postbox() as made:
        yield made


def test_a_message_arrives(box):
    [to] = notify.destinations([box.url])
    assert notify.send(to, "run done on greene", "train: 12 epochs <b>", "success")
    [message] = box.messages
    assert (message["title"], message["message"]) == ("run done on greene", "train: 12 epochs <b>")
    assert message["type"] == "success"


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_service_that_refuses(box, status, capfd, caplog):
    box.status = status
    [to] = notify.destinations([box.url])
    with caplog.at_level(logging.DEBUG):
        assert not notify.send(to, "t", "b")
    assert box.refused == 1
    assert capfd.readouterr() == ("", "") and TOKEN not in caplog.text


def test_nobody_is_there(capfd, caplog):
    with postbox() as box:
        url = box.url
    [to] = notify.destinations([url])
    with caplog.at_level(logging.DEBUG):
        assert not notify.send(to, "t", "b")
    assert capfd.readouterr() == ("", "") and TOKEN not in caplog.text
    assert logging.root.manager.disable == logging.NOTSET


def test_an_address_may_be_a_variable_or_stand_in_a_file(box, monkeypatch, tmp_path):
    file = tmp_path / "addresses"
    file.write_text(f"# the group's channel\n\n{box.url}\nmailto://u:{TOKEN}@example.org\n")
    file.chmod(0o600)
    monkeypatch.setenv("HERE", box.url)
    found = notify.destinations(["$HERE", "${HERE}", str(file)])
    assert [one.label.split()[0] for one in found] == ["json", "json", "json", "mailto"]
    assert len({one.key for one in found}) == 2
    assert not [one for one in found if TOKEN in repr(one) + one.label + one.key]


@pytest.mark.parametrize(("given", "said"), [
    ("$NOWHERE", "NOWHERE is not set"), ("~/no/such/file", "cannot be read"),
    (f"nothing://{TOKEN}", "Apprise does not understand"),
    (TOKEN, "not an address, a variable or a file"),
    (f"slack://{TOKEN}", "Apprise does not understand")])
def test_what_cannot_be_used_is_refused_without_the_secret(given, said):
    with pytest.raises(InputError, match=said) as caught:
        notify.destinations([given])
    assert TOKEN not in str(caught.value) and "entry 1" in str(caught.value) or "~" in given


def test_a_file_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "addresses"
    file.write_text("json://localhost/x\n")
    file.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others") as caught:
        notify.destinations([str(file)])
    assert caught.value.hint == f"chmod 600 {file}"
    file.chmod(0o600)
    file.write_bytes(b"json://\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        notify.destinations([str(file)])


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(InputError, match="apprise, which is not installed") as caught:
        notify.destinations(["json://localhost/x"])
    assert "notify]" in caught.value.hint
