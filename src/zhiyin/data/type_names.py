"""Types of the columns of items and users, by name."""

from __future__ import annotations

import re
from typing import Any

from zhiyin.core.errors import ConfigError, suggest

TABLES = ("items", "users")
# Descriptions of the types, for messages. `piped`: texts in one text, as files write them: "drama|comedy".
DESCRIPTIONS = {
    "bool": "true or false", "int": "a whole number", "number": "a number", "text": "a text",
    "date": "a date such as 2024-12-31", "time": "a time such as 2024-12-31T18:00:00Z",
    "texts": "a list of texts", "piped": "texts parted by |", "numbers": "a list of numbers", "vector": "a vector",
}  # fmt: skip
# Column of the service that hides an item; always a boolean, and no part of the catalogue.
HIDDEN = "hidden"
# Columns of a table at most, learned ones aside.
MAX_TABLE_COLUMNS = 1_000
VECTOR = re.compile(r"vector(?:\(([1-9][0-9]{0,4})\))?")
# A regular expression of all types, as `parse_type` reads them.
TYPE_PATTERN = rf"({'|'.join(DESCRIPTIONS)}|vector\([1-9][0-9]{{0,4}}\))"


def parse_type(text: Any, column: str) -> str:
    """A type as it is written. Raises ConfigError that names the column for anything else."""
    if isinstance(text, str) and (text in DESCRIPTIONS or VECTOR.fullmatch(text)):
        return text
    type_names = [*DESCRIPTIONS, "vector(64)"]
    remedy = suggest(text, type_names) if isinstance(text, str) else "one of " + ", ".join(type_names)
    raise ConfigError(f"column {column!r}: {str(text)[:80]!r} is no type", column=column, remedy=remedy)
