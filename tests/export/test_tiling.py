"""Strips: the same bits, the planned memory, the promised sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.export import costs, interpreter, tiling
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import TfliteRunner


def cut(flatbuffer, amounts):
    graph = Graph(flatbuffer)
    tiling.tile_blocks(graph, amounts)
    graph.shrink()
    return graph


def any_inputs(runner, count=4, seed=0):
    """Random inputs, and the extreme ones."""
    rng = np.random.default_rng(seed)
    shape = (count, *runner.shape[1:])
    if runner.dtype.kind == "f":
        return rng.uniform(-80, 0, shape).astype(np.float32)
    limits = np.iinfo(runner.dtype)
    found = rng.integers(limits.min, limits.max, shape, runner.dtype, endpoint=True)
    found[0], found[1] = limits.min, limits.max
    return found


@given(height=st.integers(2, 300), share=st.floats(0, 1))
def test_strips_make_every_pooled_row_once_from_rows_that_exist(height, share):
    count = 1 + round(share * (height // 2 - 1))
    made = tiling.split_block(height, count)
    assert len(made) == count and sum(strip.pooled for strip in made) == height // 2
    assert max(strip.pooled for strip in made) - min(strip.pooled for strip in made) <= 1
    low = 0
    for strip in made:
        # one row more on either side for each convolution, zeros where the map ends
        for rows, halo in ((strip.hidden, 1), (strip.source, 2)):
            first, last = 2 * low - halo, 2 * (low + strip.pooled) + halo
            assert (rows.first, rows.last) == (max(first, 0), min(last, height))
        assert strip.hidden.above == (low == 0)
        assert strip.hidden.below == (2 * (low + strip.pooled) == height)
        missing = strip.source.above + strip.source.below
        assert strip.source.last - strip.source.first + missing == (
            strip.hidden.last - strip.hidden.first + 2)
        low += strip.pooled


def test_impossible_strips_are_refused(made):
    with pytest.raises(InputError, match="5 strips of a map with 4 pooled rows"):
        tiling.split_block(9, 5)
    with pytest.raises(InputError, match="strips for 4 blocks"):
        cut(made("small", "int8").flatbuffer, (2, 2, 2, 2))


@pytest.mark.parametrize("form", ["int8", "int16x8", "fp32"])
@pytest.mark.parametrize(("name", "amounts"), [
    ("small", (2,)), ("small", (16, 8, 4)), ("small", (1, 3)), ("odd maps", (5, 2)),
    ("odd maps", (13, 6, 3))])
def test_the_same_outputs(made, name, amounts, form):
    it = made(name, form)
    plain = TfliteRunner(it.flatbuffer)
    striped = TfliteRunner(cut(it.flatbuffer, amounts).to_bytes())
    inputs = any_inputs(plain)
    found, right = striped.raw(inputs), plain.raw(inputs)
    if form == "fp32":  # kernels add in an order that depends on the map's size
        np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())
    else:
        assert found.tobytes() == right.tobytes()
        np.testing.assert_array_equal(striped.embed(it.spectrograms), plain.embed(it.spectrograms))
    assert len(np.unique(right)) > 5


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), one=st.integers(1, 13), two=st.integers(1, 6))
def test_bit_identical_on_anything(made, seed, one, two):
    it = made("odd maps", "int8")
    plain = TfliteRunner(it.flatbuffer, reference=True)
    striped = TfliteRunner(cut(it.flatbuffer, (one, two)).to_bytes(), reference=True)
    inputs = any_inputs(plain, 3, seed)
    assert striped.raw(inputs).tobytes() == plain.raw(inputs).tobytes()


def test_weights_lie_in_the_file_once_and_maps_keep_their_quantisation(made):
    plain, striped = Graph(made("small", "int8").flatbuffer), cut(
        made("small", "int8").flatbuffer, (4, 2))
    filters = {bytes(plain.values(one.inputs[1])) for one in plain.operators
               if plain.name(one) == "CONV_2D"}
    stored = [bytes(buffer.data) for buffer in striped.model.buffers if buffer.data is not None]
    assert len(stored) == len(set(stored)) and filters <= set(stored) and len(filters) == 8
    known = {plain.quantisation(one.outputs[0]) for one in plain.operators}
    assert {striped.quantisation(one.outputs[0]) for one in striped.operators} == known


def test_choose(made):
    graph = Graph(made("wide", "int8").flatbuffer)
    whole = costs.plan_arena(graph).total
    assert tiling.choose_strips(graph, whole) == (1, 1, 1)
    for budget in (whole - 5_000, 40_000):
        chosen = tiling.choose_strips(graph, budget)
        tried = graph.fork()
        tiling.tile_blocks(tried, chosen)
        assert costs.plan_arena(tried).total <= budget and max(chosen) > 1
        assert (sum(costs.convolution_macs(tried)) - sum(costs.convolution_macs(graph))
                == tiling.extra_macs(graph, chosen))
        fewer = graph.fork()
        tiling.tile_blocks(fewer, (chosen[0] - 1, *chosen[1:]))
        assert costs.plan_arena(fewer).total > budget
    assert len(graph.operators) == 14  # not touched by trying
    nothing = graph.fork()
    tiling.tile_blocks(nothing, tiling.choose_strips(graph, 1))
    assert costs.plan_arena(nothing).total < 35_000


@pytest.fixture(scope="module")
def student_2(made):
    """(plain, strip-wise) of the published Student 2's geometry, random weights."""
    plain = Graph(made("student 2", "int8").flatbuffer)
    chosen = tiling.choose_strips(plain)
    striped = plain.fork()
    tiling.tile_blocks(striped, chosen)
    for graph in (plain, striped):
        graph.shrink({"spec": made("student 2", "int8").spec.to_dict()})
    return plain, striped, chosen


