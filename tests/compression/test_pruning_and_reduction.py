"""Masks and cuts against references written from the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l3hpc.compression import plans, pruning
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec

FILTERS = (4, 4, 8, 8, 8, 8, 12, 12)


def network(tail="embedding", seed=0, filters=FILTERS):
    """Random weights everywhere, normalisations too."""
    spec = NetworkSpec(2000, 16, 100, 256, filters=filters, tail=tail)
    rng = np.random.default_rng(seed)
    layers = [tuple(rng.uniform(0.1, 2, array.shape).astype(np.float32) for array in arrays)
              if len(arrays) == 4 else
              tuple(rng.normal(size=array.shape).astype(np.float32) for array in arrays)
              for arrays in untrained(spec, seed).layers]
    return Parameters(spec, tuple(layers))


def percentile(values, percent):
    """Linear interpolation between order statistics, from the definition, in float64."""
    ordered = sorted(float(value) for value in values)
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@pytest.mark.parametrize("percent", [0.5, 30, 50, 85, 95.97, 99.2])
def test_a_mask_keeps_what_is_strictly_above_the_percentile(percent):
    kernel = np.random.default_rng(1).normal(size=(3, 3, 5, 7)).astype(np.float32)
    limit = percentile(np.abs(kernel).ravel(), percent)
    expected = np.abs(kernel.astype(np.float64)) > limit
    np.testing.assert_array_equal(pruning.keep_mask(kernel, percent), expected)
    assert pruning.threshold(kernel, percent) == pytest.approx(limit, rel=1e-12)


def test_strictly_above_means_that_equal_weights_go_together():
    kernel = np.array([1, 1, 1, 1, 1, 1, 1, 1, 2], np.float32).reshape(3, 3, 1, 1)
    assert pruning.keep_mask(kernel, 50).sum() == 1
    assert pruning.keep_mask(np.ones_like(kernel), 1).sum() == 0


def test_neighbouring_float32_values_are_told_apart():
    low = np.float32(1)
    high = np.nextafter(low, np.float32(2))
    kernel = np.array([low] * 4 + [high] * 5, np.float32).reshape(3, 3, 1, 1)
    assert pruning.keep_mask(kernel, 43.75).sum() == 5  # halfway between the two


def test_the_nearest_rank_is_a_value_of_the_kernel():
    kernel = np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1, 1)
    assert pruning.threshold(kernel, 55, "nearest") == 5
    assert pruning.threshold(kernel, 55) == pytest.approx(5.4)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (3, 3, 2, 2), elements=st.floats(-2, 2, width=32)),
       st.floats(0, 99.9), st.floats(0, 99.9))
def test_more_percent_never_keeps_more(kernel, one, other):
    low, high = sorted((one, other))
    few, many = pruning.keep_mask(kernel, high), pruning.keep_mask(kernel, low)
    assert not (few & ~many).any()
    assert high == 0 or few.sum() <= kernel.size * (1 - high / 100) + 1


@pytest.mark.parametrize("tail", ["embedding", "student"])
def test_only_kernels_change(tail):
    before = network(tail)
    after = pruning.prune(before, plans.parse_plan("edgel3"))
    for (kind, _), mine, its in zip(before.spec.layers(), before.layers, after.layers,
                                    strict=True):
        for array, same in zip(mine[1:] if kind == "conv" else mine,
                               its[1:] if kind == "conv" else its, strict=True):
            np.testing.assert_array_equal(array, same)
    for percent, mine, its in zip(plans.parse_plan("edgel3"), pruning.kernels(before),
                                  pruning.kernels(after), strict=True):
        np.testing.assert_array_equal(its, np.where(pruning.keep_mask(mine, percent), mine, 0))
        assert its.dtype == np.float32
    np.testing.assert_array_equal(pruning.kernels(after)[0], pruning.kernels(before)[0])
    assert pruning.zero_percent(after)[7] == pytest.approx(98, abs=0.1)


def test_nothing_pruned_is_the_same_network():
    before = network()
    after = pruning.prune(before, (0,) * 8)
    for mine, its in zip(before.layers, after.layers, strict=True):
        for array, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(array, same)


def test_a_plan_of_another_length_is_refused():
    with pytest.raises(InputError, match="plan of 7 numbers for 8 convolutions"):
        pruning.prune(network(), (0,) * 7)


def embed(parameters, spectra):
    from l3hpc.models.engines import TensorFlowEngine

    return TensorFlowEngine(parameters.folded()).run(spectra)


SPECTRA = np.random.default_rng(5).uniform(-80, 0, (2, 16, 20)).astype(np.float32)


@pytest.mark.parametrize("tail", ["embedding", "student"])
def test_width_drops_exactly_the_smallest_filters(tail):
    """Where the dropped filters are silent, the embedding's kept values stay what they were."""
    before = network(tail)
    keep = (3, 4, 5, 8, 6, 7, 9, 10)
    layers = list(before.layers)
    where = pruning.convolution_indices(before)
    chosen = []
    for place, count in zip(where, keep, strict=True):
        kernel, bias = (array.copy() for array in layers[place])
        sums = [float(np.abs(kernel[..., one]).sum()) for one in range(kernel.shape[3])]
        silent = sorted(range(len(sums)), key=lambda one: -sums[one])[count:]
        kernel[..., silent], bias[silent] = 0, 0
        layers[place] = (kernel, bias)
        if place + 1 < len(layers):
            norm = [array.copy() for array in layers[place + 1]]
            norm[1][silent], norm[2][silent] = 0, 0  # beta, mean: a silent filter gives 0
            layers[place + 1] = tuple(norm)
        chosen.append([one for one in range(len(sums)) if one not in silent])
    silenced = Parameters(before.spec, tuple(layers))
    after = pruning.reduce_width(silenced, keep)
    assert after.spec.filters == keep and after.spec.dim == 10
    expected = embed(silenced, SPECTRA)[:, chosen[-1]]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(embed(after, SPECTRA), expected, rtol=1e-4,
                               atol=1e-4 * np.abs(expected).max())


