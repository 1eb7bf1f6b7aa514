"""The teacher's convolutions in ncnn, one by one and in other ways: what is left to gain.

Float32, one thread, one frame, as in each thread of the engine ncnn, with random weights and
inputs. The ways take turns. Winograd's F(m,3) computes m × m outputs of a 3 × 3 filter at once: the
larger, the fewer multiplications, the more transforms and rounding. Strips of 8 rows fit into a
core's cache; several frames in one map share each read of the weights. The whole network is also
run by TensorFlow, ONNX Runtime and OpenVINO, and by PyTorch where it is installed. Run it by hand
on a new processor.
"""

from __future__ import annotations

import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.machine import gemm_rate
from benchmarks.measure import alone, worker
from benchmarks.tables import Table, run

if TYPE_CHECKING:
    from l3hpc.models.parameters import FoldedNetwork

# ncnn's own choice is among them; F(2,3) is exact enough to hold the others against.
SIZES = {"": (), "F(2,3)": ("43", "63"), "F(4,3)": ("23", "63"), "F(6,3)": ("23", "43")}
STRIP_ROWS = 8
FRAMES = (2, 4)
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # instructions; without them oneDNN computes in float32
DIRECT = 9 * 2  # operations per input, output and place


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure the convolutions in a process with one thread, and the network in another."""
    found = alone(worker("teacher_parts", "convolutions", 1 if quick else 15), ONE_CORE).values
    rate, rows = found["gemm"], []
    for one in found["layers"]:
        own = one["ms"][""]
        rows.append((one["name"], one["maps"], f"{one['gflop']:.2f}", f"{own:.1f}",
                     f"{one['gflop'] / own * 1e3 / rate:.2f}",
                     *(f"{one['ms'][way] / own:.2f} ({one['errors'][way]:.0e})"
                       for way in ("F(4,3)", "F(6,3)")),
                     *(f"{one['ms'][way] / own:.2f}"
                       for way in ("strips", *(f"{count} frames" for count in FRAMES)))))
    total = sum(one["ms"][""] for one in found["layers"])
    best = sum(min(one["ms"].values()) for one in found["layers"])
    gflop = sum(one["gflop"] for one in found["layers"])
    return [Table(
        "The teacher's convolutions 2 to 8 in ncnn, one thread",
        ("convolution", "channels, bands × times", "GFLOP, done directly", "ms a frame",
         "of the matrix rate, direct", "time with F(4,3) (error)", "with F(6,3) (error)",
         f"in strips of {STRIP_ROWS} rows", *(f"{count} frames at once" for count in FRAMES)), rows,
        (f"Time: as a share of that of ncnn's own choice, for a frame; medians. All: {total:.0f} "
         f"ms, with the fastest way for each {best:.0f} ms, without what it takes to cut and join "
         "maps.",
         f"One core's measured matrix rate is {rate:.0f} GFLOP/s: direct convolution would take "
         f"{gflop / rate * 1e3:.0f} ms, and F(4,3), with a quarter of the multiplications and no "
         f"time for transforms, {gflop / rate * 250:.0f} ms.",
         "Error: the largest difference from F(2,3), over the largest value. A strip has the zeros "
         "that a convolution adds at both ends, in place of its neighbours' rows: only the time "
         "counts. The engine computes convolutions 1 and 2 in strips already.")), _libraries(quick)]


def _libraries(quick: bool) -> Table:
    """The whole network in every library."""
    runs, frames = (1, 2) if quick else (7, 16)
    found = alone(worker("teacher_parts", "libraries", runs, frames)).values
    fastest = found["frames_per_s"]["ncnn"]
    return Table(
        "The teacher's network in float32, by library",
        ("library", "frames/s", "times ncnn", "error"),
        [(name, f"{rate:.1f}", f"{rate / fastest:.2f}",
          "" if name == "ncnn" else f"{found['errors'][name]:.0e}")
         for name, rate in found["frames_per_s"].items()],
        (f"From {frames} spectrograms a core to embeddings, with random weights; medians of {runs} "
         "runs, in turn. ONNX Runtime and OpenVINO compute one frame in each thread.",
         "Error: the largest difference from ncnn, over the largest value."))


def libraries(runs: int, per_core: int) -> dict[str, Any]:
    """Frames a second of the whole network in every library, and differences from ncnn."""
    from l3hpc.arrays.threads import allocated_cores
    from l3hpc.models.engines import make_engine, read_cpuinfo
    from l3hpc.models.parameters import untrained
    from l3hpc.models.spec import openl3_spec

    network = untrained(openl3_spec("mel256", 512), 0).folded()
    network = replace(network, scale=1.0, shift=0.0)  # which the other libraries do not get
    model, threads = _onnx_model(network), allocated_cores()
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ncnn": make_engine("ncnn", network, threads).run,
        "TensorFlow": make_engine("tensorflow", network, threads).run,
        "ONNX Runtime": _onnx_runtime(model, threads), "OpenVINO": _openvino(model, threads)}
    if find_spec("torch"):
        ways["PyTorch"] = lambda x: _torch(network, x, 1)
        if BFLOAT16 & set(read_cpuinfo("flags").split()):
            ways["PyTorch, bfloat16 in three terms"] = lambda x: _torch(network, x, 3)
    frames = per_core * threads
    x = np.random.default_rng(0).standard_normal((frames, *network.spec.maps[0])).astype("f4")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    outs: dict[str, np.ndarray] = {}
    for _ in range(runs + 1):  # the first is not counted
        for name, compute in ways.items():
            start = time.perf_counter()
            outs[name] = compute(x)
            taken[name].append(time.perf_counter() - start)
    for name, out in outs.items():  # published embeddings are flattened as (band, time, channel)
        outs[name] = out.transpose(0, 2, 3, 1).reshape(frames, -1) if out.ndim == 4 else out
    exact = outs["ncnn"]
    return {"frames_per_s": {name: frames / statistics.median(spent[1:])
                             for name, spent in taken.items()},
            "errors": {name: float(np.abs(out - exact).max() / np.abs(exact).max())
                       for name, out in outs.items()}}


def _onnx_runtime(model: bytes, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """ONNX Runtime, one spectrogram a thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pool = ThreadPoolExecutor(threads)
    return lambda x: np.concatenate(list(pool.map(
        lambda one: session.run(None, {"x": one[None, None]})[0], x)))


