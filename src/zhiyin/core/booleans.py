"""Words that are read as booleans: in files, in requests and on the command line."""

from __future__ import annotations

# Pairs of words for true and false, lower case.
PAIRS = (
    ("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off"), ("ja", "nein"), ("oui", "non"),
    ("si", "no"), ("sí", "no"), ("wahr", "falsch"), ("да", "нет"), ("是", "否"), ("有", "无"), ("✓", "✗"), ("✔", "✘"),
)  # fmt: skip
BOOLEANS = {word: value for pair in PAIRS for word, value in zip(pair, (True, False))} | {"1": True, "0": False}


def to_boolean(word: str) -> bool:
    """The boolean that a word such as "Yes", "off" or "1" is. Raises ValueError for any other."""
    try:
        return BOOLEANS[word.strip().lower()]
    except KeyError:
        raise ValueError from None