def test_kept_filters_bring_their_arrays_in_order():
    before = network()
    after = pruning.reduce_width(before, (2, *FILTERS[1:]))
    sums = np.abs(before.layers[1][0]).sum(axis=(0, 1, 2))
    kept = sorted(np.argsort(-sums)[:2])
    np.testing.assert_array_equal(after.layers[1][0], before.layers[1][0][..., kept])
    np.testing.assert_array_equal(after.layers[1][1], before.layers[1][1][kept])
    for mine, its in zip(before.layers[2], after.layers[2], strict=True):
        np.testing.assert_array_equal(its, mine[kept])
    np.testing.assert_array_equal(after.layers[3][0], before.layers[3][0][:, :, kept])
    np.testing.assert_array_equal(after.layers[0], before.layers[0])  # of the spectrogram


def test_the_published_way_starts_normalisations_afresh():
    before = network()
    after = pruning.reduce_width(before, (2, *FILTERS[1:]), norms="fresh")
    for value, array in zip((1, 0, 0, 1), after.layers[2], strict=True):
        np.testing.assert_array_equal(array, np.full(2, value, np.float32))
    np.testing.assert_array_equal(after.layers[0], before.layers[0])


def test_all_filters_kept_is_the_same_network():
    before = network("student")
    after = pruning.reduce_width(before, FILTERS)
    for mine, its in zip(before.layers, after.layers, strict=True):
        for array, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize(("filters", "said"), [
    ((4, 4, 8), "3 filter counts for 8"), ((5, *FILTERS[1:]), "conv_1: 5 filters of 4"),
    ((*FILTERS[:7], 0), "audio_embedding_layer: 0 filters of 12")])
def test_widths_that_are_refused(filters, said):
    with pytest.raises(InputError) as refused:
        pruning.reduce_width(network(), filters)
    assert said in str(refused.value)


@pytest.mark.parametrize("tail", ["embedding", "student"])
@pytest.mark.parametrize("convolutions", [7, 6, 5])
def test_depth_is_the_maximum_of_an_inner_map(tail, convolutions):
    """Against the whole network's Keras model, read off in the middle."""
    import keras

    from l3hpc.models.network import assign, build

    whole = network(tail)
    smaller = pruning.reduce_depth(whole, convolutions)
    model = build(whole.spec)
    assign(model, whole)
    name = f"conv_{convolutions}" if tail == "embedding" else f"relu_{convolutions}"
    inner = keras.Model(model.input, model.get_layer(name).output)(SPECTRA[..., None])
    expected = np.asarray(inner).max(axis=(1, 2))
    assert smaller.spec.dim == FILTERS[convolutions - 1]
    np.testing.assert_allclose(embed(smaller, SPECTRA), expected, rtol=1e-4, atol=1e-3)
    again = build(smaller.spec)
    assign(again, smaller)
    np.testing.assert_allclose(np.asarray(again(SPECTRA[..., None])), expected, rtol=1e-4,
                               atol=1e-3)


def test_depth_by_every_engine(tmp_path):
    from l3hpc.models import engines, weights
    from l3hpc.models.openvino_engine import OpenVinoEngine

    smaller = pruning.reduce_depth(network("student"), 6)
    weights.save(smaller, tmp_path / "six.h5")
    stored, info = weights.load_parameters(tmp_path / "six.h5")
    assert info.spec == smaller.spec and "8-d" in info.label
    expected = embed(smaller, SPECTRA)
    folded = stored.folded()
    for engine in (engines.make_engine("ncnn", folded, 1), OpenVinoEngine(folded, 1)):
        np.testing.assert_allclose(engine.run(SPECTRA), expected, rtol=1e-3,
                                   atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("convolutions", [4, 9])
def test_depths_that_are_refused(convolutions):
    with pytest.raises(InputError, match="8, 7, 6, 5"):
        pruning.reduce_depth(network(), convolutions)
