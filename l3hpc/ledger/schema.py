"""The columns of every results tab, declared as data: titles, order, keys, kinds and rules.

The titles of ``embedding_approx_mse`` and ``sonyc_ust`` are those of the published pipeline's
README. For the other tabs only the order of fields is published; their titles are built from the
field names in the same style (``documented=False``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from l3hpc.errors import InputError, check_choice, nearest

Kind = Literal["text", "number", "bool"]
Rule = Literal["set", "latest", "min", "max"]


@dataclass(frozen=True)
class Column:
    """One column of a tab.

    Attributes
    ----------
    title
        Text of its header cell.
    field
        Name under which steps record it.
    kind
        Type of its cells.
    rule
        How several records become one value: ``set`` (the last one written), ``latest`` (that of
        the highest epoch), ``min`` or ``max`` (the best of all).
    update
        Whether the cell changes during a run.
    follows
        For ``min`` and ``max``: the ``latest`` field whose values count as well.
    note
        Addition to the title in our own views; the titles of the sheet are fixed.
    """

    title: str
    field: str
    kind: Kind = "text"
    rule: Rule = "set"
    update: bool = False
    follows: str | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The heading in our own views: the title, with the note if there is one."""
        return f"{self.title} ({self.note})" if self.note else self.title


@dataclass(frozen=True)
class Tab:
    """One results tab.

    Attributes
    ----------
    name
        Name of the tab in the sheet and in journals.
    key
        The fields that identify a row.
    columns
        The columns, in the order of the sheet.
    rank
        The field by which rows are sorted, best first.
    best
        Whether small (``min``) or large (``max``) values of ``rank`` are better.
    comparable
        The fields in which two rows must agree so that their values of ``rank`` can be compared.
    documented
        Whether the published pipeline documents the titles.
    optional
        Whether a sheet may do without the tab: its rows then stay in the journals.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    rank: str
    best: Literal["min", "max"]
    documented: bool = True
    optional: bool = False
    comparable: tuple[str, ...] = ()

    @property
    def titles(self) -> list[str]:
        """The titles, in column order."""
        return [column.title for column in self.columns]

    @property
    def fields(self) -> list[str]:
        """The field names, in column order."""
        return [column.field for column in self.columns]

    def column(self, name: str) -> Column:
        """Return a column by its name.

        Parameters
        ----------
        name
            Title (in any case), label or field name.

        Raises
        ------
        InputError
            There is no such column; the message has similar names.
        """
        for column in self.columns:
            if name in (column.title, column.field, column.label):
                return column
        for column in self.columns:
            if name.lower() == column.title.lower():
                return column
        raise InputError(f"no column {name!r} in tab {self.name!r}",
                         allowed=nearest(name, self.titles))

    def index(self, field: str) -> int:
        """Return the 0-based position of a field."""
        return self.fields.index(field)

    def has(self, field: str) -> bool:
        """Return whether ``field`` is one of this tab's columns."""
        return field in _FIELD_SETS[self.name]

    def key_of(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the texts of the key fields; None if one is missing or empty."""
        parts = [values.get(field) for field in self.key]
        if any(part is None or part == "" for part in parts):
            return None
        return tuple(str(part) for part in parts)


def column_letter(index: int) -> str:
    """Return the letters of a column in a spreadsheet, counted from 0.

    Examples
    --------
    >>> column_letter(0), column_letter(26)
    ('A', 'AA')
    """
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _text(*pairs: tuple[str, str]) -> list[Column]:
    return [Column(title, field) for title, field in pairs]


def _numbers(*pairs: tuple[str, str]) -> list[Column]:
    return [Column(title, field, "number") for title, field in pairs]


def _results(*pairs: tuple[str, str], kind: Kind = "number") -> list[Column]:
    return [Column(title, field, kind, "set", True) for title, field in pairs]


def _progress(names: Iterable[tuple[str, str, Literal["min", "max"]]]) -> list[Column]:
    """Return Latest Epoch, then Latest and Best of each (title, field, which value is best)."""
    names = list(names)
    # the published sheet counts these epochs from 0, everything that we print counts from 1
    columns = [Column("Latest Epoch", "latest_epoch", "number", "latest", True, note="from 0")]
    columns += [Column(f"Latest {title}", f"latest_{field}", "number", "latest", True)
                for title, field, _ in names]
    columns += [Column(f"Best {title}", f"best_{field}", "number", best, True, f"latest_{field}")
                for title, field, best in names]
    return columns


_LENGTHS = _numbers(
    ("# Epochs", "num_epochs"), ("Train Epoch Size", "train_epoch_size"),
    ("Valid Epoch Size", "validation_epoch_size"), ("Train Batch Size", "train_batch_size"),
    ("Valid Batch Size", "validation_batch_size"), ("Random State", "random_state"),
    ("Learning Rate", "learning_rate"), ("# GPUs", "gpus"),
    ("Checkpoint Interval", "checkpoint_interval"),
)

_EMBEDDING_APPROX = Tab("embedding_approx_mse", ("model_dir",), (
    *_text(("Username", "username"), ("Model Dir", "model_dir"),
           ("Train Data Dir", "train_data_dir"), ("Valid Data Dir", "validation_data_dir"),
           ("Emb Train Dir", "reduced_emb_train_dir"), ("Emb Valid Dir", "reduced_emb_valid_dir"),
           ("Approximation mode", "approx_mode"), ("Emb key", "emb_key"),
           ("Model Representation", "model_repr")),
    *_numbers(("Student Emb Len", "student_emb_len")),
    *_LENGTHS,
    *_progress([("Train Loss", "train_loss", "min"), ("Valid Loss", "validation_loss", "min"),
                ("Train MAE", "train_mae", "min"), ("Valid MAE", "validation_mae", "min")]),
), rank="best_validation_loss", best="min",
    # a loss is in the units of its target: another φ, or another length, has other values, and φ of
    # the same settings is another one for another teacher or other recordings
    comparable=("approx_mode", "emb_key", "student_emb_len", "reduced_emb_train_dir"))

_CLASSIFIER_SETTINGS = [
    *_numbers(("Hidden Layer Size", "hidden_layer_size"),
              ("Num. Hidden Layers", "num_hidden_layers"), ("Learning Rate", "learning_rate"),
              ("L2 Reg.", "l2_reg"), ("Batch Size", "batch_size"), ("Num Epochs", "num_epochs"),
              ("Patience", "patience")),
    Column("Sensor Factor", "sensor_factor", "bool"),
    Column("Proximity Factor", "proximity_factor", "bool"),
    Column("No Standardize", "no_standardize", "bool"),
    Column("Co-occurrence Loss", "cooccurrence_loss", "bool"),
    Column("Co-occurrence Loss Factor", "cooccurrence_loss_factor", "number"),
    Column("PCA", "pca", "bool"),
    Column("PCA Components", "pca_components", "number"),
    *_text(("Label Mode", "label_mode"), ("Oversample", "oversample")),
    Column("Oversample Iters.", "oversample_iters", "number"),
    *_text(("Threshold Type", "thresh_type"), ("Target Mode", "target_mode")),
    Column("No Timestamp", "no_timestamp", "bool"),
    *_text(("Split Path", "split_path"), ("Optimizer", "optimizer")),
    *_results(("Micro AUPRC", "micro_auprc"), ("Micro F1 (@0.5)", "micro_f1"),
              ("Macro AUPRC", "macro_auprc")),
    *_results(("Coarse Tag AUPRC", "class_auprc"), kind="text"),
]

_SONYC_UST = Tab("sonyc_ust", ("output_dir", "exp_id"), (
    *_text(("Username", "username"), ("Model Type", "model_type"),
           ("Upstream Data", "upstream_data"), ("Commit", "git_commit"),
           ("Annotation Dir", "annotation_path"), ("Taxonomy Dir", "taxonomy_path"),
           ("Feature Dir", "emb_dir"), ("Output Dir", "output_dir"), ("Exp. ID", "exp_id")),
    *_CLASSIFIER_SETTINGS,
), rank="micro_auprc", best="max")

_EMB_APPROX_SONYC_UST = Tab("emb_approx_sonyc_ust", ("output_dir", "exp_id", "aggregation_type"),
                            (
    *_text(("Date", "date"), ("Username", "username"), ("Model Type", "model_type")),
    *_numbers(("Emb Dim", "emb_dim"), ("# Neighbors", "n_neighbors"), ("Min Dist", "min_dist")),
    *_text(("Metric", "metric"), ("Kernel", "kernel"), ("Upstream Data", "upstream_data"),
           ("Sampling Type", "sampling_type"), ("Timescale", "timescale")),
    *_numbers(("# Training Points", "n_training_points")),
    *_text(("Aggregation Type", "aggregation_type"), ("Commit", "git_commit"),
           ("Annotation Dir", "annotation_path"), ("Taxonomy Dir", "taxonomy_path"),
           ("Feature Dir", "emb_dir"), ("Output Dir", "output_dir"), ("Exp. ID", "exp_id")),
    *_CLASSIFIER_SETTINGS,
), rank="micro_auprc", best="max", documented=False, optional=True)

_MODEL = _text(("Username", "username"), ("Model ID", "model_id"), ("Model Dir", "model_dir"),
               ("Commit", "git_commit"))
_MODEL_DATA = [*_MODEL, *_text(
    ("Train Data Dir", "train_data_dir"), ("Valid Data Dir", "validation_data_dir"),
    ("Continue Model Dir", "continue_model_dir"), ("Model Type", "model_type"))]
_LOSS_ACC = _progress([("Train Loss", "train_loss", "min"),
                       ("Valid Loss", "validation_loss", "min"),
                       ("Train Acc", "train_acc", "max"), ("Valid Acc", "validation_acc", "max")])

_CLASSIFIER = Tab("classifier", ("model_dir",), (
    *_MODEL, Column("Features Dir", "features_dir"), Column("Fold Num", "fold_num", "number"),
    Column("Parameter Search", "parameter_search", "bool"),
    Column("Parameter Search Valid Fold", "parameter_search_valid_fold", "bool"),
    Column("Parameter Search Valid Ratio", "parameter_search_valid_ratio", "number"),
    Column("Parameter Search Train With Valid", "parameter_search_train_with_valid", "bool"),
    *_text(("Model Type", "model_type"), ("Feature Mode", "feature_mode")),
    Column("Train Batch Size", "train_batch_size", "number"),
    Column("Non Overlap", "non_overlap", "bool"),
    *_numbers(("Random State", "random_state"), ("# Epochs", "num_epochs")),
    # chosen by the parameter search during the run
    *_results(("Learning Rate", "learning_rate"), ("Weight Decay", "weight_decay"), ("C", "C"),
              ("Tol", "tol"), ("Max Iterations", "max_iterations")),
    *_results(("Train Loss", "train_loss"), ("Valid Loss", "valid_loss"),
              ("Train Acc", "train_acc"), ("Valid Acc", "valid_acc"),
              ("Train Avg Class Acc", "train_avg_class_acc"),
              ("Valid Avg Class Acc", "valid_avg_class_acc")),
    *_results(("Train Class Acc", "train_class_acc"), ("Valid Class Acc", "valid_class_acc"),
              kind="text"),
    *_results(("Test Acc", "test_acc"), ("Test Avg Class Acc", "test_avg_class_acc")),
    *_results(("Test Class Acc", "test_class_acc"), kind="text"),
), rank="test_acc", best="max", documented=False)

# not in the published sheet: clips with several labels, which have no accuracy
_CLIP_TAGS = Tab("clip_tags", ("model_dir",), (
    *_MODEL, *_text(("Data", "data"), ("Features Dir", "features_dir")),
    Column("Fold Num", "fold_num", "number"),
    Column("Parameter Search", "parameter_search", "bool"),
    Column("Parameter Search Valid Fold", "parameter_search_valid_fold", "bool"),
    Column("Parameter Search Valid Ratio", "parameter_search_valid_ratio", "number"),
    *_text(("Model Type", "model_type")),
    *_numbers(("Train Batch Size", "train_batch_size"), ("Random State", "random_state"),
              ("Patience", "patience")),
    *_results(("# Epochs", "num_epochs"), ("Learning Rate", "learning_rate"),
              ("Weight Decay", "weight_decay"), ("Train Loss", "train_loss"),
              ("Valid Loss", "valid_loss"), ("Train Micro AUPRC", "train_micro_auprc"),
              ("Valid Micro AUPRC", "valid_micro_auprc"),
              ("Train Mean AP", "train_mean_average_precision"),
              ("Valid Mean AP", "valid_mean_average_precision"),
              ("Test Micro AUPRC", "test_micro_auprc"), ("Test Micro F1 (@0.5)", "test_micro_f1"),
              ("Test Mean AP", "test_mean_average_precision")),
    *_results(("Test Class AP", "test_class_average_precision"), kind="text"),
), rank="test_micro_auprc", best="max", documented=False)

_PRUNED = Tab("prunedembedding", ("model_dir",), (
    *_MODEL_DATA, *_text(("Include Layers", "include_layers"), ("Num Filters", "num_filters"),
                         ("Sparsity", "sparsity")),
    Column("Pruning", "pruning", "bool"), Column("Finetune", "finetune", "bool"),
    Column("Knowledge Distilled", "knowledge_distilled", "bool"),
    *_LENGTHS, *_LOSS_ACC,
), rank="best_validation_acc", best="max", documented=False)

_DISTILLATION = Tab("distillation", ("model_dir",), (
    *_MODEL_DATA, *_text(("Student", "student"), ("Teacher", "teacher"),
                         ("Loss Type", "loss_type")),
    *_numbers(("Temperature", "temperature"), ("Lambda", "lambda")), *_LENGTHS, *_LOSS_ACC,
), rank="best_validation_acc", best="max", documented=False)

_EMBEDDING = Tab("embedding", ("model_dir",), (
    *_MODEL_DATA, *_numbers(("Sample Rate (kHz)", "samp_rate"), ("# Mels", "num_mels"),
                            ("# Hops", "num_hops"), ("DFT Size", "num_dft")),
    *_LENGTHS, *_LOSS_ACC,
), rank="best_validation_acc", best="max", documented=False)

TABS: dict[str, Tab] = {tab.name: tab for tab in (
    _EMBEDDING_APPROX, _SONYC_UST, _EMB_APPROX_SONYC_UST, _CLASSIFIER, _CLIP_TAGS, _PRUNED,
    _DISTILLATION, _EMBEDDING)}
# the settings of a tag classifier: two scores can be compared where these are equal
CLASSIFIER_FIELDS = tuple(column.field for column in _CLASSIFIER_SETTINGS if not column.update)
# those that the pipelines ``upstream`` and ``downstream`` fill
MAIN_TABS = ("embedding_approx_mse", "sonyc_ust")
_FIELD_SETS = {name: frozenset(tab.fields) for name, tab in TABS.items()}
# words in the names of metrics
HIGHER = ("auprc", "accuracy", "acc", "f1", "auc", "recall", "precision", "cosine", "variance",
          "score")
LOWER = ("loss", "mae", "mse", "error", "parameters")
ALIASES = {"uptsream_data": "upstream_data"}  # a misspelling in the published code


def direction(name: str) -> str:
    """Return whether ``higher`` or ``lower`` values of a metric are better; '' if unknown.

    Examples
    --------
    >>> direction("best_validation_loss"), direction("micro_auprc"), direction("rows")
    ('lower', 'higher', '')
    """
    words = name.lower().replace("-", "_").split("_")
    if any(word in words for word in LOWER):
        return "lower"
    return "higher" if any(word in words for word in HIGHER) else ""


def find_tab(name: str) -> Tab:
    """Return a declared tab.

    Raises
    ------
    InputError
        There is no such tab; the message has the valid names.
    """
    return TABS[check_choice("tab", name, TABS)]
