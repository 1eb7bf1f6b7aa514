"""The published input pipeline, for ``benchmarks.input_pipeline``; needs resampy and librosa only.

    python -m benchmarks.input_pipeline_peer worker FOLDER BATCHES float32|float64 THREADS

Reads batches of 64 rows of ``audio`` (n, 1, 48000) int16, divides by 32768, resamples the batch to
8 kHz by resampy's ``kaiser_best`` and computes one mel spectrogram after the other: magnitudes of
librosa's centred STFT, HTK mels, 20 log10, each with its maximum at 0, clamped at -80 dB.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import h5py
import librosa
import numpy as np
import resampy

SOURCE, RATE, MELS, HOP, DFT, BATCH = 48000, 8000, 64, 160, 1024, 64


def spectrogram(window: np.ndarray) -> np.ndarray:
    """One example."""
    magnitude = np.abs(librosa.stft(window, n_fft=DFT, hop_length=HOP, pad_mode="constant"))
    mel = librosa.feature.melspectrogram(S=magnitude, sr=RATE, n_fft=DFT, n_mels=MELS, power=1.0,
                                         htk=True)
    level = 20 * np.log10(np.maximum(mel, 1e-5))
    return np.maximum(level - level.max(), -80.0).astype(np.float32)


def work(folder: Path, batches: int, kind: str, threads: int) -> dict[str, float]:
    """Seconds per batch, and of its two parts. The first batch is done twice (compilation)."""
    seconds = {"reading": 0.0, "resampling": 0.0, "spectra": 0.0}
    done = -1
    for path in sorted((folder / "audio").glob("*.h5")):
        with h5py.File(path) as file:
            audio = file["audio"]
            first = 0
            while first + BATCH <= len(audio) and done < batches:
                times = [time.perf_counter()]
                rows = (audio[first:first + BATCH] / 32768.0).astype(kind)
                times.append(time.perf_counter())
                sound = resampy.resample(rows, SOURCE, RATE, axis=-1, parallel=threads > 1)
                times.append(time.perf_counter())
                spectra = np.stack([spectrogram(row) for row in sound[:, 0]])
                times.append(time.perf_counter())
                if done < 0:
                    np.save(folder / "resampled.npy", sound[:, 0].astype(np.float32))
                    np.save(folder / "peer.npy", spectra)
                else:
                    for part, more in zip(seconds, np.diff(times), strict=True):
                        seconds[part] += float(more)
                    first += BATCH
                done += 1
    per_batch = {part: value / batches for part, value in seconds.items()}
    return {"seconds": sum(per_batch.values()), **per_batch}


if __name__ == "__main__":
    place, count, dtype, cores = sys.argv[2:]  # after the word worker
    print(json.dumps(work(Path(place), int(count), dtype, int(cores))))
