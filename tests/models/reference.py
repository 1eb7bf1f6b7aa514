"""The network once more in plain float64 numpy, layer by layer and unfolded, from its definition.

Also writers of weight files as Keras 2 left them, made with h5py alone.
"""

import gzip
import json

import h5py
import numpy as np


def convolve(x, kernel, bias):
    """3x3, stride 1, zeros around: x (h, w, in), kernel (3, 3, in, out)."""
    height, width, _ = x.shape
    padded = np.zeros((height + 2, width + 2, x.shape[2]))
    padded[1:-1, 1:-1] = x
    result = np.zeros((height * width, kernel.shape[3])) + bias
    for i in range(3):
        for j in range(3):
            result += padded[i:i + height, j:j + width].reshape(height * width, -1) @ kernel[i, j]
    return result.reshape(height, width, -1)


def normalise(x, gamma, beta, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def pool(x, size):
    rows, columns = x.shape[0] // size[0], x.shape[1] // size[1]
    whole = x[:rows * size[0], :columns * size[1]]
    return whole.reshape(rows, size[0], columns, size[1], -1).max(axis=(1, 3))


def forward(spectrogram, layers, tail, head, last_pool):
    """Embedding (dim,) of one spectrogram (bands, times); ``layers`` as tuples of arrays."""
    layers = [tuple(np.asarray(array, np.float64) for array in layer) for layer in layers]
    x = normalise(np.asarray(spectrogram, np.float64)[..., None], *layers.pop(0))
    for index in range(8):
        x = convolve(x, *layers.pop(0))
        if index < 7 or tail == "student":
            x = normalise(x, *layers.pop(0))
        if index < 7 or (tail == "student" and head == "relu"):
            x = np.maximum(x, 0)
        if index in (1, 3, 5):
            x = pool(x, (2, 2))
    assert not layers
    return pool(x, last_pool).reshape(-1)


def random_layers(spec, seed=0, zeros=0.0):
    """Arrays for every layer of ``spec`` with nothing neutral about them."""
    rng = np.random.default_rng(seed)
    result = []
    for kind, shapes in spec.layers():
        if kind == "conv":
            kernel = rng.standard_normal(shapes[0]) * np.sqrt(2 / np.prod(shapes[0][:3]))
            kernel[rng.random(shapes[0]) < zeros] = 0
            arrays = (kernel, rng.standard_normal(shapes[1]) * 0.1)
        else:
            arrays = (rng.uniform(0.5, 1.5, shapes[0]), rng.standard_normal(shapes[1]) * 0.2,
                      rng.standard_normal(shapes[2]) * 0.2, rng.uniform(0.5, 1.5, shapes[3]))
        result.append(tuple(array.astype(np.float32) for array in arrays))
    if result:  # spectrograms are between -80 and 0
        result[0] = tuple(np.array([value], np.float32) for value in (1.2, 0.1, -40.0, 300.0))
    return result


def kapre_arrays(n_dft, bank):
    """Weights of kapre 0.1.4's layer: windowed DFT kernels and, with mels, the filterbank."""
    angle = 2 * np.pi * np.outer(np.arange(n_dft), np.arange(n_dft // 2 + 1)) / n_dft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_dft) / n_dft)
    arrays = [(np.cos(angle) * window[:, None])[:, None, None, :],
              (np.sin(angle) * window[:, None])[:, None, None, :]]
    return arrays if bank is None else [*arrays, bank]


def write_keras2(path, layers, frontend=None, full_model=False, config=None):
    """A Keras 2 file: ``save_weights`` layout, or ``model.save`` with everything one level down."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if full_model else file
        entries = [("input_1", [])]
        if frontend is not None:
            entries.append(("melspectrogram_1", [
                (f"melspectrogram_1/{name}:0", array) for name, array in
                zip(("real_kernels", "imag_kernels", "Variable"), frontend, strict=False)]))
        for index, arrays in enumerate(layers):
            names = (("kernel", "bias") if len(arrays) == 2 else
                     ("gamma", "beta", "moving_mean", "moving_variance"))
            name = f"{'conv2d' if len(arrays) == 2 else 'batch_normalization'}_{30 - index}"
            entries.append((name, [(f"{name}/{part}:0", array)
                                   for part, array in zip(names, arrays, strict=False)]))
            entries.append((f"activation_{index}", []))
        root.attrs["layer_names"] = np.array([name.encode() for name, _ in entries])
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.1.5"
        for name, weights in entries:
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array([part.encode() for part, _ in weights])
            for part, array in weights:
                group.create_dataset(part, data=np.asarray(array, np.float32))
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    if str(path).endswith(".gz"):
        data = path.read_bytes()
        with gzip.open(path, "wb") as stream:
            stream.write(data)
    return path


def kapre_config(sr, n_mels, n_dft, n_hop, fmax=None):
    layer = {"class_name": "Melspectrogram", "name": "melspectrogram_1", "config": {
        "name": "melspectrogram_1", "sr": sr, "n_mels": n_mels, "n_dft": n_dft, "n_hop": n_hop,
        "fmax": fmax or sr / 2, "htk": True}}
    return {"class_name": "Model", "config": {"name": "audio_model", "layers": [layer]}}
