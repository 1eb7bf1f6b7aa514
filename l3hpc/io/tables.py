"""Reading of untrusted CSV tables, row by row, with line numbers for messages.

All tables are read here, so that each kind of problem (another encoding, another separator, a
quotation mark that is never closed) has the same message everywhere. ``read_cells`` is the parser,
``read_rows`` adds a header and ``read_records`` gives each row as a dictionary.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from l3hpc.errors import InputError, shell_path
from l3hpc.io.files import refuse_special
from l3hpc.io.values import count_of

LONGEST_CELL = 131_072  # characters; a longer one is a sign of a missing quotation mark
LONGEST_LINE = 1 << 24
MOST_COLUMNS = 100_000
LISTED = 12  # most columns that a message lists
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEAD = 1 << 16  # bytes that are inspected before a file is read as text
# First bytes of other file formats, what they are, and what to do.
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is an Excel workbook or a ZIP file", "Save it as CSV in UTF-8."),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook", "Save it as CSV in UTF-8."),
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it: gunzip -k"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself",
     "Fetch the file: git lfs pull"),
    (b"<!doctype", "is a web page", "Download it again."),
    (b"<html", "is a web page", "Download it again."),
)


def read_rows(path: Path | str, what: str, needed: Sequence[str] = (), *, short_rows: bool = False
         ) -> Iterator[tuple[int, list[str]]]:
    """Yield the header of a table and then its rows; blank lines are skipped.

    Parameters
    ----------
    path
        The file.
    what
        The name of the table in messages.
    needed
        Columns that the header must have.
    short_rows
        Fill up rows that have fewer cells than the header with empty cells.

    Yields
    ------
    line : int
        Line number, from 1.
    cells : list of str
        One for each column.

    Raises
    ------
    InputError
        For what ``read_cells`` refuses, an empty file, a column that is missing or occurs twice,
        and a row whose number of cells differs from the header's. It names file and line.
    """
    columns: list[str] = []
    for line, row in read_cells(path, what):
        where = f"{path}:{line}"
        if not columns:
            columns = row
            if len(columns) > MOST_COLUMNS:
                raise InputError(f"{len(columns):,} columns", where=where,
                                 allowed=f"at most {MOST_COLUMNS:,}")
            twice = sorted(name for name, count in Counter(row).items() if count > 1)
            if twice:
                raise InputError(f"column '{twice[0]}' occurs twice", where=where)
            require_columns(columns, needed, where)
        elif short_rows and len(row) < len(columns):
            row = [*row, *[""] * (len(columns) - len(row))]
        elif len(row) != len(columns):
            raise InputError(f"{count_of(len(row), 'cell')}, the header has {len(columns)}",
                             where=where)
        yield line, row
    if not columns:
        raise InputError("not a CSV table (it is empty)", where=str(path))


def read_records(path: Path | str, what: str, needed: Sequence[str] = ()
                 ) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table as dictionaries.

    Parameters
    ----------
    path, what, needed
        As for ``read_rows``, which also states the errors.

    Yields
    ------
    line : int
        Line number, from 1.
    cells : dict
        Column → cell.
    """
    table = read_rows(path, what, needed)
    _, columns = next(table)
    for line, row in table:
        yield line, dict(zip(columns, row, strict=True))


def require_columns(columns: Sequence[str], needed: Iterable[str], where: str) -> None:
    """Raise ``InputError`` if a column is missing, with the column that may be meant.

    Parameters
    ----------
    columns
        The header.
    needed
        Columns that must be in it.
    where
        The location of the header, for the message.
    """
    needed = list(needed)
    missing = [name for name in needed if name not in columns]
    if not missing and (needed or len(columns) > 1):
        return
    refuse_separator(columns, needed, where)
    if missing:
        raise InputError(f"column '{missing[0]}' is missing", where=where,
                         allowed=_suggestion(missing[0], columns))


def _suggestion(name: str, columns: Sequence[str]) -> str:
    """The column that may be meant by a missing one, or the list of columns."""
    same = [one for one in columns if one.strip().casefold() == name.casefold()]
    close = same or difflib.get_close_matches(name, columns, n=1)
    if close:
        return f"did you mean {close[0]!r}? Names must match exactly" if same else (
            f"did you mean {close[0]!r}?")
    return f"it has: {', '.join(columns[:LISTED])}{', …' if len(columns) > LISTED else ''}"


