"""Networks that are folded once, and mapped by the tasks that follow."""

import copy
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l3hpc.io import owners
from l3hpc.models import ncnn_engine, prepared_weights, weights
from l3hpc.models.engines import make_engine
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec, openl3_spec, student_spec

STUDENT = student_spec(emb_dim=16)
STRIPS = NetworkSpec(8000, 64, 10, 256, filters=(64, 64, 4, 4, 4, 4, 4, 8), tail="student")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder of prepared networks of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared_weights, "LEAST_VALUES", 0)
    return tmp_path / "cache" / "l3hpc" / "weights"


def equal(found, expected):
    pairs = zip(found.convolutions, expected.convolutions, strict=True)
    return (found.spec, found.scale, found.shift) == (
        expected.spec, expected.scale, expected.shift) and all(
        one.relu == other.relu and np.array_equal(one.kernel, other.kernel)
        and np.array_equal(one.bias, other.bias) and one.kernel.dtype == np.float32
        for one, other in pairs)


def prepared(spec, seed=1):
    """(the network, whether it was made)."""
    made = []
    network = prepared_weights.prepared(lambda: f"seed {seed}", spec, lambda: (
        made.append(1), untrained(spec, seed).folded())[1])
    assert equal(network, untrained(spec, seed).folded())
    return network, bool(made)


def test_a_network_is_made_once_for_all_tasks():
    asked = ((1, STUDENT), (1, STUDENT), (2, STUDENT), (1, STRIPS), (1, STRIPS))
    assert [prepared(spec, seed)[1] for seed, spec in asked] == [True, False, True, True, False]


@pytest.mark.parametrize("spec", [STUDENT, STRIPS])
def test_ncnn_is_given_the_file_itself(spec, monkeypatch):
    prepared(spec)
    network, _ = prepared(spec)
    frames = np.random.default_rng(0).uniform(-80, 0, (3, *spec.frontend.shape)).astype("f4")
    right = make_engine("ncnn", untrained(spec, 1).folded(), 1).run(frames)
    monkeypatch.setattr(ncnn_engine, "weight_file", None)
    assert np.array_equal(make_engine("ncnn", network, 1).run(frames), right)


def test_a_changed_network_is_not_computed_with_the_weights_of_the_file():
    prepared(STUDENT)
    network, _ = prepared(STUDENT)
    changed = replace(network, convolutions=untrained(STUDENT, 2).folded().convolutions)
    frames = np.random.default_rng(0).uniform(-80, 0, (1, *STUDENT.frontend.shape)).astype("f4")
    right = make_engine("ncnn", replace(untrained(STUDENT, 2).folded(), scale=network.scale,
                                        shift=network.shift), 1).run(frames)
    assert np.array_equal(make_engine("ncnn", changed, 1).run(frames), right)


def test_ncnn_is_given_a_copy_where_the_open_file_has_no_path(monkeypatch):
    prepared(STUDENT)
    network, _ = prepared(STUDENT)
    frames = np.random.default_rng(0).uniform(-80, 0, (1, *STUDENT.frontend.shape)).astype("f4")
    right = make_engine("ncnn", network, 1).run(frames)
    loaded = ncnn_engine._net
    monkeypatch.setattr(ncnn_engine, "_net", lambda network, path: (
        None if path.startswith("/proc") else loaded(network, path)))
    assert np.array_equal(make_engine("ncnn", network, 1).run(frames), right)


@pytest.mark.parametrize("engine", ["ncnn", "tensorflow"])
def test_a_weight_file_is_prepared_by_its_content(engine, tmp_path, cache, monkeypatch):
    path, copy = tmp_path / "student.h5", tmp_path / "copy.h5"
    weights.save(untrained(STUDENT, 3), path)
    frames = np.random.default_rng(0).uniform(-0.1, 0.1, (2, STUDENT.rate)).astype("f4")
    first = weights.load(path, engine=engine, threads=1).embed(frames)
    shutil.copy(path, copy)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "load_parameters", None)
        again = weights.load(copy, engine=engine, threads=1).embed(frames)
    assert np.array_equal(first, again) and len(list(cache.iterdir())) == 1
    weights.save(untrained(STUDENT, 4), copy)
    assert not np.allclose(weights.load(copy, engine=engine, threads=1).embed(frames), first)


def test_a_weight_file_that_is_replaced_meanwhile_is_not_taken_for_the_one_before(
        tmp_path, cache, monkeypatch):
    path = tmp_path / "student.h5"
    weights.save(untrained(STUDENT, 3), path)
    read = weights.load_parameters

    def replaced(*args, **options):
        weights.save(untrained(STUDENT, 4), path)
        return read(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "load_parameters", replaced)
        weights.load_folded(path)
    assert not cache.exists()


def test_the_digest_of_a_file_is_computed_once(tmp_path, monkeypatch):
    path, asked = tmp_path / "student.h5", []
    weights.save(untrained(STUDENT, 3), path)
    digest = weights.digest_file
    monkeypatch.setattr(weights, "digest_file", lambda file: (asked.append(1), digest(file))[1])
    monkeypatch.setattr(weights, "RECENT_S", 0)
    known = weights.identity(path)["digest"]
    weights.load_folded(path)
    assert len(asked) == 1 and known == digest(path)
    # one that was written just now could be written again at the same time
    monkeypatch.setattr(weights, "RECENT_S", 3600)
    weights.identity(path)
    assert len(asked) == 2


@pytest.mark.parametrize("damage", [
    lambda content: content[:-4], lambda content: b"", lambda content: content + b"\0" * 4,
    lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    lambda content: content[:8192] + bytes(4096) + content[12288:],
    lambda content: bytes([content[0] ^ 1]) + content[1:],
    lambda content: content[:-70] + bytes([content[-70] ^ 1]) + content[-69:]])
