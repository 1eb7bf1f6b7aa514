"""Teacher and student on a GPU: rates of the engine torch, of the input side, and of training.

For any machine with PyTorch, NumPy, SciPy, h5py, soundfile and soxr, and this checkout; l3hpc need
not be installed. Run it by hand (it takes about five minutes) and keep what it writes:

    python -m benchmarks.gpu --json benchmarks/results/gpu.json

Without a GPU it runs on the CPU with tiny sizes, which shows that it works and measures nothing.
Times on the device are medians between events; those from files to embeddings are by the clock. The
GPU's share of waiting is 1 - (time between the events around each batch) / (time by the clock).
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.cost import BATCH, BATCHES, EPOCHS, VALIDATION_BATCHES, WINDOWS, flops, step_flops
from benchmarks.gpu_device import (
    DEVICE,
    GPU,
    PRECISIONS,
    about_device,
    captured,
    limits_of_the_device,
    lively,
    seconds,
    without_figures,
)
from benchmarks.tables import Claim, Table, figure, run
from l3hpc.datasets.extraction import READERS
from l3hpc.models.embedder import Embedder
from l3hpc.models.spec import NetworkSpec, activation_bytes, openl3_spec, student_spec
from l3hpc.models.torch_engine import TorchEngine
from l3hpc.models.torch_network import HALVINGS, TorchFrontend, TorchNetwork
from l3hpc.models.training.torch_engine import TorchTrainingEngine

if GPU:
    from benchmarks import gpu_kernels
HOP = 0.5
FILE_S = 10
DISTINCT = 64  # files with sounds of their own; the others are links to these
WAITING = 0.1  # the largest share of the time for which a GPU may wait
HOURS = 2.0


def tables(quick: bool, work: Path) -> list[Table]:
    """All tables, each printed as soon as it is there."""
    small = quick or not GPU
    found: list[Table] = []
    limits: dict[str, float] = {}
    figures: tuple[tuple[Callable[[], Table], Collection[int]], ...] = (  # in which columns
        (lambda: limits_of_the_device(small, limits), (1,)),
        (lambda: network_rates(small, limits), range(3, 10)),
        (lambda: agreement(small), ()),
        (lambda: parts_of_the_network(small), (3,)),
        (lambda: files_to_embeddings(small, work), range(2, 6)),
        (lambda: training(small), range(2, 5)),
        (lambda: cost(found), (1, 2)))
    for make, columns in figures:
        start = time.perf_counter()
        table = make()
        found.append(table if GPU else without_figures(table, columns))
        print(f"\n{found[-1].markdown()}\n({time.perf_counter() - start:.0f} s)", flush=True)
    return found if GPU else [replace(table, figures={}) for table in found]


# the network ----------------------------------------------------------------------------------


def network_rates(small: bool, limits: dict[str, float]) -> Table:
    """Frames per second of the teacher, and of a student, with everything on the device."""
    rows, figures, claims = [], {}, []
    specs = {"teacher": openl3_spec(), "student": student_spec()}
    for (name, spec), precision in itertools.product(specs.items(), PRECISIONS):
        engine = TorchEngine(lively(spec).folded(), precision=precision)
        device = engine._devices[0]
        size = 2 if small else engine.batch_size(activation_bytes(spec))
        audio = 0.1 * torch.randn(size, spec.rate, device=DEVICE)
        with device.active():
            spectra = device.frontend(audio)
            alone = size / seconds(lambda d=device, x=spectra: d.network(x))
            front = size / seconds(lambda d=device, x=audio: d.frontend(x))
            both = size / seconds(lambda d=device, x=audio: d.network(d.frontend(x)))
            graph = size / seconds(captured(lambda d=device, x=audio: d.network(d.frontend(x)))) \
                if GPU else both
        share = both * flops(spec) / 1e12 / limits[precision]
        rows.append((name, precision, str(size), f"{alone:,.0f}", f"{front:,.0f}", f"{both:,.0f}",
                     f"{graph:,.0f}", figure(alone * flops(spec) / 1e12),
                     f"{alone * flops(spec) / 1e12 / limits[precision]:.2f}", f"{share:.2f}"))
        figures[f"gpu {name} {precision} per_s"] = both
        if name == "teacher" and precision == "bfloat16":
            claims.append(Claim("teacher in bfloat16, network", "the measured matrix rate",
                                alone * flops(spec) / 1e12 / limits[precision], 0.5,
                                limit=f"{figure(limits[precision])} TFLOP/s"))
    return Table(
        "The engine torch, sound on the device to embeddings on the device",
        ("network", "precision", "batch", "network alone, frames/s", "front end alone",
         "both", "both, in a CUDA graph", "TFLOP/s of the network", "of the matrix rate",
         "with the front end"), rows,
        [f"Teacher: {flops(specs['teacher']) / 1e9:.1f} GFLOP a frame (L3, mel256); student: "
         f"{flops(specs['student']) / 1e9:.2f} (Student 2). Random weights, noise."],
        claims, figures)


# parts of the network --------------------------------------------------------------------------


def parts_of_the_network(small: bool) -> Table:
    """Where the teacher's time goes, and other ways to compute the parts that memory limits."""
    rows: list[tuple[str, ...]] = []
    spec = openl3_spec()
    size = 1 if small else 192

    def time_of(part: str, precision: str, way: str, work: Callable[[], Any], wanted: Any) -> None:
        try:
            found = work()
        except Exception as error:  # another way may not exist here; the table says why
            words = str(error).strip().splitlines() or [""]
            rows.append((part, precision, way, f"{type(error).__name__}: {words[0]:.60}", "–"))
            return
        off = float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())
        rows.append((part, precision, way, f"{seconds(work) / size * 1e6:.2f}", f"{off:.0e}"))

    for precision in PRECISIONS:
        engine = TorchEngine(lively(spec).folded(), precision=precision)
        device = engine._devices[0]
        network = device.network
        with device.active():
            x = 0.1 * torch.randn(size, *spec.frontend.shape, device=DEVICE)
            typed = x.to(network._type)
            wanted = network.layer(typed[:, None], 0, None)
            ways = {"cuDNN": lambda t=typed, n=network: n.layer(t[:, None], 0, None),
                    "matrix product": lambda t=typed, n=network: n.first_by_product(t)}
            if GPU:
                ways["Triton"] = lambda x=x, n=network: gpu_kernels.first_convolution(
                    x, n._weights[0].float().reshape(-1, 9).t().contiguous(), n._biases[0].float(),
                    1.0, 0.0, True, n._type)
            for way, work in ways.items():
                time_of("convolution 1", precision, way, work, wanted)
            x = wanted
            for index in range(1, len(spec.filters)):
                weight, bias = network._weights[index], network._biases[index]
                alone = functional.conv2d(x, weight, padding=1)
                name = f"convolution {index + 1}"
                time_of(name, precision, "cuDNN",
                        lambda x=x, w=weight: functional.conv2d(x, w, padding=1), alone)
                if precision == "float32" and weight.shape[1] >= 256:
                    time_of(name, precision, "matrix product",
                            lambda x=x, w=weight: by_product(x, w), alone)
                if index in spec.halvings and GPU:
                    time_of(f"{name}, bias and ReLU", precision, "cuDNN, fused",
                            lambda x=x, w=weight, b=bias: torch.cudnn_convolution_relu(
                                x, w, b, (1, 1), (1, 1), (1, 1), 1),
                            after_pooling(alone.clone(), bias))
                if index == len(spec.filters) - 1:
                    time_of(f"pooling after it ({index + 1})", precision, "max_pool2d",
                            lambda a=alone: functional.max_pool2d(a, spec.pool),
                            alone.amax((2, 3), keepdim=True))
                if index in spec.halvings:
                    pooled = after_pooling(functional.max_pool2d(alone, 2), bias)
                    ways = {name: lambda a=alone, b=bias, h=halve: after_pooling(h(a), b)
                            for name, halve in HALVINGS.items()}
                    if GPU:
                        ways["Triton"] = lambda a=alone, b=bias: gpu_kernels.pool_2x2(
                            a, b.float(), True)
                    for way, work in ways.items():
                        time_of(f"pooling after it ({index + 1})", precision, way, work, pooled)
                pool = (2, 2) if index in spec.halvings else None
                x = network.layer(x, index, pool)
    return Table("Parts of the teacher, and other ways to compute them",
                 ("part", "precision", "way", "µs a frame", "largest difference"), rows,
                 [f"Batches of {size}. Pooling: with bias and ReLU, but the last one. The engine "
                  "takes the first way of each, but the product for convolution 1, and for pooling "
                  f"the fastest of {', '.join(HALVINGS)}. Where bias and ReLU were fused into a "
                  "convolution before a pooling, the pooling would have neither."])


