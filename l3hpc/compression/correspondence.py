"""Audio-visual correspondence of compressed networks: accuracy, and what fine-tuning learns from.

EdgeL3's fine-tuning ("ft") trains the pruned audio branch inside the correspondence network while
the vision branch is frozen. A frozen branch always maps an image to the same vector; so every
image is embedded once (``embed_images``), and training reads vectors. The loss is that of the
whole network except for the weight penalty of the frozen branch, which is a constant.

Importing this module imports neither TensorFlow nor Keras; ``embed_images`` does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.audio.frontends import Frontend
from l3hpc.avc.batches import AvcData, Batches
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.models import engines
from l3hpc.models.parameters import Parameters, random_layers
from l3hpc.models.spec import NetworkSpec, activation_bytes

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork

CHUNK = 32  # images of 224 x 224 pixels that are embedded at once
SAVE_EVERY = 16  # chunks
# The offset at which the correspondence network draws its own head: a new one gets the same values.
HEAD_SEED = 2000
Layers = tuple[tuple[np.ndarray, ...], ...]


@dataclass(frozen=True)
class Head:
    """The fusion head: Dense with ReLU, then Dense 2, on vision ++ audio (the published order).

    Attributes
    ----------
    layers
        Kernel and bias of each of the two layers.
    """

    layers: Layers

    @property
    def joint(self) -> int:
        """Length of the input: vision and audio embedding together."""
        return int(self.layers[0][0].shape[0])

    def logits(self, vision: np.ndarray, audio: np.ndarray) -> np.ndarray:
        """The head's output before the softmax.

        Parameters
        ----------
        vision
            (n, vision dim).
        audio
            (n, audio dim).

        Returns
        -------
        numpy.ndarray
            (n, 2): not matching, matching.
        """
        (kernel, bias), (last, offset) = self.layers
        hidden = np.maximum(np.concatenate([vision, audio], axis=1) @ kernel + bias, 0)
        return np.asarray(hidden @ last + offset)

    def accuracy(self, vision: np.ndarray, audio: np.ndarray, labels: np.ndarray) -> float:
        """Share of pairs that the head classifies correctly; 0.5 is chance.

        Parameters
        ----------
        vision
            (n, vision dim).
        audio
            (n, audio dim).
        labels
            (n, 2), one-hot.

        Returns
        -------
        float
            In [0, 1].
        """
        predicted = self.logits(vision, audio).argmax(axis=1)
        return float((predicted == labels.argmax(axis=1)).mean())


def fusion_head(network: AvcNetwork, audio: Parameters, seed: int) -> tuple[Head, bool]:
    """The head from which fine-tuning continues.

    Parameters
    ----------
    network
        The correspondence network.
    audio
        The audio branch to be trained.
    seed
        Of the weights of a new head.

    Returns
    -------
    head
        The network's own head, or a new one where the audio embedding has another length.
    is_new
        Whether the head is new.
    """
    from l3hpc.avc.vision import head_layers

    own = Head(network.head)
    joint = network.vision_spec.dim + audio.spec.dim
    if own.joint == joint:
        # The width of the branch is unchanged, so what the head has learnt still fits.
        return own, False
    hidden = own.layers[0][0].shape[1]
    return Head(random_layers(head_layers(joint, hidden), seed, HEAD_SEED)), True


def with_final_norm(network: Parameters, branch: Parameters) -> Parameters:
    """Give a network the ending that the audio branch of a correspondence network has.

    An embedding is the output of the last convolution; correspondence is trained on what follows: a
    normalisation and perhaps a ReLU. They are the branch's own, or new where the network was cut in
    width or depth.

    Parameters
    ----------
    network
        A network that ends in its last convolution, or one that already ends like the branch.
    branch
        The audio branch of the correspondence network.

    Returns
    -------
    Parameters
        The network with the normalisation; ``network`` itself where it has one already.

    Raises
    ------
    InputError
        The two have different front ends, or the network ends in a way that the branch does not.
    """
    spec, other = network.spec, branch.spec
    if spec.frontend != other.frontend:
        raise InputError(
            f"the network takes {spec.rate} Hz, {spec.n_mels} mels, the audio branch {other.rate} "
            f"Hz, {other.n_mels} mels", allowed="the teacher and its own correspondence network")
    if spec.tail == other.tail:
        if spec.head != other.head:
            raise InputError(f"the network ends in {spec.head}, the audio branch in {other.head}")
        return network
    # Its embedding would be taken behind a normalisation that the branch lacks.
    if spec.tail == "student":
        raise InputError("the network ends in a normalisation, the audio branch does not")
    whole = replace(spec, tail="student", head=other.head, emb_dim=spec.filters[-1])
    last = branch.layers[-1] if spec.filters == other.filters else tuple(
        np.full(spec.filters[-1], value, np.float32) for value in (1, 0, 0, 1))
    return Parameters(whole, (*network.layers, last))


def without_final_norm(network: Parameters, spec: NetworkSpec) -> Parameters:
    """Undo ``with_final_norm``.

    Parameters
    ----------
    network
        A network with a final normalisation.
    spec
        The network to return: the same without the normalisation.

    Returns
    -------
    Parameters
        The layers of ``spec``.
    """
    return Parameters(spec, network.layers[:len(spec.layers())])


@dataclass(frozen=True)
class VisionPairs:
    """Pairs whose images are embedded: the ``Data`` that ``l3hpc.models.training`` reads.

    Attributes
    ----------
    spectra
        (rows, bands, times) on disk.
    vision
        (rows, dim), embeddings of the images, on disk.
    labels
        (rows, 2) float32, one-hot.
    """

    spectra: RowFile
    vision: RowFile
    labels: np.ndarray

    def batch(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """The examples of some rows.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        inputs
            Spectra (n, bands, times, 1) and vision embeddings (n, dim), float32.
        labels
            (n, 2) float32.
        """
        return ((self.spectra[rows][..., np.newaxis], self.vision[rows]), self.labels[rows])


def embed_images(network: AvcNetwork, batches: Batches, rows: np.ndarray, frontend: Frontend,
                 folder: Path, *, settings: str = "",
                 progress: Progress | None = None) -> VisionPairs:
    """Embed the images of some pairs with the frozen vision branch, and compute their spectra.

    Parameters
    ----------
    network
        The correspondence network.
    batches
        The pairs.
    rows
        (n,) row numbers of the pairs to use.
    frontend
        Front end of the audio branch.
    folder
        Takes the files; those that an earlier attempt with the same settings left are completed.
    settings
        A digest of the network.
    progress
        Shows how many pairs are done.

    Returns
    -------
    VisionPairs
        One row per entry of ``rows``.

    Raises
    ------
    InputError
        The images have another size than the vision network takes.
    """
    if batches.size != network.vision_spec.size:
        raise InputError(f"has images of {batches.size} x {batches.size} pixels",
                         where=str(batches.files[0]),
                         allowed=f"{network.vision_spec.size} x {network.vision_spec.size}, the "
                                 "input of the vision network")
    progress = progress or Progress()
    folder.mkdir(parents=True, exist_ok=True)
    # Everything that the rows in the scratch files depend on; a change means computing them again.
    key = digest([settings, asdict(frontend), [_file_state(path) for path in batches.files],
                  rows.tolist()])
    state = folder / "seen.json"
    saved = read_json(state) if state.is_file() else {}
    done = int(saved["rows"]) if saved.get("mark") == key else 0
    mode: Literal["r+", "w+"] = "r+" if done else "w+"
    spectra = RowFile(folder / "spectra.bin", "float32", (len(rows), *frontend.shape), mode)
    vision = RowFile(folder / "vision.bin", "float32", (len(rows), network.vision_spec.dim), mode)
    data = AvcData(batches, frontend)
    progress.start("embedding images", total=len(rows), unit="pairs")
    progress.advance(done)
    for start in range(done, len(rows), CHUNK):
        (sound, images), _ = data.batch(rows[start:start + CHUNK])
        stop = start + len(sound)
        spectra[start:stop] = sound[..., 0]
        vision[start:stop] = np.asarray(network.vision(images, training=False))
        if stop == len(rows) or (start // CHUNK + 1) % SAVE_EVERY == 0:
            # The arrays first: rows that the state counts must be on the disk.
            spectra.flush()
            vision.flush()
            write_json(state, {"mark": key, "rows": stop})
        progress.advance(stop - start)
    labels = np.eye(2, dtype=np.float32)[batches.labels()[rows]]
    return VisionPairs(spectra, vision, labels)


@dataclass
class Correspondence:
    """Accuracy of audio networks on correspondence, each in the place of the audio branch.

    Attributes
    ----------
    pairs
        The pairs to classify.
    head
        The fusion head.
    branch
        The audio branch whose place the networks take.
    threads
        CPU threads; None: all that the task was given.
    engine
        Inference engine, see ``l3hpc.models.engines``.
    """
    pairs: VisionPairs
    head: Head
    branch: Parameters
    threads: int | None = None
    engine: str = "auto"

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """The accuracy with one audio network.

        Parameters
        ----------
        parameters
            The network.

        Returns
        -------
        dict
            ``accuracy`` in [0, 1] and the number of ``pairs``.

        Raises
        ------
        InputError
            It cannot take the place of the branch (see ``with_final_norm``).
        """
        audio = embed_spectra(with_final_norm(parameters, self.branch), self.pairs.spectra,
                              self.threads, self.engine)
        vision = self.pairs.vision[0:len(audio)]
        return {"accuracy": self.head.accuracy(vision, audio, self.pairs.labels),
                "pairs": len(audio)}


def embed_spectra(parameters: Parameters, spectra: RowFile, threads: int | None = None,
                  engine: str = "auto") -> np.ndarray:
    """Embed spectra in batches.

    Parameters
    ----------
    parameters
        The network.
    spectra
        (n, bands, times).
    threads
        CPU threads; None: all that the task was given.
    engine
        Inference engine, see ``l3hpc.models.engines``.

    Returns
    -------
    numpy.ndarray
        (n, dim) float32.
    """
    chosen = engines.choose(parameters.folded(), threads, engine)
    size = chosen.batch_size(activation_bytes(parameters.spec))
    return np.concatenate([chosen.run(spectra[start:min(start + size, len(spectra))])
                           for start in range(0, len(spectra), size)])


def evenly_spaced_rows(batches: Batches, count: int | None) -> np.ndarray:
    """Row numbers spread evenly over all pairs.

    Parameters
    ----------
    batches
        The pairs.
    count
        How many at most; None: all.

    Returns
    -------
    numpy.ndarray
        Ascending, int64.
    """
    number = min(count or batches.rows, batches.rows)
    return np.unique(np.rint(np.linspace(0, batches.rows - 1, number)).astype(np.int64))


def _file_state(path: Path) -> list[str | int]:
    """What changes when a file does."""
    status = Path(path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
