"""Tiny generated folders in the two layouts: a tone per class, so that there is something to learn.
"""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def tone(path, frequency, seconds, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(RATE * seconds)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * frequency * time) + 0.02 * rng.normal(size=len(time))
    soundfile.write(path, sound.astype(np.float32), RATE)


THREE = ((0, "dog", True), (7, "hen", False), (21, "sneezing", True))


def esc50(folder: Path, folds=3, per_fold=2, classes=THREE, audio=True, told=True):
    """``per_fold`` clips of every class in each fold; two takes of a source each.

    told: whether file names tell fold and class, as published.
    """
    rng, lines = np.random.default_rng(0), ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, folds + 1):
        for number, name, small in classes:
            for take in range(per_fold):
                source = 1000 * fold + 10 * number + take // 2
                file = f"{fold}-{source}-{'AB'[take % 2]}-{number}.wav"
                file = file if told else f"clip{len(lines)}.wav"
                lines.append(f"{file},{fold},{number},{name},{small},{source},{'AB'[take % 2]}")
                if audio:
                    tone(folder / "audio" / file, 300 * (1 + number), 1.0, rng)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "meta").mkdir()
    (folder / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return folder


def us8k(folder: Path, folds=3, per_fold=2, classes=((1, "car_horn"), (3, "dog_bark")),
         audio=True):
    """Clips of 0.5 s and more, so that they have different numbers of windows."""
    rng = np.random.default_rng(0)
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, folds + 1):
        for number, name in classes:
            for take in range(per_fold):
                source = 100 * fold + number
                file, seconds = f"{source}-{number}-0-{take}.wav", 0.5 + 0.4 * take
                lines.append(f"{file},{source},0,{seconds},1,{fold},{number},{name}")
                if audio:
                    tone(folder / f"audio/fold{fold}" / file, 300 * (1 + number), seconds, rng)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir()
    (folder / "metadata/UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    return folder