def after_pooling(x: Any, bias: Any) -> Any:
    """Bias and ReLU, in place."""
    x += bias[:, None, None]
    return x.relu_()


def by_product(x: Any, weight: Any) -> Any:
    """A convolution 3x3 as one matrix product over copied patches."""
    count, _, bands, times = x.shape
    padded = functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    patches = padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
    products = patches.reshape(count * bands * times, -1) @ matrix
    return products.view(count, bands, times, -1).permute(0, 3, 1, 2)


# agreement ------------------------------------------------------------------------------------


def agreement(small: bool) -> Table:
    """Front end and embeddings on the device against float64 and float32 on the CPU."""
    spec = openl3_spec()
    rng = np.random.default_rng(1)
    frames = rng.normal(0, 0.1, (2 if small else 64, spec.rate)).astype(np.float32)
    wanted = spec.frontend(frames, threads=None)
    decibels = TorchFrontend(spec.frontend, DEVICE)(torch.from_numpy(frames).to(DEVICE))
    off = float(np.abs(decibels.cpu().numpy() - wanted).max())
    rows = [("front end", "largest difference from the CPU's", f"{off:.1e} dB")]
    some = frames[:16]
    reference = TorchNetwork(lively(spec).folded(), torch.device("cpu"), "float32")
    with torch.inference_mode():
        exact = reference(torch.from_numpy(wanted[:16])).numpy().astype(np.float64)
    for precision in PRECISIONS:
        network = Embedder(lively(spec), "", engine=TorchEngine(
            lively(spec).folded(), precision=precision))
        found = network.embed(some).astype(np.float64)
        error = float(np.abs(found - exact).max() / np.abs(exact).max())
        cosine = float(((found * exact).sum(1) / np.linalg.norm(found, axis=1)
                        / np.linalg.norm(exact, axis=1)).min())
        rows.append((f"teacher, {precision}", "largest error, over the largest value",
                     f"{error:.1e} (least cosine {cosine:.6f})"))
        if precision == "float32" and error > 1e-4:
            raise RuntimeError(f"float32 on this device is {error:.1e} off")
    if off > 1e-3:
        raise RuntimeError(f"the front end on this device is {off:.1e} dB off")
    return Table("Agreement with the CPU", ("what", "measure", "value"), rows,
                 [f"{len(frames)} and {len(some)} frames of noise; float32 on the CPU by PyTorch, "
                  "which the tests hold against TensorFlow."])