def test_student_2_fits(student_2, made):
    """The promise: an arena of at most 102,400 bytes, and at most 0.60 MB (600,000 bytes)."""
    plain, striped, chosen = student_2
    assert chosen == (4, 3, 1)
    assert costs.plan_arena(plain).head == 204_800
    assert costs.plan_arena(striped).total <= 102_400
    assert costs.plan_arena(striped).head == 81_152 and costs.plan_arena(striped).live == 76_352
    assert len(striped.to_bytes()) <= 600_000
    assert 0 < len(striped.to_bytes()) - len(plain.to_bytes()) < 6_000
    # what docs/commands/export.md says of TensorFlow's own file
    assert len(made("student 2", "int8").flatbuffer) == pytest.approx(606_000, abs=1500)
    assert sum(costs.convolution_macs(plain)) == 131_272_704
    assert sum(costs.convolution_macs(striped)) - sum(costs.convolution_macs(plain)) == 1_929_600


def test_student_2_in_tflite_micro(student_2, tflite_micro):
    plain, striped, _ = student_2
    inputs = any_inputs(TfliteRunner(plain.to_bytes()), 2)
    whole, parts = (interpreter.run_micro(graph.to_bytes(), inputs) for graph in (plain, striped))
    assert whole.head == 204_800 and whole.total < 214_500
    assert parts.total <= 102_400
    assert whole.outputs.tobytes() == parts.outputs.tobytes()
    assert whole.outputs.tobytes() == TfliteRunner(plain.to_bytes()).raw(inputs).tobytes()


def test_the_published_student_on_real_recordings(real):
    from l3hpc.export.build import ExportSettings, build_model, read_frames, read_model
    from l3hpc.models.engines import TensorFlowEngine
    from l3hpc.models.precision import deviation_of

    parameters, info = read_model(real / "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz")
    found = read_frames(real / "esc10/audio", 8000)
    spectrograms = info.spec.frontend(found.check[::5])
    built = build_model(parameters.folded(), ExportSettings(calibrate=real), spectrograms[0::2])
    plain, striped = TfliteRunner(built.plain.to_bytes()), TfliteRunner(built.body.to_bytes())
    own = plain.quantised(spectrograms[1::2])
    assert striped.raw(own).tobytes() == plain.raw(own).tobytes()
    right = TensorFlowEngine(parameters.folded()).run(spectrograms[1::2])
    assert deviation_of(striped.embed(spectrograms[1::2]), right).cosine > 0.998
    assert len(built.body.to_bytes()) < 412_000 and costs.plan_arena(built.body).total <= 102_400
