"""get_embedding against float64 references, and what it says to odd audio."""

import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import l3hpc
from l3hpc.audio.files import AudioError
from l3hpc.audio.resample import resample, resample_kaiser
from l3hpc.embedding.embed import AudioWarning, get_embedding
from l3hpc.embedding.model import load_model
from l3hpc.errors import InputError, L3hpcError
from l3hpc.models import weights

pytestmark = pytest.mark.slow
REAL = Path(__file__).parents[2].parent / "shared/real"


def frames_of(signal, rate, hop_s, center):
    """By the published rule, one frame at a time."""
    hop = int(hop_s * rate)
    padded = [0.0] * (rate // 2 if center else 0) + list(signal)
    length = max(rate, math.ceil((len(padded) - rate) / hop) * hop + rate)
    padded += [0.0] * (length - len(padded))
    return np.array([padded[start:start + rate]
                     for start in range(0, length - rate + 1, hop)])


def expected(networks, spectra, path, signal, hop_s, center, convention="A"):
    parameters, _ = weights.load_parameters(path)
    spec = parameters.spec
    frames = frames_of(signal, spec.rate, hop_s, center)
    geometry = (spec.rate, spec.n_dft, spec.hop, spec.n_mels, spec.fmax)
    pictures = spectra.spectrograms(frames, *geometry, convention)
    pool = tuple(size >> 3 for size in pictures.shape[1:])
    return np.array([networks.forward(one, parameters.layers, spec.tail, spec.head, pool)
                     for one in pictures])


def close(have, wanted):
    np.testing.assert_allclose(have, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("convention", ["A", "A'", "B", "C", "D"])
def test_equals_the_definition_in_every_convention(student, networks, spectra, sound, convention):
    signal = sound(2.4)
    signal[:9000] *= 0.01  # frames of different loudness
    model = load_model(student, frontend=convention, engine="ncnn")
    have, times = get_embedding(signal, 8000, model, hop_size=0.25)
    assert have.dtype == np.float32 and times.dtype == np.float64
    close(have, expected(networks, spectra, student, signal, 0.25, True, convention))


def test_conventions_are_not_interchangeable(student, sound):
    signal = sound(1)
    found = [get_embedding(signal, 8000, load_model(student, frontend=name, engine="ncnn"))[0]
             for name in ("A", "B", "C", "D")]
    for index, left in enumerate(found):
        for right in found[index + 1:]:
            assert np.abs(left - right).max() > 1e-3 * np.abs(left).max()


def test_uncentred_equals_the_definition_and_engines_agree(student, model, networks, spectra,
                                                           sound):
    signal = sound(1.9)
    have, times = get_embedding(signal, 8000, model, center=False, hop_size=0.5)
    close(have, expected(networks, spectra, student, signal, 0.5, False))
    np.testing.assert_array_equal(times, [0.0, 0.5, 1.0])
    other = load_model(student, engine="tensorflow")
    close(get_embedding(signal, 8000, other, center=False, hop_size=0.5)[0], have)


@pytest.mark.parametrize(("seconds", "rate", "center", "hop", "count"), [
    (10, 48000, True, 0.5, 20), (10, 48000, True, 0.1, 96), (10, 48000, False, 0.1, 91),
    (10, 48000, True, 1.0, 11), (1, 48000, True, 0.1, 6), (1, 48000, False, 0.1, 1),
    (2, 44100, True, 0.1, 16)])
def test_published_frame_counts(sound, seconds, rate, center, hop, count):
    """The numbers of the published packages, at their rate (a network that gives zeros)."""
    model = load_model("untrained", engine="ncnn")
    fake = type(model)(model.recognised, Zeros(), "none")
    embedding, times = get_embedding(sound(seconds, rate), rate, fake, center=center, hop_size=hop)
    assert embedding.shape == (count, 512)
    np.testing.assert_array_equal(times, np.arange(count) * hop)


class Zeros:
    def embed(self, frames, batch_size=None, on_batch=None):
        return np.zeros((len(frames), 512), np.float32)


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(1, 40_000), hop=st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.7]),
       center=st.booleans())
def test_any_length_gives_the_published_number_of_frames(model, samples, hop, center):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        embedding, times = get_embedding(np.ones(samples, np.float32), 8000,
                                         type(model)(model.recognised, Zeros(), "none"),
                                         center=center, hop_size=hop)
    length, step = samples + (4000 if center else 0), int(hop * 8000)
    whole = 8000 if length < 8000 else math.ceil((length - 8000) / step) * step + 8000
    assert len(embedding) == len(times) == 1 + (whole - 8000) // step


