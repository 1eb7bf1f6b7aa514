"""Steps that only compute with arrays load no large package: a task would pay for it every time."""

import h5py
import numpy as np


def test_sampling_and_reduction_load_neither_scikit_learn_nor_tensorflow(loaded_by, tmp_path):
    """scikit-learn alone takes 100 MB and twice the time of all these steps."""
    published = tmp_path / "published"
    published.mkdir()
    with h5py.File(published / "sensor.h5", "w") as file:
        file["l3_embedding"] = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    sample, fit = {"sample": tmp_path / "sample"}, tmp_path / "fit"
    assert loaded_by(
        ("sample", {"samples": "30", "method": "dpp-div"}, {"extract": published},
         sample["sample"]),
        ("fit", {"emb_dim": "3"}, sample, fit),
        ("reduce", {}, {"extract": published, "fit": fit}, tmp_path / "reduced"),
        ("fit", {"emb_dim": "3", "kernel": "rbf"}, sample, tmp_path / "exact"),
        ("fit", {"emb_dim": "3", "kernel": "poly", "landmarks": "20"}, sample, tmp_path / "marks"),
        ("reduce", {}, {"extract": published, "fit": tmp_path / "marks"}, tmp_path / "reduced2"),
    ) == ["sample", "fit", "reduce", "fit", "fit", "reduce"]


def test_embedding_with_ncnn_loads_little_of_scipy(loaded_by, city, teacher, tmp_path):
    """Each would take a tenth to a quarter of what a small task costs before it works."""
    assert loaded_by(
        ("extract", {"audio": str(city / "audio"), "weights": str(teacher), "engine": "ncnn",
                     "hop": "0.5"}, {}, tmp_path / "extract"),
        ("embed", {"audio": str(city / "audio"), "student": str(teacher), "engine": "ncnn",
                   "hop": "0.5"}, {}, tmp_path / "embed"),
        heavy=("sklearn", "pandas", "tensorflow", "scipy.fft", "scipy.special", "numpy.ma",
               "numpy.f2py"),
    ) == ["extract", "embed"]
