"""CSV tables row by row, with the line of every row, so that nothing is kept but what is wanted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from l3hpc.errors import InputError


def rows(path: Path | str, what: str) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, cells) of the header and then of every row; blank lines are no rows.

    what: the table's name in messages. Raises ``InputError`` for a file that cannot be read, is no
    UTF-8 text or has no header, a column name that occurs twice, and a row with more or fewer cells
    than the header.
    """
    where = str(path)
    columns: list[str] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            table = csv.reader(stream)
            for row in table:
                if not row:
                    continue
                if not columns:
                    columns = row
                    twice = sorted({name for name in row if row.count(name) > 1})
                    if twice:
                        raise InputError(f"column '{twice[0]}' occurs twice",
                                         where=f"{where}:{table.line_num}")
                elif len(row) != len(columns):
                    raise InputError(f"{len(row)} cells, the header has {len(columns)}",
                                     where=f"{where}:{table.line_num}")
                yield table.line_num, row
    except OSError as error:
        raise InputError(f"cannot read the {what}: {error.strerror}", where=where) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV table ({error})", where=where) from None
    if not columns:
        raise InputError("not a CSV table (it is empty)", where=where)
