"""Inference of the feature kind of a column from its type, values and name; the caller can name the kind instead."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from zhiyin.data.column_names import is_money
from zhiyin.data.time_numbers import numeric_unit
from zhiyin.features.column_encoders import parted, words_of

# Number of rows that a guess is based on.
MAX_SAMPLED_ROWS = 100_000
SKIP = "skip"
_ID = re.compile(r"(^|[_\W])(id|ids|uuid|guid|isbn(10|13)?|asin|sku|ean|upc|key|hash)$|[a-z]Id$", re.IGNORECASE)
_WHEN = re.compile(r"date|time|(^|_)at$|timestamp|created|updated|released|born|since", re.IGNORECASE)
_LINK = r"^\w+://|^www\.|\.(?:jpe?g|png|gif|webp)$"
_UNIT = {"seconds": "s", "milliseconds": "ms", "microseconds": "us"}


def guess(values: pl.Series) -> tuple[str, str]:
    """The kind of a column, such as "number:log" or "skip", and the reason in a few words."""
    present = values.drop_nulls()
    if present.dtype.is_float():
        present = present.drop_nans()
    if not len(present):
        return SKIP, "it is empty"
    dtype = present.dtype
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if inner.is_float():
            return "vector", "lists of numbers"
        if isinstance(inner, pl.String | pl.Categorical | pl.Enum) or inner.is_integer():
            return "tags", "lists"
        return SKIP, f"there is no use for {dtype}"
    if isinstance(dtype, pl.Datetime | pl.Date):
        return "time", "dates"
    if dtype.is_nested() or dtype.is_temporal() or dtype in (pl.Binary, pl.Object):
        return SKIP, f"there is no use for {dtype}"
    distinct = present.n_unique()
    if distinct == 1:
        return SKIP, "all its values are the same"
    if dtype == pl.Boolean or isinstance(dtype, pl.Categorical | pl.Enum):
        return "category", f"{distinct} values"
    return (
        _guess_numeric(values.name, present, distinct)
        if dtype.is_numeric()
        else _guess_text(values.name, present, distinct)
    )


def _guess_numeric(name: str, present: pl.Series, distinct: int) -> tuple[str, str]:
    x = present.cast(pl.Float64).to_numpy()
    whole = bool((x == np.round(x)).all())
    if whole and distinct > 2 and (_ID.search(name) or (distinct == len(present) and _counts_rows(x))):
        return SKIP, "numbers that only name the rows"
    unit = numeric_unit(present)
    if unit in _UNIT and whole and _WHEN.search(name):
        return f"time:{_UNIT[unit]}", f"moments in {unit}"
    if whole and distinct <= 2:
        return "category", "two values"
    low, middle, high = np.quantile(x, [0.0, 0.5, 0.99])
    if low >= 0 and (is_money(name) or high > 20 * max(middle, 1e-9)):
        return "number:log", "amounts that span orders of magnitude"
    return "number", f"numbers from {x.min():g} to {x.max():g}"


def _counts_rows(x: np.ndarray) -> bool:
    """Whether distinct whole numbers are as dense as consecutive row numbers."""
    return bool(x.max() - x.min() < 1.5 * len(x)) and len(x) > 20


def _guess_text(name: str, present: pl.Series, distinct: int) -> tuple[str, str]:
    text = words_of(present).drop_nulls()
    n = len(text)
    if not n:
        return SKIP, "it is empty"
    if 2 * int(text.str.contains(_LINK).sum()) > n:
        return SKIP, "addresses"
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() <= 0.05 * n:
        return _guess_numeric(name, numbers.drop_nulls().alias(name), numbers.n_unique())
    if int(text.str.contains(r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}([ T]|$)").sum()) >= 0.95 * n:
        return "time", "dates"
    long = int((text.str.len_chars() > 200).sum()) > 0.05 * n
    for separator in ("|", ";", ","):
        having = int(text.str.contains(separator, literal=True).sum())
        # A comma may also separate clauses: then the parts rarely repeat, or are long.
        if having >= (0.02 if separator != "," else 0.1) * n and not long:
            parts = parted(text)["word"]
            short = float((parts.str.count_matches(r"\s+") <= 3).mean() or 0)  # type: ignore[arg-type]
            if parts.n_unique() <= (0.7 if separator == "|" else 0.5) * len(parts) and short > 0.9:
                return "tags", f'{parts.n_unique():,} values parted by "{separator}"'
    words = float(text.str.count_matches(r"[\s\p{Han}]+").mean() or 0) + 1  # type: ignore[arg-type]
    han = int(text.str.contains(r"\p{Han}{5}").sum()) > 0.2 * n
    if distinct <= max(20, 0.1 * n) and not long and distinct < n:
        return "category", f"{distinct:,} values"
    if words < 1.3 and not han:
        looks_like_code = text.str.contains(r"\d").sum() > 0.5 * n or _ID.search(
            name
        )  # codes contain digits, names do not
        if looks_like_code and distinct > 0.5 * n:
            return SKIP, "codes that only name the rows"
        if distinct > 0.5 * n:
            return "text", "single words, most of them different"
        return "category", f"{distinct:,} values"
    return "text", f"texts of about {words:.0f} words"