def test_stereo_is_averaged_and_integers_are_scaled(model, sound):
    left, right = sound(1.5, seed=1), sound(1.5, seed=2)
    mono, _ = get_embedding((left + right) / 2, 8000, model)
    stereo, _ = get_embedding(np.stack([left, right], axis=1), 8000, model)
    close(stereo, mono)
    whole = np.round(left * 32767).astype(np.int16)
    np.testing.assert_array_equal(get_embedding(whole, 8000, model)[0],
                                  get_embedding(whole / np.float32(32768), 8000, model)[0])
    np.testing.assert_array_equal(get_embedding(left.tolist(), 8000, model)[0],
                                  get_embedding(left, 8000, model)[0])


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_any_rate_is_resampled(model, sound, rate):
    signal = sound(2, rate)
    have, times = get_embedding(signal, rate, model)
    wanted, _ = get_embedding(resample(signal, rate, 8000), 8000, model)
    np.testing.assert_array_equal(have, wanted)
    assert len(times) == 16


def test_the_published_resampler_by_name(model, sound):
    signal = sound(2, 44100)
    have, times = get_embedding(signal, 44100, model, resampler="kaiser_best")
    wanted, _ = get_embedding(resample_kaiser(signal, 44100, 8000), 8000, model)
    np.testing.assert_array_equal(have, wanted)
    assert not np.array_equal(have, get_embedding(signal, 44100, model)[0]) and len(times) == 16
    with pytest.raises(InputError, match="did you mean 'kaiser_best'"):
        get_embedding(signal, 44100, model, resampler="kaiser")


def test_a_list_gives_what_each_has_alone(model, sound):
    audio = [sound(1.2), sound(3, 16000, 1), np.stack([sound(2, 8000, 2)] * 2, 1), sound(0.5)]
    rates = [8000, 16000, 8000, 8000]
    with pytest.warns(AudioWarning, match=r"audio\[3\]: is 0.500 s long") as caught:
        embeddings, times = get_embedding(audio, rates, model, batch_size=7)
    assert caught[0].filename == __file__
    assert [len(one) for one in embeddings] == [len(one) for one in times] == [8, 26, 16, 1]
    for one, rate, have in zip(audio, rates, embeddings, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AudioWarning)
            close(have, get_embedding(one, rate, model)[0])
    assert get_embedding([], 8000, model) == ([], [])
    both, _ = get_embedding([audio[0], audio[2]], 8000, model)
    np.testing.assert_array_equal(both[0], get_embedding(audio[0], 8000, model)[0])


def test_batches_change_nothing_but_in_the_convention_that_normalises_over_them(student, sound):
    signal = sound(4.3)
    signal[16000:] *= 1e-3
    for convention, same in (("A", True), ("A'", False)):
        model = load_model(student, frontend=convention, engine="ncnn")
        whole, small, default = (get_embedding(signal, 8000, model, batch_size=size)[0]
                                 for size in (64, 5, None))
        assert np.allclose(whole, small, rtol=1e-4, atol=1e-3) == same
        if not same:  # as the published packages: 32 at a time
            np.testing.assert_array_equal(
                default, get_embedding(signal, 8000, model, batch_size=32)[0])
            alone = get_embedding([signal, signal[:9000]], 8000, model)[0]
            np.testing.assert_array_equal(alone[0], default)


def test_silence_and_short_audio_are_warned_of_and_embedded(student, model, networks, spectra):
    with pytest.warns(AudioWarning, match="every sample is zero") as caught:
        silent, times = get_embedding(np.zeros(16000), 8000, model)
    assert caught[0].filename == __file__ and len(times) == 16
    close(silent, expected(networks, spectra, student, np.zeros(16000), 0.1, True))
    short = np.full(48, 0.3, np.float32)
    with pytest.warns(AudioWarning, match="is 0.006 s long; padded with zeros to one second"):
        have, times = get_embedding(short, 8000, model)
    close(have, expected(networks, spectra, student, short, 0.1, True))
    assert times.tolist() == [0.0] and np.isfinite(have).all()
    with pytest.warns(AudioWarning) as caught:
        get_embedding(np.zeros(10), 8000, model)
    assert len(caught) == 2


@pytest.mark.parametrize(("audio", "error", "said"), [
    (np.zeros(0), AudioError, "contains no samples"), (np.zeros((0, 2)), AudioError, "no samples"),
    (np.zeros((3, 2, 8000)), InputError, r"shape \(3, 2, 8000\)"),
    (np.float32(1), InputError, r"shape \(\)"),
    (np.array([0.0, np.nan] * 8000), AudioError, "not finite"),
    (np.array([0.0, -np.inf] * 8000), AudioError, "not finite"),
    (np.array(["a"]), InputError, "audio has type"), (np.zeros(9000, complex), InputError, "type"),
    (None, InputError, "no audio was given"), (7.5, InputError, r"shape \(\)"),
    ({"audio": 1}, InputError, "of type dict"), (b"RIFF", InputError, "type"),
    ([None], InputError, "audio is None"), ([[0.1, 0.2], None], InputError, "audio is None"),
    (np.full(9000, 1e29), AudioError, "which no recording has")])
