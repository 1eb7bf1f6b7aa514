"""Packing the small files of a run: what reads them, what a kill leaves, what is refused."""

import io
import json
import os
import shutil
import signal
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest
from fakeslurm import queue_line
from hypothesis import given
from hypothesis import strategies as st
from packedrun import TASKS, ended_run, files, folder, seen

from l3hpc.errors import InputError, collect_damage
from l3hpc.io.values import log_text
from l3hpc.runs import logs, pack, resume, status
from l3hpc.workspace import markers, records, run_archive
from l3hpc.workspace.layout import RunFolder, Workspace
from l3hpc.workspace.run_archive import Archive, Packed

LONG = 100 << 20  # bytes of a log


@pytest.fixture
def case(chains, slurm, tmp_path):
    return ended_run(chains, slurm, tmp_path / "ws")


def test_one_file_instead_of_many_and_back_again(case):
    before, shown = files(case), seen(case)
    run = folder(case)
    count, size = pack._count(run)
    assert len(before) == 4 * TASKS + TASKS + 1 + 2  # and sample: a pickle and a script
    planned = pack.pack(case.workspace, "demo", dry_run=True)
    assert files(case) == before and not run.packed.exists()
    done = pack.pack(case.workspace, "demo")
    assert (done.files_before, done.bytes_before, done.moved) == (count, size, len(before))
    assert done.files_after == planned.files_after == count - len(before) + 1
    assert done.bytes_after == pack._count(run)[1]
    assert planned.to_json() == {**done.to_json(), "bytes_after": None}
    assert files(case) == {} and run.packed.stat().st_mode & 0o777 == 0o600  # as the folder
    assert not [path for path in run.path.rglob("*")
                if path.name in ("logs", "markers") or path.name.startswith(".")]
    assert seen(case) == shown
    again = pack.pack(case.workspace, "demo")
    assert (again.moved, again.files_before) == (0, again.files_after)
    assert pack.unpack(case.workspace, "demo", dry_run=True).files_after == count
    back = pack.unpack(case.workspace, "demo")
    assert (back.moved, back.files_after, back.bytes_after) == (len(before), count, size)
    assert files(case) == before and not run.packed.exists()
    assert pack.unpack(case.workspace, "demo").moved == 0


def test_resume_unpacks_by_itself(case):
    before = files(case)
    pack.pack(case.workspace, "demo")
    case.queue()
    record = resume.resume(case.workspace, "demo", case.profile)
    assert record.steps[0].attempts[1].tasks == [1]
    assert not folder(case).packed.exists()
    after = files(case)
    # a job of a new attempt adds its files, and replaces none
    assert {name: after[name] for name in before} == before


def test_a_run_that_has_not_ended_is_refused(case):
    case.queue(queue_line("100_1", "RUNNING"), queue_line("101", "PENDING", "Dependency"))
    before = files(case)
    for dry_run in (True, False):
        with pytest.raises(InputError, match="ended: extract running, sample waiting") as no:
            pack.pack(case.workspace, "demo", dry_run=dry_run)
    assert "l3hpc cancel demo" in no.value.hint
    case.fail_both()
    (folder(case).step("extract").markers / "1.exit").unlink()
    with pytest.raises(InputError, match="has not ended"):
        pack.pack(case.workspace, "demo")
    assert files(case).keys() == before.keys() - {"steps/extract/markers/1.exit"}


def test_a_file_that_is_not_one_is_refused(case):
    link = folder(case).step("extract").logs / "link"
    link.symlink_to("/etc/passwd")
    before = files(case)
    with pytest.raises(InputError, match="not a regular file") as no:
        pack.pack(case.workspace, "demo")
    assert no.value.where == str(link) and files(case) == before


def test_a_name_that_is_not_utf_8_is_refused(case):
    logs_folder = folder(case).step("extract").logs
    odd = os.fsencode(logs_folder) + b"/caf\xe9"
    open(odd, "wb").close()
    with pytest.raises(InputError, match="has a name that is not UTF-8") as no:
        pack.pack(case.workspace, "demo")
    assert os.fsencode(no.value.where) == odd and not folder(case).packed.exists()


def test_the_archive_goes_only_when_the_disk_has_the_files(case, monkeypatch):
    before, synced = files(case), []
    pack.pack(case.workspace, "demo")
    run = folder(case)

    def record(paths):
        assert run.packed.exists()
        synced.extend(str(path) for path in paths)

    monkeypatch.setattr(pack, "make_durable", record)
    pack.unpack(case.workspace, "demo")
    ends = {path.removeprefix(f"{run}/").replace("/.logs.unpacked", "/logs")
            .replace("/.markers.unpacked", "/markers") for path in synced}
    assert ends >= {*before, "steps/extract", "steps/extract/logs", "steps/extract/markers"}
    assert f"{run}/steps/extract" in synced and f"{run}/steps/extract/logs" in synced


