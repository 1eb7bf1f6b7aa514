"""φ as a file: whole, without pickle, and tied to its teacher, its dimension and its input."""

import json

import h5py
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from l3hpc.errors import InputError
from l3hpc.reduction.header import describe_phi
from l3hpc.reduction.kernel_pca import StreamingKernelPCA
from l3hpc.reduction.pca import StreamingPCA
from l3hpc.reduction.phi import Phi, load_phi, save_phi

TEACHER = {"kind": "openl3", "dim": 12, "digest": "a" * 32, "label": "openl3 mel256 env"}
OTHER = {"kind": "l3hpc", "dim": 12, "digest": "b" * 32, "label": "untrained L3 (seed 1)"}


def rows(n=300, d=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3).astype(np.float32)


@pytest.fixture
def phi():
    return Phi.from_pca(StreamingPCA(5).fit([rows()]), fingerprint="7c1e", teacher=TEACHER,
                        params={"seed": 20180216})


def test_round_trip(tmp_path, phi):
    save_phi(tmp_path / "phi.h5", phi)
    again = load_phi(tmp_path / "phi.h5")
    assert (again.approx, again.in_dim, again.out_dim, again.n_samples) == ("pca", 12, 5, 300)
    assert (again.fingerprint, again.teacher, again.params) == ("7c1e", TEACHER, phi.params)
    assert again.key == "pca_batch_300_len_5_kernel_linear"
    assert again.digest == phi.digest
    assert again.explained == phi.explained
    np.testing.assert_array_equal(again.transform(rows()), phi.transform(rows()))
    assert [path.name for path in tmp_path.iterdir()] == ["phi.h5"]


def test_transform_is_scaling_and_projection_once(phi):
    """Published defect 11: rows were scaled again with every batch."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = rows().astype(float)
    scaler = StandardScaler().fit(x)
    pca = PCA(5, svd_solver="full").fit(scaler.transform(x))
    expected = pca.transform(scaler.transform(x))
    ours = phi.transform(rows())
    assert ours.dtype == np.float32
    assert ours.shape == (300, 5)
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours, signs * expected, atol=2e-5)
    np.testing.assert_allclose(phi.transform(x), ours, atol=2e-5)
    parts = np.concatenate([phi.transform(rows()[:7]), phi.transform(rows()[7:])])
    np.testing.assert_allclose(parts, ours, atol=2e-5)
    assert phi.explained == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-6)


def test_saved_file_is_plain_arrays_and_json(tmp_path, phi):
    """Published defect 10: pickles tied the reduction to versions of other packages."""
    save_phi(tmp_path / "phi.h5", phi)
    raw = (tmp_path / "phi.h5").read_bytes()
    assert b"sklearn" not in raw
    with h5py.File(tmp_path / "phi.h5") as file:
        assert sorted(file) == ["components", "explained_variance", "explained_variance_ratio",
                                "mean", "scale", "spectrum"]
        assert all(dataset.dtype.kind == "f" for dataset in file.values())
        assert json.loads(file.attrs["header"])["teacher"] == TEACHER


def test_same_fit_same_bytes(tmp_path, phi):
    """Published defect 12: a second run failed on the dataset of the first."""
    save_phi(tmp_path / "phi.h5", phi)
    first = (tmp_path / "phi.h5").read_bytes()
    save_phi(tmp_path / "phi.h5", Phi.from_pca(
        StreamingPCA(5).fit([rows()[:90], rows()[90:]]), fingerprint="7c1e", teacher=TEACHER,
        params={"seed": 20180216}))
    assert (tmp_path / "phi.h5").read_bytes() == first


def test_another_dimension_is_refused(phi):
    with pytest.raises(InputError, match="have 11 numbers per row, this pca reduction was fitted "
                                         "on 12"):
        phi.transform(rows(d=11))
    with pytest.raises(InputError, match="expected rows of length 12"):
        phi.transform(rows()[0])


def test_another_teacher_is_refused(phi):
    """Published defect 14: PCA of one network's embeddings met those of another."""
    with pytest.raises(InputError) as refusal:
        phi.transform(rows(), teacher=OTHER)
    assert "untrained L3 (seed 1) (bbbbbbbbbbbb)" in str(refusal.value)
    assert "openl3 mel256 env (aaaaaaaaaaaa)" in str(refusal.value)
    assert "use one teacher" in str(refusal.value)
    phi.transform(rows(), teacher=dict(TEACHER))
    phi.check(12, None)


def test_another_fit_is_refused(phi):
    phi.check(fingerprint="7c1e")
    with pytest.raises(InputError, match="shard 3: this pca reduction was fitted on input 7c1e, "
                                         "not on 9a9a"):
        phi.check(fingerprint="9a9a", where="shard 3")


@pytest.mark.parametrize("name", ["mean", "scale", "components"])
def test_changed_numbers_are_refused(tmp_path, phi, name):
    save_phi(tmp_path / "phi.h5", phi)
    with h5py.File(tmp_path / "phi.h5", "a") as file:
        file[name][0] += 1e-9 if name != "scale" else 1.0
    with pytest.raises(InputError, match=r"phi\.h5: the numbers have changed since it was written"):
        load_phi(tmp_path / "phi.h5")


