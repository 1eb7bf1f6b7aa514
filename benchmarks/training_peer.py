"""The PyTorch side of ``benchmarks.training``; needs torch and numpy only.

    python -m benchmarks.training_peer worker FOLDER eager|compiled float32|bfloat16

The same network, first weights, batches, loss (mean squared error and L2 penalty of the kernels)
and Adam as Keras's, channels-last, on as many threads as there are cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

EPSILON, MOMENTUM, DECAY = 1e-3, 0.01, 1e-5


class Student(nn.Module):
    """Spectra (n, 1, bands, times) to embeddings (n, dim), with the weights of a Keras file."""

    def __init__(self, filters: list[int], arrays: list[np.ndarray]) -> None:
        super().__init__()
        waiting = iter(torch.from_numpy(array) for array in arrays)

        def norm(count: int) -> nn.BatchNorm2d:
            layer = nn.BatchNorm2d(count, eps=EPSILON, momentum=MOMENTUM)
            with torch.no_grad():
                for target in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    target.copy_(next(waiting))
            return layer

        def conv(before: int, count: int) -> nn.Conv2d:
            layer = nn.Conv2d(before, count, 3, padding=1)
            with torch.no_grad():
                layer.weight.copy_(next(waiting).permute(3, 2, 0, 1))
                layer.bias.copy_(next(waiting))
            return layer

        self.first = norm(1)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for before, count in zip([1, *filters], filters):  # noqa: B905
            self.convs.append(conv(before, count))
            self.norms.append(norm(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if index < 7:
                x = torch.relu(x)
            if index in (1, 3, 5):
                x = nn.functional.max_pool2d(x, 2)
        return torch.amax(x, dim=(2, 3))


def train(folder: Path, way: str, precision: str) -> dict[str, object]:
    """Seconds per step (median of all epochs but the first) and the epochs' mean losses."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    setting = json.loads((folder / "setting.json").read_text())
    x = np.fromfile(folder / "spectra.bin", np.float32).reshape(-1, 1, *setting["shape"])
    y = np.fromfile(folder / "targets.bin", np.float32).reshape(len(x), -1)
    with np.load(folder / "weights.npz") as file:
        arrays = [file[name] for name in file.files]
    model = Student(setting["filters"], arrays).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=setting["learning_rate"], eps=1e-7)
    half = precision == "bfloat16"

    def errors(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = model(x)
        penalty = sum(torch.square(conv.weight).sum() for conv in model.convs)
        return torch.mean(torch.square(found.float() - y)) + DECAY * penalty

    loss_of = torch.compile(errors) if way == "compiled" else errors
    losses, seconds = [], []
    for epoch in np.load(folder / "order.npy"):
        ready = [(torch.from_numpy(x[rows]).contiguous(memory_format=torch.channels_last),
                  torch.from_numpy(y[rows])) for rows in epoch]
        found = []
        start = time.perf_counter()
        for batch in ready:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        losses.append(float(np.mean([float(loss) for loss in found])))
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds[1:])) / setting["batches"], "losses": losses}


if __name__ == "__main__":
    place, *words = sys.argv[2:]  # after the word worker
    print(json.dumps(train(Path(place), *words)))
