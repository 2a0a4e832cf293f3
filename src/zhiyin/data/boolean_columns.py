"""Columns of words that are read as booleans."""

from __future__ import annotations

import polars as pl

from zhiyin.core.booleans import BOOLEANS, PAIRS


def to_booleans(words: pl.Series) -> pl.Series:
    """`to_boolean` of each word of a column; null where a word is no boolean."""
    plain = words.str.strip_chars().str.to_lowercase()
    return plain.replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)


def is_boolean(words: pl.Series) -> bool:
    """Whether words of a column, none missing, are true and false as people write them: "True", "yes" and "no"."""
    if not len(words) or words.str.len_bytes().max() > 8:  # type: ignore[operator]
        return False
    seen = set(words.str.to_lowercase().unique().to_list())
    if seen <= {"true", "false"}:
        return True
    rest = seen - {"true", "false", "1", "0"}
    same = next((True for pair in PAIRS if rest <= set(pair)), False)
    return same and not seen <= {"1", "0"} and len({BOOLEANS[word] for word in seen}) == 2
