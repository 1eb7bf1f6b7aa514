"""Conversion: BatchNorm is folded without a change, formats are what they are called."""

from dataclasses import replace

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.export.conversion import FORMATS, convert, fold_input_scale, round_first_layer
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import TfliteRunner
from l3hpc.models.precision import deviation_of


@pytest.mark.parametrize("name", ["small", "odd maps"])
def test_folded_equals_unfolded(made, name):
    """Against the Keras network with all its normalisations."""
    from l3hpc.models import network

    it = made(name, "fp32")
    model = network.build(it.spec)
    network.assign(model, it.parameters)
    unfolded = np.asarray(model(it.spectrograms[..., None]))
    found = TfliteRunner(it.flatbuffer).embed(it.spectrograms)
    np.testing.assert_allclose(found, unfolded, atol=2e-5 * np.abs(unfolded).max())
    names = [Graph(it.flatbuffer).name(one) for one in Graph(it.flatbuffer).operators]
    assert names == ["ADD"] + ["CONV_2D", "CONV_2D", "MAX_POOL_2D"] * 4 + ["RESHAPE"]


def test_types_and_sizes_of_the_formats(made):
    kernels = 4 * 9 + sum(9 * a * b for a, b in ((4, 4), (4, 6), (6, 6), (6, 8), (8, 8), (8, 8),
                                                 (8, 8)))
    found = {form: Graph(made("small", form).flatbuffer) for form in FORMATS}
    ends = {form: (graph.type(graph.inputs[0]), graph.type(graph.outputs[0]))
            for form, graph in found.items()}
    assert ends == {"int8": ("INT8", "INT8"), "int16x8": ("INT16", "INT16"),
                    "fp16": ("FLOAT32", "FLOAT32"), "fp32": ("FLOAT32", "FLOAT32")}
    for form, kind in (("int8", "INT8"), ("int16x8", "INT8"), ("fp16", "FLOAT16"),
                       ("fp32", "FLOAT32")):
        graph = found[form]
        weights = [index for index in range(len(graph.tensors))
                   if graph.type(index) == kind and len(graph.shape(index)) == 4
                   and graph.is_constant(index)]
        assert sum(int(np.prod(graph.shape(index))) for index in weights) == kernels


@pytest.mark.parametrize(("form", "least"), [("int8", 0.99), ("int16x8", 0.999), ("fp16", 0.99999),
                                             ("fp32", 0.9999999)])
def test_formats_keep_the_embedding(made, form, least):
    """Random weights: these bounds say that nothing is broken, not how good the formats are."""
    it = made("small", form)
    right = TfliteRunner(made("small", "fp32").flatbuffer).embed(it.spectrograms)
    assert deviation_of(TfliteRunner(it.flatbuffer).embed(it.spectrograms), right).cosine > least


def test_the_converter_repeats_no_settings(made, capfd):
    it = made("small", "int8")
    capfd.readouterr()
    convert(it.network, "int8", it.spectrograms)
    assert "fully_quantize" not in capfd.readouterr().err


def test_integers_without_frames_are_refused(made):
    network = made("small", "fp32").network
    for form in ("int8", "int16x8"):
        for none in (None, np.empty((0, 32, 25), np.float32)):
            with pytest.raises(InputError, match=f"{form} needs recordings") as refused:
                convert(network, form, none)
            assert "--calibrate FOLDER" in str(refused.value)
    with pytest.raises(InputError, match="unknown format 'int4'"):
        convert(network, "int4")


def test_a_network_that_ignores_its_input_is_refused(made):
    with pytest.raises(InputError, match="input scale is 0"):
        fold_input_scale(replace(made("small", "fp32").network, scale=0.0))


def test_rounding_together_is_nearer_on_what_it_saw(made):
    """The first map's mean squared error, in floats, of either rounding."""
    it = made("small", "int16x8")
    offset, (first, *_) = fold_input_scale(it.network)
    padded = np.pad(it.spectrograms.astype(np.float64) + offset, ((0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))

    def error(graph):
        conv = next(one for one in graph.operators if graph.name(one) == "CONV_2D")
        tensor = graph.tensors[conv.inputs[1]]
        kernel = graph.values(conv.inputs[1])[..., 0] * tensor.quantization.scale[:, None, None]
        wrong = kernel - first.kernel[:, :, 0].transpose(2, 0, 1)
        return np.mean(np.einsum("nijkl,okl->onij", patches, wrong) ** 2)

    apart, together = Graph(it.flatbuffer), Graph(it.flatbuffer)
    round_first_layer(together, it.network, it.spectrograms)
    assert error(together) < 0.7 * error(apart)
    assert len(together.to_bytes()) == len(apart.to_bytes())