def test_a_run_without_folders_has_nothing_to_pack(case):
    shutil.rmtree(folder(case).steps)
    assert pack.pack(case.workspace, "demo").moved == 0
    assert not folder(case).packed.exists()


def test_an_archive_that_lacks_a_byte_replaces_nothing(case, monkeypatch):
    before, write = files(case), run_archive.write
    name = "steps/extract/markers/1.exit"

    def lacking(stream, entries):
        entries = {each: (file, list(content)) for each, (file, content) in entries.items()}
        digests = write(io.BytesIO(), entries)
        file, [*blocks, last] = entries[name]
        write(stream, {**entries, name: (file, [*blocks, last[:-1]])})
        return digests

    monkeypatch.setattr(run_archive, "write", lacking)
    with pytest.raises(InputError, match="does not contain what was written into it") as no:
        pack.pack(case.workspace, "demo")
    assert no.value.where == name and files(case) == before
    assert not folder(case).packed.exists() and not list(folder(case).path.rglob(".*"))


def test_what_is_written_beside_an_archive_is_newer_and_is_packed_too(case):
    before = files(case)
    pack.pack(case.workspace, "demo")
    step = folder(case).step("extract")
    step.logs.mkdir()
    step.log("100_0").write_text("by hand\n")
    assert pack.pack(case.workspace, "demo").moved == 1
    assert files(case) == {}
    step.logs.mkdir()
    step.log("100_2").write_text("by hand, too\n")
    assert pack.unpack(case.workspace, "demo", dry_run=True).moved == len(before) - 1
    pack.unpack(case.workspace, "demo")
    after = files(case)
    changed = {"steps/extract/logs/100_0_0_log.err": b"by hand\n",
               "steps/extract/logs/100_2_0_log.err": b"by hand, too\n"}
    assert after.keys() == before.keys()
    assert {name: text for name, (text, *_) in after.items()
            if before[name][0] != text} == changed


@pytest.mark.parametrize("what", [pack.pack, pack.unpack])
def test_killed_at_any_point_nothing_is_lost(case, what):
    before, shown = files(case), seen(case)
    if what is pack.unpack:
        pack.pack(case.workspace, "demo")
    for point in range(1, 200):
        if not _killed_at(point, lambda: what(case.workspace, "demo")):
            break
        loose, run = files(case), folder(case)
        with run_archive.opened(run) as archive:
            packed = {} if archive is None else {
                name: (archive.read(name, 2**20), file.changed_ns, file.mode | 0o100000)
                for name, file in archive.files.items()}
        assert {**packed, **loose} == before
        assert seen(case) == shown
        # the other command, and this one again, complete what was begun
        other = pack.unpack if what is pack.pack else pack.pack
        other(case.workspace, "demo")
        assert files(case) == (before if other is pack.unpack else {})
        assert not list(run.path.rglob(".*"))
    assert 4 < point < 199
    assert files(case) == (before if what is pack.unpack else {})
    assert not list(run.path.rglob(".*"))


def _killed_at(point, work):
    """Do the work in another process, which is killed before its n-th change of a name."""
    child = os.fork()
    if not child:
        calls = 0

        def counted(function):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                if calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)
            return call

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, how = os.waitpid(child, 0)
    assert how in (0, signal.SIGKILL)
    return how == signal.SIGKILL


def test_a_damaged_archive_is_named_and_nothing_is_written(case):
    pack.pack(case.workspace, "demo")
    path = folder(case).packed
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(InputError, match="is not a zip file, or damaged") as no:
        pack.unpack(case.workspace, "demo")
    assert no.value.where == str(path) and files(case) == {}
    with pytest.raises(InputError):
        resume.resume(case.workspace, "demo", case.profile)
    with collect_damage() as damage:
        assert markers.read(folder(case).step("extract").markers) == {}
    assert [error.where for error in damage] == [str(path)]
    [found] = status.collect(case.workspace, ["demo"])
    assert found.damaged[0].startswith(f"{path}: is not a zip file")
    place = content.index(b"steps/extract/markers/1.exit") + len("steps/extract/markers/1.exit")
    path.write_bytes(content[:place + 4] + b"\xff\xff" + content[place + 6:])
    with pytest.raises(InputError, match="is damaged"):
        pack.unpack(case.workspace, "demo")
    assert files(case) == {}
    with collect_damage() as damage:
        assert {*markers.read(folder(case).step("extract").markers)} == {0, 1, 2}
    assert [error.where for error in damage] == [f"{path}: steps/extract/markers/1.exit"]


