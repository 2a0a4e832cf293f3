"""Rows that are set aside while reading, each with its file, line, reason and raw text."""

from __future__ import annotations

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.table import Table

QUARANTINE = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "raw": pl.String}


def empty_quarantine() -> pl.DataFrame:
    """The quarantine of a source without bad rows."""
    return pl.DataFrame(schema=QUARANTINE)


def reject(reasons: dict[int, str], rows: pl.Series, reason: str) -> None:
    """Add a reason for rows (bool of each) that have none yet."""
    for row in rows.arg_true().to_list():
        reasons.setdefault(row, reason)


def rejected_rows(table: Table, reasons: dict[int, str], strict: bool) -> pl.DataFrame:
    """The quarantine of a table: its rejected rows, and the records that are no rows. Sorted by line.

    Parameters
    ----------
    reasons: why a row is rejected, by position.
    strict: raise DataError for the first of them instead.
    """
    rows = sorted(reasons)
    locations = table.locate(rows) if rows else []
    records = [(table.name, line, reasons[row], raw) for row, (line, raw) in zip(rows, locations)]
    records += [(table.name, line, reason, raw) for line, reason, raw in table.set_aside()]
    rejected = pl.DataFrame(records, schema=QUARANTINE, orient="row").sort("line")
    if strict:
        refuse_rows(rejected)
    return rejected


def refuse_rows(rejected: pl.DataFrame) -> None:
    """Raise DataError for the first row of the quarantine of a table, if it has one."""
    if len(rejected):
        first = rejected.row(0, named=True)
        raise DataError(
            f"{first['reason']} ({len(rejected):,} bad rows in all)",
            file=first["file"],
            row=first["line"],
            remedy="mend the rows, or read without strict to set them aside",
        )


def common_reasons(quarantine: pl.DataFrame, n: int = 3) -> str:
    """The commonest reasons with their counts, values left out: "3 × user is missing"."""
    bare = quarantine["reason"].str.replace(r" = .*? is ", " is ")
    return "; ".join(f"{count:,} × {reason}" for reason, count in bare.value_counts(sort=True).head(n).iter_rows())
