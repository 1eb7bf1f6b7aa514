"""Model files of all formats, damaged, recognised, loaded and used."""

from __future__ import annotations

import gzip
import importlib.util
import io
import random
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from . import bases, damage
from .oracle import call, command
from .runner import Case, Fault, Surface, Verdict

REFERENCE = Path(__file__).parents[1] / "models/reference.py"


class ModelFiles(Surface):
    """Weights in HDF5: l3hpc's own format, and what Keras 2 left."""

    name = "models"
    share = 400

    def prepare(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("models_reference", REFERENCE)
        assert spec is not None and spec.loader is not None
        reference = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(reference)
        own = bases.student(folder / "student.h5")
        from l3hpc.models import weights

        network = weights.load_parameters(own)[0].spec
        layers = reference.random_layers(network)
        name = "edgel3_sea_x.h5"
        reference.write_keras2(folder / name, layers)
        data = {"student.h5": own.read_bytes(), name: (folder / name).read_bytes()}
        reference.write_keras2(folder / name, layers, full_model=True)
        data[f"full_{name}"] = (folder / name).read_bytes()
        self.files = {**data, **{f"{key}.gz": gzip.compress(value, mtime=0)
                                 for key, value in data.items()}}
        self.sound = bases.sound()[:, 0]
        self.engine = "ncnn" if importlib.util.find_spec("ncnn") else "tensorflow"

    def judge(self, case: Case) -> Verdict:
        name = case.rng.choice(sorted(self.files))
        data = whole = self.files[name]
        for change in case.damages():
            data = self.damaged(data, name, change)
        if case.changes and case.rng.random() < 0.1:
            name = case.rng.choice(("x.h5", "x.keras", "x.tflite", "x.txt", "x.h5.gz", "x"))
        path = case.folder / name
        path.write_bytes(data)
        (case.folder / "a.wav").symlink_to(WAVE)
        said = command("embed", "a.wav", "--model", name, "--dry-run", "--json", codes=(0, 2))
        taken = self.use(path)
        if data == whole and name in self.files and not taken:
            raise Fault(f"a whole file is refused: {said.err[-500:]}")
        return Verdict(taken, said.code or 2)

    def damaged(self, data: bytes, name: str, rng: random.Random) -> bytes:
        """Damage outside and, of compressed files, inside."""
        if name.endswith(".gz") and rng.random() < 0.7:
            try:
                return gzip.compress(damage.binary(gzip.decompress(data), rng, 6000), 1, mtime=0)
            except (OSError, EOFError, ValueError, zlib.error):
                return damage.binary(data, rng)
        return damage.binary(data, rng, 6000)

    def use(self, path: Path) -> bool:
        """Whether a model can be loaded from it; then its embeddings are finite, or refused."""
        from l3hpc import get_embedding, load_model
        from l3hpc.models import weights

        described = call(weights.describe_weights, path)
        loaded = call(weights.load_parameters, path)
        if isinstance(described, Exception) and not isinstance(loaded, Exception):
            raise Fault(f"described as unusable, and loaded: {described}")
        model = call(load_model, path, engine=self.engine, threads=1)
        if isinstance(model, Exception):
            return False
        found = call(get_embedding, self.sound, bases.RATE, model, hop_size=0.5)
        if not isinstance(found, Exception) and not np.isfinite(found[0]).all():
            raise Fault("embeddings that are not finite")
        return True


class TensorFlowFiles(ModelFiles):
    """Full models of Keras 3 and TensorFlow Lite models, which TensorFlow reads."""

    name = "models-tensorflow"
    share = 150
    tensorflow = True

    def prepare(self, folder: Path) -> None:
        from l3hpc.models.tensorflow_log import import_tensorflow

        import_tensorflow()
        import tensorflow as tf

        from l3hpc.models import network, weights

        parameters = weights.load_parameters(bases.student(folder / "student.h5"))[0]
        built = network.build(parameters.spec)
        network.assign(built, parameters)
        built.save(folder / "x.keras")
        converter = tf.lite.TFLiteConverter.from_keras_model(built)
        self.files = {"edgel3_sea_x.keras": (folder / "x.keras").read_bytes(),
                      "model.tflite": converter.convert()}
        self.sound = bases.sound()[:, 0]
        self.engine = "tensorflow"

    def damaged(self, data: bytes, name: str, rng: random.Random) -> bytes:
        """Of archives, mostly one of their files."""
        if name.endswith(".keras") and rng.random() < 0.8:
            held = io.BytesIO()
            try:
                with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(held, "w") as new:
                    chosen = rng.choice(old.namelist())
                    for entry in old.namelist():
                        text = old.read(entry)
                        if entry == chosen:
                            kind = damage.text if entry.endswith(".json") else damage.binary
                            text = kind(text, rng)
                        new.writestr(entry, text)
                return held.getvalue()
            except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError,
                    zlib.error):
                return damage.binary(data, rng)
        return damage.binary(data, rng, 3000)

    def use(self, path: Path) -> bool:
        """The same without the readers of HDF5."""
        from l3hpc import get_embedding, load_model

        options: dict[str, Any] = {"input_repr": None}
        if path.suffix == ".tflite":
            options["geometry"] = {"rate": bases.RATE, "n_mels": 32, "hop": 160, "n_dft": 256}
        model = call(load_model, path, engine=self.engine, threads=1, **options)
        if isinstance(model, Exception):
            return False
        found = call(get_embedding, self.sound, bases.RATE, model, hop_size=0.5)
        if not isinstance(found, Exception) and not np.isfinite(found[0]).all():
            raise Fault("embeddings that are not finite")
        return True


WAVE = Path(__file__).parents[0] / "__init__.py"  # a name is enough: nothing is read in a preview
