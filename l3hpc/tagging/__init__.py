"""Urban sound tagging: taxonomy, annotations, classifier, predictions and the exact metrics.

``metrics`` has AUPRC, F1 and average precision; ``evaluation`` applies them to predictions, with
intervals. ``classifier`` (``network``, ``training``) is the model.
"""

from typing import TYPE_CHECKING

from l3hpc import _lazy

if TYPE_CHECKING:
    from l3hpc.tagging.annotations import Annotations as Annotations
    from l3hpc.tagging.balancing import oversample as oversample
    from l3hpc.tagging.classifier import Classifier as Classifier
    from l3hpc.tagging.classifier import ClassifierConfig as ClassifierConfig
    from l3hpc.tagging.clip_inputs import ClipInputs as ClipInputs
    from l3hpc.tagging.clip_metadata import read_metadata as read_metadata
    from l3hpc.tagging.evaluation import evaluate as evaluate
    from l3hpc.tagging.metrics import average_precision as average_precision
    from l3hpc.tagging.metrics import micro_auprc as micro_auprc
    from l3hpc.tagging.predictions import Predictions as Predictions
    from l3hpc.tagging.training import train as train

__all__ = ["Annotations", "Classifier", "ClassifierConfig", "ClipInputs", "Predictions",
           "average_precision", "evaluate", "micro_auprc", "oversample", "read_metadata", "train"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "Annotations": "l3hpc.tagging.annotations",
    "Classifier": "l3hpc.tagging.classifier",
    "ClassifierConfig": "l3hpc.tagging.classifier",
    "ClipInputs": "l3hpc.tagging.clip_inputs",
    "Predictions": "l3hpc.tagging.predictions",
    "average_precision": "l3hpc.tagging.metrics",
    "evaluate": "l3hpc.tagging.evaluation",
    "micro_auprc": "l3hpc.tagging.metrics",
    "oversample": "l3hpc.tagging.balancing",
    "read_metadata": "l3hpc.tagging.clip_metadata",
    "train": "l3hpc.tagging.training",
})
