import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.mels import format_bands
from l3hpc.errors import InputError
from l3hpc.models.spec import (
    NetworkSpec,
    activation_bytes,
    check_student,
    openl3_spec,
    parameter_count,
    student_filters,
    student_spec,
)


@pytest.mark.parametrize(("emb_dim", "trainable", "total", "activation"), [
    (512, 4_688_066, 4_691_908, 819_200), (256, 1_173_602, 1_175_524, 409_600),
    (128, 583_010, 584_420, 409_600), (64, 398_306, 399_460, 409_600)])
def test_published_student_sizes(emb_dim, trainable, total, activation):
    spec = student_spec(emb_dim=emb_dim)
    assert parameter_count(spec) == total
    assert parameter_count(spec, trainable=True) == trainable
    assert activation_bytes(spec) == activation
    assert spec.pool == (8, 6) and spec.maps == ((64, 50), (32, 25), (16, 12), (8, 6))


@pytest.mark.parametrize(("name", "size", "pool"), [
    ("linear", 6144, (8, 8)), ("linear", 512, (32, 24)), ("mel256", 6144, (8, 8)),
    ("mel256", 512, (32, 24)), ("mel128", 6144, (4, 8)), ("mel128", 512, (16, 24))])
def test_openl3_sizes_and_pools(name, size, pool):
    spec = openl3_spec(name, size)
    assert spec.pool == pool and spec.dim == size
    assert parameter_count(spec) == 4_689_860
    assert parameter_count(spec, trainable=True) == 4_687_042
    assert len(spec.layers()) == 16


@pytest.mark.parametrize(("name", "mels", "dft"), [
    ("linear", None, 512), ("mel128", 128, 2048), ("mel256", 256, 2048)])
def test_openl3_front_ends(name, mels, dft):
    for size in (512, 6144):
        assert openl3_spec(name, size) == NetworkSpec(
            48000, mels, 242, dft, None, (64, 64, 128, 128, 256, 256, 512, 512), "embedding",
            "relu", size, "A")


def test_published_counts_layer_by_layer():
    """Facts of the published network: every convolution, and what the normalisations add."""
    convolutions = [shapes for kind, shapes in openl3_spec().layers() if kind == "conv"]
    assert [math.prod(kernel) + bias[0] for kernel, bias in convolutions] == [
        640, 36_928, 73_856, 147_584, 295_168, 590_080, 1_180_160, 2_359_808]
    kernels = sum(math.prod(kernel) for kernel, _ in convolutions)
    biases = sum(bias[0] for _, bias in convolutions)
    assert (kernels, biases, kernels + biases) == (4_682_304, 1_920, 4_684_224)
    teacher = NetworkSpec(48000, 256, 242, 2048)
    assert parameter_count(teacher, trainable=True) == 4_684_224 + 2 * 1_920 + 2 == 4_688_066
    assert parameter_count(teacher) == 4_691_908
    assert [kind for kind, _ in teacher.layers()] == ["batch_norm"] + ["conv", "batch_norm"] * 8
    assert [kind for kind, _ in openl3_spec().layers()] == (
        ["batch_norm"] + ["conv", "batch_norm"] * 7 + ["conv"])


@pytest.mark.parametrize(("n_dft", "mels", "count"), [
    (2048, 256, 2 * 2048 * 1025 + 1025 * 256), (1024, 64, 1_083_456)])
