"""Weight files that lie, or want to do something: all refused with a message, nothing executed."""

import contextlib
import gzip
import io
import json
import marshal
import pickle
import tracemalloc
import zipfile
from base64 import b64encode

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.unpacking import MAX_BYTES

pytestmark = pytest.mark.slow

TINY = (2, 2, 3, 3, 4, 4, 5, 5)
STUDENT = NetworkSpec(8000, 32, 160, 256, filters=TINY)
NAME = "edgel3_sea_x.h5"  # its name tells the front end
NORM = ("gamma", "beta", "moving_mean", "moving_variance")

LINK = "link to another (file|place)|broken or circular link"


def refused(path, match=None):
    """The message, which names the file; no memory to speak of is taken on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match) as caught:
            weights.load_parameters(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    with pytest.raises(InputError, match=match):
        weights.describe_weights(path)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.fixture
def student(tmp_path, reference):
    return reference.write_keras2(tmp_path / NAME, reference.random_layers(STUDENT))


@pytest.fixture
def own(tmp_path, reference):
    weights.save(Parameters(STUDENT, tuple(reference.random_layers(STUDENT))), tmp_path / "s.h5")
    return tmp_path / "s.h5"


def declare(group, name, shape):
    """An array without a single stored value: all of it is the fill value."""
    group.create_dataset(name, shape, np.float32, compression="gzip",
                         chunks=tuple(min(length, 64) for length in shape))


# sizes ------------------------------------------------------------------------------------------


def declared(path, width):
    """A teacher whose eight convolutions have ``width`` filters each, and no stored value."""
    with h5py.File(path, "w") as file:
        names = []
        for index in range(16):
            names.append(f"layer_{index}")
            count = 1 if index == 0 else width
            shapes = dict.fromkeys(NORM, (count,)) if index % 2 == 0 else {
                "kernel": (3, 3, 1 if index == 1 else width, width), "bias": (width,)}
            for name, shape in shapes.items():
                declare(file, f"{names[-1]}/{name}", shape)
            file[names[-1]].attrs["weight_names"] = list(shapes)
        file.attrs["layer_names"] = names
    return path


def test_enormous_layers_of_the_right_form_are_refused_before_memory_is_taken(tmp_path):
    """Every shape fits every other: only the size is wrong."""
    path = declared(tmp_path / "openl3_audio_mel256_env.h5", 64)
    assert weights.describe_weights(path).spec.filters == (64,) * 8
    with pytest.raises(InputError, match="none of its values are in the file"):
        weights.load_parameters(path)  # zeros in their place would embed everything alike
    path = declared(tmp_path / "openl3_audio_mel256_env.h5", 10**6)
    assert path.stat().st_size < 1e6
    refused(path, "more than 512 MB")


def test_an_enormous_front_end_is_refused(tmp_path, reference, student):
    for shapes in ([(40000, 1, 1, 20001)] * 2, [(256, 1, 1, 129)] * 2 + [(129, 10**9)]):
        with h5py.File(student, "r+") as file:
            if "melspectrogram_1" in file:
                del file["melspectrogram_1"]
            group = file.create_group("melspectrogram_1")
            group.attrs["weight_names"] = [f"w{i}" for i in range(len(shapes))]
            for index, shape in enumerate(shapes):
                declare(group, f"w{index}", shape)
            file.attrs["layer_names"] = [b"melspectrogram_1", *[
                name for name in file.attrs["layer_names"] if name != b"melspectrogram_1"]]
        refused(student, "more than 512 MB")


def test_enormous_arrays_in_the_other_formats_are_refused(tmp_path, own):
    with h5py.File(own, "r+") as file:
        del file["layers/01_conv/kernel"]
        declare(file["layers/01_conv"], "kernel", (10**6, 10**6, 10**6))
    refused(own, "more than 512 MB")
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        declare(file, "layers/conv2d/vars/0", (10**6, 10**6, 10**6))
    refused(tmp_path / "x.weights.h5", "more than 512 MB")


def test_the_limit_counts_all_arrays_together(student):
    with h5py.File(student, "r+") as file:
        for index in range(4):
            group = file.create_group(f"more_{index}")
            declare(group, "x", (MAX_BYTES // 16,))
            group.attrs["weight_names"] = ["x"]
        file.attrs["layer_names"] = [*file.attrs["layer_names"], b"more_0", b"more_1", b"more_2",
                                     b"more_3"]
    refused(student, "more than 512 MB")


@pytest.mark.parametrize("values", [
    {"n_mels": 8000, "n_dft": 8000, "hop": 1}, {"filters": [10**6] * 8}, {"rate": 10**400},
    {"rate": 10**9, "n_dft": 10**9, "hop": 1}])
def test_a_geometry_of_enormous_maps_is_refused(own, values):
    with h5py.File(own, "r+") as file:
        file.attrs["spec"] = json.dumps({**json.loads(file.attrs["spec"]), **values})
    with pytest.raises(InputError):
        weights.load(own)


def test_archives_that_unpack_to_far_more_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.models.unpacking.MAX_BYTES", 1 << 20)
    monkeypatch.setattr("l3hpc.models.unpacking.MAX_JSON", 1 << 16)
    with gzip.open(tmp_path / "a.h5.gz", "wb") as stream:
        stream.write(bytes(1 << 23))
    refused(tmp_path / "a.h5.gz", "unpacks to more")
    with zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 23))
    refused(tmp_path / "b.keras", "unpacks to more")
    with zipfile.ZipFile(tmp_path / "c.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"")
        archive.writestr("config.json", b" " * (1 << 20))
    refused(tmp_path / "c.keras", "JSON description of more than")


# values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [
    np.zeros((3, 3, 1, 2), np.int8), np.zeros((3, 3, 1, 2), bool),
    np.zeros((3, 3, 1, 2), np.complex64), np.full((3, 3, 1, 2), b"x"),
    np.zeros((3, 3, 1, 2), [("a", "<f4")]), np.full((3, 3, 1, 2), "1.0", dtype=object),
    h5py.Empty("f4")], ids=lambda values: str(values.dtype))
@pytest.mark.parametrize("form", ["keras2", "own"])
def test_arrays_of_anything_but_floating_point_numbers_are_refused(form, values, request):
    path = request.getfixturevalue("student" if form == "keras2" else "own")
    kernel = "conv2d_29/conv2d_29/kernel:0" if form == "keras2" else "layers/01_conv/kernel"
    with h5py.File(path, "r+") as file:
        del file[kernel]
        kind = h5py.string_dtype() if values.dtype == object else None
        file.create_dataset(kernel, data=values, dtype=kind)
    assert refused(path, "values in '/").allowed == "floating-point numbers"


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_floating_point_numbers_of_another_width_are_read(student, kind):
    kernel = "conv2d_29/conv2d_29/kernel:0"
    with h5py.File(student, "r+") as file:
        values = file[kernel][()].astype(kind)
        del file[kernel]
        file[kernel] = values
    parameters, _ = weights.load_parameters(student)
    np.testing.assert_array_equal(parameters.layers[1][0], values.astype(np.float32))


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_too_large_for_float32_are_refused(student):
    with h5py.File(student, "r+") as file:
        del file["conv2d_29/conv2d_29/bias:0"]
        file["conv2d_29/conv2d_29/bias:0"] = np.array([1e300, 0.0])
    with pytest.raises(InputError, match="not finite"):
        weights.load_parameters(student)


@pytest.mark.parametrize("form", ["keras2", "own"])
def test_a_variance_below_zero_is_refused(form, request):
    path = request.getfixturevalue("student" if form == "keras2" else "own")
    with h5py.File(path, "r+") as file:
        name = "batch_normalization_28/batch_normalization_28/moving_variance:0"
        file[name if form == "keras2" else "layers/02_batch_norm/moving_variance"][1] = -0.5
    with pytest.raises(InputError, match="moving variance below 0") as caught:
        weights.load_parameters(path)
    assert "gamma, beta, moving_mean, moving_variance" in str(caught.value)


def test_arrays_listed_in_another_order_are_refused(student):
    group = "batch_normalization_28"
    with h5py.File(student, "r+") as file:
        listed = file[group].attrs["weight_names"]
        file[group].attrs["weight_names"] = listed[[1, 0, 2, 3]]
    error = refused(student, "in the order beta, gamma, moving_mean, moving_variance")
    assert error.allowed == "gamma, beta, moving_mean, moving_variance"


def test_layers_in_another_order_are_refused_one_by_one(tmp_path, reference):
    layers = reference.random_layers(STUDENT)
    layers[3], layers[5] = layers[5], layers[3]
    path = reference.write_keras2(tmp_path / NAME, layers)
    message = str(refused(path, "4 of 17 weighted layers differ"))
    assert " 5 batch_normalization_26: found 4 x (2,), expected batch_norm 4 x (3,)" in message
    assert " 6 conv2d_25: found (3, 3, 2, 2) (2,), expected conv (3, 3, 3, 2) (2,)" in message
    assert message.count(": found ") == 4 and "more" not in message


# links ------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["x"] = np.ones((3, 3, 1, 2), np.float32)
        file["g/x"] = np.ones((3, 3, 1, 2), np.float32)
    return tmp_path / "elsewhere.h5"


@pytest.mark.parametrize("form", ["keras2", "own"])
def test_links_to_other_files_and_places_are_not_followed(form, request, elsewhere):
    path = request.getfixturevalue("student" if form == "keras2" else "own")
    kernel = "conv2d_29/conv2d_29/kernel:0" if form == "keras2" else "layers/01_conv/kernel"
    for link in (h5py.ExternalLink(str(elsewhere), "/x"), h5py.SoftLink("/"),
                 h5py.SoftLink(f"/{kernel}")):
        with h5py.File(path, "r+") as file:
            del file[kernel]
            file[kernel] = link
        refused(path, LINK)
    with h5py.File(path, "r+") as file:
        group = kernel.split("/")[0]
        del file[group]
        file[group] = h5py.ExternalLink(str(elsewhere), "/g")
    refused(path, LINK)


def test_a_keras_3_file_is_not_followed_to_other_files(tmp_path, elsewhere):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = h5py.ExternalLink(str(elsewhere), "/x")
    refused(tmp_path / "x.weights.h5", LINK)
    with h5py.File(tmp_path / "y.weights.h5", "w") as file:
        file["layers"] = h5py.ExternalLink(str(elsewhere), "/g")
    refused(tmp_path / "y.weights.h5", LINK)
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(elsewhere), "/g")
    refused(tmp_path / "z.h5", LINK)


def test_values_in_other_files_are_not_read(student, elsewhere, tmp_path):
    kernel = "conv2d_29/conv2d_29/kernel:0"
    (tmp_path / "secret").write_bytes(bytes(72))
    with h5py.File(student, "r+") as file:
        del file[kernel]
        file.create_dataset(kernel, (3, 3, 1, 2), np.float32,
                            external=[(str(tmp_path / "secret"), 0, 72)])
    refused(student, "in other files")
    layout = h5py.VirtualLayout((3, 3, 1, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(elsewhere), "x", (3, 3, 1, 2))
    with h5py.File(student, "r+") as file:
        del file[kernel]
        file.create_virtual_dataset(kernel, layout)
    refused(student, "in other files")


@pytest.mark.parametrize("ring", [False, True])
def test_groups_that_contain_each_other_come_to_an_end(tmp_path, ring):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("g")
        for depth in range(60):
            child = group.create_group("a") if not ring else file["g"]
            group["b"] = child  # twice the ways at every step
            group = child
            if ring:
                break
            assert depth < 60
    refused(tmp_path / "x.h5")


def test_a_list_that_never_ends_comes_to_an_end(student):
    with h5py.File(student, "r+") as file:
        for index in range(200):
            file["conv2d_29"].attrs[f"weight_names{index}"] = [b"x"] * 100
        del file["conv2d_29"].attrs["weight_names"]
    refused(student, "too many")


# code -------------------------------------------------------------------------------------------


def trap(path):
    """Python code that leaves a file behind when it is run."""
    return compile(f"open({str(path)!r}, 'w').write('x')", "x", "exec")


def lambda_layer(code, name="Lambda"):
    text = b64encode(marshal.dumps(code)).decode()
    return {"class_name": name, "name": "lambda", "config": {
        "function": {"class_name": "__lambda__", "config": {"code": text}},
        "function_type": "lambda"}}


@pytest.mark.parametrize("name", ["Lambda", "TFOpLambda", "TFSMLayer", "Custom>JaxLayer"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("form", ["h5", "keras"])
def test_layers_of_code_are_refused_and_not_run(tmp_path, reference, name, deep, form):
    config = reference.kapre_config(8000, 64, 1024, 160)
    layer = lambda_layer(trap(tmp_path / "ran"), name)
    if deep:
        layer = {"class_name": "Model", "config": {"layers": [layer]}}
    config["config"]["layers"].append(layer)
    path = reference.write_keras2(tmp_path / NAME, reference.random_layers(STUDENT),
                                  full_model=True, config=config if form == "h5" else None)
    if form == "keras":
        with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
            archive.writestr("model.weights.h5", path.read_bytes())
            archive.writestr("config.json", json.dumps(config))
        path = tmp_path / "x.keras"
    refused(path, "layer that is code")
    assert not (tmp_path / "ran").exists()


def test_an_activation_that_is_code_is_refused(tmp_path, reference):
    config = reference.kapre_config(8000, 64, 1024, 160)
    config["config"]["layers"].append({"class_name": "Activation", "config": {
        "activation": {"class_name": "__lambda__", "config": {}}}})
    refused(reference.write_keras2(tmp_path / NAME, reference.random_layers(STUDENT),
                                   config=config), "layer that is code")


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_refused_and_not_run(tmp_path):
    trapped = Trap(tmp_path / "ran")
    (tmp_path / "a.h5").write_bytes(pickle.dumps(trapped))
    assert "execute" in str(refused(tmp_path / "a.h5", "is a pickle"))
    with open(tmp_path / "b.npz", "wb") as stream:
        np.savez(stream, x=np.array([trapped], dtype=object))
    refused(tmp_path / "b.npz", "NumPy arrays")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(trapped))
    refused(tmp_path / "c.pt", "PyTorch")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.attrs["layer_names"] = np.void(pickle.dumps(trapped))
        file.attrs["model_config"] = np.void(pickle.dumps(trapped))
    refused(tmp_path / "d.h5", "not JSON")
    assert not (tmp_path / "ran").exists()


# strangers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "what", "hint"), [
    (b"\x1c\0\0\0TFL3" + bytes(50), "TFLite", "converted from"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
    (b"<!doctype html><html>", "web page", "Download"), (b"<html>", "web page", "Download"),
    (b"", "empty", "HDF5"), (b"\x89HDF\r\n\x1a\n" + bytes(20), "not a readable", "Is it complete?"),
    (b"nothing in particular", "not a readable", "HDF5")])
@pytest.mark.parametrize("packed", [False, True])
def test_other_files_are_named(tmp_path, data, what, hint, packed):
    (tmp_path / "x.h5").write_bytes(gzip.compress(data) if packed else data)
    assert hint in str(refused(tmp_path / "x.h5", what))


def test_a_savedmodel_folder_is_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert "save_weights" in str(refused(tmp_path, "a folder .a SavedModel., not a weight file"))


# anything ---------------------------------------------------------------------------------------

KEYS = st.sampled_from([
    "config", "layers", "class_name", "name", "sr", "n_mels", "n_dft", "n_hop", "fmax", "rate",
    "hop", "convention", "head", "filters", "tail", "emb_dim", "teacher", "random_weights"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 100_000) | st.floats()
    | st.text(max_size=4) | st.sampled_from(["Melspectrogram", "MelFrontend", "A", "relu"]),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12)


def with_attribute(path, key, value):
    """The file's bytes in memory with a changed attribute, as a new file."""
    memory = io.BytesIO(path.read_bytes())
    with h5py.File(memory, "r+") as file:
        file.attrs[key] = json.dumps(value)
    path.with_name("changed_" + path.name).write_bytes(memory.getvalue())
    return path.with_name("changed_" + path.name)


