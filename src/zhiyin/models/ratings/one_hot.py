"""One-hot encoding of user or item columns: categories, lists of words, numbers by decile."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

# Columns with more categories than this are taken for ids and left out.
MAX_CATEGORIES = 1000
N_BINS = 10


@dataclasses.dataclass(frozen=True)
class OneHot:
    """The learned categories and bins of columns.

    columns: [name, "words", [category, ...]] or [name, "number", [edge, ...]] a column used, plain for JSON.
    """

    columns: list[Any]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> OneHot:
        """Learn numeric columns, and texts or lists with at most half as many distinct values as rows."""
        columns: list[Any] = []
        for column in frame.drop("id").iter_columns():
            if column.dtype.is_numeric():
                numbers = column.cast(pl.Float64).drop_nulls().drop_nans().to_numpy()
                numbers = numbers[np.isfinite(numbers)]
                edges = np.unique(np.quantile(numbers, np.arange(1, N_BINS) / N_BINS)) if len(numbers) else numbers
                if len(edges):
                    columns.append([column.name, "number", edges.tolist()])
                continue
            words = _words(column)
            if words is None:
                continue
            counts = words["word"].value_counts().filter(pl.col("count") > 1)
            categories = counts["word"].sort().to_list()
            if 0 < len(categories) <= MAX_CATEGORIES and 2 * words["word"].n_unique() <= len(column):
                columns.append([column.name, "words", categories])
        return cls(columns)

    def encode(self, frame: pl.DataFrame | None, n: int | None = None) -> sparse.csr_matrix:
        """CSR float32[n, features]; null, missing and unknown values are zero. None: n rows of zeros.

        A list of m words has each worth m^-½.
        """
        n = len(frame) if frame is not None else n or 0
        row, col, data, width = [], [], [], 0
        for name, kind, values in self.columns:
            size = len(values) + 1 if kind == "number" else len(values)
            if frame is not None and name in frame.columns:
                column = frame[name]
                if kind == "number":
                    numbers = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
                    rows = np.flatnonzero(~np.isnan(numbers))
                    codes = np.searchsorted(np.asarray(values), numbers[rows])
                else:
                    words = _words(column)
                    if words is None:
                        words = pl.DataFrame(schema={"row": pl.Int64, "word": pl.String})
                    place = pl.DataFrame({"word": values, "code": np.arange(len(values))})
                    words = words.join(place, on="word", how="inner", maintain_order="left")
                    rows, codes = words["row"].to_numpy(), words["code"].to_numpy()
                row.append(rows)
                col.append(codes + width)
                data.append(1 / np.sqrt(np.bincount(rows, minlength=n)[rows]))
            width += size
        if not row:
            return sparse.csr_matrix((n, width), dtype=np.float32)
        pairs = (np.concatenate(row), np.concatenate(col))
        return sparse.csr_matrix((np.concatenate(data).astype(np.float32), pairs), shape=(n, width))


def _words(column: pl.Series) -> pl.DataFrame | None:
    """Frame `row`, `word` of a column of texts or lists, each word of a row once; None for other columns."""
    if isinstance(column.dtype, pl.List):
        lists = column.cast(pl.List(pl.String), strict=False)
    elif column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        lists = column.cast(pl.String).str.split("|")
    else:
        return None
    frame = pl.DataFrame({"row": np.arange(len(column), dtype=np.int64), "word": lists})
    return frame.explode("word").drop_nulls().filter(pl.col("word") != "").unique(maintain_order=True)
