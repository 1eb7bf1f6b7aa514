"""Urban sound tagging: taxonomy, annotations, classifier, predictions and the exact metrics."""

from typing import TYPE_CHECKING

from l3hpc import _lazy

if TYPE_CHECKING:
    from l3hpc.tagging.annotations import Annotations as Annotations
    from l3hpc.tagging.classifier import Classifier as Classifier
    from l3hpc.tagging.classifier import ClassifierConfig as ClassifierConfig
    from l3hpc.tagging.counts import average_precision as average_precision
    from l3hpc.tagging.counts import micro_auprc as micro_auprc
    from l3hpc.tagging.evaluation import evaluate as evaluate
    from l3hpc.tagging.predictions import Predictions as Predictions
    from l3hpc.tagging.training import train as train

__all__ = ["Annotations", "Classifier", "ClassifierConfig", "Predictions", "average_precision",
           "evaluate", "micro_auprc", "train"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "Annotations": "l3hpc.tagging.annotations",
    "Classifier": "l3hpc.tagging.classifier",
    "ClassifierConfig": "l3hpc.tagging.classifier",
    "Predictions": "l3hpc.tagging.predictions",
    "average_precision": "l3hpc.tagging.counts",
    "evaluate": "l3hpc.tagging.evaluation",
    "micro_auprc": "l3hpc.tagging.counts",
    "train": "l3hpc.tagging.training",
})