@pytest.fixture(scope="module")
def files(tmp_path_factory, reference):
    folder = tmp_path_factory.mktemp("files")
    layers = reference.random_layers(STUDENT)
    weights.save(Parameters(STUDENT, tuple(layers)), folder / "own.h5")
    reference.write_keras2(folder / "keras2.h5", layers)
    return folder


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_spec_in_our_format_is_read_or_refused(files, changes):
    path = with_attribute(files / "own.h5", "spec", {**STUDENT.to_dict(), **changes})
    with contextlib.suppress(InputError):
        assert isinstance(weights.describe_weights(path).spec, NetworkSpec)


@settings(max_examples=60, deadline=None)
@given(layer=st.dictionaries(KEYS, VALUES, max_size=8), name=st.sampled_from([
    "Melspectrogram", "Spectrogram", "MelFrontend"]), whole=VALUES, wrap=st.booleans())
def test_any_configuration_is_read_or_refused(files, layer, name, whole, wrap):
    config = {"config": {"layers": [{"class_name": name, "config": layer}]}} if wrap else whole
    path = with_attribute(files / "keras2.h5", "model_config", config)
    with contextlib.suppress(InputError):
        assert isinstance(weights.describe_weights(path).spec, NetworkSpec)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=17, max_size=17),
       shape=st.sampled_from([(17, 1), (1, 17), (17,), ()]),
       kernel=st.sampled_from([(32, 1, 1, 17), (32, 17), (), (0, 1, 1, 1)]))
def test_any_front_end_matrix_is_read_or_refused(files, values, shape, kernel):
    memory = io.BytesIO((files / "keras2.h5").read_bytes())
    with h5py.File(memory, "r+") as file:
        group = file.create_group("melspectrogram_1")
        group["a"] = group["b"] = np.zeros(kernel, np.float32)
        group["c"] = np.resize(np.array(values, np.float32), shape)
        group.attrs["weight_names"] = ["a", "b", "c"]
        file.attrs["layer_names"] = [b"melspectrogram_1", *file.attrs["layer_names"]]
    path = files / "x_8000_1_160_32.h5"
    path.write_bytes(memory.getvalue())
    with contextlib.suppress(InputError):
        weights.describe_weights(
            path, geometry={"n_mels": 32, "n_dft": 256, "rate": 8000, "hop": 160})