def test_an_archive_of_somebody_else_is_not_unpacked(case, monkeypatch):
    pack.pack(case.workspace, "demo")
    monkeypatch.setattr(pack, "is_trusted_owner", lambda uid, folder: False)
    with pytest.raises(InputError, match="not to you: it is not unpacked"):
        pack.unpack(case.workspace, "demo")
    assert files(case) == {}


def zipped(*names, index=None, schema=1, **more):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of one name
        listed = {name: [1, 0, 0o644] for name in names} if index is None else index
        archive.writestr("index.json", json.dumps({"schema": schema, "files": listed}))
        for name in names:
            info = zipfile.ZipInfo(name)
            for key, value in more.items():
                setattr(info, key, value)
            archive.writestr(info, "text")
    return stream


GOOD = "steps/a/logs/x"


@pytest.mark.parametrize("name", [
    "../x", "/etc/x", "steps/../logs/x", "steps/a/logs/..", "steps/./markers/x", "steps/a/logs/b/c",
    "steps/a/other/x", "run.json", "steps/a/logs/", "steps/a/config.json", "x/steps/a/logs/x"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="which is not a log or marker of a step"):
        Archive(zipped(GOOD, name), Path("packed.zip"))


@pytest.mark.parametrize(("stream", "words"), [
    (zipped(GOOD, GOOD), "two files of one name"),
    (zipped(GOOD, index={}), "does not list the files"),
    (zipped(GOOD, index={GOOD: [1, 2]}), "does not list the files"),
    (zipped(GOOD, index={GOOD: 7}), "index.files cannot be"),
    (zipped(GOOD, index={GOOD: [10**10, 0, 0o600]}), "does not list the files"),
    (zipped(GOOD, index={GOOD: [-10**10, 0, 0o600]}), "does not list the files"),
    (zipped(GOOD, index={GOOD: [1, 10**9, 0o600]}), "does not list the files"),
    (zipped(GOOD, index={GOOD: [1, -1, 0o600]}), "does not list the files"),
    (zipped(GOOD, schema=2), "its format is 2; this version of l3hpc reads format 1"),
    (zipped(f"steps/a/logs/{'é' * 128}"), "which is not a log or marker of a step"),
    (zipped(GOOD, compress_type=zipfile.ZIP_LZMA), "compressed in another way"),
    (io.BytesIO(b"no zip"), "is not a zip file"), (io.BytesIO(b""), "is not a zip file")])
def test_other_archives_are_refused(stream, words):
    with pytest.raises(InputError, match=words) as caught:
        Archive(stream, Path("packed.zip"))
    assert str(caught.value.where).startswith("packed.zip")


def test_times_before_1970_and_names_of_255_bytes_are_allowed():
    name = f"steps/a/logs/{'é' * 127}x"
    assert Archive(zipped(name, index={name: [-5, 1, 0o600]}), Path("packed.zip")).files[
        name].changed_ns == -5 * 10**9 + 1


def only_the_index(blocks):
    return lambda self, name: blocks(self, name) if name == run_archive.INDEX else pytest.fail(name)


def test_the_size_of_a_log_is_known_without_reading_it(case, monkeypatch):
    step = Workspace(case.workspace).run("demo").step("extract")
    sizes = {path: path.stat().st_size for path in step.logs.iterdir()}
    pack.pack(case.workspace, "demo")
    monkeypatch.setattr(Archive, "blocks", only_the_index(Archive.blocks))
    assert sizes and {path: logs.log_size(path) for path in sizes} == sizes
    assert logs.log_size(step.logs / "none") is None


def test_a_link_in_an_archive_becomes_a_file(case):
    pack.pack(case.workspace, "demo")
    name = "steps/extract/logs/x"
    folder(case).packed.write_bytes(
        zipped(name, external_attr=0o120777 << 16, index={name: [1, 5, 0o4755]}).getvalue())
    pack.unpack(case.workspace, "demo")
    path = folder(case).path / name
    assert path.read_text() == "text" and not path.is_symlink()
    assert path.stat().st_mode & 0o7777 == 0o755


def test_limits_of_what_is_read():
    archive = Archive(zipped(GOOD), Path("packed.zip"))
    assert archive.read(GOOD, 4) == b"text"
    with pytest.raises(InputError, match="larger than 3 bytes"):
        archive.read(GOOD, 3)
    with pytest.raises(InputError, match="is not in the archive"):
        archive.read("steps/a/logs/y", 1)


NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]),
                min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))


@given(st.dictionaries(st.tuples(NAMES, st.sampled_from(["logs", "markers"]), NAMES),
                       st.tuples(st.binary(max_size=300), st.integers(0, 2**62),
                                 st.integers(0, 0o777)), max_size=8))
