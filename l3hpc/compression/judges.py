"""How close a compressed network's embeddings are to the teacher's, also layer by layer.

``scan`` is the sensitivity analysis: prune one convolution at a time and see what is lost. EdgeL3
(Kumari et al. 2019) did this at 70, 80, 85, 90 and 95 % with audio-visual correspondence as the
measure. Any function from a network to numbers will do here.

Audio-visual correspondence for compressed networks: as a judge, and as what they learn again.

EdgeL3's fine-tuning ("ft") trains the pruned audio branch inside the correspondence network while
the vision branch is frozen. Frozen, a picture always gives the same vector; so every picture is
seen once, and training reads vectors. The loss is that of the whole network except for the frozen
branch's weight penalty, which is a constant.

Importing this module imports neither TensorFlow nor Keras; ``look`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from l3hpc.arrays.rows import RowFile
from l3hpc.audio.frontends import Frontend
from l3hpc.avc.pairs import AvcData, Batches
from l3hpc.compression.pruning import check_percent, layer_names, plan_for_layer, prune
from l3hpc.compression.sizes import per_layer
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.models import engines
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters, random_layers
from l3hpc.models.spec import NetworkSpec, activation_bytes

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork

SPARSITIES = (70.0, 80.0, 85.0, 90.0, 95.0)
Judge = Callable[[Parameters], dict[str, Any]]
CHUNK = 32  # pictures of 224 x 224 that are seen at once
HEAD_SEED = 2000  # fresh heads are drawn as the correspondence network draws its own
Layers = tuple[tuple[np.ndarray, ...], ...]


class Fidelity:
    """Compares networks with one teacher on one set of windows (n, rate), in [-1, 1].

    engine: see ``l3hpc.models.engines``. Raises ``InputError`` without windows.
    """

    def __init__(self, teacher: Parameters, frames: np.ndarray, *, threads: int | None = None,
                 engine: str = "auto") -> None:
        if not len(frames):
            raise InputError("no windows of audio to compare embeddings on")
        self.frames, self.threads, self.engine = frames, threads, engine
        self.teacher = self.embed(teacher)

    def embed(self, parameters: Parameters) -> np.ndarray:
        """Embeddings (n, dim) of the windows."""
        engine = engines.choose(parameters.folded(), self.threads, self.engine)
        return Embedder(parameters, "", threads=self.threads, engine=engine).embed(self.frames)

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """``distance`` of a network; ``InputError`` where it gives another number of values."""
        if parameters.spec.dim != self.teacher.shape[1]:
            raise InputError(f"{parameters.spec.dim} values cannot be compared with the teacher's "
                             f"{self.teacher.shape[1]}")
        return distance(self.embed(parameters), self.teacher)


def distance(found: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """Mean squared and absolute error over all values of (n, dim), and the mean cosine.

    Computed in float64. A window whose embedding is all zeros, on either side, has cosine 0, both
    of them 1.
    """
    mine, theirs = found.astype(np.float64), wanted.astype(np.float64)
    difference = mine - theirs
    product = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    both = ~mine.any(axis=1) & ~theirs.any(axis=1)
    cosine = np.where(product > 0, (mine * theirs).sum(axis=1) / np.where(product > 0, product, 1),
                      both.astype(float))
    return {"mse": float((difference ** 2).mean()), "mae": float(np.abs(difference).mean()),
            "cosine": float(cosine.mean()), "windows": len(mine)}


@dataclass(frozen=True)
class Point:
    """One network of the scan: convolution ``layer`` (from 0) pruned by ``sparsity`` percent."""

    layer: int
    sparsity: float


def points(layers: int, sparsities: Sequence[float] = SPARSITIES) -> list[Point]:
    """All points, layer by layer. ``InputError`` for a sparsity outside 0 ≤ q < 100."""
    for value in sparsities:
        check_percent(value, "sparsities")
    return [Point(layer, value) for layer in range(layers) for value in sparsities]


def scan_layers(parameters: Parameters, where: Iterable[Point],
                judge: Judge) -> Iterable[dict[str, Any]]:
    """For each point its layer, sparsity, counts of the layer, and what the judge says."""
    names = layer_names(len(parameters.spec.filters))
    for point in where:
        pruned = prune(parameters, plan_for_layer(len(names), point.layer, point.sparsity))
        yield {"layer": point.layer + 1, "name": names[point.layer], "sparsity": point.sparsity,
               **per_layer(pruned)[point.layer], **judge(pruned)}


@dataclass(frozen=True)
class Head:
    """The fusion head: Dense ReLU, Dense 2, on vision ++ audio (the published order)."""

    layers: Layers

    @property
    def joint(self) -> int:
        """Values that it takes."""
        return int(self.layers[0][0].shape[0])

    def logits(self, vision: np.ndarray, audio: np.ndarray) -> np.ndarray:
        """(n, 2) before the softmax: not matching, matching."""
        (kernel, bias), (last, offset) = self.layers
        hidden = np.maximum(np.concatenate([vision, audio], axis=1) @ kernel + bias, 0)
        return np.asarray(hidden @ last + offset)

    def accuracy(self, vision: np.ndarray, audio: np.ndarray, labels: np.ndarray) -> float:
        """Share of pairs judged as ``labels`` (n, 2) say; 0.5 is chance."""
        found = self.logits(vision, audio).argmax(axis=1)
        return float((found == labels.argmax(axis=1)).mean())


def head_for(network: AvcNetwork, audio: Parameters, seed: int) -> tuple[Head, bool]:
    """The head to go on from, and whether it is fresh: it is where the audio branch now gives
    another number of values."""
    from l3hpc.avc.network import head_layers

    own = Head(network.head)
    joint = network.vision_spec.dim + audio.spec.dim
    if own.joint == joint:
        return own, False
    hidden = own.layers[0][0].shape[1]
    return Head(random_layers(head_layers(joint, hidden), seed, HEAD_SEED)), True


def dressed(network: Parameters, branch: Parameters) -> Parameters:
    """The network as it stands inside a correspondence network with the audio branch ``branch``.

    An embedding is taken right behind the last convolution, correspondence behind its normalisation
    and ReLU: they are the branch's own, or fresh where the network was cut in width or depth. A
    network that ends like the branch is returned as it is. Raises ``InputError`` for another front
    end, or a head that the branch has not.
    """
    spec, other = network.spec, branch.spec
    if spec.frontend != other.frontend:
        raise InputError(
            f"the network hears {spec.rate} Hz, {spec.n_mels} mels, the audio branch {other.rate} "
            f"Hz, {other.n_mels} mels", allowed="the teacher and its own correspondence network")
    if spec.tail == other.tail:
        if spec.head != other.head:
            raise InputError(f"the network ends in {spec.head}, the audio branch in {other.head}")
        return network
    if spec.tail == "student":
        raise InputError("the network ends in a normalisation, the audio branch has none")
    whole = replace(spec, tail="student", head=other.head, emb_dim=spec.filters[-1])
    last = branch.layers[-1] if spec.filters == other.filters else tuple(
        np.full(spec.filters[-1], value, np.float32) for value in (1, 0, 0, 1))
    return Parameters(whole, (*network.layers, last))


def undressed(network: Parameters, spec: NetworkSpec) -> Parameters:
    """The inverse of ``dressed``: the network of ``spec`` inside the dressed one."""
    return Parameters(spec, network.layers[:len(spec.layers())])


@dataclass(frozen=True)
class Seen:
    """Pairs with their pictures already seen: the ``Data`` of ``l3hpc.models.training``.

    spectra (rows, bands, times) and vision (rows, dim) on disk; labels (rows, 2) float32.
    """

    spectra: RowFile
    vision: RowFile
    labels: np.ndarray

    def batch(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """((spectra (n, bands, times, 1), vision vectors (n, dim)), labels (n, 2)), float32."""
        return ((self.spectra[rows][..., np.newaxis], self.vision[rows]), self.labels[rows])


def look(network: AvcNetwork, batches: Batches, rows: np.ndarray, frontend: Frontend, folder: Path,
         *, settings: str = "", progress: Progress | None = None) -> Seen:
    """Show the pictures of some rows to the frozen vision branch, once; spectra of their sound.

    The files in ``folder`` are completed where an earlier attempt with the same ``settings`` (a
    digest of the network) left off. Raises ``InputError`` where the pictures have another size than
    the network takes.
    """
    if batches.size != network.vision_spec.size:
        raise InputError(f"pictures of {batches.size} pixels", where=str(batches.files[0]),
                         allowed=f"{network.vision_spec.size}, as the vision network takes them")
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    mark = digest([settings, asdict(frontend), [_stamp(path) for path in batches.files],
                   rows.tolist()])
    state = folder / "seen.json"
    told = read_json(state) if state.is_file() else {}
    done = int(told["rows"]) if told.get("mark") == mark else 0
    mode: Literal["r+", "w+"] = "r+" if done else "w+"
    spectra = RowFile(folder / "spectra.bin", "float32", (len(rows), *frontend.shape), mode)
    vision = RowFile(folder / "vision.bin", "float32", (len(rows), network.vision_spec.dim), mode)
    data = AvcData(batches, frontend)
    progress.start("seeing pictures", total=len(rows), unit="pairs")
    progress.advance(done)
    for start in range(done, len(rows), CHUNK):
        (sound, pictures), _ = data.batch(rows[start:start + CHUNK])
        stop = start + len(sound)
        spectra[start:stop] = sound[..., 0]
        vision[start:stop] = np.asarray(network.vision(pictures, training=False))
        if stop == len(rows) or (start // CHUNK) % 16 == 15:
            spectra.flush()
            vision.flush()
            write_json(state, {"mark": mark, "rows": stop})
        progress.advance(stop - start)
    labels = np.eye(2, dtype=np.float32)[batches.labels()[rows]]
    return Seen(spectra, vision, labels)


@dataclass
class Correspondence:
    """Judges audio networks in the place of ``branch``, with its head, on ``seen`` pairs."""

    seen: Seen
    head: Head
    branch: Parameters
    threads: int | None = None
    engine: str = "auto"

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """``accuracy`` (0 to 1) and the number of ``pairs``."""
        audio = embed_spectra(dressed(parameters, self.branch), self.seen.spectra, self.threads,
                              self.engine)
        vision = self.seen.vision[0:len(audio)]
        return {"accuracy": self.head.accuracy(vision, audio, self.seen.labels),
                "pairs": len(audio)}


def embed_spectra(parameters: Parameters, spectra: RowFile, threads: int | None = None,
                  engine: str = "auto") -> np.ndarray:
    """Embeddings (n, dim) of spectra (n, bands, times)."""
    made = engines.choose(parameters.folded(), threads, engine)
    size = made.batch_size(activation_bytes(parameters.spec))
    return np.concatenate([made.run(spectra[start:min(start + size, len(spectra))])
                           for start in range(0, len(spectra), size)])


def spread_rows(batches: Batches, count: int | None) -> np.ndarray:
    """At most ``count`` row numbers, evenly through all (None: all)."""
    wanted = min(count or batches.rows, batches.rows)
    return np.unique(np.rint(np.linspace(0, batches.rows - 1, wanted)).astype(np.int64))


def _stamp(path: Path) -> Sequence[Any]:
    status = Path(path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
