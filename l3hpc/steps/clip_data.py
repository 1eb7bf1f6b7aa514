"""The labelled clips of the step folds: UrbanSound8K, ESC-50, or a table of any other data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from l3hpc.errors import InputError, command_line
from l3hpc.steps.base import Params

if TYPE_CHECKING:
    from l3hpc.datasets.labelled import LabelledDataset


class ClipDataParams(Params):
    """Where the clips, their labels and their folds are."""

    clips: Path | None = Field(None, description=(
        "Folder of UrbanSound8K or ESC-50: its table names the folds."))
    subset: Literal["all", "esc10"] = Field("all", description=(
        "esc10: only the clips of ESC-50 that belong to ESC-10."))
    table: Path | None = Field(None, description=(
        "Or a table (CSV) of clips with files and labels, as for embed."))
    audio: Path | None = Field(None, description=(
        "Folder of audio of the table's files (none: the table's folder)."))
    file_column: str | None = Field(None, description=(
        "Column of the table with the files (none: found by its name)."))
    label_column: str | None = Field(None, description=(
        "Column with the labels (none: found by its name); several columns of 0 and 1, separated "
        "by commas: clips with several labels."))
    label_separator: str | None = Field(None, description=(
        "What separates several labels in a cell; 'none': a cell is one label (none: ; or | if a "
        "cell contains one)."))
    fold_column: str | None = Field(None, description=(
        "Column with the folds, whole numbers (none: found by its name)."))
    group_column: str | None = Field(None, description=(
        "Column of groups (recordings, sites, persons) that folds that are made keep together."))
    fold_count: int | None = Field(None, ge=2, le=1000, description=(
        "Make this number of folds, stratified by label (none: those of the table, otherwise 5)."))
    fold_seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the folds that are made.")
    data_name: str | None = Field(None, min_length=1, max_length=100, description=(
        "Name of the data set in results (none: that of the table, or of its folder)."))


# Not in fingerprints: the clips with their folds and labels count (``LabelledDataset.digest``),
# wherever they come from.
CLIP_DATA = frozenset(ClipDataParams.model_fields)


def dataset(params: ClipDataParams) -> LabelledDataset:
    """The clips with their folds and classes.

    Parameters
    ----------
    params
        Parameters of the step.

    Raises
    ------
    InputError
        For neither or both of a folder and a table, and whatever their readers refuse.
    """
    if (params.clips is None) == (params.table is None):
        raise InputError("folds needs either a folder of UrbanSound8K or ESC-50, or a table of "
                         "clips", where="folds.clips, folds.table",
                         hint="Use --table FILE (submit clips), or --set folds.clips=FOLDER")
    if params.clips is not None:
        from l3hpc.datasets.labelled import read_labelled

        return read_labelled(params.clips, params.subset)
    from l3hpc.datasets.clip_tables import ClipTable, read_table

    assert params.table is not None
    return read_table(ClipTable(
        params.table, params.audio, params.file_column, params.label_column,
        params.label_separator, params.fold_column, params.group_column, params.fold_count,
        params.fold_seed, params.data_name))


def check_folds(params: ClipDataParams, data: LabelledDataset, *, partial: bool, least: int
                ) -> None:
    """Refuse folds that are missing or far smaller than the others, and too few folds.

    Parameters
    ----------
    params
        Parameters of the step.
    data
        Its clips.
    partial
        Whether small and missing folds are accepted.
    least
        Smallest number of folds.

    Raises
    ------
    InputError
        With the fold, and how to go on.
    """
    folds, small = data.folds, data.small_folds()
    if small and not partial:
        count = sum(clip.fold == small[0] for clip in data.clips)
        lists = f"lists {count or 'no'} clip{'s' * (count != 1)} of fold {small[0]}: "
        if data.published is None:
            raise InputError(
                f"{lists}a fold has {len(data.clips) / len(folds):,.0f} on average",
                where=str(data.table), allowed="folds of about the same size",
                hint="Correct the table. To score these folds as they are: "
                     "--set folds.partial=true")
        raise InputError(
            f"{lists}{data.part} of {data.kind}", where=str(data.table),
            allowed=f"clips of all {data.published[0]} folds",
            hint="Get what is missing. To score this part, labelled as such: "
                 "--set folds.partial=true")
    if len(folds) < least:
        raise InputError(f"has clips of {len(folds)} fold{'s' * (len(folds) != 1)}",
                         where=str(params.clips or data.table),
                         allowed=f"{least} or more "
                                 f"(valid_fold: {str(least == 3).lower()})")


def why_missing(params: ClipDataParams, embeddings: Path) -> str:
    """Where to see why clips have no embedding."""
    if params.clips is None:
        return f"Why they were skipped: skipped.csv in the folders of {embeddings}"
    return f"What is missing: {command_line('data', 'check', params.clips)}"


def own_data(data: LabelledDataset, note: str | None) -> dict[str, str]:
    """What a row of the ledger says of an own data set; the columns of the sheet are fixed.

    Parameters
    ----------
    data
        The clips; nothing is said of a published data set, whose name the pipeline has.
    note
        What the note says besides.
    """
    if data.published is not None:
        return {}
    name = f"data: {data.kind}"
    return {"data": data.kind, "note": f"{name}; {note}" if note else name}
