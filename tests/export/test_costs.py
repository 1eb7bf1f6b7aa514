"""The arena: nothing that lives together overlaps, and TFLite Micro records the same."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.errors import L3hpcError
from l3hpc.export import costs, interpreter, tiling
from l3hpc.export.costs import Lifetime
from l3hpc.export.graph import Graph
from l3hpc.export.interpreter import TfliteRunner

LIVES = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12), st.integers(0, 5)),
                 min_size=1, max_size=14)


@given(LIVES)
def test_nothing_that_lives_together_overlaps(drawn):
    lives = [Lifetime(number, size, first, first + length)
             for number, (size, first, length) in enumerate(drawn)]
    offsets = costs.layout(lives)
    for one in lives:
        assert offsets[one.tensor] % 16 == 0
        for other in lives[one.tensor + 1:]:
            apart = (offsets[one.tensor] + one.nbytes <= offsets[other.tensor]
                     or offsets[other.tensor] + other.nbytes <= offsets[one.tensor])
            assert apart or one.last < other.first or other.last < one.first
    assert costs.layout_bytes(lives) >= costs.live_bytes(lives)
    assert costs.layout_bytes(lives) <= sum(-(-life.nbytes // 16) * 16 for life in lives)


def test_a_gap_is_used():
    """By hand: 100 and 50 side by side, then 40 where the 100 was, below the 50."""
    lives = [Lifetime(0, 100, 0, 1), Lifetime(1, 50, 1, 2), Lifetime(2, 40, 2, 3)]
    assert costs.layout(lives) == {0: 0, 1: 112, 2: 0}
    assert costs.layout_bytes(lives) == 176
    assert costs.live_bytes(lives) == 150


def test_lifetimes_of_a_graph(made):
    graph = Graph(made("small", "int8").flatbuffer)
    lives = costs.lifetimes(graph)
    assert [(life.nbytes, life.first, life.last) for life in lives[:5]] == [
        (800, 0, 0), (800, 0, 1), (3200, 1, 2), (3200, 2, 3), (16 * 12 * 4, 3, 4)]
    assert lives[-1].last == len(graph.operators) - 1 and lives[-1].nbytes == 8
    assert costs.plan_arena(graph).head == 6400


@pytest.mark.parametrize(("name", "form", "amounts"), [
    ("small", "int8", ()), ("small", "int8", (4, 2)), ("small", "int16x8", (8, 4, 2)),
    ("odd maps", "int8", (10, 6)), ("small", "fp32", (3,))])
def test_tflite_micro_records_what_was_planned(made, tflite_micro, name, form, amounts):
    graph = Graph(made(name, form).flatbuffer)
    tiling.tile_blocks(graph, amounts)
    graph.shrink()
    planned, recorded = costs.plan_arena(graph), interpreter.run_micro(graph.to_bytes())
    assert recorded.head == planned.head
    assert abs(recorded.tail - planned.tail) <= 32
    assert recorded.total == recorded.head + recorded.tail
    assert recorded.parts["TfLiteEvalTensor data"] == 24 * len(graph.tensors)


def test_tflite_micro_gives_the_same_integers(made, tflite_micro):
    runner = TfliteRunner(made("odd maps", "int8").flatbuffer)
    inputs = runner.quantised(made("odd maps", "int8").spectrograms)
    assert interpreter.run_micro(made("odd maps", "int8").flatbuffer, inputs).outputs.tobytes() == \
        runner.raw(inputs).tobytes()


def test_tflite_micro_refuses_float16(made, tflite_micro):
    with pytest.raises(interpreter.MicroRefused, match="DEQUANTIZE|dequantize"):
        interpreter.run_micro(made("small", "fp16").flatbuffer)


def test_without_the_interpreter_the_reason_is_told(made, monkeypatch):
    monkeypatch.setenv(interpreter.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(interpreter.MicroUnavailable, match="no tflite_micro for /nowhere/python"):
        interpreter.run_micro(made("small", "int8").flatbuffer)
    monkeypatch.delenv(interpreter.PYTHON_VARIABLE)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(L3hpcError, match="\\[micro\\]"):
        interpreter.micro_python()


def test_scratch_of_cmsis_nn_is_two_columns_of_int16(made):
    graph = Graph(made("small", "int8").flatbuffer)
    scratch = costs._scratch(graph)
    assert [life.nbytes for life in scratch] == [4 * 9 * before for before in (1, 4, 4, 6, 6, 8, 8,
                                                                               8)]
    assert costs.plan_arena(graph).with_cmsis_nn == 6400 + 144
    assert np.all([life.first == life.last for life in scratch])
