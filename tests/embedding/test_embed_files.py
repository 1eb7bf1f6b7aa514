"""A recording in pieces is the whole one; a model in other processes; memory for a few seconds."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.framing import cut_frames, frame_audio, frame_blocks
from l3hpc.audio.resample import resample, resample_blocks, resample_kaiser, resample_kaiser_blocks
from l3hpc.embedding import batch, embed
from l3hpc.embedding.batch import EmbedSettings, embed_all
from l3hpc.embedding.embed import get_embedding
from l3hpc.embedding.folders import EmbedTask
from l3hpc.embedding.model import Model, load_model


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(samples=st.integers(1, 9000), source=st.sampled_from([300, 441, 480, 1000]),
       rate=st.sampled_from([300, 480, 800]), hop=st.sampled_from([0.05, 0.1, 0.29, 0.5, 1.0, 7.3]),
       center=st.booleans(), block=st.integers(1, 5000), size=st.integers(1, 40),
       kaiser=st.booleans())
def test_in_blocks_it_is_the_whole_signal(samples, source, rate, hop, center, block, size, kaiser):
    """Times, frames and resampled samples, exactly, whatever the blocks."""
    signal = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    whole, piecewise = (resample_kaiser, resample_kaiser_blocks) if kaiser else (
        resample, resample_blocks)
    if kaiser and samples * rate // source == 0:
        return
    blocks = (signal[start:start + block] for start in range(0, samples, block))
    pieces = list(frame_blocks(piecewise(blocks, source, rate), rate, hop, center, size=size))
    there = whole(signal, source, rate)
    frames, times = frame_audio(there, rate, hop, center)
    assert [first for first, _, _ in pieces] == list(
        np.cumsum([0, *(len(one) for _, one, _ in pieces[:-1])]))
    np.testing.assert_array_equal(np.concatenate([one for _, _, one in pieces]), times)
    found = np.concatenate([one for _, one, _ in pieces])
    np.testing.assert_allclose(found, frames, rtol=0, atol=1e-6 if kaiser else 0)
    cut = cut_frames(there, rate, hop, center)[0]
    assert cut.shape == frames.shape
    for rows in (slice(None), slice(2, 5), slice(len(frames) - 1, None)):
        np.testing.assert_array_equal(cut[rows], frames[rows])


@pytest.mark.parametrize("convention", ["A", "A'"])
@pytest.mark.parametrize("resampler", ["soxr", "kaiser_best"])
def test_a_file_in_pieces_has_the_embeddings_of_the_array(tmp_path, student, sound, monkeypatch,
                                                          convention, resampler):
    model = load_model(student, frontend=convention, engine="ncnn")
    whole = sound(20.3, 11025)
    whole[60_000:] *= 0.01
    path = tmp_path / "x.wav"
    soundfile.write(path, whole, 11025, "FLOAT")
    wanted, times = get_embedding(whole, 11025, model, resampler=resampler)
    for block, piece in ((7001, 5), (50_000, 64)):
        monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", block)
        monkeypatch.setattr(embed, "PIECE", piece)
        have, at = get_embedding(path, model=model, resampler=resampler)
        np.testing.assert_allclose(have, wanted, rtol=2e-6, atol=2e-6)
        np.testing.assert_array_equal(at, times)


@pytest.mark.parametrize("convention", ["A", "A'"])
def test_a_long_array_is_embedded_in_pieces_with_the_same_numbers(student, sound, monkeypatch,
                                                                  convention):
    model = load_model(student, frontend=convention, engine="ncnn")
    whole = sound(20.3, 11025)
    expected, times = get_embedding(whole, 11025, model, hop_size=0.3, batch_size=5)
    monkeypatch.setattr(embed, "LONG_S", 20)
    monkeypatch.setattr(embed, "BLOCK", 7001)
    monkeypatch.setattr(embed, "cut_frames", None)  # the whole signal is nowhere
    (found,), (there,) = get_embedding([whole], 11025, model, hop_size=0.3, batch_size=5)
    np.testing.assert_array_equal(there, times)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["npz", "h5", "csv"])
def test_outputs_larger_than_what_waits_in_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(batch, "IN_MEMORY", 1000)
    monkeypatch.setattr(batch, "ROWS", 7)
    embedding = np.random.default_rng(0).uniform(-1, 1, (100, 5)).astype(np.float32)
    times = np.arange(100) * 0.1
    path = tmp_path / "new" / f"x.{kind}"
    pieces = ((embedding[i:i + 9], times[i:i + 9]) for i in range(0, 100, 9))
    assert batch.write_embeddings(path, pieces, {"model": "m", "list": [1]}) == 100
    if kind == "npz":
        with np.load(path) as file:
            assert sorted(file) == ["embedding", "timestamps"]
            have, at = file["embedding"], file["timestamps"]
    elif kind == "h5":
        with h5py.File(path) as file:
            have, at = file["embedding"][()], file["timestamps"][()]
            assert file.attrs["list"] == "[1]"
    else:
        table = np.loadtxt(path, delimiter=",", skiprows=1)
        have, at = table[:, 1:].astype(np.float32), table[:, 0].round(6)
    np.testing.assert_array_equal(have, embedding)
    np.testing.assert_allclose(at, times, rtol=0, atol=1e-9)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_an_output_of_a_recording_that_fails_late_is_not_written(tmp_path, model, sound,
                                                                 monkeypatch):
    monkeypatch.setattr("l3hpc.embedding.batch.LONG_S", 1.0)
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 8000)
    whole = sound(9)
    whole[70_000] = np.nan
    soundfile.write(tmp_path / "x.wav", whole, 8000, "FLOAT")
    task = EmbedTask(tmp_path / "x.wav", tmp_path / "out/x.npz")
    (outcome,) = embed_all(model, [task], EmbedSettings())
    assert (outcome.state, outcome.message) == ("failed",
                                                "contains samples that are not finite numbers")
    assert list((tmp_path / "out").iterdir()) == []


MEMORY = """
import resource, sys
from l3hpc.embedding.batch import EmbedSettings, embed_all
from l3hpc.embedding.folders import plan_embedding
from l3hpc.embedding.model import load_model
model = load_model(sys.argv[1], engine="ncnn", threads=1)
for path in sys.argv[2:]:
    (outcome,) = embed_all(model, plan_embedding([path]).tasks, EmbedSettings(hop_size=0.2))
    print(outcome.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_length(tmp_path, student):
    """Three minutes and twenty, in a process of its own."""
    rng = np.random.default_rng(0)
    paths = []
    for minutes in (3, 20):
        paths.append(tmp_path / f"{minutes}.wav")
        with soundfile.SoundFile(paths[-1], "w", 8000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(rng.uniform(-0.3, 0.3, 60 * 8000))
    done = subprocess.run([sys.executable, "-c", MEMORY, student, *paths], capture_output=True,
                          text=True, check=True)
    (frames, first), (more, second) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (frames, more) == (899, 5999)
    assert second - first < 12_000  # kB; the frames alone would take 163 MB more


# other processes --------------------------------------------------------------------------------


def in_child(model, signal, answers):
    try:
        answers.put(get_embedding(signal, 8000, model)[0])
    except BaseException as error:
        answers.put(error)


def asked_of_a_process(method, model, signal):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=in_child, args=(model, signal, answers))
    process.start()
    try:
        return answers.get(timeout=240)  # a hang is a failure
    finally:
        process.kill()
        process.join()


def test_a_forked_process_may_use_a_model_of_ncnn(student, sound):
    signal = sound(2)
    model = load_model(student, engine="ncnn", threads=2)
    wanted = get_embedding(signal, 8000, model)[0]
    np.testing.assert_array_equal(asked_of_a_process("fork", model, signal), wanted)


FORK = """
import sys, multiprocessing
import numpy as np
from l3hpc import get_embedding, load_model
from l3hpc.errors import L3hpcError

def child(again):
    try:
        found = load_model(sys.argv[1], engine="tensorflow") if again else model
        get_embedding(np.ones(9000), 8000, found)
        print("computed", flush=True)
    except L3hpcError as error:
        print(error, flush=True)

model = load_model(sys.argv[1], engine="tensorflow")
get_embedding(np.ones(9000), 8000, model)
for again in (False, True):
    process = multiprocessing.get_context("fork").Process(target=child, args=(again,))
    process.start()
    process.join(240)
    assert process.exitcode == 0, "it hangs"
"""


def test_a_forked_process_is_told_that_tensorflow_stays_behind(student, forked, tmp_path):
    assert forked.run(FORK, student, out=tmp_path / "out") == 0, forked.errors()
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == [
        "TensorFlow cannot compute in a forked process"] * 2
    assert "get_context('spawn')" in lines[1]


def test_a_model_can_be_pickled(student, sound, tmp_path, monkeypatch):
    signal = sound(1.5)
    monkeypatch.chdir(student.parent)
    model = load_model(student.name, frontend="B", engine="ncnn", threads=1)
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(model)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert (again.engine, again.recognised) == ("ncnn", load_model(
        student, frontend="B", engine="ncnn").recognised)
    wanted = get_embedding(signal, 8000, model)[0]
    np.testing.assert_array_equal(get_embedding(signal, 8000, again)[0], wanted)
    with pytest.raises(pickle.PicklingError, match="only a Model that load_model returned"):
        pickle.dumps(Model(model.recognised, model.runner, "none"))


def test_the_documented_way_in_parallel(student, sound, tmp_path):
    """The example of the documentation, run as it stands there."""
    page = (Path(__file__).parents[2] / "docs/commands/embed.md").read_text()
    (code,) = [part.split("```")[0] for part in page.split("```python\n")[1:]
               if "ProcessPoolExecutor" in part]
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", sound(1.5, seed=ord(name)), 8000)
    script = tmp_path / "parallel.py"
    script.write_text(code.replace('"sea-64"', f'{str(student)!r}, engine="ncnn"').replace(
        "Executor(4", "Executor(2") + "    print([one.shape for one, _ in results])\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path,
                          timeout=600)
    assert done.stdout == "[(11, 5), (11, 5)]\n", done.stderr
