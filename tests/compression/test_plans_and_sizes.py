"""The published table to the digit, and what is really there beside it."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from l3hpc.compression import plans, pruning, sizes
from l3hpc.errors import InputError
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec, openl3_spec

# percent per convolution, reduction %, MB: as the published slides print them
TABLE = """\
0 30 40 50 30 50 50 60        53.49  8.317
0 40 50 60 40 60 60 70        63.48  6.530
0 40 50 60 40 70 70 80        72.29  4.955
0 60 60 70 50 70 70 80        73.55  4.730
0 70 70 75 60 80 80 85        80.87  3.421
0 80 80 85 40 85 85 95        87.08  2.310
30 85 85 90 60 90 90 95       90.51  1.697
0 85 85 85 75 95 98 98        95.45  0.814
0 93 94 96 97 95.97 98 97     97.00  0.536
0 95 96 97 97 98 98.65 98     98.00  0.357
0 94 96 99 99 99 99 99.2      99.00  0.179
"""
ROWS = [line.split() for line in TABLE.splitlines()]


@pytest.fixture(scope="module")
def teacher():
    """The whole L3 network, random weights: counts do not depend on them."""
    return untrained(openl3_spec(), 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[8])
def test_the_published_table(row):
    percent, reduction_percent, mb = row[:8], row[8], row[9]
    plan = plans.parse_plan(reduction_percent)
    assert plan == tuple(map(float, percent))
    found = sizes.published_size(plan)
    assert f"{found.reduction:.2f}" == reduction_percent
    assert f"{found.mb:.3f}" == mb


def test_there_are_eleven_plans_in_this_order():
    assert [row[8] for row in ROWS] == list(plans.PUBLISHED)


def test_the_published_parameters_of_edgel3():
    found = sizes.published_size(plans.parse_plan("edgel3"))
    assert round(found.remaining) == 213_491
    assert f"{found.mb:.3f}" == "0.814"


def test_what_is_really_left_of_edgel3(teacher):
    pruned = pruning.prune(teacher, plans.parse_plan("edgel3"))
    found = sizes.measure_sizes(pruned)
    assert found.non_zero == 213_284
    assert found.kernel_weights == 4_682_304
    assert (found.parameters, found.others) == (4_689_860, 7_556)
    assert found.float32 == 2 * found.float16 == 4 * 4_689_860
    assert found.bitmask == 4 * 7_556 + 4_682_304 // 8 + 4 * 213_284
    assert found.gzip < found.bitmask


@pytest.mark.parametrize(("convolutions", "reduced"), [(7, "50.42"), (6, "75.59"), (5, "88.18")])
def test_depth_by_the_published_formula(teacher, convolutions, reduced):
    smaller = pruning.reduce_depth(teacher, convolutions)
    found = sizes.published_size((0,) * convolutions, smaller.spec, teacher.spec)
    assert f"{found.reduction:.2f}" == reduced


@pytest.mark.parametrize(("filters", "reduced"), [
    ((64, 48, 64, 64, 128, 128, 256, 256), "74.41"),
    ((64, 48, 64, 64, 128, 128, 128, 128), "87.00"),
    ((64, 48, 64, 64, 64, 64, 128, 128), "91.72")])
def test_width_by_the_published_formula(teacher, filters, reduced):
    smaller = pruning.reduce_width(teacher, filters)
    assert f"{sizes.published_size((0,) * 8, smaller.spec, teacher.spec).reduction:.2f}" == reduced


def small(seed=0):
    return untrained(NetworkSpec(2000, 16, 100, 256, filters=(4, 4, 8, 8, 8, 8, 12, 12),
                                 tail="embedding"), seed)


@pytest.mark.parametrize("plan", ["none", "53.49", "99"])
def test_bytes_are_those_of_arrays_that_hold_the_network(plan):
    pruned = pruning.prune(small(), plans.parse_plan(plan))
    found = sizes.measure_sizes(pruned)
    csr = bits = 0
    for kernel in pruning.kernels(pruned):
        matrix = csr_matrix(kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[3], -1))
        csr += (matrix.data.astype(np.float32).nbytes + matrix.indices.astype(np.uint16).nbytes
                + matrix.indptr.astype(np.uint32).nbytes)
        bits += np.packbits(kernel.ravel() != 0).nbytes + kernel[kernel != 0].nbytes
    every = [array for arrays in pruned.layers for array in arrays]
    others = sum(array.nbytes for array in every if array.ndim != 4)
    assert found.csr == others + csr
    assert found.bitmask == others + bits
    assert found.float32 == sum(array.nbytes for array in every)
    assert found.float16 == sum(array.astype(np.float16).nbytes for array in every)
    packed = gzip.compress(b"".join(array.tobytes() for array in every), sizes.GZIP_LEVEL, mtime=0)
    assert found.gzip == len(packed)
    assert [one["non_zero"] for one in sizes.layer_counts(pruned)] == [
        int((kernel != 0).sum()) for kernel in pruning.kernels(pruned)]


def test_rows_of_more_than_65536_columns_need_wider_numbers():
    kernel = np.zeros((3, 3, 8000, 2), np.float32)
    kernel[0, 0, :5, 0] = 1
    assert sizes.csr_bytes(kernel) == 5 * 8 + 4 * 3
    assert sizes.csr_bytes(kernel[:, :, :7281]) == 5 * 6 + 4 * 3


@pytest.mark.parametrize(("text", "name"), [
    ("edgel3", "95.45"), ("53.5", "53.49"), ("87.0", "87.08"), ("99", "99.00"),
    ("0,85,85,85,75,95,98,98", "95.45"), ("none", "none"), ("0,0,0,0,0,0,0,0", "none"),
    ("0,10,20,30,40,50,60,70.5", "0,10,20,30,40,50,60,70.5")])
def test_what_a_plan_is_called(text, name):
    assert plans.plan_title(text) == name


@pytest.mark.parametrize(("text", "layers", "said"), [
    ("95.46", 8, "no pruning plan '95.46'"), ("", 8, "no pruning plan"),
    ("1,2,3", 8, "3 numbers for 8 convolutions"), ("0,0,0,0,0,0,0,100", 8, "a sparsity of 100%"),
    ("-1,0,0,0,0,0,0,0", 8, "conv_1: a sparsity of -1%"), ("a,b", 8, "is not a list of numbers"),
    ("nan,0,0,0,0,0,0,0", 8, "conv_1: a sparsity of nan"),
    ("0,0,0,0,0,0,0,101", 8, "audio_embedding_layer: a sparsity of 101%"),
    ("edgel3", 7, "is for 8 convolutions, the network has 7"),
    ("53.49,95.45", 8, "separate several plans by blanks")])
def test_plans_that_are_refused(text, layers, said):
    with pytest.raises(InputError) as refused:
        plans.parse_plan(text, layers)
    assert said in str(refused.value)


@given(st.lists(st.integers(0, 9999).map(lambda value: value / 100), min_size=5, max_size=8))
def test_a_plan_is_read_as_it_is_shown(values):
    values = tuple(values)
    assert plans.parse_plan(plans.plan_text(values), len(values)) == values


def test_several_plans_in_one_text():
    assert plans.split_plans("edgel3  53.49;0,1,2,3,4,5,6,7") == (
        "edgel3", "53.49", "0,1,2,3,4,5,6,7")
