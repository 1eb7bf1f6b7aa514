import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fakes")]

from inprocess import call  # noqa: E402

VARIABLES = ("AUDIO_DIR", "EMBEDDING_DIR", "OUTPUT_DIR", "L3_MODEL_PATH", "SONYC_UST_PATH",
             "US8K_PATH", "ESC50_PATH", "GSHEET_ID", "L3HPC_MODELS", "L3HPC_SHEETS_URL",
             "GOOGLE_APPLICATION_CREDENTIALS")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and an environment in which nothing is set."""
    for name in list(os.environ):
        if name in VARIABLES or name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home/data"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def l3hpc(here):
    return call
