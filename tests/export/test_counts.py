"""Counts: the published ones, and those of the definition."""

import pytest

from l3hpc.export import costs
from l3hpc.export.graph import Graph
from l3hpc.models.spec import NetworkSpec, student_spec


def by_definition(spec: NetworkSpec) -> list[int]:
    before, found = 1, []
    for index, channels in enumerate(spec.filters):
        bands, times = spec.maps[index // 2]
        found.append(bands * times * 9 * before * channels)
        before = channels
    return found


@pytest.mark.parametrize("name", ["small", "odd maps"])
def test_multiply_accumulates(made, name):
    graph = Graph(made(name, "int8").flatbuffer)
    assert costs.convolution_macs(graph) == by_definition(made(name, "int8").spec)


def test_student_2_as_the_poster_counts(made):
    graph = Graph(made("small", "int8").flatbuffer)
    plain_macs = sum(costs.convolution_macs(graph))
    found = costs.inference_costs(graph, student_spec(head="relu"), plain_macs)
    assert (found.flash_as_published, found.ram_as_published) == (584_420, 102_400)
    assert found.extra_macs == 0
    assert sum(by_definition(student_spec(head="relu"))) == 131_272_704


def test_time_from_the_published_layers(made):
    """24.6 million operations (two per multiply-accumulate) took 96.8 ms in three layers."""
    published = costs.FEW_CHANNELS[0] + costs.MANY_CHANNELS[0]
    assert 2 * published == 24_576_000
    graph = Graph(made("small", "int8").flatbuffer)
    first, *others = costs.convolution_macs(graph)
    expected = first / 2_457_600 * 0.0314 + sum(others) / 9_830_400 * 0.0654
    assert costs.seconds_m7(graph) == pytest.approx(expected, rel=1e-12)
