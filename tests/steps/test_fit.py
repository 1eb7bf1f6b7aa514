"""φ is tied to the rows and the teacher it was learnt from, whatever files they lie in."""

import json

import h5py
import numpy as np
import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.reduction.phi import load_phi

TEACHER = {"kind": "test", "digest": "1", "label": "a teacher"}


def write(folder, name="a.h5", rows=60, dim=5, seed=0, teacher=None, **changes):
    """One published file of embeddings; ``changes``: row → its first number."""
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    for row, value in changes.items():
        x[int(row.removeprefix("row"))][0] = value
    with h5py.File(folder / name, "w") as file:
        file["l3_embedding"] = x
        if teacher:
            file.attrs["teacher"] = json.dumps(teacher)
    return x


@pytest.fixture
def phi_of(new_runner):
    made = []

    def fit(folder, **params):
        made.append(folder)
        runner = new_runner(f"run{len(made)}")
        done = runner.run("fit", {"emb_dim": 2, **params}, {"sample": folder})
        return load_phi(done.folder / "0000/phi.h5")
    return fit


def test_the_fingerprint_names_the_rows(tmp_path, phi_of):
    write(tmp_path / "one")
    first = phi_of(tmp_path / "one")
    assert len(first.fingerprint) == 32
    write(tmp_path / "moved" / "here")
    assert phi_of(tmp_path / "moved" / "here").fingerprint == first.fingerprint
    assert phi_of(tmp_path / "one", mode="float32").fingerprint == first.fingerprint
    assert phi_of(tmp_path / "one", approx="none").fingerprint == first.fingerprint
    others = {"seed": {"seed": 1}, "rows": {"rows": 61}, "name": {"name": "b.h5"},
              "first": {"row0": 9.0}, "last": {"row59": 9.0}}
    found = {first.fingerprint}
    for name, changes in others.items():
        write(tmp_path / name, **changes)
        found.add(phi_of(tmp_path / name).fingerprint)
    assert len(found) == 1 + len(others)


def test_the_fingerprint_of_an_artifact_is_its_own(tmp_path, phi_of):
    found = []
    for name in ("aaaa", "bbbb", "cccc/aaaa"):
        folder = tmp_path / name
        write(folder / "0000", "sample.h5", seed=len(found))
        (folder / "0000/result.json").write_text("{}")
        found.append(phi_of(folder).fingerprint)
    assert found[0] == found[2] != found[1]


def test_few_rows_and_npz_files_have_a_fingerprint(tmp_path, phi_of):
    x = write(tmp_path / "small", rows=3)
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "a.npz", embedding=x)
    assert phi_of(tmp_path / "small").fingerprint != phi_of(tmp_path / "npz").fingerprint


def test_rows_of_two_teachers_are_refused(tmp_path, phi_of):
    write(tmp_path / "mixed", "a.h5", teacher=TEACHER)
    write(tmp_path / "mixed", "b.h5", teacher={**TEACHER, "digest": "2"})
    with pytest.raises(InputError, match=r"b\.h5: has another teacher than a\.h5"):
        phi_of(tmp_path / "mixed")
    write(tmp_path / "mixed", "b.h5", teacher=TEACHER, seed=1)
    assert phi_of(tmp_path / "mixed").teacher == TEACHER


def test_neither_chunk_nor_threads_decide_a_bit(tmp_path, phi_of):
    write(tmp_path / "one", rows=5000)
    assert phi_of(tmp_path / "one", chunk=7).digest == phi_of(tmp_path / "one").digest


@pytest.mark.parametrize("mode", ["float64", "float32"])
def test_progress_tells_of_every_row(tmp_path, mode):
    from l3hpc.console.progress import Progress
    from l3hpc.steps.task import Task

    class Seen(Progress):
        def finish(self):
            seen.append((self.phase, self.done, self.total))

    seen = []
    write(tmp_path / "one", rows=5000)
    (tmp_path / "out").mkdir()
    module = steps.step("fit")
    progress = Seen()
    module.run(module.params_type(emb_dim=2, mode=mode), Task(
        output=tmp_path / "out", scratch=tmp_path / "scratch", inputs={"sample": tmp_path / "one"},
        progress=progress))
    progress.finish()
    assert seen == [("fitting pca", 5000, 5000)]


def test_umap_names_its_package():
    module = steps.step("fit")
    assert module.packages(module.params_type()) == {}
    assert module.packages(module.params_type(approx="umap")) == {"umap": install_command("umap")}


@pytest.mark.parametrize("kernel", ["poly", "rbf"])
def test_a_kernel_pca_is_stored_and_applied_by_the_same_steps(tmp_path, new_runner, kernel):
    """What reduce writes is scikit-learn's kernel PCA of the standardised rows."""
    from sklearn.decomposition import KernelPCA
    from sklearn.preprocessing import StandardScaler

    x = write(tmp_path / "sample", rows=80, teacher=TEACHER)
    new = write(tmp_path / "corpus", rows=700, seed=1, teacher=TEACHER)
    runner = new_runner(kernel)
    done = runner.run("fit", {"emb_dim": 6, "kernel": kernel}, {"sample": tmp_path / "sample"})
    runner.run("reduce", {"chunk": 90}, {"extract": tmp_path / "corpus", "fit": done.folder})
    phi = load_phi(done.folder / "0000/phi.h5")
    assert phi.key == f"pca_batch_80_len_6_kernel_{kernel}" and phi.params["gamma"] == 1 / 5
    with h5py.File(runner.artifact("reduce") / "0000/a.h5") as file:
        found = file[phi.key][()]
        assert file.attrs["approx"] == "pca"
    scaler = StandardScaler().fit(x.astype(float))
    peer = KernelPCA(6, kernel=kernel, eigen_solver="dense").fit(scaler.transform(x.astype(float)))
    expected = peer.transform(scaler.transform(new.astype(float)))
    expected *= np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    result = done.results[0]
    assert (result["kernel"], result["landmarks"]) == (kernel, 80)
    assert 0 < result["explained_variance"] < 1
    assert "% of the kernel's variance in 6 dimensions" in done.text
    assert "landmarks" not in done.text
    fewer = new_runner(f"{kernel}-fewer").run(
        "fit", {"emb_dim": 3, "kernel": kernel, "landmarks": 40}, {"sample": tmp_path / "sample"})
    assert fewer.text.endswith("by 40 landmarks of 80 rows")


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_sample_of_equal_rows_has_nothing_to_keep(tmp_path, phi_of, kernel):
    (tmp_path / "silence").mkdir()
    with h5py.File(tmp_path / "silence/a.h5", "w") as file:
        file["l3_embedding"] = np.full((60, 5), 0.25, np.float32)
    with pytest.raises(InputError, match="all 60 rows of the sample are equal"):
        phi_of(tmp_path / "silence", kernel=kernel)
    assert phi_of(tmp_path / "silence", approx="none").out_dim == 5