def test_kapres_matrices_are_not_counted(n_dft, mels, count, tmp_path, reference):
    from l3hpc.models.weight_files import open_network

    assert 2 * 2048 * 1025 + 1025 * 256 == 4_460_800
    spec = NetworkSpec(8000, mels, 160, 1024, filters=(1,) * 8)
    bank = np.zeros((n_dft // 2 + 1, mels))
    path = reference.write_keras2(tmp_path / "x_8000_64_160_1024.h5", reference.random_layers(spec),
                                  frontend=reference.kapre_arrays(n_dft, bank))
    with open_network(path) as stored:
        assert sum(math.prod(shape) for shape in stored.frontend.shapes) == count
        assert sum(math.prod(shape) for layer in stored.layers for shape in layer.shapes) == (
            parameter_count(spec))


@pytest.mark.parametrize(("emb_dim", "megabytes"), [
    (512, 18.77), (256, 4.702), (128, 2.338), (64, 1.598)])
def test_published_megabytes(emb_dim, megabytes):
    found = 4e-6 * parameter_count(student_spec(emb_dim=emb_dim))  # as float32
    assert found == pytest.approx(megabytes, abs=5e-3)


def test_published_sizes_of_the_eight_bit_student():
    spec = student_spec(emb_dim=128)
    assert parameter_count(spec) == 584_420  # bytes of flash
    assert activation_bytes(spec) // 4 == 102_400  # bytes of memory
    assert activation_bytes(openl3_spec()) == 13_041_664


@pytest.mark.parametrize(("name", "maps"), [
    ("linear", (32, 24)), ("mel256", (32, 24)), ("mel128", (16, 24))])
def test_last_maps_of_openl3(name, maps):
    spec = openl3_spec(name, 6144)
    assert spec.maps[3] == maps
    assert (maps[0] // spec.pool[0], maps[1] // spec.pool[1], spec.filters[7]) == (4, 3, 512)


def test_training_teacher_has_the_students_tail():
    spec = NetworkSpec(48000, 256, 242, 2048)
    assert parameter_count(spec, trainable=True) == 4_688_066
    assert activation_bytes(spec) == 256 * 199 * 64 * 4
    assert len(spec.layers()) == 17


def test_published_names():
    assert student_spec().model_repr == "8000_64_160_1024_half_fmax_None"
    assert student_spec(emb_dim=512, fmax=3500.0).model_repr == "8000_64_160_1024_fmax_3500"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([512, 256, 128, 64]), st.sampled_from(["relu", "linear"]),
       st.integers(16, 100), st.one_of(st.none(), st.floats(2000, 4000)))
def test_json_round_trip(emb_dim, head, mels, fmax):
    spec = student_spec(8000, mels, 160, 1024, fmax, emb_dim, head=head)
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_from_dict_refuses_strangers():
    with pytest.raises(InputError, match="not a network spec"):
        NetworkSpec.from_dict({"rate": 8000})
    with pytest.raises(InputError):
        NetworkSpec.from_dict({**student_spec().to_dict(), "more": 1})


def test_mels_that_leave_bands_empty_are_refused_with_the_way_out():
    with pytest.raises(InputError) as caught:
        check_student(8000, 512, 160, 1024, None, 128)
    assert str(caught.value) == (
        "--mels 512 leaves 20 of 512 mel bands empty at 8000 Hz with a DFT of 1024 "
        "(bins are 7.8 Hz apart).\n"
        "Use at most 342 mels, or a longer DFT (--dft 2048 supports 683).\n"
        "Empty (of 0 to 511): 0, 3, 6, 9, 12, 15, 18, 21, 26, 29, 34, 37, 42, 47, 52, 57, 64, 71, "
        "78, 91.")
    check_student(8000, 342, 160, 1024, None, 128)
    check_student(8000, 512, 160, 2048, None, 128)


def test_neighbouring_bands_are_named_together():
    assert format_bands([]) == "" and format_bands([4]) == "4"
    assert format_bands([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


@pytest.mark.parametrize(("values", "option"), [
    ((8000, 64, 160, 1023, None, 128), "--dft"), ((8000, 64, 160, 8002, None, 128), "--dft"),
    ((8000, 64, 2000, 1024, None, 128), "--hop"), ((8000, 64, 0, 1024, None, 128), "--hop"),
    ((8000, 64, 1200, 2048, None, 128), "--hop"), ((8000, 64, 160, 1024, 4001.0, 128), "--fmax"),
    ((8000, 7, 160, 1024, None, 128), "--mels"), ((8000, 64, 160, 1024, None, 513), "--emb-dim"),
    ((500, 64, 160, 256, None, 128), "--asr"),
    ((8000, 64, 160, 1024, None, 32, (8,) * 8), "--emb-dim"),
    ((8000, 64, 160, 1024, None, 8, (8,) * 7), "filters")])
def test_impossible_students_are_refused_by_option(values, option):
    with pytest.raises(InputError) as caught:
        check_student(*values)
    assert option in (caught.value.where or "")
    assert caught.value.allowed


@pytest.mark.parametrize(("emb_dim", "width", "filters"), [
    (512, None, (64, 64, 128, 128, 256, 256, 512, 512)),
    (256, None, (32, 32, 64, 64, 128, 128, 256, 256)),
    (128, None, (32, 32, 64, 64, 128, 128, 128, 128)),
    (64, None, (32, 32, 64, 64, 128, 128, 64, 64)),
    (32, None, (32, 32, 64, 64, 128, 128, 32, 32)),
    (32, 0.25, (16, 16, 32, 32, 64, 64, 32, 32)), (512, 0.5, (32, 32, 64, 64, 128, 128, 512, 512)),
    (1, 0.001, (1,) * 8), (1024, 1, (64, 64, 128, 128, 256, 256, 1024, 1024))])
def test_filters_follow_from_the_width(emb_dim, width, filters):
    """The first four are the published students."""
    assert student_filters(emb_dim, width) == filters
    check_student(8000, 64, 160, 1024, None, emb_dim, filters)


@pytest.mark.parametrize("values", [
    {"filters": (8,) * 4}, {"filters": (0,) * 8}, {"tail": "none"}, {"head": "x"},
    {"emb_dim": 100}, {"emb_dim": 6144, "tail": "student"}, {"n_mels": 7}])
def test_impossible_networks_are_refused(values):
    with pytest.raises(InputError):
        NetworkSpec(**{"rate": 8000, "n_mels": 64, "hop": 160, "n_dft": 1024, **values})
