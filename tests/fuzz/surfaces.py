"""All surfaces, by name."""

from __future__ import annotations

from .arrays import Arrays
from .command_lines import Amounts, CommandLines
from .model_files import ModelFiles, TensorFlowFiles
from .recordings import Recordings
from .runner import Surface
from .self_check import Harness
from .settings_files import SettingsFiles
from .sheet_cells import SheetCells
from .slurm_answers import SlurmAnswers
from .stored_arrays import StoredArrays
from .tables import Tables
from .workspaces import Journals, Workspaces

SURFACES: dict[str, Surface] = {surface.name: surface for surface in (
    SettingsFiles(), CommandLines(), Amounts(), Arrays(), Recordings(), StoredArrays(), Tables(),
    ModelFiles(), SlurmAnswers(), Workspaces(), Journals(),
    SheetCells(), TensorFlowFiles(), Harness(),
)}