def test_broken_and_foreign_files_are_refused(tmp_path, phi):
    path = tmp_path / "phi.h5"
    with pytest.raises(InputError, match="no such file"):
        load_phi(path)
    path.write_bytes(b"not HDF5")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        load_phi(path)
    with h5py.File(path, "w") as file:
        file["l3_embedding"] = rows()
    with pytest.raises(InputError, match="is not a reduction written by this program"):
        load_phi(path)
    save_phi(path, phi)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(InputError, match="has version 99\nversion 1 or 2"):
        load_phi(path)
    save_phi(path, phi)
    with h5py.File(path, "a") as file:
        del file["mean"]
    with pytest.raises(InputError, match="pca reduction without mean"):
        load_phi(path)
    save_phi(path, phi)
    with h5py.File(path, "a") as file:
        header = json.loads(file.attrs["header"])
        file.attrs["header"] = json.dumps(header | {"out_dim": 6})
    with pytest.raises(InputError, match=r"components has shape \(5, 12\), expected \(6, 12\)"):
        load_phi(path)
    save_phi(path, phi)
    with h5py.File(path, "a") as file:
        del file.attrs["header"]
    with pytest.raises(InputError, match="the description is missing or damaged"):
        load_phi(path)
    save_phi(path, phi)
    with h5py.File(path, "a") as file:
        file.attrs["header"] = '{"approx": "pca"}'
    with pytest.raises(InputError, match="the description is missing or damaged"):
        load_phi(path)


def test_a_kernel_pca_has_a_version_that_earlier_readers_refuse(tmp_path, phi):
    fitted = StreamingKernelPCA(3, "poly", gamma=0.1, landmarks=50).fit(rows())
    kernel = Phi.from_kernel_pca(fitted, fingerprint="7c1e", teacher=TEACHER)
    for one, version in ((phi, 1), (kernel, 2)):
        save_phi(tmp_path / "phi.h5", one)
        with h5py.File(tmp_path / "phi.h5") as file:
            assert file.attrs["version"] == version
    again = load_phi(tmp_path / "phi.h5")
    assert (again.approx, again.kind, again.digest) == ("pca", "kernel pca", kernel.digest)
    assert again.key == "pca_batch_300_len_3_kernel_poly"
    assert again.explained == pytest.approx(fitted.explained_variance_ratio_.sum())
    np.testing.assert_array_equal(again.transform(rows()), fitted.transform(rows()))
    streamed = np.concatenate([block.copy() for block in again.stream(np.split(rows(), 3))])
    np.testing.assert_array_equal(streamed, again.transform(rows()))


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": "sigmoid"}, "unknown kernel 'sigmoid'"), ({"gamma": -1}, "gamma is -1"),
    ({"kernel": "linear"}, "a pca reduction without components")])
def test_a_kernel_that_is_none_is_refused(change, message):
    phi = Phi.from_kernel_pca(StreamingKernelPCA(3).fit(rows(40)))
    with pytest.raises(InputError, match=message):
        Phi("pca", 12, 3, params={**phi.params, **change}, arrays=phi.arrays)


def test_none_passes_rows_on(tmp_path):
    phi = Phi.identity(12, teacher=TEACHER)
    save_phi(tmp_path / "phi.h5", phi)
    again = load_phi(tmp_path / "phi.h5")
    np.testing.assert_array_equal(again.transform(rows()), rows())
    assert again.key == "l3_embedding"
    assert again.explained == 1.0
    with pytest.raises(InputError, match="have 3 numbers per row"):
        again.transform(rows(d=3))
    with pytest.raises(InputError, match="other|untrained"):
        again.transform(rows(), teacher=OTHER)
    with pytest.raises(InputError, match="'none' with 12 → 5 dimensions"):
        Phi("none", 12, 5)


def test_refused_settings():
    with pytest.raises(InputError, match="unknown reduction 'tsne'"):
        Phi("tsne", 3, 2)
    with pytest.raises(InputError, match="without mean, scale, components"):
        Phi("pca", 3, 2)


@pytest.mark.parametrize("change", [
    {"out_dim": -1}, {"out_dim": True}, {"n_samples": -5}, {"approx": "tsne"},
    {"kernel": "sigmoid"}, {"kernel": ["rbf"]}, {"gamma": "x"}, {"gamma": None},
    {"gamma": float("nan")}, {"coef0": -1}, {"degree": 10 ** 9}, {"degree": 2.5},
    {"landmarks": 1.0}, {"sensor": ["a"]}], ids=str)
def test_the_header_of_a_damaged_file_is_refused_before_its_numbers_are_read(tmp_path, change):
    path = tmp_path / "phi.h5"
    save_phi(path, Phi.from_kernel_pca(StreamingKernelPCA(3, "poly").fit(rows(50, 6))))
    [(name, value)] = change.items()
    with h5py.File(path, "a") as file:
        header = json.loads(file.attrs["header"])
        if name == "landmarks":
            del file[name]
            file[name] = value
        elif name == "sensor":
            file.attrs["sampled"] = json.dumps(change)
        else:
            (header["params"] if name in ("kernel", "gamma", "coef0", "degree") else header)[
                name] = value
            file.attrs["header"] = json.dumps(header)
    for reader in (describe_phi, load_phi):
        with pytest.raises(InputError, match=r"phi\.h5: .*(is|shape|unknown).*"):
            reader(path)


def test_a_phi_without_a_teacher_says_that_it_cannot_be_checked():
    unnamed = Phi.identity(12)
    unnamed.check(12, TEACHER)
    [note] = unnamed.unchecked(TEACHER)
    assert "openl3 mel256 env" in note
    assert unnamed.unchecked({}) == Phi.identity(12, teacher=TEACHER).unchecked(TEACHER) == []


def test_an_estimator_that_was_not_fitted_makes_no_phi():
    for make, model in ((Phi.from_pca, StreamingPCA(2)),
                        (Phi.from_kernel_pca, StreamingKernelPCA(2))):
        with pytest.raises(NotFittedError):
            make(model)