def test_audio_that_cannot_be_embedded(model, audio, error, said):
    with pytest.raises(error, match=said):
        get_embedding(audio, 8000, model)


def test_other_refusals(model, sound):
    for rate in (0, -1, 44100.5, float("nan"), "8000", None, [8000], True, 1e12):
        with pytest.raises(InputError, match="sampling rate"):
            get_embedding(sound(1), rate, model)
    with pytest.raises(InputError, match="2 sampling rates for 1 arrays"):
        get_embedding([sound(1)], [8000, 8000], model)
    for hop in (0, -1, float("nan"), 1e-6, 1e12, float("inf"), "0.1", None, True, [0.1], 3601):
        with pytest.raises(InputError, match="hop"):
            get_embedding(sound(1), 8000, model, hop_size=hop)
    with pytest.raises(InputError, match="l3hpc ships no weights"):
        get_embedding(sound(1), 8000)
    for size in (0, -1, 2.5, 2.0, "2", True, float("nan"), [2]):
        with pytest.raises(InputError, match="batch_size is"):
            get_embedding(sound(1), 8000, model, batch_size=size)
    for center in ("yes", 2, None, 0.5, []):
        with pytest.raises(InputError, match="center is"):
            get_embedding(sound(1), 8000, model, center=center)
    for name in (None, 7, ["soxr"]):
        with pytest.raises(InputError, match="unknown resampler"):
            get_embedding(sound(1), 8000, model, resampler=name)
    for nothing in (7, b"x.h5", "", ["sea-64"], {}):
        with pytest.raises(InputError, match="is not a model"):
            load_model(nothing)
    for options in ({"embedding_size": "512"}, {"embedding_size": 512.0}, {"embedding_size": True},
                    {"embedding_size": float("nan")}, {"threads": 0}, {"threads": "2"},
                    {"input_repr": 128}, {"input_repr": ["mel128"]}, {"frontend": 1},
                    {"engine": None}, {"engine": "theano"}):
        with pytest.raises(InputError, match=next(iter(options))):
            load_model("untrained", **options)


def test_hops_as_long_as_allowed_take_no_memory(model, sound):
    embedding, times = get_embedding(sound(3), 8000, model, hop_size=3600)
    assert embedding.shape == (2, 5) and times.tolist() == [0.0, 3600.0]
    np.testing.assert_array_equal(embedding[:1],
                                  get_embedding(sound(3), 8000, model, hop_size=10)[0][:1])


