"""The column of an items or users table that holds the ids of the log."""

from __future__ import annotations

import polars as pl

from zhiyin.data.column_names import name_score
from zhiyin.data.ids import ids_of_floats, match_spelling


def guess_key(sample: pl.DataFrame, role: str, log_ids: pl.Series) -> tuple[str, float, list[str]]:
    """The column of an items or users table that holds the ids of the log.

    Judged by how many of the log's ids (`log_ids`) the column holds; names decide between equals. Returns the
    column, the share of the log's ids it holds (0..1), and the other columns that hold some.
    """
    text = log_ids.cast(pl.String)
    shares = {}
    for name in sample.columns:
        column = sample[name]
        if column.dtype.is_temporal() or column.dtype.is_nested() or column.dtype in (pl.Boolean, pl.Binary):
            continue
        if column.n_unique() < 0.5 * len(sample):
            continue
        ids = ids_of_floats(column) if column.dtype.is_float() or column.dtype.is_decimal() else column
        shares[name] = _share_of_true(text.is_in(match_spelling(ids.cast(pl.String), text).unique().implode()))
    best = max(shares, key=lambda name: (round(shares[name], 3), name_score(role, name)), default="")
    others = [name for name, share in shares.items() if name != best and share > 0]
    return best, shares.get(best, 0.0), others


def _share_of_true(hits: pl.Series) -> float:
    """Share of true values, 0 for none."""
    return float(hits.sum() or 0) / max(1, len(hits))
