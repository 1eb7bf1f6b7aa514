"""Sound files of all formats, damaged, through embed, data check --listen and extract."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import bases, damage
from .oracle import command
from .runner import Case, Fault, Surface, Verdict

# suffix: (libsndfile's format, its subtypes)
FORMATS = {
    ".wav": ("WAV", ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")),
    ".flac": ("FLAC", ("PCM_16", "PCM_24")), ".ogg": ("OGG", ("VORBIS",)),
    ".opus": ("OGG", ("OPUS",)), ".mp3": ("MP3", ("MPEG_LAYER_III",)),
    ".aiff": ("AIFF", ("PCM_16", "FLOAT")), ".au": ("AU", ("PCM_16", "FLOAT"))}
WAV_KINDS = ("WAV", "WAVEX", "RF64", "W64")


class Recordings(Surface):
    """A folder with a good recording and a damaged one."""

    name = "audio"
    share = 700

    def prepare(self, folder: Path) -> None:
        import soundfile

        self.files: list[tuple[str, bytes]] = []
        for suffix, (kind, subtypes) in FORMATS.items():
            for subtype in subtypes:
                for number, rate in enumerate((8000, 16000 if suffix == ".opus" else 22050)):
                    path = folder / f"x{suffix}"
                    made = bases.sound(1.3 + number, rate, 1 + number, number)
                    try:
                        soundfile.write(path, made, rate, subtype, format=kind)
                    except (soundfile.LibsndfileError, ValueError):
                        continue  # this libsndfile cannot
                    self.files.append((suffix, path.read_bytes()))
        for kind in WAV_KINDS:
            soundfile.write(folder / "x", bases.sound(), bases.RATE, "PCM_16", format=kind)
            self.files.append((".wav", (folder / "x").read_bytes()))
        soundfile.write(folder / "good.wav", bases.sound(2.0, seed=5), bases.RATE)
        self.good = (folder / "good.wav").read_bytes()
        self.model = bases.model()
        self.student = str(bases.student(folder / "student.h5"))
        self.ncnn = importlib.util.find_spec("ncnn") is not None
        self.alone: dict[str, np.ndarray] = {}

    def judge(self, case: Case) -> Verdict:
        here = case.folder / "audio"
        here.mkdir()
        (here / "good.wav").write_bytes(self.good)
        suffix, data = case.rng.choice(self.files)
        whole = data
        name, odd = f"odd{suffix}", None
        for change in case.damages():
            kind = change.randrange(12)
            if kind == 0:
                name = "odd" + change.choice((*FORMATS, ".h5", ".txt", ".WAV", ".wav.gz", ".m4a"))
            elif kind == 1:
                odd = change
            elif kind == 2:
                data = lengths(data, change)
            else:
                data = damage.binary(data, change, 200)
        made = here / name
        if odd is None:
            made.write_bytes(data)
        else:
            irregular(made, odd)
        asked = case.rng.choice(("embed", "embed", "embed", "check", "check", "extract"))
        if asked == "extract" and not self.ncnn:
            asked = "check"
        return {"embed": self._embed, "check": self._check, "extract": self._extract}[asked](
            case, made, data == whole and odd is None)

    def _embed(self, case: Case, made: Path, whole: bool) -> Verdict:
        real = self.ncnn and case.rng.random() < 0.2
        words = ("embed", "audio", "-o", "out", "--json", "--hop-size", "0.5")
        if real:
            said = command(*words, "--model", self.student, "--engine", "ncnn", codes=(0, 1))
        else:
            with self._stand_in():
                said = command(*words, "--model", "untrained", codes=(0, 1))
        out = case.folder / "out"
        good = np.load(out / "good.npz")["embedding"]
        if not np.array_equal(good, self.alone.setdefault(str(real), good)):
            raise Fault(f"a damaged file changed the embedding of the one beside it: {made.name}")
        left = {path.name for path in out.rglob("*")} - {"good.npz", "odd.npz"}
        if left:
            raise Fault(f"left behind: {left}")
        if (out / "odd.npz").exists():
            with np.load(out / "odd.npz") as file:
                embedding, times = file["embedding"], file["timestamps"]
            if not np.isfinite(embedding).all():
                raise Fault(f"an embedding that is not finite, exit {said.code}: {made.name}")
            if len(embedding) != len(times):
                raise Fault(f"{len(embedding)} embeddings at {len(times)} times")
            self._length(made, len(embedding), said)
        elif said.code == 0 and made.name.endswith(tuple(FORMATS)) and os.path.isfile(made):
            raise Fault(f"{made.name} has no output, exit 0: {said.err[-500:]}")
        if whole and made.name.endswith(tuple(FORMATS)) and said.code:
            raise Fault(f"a whole file is refused: {said.err[-500:]}")
        return Verdict((out / "odd.npz").exists(), said.code)

    @contextlib.contextmanager
    def _stand_in(self) -> Iterator[None]:
        """Whatever model is named, the stand-in computes."""
        import l3hpc.embedding.model as place

        real = place.load_model
        place.load_model = lambda *words, **options: self.model
        try:
            yield
        finally:
            place.load_model = real

    def _length(self, made: Path, frames: int, said: Any) -> None:
        """No fewer frames than libsndfile decodes, or a word about it."""
        from l3hpc.audio.framing import frame_count

        decoded = decoded_seconds(made)
        if decoded is None or not decoded:
            return
        wanted = frame_count(int(decoded * bases.RATE), bases.RATE, 0.5, True)
        if frames < wanted - 1 and "warning" not in said.err:
            raise Fault(f"{frames} frames where {wanted} can be decoded, no warning: {made.name}")

    def _check(self, case: Case, made: Path, whole: bool) -> Verdict:
        said = command("data", "check", "audio", "--listen", "--json", codes=(0, 1, 2))
        if said.code == 2:
            raise Fault(f"a damaged file beside a good one ends the check: {said.err[-500:]}")
        found = json.loads(said.out)["found"]
        if not found[0]["counts"]["recordings"]:
            raise Fault("the good recording was not counted")
        if whole and said.code and made.suffix in (".wav", ".flac", ".ogg"):
            raise Fault(f"a whole file is a problem: {said.out[-500:]}")
        return Verdict(said.code == 0, said.code)

    def _extract(self, case: Case, made: Path, whole: bool) -> Verdict:
        import h5py

        said = command("run", "extract", "--set", "audio=audio", "--set",
                       f"weights={self.student}", "--set", "engine=ncnn", "--set",
                       "max_failed=0.6", "-o", "out", codes=(0, 1, 2))
        path = case.folder / "out/embeddings.h5"
        if said.code:
            raise Fault(f"one file of two is damaged, max_failed 0.6, exit {said.code}: "
                        f"{said.err[-500:]}")
        with h5py.File(path) as file:
            matrix = file["l3_embedding"][()]
            files = [name.decode() for name in file["recordings/file"][()]]
        if not np.isfinite(matrix).all():
            raise Fault(f"embeddings that are not finite: {made.name}")
        if "good.wav" not in files:
            raise Fault(f"the good recording is not in the artifact: {files}")
        return Verdict(made.name in files, said.code)


def decoded_seconds(path: Path) -> float | None:
    """How long the sound is that libsndfile finds, block by block; None where it refuses."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            if not 0 <= file.frames < 1 << 40:
                return None
            count = 0
            while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
                count += len(block)
            return count / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError):
        return None


def lengths(data: bytes, rng: random.Random) -> bytes:
    """A header that tells another length, rate or number of channels."""
    held = bytearray(data)
    places: list[Callable[[], int]] = [
        lambda: data.find(b"data") + 4, lambda: data.find(b"fmt ") + 12,
        lambda: data.find(b"fmt ") + 10, lambda: data.find(b"SSND") + 4,
        lambda: data.find(b"COMM") + 8, lambda: 4, lambda: 8, lambda: 20]
    at = rng.choice(places)()
    number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**32 - 2, len(data), 2 * len(data),
                         rng.getrandbits(32)))
    held[at:at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
    return bytes(held)


def irregular(path: Path, rng: random.Random) -> None:
    """What is called like a sound file and is none."""
    kind = rng.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to("/nowhere/at/all.wav")
    elif kind == 4:
        path.symlink_to("/dev/zero")
    elif kind == 5:
        place = os.getcwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(place)
    elif kind == 6:
        path.write_bytes(b"")
    elif kind == 7:
        path.write_bytes(rng.randbytes(rng.choice((1, 44, 5000))))
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 33)  # eight gigabytes of nothing