def test_the_package_offers_both_and_loads_them_late(student, sound):
    assert l3hpc.get_embedding is get_embedding and l3hpc.load_model is load_model
    code = (f"import sys, l3hpc, numpy as np\n"
            f"assert 'numpy.fft' not in sys.modules or 'scipy' not in sys.modules\n"
            f"m = l3hpc.load_model({str(student)!r}, engine='ncnn')\n"
            f"e, t = l3hpc.get_embedding(np.ones(8000), 8000, m)\n"
            f"print(e.shape, sorted({{'tensorflow', 'pandas', 'sklearn'}} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(6, 5) []"


def test_by_path(student, sound, monkeypatch):
    monkeypatch.setattr("l3hpc.models.ncnn_engine.available", lambda: False)
    have, _ = get_embedding(sound(1), 8000, student, hop_size=0.5)
    assert have.shape == (2, 5)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real recordings beside the project")
def test_the_published_student_on_a_real_recording(networks, spectra):
    import soundfile

    path = REAL / "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz"
    model = load_model(path, engine="ncnn")
    assert (model.rate, model.dim, model.recognised.network) == (8000, 64, "edgel3-sea")
    assert model.recognised.evidence == "configuration"
    signal, rate = soundfile.read(REAL / "esc10/audio/1-116765-A-41.ogg")
    signal = signal[:2 * rate]
    have, times = get_embedding(signal, rate, model, hop_size=0.5)
    assert have.shape == (4, 64) and times.tolist() == [0.0, 0.5, 1.0, 1.5] and have.max() > 1
    wanted = expected(networks, spectra, path, resample(signal, rate, 8000), 0.5, True)
    np.testing.assert_allclose(have, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("pairs", [
    [[0.1, 0.2]] * 48000, [(0.1,)] * 65, [[0.1] * 64] * 65])
def test_samples_by_channels_as_nested_lists_are_no_recordings(model, pairs):
    begin = time.process_time()
    with pytest.raises(InputError, match="list of .* lists of at most") as error:
        get_embedding(pairs, 8000, model)
    assert "numpy.array(audio)" in str(error.value) and time.process_time() - begin < 5


def test_lists_of_recordings_may_be_lists_of_numbers(model):
    pair = [[0.1, -0.1] * 4000, [0.1, -0.1] * 3000]
    embeddings, _ = get_embedding(pair, 8000, model, hop_size=0.5)
    assert [len(one) for one in embeddings] == [2, 2]
    with pytest.raises(InputError, match="different lengths"):
        get_embedding([[[0.1, 0.2], [0.1]], [0.1] * 8000], 8000, model)


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav", "x" * 5000, "a\nb.wav", ""])
def test_what_is_no_name_of_a_file_is_refused_in_one_line(model, name):
    for call in (lambda: get_embedding(name, None, model), lambda: get_embedding(
            np.ones(8000, np.float32), 8000, name)):
        with pytest.raises(L3hpcError) as error:
            call()
        first = str(error.value).splitlines()[0]
        assert len(first) > 8 and "\n" not in first


def test_a_path_is_read(model, sound, tmp_path):
    import soundfile

    path = tmp_path / "x.wav"
    soundfile.write(path, sound(2.3, 44100), 44100, "FLOAT")
    wanted, times = get_embedding(sound(2.3, 44100), 44100, model)
    for audio, rate in ((path, None), (str(path), None), (path, 44100)):
        have, at = get_embedding(audio, rate, model)
        close(have, wanted)
        np.testing.assert_array_equal(at, times)
    both, _ = get_embedding([path, sound(1)], [None, 8000], model)
    close(both[0], wanted)
    close(both[1], get_embedding(sound(1), 8000, model)[0])
    (only,), _ = get_embedding([path], model=model)
    close(only, wanted)
    with pytest.raises(InputError, match="sr is 8000, but the file has 44100 Hz"):
        get_embedding(path, 8000, model)
    with pytest.raises(AudioError, match="no such file"):
        get_embedding(tmp_path / "none.wav", model=model)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.warns(AudioWarning,
                      match=r"x\.wav: ends early: .* header states 2.300 s") as caught:
        get_embedding(path, model=model)
    assert caught[0].filename == __file__


def cosine(left, right):
    return float(np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.mark.parametrize("kind", ["i4", "i8", "f4", "f8"])
def test_samples_of_16_bits_in_another_type(model, sound, kind):
    """Never near-silence: the right embedding with a word, or a refusal that says what to type."""
    whole = np.round(sound(2) * 32767).astype(np.int16)
    wanted, _ = get_embedding(whole, 8000, model)
    if kind.startswith("i"):
        with pytest.raises(InputError, match=r"audio.astype\('int16'\)"):
            get_embedding(whole.astype(kind), 8000, model)
        return
    with pytest.warns(AudioWarning, match="taken as 16-bit integers") as caught:
        have, _ = get_embedding(whole.astype(kind), 8000, model)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(have, wanted)


def test_channels_first_and_quiet_audio_are_told(model, sound):
    two = np.stack([sound(2, seed=1), sound(2, seed=2)])
    wanted, _ = get_embedding(two.T, 8000, model)
    for array, right in ((two, wanted), (two[:1], get_embedding(two[0], 8000, model)[0])):
        with pytest.warns(AudioWarning, match=r"shape \(., 16000\) is taken as") as caught:
            have, _ = get_embedding(array, 8000, model)
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(have, right)
    with pytest.warns(AudioWarning, match="is very quiet"):
        get_embedding(sound(2) * 1e-4, 8000, model)


class Sometimes:
    """A network that gives NaN for loud frames."""

    def embed(self, frames, batch_size=None, on_batch=None):
        loud = np.abs(frames[:]).max(axis=1) > 0.9
        return np.where(loud[:, None], np.nan, 1.0) * np.ones((1, 5), np.float32)


def test_embeddings_that_are_not_finite_are_refused(model, sound):
    odd = type(model)(model.recognised, Sometimes(), "none")
    assert get_embedding(sound(2) / 2, 8000, odd)[0].shape == (16, 5)
    loud = sound(2) / 2
    loud[8000] = 1.0
    with pytest.raises(AudioError, match=r"audio\[1\]: has embeddings that are not finite"):
        get_embedding([sound(2) / 2, loud], 8000, odd)
    broken = type(model)(model.recognised, Zeros(), "none")
    broken.runner.embed = lambda frames, *_: np.full((len(frames), 5), np.nan)
    with pytest.raises(InputError, match=r"student\.h5: the network gives non-finite embeddings"):
        get_embedding(sound(2), 8000, broken)


def test_programs_of_earlier_versions_find_the_names_they_import():
    from l3hpc.embedding import call, embed

    assert call.AudioWarning is embed.AudioWarning and call.get_embedding is embed.get_embedding