def read_cells(path: Path | str, what: str, *, skip_spaces: bool = False, comment: str = ""
          ) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of every line that is not blank, whatever their number.

    Parameters
    ----------
    path
        The file.
    what
        The name of the table in messages.
    skip_spaces
        Ignore spaces after a comma.
    comment
        Ignore lines that start with this; empty if there are no comments.

    Yields
    ------
    line : int
        Line number, from 1.
    cells : list of str
        The cells of the line.

    Raises
    ------
    InputError
        The file is not a regular file, is not UTF-8 text, contains NUL bytes, lines or cells of
        absurd length, or quotation marks that do not match.
    """
    path = Path(path)
    refuse_special(path)
    try:
        with open(path, "rb") as stream:
            _refuse_other_formats(stream.read(_HEAD), path)
        # utf-8-sig, because Excel puts a byte order mark before the name of the first column.
        with open(path, encoding="utf-8-sig", newline="") as text:
            yield from _parsed(_Lines(text, path), what, skip_spaces, comment)
    except OSError as error:
        raise InputError(f"cannot read the {what}: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _parsed(lines: _Lines, what: str, skip_spaces: bool, comment: str
            ) -> Iterator[tuple[int, list[str]]]:
    # This limit is global to the process, so it is only raised; cells are checked below.
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, skipinitialspace=skip_spaces, strict=True)
    before = 0
    while True:
        lines.read, first = 0, before + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _malformed(lines, first, reader.line_num, error, what) from None
        if row is None:
            return
        before = reader.line_num
        if lines.read > LONGEST_CELL:
            _refuse_long(row, first, lines.path)
        if row and not (comment and row[0].startswith(comment)):
            yield before, row


class _Lines:
    """The lines of a text, checked.

    ``read`` counts characters since it was last set to 0; ``first`` is the first line.
    """

    def __init__(self, text: TextIO, path: Path) -> None:
        self.text, self.path = text, path
        self.number = self.read = 0
        self.first = ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        # With a limit: a file without a line end would be read into memory as one line.
        line = self.text.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.first = self.first or line
        self.read += len(line)
        if "\0" in line:
            raise InputError("contains a NUL byte: damaged, or not a text file",
                             where=f"{self.path}:{self.number}", allowed="a CSV table in UTF-8")
        if len(line) >= LONGEST_LINE:
            raise InputError(f"line of more than {LONGEST_LINE:,} characters",
                             where=f"{self.path}:{self.number}", allowed="a CSV table")
        return line


def _refuse_other_formats(head: bytes, path: Path) -> None:
    """Refuse files whose first bytes are those of another format or encoding."""
    where = str(path)
    for start, what, hint in _OTHER_FORMATS:
        if head[:len(start)].lower() == start.lower():
            name = f" {shell_path(path)}" if hint.endswith("-k") else ""
            raise InputError(f"{what}, not a CSV table", where=where, hint=hint + name)
    encoding = None
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "UTF-32"
    elif head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "UTF-16"
    elif b"\0" in head:  # UTF-16 without a byte order mark: every other byte is mostly zero
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if odd > 0.3 * len(head[1::2]) and even <= odd / 10:
            encoding = "UTF-16LE"
        elif even > 0.3 * len(head[0::2]) and odd <= even / 10:
            encoding = "UTF-16BE"
    if encoding:
        raise InputError(f"is {encoding[:6]} text", where=where, allowed="a CSV table in UTF-8",
                         hint=f"iconv -f {encoding} -t UTF-8 {shell_path(path)} > table.csv")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    """Find the line that is not UTF-8; the decoder gives only a position within a block."""
    where, byte = str(path), error.object[error.start]
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as exact:
                before = line[:exact.start]
                # Lines may also end in a carriage return alone.
                number += before.count(b"\r") - before.count(b"\r\n")
                where, byte = f"{path}:{number}", line[exact.start]
                break
    return InputError(f"not a CSV table in UTF-8: byte 0x{byte:02x} is not valid", where=where,
                      hint="If it is Latin-1: iconv -f LATIN1 -t UTF-8 "
                           f"{shell_path(path)} > table.csv")


def refuse_separator(columns: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Raise ``InputError`` if the header would be valid with a separator other than a comma.

    Parameters
    ----------
    columns
        The header, split at commas.
    needed
        Columns that must be in it.
    where
        The location of the header, for the message.
    """
    text = ",".join(columns)
    if text.strip().lower().startswith("sep="):
        raise InputError("starts with Excel's line 'sep=', not with the names of the columns",
                         where=where, allowed="a CSV table separated by commas")
    for separator, name in SEPARATORS.items():
        parts = [part.strip().strip('"') for part in text.split(separator)]
        alone = len(columns) == 1 and len(parts) > 1
        if alone or (needed and any(one in parts and one not in columns for one in needed)):
            raise _other_separator(name, where)


def _other_separator(name: str, where: str) -> InputError:
    return InputError(f"is separated by {name}", where=where, allowed="a CSV table with commas",
                      hint="Save it as CSV with commas between cells (and points in numbers).")


def _malformed(lines: _Lines, first: int, last: int, error: csv.Error, what: str) -> InputError:
    text = str(error)
    if "unexpected end of data" in text or lines.read >= LONGEST_LINE:
        return InputError("a quotation mark that is opened in this row is never closed",
                          where=f"{lines.path}:{first}", allowed="quotation marks in pairs")
    if "expected after" in text and last <= 1:  # the header itself
        for separator, name in SEPARATORS.items():
            if f'"{separator}' in lines.first:
                return _other_separator(name, f"{lines.path}:1")
    if "expected after" in text:
        text = "there is text after a closing quotation mark"
    return InputError(f"not a CSV table: {text}", where=f"{lines.path}:{max(first, last)}")


def _refuse_long(row: Sequence[str], line: int, path: Path) -> None:
    for number, cell in enumerate(row, 1):
        if len(cell) > LONGEST_CELL:
            raise InputError(f"cell {number} of this row has {len(cell):,} characters",
                             where=f"{path}:{line}", allowed=f"at most {LONGEST_CELL:,}",
                             hint="Is a quotation mark missing, so that many rows become one cell?")
