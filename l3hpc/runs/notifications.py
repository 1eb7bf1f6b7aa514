"""Messages about runs: which are due, and that each is sent once.

A run has a file ``notified.json`` if its profile had ``notify`` when it was submitted; it keeps,
for each address, what was sent. A message is noted before it is sent, and the note is taken back if
the service refuses it: a process that is killed in between loses a message, but none is sent twice.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l3hpc import notify
from l3hpc.config import settings
from l3hpc.config.profile import ClusterProfile, Notify, NotifyEvent
from l3hpc.console.formatting import clock
from l3hpc.errors import InputError, command_line, report_damage
from l3hpc.io.files import read_json, write_json
from l3hpc.io.owners import current_user
from l3hpc.notify import Destination, Kind
from l3hpc.pipelines.planned import Plan
from l3hpc.runs import status
from l3hpc.runs.status import RunStatus
from l3hpc.workspace import markers, records, run_names, sharing
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.records import RunRecord
from l3hpc.workspace.states import RunState

KINDS: dict[NotifyEvent, Kind] = {"done": "success", "failed": "failure", "requeued": "warning"}
_ENDS: dict[RunState, NotifyEvent] = {
    RunState.DONE: "done", RunState.FAILED: "failed", RunState.LOST: "failed"}
LINES = 12  # of a message


@dataclass(frozen=True)
class Message:
    """One message about a run.

    Attributes
    ----------
    run : str
        The run.
    event : str
        ``done``, ``failed`` or ``requeued``.
    title, body : str
        Plain text.
    """

    run: str
    event: NotifyEvent
    title: str
    body: str


@dataclass(frozen=True)
class Delivery:
    """What became of a message for one address. sent: None with ``dry_run``."""

    message: Message
    to: str
    sent: bool | None

    @property
    def words(self) -> str:
        """One line for a person; with ``dry_run`` the message itself."""
        title = self.message.title
        if self.sent is None:
            return "\n  ".join([f"would send to {self.to}: {title}",
                                *self.message.body.splitlines()])
        if self.sent:
            return f"sent to {self.to}: {title}"
        return f"not sent, {self.to} did not take it (tried again later): {title}"


def prepare(plan: Plan) -> None:
    """Messages about this run will be sent, if its profile says so."""
    if plan.profile.notify is not None:
        write_json(plan.folder.notified, {"schema": 1, "sent": {}}, durable=False)


def announce(workspace: Path, config_file: str | Path | None = None, *, dry_run: bool = False
             ) -> Iterator[Delivery]:
    """Send what is due about this person's runs.

    Parameters
    ----------
    workspace : Path
        Where the runs are.
    config_file : str or Path, optional
        The cluster.yaml with the addresses (default: that of the working folder).
    dry_run : bool
        Send and note nothing.

    Yields
    ------
    Delivery
        One for each message and address, as it is sent.

    Raises
    ------
    InputError
        An address of the profile cannot be used. (Damaged files and profiles that are no longer
        in cluster.yaml are reported, and the other runs go on.)
    """
    known: dict[str, Notify | None] = {}
    addresses: dict[str, list[Destination]] = {}
    waiting: dict[str, RunRecord] = {}
    for name in run_names.names(workspace):
        if not Workspace(workspace).run(name).notified.is_file():
            continue
        try:
            record, sent = records.read(workspace, name), _sent(workspace, name)
            if record.cluster not in known:
                known[record.cluster] = None
                known[record.cluster] = settings.load(config_file, record.cluster).profile.notify
        except InputError as error:  # a damaged file, a profile that is no longer there
            report_damage(error)
            continue
        wanted = known[record.cluster]
        # only its owner may write into the folder of a run
        if wanted is None or record.user != current_user():
            continue
        if record.cluster not in addresses:
            addresses[record.cluster] = destinations(wanted)
        if not all(_settled(sent.get(to.key, {}), record) for to in addresses[record.cluster]):
            waiting[name] = record
    for found in status.collect(workspace, waiting):
        cluster, wanted = found.cluster, known[found.cluster]
        if wanted is not None and found.state != RunState.SUBMITTING:
            yield from _about(workspace, waiting[found.run], found, wanted, addresses[cluster],
                              dry_run)


def destinations(wanted: Notify) -> list[Destination]:
    """The addresses of a profile; an ``InputError`` where one cannot be used."""
    return notify.destinations(url.get_secret_value() for url in wanted.urls)


def test(profile: ClusterProfile, *, dry_run: bool = False) -> Iterator[Delivery]:
    """Send a test message to every address of a profile, whatever was sent before.

    Raises
    ------
    InputError
        The profile has no addresses, or one that cannot be used.
    """
    if profile.notify is None:
        raise InputError("no addresses are set", where=f"clusters.{profile.name}.notify",
                         hint="set notify: of the profile in cluster.yaml; examples: "
                              + command_line("notify", "--help"))
    message = Message("", "done", f"test of l3hpc: {socket.gethostname()}",
                      f"This is a test of the profile {profile.name}: messages arrive.")
    for to in destinations(profile.notify):
        yield Delivery(message, to.label, None if dry_run else notify.send(
            to, message.title, message.body))


def _about(workspace: Path, record: RunRecord, found: RunStatus, wanted: Notify,
           addresses: Iterable[Destination], dry_run: bool) -> Iterator[Delivery]:
    """The messages of one run, under a lease: two commands at once send them once."""
    requeues = _requeues(workspace, record, found)
    lease = Lease(Workspace(workspace).run(record.run).notify_lease, "notify")
    if not dry_run and not lease.acquire():
        return
    try:
        for to in addresses:
            sent = _sent(workspace, record.run).get(to.key, {})
            yield from _deliver(workspace, record.run, to,
                                _due(record, found, wanted, requeues, sent), dry_run)
    except InputError as error:  # notified.json was damaged since it was first read
        report_damage(error)
    finally:
        lease.release(forget=True)


def _deliver(workspace: Path, run: str, to: Destination,
             due: Iterable[tuple[Message | None, dict[str, Any]]], dry_run: bool
             ) -> Iterator[Delivery]:
    """Send what is due to one address, until something cannot be sent."""
    for message, note in due:
        if message is None:
            if not dry_run:
                _note(workspace, run, to, note)
            continue
        sent = None if dry_run else _send(workspace, to, message, note)
        yield Delivery(message, to.label, sent)
        if sent is False:  # the next message would note this one as well
            return


def _send(workspace: Path, to: Destination, message: Message, note: dict[str, Any]) -> bool:
    before = _sent(workspace, message.run).get(to.key, {})
    _note(workspace, message.run, to, note)
    sent = False
    try:
        sent = notify.send(to, message.title, message.body, KINDS[message.event])
    finally:
        if not sent:  # the service is not reached, or Ctrl-C: the next pass tries again
            _note(workspace, message.run, to, before)
    return sent


def _due(record: RunRecord, found: RunStatus, wanted: Notify, requeues: dict[str, list[str]],
         sent: dict[str, Any]) -> Iterator[tuple[Message | None, dict[str, Any]]]:
    """Messages that an address has not got, with what is noted of each; None: only noted."""
    told = {step: int(count) for step, count in sent.get("requeues", {}).items()}
    # fewer than before: the step was submitted again, so its count starts again
    fresh = {step: reasons[told.get(step, 0):] if len(reasons) > told.get(step, 0) else reasons
             for step, reasons in requeues.items() if len(reasons) != told.get(step, 0)}
    note = {**sent, "requeues": {**told, **{step: len(requeues[step]) for step in fresh}}}
    if fresh:
        yield (_requeued(found, fresh) if "requeued" in wanted.on else None), note
    end = f"{found.state.value}:{_attempts(record)}"
    if found.state.is_active or sent.get("end") == end:
        return
    event = _ENDS.get(found.state)
    yield (_ended(found, event) if event in wanted.on and event else None), {**note, "end": end}


def _settled(sent: dict[str, Any], record: RunRecord) -> bool:
    """Whether the end of the run was sent, and nothing was submitted since then. What is lost may
    be found again."""
    state, _, attempts = str(sent.get("end", "")).partition(":")
    return attempts == str(_attempts(record)) and state != RunState.LOST.value


def _attempts(record: RunRecord) -> int:
    return sum(len(step.attempts) for step in record.steps)


def _requeues(workspace: Path, record: RunRecord, found: RunStatus) -> dict[str, list[str]]:
    """Step → why its tasks went back to the queue, in order of time; of steps that work."""
    reasons: dict[str, list[str]] = {}
    for step in found.steps:
        if not step.state.is_active:
            continue
        marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers)
        entries = sorted((float(entry.get("time", 0)), str(entry.get("words") or entry["reason"]))
                         for one in marks.values() for entry in one.requeues)
        if entries:
            reasons[step.name] = [words for _, words in entries]
    return reasons


def _requeued(found: RunStatus, fresh: dict[str, list[str]]) -> Message:
    lines = []
    for step, reasons in fresh.items():
        for words, count in Counter(reasons).items():
            lines.append(f"{step}: {words}" + (f" ({count} times)" if count > 1 else ""))
    return Message(found.run, "requeued", f"{found.run}: back in the queue on {found.cluster}",
                   "\n".join(lines[:LINES]))


def _ended(found: RunStatus, event: NotifyEvent) -> Message:
    if event == "done":
        lines = [f"{step.name}: {step.detail or step.state.value}"
                 + (f" ({clock(step.elapsed_s)})" if step.elapsed_s else "")
                 for step in found.steps]
    else:
        lines = [line for step in found.steps if step.state.is_stuck and not step.blocked_by
                 for line in (f"{step.name} {step.state.value}: {step.detail}".rstrip(": "),
                              *step.last_words)]
        following = [f"{word}: {command}" for word, command in (
            ("next", found.next), ("then", found.then)) if command]
        lines = [*lines[:LINES - len(following)], *following]
    return Message(found.run, event, f"{found.run} {found.state_in_words} on {found.cluster}",
                   "\n".join(lines[:LINES]))


def _sent(workspace: Path, run: str) -> dict[str, dict[str, Any]]:
    """Address key → what was sent there."""
    path = Workspace(workspace).run(run).notified
    value = read_json(path)
    sent = value.get("sent") if isinstance(value, dict) else None
    if not isinstance(sent, dict) or not all(_is_note(one) for one in sent.values()):
        raise InputError("this is not a list of sent messages", where=str(path),
                         hint="Remove the file: then no messages are sent about this run.")
    return sent


def _is_note(value: object) -> bool:
    """Whether this can be what was sent to an address: ``{"requeues": {STEP: N}, "end": …}``."""
    if not isinstance(value, dict):
        return False
    told = value.get("requeues", {})
    return isinstance(value.get("end", ""), str) and isinstance(told, dict) and all(
        type(count) is int and count >= 0 for count in told.values())


def _note(workspace: Path, run: str, to: Destination, note: dict[str, Any]) -> None:
    folder = Workspace(workspace).run(run)
    path = folder.notified
    with contextlib.suppress(FileNotFoundError), sharing.same_readers(folder.path):
        write_json(path, {"schema": 1, "sent": {**_sent(workspace, run), to.key: note}})
