"""Keras models of ordinary layers as teachers (``.keras``, ``.h5``): the output of any layer.

The configuration is checked before Keras sees it: classes of other packages, lambdas and functions
are refused, so that nothing in a file is executed. Layers take the place of tensors here: a tensor
has the name of the layer that computes it.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.hdf5 import open_hdf5
from l3hpc.models.tensorflow_log import import_tensorflow
from l3hpc.models.unpacking import MAX_BYTES, MAX_JSON
from l3hpc.models.weight_files import DAMAGE, refuse_code
from l3hpc.teachers.graph import Graph, Operation, Tensor

ENGINE = "tensorflow"
BATCH = 16
WEIGHTS = "model.weights.h5"  # in a .keras file
UNSTORED = 1 << 20  # numbers that layers have and files may lack: states of random generators
# Where the classes of ordinary models are; others could be any function of the package.
MODULES = ("keras", "keras.layers", "keras.models", "keras.initializers", "keras.regularizers",
           "keras.constraints", "keras.activations", "keras.dtype_policies", "keras.quantizers",
           "builtins")
INNER = ("keras.src.layers.", "keras.src.models.", "keras.src.ops.", "keras.src.initializers.",
         "keras.src.regularizers.", "keras.src.activations.", "keras.src.dtype_policies.")
FUNCTIONS = ("keras.activations", "keras.src.activations", "keras.ops", "keras.src.ops", "builtins")


def inspect(path: Path) -> Graph:
    """The layers of a model.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        The file is damaged, no full model, or has layers that are code.
    """
    model = _load(path)
    import keras

    tensors: dict[str, Tensor] = {}
    operations = []
    # Loading a Sequential calls its first layers again for each layer that follows, always on the
    # same input. Elsewhere a layer that is called again is a shared one, given something else.
    calls = None if isinstance(model, keras.Sequential) else 1
    makers = {id(output): layer.name for layer in model.layers
              for node in layer._inbound_nodes[:calls] for output in node.output_tensors}
    for layer in model.layers:
        outputs = _outputs(layer)
        if len(outputs) != 1:
            continue
        tensors[layer.name] = Tensor(layer.name, tuple(outputs[0].shape), str(outputs[0].dtype))
        node = layer._inbound_nodes[0]
        operations.append(Operation(
            type(layer).__name__, tuple(makers[id(one)] for one in node.input_tensors
                                        if id(one) in makers and makers[id(one)] != layer.name),
            (layer.name,)))
    inputs = tuple(tensors[makers[id(one)]] if id(one) in makers
                   else Tensor(one.name, tuple(one.shape), str(one.dtype)) for one in model.inputs)
    for one in inputs:
        tensors.setdefault(one.name, one)
    return Graph("Keras", inputs,
                 tuple(tensors[makers[id(one)]] for one in model.outputs), tensors,
                 tuple(operations))


class Runner:
    """Computes the output of one layer of a model.

    Parameters
    ----------
    path
        The file.
    source, target
        The model's input (its only one), and the name of the layer.
    threads
        Not used: TensorFlow has as many as the process was given.

    Attributes
    ----------
    batch_size
        A good number of inputs at once.
    """

    batch_size = BATCH

    def __init__(self, path: Path, source: str, target: str, threads: int | None) -> None:
        import keras
        import tensorflow as tf

        whole = _load(path)
        model = keras.Model(whole.inputs[0], whole.get_layer(target).output)
        self._run = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
        self._rank = len(whole.inputs[0].shape)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Compute the layer's output for each input.

        Parameters
        ----------
        inputs
            (n, …) float32.

        Returns
        -------
        numpy.ndarray
            (n, …) float32.
        """
        return np.concatenate([
            np.asarray(self._run(inputs[start:start + BATCH]), np.float32)
            for start in range(0, len(inputs), BATCH)])


def _outputs(layer: Any) -> list[Any]:
    return [one for node in layer._inbound_nodes[:1] for one in node.output_tensors]


def _load(path: Path) -> Any:
    _check_config(path)
    import_tensorflow()
    import keras

    try:
        with _no_more_weights_than(_stored_weights(path), path):
            model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    except InputError:
        raise
    except (*DAMAGE, AttributeError, ImportError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"cannot be loaded by Keras: {lines[0]:.200}", where=str(path)) from None
    if not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise InputError("has no single input", where=str(path),
                         allowed="a functional or sequential model with one input")
    return model


def _stored_weights(path: Path) -> int:
    """How many numbers the weights of a file are."""
    arrays: list[h5py.Dataset] = []

    def collect(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            arrays.append(found)

    with contextlib.ExitStack() as stack:
        weights = None
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if archive.getinfo(WEIGHTS).file_size > MAX_BYTES:
                raise InputError(f"holds more than {MAX_BYTES >> 20} MB", where=str(path))
            weights = io.BytesIO(archive.read(WEIGHTS))
        stack.enter_context(open_hdf5(path, memory=weights)).visititems(collect)
        # An array may state any shape and hold no bytes.
        if sum(array.nbytes for array in arrays) > MAX_BYTES:
            raise InputError(f"declares more than {MAX_BYTES >> 20} MB of weights", where=str(path))
        return sum(array.size or 0 for array in arrays)


@contextlib.contextmanager
def _no_more_weights_than(stored: int, path: Path) -> Iterator[None]:
    """Refuse a configuration of larger layers than the file has weights for.

    A small file could otherwise take any amount of memory: layers are made before weights are read.
    """
    import tensorflow as tf

    left = stored + UNSTORED

    def create(make: Callable[..., Any], **values: Any) -> Any:
        nonlocal left
        initial = values["initial_value"]
        if callable(initial):
            with tf.Graph().as_default():  # has shapes, but allocates nothing
                left -= initial().shape.num_elements()
        if left < 0:
            raise InputError("its configuration describes more weights than it holds "
                             f"({stored:,})", where=str(path), allowed="a file as Keras saves it")
        return make(**values)

    with tf.variable_creator_scope(create):
        yield


def _check_config(path: Path) -> None:
    """Refuse a configuration that names anything but Keras' own layers."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"holds more than {MAX_BYTES >> 20} MB", where=str(path))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo("config.json").file_size > MAX_JSON:
                    raise InputError("holds a configuration of more than 16 MB", where=str(path))
                text = archive.read("config.json")
        else:
            with open_hdf5(path) as file:
                if "model_config" not in file.attrs:
                    raise InputError("holds weights without the model", where=str(path),
                                     hint="save the whole model: model.save('NAME.keras')")
                text = file.attrs["model_config"]
        config = json.loads(text)
    except InputError:
        raise
    except (*DAMAGE, RecursionError) as error:
        raise InputError(f"not a readable Keras model: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise InputError("not a readable Keras model: its configuration is not an object",
                         where=str(path))
    refuse_code(config, path)
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            _check_class(one, path)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _check_class(one: dict[str, Any], path: Path) -> None:
    kind, module = one.get("class_name"), one.get("module")
    if not isinstance(kind, str):
        return
    is_function = kind in ("function", "__lambda__", "__typespec__")
    known = module is None or module in MODULES or str(module).startswith(INNER)
    if is_function:
        known = module in FUNCTIONS
    if not known or kind == "__lambda__":
        raise InputError(f"holds a class or function that is not an ordinary layer of Keras "
                         f"({module}.{kind})"[:120], where=str(path),
                         allowed="layers, initialisers and activations of Keras; "
                                 "nothing in a file is executed")