def test_what_goes_in_comes_out(content):
    entries = {f"steps/{step}/{kind}/{name}": (
        Packed(f"steps/{step}/{kind}/{name}", len(text), changed, mode), text)
        for (step, kind, name), (text, changed, mode) in content.items()}
    stream = io.BytesIO()
    digests = run_archive.write(stream, {
        name: (file, [text[:7], text[7:]]) for name, (file, text) in entries.items()})
    archive = Archive(stream, Path("packed.zip"))
    assert {name: (file, archive.read(name, 300))
            for name, file in archive.files.items()} == entries
    assert digests == {name: archive.digest(name) for name in entries}


def peak_of(call):
    """Bytes of memory that a call needs beyond what is there before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_log_is_never_whole_in_memory(case):
    record = records.read(case.workspace, "demo")
    path = folder(case).step("extract").log("100_0")
    with path.open("r+b") as log:  # zeros without a line, then two lines
        log.truncate(LONG)
        log.seek(0, 2)
        log.write("é\nlast line\n".encode())
    size = LONG + 13

    def read():
        assert logs.find_log(case.workspace, record, record.steps[0], task=0) == path
        assert sum(map(len, logs.pieces(path))) == size - 1
        assert logs.tail(path, 100) == "last line\n" and logs.log_size(path) == size

    def pack_again():
        (folder(case).step("extract").markers).mkdir()
        folder(case).step("extract").markers.joinpath("9.begin").write_text("{}")
        assert pack.pack(case.workspace, "demo").moved == 1

    for call in (read, lambda: pack.pack(case.workspace, "demo"), read, pack_again,
                 lambda: pack.unpack(case.workspace, "demo"), read):
        assert peak_of(call) < LONG // 4
    assert path.stat().st_size == size and not folder(case).packed.exists()


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_end_of_a_line_longer_than_what_is_read(case, end):
    """A progress bar writes over its line again and again, until the job is killed."""
    path = folder(case).step("extract").log("100_0")
    path.write_text("start\n" + "".join(f"\r{n:5}/30000" for n in range(30_000)) + end)
    assert logs.last_lines(path, began=True)[-1] == "29999/30000"
    assert logs.tail(path).endswith("\r29999/30000" + end)


@pytest.mark.parametrize("block", [40, 41, 42, 43, 44])
@pytest.mark.parametrize("read", [logs.pieces, lambda path: logs.follow(path, lambda: True)])
def test_no_piece_ends_within_a_colour_or_a_line_end(case, monkeypatch, block, read):
    path = folder(case).step("extract").log("100_0")
    text = "\x1b[31mred\x1b[0m\r\n" + "\x1b[1;32mö 10%\x1b[0m\r" * 60 + "\x1b["
    path.write_text(text, newline="")
    monkeypatch.setattr(run_archive, "BLOCK", block)
    pieces = [*read(path)]
    assert "".join(pieces) == text and len(pieces) > 5
    assert "".join(map(log_text, pieces)) == log_text(text)


def test_a_packed_log_is_read_piece_by_piece(case):
    path = folder(case).step("extract").log("100_0")
    text = "".join(f"{number} é\n" for number in range(300_000)) + "no end"
    path.write_text(text)
    assert [*logs.pieces(path)][0].endswith("é\n")
    pack.pack(case.workspace, "demo")
    pieces = [*logs.pieces(path)]
    assert "".join(pieces) == text and len(pieces) > 3
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    with pytest.raises(FileNotFoundError):
        next(logs.pieces(path.with_name("none")))


def test_damage_in_the_middle_of_a_long_log_leaves_nothing_unpacked(case):
    path = folder(case).step("extract").log("100_0")
    path.write_bytes(os.urandom(3 << 20))
    pack.pack(case.workspace, "demo")
    packed = folder(case).packed
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with pytest.raises(InputError, match="is damaged") as no:
        pack.unpack(case.workspace, "demo")
    assert no.value.where == f"{packed}: steps/extract/logs/{path.name}"
    assert files(case) == {} and not list(folder(case).steps.glob("*/.*"))
    with pytest.raises(InputError, match="is damaged"):
        list(logs.pieces(path))


def test_a_pipe_in_place_of_an_archive_hangs_nobody(tmp_path):
    os.mkfifo(RunFolder(tmp_path).packed)
    with pytest.raises(InputError, match="cannot be read: not a regular file"), \
            run_archive.opened(RunFolder(tmp_path)):
        pass


def test_a_run_that_is_not_packed_has_no_archive(tmp_path):
    with run_archive.opened(RunFolder(tmp_path)) as archive:
        assert archive is None
    assert run_archive.read_blocks(RunFolder(tmp_path).step("a").log("7")) is None
    assert run_archive.read_all(RunFolder(tmp_path).step("a").markers, 10, bool) is None