def test_a_damaged_file_is_made_again(cache, damage):
    prepared(STUDENT)
    [path] = cache.glob("*.bin")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert prepared(STUDENT)[1] and path.read_bytes() == whole
    assert not prepared(STUDENT)[1]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_made_again(cache, mode):
    prepared(STUDENT)
    [path] = cache.glob("*.bin")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    assert prepared(STUDENT)[1] and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("copied", [
    lambda network: pickle.loads(pickle.dumps(network)), copy.deepcopy])
def test_a_copy_is_not_computed_with_another_file_that_has_been_opened_since(copied):
    """As in a process that was spawned: the descriptor stands for another file there."""
    for seed in (1, 2):
        prepared(STUDENT, seed)
    network, _ = prepared(STUDENT, 1)
    path = network.file.path
    network = copied(network)
    others = [prepared(STUDENT, 2)[0] for _ in range(3)]
    assert path in {other.file.path for other in others}
    frames = np.random.default_rng(0).uniform(-80, 0, (1, *STUDENT.frontend.shape)).astype("f4")
    right = make_engine("ncnn", untrained(STUDENT, 1).folded(), 1).run(frames)
    assert np.array_equal(make_engine("ncnn", network, 1).run(frames), right)


def test_a_file_under_the_name_of_another_one_is_made_again(cache):
    for seed in (1, 2):
        prepared(STUDENT, seed)
    one, other = cache.glob("*.bin")
    shutil.copy(one, other)
    assert sorted(prepared(STUDENT, seed)[1] for seed in (1, 2)) == [False, True]


def test_a_folder_that_is_emptied_meanwhile(cache, monkeypatch):
    write = prepared_weights._write

    def emptied(*args):
        write(*args)
        shutil.rmtree(cache)

    monkeypatch.setattr(prepared_weights, "_write", emptied)
    assert prepared(STUDENT)[1] and prepared(STUDENT)[1]


def test_one_of_many_tasks_writes_the_file(cache, monkeypatch):
    """A thousand files of 19 MB at once do not fit into every home."""
    write, tasks = prepared_weights.write_bytes, []

    def others_start(path, content, **options):
        half = path.with_name(f".{path.name}.01234567.tmp")
        path.parent.mkdir(parents=True)
        half.touch()
        monkeypatch.setattr(prepared_weights, "write_bytes", write)
        tasks.append((prepared(STUDENT)[1], path.exists()))
        half.unlink()
        write(path, content, **options)

    monkeypatch.setattr(prepared_weights, "write_bytes", others_start)
    assert prepared(STUDENT)[1] and tasks == [(True, False)]
    assert not prepared(STUDENT)[1]


def test_what_another_task_has_written_meanwhile_stays(cache):
    def make():
        prepared(STUDENT)
        written.extend(path.stat().st_ino for path in cache.glob("*.bin"))
        return untrained(STUDENT, 1).folded()

    written = []
    prepared_weights.prepared(lambda: "seed 1", STUDENT, make)
    assert [path.stat().st_ino for path in cache.iterdir()] == written


def test_what_a_killed_task_left_is_written_again_and_removed(cache):
    prepared(STUDENT)
    [path] = cache.glob("*.bin")
    path.unlink()
    half = path.with_name(f".{path.name}.01234567.tmp")
    half.touch()
    os.utime(half, (10**9, 10**9))
    assert prepared(STUDENT)[1] and [*cache.iterdir()] == [path]


def test_a_file_of_another_user_is_not_used(monkeypatch):
    prepared(STUDENT)
    monkeypatch.setattr(owners, "is_trusted_owner", lambda uid, folder: False)
    assert prepared(STUDENT)[1]


def test_a_link_is_not_followed(cache, tmp_path):
    prepared(STUDENT)
    [path] = cache.glob("*.bin")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert prepared(STUDENT)[1] and not path.is_symlink()


def test_without_a_place_for_the_file(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert prepared(STUDENT)[1] and prepared(STUDENT)[1]


def test_without_a_home_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert prepared(STUDENT)[1] and prepared(STUDENT)[1]


def test_no_file_stays_open_that_is_not_used(cache):
    prepared(STUDENT)
    [path] = cache.glob("*.bin")
    content = path.read_bytes()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        path.write_bytes(content[:-1] + b"x")
        prepared(STUDENT)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_few_files_are_kept(cache, monkeypatch):
    seconds, utime = iter(range(0, 10**6, 100)), os.utime
    # clocks of file systems are coarse
    monkeypatch.setattr(prepared_weights.os, "utime", lambda path: utime(
        path, (10**9 + next(seconds),) * 2))
    for seed in (0, 1, 2, 3):
        prepared(STUDENT, seed)
    written = cache / ".x.bin.abcdefgh.tmp"
    written.write_bytes(b"")
    prepared(STUDENT, 0)  # the one that was used last
    for seed in (4, 5):
        prepared(STUDENT, seed)
    assert len(list(Path(cache).glob("[!.]*.bin"))) == 4 and written.exists()
    assert [prepared(STUDENT, seed)[1] for seed in (0, 3, 4, 5, 1)] == [False] * 4 + [True]


def test_files_in_use_are_kept(cache):
    for seed in range(6):
        prepared(STUDENT, seed)
    assert len(list(cache.glob("*.bin"))) == 6


def test_small_networks_are_not_kept(cache, monkeypatch):
    monkeypatch.undo()
    small = student_spec(emb_dim=16)
    assert prepared_weights.LEAST_VALUES > 10**6
    assert prepared(small)[1] and prepared(small)[1]
    assert not cache.exists()
    assert sum(shape[2] for shape in prepared_weights._kernel_shapes(openl3_spec())) > 0
