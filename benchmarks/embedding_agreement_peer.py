"""openl3's side of ``benchmarks.embedding_agreement``, run in openl3's own environment."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def embed(work: Path, repeats: int) -> dict[str, object]:
    """Embed the clips of every case of ``work``/cases.json; embeddings go to ``work``/openl3.

    A list of clips in one call, as openl3 allows; the model loaded and traced before the clock.
    """
    import numpy as np
    import openl3
    from openl3.models import load_audio_embedding_model_from_path

    found = {}
    (work / "openl3").mkdir(exist_ok=True)
    for name, case in json.loads((work / "cases.json").read_text()).items():
        model = load_audio_embedding_model_from_path(
            str(work / case["weights"]), case["input_repr"], case["size"],
            frontend=case["openl3"])
        clips = list(np.load(work / case["audio"]))

        def call(audio: list[Any], case: Any = case, model: Any = model) -> Any:
            return openl3.get_audio_embedding(
                audio, case["rate"], model=model, input_repr=case["input_repr"],
                hop_size=case["hop"], frontend=case["openl3"], batch_size=32, verbose=False)

        call(clips[:1])
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            embeddings, times = call(clips)
            seconds.append(time.perf_counter() - start)
        np.savez(work / "openl3" / f"{name}.npz", embedding=np.concatenate(embeddings),
                 timestamps=np.concatenate(times))
        found[name] = min(seconds)
    return {"seconds": sum(found.values()), "cases": found}


if __name__ == "__main__":
    print(json.dumps(embed(Path(sys.argv[2]), int(sys.argv[3]))))
