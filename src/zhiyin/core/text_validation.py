"""Checks of short texts: ids, kinds and names."""

from __future__ import annotations

import re
from typing import Any

from zhiyin.core.errors import DataError

# Control characters, and surrogates (halves of characters), which no file can hold.
_CONTROL, SURROGATE = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\ud800-\udfff]")


def text(value: Any, name: str, max_chars: int) -> str:
    """A text of 1 to `max_chars` characters without control characters. Raises DataError that names the field."""
    if type(value) is str and 1 <= len(value) <= max_chars and value.isprintable():  # nearly always
        return value
    if not isinstance(value, str) or not 1 <= len(value) <= max_chars or _CONTROL.search(value):
        raise DataError(
            f"{name} = {str(value)[:80]!r} is not right", column=name, remedy=f"a text of 1 to {max_chars} characters"
        )
    if not value.isascii() and SURROGATE.search(value):
        raise DataError(f"{name} holds half a character", column=name, remedy="send valid Unicode")
    return value
