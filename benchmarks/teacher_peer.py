"""openl3's side of the teacher benchmark, run in openl3's own environment."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def embed(folder: Path, out: Path, batch_size: int) -> dict[str, float]:
    """Embed ``folder``/audio/*.wav to npz files in ``out``."""
    import numpy as np
    import openl3
    from openl3.models import load_audio_embedding_model_from_path

    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model = load_audio_embedding_model_from_path(
        str(folder / "openl3_audio_mel256_env.h5"), "mel256", 512, frontend="kapre")
    noise = np.random.default_rng(0).normal(0, 0.1, 48000 * 2)
    openl3.get_audio_embedding(noise, 48000, model=model, batch_size=batch_size, verbose=False)
    ready = time.perf_counter()
    files = sorted(str(path) for path in (folder / "audio").glob("*.wav"))
    openl3.process_audio_file(files, output_dir=str(out), model=model, hop_size=0.1, center=True,
                              batch_size=batch_size, overwrite=True, verbose=False)
    seconds = time.perf_counter() - ready
    frames = sum(len(np.load(path)["embedding"]) for path in out.glob("*.npz"))
    return {"seconds": seconds, "start": ready - start, "frames": frames}


if __name__ == "__main__":
    print(json.dumps(embed(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
