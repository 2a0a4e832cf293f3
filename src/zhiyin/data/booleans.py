"""Words that are read as booleans, in files and in requests alike."""

from __future__ import annotations

import polars as pl

# Pairs of words for true and false, lower case.
_PAIRS = (
    ("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off"), ("ja", "nein"), ("oui", "non"),
    ("si", "no"), ("sí", "no"), ("wahr", "falsch"), ("да", "нет"), ("是", "否"), ("有", "无"), ("✓", "✗"), ("✔", "✘"),
)  # fmt: skip
BOOLEANS = {word: value for pair in _PAIRS for word, value in zip(pair, (True, False))} | {"1": True, "0": False}


def to_boolean(word: str) -> bool:
    """The boolean that a word such as "Yes", "off" or "1" is. Raises ValueError for any other."""
    try:
        return BOOLEANS[word.strip().lower()]
    except KeyError:
        raise ValueError from None


def to_booleans(words: pl.Series) -> pl.Series:
    """As `to_boolean`, of a column; null where a word is none."""
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
    same = next((True for pair in _PAIRS if rest <= set(pair)), False)
    return same and not seen <= {"1", "0"} and len({BOOLEANS[word] for word in seen}) == 2
