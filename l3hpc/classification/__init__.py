"""Classification of single-label clips over folds: UrbanSound8K, ESC-50 or any table."""

from typing import TYPE_CHECKING

from l3hpc import _lazy

if TYPE_CHECKING:
    from l3hpc.classification.folds import Features as Features
    from l3hpc.classification.folds import split as split
    from l3hpc.classification.folds import statistics as statistics
    from l3hpc.classification.folds import vote as vote
    from l3hpc.classification.models import FitSettings as FitSettings
    from l3hpc.classification.models import fit as fit

__all__ = ["Features", "FitSettings", "fit", "split", "statistics", "vote"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "Features": "l3hpc.classification.folds",
    "FitSettings": "l3hpc.classification.models",
    "fit": "l3hpc.classification.models",
    "split": "l3hpc.classification.folds",
    "statistics": "l3hpc.classification.folds",
    "vote": "l3hpc.classification.folds",
})
