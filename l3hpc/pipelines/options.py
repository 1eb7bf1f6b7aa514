"""The command-line options that pipelines may offer: name, type, unit and meaning.

A pipeline's ``options:`` lists the parameters that an option sets; this table defines the type and
help text of the option. Both are needed: an option that is not in this table does not exist, and
one that a pipeline does not list is refused for that pipeline.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from l3hpc.errors import InputError, nearest, option

_KIND_TEXT = {"numbers": "a list of whole numbers", "int": "a whole number", "float": "a number",
              "each": "a switch", "flag": "a switch"}
_EXAMPLES = {"each": "True or False", "flag": "True or False",
             "numbers": "for example 32,32,64,64,128,128,128,128"}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        Without ``--``.
    kind : str
        ``int``, ``float``, ``text``, ``numbers`` (separated by commas), ``choice``, ``run`` (the
        name of a run, or a path), ``flag`` (a switch that sets a parameter to true) or ``each``, a
        switch that runs every value that the data have.
    help : str
        Its line in the help.
    default : str
        What applies without it in the pipelines of l3hpc, as shown in the help.
    choices : tuple of str
        The values of a ``choice``.
    usual : bool
        Whether most people set it: the help names these first.
    """

    name: str
    kind: str
    help: str
    default: str
    choices: tuple[str, ...] = ()
    usual: bool = False

    def value(self, given: Any) -> object:
        """The value that the planner takes.

        Parameters
        ----------
        given
            A value of the option's kind. A list of numbers may also be a text with commas.

        Raises
        ------
        InputError
            For a value that the option does not allow.

        Examples
        --------
        >>> from l3hpc.pipelines.options import OPTIONS
        >>> OPTIONS["filters"].value("32,32,64,64,128,128,128,128")
        [32, 32, 64, 64, 128, 128, 128, 128]
        """
        try:
            if self.kind == "numbers":
                if isinstance(given, str):
                    return [int(part) for part in given.split(",")]
                return [_whole(part) for part in given]
            if self.kind == "int":
                return _whole(given)
            if self.kind == "float":
                return float(given)
            if self.kind in ("each", "flag"):
                return _switch(given)
        except (TypeError, ValueError):
            raise InputError(f"{option(self.name)}: {given!r} is not {_KIND_TEXT[self.kind]}",
                             allowed=_EXAMPLES.get(self.kind)) from None
        self.refuse_unavailable(given)
        if self.choices and given not in self.choices:
            raise InputError(f"{option(self.name)}: {given!r} is not an allowed value",
                             allowed=nearest(str(given), self.choices))
        return str(given)

    def refuse_unavailable(self, given: Any) -> None:
        """Refuse a value that the published programs had and l3hpc cannot have, with the reason.

        Parameters
        ----------
        given
            A value.

        Raises
        ------
        InputError
            For such a value.
        """
        if self.name == "approx" and given == "tsne":
            from l3hpc.steps.reduction import NO_TSNE

            raise InputError(f"{option('approx', 'tsne')}: {NO_TSNE}")


def _whole(given: Any) -> int:
    """A whole number; ``TypeError`` for a float, which would be truncated, and for a bool."""
    if isinstance(given, bool):
        raise TypeError("a bool is not a number")
    return operator.index(given)


def _switch(given: Any) -> bool:
    """A bool; ``TypeError`` for anything else."""
    if not isinstance(given, bool):
        raise TypeError("not a bool")
    return given


