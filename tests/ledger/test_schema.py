"""The declared columns are those of the published pipeline, in its order."""

import pytest

from l3hpc.errors import InputError
from l3hpc.ledger.schema import TABS, column_letter, find_tab

MSE = (
    "Username | Model Dir | Train Data Dir | Valid Data Dir | Emb Train Dir | Emb Valid Dir | "
    "Approximation mode | Emb key | Model Representation | Student Emb Len | # Epochs | "
    "Train Epoch Size | Valid Epoch Size | Train Batch Size | Valid Batch Size | Random State | "
    "Learning Rate | # GPUs | Checkpoint Interval | Latest Epoch | Latest Train Loss | "
    "Latest Valid Loss | Latest Train MAE | Latest Valid MAE | Best Train Loss | Best Valid Loss | "
    "Best Train MAE | Best Valid MAE")
UST = (
    "Username | Model Type | Upstream Data | Commit | Annotation Dir | Taxonomy Dir | "
    "Feature Dir | Output Dir | Exp. ID | Hidden Layer Size | Num. Hidden Layers | "
    "Learning Rate | L2 Reg. | Batch Size | Num Epochs | Patience | Sensor Factor | "
    "Proximity Factor | No Standardize | Co-occurrence Loss | Co-occurrence Loss Factor | PCA | "
    "PCA Components | Label Mode | Oversample | Oversample Iters. | Threshold Type | "
    "Target Mode | No Timestamp | Split Path | Optimizer | Micro AUPRC | Micro F1 (@0.5) | "
    "Macro AUPRC | Coarse Tag AUPRC")


def test_published_titles_in_published_order():
    assert TABS["embedding_approx_mse"].titles == MSE.split(" | ")
    assert TABS["sonyc_ust"].titles == UST.split(" | ")


@pytest.mark.parametrize(("name", "columns", "key", "last"), [
    ("embedding_approx_mse", 28, "B", "AB"), ("sonyc_ust", 35, "H", "AI"),
    ("emb_approx_sonyc_ust", 45, "R", "AS"), ("classifier", 32, "C", "AF"),
    ("clip_tags", 27, "C", "AA"),
    ("prunedembedding", 32, "C", "AF"), ("distillation", 31, "C", "AE"),
    ("embedding", 30, "C", "AD")])
def test_widths_and_key_columns(name, columns, key, last):
    tab = find_tab(name)
    assert len(tab.columns) == columns == len(set(tab.titles)) == len(set(tab.fields))
    assert column_letter(tab.index(tab.key[0])) == key
    assert column_letter(columns - 1) == last
    assert tab.has(tab.rank)


@pytest.mark.parametrize(("name", "first", "last"), [
    ("embedding_approx_mse", "T", "AB"), ("prunedembedding", "X", "AF"),
    ("sonyc_ust", "AF", "AI"), ("distillation", "W", "AE"), ("embedding", "V", "AD"),
    ("emb_approx_sonyc_ust", "AP", "AS"), ("classifier", "Q", "AF"),
    ("clip_tags", "O", "AA")])
def test_update_ranges(name, first, last):
    letters = [column_letter(i) for i, column in enumerate(TABS[name].columns) if column.update]
    assert (letters[0], letters[-1]) == (first, last)
    assert len(letters) == len(TABS[name].columns) - TABS[name].fields.index(
        next(column.field for column in TABS[name].columns if column.update))


def test_best_mae_and_loss_are_minima_best_accuracy_a_maximum():
    assert {column.rule for column in TABS["embedding_approx_mse"].columns
            if column.field.startswith("best_")} == {"min"}
    rules = {column.field: column.rule for column in TABS["distillation"].columns}
    assert rules["best_validation_acc"] == "max" and rules["best_validation_loss"] == "min"


def test_letters():
    assert [column_letter(index) for index in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_lookup_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'sonyc_ust'"):
        find_tab("sonyc_us")
    with pytest.raises(InputError, match="did you mean 'Best Valid Loss'"):
        find_tab("embedding_approx_mse").column("Best Valid Los")
    assert find_tab("sonyc_ust").column("micro auprc").field == "micro_auprc"