# end to end -----------------------------------------------------------------------------------


def files_to_embeddings(small: bool, work: Path) -> Table:
    """What the step extract does: FLAC files to an HDF5 file of embeddings."""
    cores = len(os.sched_getaffinity(0))
    rows, figures, claims = [], {}, []
    main = (48000, True)
    for rate, levels in (main, (48000, False), (44100, True)):
        folder = work / f"audio-{rate}"
        if not folder.is_dir():
            count, length = (2, 1) if small else (4608 if rate == 48000 else 1536, FILE_S)
            write_flac(folder, count, length, rate)
        what = f"{rate / 1000:g} kHz" + (", loudness measured" if levels else "")
        alone, _ = extract(folder, work, Nothing(), levels, cores)
        rows.append((what, "input side alone", f"{alone:,.0f}", "", "", ""))
        for precision in PRECISIONS if (rate, levels) == main else PRECISIONS[-1:]:
            engine = TorchEngine(lively(openl3_spec()).folded(), precision=precision)
            network = Embedder(lively(openl3_spec()), "", engine=engine)
            network.embed(np.zeros((4, 48000), np.float32))
            engine.busy_s = 0.0
            got, taken = extract(folder, work, network, levels, cores)
            waits = 1 - engine.busy_s / taken
            rows.append((what, precision, f"{got:,.0f}", f"{got / alone:.2f}",
                         f"{waits:.0%}" if GPU else "–", figure(WINDOWS / got / 3600, 2)))
            if (rate, levels) == main:
                figures[f"gpu extract {precision} per_s"] = got
                claims.append(Claim(f"FLAC to embeddings, {precision}: share of the time that the "
                                    "GPU waits", "", waits, WAITING, "", False,
                                    limit=f"input side alone {alone:,.0f} windows/s"))
    return Table(
        "Teacher: FLAC files to embeddings on disk, hop 0.5 s",
        ("files", "network", "windows/s", "of the input side", "GPU waits",
         "hours for 30 million windows"), rows,
        [f"{cores} cores, {min(cores, READERS)} readers; files of {FILE_S} s, one channel, 16 bit, "
         f"{DISTINCT} different ones and links to them, in the page cache: reading from a disk is "
         "not measured.",
         "All that the step does is counted: decoding, resampling, framing, A-weighted levels, "
         "network, and writing."], claims, figures)