UPSTREAM = (
    Option("precision", "choice", "Arithmetic of the teacher in the step extract; tf32, bfloat16 "
           "and int8 are faster, and their error is measured and recorded.", "float32",
           ("float32", "tf32", "bfloat16", "int8")),
    Option("extract-engine", "choice", "Engine that computes the teacher in the step extract; "
           "auto: the fastest of those installed, measured once.", "auto",
           ("auto", "tensorflow", "ncnn", "torch")),
    Option("approx", "choice", "Reduction of the teacher's embeddings; none: the student learns "
           "them as they are.",
           "pca", ("pca", "umap", "none"), usual=True),
    Option("kernel", "choice", "Kernel of the PCA; poly and rbf: kernel PCA.", "linear",
           ("linear", "poly", "rbf")),
    Option("asr", "int", "Audio sampling rate in Hz.", "8000", usual=True),
    Option("mels", "int", "Mel bands of the student's front end.", "64", usual=True),
    Option("dft", "int", "DFT length, samples.", "1024"),
    Option("hop", "int", "Hop of the student's spectrogram, samples.", "160"),
    Option("fmax", "float", "Highest frequency of the mel bands, Hz.", "half the rate"),
    Option("emb-dim", "int", "Dimensions of the student's embedding.", "128", usual=True),
    Option("width", "float", "Width of the student: 1 is that of L3, 0.25 a quarter of its "
           "filters.", "0.5; above 256 dimensions 1", usual=True),
    Option("filters", "numbers", "Filters of the 8 convolutions, separated by commas.",
           "from the width"),
    Option("head", "choice", "Last activation of the student; relu is the published one.",
           "linear", ("linear", "relu")),
    Option("recipe", "choice", "How the student is trained; published: head, epochs, batches, "
           "learning rate and momentum of the published jobs, unless set explicitly.", "default",
           ("default", "published")),
    Option("engine", "choice", "Library of the step train; torch: PyTorch. The step extract "
           "has an option of its own.", "tensorflow",
           ("tensorflow", "torch")),
    Option("sampling", "choice", "How rows are selected for fitting the reduction.", "dpp",
           ("dpp", "dpp-div", "spl", "random")),
    Option("samples", "int", "Rows to select in total; published: 500000.", "5000",
           usual=True),
    Option("timescale", "choice", "Time frames over which the rows are spread evenly.", "day",
           ("day", "week", "month")),
    Option("timezone", "text", "Time zone of the sensors.", "America/New_York"),
    Option("per-sensor", "each", "One reduction and one student per sensor, fitted to that "
           "sensor's rows of the sample; all in one run.", "no"),
    Option("epochs", "int", "Maximum number of training epochs; published: 300.", "30",
           usual=True),
    Option("epoch-size", "int", "Batches per epoch; published: 4096.", "all data"),
    Option("batch-size", "int", "Windows per training batch.", "64"),
    Option("learning-rate", "float", "Learning rate of Adam.", "0.001"),
    Option("patience", "int", "Epochs without improvement before training stops.", "10"),
    Option("seed", "int", "Random seed of sampling and training.", "20180216"),
)
DOWNSTREAM = (
    Option("level", "choice", "Tags that the classifier learns.", "coarse",
           ("coarse", "fine", "both"), usual=True),
    Option("classifier", "choice", "Multiple-instance learning with AutoPool, or frame-wise.",
           "mil", ("mil", "framewise")),
    Option("classifier-recipe", "choice", "Named settings of the classifier: those of the "
           "published jobs or of the DCASE 2020 baseline; explicit settings override them.",
           "default", ("default", "published", "dcase2020"), usual=True),
    Option("classifier-epochs", "int", "Maximum number of classifier epochs.", "100"),
    Option("seeds", "int", "Classifiers to train, each with a seed of its own, for mean and "
           "spread of the scores.", "1", usual=True),
    Option("metadata", "flag", "Also give the classifier the place and time of each recording: "
           "latitude, longitude, week, day and hour (annotations of version 2).", "no"),
    Option("oversample", "choice", "Synthetic training clips of rare tags (mlsmote) or rare sets "
           "of tags (lssmote).", "none", ("none", "mlsmote", "lssmote")),
    Option("pca-components", "int", "Principal components of the embeddings that the classifier "
           "is given, each scaled to variance 1.", "no PCA"),
    Option("phi", "run", "With --teacher: classify its embeddings through this φ, named by the "
           "run that fitted it (of a sweep: RUN/fit-64), 'latest' or its file.", "none"),
)
COMPRESS = (
    Option("plan", "text", "Pruning plans, separated by spaces: 53.49 … 99.00, edgel3 (95.45), "
           "none, or a percentage per convolution, separated by commas.", "edgel3", usual=True),
    Option("depth", "int", "Convolutions that a compressed network keeps: 8, 7, 6 or 5.", "8"),
    Option("avc", "run", "Audio-visual network with which compressed networks are evaluated and "
           "fine-tuned: a run of avc, 'latest' or its file (avc_best_valid_loss.h5); needs "
           "--scenes.", "none"),
    Option("scenes", "run", "Pairs of images and sounds, for --avc: a run of avc, 'latest' or a "
           "folder.", "none"),
)
CLIPS = (
    Option("table", "text", "CSV file with a row per clip: its file, labels, and optionally fold.",
           "none; clips needs it", usual=True),
    Option("audio", "text", "Folder of the audio files of --table.", "the table's folder",
           usual=True),
    Option("file-column", "text", "Column of --table with the files.", "found by its name"),
    Option("label-column", "text", "Column of --table with the labels, or several columns of 0 and "
           "1, separated by commas.", "found by its name"),
    Option("label-separator", "text", "Between several labels in a cell; none: one label each.",
           "; or | if a cell contains one"),
    Option("fold-column", "text", "Column of --table with the folds, whole numbers.",
           "found by its name"),
    Option("split-column", "text", "Column of --table that says, in place of folds, which clips "
           "train, validate and test.", "none"),
    Option("group-column", "text", "Column of --table with groups (recordings, sites) that --folds "
           "keeps together.", "none"),
    Option("folds", "int", "Make this number of folds, stratified by label.",
           "those of --table, otherwise 5"),
    Option("data-name", "text", "Name of the data set in results.",
           "that of --table, or of its folder"),
)
FOLDS = (
    Option("subset", "choice", "Clips of ESC-50 to use.", "all", ("all", "esc10"), usual=True),
    Option("learner", "choice", "Clip classifier: multi-layer perceptron, support vector "
           "machine or random forest; mil: tag classifier for clips with several labels.", "mlp",
           ("mlp", "svm", "rf", "mil"), usual=True),
    Option("features", "choice", "Use a clip's windows one by one, or statistics over them.",
           "framewise", ("framewise", "stats")),
)
OPTIONS = {one.name: one for one in (*UPSTREAM, *DOWNSTREAM, *CLIPS, *FOLDS, *COMPRESS)}

# path in cluster.yaml → the option that overrides it
PATH_OPTIONS = {
    "paths.workspace": "--workspace", "paths.audio": "--audio-dir",
    "paths.embeddings": "--embedding-dir", "paths.weights": "--weights",
    "paths.sonyc_ust": "--sonyc-ust", "paths.us8k": "--us8k", "paths.esc50": "--esc50",
}