def _openvino(model: bytes, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """OpenVINO, one spectrogram a thread."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads})
    # Two threads that ask for their first array at the same moment wait for each other for ever.
    requests = [compiled.create_infer_request() for _ in range(threads)]
    arrays = [request.get_output_tensor().data for request in requests]

    def some(first: int, x: np.ndarray) -> list[np.ndarray]:
        """Every spectrogram of one thread."""
        found = []
        for spectrogram in x[first::threads]:
            requests[first].infer([spectrogram[None, None]])
            found.append(arrays[first].copy())
        return found

    pool = ThreadPoolExecutor(threads)

    def compute(x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), *arrays[0].shape[1:]), np.float32)
        for first, found in enumerate(pool.map(some, range(threads), [x] * threads)):
            out[first::threads] = np.concatenate(found)
        return out

    return compute


def _torch(network: FoldedNetwork, x: np.ndarray, terms: int) -> np.ndarray:
    """PyTorch, four spectrograms at once, in float32 or in products of bfloat16.

    A number is nearly the sum of two in bfloat16, so a product is nearly the sum of three, with
    float32 sums: one part in 100,000 is lost. oneDNN rounds the factors itself, which costs nothing
    for those that are rounded already.
    """
    import torch
    from torch.nn import functional

    def halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        high = values.bfloat16().float()
        return high, (values - high).bfloat16().float()

    def convolve(y: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if terms == 1:
            return functional.conv2d(y, kernel, bias, padding=1)
        (y_high, y_low), (high, low) = halves(y), halves(kernel)
        return (functional.conv2d(y_high, high, bias, padding=1)
                + functional.conv2d(y_high, low, padding=1)
                + functional.conv2d(y_low, high, padding=1))

    last, out = torch.channels_last, []
    torch.backends.mkldnn.conv.fp32_precision = "ieee" if terms == 1 else "bf16"
    with torch.inference_mode():
        layers = [(torch.tensor(layer.kernel.transpose(3, 2, 0, 1).copy()).to(memory_format=last),
                   torch.tensor(layer.bias)) for layer in network.convolutions]
        for start in range(0, len(x), 4):
            y = torch.tensor(x[start:start + 4, None]).to(memory_format=last)
            for index, layer in enumerate(layers):
                y = convolve(y, *layer)
                if network.convolutions[index].relu:
                    y = y.relu_()
                if index in network.spec.halvings:
                    y = functional.max_pool2d(y, 2)
            out.append(functional.max_pool2d(y, network.spec.pool).numpy())
    return np.concatenate(out)


def _onnx_model(network: FoldedNetwork) -> bytes:
    """The network as an ONNX file, for one spectrogram; maps have their channels first."""
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    weights = []

    def add(kind: str, inputs: Sequence[str] = (), **attributes: Any) -> None:
        last = nodes[-1].output[0] if nodes else "x"
        nodes.append(helper.make_node(kind, [last, *inputs], [f"y{len(nodes)}"], **attributes))

    for index, layer in enumerate(network.convolutions):
        names = (f"kernel{index}", f"bias{index}")
        weights += [numpy_helper.from_array(layer.kernel.transpose(3, 2, 0, 1).copy(), names[0]),
                    numpy_helper.from_array(layer.bias, names[1])]
        add("Conv", names, pads=[1, 1, 1, 1])
        if layer.relu:
            add("Relu")
        if index in network.spec.halvings:
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    add("MaxPool", kernel_shape=network.spec.pool, strides=network.spec.pool)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in
            (("x", (1, 1, *network.spec.maps[0])), (nodes[-1].output[0], None))]
    model = helper.make_model(helper.make_graph(nodes, "teacher", ends[:1], ends[1:], weights),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def convolutions(runs: int) -> dict[str, Any]:
    """Times of every convolution in every way."""
    from l3hpc.models.spec import openl3_spec

    spec = openl3_spec("mel256", 512)
    maps, layers = iter(spec.maps), []
    bands, times = next(maps)
    for index, (inputs, outputs) in enumerate(
            zip(spec.filters, spec.filters[1:], strict=False), 1):
        if index - 1 in spec.halvings:
            bands, times = next(maps)
        layers.append({"name": str(index + 1),
                       "maps": f"{inputs} → {outputs}, {bands} × {times}",
                       "gflop": DIRECT * inputs * outputs * bands * times / 1e9,
                       **_layer(inputs, outputs, bands, times, runs)})
        print(layers[-1], file=sys.stderr, flush=True)
    return {"gemm": gemm_rate(), "layers": layers}


def _layer(inputs: int, outputs: int, bands: int, times: int, runs: int) -> dict[str, Any]:
    """Milliseconds a frame of each way, and the errors of Winograd's sizes."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)).astype("f4")
    heights = dict.fromkeys(SIZES, bands) | {"strips": STRIP_ROWS} | {
        f"{count} frames": count * (bands + 1) - 1 for count in FRAMES}  # a row of zeros between
    frames = {f"{count} frames": count for count in FRAMES}
    nets = {way: _net(weights, SIZES.get(way, ()), heights[way], times) for way in heights}
    x = {height: rng.standard_normal((inputs, height, times)).astype("f4").clip(0)
         for height in set(heights.values())}
    taken: dict[str, list[float]] = {way: [] for way in heights}
    outs: dict[str, np.ndarray] = {}
    for _ in range(runs + 1):  # the first is not counted
        for way, net in nets.items():
            # All strips of a frame, one after the other, so that the weights are in a cache.
            calls = bands // STRIP_ROWS if way == "strips" else 1
            found = [net(x[heights[way]]) for _ in range(calls)]
            outs[way] = found[0][1]
            taken[way].append(1e3 * sum(seconds for seconds, _ in found) / frames.get(way, 1))
    exact = outs["F(2,3)"]
    return {"ms": {way: statistics.median(spent[1:]) for way, spent in taken.items()},
            "errors": {way: float(np.abs(outs[way] - exact).max() / np.abs(exact).max())
                       for way in SIZES}}


def _net(weights: np.ndarray, without: tuple[str, ...], bands: int, times: int) -> Any:
    """A convolution with ReLU as a function: input to seconds and output."""
    import ncnn

    from l3hpc.models.ncnn_engine import MAGIC, REDUCED_PRECISION_OPTIONS

    outputs, inputs = weights.shape[:2]
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in (*REDUCED_PRECISION_OPTIONS, "use_vulkan_compute",
                   *(f"use_winograd{size}_convolution" for size in without)):
        setattr(net.opt, option, False)
    # ncnn needs the sizes of the maps (-23330) to take the one that is left.
    shapes = {name: f" -23330=4,3,{times},{bands},{channels}"
              for name, channels in (("x", inputs), ("y", outputs))} if without else {}
    text = (f"{MAGIC}\n2 2\nInput x 0 1 x{shapes.get('x', '')}\n"
            f"Convolution y 1 1 x y 0={outputs} 1=3 4=1 5=1 6={weights.size} 9=1"
            f"{shapes.get('y', '')}\n")
    with tempfile.NamedTemporaryFile() as file:
        file.write(struct.pack("<I", 0) + weights.tobytes() + bytes(4 * outputs))
        file.flush()
        if net.load_param_mem(text) != 0 or net.load_model(file.name) != 0:
            raise RuntimeError("ncnn cannot load the convolution")
    maps, workspace = ncnn.PoolAllocator(), ncnn.PoolAllocator()

    def compute(x: np.ndarray) -> tuple[float, np.ndarray]:
        packed = ncnn.Mat()
        ncnn.convert_packing(ncnn.Mat(x), packed, 8)  # as the layer before leaves it
        extractor = net.create_extractor()
        extractor.set_blob_allocator(maps)
        extractor.set_workspace_allocator(workspace)
        extractor.input("x", packed)
        start = time.perf_counter()
        status, out = extractor.extract("y", 1)
        seconds = time.perf_counter() - start
        if status != 0:
            raise RuntimeError(f"ncnn failed with status {status}")
        flat = ncnn.Mat()
        ncnn.convert_packing(out, flat, 1)
        return seconds, np.array(flat)

    return compute


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        job = {"convolutions": convolutions, "libraries": libraries}[sys.argv[2]]
        print(json.dumps(job(*map(int, sys.argv[3:]))))
    else:
        run("teacher_parts", __doc__, tables)