class Nothing:
    """A network that takes no time."""

    rate, window_s, dim = 48000, 1.0, 512

    def embed(self, frames: Any, batch_size: Any = None, on_batch: Any = None) -> np.ndarray:
        """Zeros."""
        return np.zeros((len(frames), self.dim), np.float32)


def extract(folder: Path, work: Path, network: Any, levels: bool, cores: int
            ) -> tuple[float, float]:
    """Windows per second, and seconds."""
    from l3hpc.datasets.corpus import scan_recordings
    from l3hpc.datasets.extraction import GPU_BLOCK_BYTES, Extraction

    recordings = scan_recordings(folder)
    for old in (work / "scratch").glob("*"):
        old.unlink()
    start = time.perf_counter()
    result = Extraction(network, {}, folder, recordings, HOP, True, work / "scratch",
                        levels=levels, threads=cores,
                        block=GPU_BLOCK_BYTES // (4 * network.rate)
                        ).run(work / "embeddings.h5", work / "skipped.csv")
    taken = time.perf_counter() - start
    return result["rows"] / taken, taken


def write_flac(folder: Path, count: int, length: int, rate: int) -> None:
    """FLAC files of ``length`` seconds with something in every band, and never at full scale."""
    import soundfile

    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:05d}.flac"
        if number >= DISTINCT:
            os.link(folder / f"{number % DISTINCT:05d}.flac", path)
            continue
        rng = np.random.default_rng(number)
        noise = np.cumsum(rng.standard_normal(length * rate))
        noise -= noise.mean()
        noise *= 0.3 / np.abs(noise).max()
        noise += 0.02 * rng.standard_normal(len(noise))
        soundfile.write(path, np.clip(noise, -1, 1), rate, subtype="PCM_16")


# training -------------------------------------------------------------------------------------


class Student(torch.nn.Module):
    """Student 2 as a user of PyTorch would write it."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        before = [1, *spec.filters[:-1]]
        self.first = torch.nn.BatchNorm2d(1, eps=1e-3, momentum=0.01)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 3, padding=1)
            for a, b in zip(before, spec.filters, strict=True))
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(b, eps=1e-3, momentum=0.01)
                                         for b in spec.filters)

    def forward(self, x: Any) -> Any:
        """Spectrograms (n, 1, bands, times) to embeddings (n, dim)."""
        x = self.first(x)
        last = len(self.spec.filters) - 1
        for index in range(last + 1):
            x = self.norms[index](self.convolutions[index](x))
            if index < last:
                x = functional.relu(x)
            if index in self.spec.halvings:
                x = functional.max_pool2d(x, 2)
        return functional.max_pool2d(x, self.spec.pool).flatten(1).float()


def training(small: bool) -> Table:
    """A training step of the engine torch and of bare PyTorch, spectra in memory of the device."""
    spec = student_spec()
    batch, runs = (2, 3) if small else (BATCH, 20)
    rows, figures = [], {}
    for precision, compiled in itertools.product(PRECISIONS, (False, True)):
        if compiled and small:
            continue
        torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        torch.manual_seed(0)
        model = Student(spec).to(DEVICE, memory_format=torch.channels_last)
        adam = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
        forward = torch.compile(model) if compiled else model
        batches = itertools.cycle(
            [(10 * torch.randn(batch, 1, *spec.frontend.shape, device=DEVICE).contiguous(
                memory_format=torch.channels_last),
              torch.randn(batch, spec.dim, device=DEVICE)) for _ in range(4)])
        step = functools.partial(_step, forward, adam, model, batches, precision)
        try:
            taken = seconds(step, runs)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            if not compiled:
                raise
            words = f"failed: {str(error).splitlines()[0]:.60}"  # without a C compiler, say
            rows.append((precision, "bare, compiled", words, "", ""))
            continue
        rows.append(_training_row(precision, "bare, compiled" if compiled else "bare, eager",
                                  batch, taken))
        figures[f"gpu train {precision}{' compiled' * compiled} s"] = taken
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    for precision, deterministic in itertools.product(PRECISIONS, (True, False)):
        engine = TorchTrainingEngine(spec, seed=0, learning_rate=1e-4, precision=precision,
                                     deterministic=deterministic)
        rng = np.random.default_rng(0)
        on_device = itertools.cycle([engine.put((
            10 * rng.standard_normal((batch, *spec.frontend.shape, 1), np.float32),
            rng.standard_normal((batch, spec.dim), np.float32))) for _ in range(4)])
        taken = seconds(lambda e=engine, b=on_device: e.train(next(b), first=False), runs)
        how = "engine torch" + ", deterministic" * deterministic
        rows.append(_training_row(precision, how, batch, taken))
        figures[f"gpu train {precision} {how} s"] = taken
    return Table(
        "A training step of Student 2 in PyTorch",
        ("precision", "how", f"ms a step of {batch}", "TFLOP/s",
         f"hours for {EPOCHS} epochs of {BATCHES:,} batches"), rows,
        ["Fused Adam, squared error and an L2 penalty on the kernels; bfloat16 by autocast. The "
         "engine torch also sums the losses, keeps Keras's moving statistics, and copies its state "
         "before every step, so that a checkpoint can be written at any time.",
         "Hours: with validation, a third of a step for each of its batches."], figures=figures)


def _training_row(precision: str, how: str, batch: int, taken: float
                  ) -> tuple[str, str, str, str, str]:
    hours = EPOCHS * (BATCHES + VALIDATION_BATCHES / 3) * taken / 3600
    return (precision, how, f"{taken * 1e3:.2f}",
            figure(step_flops() * batch / BATCH / taken / 1e12), figure(hours, 2))


def _step(forward: Any, adam: Any, model: Student, batches: Iterator[Any], precision: str) -> None:
    x, y = next(batches)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
        found = forward(x)
    penalty = sum(layer.weight.square().sum() for layer in model.convolutions)
    loss = functional.mse_loss(found, y) + 1e-5 * penalty
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


# the published scale --------------------------------------------------------------------------


def cost(found: list[Table]) -> Table:
    """What 30 million windows take, from files and from the network alone."""
    known: dict[str, float] = {}
    for table in found:
        known |= table.figures
    rows, claims = [], []
    for precision in PRECISIONS:
        files = WINDOWS / known[f"gpu extract {precision} per_s"] / 3600
        network = WINDOWS / known[f"gpu teacher {precision} per_s"] / 3600
        rows.append((precision, figure(network, 2), figure(files, 2)))
        claims.append(Claim(f"{WINDOWS:,} windows, FLAC to embeddings, {precision}", "a target",
                            files, HOURS, "hours", False,
                            limit=f"{figure(network, 2)} hours of the GPU"))
    return Table(f"{WINDOWS:,} windows of the teacher on one GPU, hours",
                 ("precision", "front end and network alone", "FLAC files to embeddings on disk"),
                 rows, [about_device()], claims)


if __name__ == "__main__":
    if not GPU and any(word.startswith("--json") for word in sys.argv):
        sys.exit("no GPU here: a dry run measures nothing and writes no results. Leave out --json.")
    run("gpu", __doc__, tables)
